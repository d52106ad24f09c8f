"""A session as its driver sees it: progress while it goes on, the verified receipt afterwards."""

import sqlalchemy as sql

from evmeter_tools import firmware
from evmeter_tools.backend.live import OFFLINE, newest, newest_at, whole
from evmeter_tools.backend.sessions import text_of_record
from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import (
    alerts,
    chargers,
    keys,
    records,
    samples,
    sessions,
    states,
)
from evmeter_tools.errors import UserError
from evmeter_tools.insight.derive import read_message
from evmeter_tools.insight.derive import whole as whole_of
from evmeter_tools.insight.workup import edges_of
from evmeter_tools.receipt.content import sheet
from evmeter_tools.verify.audit import check_entries
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from evmeter_tools.verify.parse import KEY_CHANGE, parse_key
from evmeter_tools.words import is_plain

_MOST_SAMPLES = 400
_UNIT = 100_000_000  # mWh in a kWh times hundredths in a minor unit
_MOST_ALERTS = 3
# what the firmware's progress says (session/progress.py), for people
_WORDS = {
    "charging": "Charging", "paused_by_car": "Paused by the vehicle",
    "paused_by_charger": "Paused by the charger", "waiting_for_car": "Waiting for the vehicle",
    "no_current_in_c": "The vehicle draws no current", "fault": "Interrupted: charger fault",
    "finished_estimated": "Fully charged (estimated)"}
_PHASES = {"connected": "Connected", "charging": "Charging", "suspended_ev":
           "Paused by the vehicle", "suspended_evse": "Paused by the charger",
           "fault": "Interrupted: charger fault"}


def verdict(store, device, sid):
    """The judged session (verify.sessions.Session) with its stored records, and with what the
    meter signed itself; None where no record can be read."""
    with store.engine.connect() as connection:
        trusted = dict(connection.execute(sql.select(keys.c.key_id, keys.c.spki).where(
            keys.c.device == device)).all())
        logs = sql.select(records.c.seq, records.c.payload).where(
            records.c.device == device, records.c.stream == "log")
        entries = connection.execute(logs.where(records.c.sid == sid)).all()
        if len(trusted) > 1:  # what had one key has never changed it
            entries += connection.execute(logs.where(
                records.c.kind == KEY_CHANGE, records.c.sid != sid)).all()
    entries = [payload for _, payload in sorted(entries)]
    verdicts = [check_record(text_of_record(row), trusted.get(row.key_id))
                for row in store.rows(device, "rec", sid)]
    found, before_key = check_entries(
        [(bytes(payload).decode("utf-8", "surrogateescape"), None) for payload in entries],
        {parse_key(spki) for spki in trusted.values()})
    report = check_all(verdicts, entries=found, before_key=before_key, enrolled=True)
    return next((session for session in report.sessions if session.id == sid), None)


def current_session(store, device):
    """The session that a charger has now, "" where it has none: one that has ended is none, also
    where the charger's last word was of it."""
    ended = sql.exists().where(sessions.c.device == states.c.device,
                               sessions.c.sid == states.c.sid, sessions.c.state == "complete")
    with store.engine.connect() as connection:
        return connection.execute(sql.select(states.c.sid).where(
            states.c.device == device, ~ended)).scalar() or ""


