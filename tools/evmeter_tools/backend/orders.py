"""Commands to devices: put into the database by whoever gives them, sent by the leader."""

import json
import secrets

import sqlalchemy as sql

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import commands

_MOST_AT_ONCE = 50


def put(connection, device, op, args, by, lifetime_ms=60_000):
    """Give a command that is to be carried out within `lifetime_ms`; returns its id."""
    at = now_ms()
    # sorts by its time, as a ULID does
    number = "%012x%s" % (at, secrets.token_hex(8))
    connection.execute(sql.insert(commands).values(
        id=number, device=device, op=op, args=json.dumps(args), by=by, created_at=at,
        expires_at=at + lifetime_ms))
    return number


def send(engine, publish):
    """Hand the commands that were not sent yet to `publish(device, payload)`, oldest first."""
    at = now_ms()
    with engine.begin() as connection:
        rows = connection.execute(sql.select(commands).where(
            commands.c.sent_at.is_(None), commands.c.expires_at > at).order_by(
                commands.c.id).limit(_MOST_AT_ONCE)).all()
        for row in rows:
            publish(row.device, json.dumps({
                "v": 1, "id": row.id, "op": row.op, "args": json.loads(row.args),
                "ts": at // 1000, "exp": row.expires_at // 1000}))
            connection.execute(sql.update(commands).where(
                commands.c.id == row.id).values(sent_at=at))


def time_for(payload):
    """The command that answers a status message of a device that does not know the time, or None.
    It names that message, so that the device takes nothing older for the time."""
    try:
        status = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(status, dict) or status.get("tq") != "U":
        return None
    at = now_ms()
    return json.dumps({
        "v": 1, "id": "time-%d" % at, "op": "time", "args": {"unix_ms": at, "n": status.get("n")},
        "ts": at // 1000, "exp": at // 1000 + 60})
