"""Research export: sessions and load profile under pseudonyms, as CSV and Parquet, with a data
dictionary.

A pseudonym is an HMAC-SHA256 under a key that stays outside of the export: the same id has the
same pseudonym in every export under that key, and without it no id can be tried out. Times are
rounded down, so that nobody is recognised by the minute at which he came.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.insight.table import Column, Table

_LEAST_KEY = 32
ROUND_S = 300

_SESSIONS = (
    Column("device", "text", "pseudonym of the charger"),
    Column("site", "text", "pseudonym of its site"),
    Column("session", "text", "pseudonym of the session"),
    Column("user", "text", "pseudonym of the user's identity; empty where nobody was identified"),
    Column("start_s", "integer", "begin, Unix s, rounded down; empty where the time is not known"),
    Column("duration_s", "integer", "from connecting to leaving, rounded down"),
    Column("charging_s", "integer", "of this, charging, rounded down"),
    Column("idle_s", "integer", "of this, after the last charging, rounded down"),
    Column("time_quality", "text", "of the signed times: S synchronised, I informative, "
           "U not set, R relative"),
    Column("energy_mwh", "integer", "signed end register less signed begin register, mWh"),
    Column("gap_mwh", "integer", "part of it that flowed while the device was off, mWh"),
    Column("rated_mw", "integer", "rated power of the charger, mW; empty where not known"),
    Column("tariff_parts", "integer", "parts between changes of the tariff"),
    Column("outcome", "text", "success, never_charged, no_energy, aborted, power_fail"),
)
_INTERVALS = (
    Column("device", "text", "pseudonym of the charger"),
    Column("start_s", "integer", "begin, Unix s, on a quarter of an hour of UTC"),
    Column("length_s", "integer", "length, 900 unless intervals were joined"),
    Column("energy_mwh", "integer", "energy of the register in it, sessions and stand-by, mWh"),
    Column("peak_mw", "integer", "highest power read in it, mW"),
    Column("quality", "text", "ok, or partial: begun late or with a hole"),
)


def new_key(path):
    """Make a key for pseudonyms in a file that only its owner can read. Raises UserError where
    there is one already."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600, exist_ok=False)
        path.write_text(secrets.token_hex(_LEAST_KEY) + "\n")
    except OSError as error:
        raise UserError("%s: %s" % (path, error.strerror)) from None


def read_key(path):
    """The key in a file, at least 32 bytes as hex. Raises UserError."""
    try:
        key = bytes.fromhex(Path(path).read_text(encoding="ascii").strip())
    except OSError as error:
        raise UserError("%s: %s; evmeter export research --new-key makes one"
                        % (path, error.strerror)) from None
    except ValueError:
        key = b""
    if len(key) < _LEAST_KEY:
        raise UserError("%s: a key is at least %d bytes in hex" % (path, _LEAST_KEY))
    return key


def pseudonym(key, kind, name):
    """20 hex digits for an id; ids of different kinds have nothing in common."""
    return hmac.new(key, ("%s\0%s" % (kind, name)).encode(), hashlib.sha256).hexdigest()[:20]


def sessions(facts, key, from_ms, to_ms, sites=None, rated_mw=None, round_s=ROUND_S):
    """Table of the verified, ended sessions that begin in a period (all whose time is not known
    are left out). `sites`: {device: site}."""
    sites, rated_mw = sites or {}, rated_mw or {}
    rows = []
    for device, own in facts.items():
        for session in own.sessions:
            if (session.state != "complete" or not session.start.known
                    or not from_ms <= session.start_ms < to_ms):
                continue
            user = session.user and session.user.get("ID")
            length_s = (session.occupied_ms // 1000 if session.duration_s is None
                        else session.duration_s)
            rows.append((
                pseudonym(key, "device", device),
                pseudonym(key, "site", sites.get(device, device)),
                pseudonym(key, "session", session.sid),
                pseudonym(key, "user", user) if user else None,
                session.start_ms // 1000 // round_s * round_s, length_s // round_s * round_s,
                session.charging_ms // 1000 // round_s * round_s,
                session.idle_ms // 1000 // round_s * round_s, session.quality,
                session.energy_mwh, session.gap_mwh, rated_mw.get(device) or None,
                len(session.segments), session.outcome))
    # in an order that tells nothing of the one in which they were stored
    return Table("sessions", "Charging sessions", _SESSIONS,
                 sorted(rows, key=lambda row: (row[4], row[2])),
                 ("times are rounded down to %d s" % round_s,))


def intervals(facts, key, from_ms, to_ms):
    """Table of the load profile in a period; intervals whose time is not known are left out."""
    rows = [(pseudonym(key, "device", device), each.start_s, each.length_s, each.energy_mwh,
             each.peak_mw, each.quality)
            for device, own in facts.items() for each in own.intervals
            if each.quality != "clock" and from_ms <= each.start_s * 1000 < to_ms]
    return Table("intervals", "Load profile", _INTERVALS, sorted(rows, key=lambda row: row[:2]))


def dictionary(tables):
    """Table of every column of `tables`: name, type, meaning."""
    return Table("dictionary", "Data dictionary", (
        Column("table", "text"), Column("column", "text"), Column("type", "text"),
        Column("meaning", "text")),
        [(table.name, column.key, column.label, column.says)
         for table in tables for column in table.columns])


def write(tables, folder, parquet=True):
    """Write each table as CSV, and as Parquet but for the dictionary; returns the paths. Raises
    UserError."""
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in [*tables, dictionary(tables)]:
            path = folder / (table.name + ".csv")
            path.write_text(table.csv(), encoding="utf-8")
            paths.append(path)
            if parquet and table.name != "dictionary":
                paths.append(_parquet(table, path))
    except OSError as error:
        raise UserError("%s: %s" % (folder, error.strerror)) from None
    return paths


def _parquet(table, path):
    """The CSV once more, with the columns' types."""
    import duckdb

    kinds = {"integer": "BIGINT", "text": "VARCHAR"}
    columns = {column.key: kinds[column.label] for column in table.columns}
    target = path.with_suffix(".parquet")
    with duckdb.connect() as connection:
        relation = connection.read_csv(
            str(path), header=True, columns=columns, auto_detect=False, delimiter=",",
            quotechar='"', escapechar='"')
        relation.write_parquet(str(target), compression="zstd")
    return target
