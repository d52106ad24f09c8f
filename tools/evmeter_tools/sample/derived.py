"""The rows beside the records of a filled database: what workup.py would write, what live messages
would leave, places and alarms.

Session rows, counts and delays are those of the records; the load profile and what covers it have
none behind them.
"""

import json
import random
from itertools import groupby

from evmeter_tools.insight.load import ALL, QUARTERS, Day

_DAY_S = 86400
_QUARTER_S = 900
_IDLE_MWH = 1000  # a quarter of an hour of a device's own need
_PER_SITE = 20
_SUPPLY_DAYS = 30  # that have sums of telemetry
_SPANS = 20  # states of each device that are remembered
_ZONES = ("Europe/Berlin", "Europe/London", "America/New_York")
_DELAY_MS = 800
ROWS = 20_000


class Writer:
    """Inserts into a SQLite database in batches."""

    def __init__(self, connection):
        self._connection = connection
        self._waiting = {}
        self.written = 0

    def add(self, table, **values):
        """One row."""
        rows = self._waiting.setdefault((table, tuple(values)), [])
        rows.append(tuple(values.values()))
        if len(rows) >= ROWS:
            self._write(table, tuple(values))

    def _write(self, table, columns):
        rows = self._waiting.pop((table, columns), ())
        self._connection.executemany('INSERT INTO "%s" (%s) VALUES (%s)' % (  # noqa: S608 - ours
            table, ", ".join('"%s"' % name for name in columns), ", ".join("?" * len(columns))),
            rows)
        self._connection.commit()
        self.written += len(rows)

    def finish(self):
        """Write what is left."""
        for key in list(self._waiting):
            self._write(*key)


