"""DeviceFacts of a few devices, from what workup.py has written, without a look at the records."""

import sqlalchemy as sql

from evmeter_tools.backend import tables as t
from evmeter_tools.insight.facts import DeviceFacts
from evmeter_tools.insight.session import from_row
from evmeter_tools.insight.workup import covering


def held_facts(store, devices, from_ms, to_ms):
    """{device: DeviceFacts} for reports over a period in Unix ms: sessions that touch it, energy
    outside of them in it, and all outages. The load profile has only what it covers; the delays
    are told by their 95th percentile."""
    facts = {name: DeviceFacts(name) for name in devices}
    with store.engine.connect() as connection:
        def rows(table, *where):
            return connection.execute(sql.select(table).where(
                table.c.device.in_(devices), *where)).mappings()

        for row in rows(t.session_facts, t.session_facts.c.start_ms < to_ms,
                        t.session_facts.c.until_ms >= from_ms):
            facts[row["device"]].sessions.append(from_row(row))
        for row in connection.execute(sql.select(t.covers).where(t.covers.c.device.in_(devices))):
            facts[row.device].intervals.append(covering(row))
        for row in rows(t.alarm_spans):
            facts[row["device"]].alarms.append((row["code"], row["from_s"], row["to_s"]))
        for row in rows(t.refusals, t.refusals.c.at_ms >= from_ms, t.refusals.c.at_ms < to_ms):
            facts[row["device"]].refused += [row["at_ms"]] * row["count"]
        for row in rows(t.happenings, t.happenings.c.outside_mwh.is_not(None),
                        t.happenings.c.at_ms >= from_ms, t.happenings.c.at_ms < to_ms):
            facts[row["device"]].outside.append((row["at_ms"], row["outside_mwh"]))
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
