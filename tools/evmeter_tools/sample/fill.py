"""Fills an SQLite database with plausible rows, fast: for the time that pages take at scale.

Records have the form and the length of real ones, in sound order with registers that go on. Signed
ones verify; else one signature serves for all, which takes half the time. All devices have one
key, whose secret is 1. derived.py writes what a collector and people would have left beside them.
"""

import hashlib
import json
import random
import sqlite3
import time
from bisect import bisect
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.backend.store import Store
from evmeter_tools.errors import UserError
from evmeter_tools.sample import derived

# of the secret 1
_SPKI = ("3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f2"
         "77037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb640"
         "6837bf51f5")
_KEY_ID = hashlib.sha256(bytes.fromhex(_SPKI)).hexdigest()[:8]
_END = '\\"}'
_SIGNATURE = "3045022100" + "5a" * 32 + "0220" + "5a" * 32
_ROWS = 20_000  # a transaction
_DAY_S = 86400
_POWERS_W = (3680, 7360, 11000, 22000)
# session starts by hour of the day, of 1000: a morning and an evening peak
_HOURS = (8, 5, 4, 4, 6, 14, 36, 74, 84, 62, 48, 46, 50, 46, 44, 50, 66, 92, 88, 66, 46, 32, 22, 7)
# as they stand inside of a JSON text
_READING = ('{"TM":"%s S","TX":"%s","RV":%d.%03d,"RI":"01-00:B0.08.00*FF","RU":"kWh","RT":"AC",'
            '"EF":"","ST":"G"}').replace('"', '\\"')
_RECORD = ('OCMF|{"FV":"1.0","GI":"evmeter","GS":"%s","GV":"0.1.0","PG":"T%d","MV":"Eastron",'
           '"MM":"SDM120","MS":"S-%s","IS":true,"IL":"HEARSAY","IF":["RFID_PLAIN"],'
           '"IT":"ISO14443","ID":"%08X","RD":[%s],"ZP":"%s","ZS":"%s","ZQ":"meter"%s}|'
           '{"SA":"ECDSA-secp256r1-SHA256","SD":"').replace('"', '\\"')


@dataclass(frozen=True)
class Plan:
    """One session that is to be written; energies mWh, times Unix s."""

    device: str
    sid: str
    page: int
    seq: int
    begin_s: int
    charging_s: int
    end_s: int
    begin_mwh: int
    energy_mwh: int
    user: int

    def derived(self):
        """What a derived row may hold: by the names of the backend's table and of
        ChargingSession.row()."""
        begin_ms, end_ms = self.begin_s * 1000, self.end_s * 1000
        # the event comes 5 s after the car did
        asks_ms = min(begin_ms + 5000, end_ms)
        full_ms = min(asks_ms + self.charging_s * 1000, end_ms)
        phases = [("unknown", begin_ms, asks_ms), ("charging", asks_ms, full_ms),
                  ("finished_estimated", full_ms, end_ms)]
        return {"device": self.device, "sid": self.sid, "key_id": _KEY_ID, "state": "complete",
                "begin_ms": begin_ms, "begin_mwh": self.begin_mwh, "end_ms": end_ms, "tx": "E",
                "changed_at": end_ms, "energy_mwh": self.energy_mwh, "gap_mwh": 0, "billable": 1,
                "ok": 1, "start_ms": begin_ms, "stop_ms": end_ms, "start_quality": "S",
                "stop_quality": "S", "start_corrected": 0, "stop_corrected": 0,
                "duration_s": self.end_s - self.begin_s, "why_not": "", "ended_by": "E",
                "outcome": "success", "charging_s": (full_ms - asks_ms) // 1000,
                "occupied_s": self.end_s - self.begin_s,
                "idle_s": (end_ms - full_ms) // 1000, "faults": 0,
                "split_ok": None, "currency": "EUR", "cost_info_minor": None, "by_tariff": "{}",
                "phases": json.dumps([phase for phase in phases if phase[2] > phase[1]])}


def name(number):
    """A device's name."""
    return "load-%05d" % number


