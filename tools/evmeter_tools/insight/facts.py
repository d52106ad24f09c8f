"""Everything that reports need of a device, in one pass over its stored rows."""

from dataclasses import dataclass, field

import sqlalchemy as sql

from evmeter_tools.backend.sessions import corrected_times
from evmeter_tools.backend.supply import read as read_supply
from evmeter_tools.backend.tables import exclusions, spans
from evmeter_tools.backend.tables import states as live_states
from evmeter_tools.insight import uptime
from evmeter_tools.insight.derive import (
    MOST,
    charging_session,
    read_message,
    text_of,
    whole,
)
from evmeter_tools.verify.audit import check_entries
from evmeter_tools.verify.parse import KEY_CHANGE, parse_key
from evmeter_tools.words import is_plain

REFUSED = "SESSION_REFUSED"
_MOST_ONSETS = 1000  # that one event can tell of
LAST_S = 2**32  # the contract's times are before
_LONGEST_S = 7 * 86400  # an interval, joined ones too
_QUARTER_S = 900


@dataclass(frozen=True)
class Interval:
    """A piece of the load profile: start, Unix s, length, energy, highest power. `quality` is
    "ok", "partial" (begun late, or with a hole) or "clock" (its time is not known)."""

    device: str
    start_s: int
    length_s: int
    energy_mwh: int
    peak_mw: int
    quality: str

    @property
    def stop_s(self):
        """Its end, Unix s."""
        return self.start_s + self.length_s


@dataclass
class DeviceFacts:
    """What a device's rows come to.

    outside     [(Unix ms, mWh)]: energy that belongs to no session, when it was accounted for
    boots       [(Unix ms, reset cause)]
    alarms      [(code, onset, Unix s; over, Unix s, or None while it is there)]
    refused     [Unix ms]: attempts for which no session could open
    by_stream   {(stream, verdict): stored messages}; `missing` numbers that were passed over
    latency_ms  from a record's making to its storing, where its clock was set
    states      [(state, Unix ms; Unix ms, or None while it lasts)], as the backend has seen them
    supply      [(phase, whole A or -1 for less than 0.5 A, messages, mV, mA)], sums of telemetry
    offers      (messages, mW, offered mW), sums while a car charged
    exclusions  [(Unix s, Unix s, reason)]: outages in it do not count, by an operator's word
    is_seen     whether the backend has ever heard a word of it that is not stored
    since_s     the first that its records and load profile tell, Unix s; None where they do not
    """

    device: str
    sessions: list = field(default_factory=list)
    intervals: list = field(default_factory=list)
    outside: list = field(default_factory=list)
    boots: list = field(default_factory=list)
    alarms: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    by_stream: dict = field(default_factory=dict)
    missing: int = 0
    latency_ms: list = field(default_factory=list)
    states: list = field(default_factory=list)
    exclusions: list = field(default_factory=list)
    supply: list = field(default_factory=list)
    offers: tuple = (0, 0, 0)

    is_seen: bool = False
    since_s: int | None = None

    def tells_of(self, at_s):
        """Something is known of that time."""
        self.since_s = at_s if self.since_s is None else min(self.since_s, at_s)

    @property
    def is_known(self):
        """Whether anything was ever heard of it: of a charger that has said nothing nobody can
        tell how long it was up."""
        return self.is_seen or bool(self.by_stream or self.intervals or self.sessions)


def device_facts(device, rows, keys, until_ms=None):
    """The DeviceFacts of all stored rows of one device, in the order of their numbers.

    keys      {key id: SPKI} that are trusted for it
    until_ms  up to when the phases of an open session go
    """
    facts = DeviceFacts(device)
    by_key = {}
    for row in rows:
        by_key.setdefault(row.key_id, []).append((row, read_message(row)))
    facts.missing = _missing(by_key)
    times, alive_ms, by_session = {}, {}, {}
    open_alarms = {}
    for key_id, pairs in sorted(by_key.items(), key=lambda item: (
            item[1][0][0].received_at, item[1][0][0].seq)):
        found = corrected_times([(row.stream, message) for row, message in pairs
                                 if row.verdict == "ok"])
        times.update({(key_id, seq): when for seq, when in found.items()})
        _one_key(facts, key_id, pairs, found, alive_ms, open_alarms)
        for row, _ in pairs:
            if row.sid:
                by_session.setdefault(row.sid, []).append(row)
    facts.alarms += [(code, on_s, None) for code, on_s in open_alarms.items()]
    _, before_key = check_entries(
        [(text_of(row), None) for pairs in by_key.values() for row, _ in pairs
         if row.stream == "log" and row.kind == KEY_CHANGE],
        {parse_key(spki) for spki in keys.values()})
    facts.sessions = [charging_session(device, sid, own, keys, times, alive_ms, until_ms,
                                       before_key)
                      for sid, own in by_session.items()]
    facts.sessions.sort(key=lambda session: (session.start_ms or 0, session.sid))
    return facts


def _missing(by_key):
    """How many numbers were passed over; a key that took over by a signed change goes on with
    those of the one before."""
    before = {message.get("new_k"): key_id for key_id, pairs in by_key.items()
              for row, message in pairs
              if row.stream == "log" and row.kind == KEY_CHANGE and row.verdict == "ok"}
    lines = {}
    for key_id, pairs in by_key.items():
        first = key_id
        for _ in before:
            first = before.get(first, first)
        lines.setdefault(first, set()).update(row.seq for row, _ in pairs)
    return sum(max(numbers) - len(numbers) for numbers in lines.values())