def write(connection, devices, plans, end_s, days, key_id, name, tell=lambda *_: None):
    """Write all of it for the devices `name(0)` on, whose sessions `plans` gives device by
    device. `tell(done, of)` is called now and then. Returns the number of rows."""
    out = Writer(connection)
    choose = random.Random(devices)
    load = _Load(out, end_s, days)
    own = groupby(plans, lambda plan: plan.device)
    number_of_sites = -(-devices // _PER_SITE)
    for number in range(number_of_sites):
        out.add("site", id="site-%04d" % number, name="Car park %d" % number,
                address="High Street %d" % number, city="Ulm", country="DEU",
                latitude="48.%05d" % number, longitude="9.%05d" % number,
                time_zone=_ZONES[number % len(_ZONES)], limit_w=_PER_SITE * 11_000)
    device, sessions = next(own, ("", ()))
    for at in range(devices):
        tell(at, devices)
        mine = []
        if device == name(at):
            mine = list(sessions)
            device, sessions = next(own, ("", ()))
        _sessions(out, name(at), key_id, mine)
        load.device(name(at), mine)
        _state(out, name(at), at, mine[-1] if mine else None, end_s, choose)
        _alarms(out, name(at), at, end_s, choose)
        _supply(out, name(at), end_s // _DAY_S, min(days, _SUPPLY_DAYS))
    load.finish()
    out.finish()
    return out.written


def _sessions(out, device, key_id, plans):
    for plan in plans:
        known = plan.derived()
        out.add("session_fact", **{column: known[column] for column in (
            "device", "sid", "key_id", "state", "ok", "start_ms", "stop_ms", "start_quality",
            "stop_quality", "start_corrected", "stop_corrected", "duration_s", "energy_mwh",
            "gap_mwh", "billable", "why_not", "ended_by", "outcome", "faults", "split_ok",
            "currency", "cost_info_minor", "by_tariff", "phases", "changed_at")},
            until_ms=known["stop_ms"], charging_ms=known["charging_s"] * 1000,
            occupied_ms=known["occupied_s"] * 1000, idle_ms=known["idle_s"] * 1000)
        for seq, at_ms in ((plan.seq, known["start_ms"]), (plan.seq + 4, known["stop_ms"])):
            out.add("happening", device=device, key_id=key_id, seq=seq, at_ms=at_ms, kind="",
                    outside_mwh=None, delay_ms=_DELAY_MS, detail="{}")
    if plans:
        out.add("tally", device=device, key_id=key_id, stored=6 * len(plans), bad=0,
                highest=6 * len(plans), boots=0, delay_p95_ms=_DELAY_MS)
        out.add("total", device=device, sessions=len(plans),
                energy_mwh=sum(plan.energy_mwh for plan in plans))


class _Load:
    """Load profiles of `days` days: what the sessions draw, over a device's own need."""

    def __init__(self, out, end_s, days):
        self._out = out
        self._first, self._last = end_s // _DAY_S - days, end_s // _DAY_S - 1
        self._idle = self._day([_IDLE_MWH] * QUARTERS).blob()
        self._all = {day: [0] * QUARTERS for day in range(self._first, self._last + 1)}
        self._devices = 0

    @staticmethod
    def _day(mwh, touching=1):
        day = Day()
        for quarter, energy_mwh in enumerate(mwh):
            day.mwh[quarter] = energy_mwh
            day.touching[quarter] = touching
        return day

    def device(self, device, plans):
        drawn = {}
        for plan in plans:
            first = plan.begin_s // _QUARTER_S
            count = (plan.begin_s + plan.charging_s) // _QUARTER_S - first + 1
            for at in range(first, first + count):
                drawn[at] = drawn.get(at, 0) + plan.energy_mwh // count
        by_day = {}
        for at, energy_mwh in drawn.items():
            if self._first <= at // QUARTERS <= self._last:
                mwh = by_day.setdefault(at // QUARTERS, [_IDLE_MWH] * QUARTERS)
                mwh[at % QUARTERS] += energy_mwh
                self._all[at // QUARTERS][at % QUARTERS] += energy_mwh
        self._devices += 1
        for number in range(self._first, self._last + 1):
            own = by_day.get(number)
            self._out.add("load_day", device=device, day=number, timeless=0,
                          quarters=self._day(own).blob() if own else self._idle)
        # without power for an hour in the middle
        begin_s, end_s = self._first * _DAY_S, (self._last + 1) * _DAY_S
        off_s = (begin_s + end_s) // 2 // _QUARTER_S * _QUARTER_S
        self._out.add("cover", device=device, from_s=begin_s, to_s=off_s)
        self._out.add("cover", device=device, from_s=off_s + 3600, to_s=end_s)
        self._out.add("down", device=device, from_s=off_s, to_s=off_s + 3600)

    def finish(self):
        for number, mwh in self._all.items():
            whole = [energy_mwh + _IDLE_MWH * self._devices for energy_mwh in mwh]
            self._out.add("load_day", device=ALL, day=number, timeless=0,
                          quarters=self._day(whole, self._devices).blob())


def _state(out, device, at, last, end_s, choose):
    at_ms = end_s * 1000
    state = choose.choices(("available", "charging", "suspended_ev", "connected", "fault"),
                           (60, 25, 10, 4, 1))[0]
    in_use = state not in ("available", "fault")
    sid = last.sid if in_use and last else ""
    power_mw = choose.randrange(3_000_000, 22_000_000) if state == "charging" else 0
    since_ms = at_ms - choose.randrange(3_600_000)
    online = choose.random() > 0.02
    out.add("charger", device=device, label="Bay %d" % at, site="site-%04d" % (at // _PER_SITE),
            evse_id="DE*EVM*E%05d" % at, rated_w=choose.choice((11_000, 22_000)))
    out.add("state", device=device, online=online, state=state, since_at=since_ms,
            cp="C" if state == "charging" else "B" if in_use else "A", sid=sid,
            power_mw=power_mw, session_mwh=1_000_000 if in_use else None,
            register_mwh=10**9, progress="charging" if state == "charging" else "", unsent=0,
            heard_at=at_ms - choose.randrange(60_000), changed_at=since_ms)
    said = {"info": {"fw": "0.1.0", "make": "Eastron", "model": "SDM120", "serial": "S-" + device},
            "status": {"n": 5, "st": state, "sid": sid, "el_s": 600, "pend": 0},
            "tel": {"p_mw": power_mw, "u_mv": [230_000], "i_ma": [16_000], "e_mwh": 10**9},
            "diag": {"heap": 60_000, "rssi": -60}, "cfg": {"rev": 1, "cfg": {"id": device}}}
    for topic, message in said.items():
        payload = json.dumps({"v": 1, "ts": end_s, "tq": "S", **message}).encode()
        out.add("live", device=device, topic=topic, payload=payload, received_at=at_ms, boot=1,
                n=0)
    from_ms = since_ms
    for number in range(_SPANS):
        to_ms = from_ms if number else None
        from_ms = since_ms - number * 7_200_000
        out.add("status_span", device=device, state=state if not number
                else "charging" if number % 2 else "available", from_ms=from_ms, to_ms=to_ms)


def _supply(out, device, today, days):
    for day in range(today - days, today):
        for band_a, count, voltage_mv in ((-1, 1000, 230_000), (16, 200, 226_000)):
            out.add("supply", device=device, day=day, phase=1, band_a=band_a, count=count,
                    voltage_mv=count * voltage_mv, current_ma=count * max(0, band_a) * 1000)
        out.add("offer", device=device, day=day, count=200, power_mw=200 * 7_000_000,
                offered_mw=200 * 7_360_000)


def _alarms(out, device, at, end_s, choose):
    for number in range(3):
        raised_ms = (end_s - choose.randrange(300 * _DAY_S)) * 1000
        is_open = number == 0 and at % 50 == 0
        out.add("alarm", device=device, code="OVERTEMP" if number else "METER_LOST",
                severity="crit" if number == 0 else "warn", text="sample", count=1,
                onset_ms=raised_ms, raised_at=raised_ms, changed_at=raised_ms,
                cleared_at=None if is_open else raised_ms + 600_000,
                acked_at=None if is_open else raised_ms + 300_000,
                acked_by=None if is_open else "ann")
    if at % 500 == 0:
        out.add("gap", device=device, key_id="0" * 8, first=3, last=4, missing=2,
                seen_at=end_s * 1000, asked_at=None, asked=0, closed_at=None)