def plans(devices, sessions, end_s, seed=1, days=365):
    """Yield `sessions` Plans over `devices` devices, one device after the other, in the `days`
    before `end_s`. The same arguments give the same Plans."""
    choose = random.Random(seed)
    weights = list(accumulate(_HOURS))
    for number in range(devices):
        device = name(number)
        count = sessions // devices + (number < sessions % devices)
        power_w = choose.choice(_POWERS_W)
        mwh, seq = choose.randrange(10**9) * 1000, 1
        span_s = days * _DAY_S // max(1, count)
        for page in range(1, 2 * count, 2):
            from_s = end_s - days * _DAY_S + page // 2 * span_s
            if span_s > 2 * _DAY_S:
                hour = bisect(weights, choose.random() * weights[-1])
                begin_s = from_s - from_s % _DAY_S + _DAY_S + int(3600 * (hour + choose.random()))
            else:
                begin_s = from_s + int(span_s // 2 * choose.random())
            stay_s = min(int(choose.lognormvariate(8.6, 0.8)) + 300, span_s // 2)
            charging_s = 1 + stay_s * int(400 + 600 * choose.random()) // 1000
            drawn_w = power_w * int(600 + 400 * choose.random()) // 1000
            energy_mwh = drawn_w * charging_s // 3600 * 1000
            yield Plan(device, "%s-%06d" % (device, page), page, seq, begin_s, charging_s,
                       begin_s + stay_s, mwh, energy_mwh, choose.getrandbits(32))
            mwh += energy_mwh + 1000 * int(500 * choose.random())
            seq += 6


def _stamp(unix_s):
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S,000+0000")


def _reading(unix_s, letter, mwh):
    return _READING % (_stamp(unix_s), letter, mwh // 1_000_000, mwh // 1000 % 1000)


class _Signer:
    """Signs records one after the other; without `signed` it only looks so."""

    def __init__(self, signed):
        self._key = ec.derive_private_key(1, ec.SECP256R1()) if signed else None
        self._previous = {}

    def record(self, plan, page, readings, more):
        """A record's text as it stands inside of a JSON text."""
        previous = self._previous.get(plan.device, "0" * 32)
        text = _RECORD % (plan.device, page, plan.device, plan.user, readings, previous,
                          plan.sid, more)
        if not self._key:
            return text + _SIGNATURE + _END
        payload = text[5:text.rindex("|")].replace('\\"', '"').encode()
        self._previous[plan.device] = hashlib.sha256(payload).hexdigest()[:32]
        return text + self._key.sign(payload, ec.ECDSA(hashes.SHA256())).hex() + _END


def _messages(plan, signer):
    """[(stream, kind, Unix s, bytes)]: the six messages of a session, in their order."""
    begin = _reading(plan.begin_s, "B", plan.begin_mwh)
    end_mwh = plan.begin_mwh + plan.energy_mwh
    end = _reading(plan.end_s, "E", end_mwh)
    sid = plan.sid
    found = []

    def message(stream, kind, at_s, fields):
        text = '{%s, "v": 1, "ts": %d, "tq": "S", "k": "%s", "seq": %d, "sid": "%s"}' % (
            fields, at_s, _KEY_ID, plan.seq + len(found), sid)
        found.append((stream, kind, at_s, text.encode()))

    def record(kind, page, readings, more, at_s, fields):
        ocmf = signer.record(plan, page, readings, more)
        message("rec", kind, at_s, '%s, "kind": "%s", "ocmf": "%s", "begin_ms": %d000, '
                '"begin_mwh": %d' % (fields, kind, ocmf, plan.begin_s, plan.begin_mwh))

    record("begin", plan.page, begin, "", plan.begin_s,
           '"out_mwh": 0, "reg_mwh": %d' % plan.begin_mwh)
    message("evt", "open", plan.begin_s, '"cur": "EUR", "e_mwh": 0, "ev": "open"')
    message("evt", "charging", plan.begin_s + 5,
            '"why": "car asks", "e_mwh": 0, "ev": "charging"')
    message("evt", "finished_estimated", plan.begin_s + 5 + plan.charging_s,
            '"why": "car does not ask again", "e_mwh": %d, "ev": "finished_estimated"'
            % plan.energy_mwh)
    record("complete", plan.page + 1, begin + "," + end, ',\\"ZB\\":1', plan.end_s,
           '"gap_mwh": 0, "jump_mwh": 0, "reg_mwh": %d' % end_mwh)
    message("evt", "close", plan.end_s,
            '"begin_mwh": %d, "end_mwh": %d, "gap_mwh": 0, "energy_mwh": %d, "tx": "E", '
            '"dur_s": %d, "dur_pm_s": 0, "late_ms": 0, "bill": 1, "e_mwh": %d, "ev": "close"'
            % (plan.begin_mwh, end_mwh, plan.energy_mwh, plan.end_s - plan.begin_s,
               plan.energy_mwh))
    return found


def _record_rows(plan, signer):
    for at, (stream, kind, at_s, payload) in enumerate(_messages(plan, signer)):
        yield (plan.device, _KEY_ID, plan.seq + at, stream, plan.sid, kind, payload,
               hashlib.sha256(payload).hexdigest(), at_s * 1000 + 800, "ok", "")


def _columns(connection, table):
    return [row[1] for row in connection.execute("PRAGMA table_info(%s)" % table)]


def _insert(connection, table, columns):
    return "INSERT INTO %s (%s) VALUES (%s)" % (  # noqa: S608 - names of our own
        '"%s"' % table, ", ".join('"%s"' % column for column in columns),
        ", ".join("?" * len(columns)))


def fill(path, devices, sessions, end_s=None, seed=1, days=365, records=True, signed=False,
         tell=lambda *_: None):
    """Make an SQLite database at `path`, which must not exist, with so many devices and sessions.

    records  without, only the keys and the derived rows are written, which takes a fifth of the
             time and a tenth of the room
    signed   whether the records verify
    tell     is called with (what is written, how many of them are done, of how many)

    Returns the number of rows written. Raises UserError.
    """
    if "://" in str(path):
        raise UserError("only an SQLite file can be filled")
    if devices < 1 or sessions < 0:
        raise UserError("devices and sessions must be whole numbers from 1 and 0 on")
    end_s = int(time.time()) if end_s is None else end_s
    Store(path).close()
    connection = sqlite3.connect(path)
    try:
        if connection.execute('SELECT count(*) FROM "key"').fetchone()[0]:
            raise UserError("%s is in use; give the name of a new file" % path)
        # nobody else reads it yet, and it can be made again
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-200000"):
            connection.execute("PRAGMA " + pragma)
        wanted = devices, sessions, end_s, seed, days
        written = _write(connection, _told(plans(*wanted), sessions, tell), devices, end_s,
                         _Signer(signed) if records else None)
        return written + derived.write(
            connection, devices, plans(*wanted), end_s, days, _KEY_ID, name,
            lambda done, of: tell("chargers", done, of))
    finally:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


def _told(wanted, count, tell):
    for number, plan in enumerate(wanted):
        tell("sessions", number, count)
        yield plan


def _write(connection, wanted, devices, end_s, signer):
    connection.executemany(
        _insert(connection, "key", ("device", "key_id", "spki", "enrolled_at")),
        [(name(at), _KEY_ID, _SPKI, end_s * 1000) for at in range(devices)])
    into_record = _insert(connection, "record", (
        "device", "key_id", "seq", "stream", "sid", "kind", "payload", "sha256", "received_at",
        "verdict", "why"))
    derived = [column for column in _columns(connection, "session")
               if column in Plan("", "", 0, 0, 0, 0, 0, 0, 0, 0).derived()]
    into_session = _insert(connection, "session", derived) if derived else ""
    rows = []
    written = devices
    batch = []
    for plan in wanted:
        if signer:
            rows.extend(_record_rows(plan, signer))
        if derived:
            values = plan.derived()
            batch.append([values[column] for column in derived])
        if len(rows) + len(batch) >= _ROWS:
            written += _flush(connection, into_record, rows, into_session, batch)
    written += _flush(connection, into_record, rows, into_session, batch)
    return written


def _flush(connection, into_record, rows, into_session, batch):
    count = len(rows) + len(batch)
    connection.executemany(into_record, rows)
    if batch:
        connection.executemany(into_session, batch)
    connection.commit()
    rows.clear()
    batch.clear()
    return count