def _one_key(facts, key_id, pairs, times, alive_ms, open_alarms):
    last_ms, counts = None, {}
    for row, message in pairs:
        kind = row.stream, row.verdict
        facts.by_stream[kind] = facts.by_stream.get(kind, 0) + 1
        if not 0 <= whole(message, "ts", -1) < LAST_S:
            continue
        when = times.get(row.seq)
        at_ms = when.unix_ms if when else message["ts"] * 1000
        if row.kind == "boot":
            facts.boots.append((at_ms, str(message.get("cause", ""))))
            # a new life knows of no alarm of the one before
            facts.alarms += [(code, on_s, at_ms // 1000) for code, on_s in open_alarms.items()]
            open_alarms.clear()
            counts = {}
            if last_ms is not None:
                alive_ms[key_id, row.seq] = last_ms
        is_alarm = row.kind == "alarm" and row.stream == "evt" and row.verdict == "ok"
        if is_alarm:
            take_alarm(facts, message, at_ms, open_alarms, counts)
        is_outside = row.verdict == "ok" and whole(message, "out_mwh")
        if is_outside:
            facts.outside.append((at_ms, message["out_mwh"]))
        if row.stream == "ivl" and row.verdict == "ok":
            read = read_intervals(facts.device, message)
            facts.intervals += read
            for each in read:
                if each.quality != "clock":
                    facts.tells_of(each.start_s)
        is_dated = row.stream == "rec" and message.get("tq") != "U"
        if is_dated:
            facts.latency_ms.append(max(0, row.received_at - message["ts"] * 1000))
        if row.kind == "boot" or is_alarm or is_outside or is_dated:
            facts.tells_of(at_ms // 1000)
        last_ms = at_ms


def read_intervals(device, message):
    """The Interval of a message in a list, which is empty where it is none: nobody signs them."""
    start_s, length_s, energy_mwh, peak_mw = (
        whole(message, name, -MOST) for name in ("t0", "len", "d_mwh", "p_max_mw"))
    if (not 0 <= start_s < LAST_S or start_s % _QUARTER_S or not 0 < length_s <= _LONGEST_S
            or max(abs(energy_mwh), abs(peak_mw)) >= MOST):
        return []
    return [Interval(device, start_s, length_s, energy_mwh, peak_mw, str(message.get("q"))[:8])]


def take_alarm(facts, message, at_ms, open_alarms, counts):
    """Take an alarm's event. Changes in quick succession share one; `n` counts onsets since the
    boot."""
    code, count = message.get("code"), whole(message, "n", 0)
    if not is_plain(code, 32):
        return
    on_s = min(max(0, whole(message, "on_ts", at_ms // 1000)), at_ms // 1000)
    onsets = min(max(0, count - counts.get(code, 0)), _MOST_ONSETS)
    counts[code] = max(count, counts.get(code, 0))
    if code == REFUSED:
        facts.refused += [at_ms] * onsets
    if message.get("act") is True:
        open_alarms.setdefault(code, on_s)
    elif code in open_alarms:
        facts.alarms.append((code, open_alarms.pop(code), at_ms // 1000))
    elif onsets:
        facts.alarms.append((code, on_s, at_ms // 1000))


def load(store, devices=None, until_ms=None, records=True, period_ms=(0, MOST)):
    """{device: DeviceFacts} of a Store, for these devices or all that have a key; `period_ms` is
    of the telemetry. Only what bills needs the sessions' `records`, which take most of the
    room."""
    keys = {}
    for (device, key_id), spki in store.trusted().items():
        keys.setdefault(device, {})[key_id] = spki
    facts = {}
    for name in sorted(keys) if devices is None else devices:
        facts[name] = device_facts(name, store.rows(name), keys.get(name, {}), until_ms)
        for session in () if records else facts[name].sessions:
            session.records = []
        with store.engine.connect() as connection:
            add_seen(connection, facts, [name], *period_ms)
    return facts


def add_seen(connection, facts, devices, from_ms=0, to_ms=MOST):
    """Add to {device: DeviceFacts} what the backend has seen of some devices itself, telemetry of
    a period, and what operators have said of their outages."""
    supply, offers = read_supply(connection, devices, from_ms, to_ms)
    for name, found in supply.items():
        facts[name].supply = found
    for name, found in offers.items():
        facts[name].offers = found
    for name in connection.execute(sql.select(live_states.c.device).where(
            live_states.c.device.in_(devices))).scalars():
        facts[name].is_seen = True
    for row in connection.execute(sql.select(spans).where(
            spans.c.device.in_(devices), spans.c.state.in_(uptime.DOWN)).order_by(
                spans.c.from_ms)):
        facts[row.device].states.append((row.state, row.from_ms, row.to_ms))
    for row in connection.execute(sql.select(exclusions).where(
            exclusions.c.device.in_(devices)).order_by(exclusions.c.from_s)):
        facts[row.device].exclusions.append((row.from_s, row.to_s, row.reason))

