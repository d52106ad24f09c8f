"""DeviceFacts of a few devices, from what workup.py has written, without a look at the records."""

import sqlalchemy as sql

from evmeter_tools.backend import tables as t
from evmeter_tools.insight.facts import DeviceFacts, add_seen
from evmeter_tools.insight.session import CHARGING, ChargingSession, fill, phases_of
from evmeter_tools.insight.workup import covering

_EVER = 2**62
_SOURCE = tuple(column for column in t.session_facts.columns if column.name not in (
    "id", "changed_at", "until_ms"))


class HeldSession(ChargingSession):
    """A ChargingSession that looks at its phases only where a sum over all of them does not do."""

    def __init__(self, row):
        self._row = row
        self._phases = None
        fill(self, row)

    @property
    def phases(self):
        """As ChargingSession has them."""
        if self._phases is None:
            self._phases = phases_of(self._row)
        return self._phases

    @phases.setter
    def phases(self, value):
        self._phases = value or None

    @property
    def occupied_ms(self):
        """As it was stored."""
        return self._row["occupied_ms"]

    @property
    def stop_ms(self):
        """Its end, or up to where its phases are known."""
        return self._row["start_ms"] + self._row["occupied_ms"]

    @property
    def idle_ms(self):
        """As it was stored."""
        return self._row["idle_ms"]

    @property
    def outcome(self):
        """As it was stored."""
        return self._row["outcome"]

    def phase_ms(self, names, from_ms=-_EVER, to_ms=_EVER):
        """Time in phases of these names, within a period."""
        row = self._row
        if names == (CHARGING,) and from_ms <= row["start_ms"] and to_ms >= self.stop_ms:
            return row["charging_ms"]
        if to_ms <= row["start_ms"]:
            return 0
        return super().phase_ms(names, from_ms, to_ms)


def held_facts(store, devices, from_ms, to_ms, sessions=True):
    """{device: DeviceFacts} for reports over a period in Unix ms: `sessions` that touch it, energy
    outside of them in it, and all outages. The load profile has only what it covers; the delays
    are told by their 95th percentile."""
    facts = {name: DeviceFacts(name) for name in devices}
    with store.engine.connect() as connection:
        def rows(table, *where):
            return connection.execute(sql.select(table).where(
                table.c.device.in_(devices), *where)).mappings()

        if sessions:
            names = [column.name for column in _SOURCE]
            for row in connection.execute(sql.select(*_SOURCE).where(
                    t.session_facts.c.device.in_(devices), t.session_facts.c.start_ms < to_ms,
                    t.session_facts.c.until_ms >= from_ms)):
                facts[row[0]].sessions.append(HeldSession(dict(zip(names, row, strict=True))))
        for row in connection.execute(sql.select(t.covers).where(t.covers.c.device.in_(devices))):
            facts[row.device].intervals.append(covering(row))
            facts[row.device].tells_of(row.from_s)
        for device, first_ms in connection.execute(sql.select(
                t.happenings.c.device, sql.func.min(t.happenings.c.at_ms)).where(
                    t.happenings.c.device.in_(devices)).group_by(t.happenings.c.device)):
            facts[device].tells_of(int(first_ms) // 1000)
        for row in rows(t.alarm_spans):
            facts[row["device"]].alarms.append((row["code"], row["from_s"], row["to_s"]))
        for row in rows(t.refusals, t.refusals.c.at_ms >= from_ms, t.refusals.c.at_ms < to_ms):
            facts[row["device"]].refused += [row["at_ms"]] * row["count"]
        for row in rows(t.happenings, t.happenings.c.outside_mwh.is_not(None),
                        t.happenings.c.at_ms >= from_ms, t.happenings.c.at_ms < to_ms):
            facts[row["device"]].outside.append((row["at_ms"], row["outside_mwh"]))
        add_seen(connection, facts, devices, from_ms, to_ms)
        tallies = list(rows(t.tallies))
        follows = {(row["device"], row["key_id"]): row["follows"] for row in rows(t.keys)}
    _count(facts, tallies, follows)
    for own in facts.values():
        own.sessions.sort(key=lambda session: (session.start_ms, session.sid))
        own.alarms.sort(key=lambda alarm: alarm[1])
    return facts


def _count(facts, tallies, follows):
    lines = {}
    for row in tallies:
        own = facts[row["device"]]
        for kind, count in (("ok", row["stored"] - row["bad"]), ("bad", row["bad"])):
            own.by_stream["all", kind] = own.by_stream.get(("all", kind), 0) + count
        own.boots = [(0, "")] * row["boots"]
        own.latency_ms = [] if row["delay_p95_ms"] is None else [row["delay_p95_ms"]]
        first, seen = row["key_id"], set()
        while follows.get((row["device"], first)) and first not in seen:
            seen.add(first)
            first = follows[row["device"], first]
        line = lines.setdefault((row["device"], first), [0, 0])
        line[0] = max(line[0], row["highest"])
        line[1] += row["stored"]
    for (device, _), (highest, stored) in lines.items():
        facts[device].missing += highest - stored