def _samples(connection, device, sid):
    """[[Unix ms, mW, mWh]] over the whole session, as many as a plot can show."""
    rows = connection.execute(sql.select(
        samples.c.at_ms, samples.c.power_mw, samples.c.session_mwh).where(
            samples.c.device == device, samples.c.sid == sid).order_by(samples.c.at_ms)).all()
    step = -(-len(rows) // _MOST_SAMPLES) or 1
    kept = rows[::step]
    if rows and kept[-1] is not rows[-1]:
        kept.append(rows[-1])
    return [list(row) for row in kept]


def tariff_windows(store, device, at_ms):
    """The tariff's window at an instant and the one after it, from the configuration that the
    device reports; {} where it reports none."""
    reported = newest(store, device, "cfg")
    settings = reported.get("cfg") if isinstance(reported.get("cfg"), dict) else reported
    try:
        if not isinstance(settings.get("tariff"), dict):
            return {}
        firmware.reach()
        from evmeter.session.tariff import Tariff

        tariff = Tariff(settings["tariff"])
        at_s = at_ms // 1000
        until_s = tariff.next_boundary_s(at_s)
        now, then = tariff.window_at(at_s), tariff.window_at(until_s)
    except (UserError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}  # what a device reports is shown where it can be read
    found = {"currency": tariff.currency, "now": {
        "name": tariff.name(now), "centiminor_per_kwh": tariff.price(now)}}
    if then != now:
        found["until_ms"] = until_s * 1000
        found["next"] = {"name": tariff.name(then), "centiminor_per_kwh": tariff.price(then)}
    return found


def _times(store, row):
    """When a session began and ended: as it was signed, by what clock, and where the clock was not
    known then, the true time that a later entry of the charger's shows."""
    found = []
    edges = edges_of(store, row.device, row.sid)
    for name, kind, signed_ms in (("begin", "begin", row.begin_ms),
                                  ("end", "complete", row.end_ms)):
        if signed_ms is None or kind not in edges:
            continue
        quality, true = edges[kind]
        found.append({"name": name, "signed_ms": signed_ms, "quality": quality,
                      "true_ms": true and true.unix_ms,
                      "uncertainty_ms": true and true.uncertainty_ms,
                      "told_by": true and true.told_by})
    return found


def view(store, device, sid):
    """What the driver's page shows, as a dict; None where the session is not known."""
    at = now_ms()
    with store.engine.connect() as connection:
        row = connection.execute(sql.select(sessions).where(
            sessions.c.device == device, sessions.c.sid == sid)).first()
        state = connection.execute(sql.select(states).where(states.c.device == device)).first()
        label = connection.execute(sql.select(chargers.c.label).where(
            chargers.c.device == device)).scalar()
        points = _samples(connection, device, sid)
    is_now = state is not None and state.sid == sid
    if row is None and not is_now:
        return None
    found = {"now_ms": at, "sid": sid, "charger": label or device, "ended": False,
             "begin_ms": row.begin_ms if row else None, "samples": points,
             "times": _times(store, row) if row else [],
             "online": bool(state and state.online), "heard_at": state.heard_at if state else None}
    if row is not None and row.state == "complete":
        return {**found, **_ended(store, row), **_closing(store, row, found["times"])}
    found["state"] = "ending" if not is_now else state.state if state.online else OFFLINE
    found.update(_running(store, device, sid, state if is_now else None))
    found["tariff"] = tariff_windows(store, device, at) or found["tariff"]
    return found


def _running(store, device, sid, state):
    """Of a session that goes on. A status message comes when something changes: what has gone on
    since then is added by the backend's own clock and the newest register."""
    status, came_at = newest_at(store, device, "status")
    if status.get("sid") != sid:
        status = {}
    since_s = (now_ms() - came_at) // 1000

    def going_on(name):
        value = whole(status.get(name))
        return None if value is None else value + since_s

    progress = status.get("prog") if isinstance(status.get("prog"), str) else ""
    phase = state.state if state else ""
    energy_mwh = state.session_mwh if state else None
    found = {
        "words": _WORDS.get(progress) or _PHASES.get(phase) or "Connecting",
        "progress": progress, "power_mw": state.power_mw if state else None,
        "energy_mwh": energy_mwh, "elapsed_s": going_on("el_s"),
        "overstay_s": going_on("over_s"), "eta_s": whole(status.get("eta_s")),
        "offered_ma": whole(status.get("i_max_ma")), "cost_minor": None, "tariff": {}}
    price, name, cost_minor = whole(status.get("price")), status.get("wname"), whole(
        status.get("cost_info"))
    if price is not None and isinstance(name, str):
        currency = status.get("cur")
        found["tariff"] = {"currency": currency if isinstance(currency, str) else "",
                           "now": {"name": name[:40], "centiminor_per_kwh": price}}
        if None not in (cost_minor, energy_mwh, whole(status.get("s_mwh"))):
            more_mwh = max(0, energy_mwh - status["s_mwh"])
            cost_minor += (more_mwh * price + _UNIT // 2) // _UNIT
    found["cost_minor"] = cost_minor
    return found


def _closing(store, row, times):
    """What the event of a session's end tells beside the records: how long it took by the
    monotonic clock, and the charger's own sum, for information. Without it the time between begin
    and end counts, where both are known."""
    with store.engine.connect() as connection:
        event = connection.execute(sql.select(records.c.payload).where(
            records.c.device == row.device, records.c.sid == row.sid, records.c.stream == "evt",
            records.c.kind == "close", records.c.verdict == "ok").order_by(
                records.c.seq.desc()).limit(1)).first()
    message = read_message(event) if event else {}
    length_s = whole_of(message, "dur_s")
    if length_s is None or length_s < 0:
        known = [each["true_ms"] or each["signed_ms"] for each in times
                 if each["true_ms"] or each["quality"] != "U"]
        length_s = (known[1] - known[0]) // 1000 if len(known) == 2 else None
    found = {"elapsed_s": length_s, "cost_minor": whole_of(message, "cost"), "tariff": {}}
    if is_plain(message.get("cur"), 3):
        found["tariff"] = {"currency": message["cur"]}
    return found


def _ended(store, row):
    judged = verdict(store, row.device, row.sid)
    found = {"ended": True, "state": "ended", "words": "Session ended", "progress": "",
             "end_ms": row.end_ms, "energy_mwh": row.energy_mwh, "gap_mwh": row.gap_mwh}
    if judged is None:  # an older backend took records that name no session
        return {**found, "billable": False}
    content = sheet(judged, True)
    return {
        **found, "energy_mwh": judged.energy_mwh,
        "billable": judged.billable,
        "receipt": {"ok": content.ok, "verdict": content.verdict,
                    "rows": [list(each) for each in content.rows],
                    "parts": [list(each) for each in content.parts],
                    "findings": content.findings, "notices": list(content.notices),
                    "key": content.key, "records": content.records,
                    "own": ["%s\n%s" % each for each in content.own]}}


# -- alerts --

def alert_rows(store, device, sid):
    """The alerts that are set up for a session."""
    with store.engine.connect() as connection:
        return [{"id": row.id, "channel": row.channel, "target": row.target}
                for row in connection.execute(sql.select(alerts).where(
                    alerts.c.device == device, alerts.c.sid == sid).order_by(alerts.c.id))]


def add_alert(store, device, sid, channel, target, address):
    """Tell `target` of what happens in a session. Raises UserError where there are enough."""
    with store.engine.begin() as connection:
        number = connection.execute(sql.select(sql.func.count()).where(
            alerts.c.device == device, alerts.c.sid == sid)).scalar()
        if number >= _MOST_ALERTS:
            raise UserError("at most %d alerts a session" % _MOST_ALERTS)
        connection.execute(store.insert(alerts).values(
            device=device, sid=sid, channel=channel, target=target, address=address,
            created_at=now_ms()).on_conflict_do_nothing())


def remove_alert(store, device, sid, number):
    """Tell nobody any more; returns whether there was such an alert."""
    with store.engine.begin() as connection:
        return connection.execute(sql.delete(alerts).where(
            alerts.c.device == device, alerts.c.sid == sid,
            alerts.c.id == number)).rowcount > 0
