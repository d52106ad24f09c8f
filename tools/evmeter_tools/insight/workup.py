"""Works records up into what reports are made of, once each, whatever order they come in.

The collector notes each new record in the table `work`, in the transaction that stores it; here
the notes are taken away in the transaction that writes what follows. The rows say the same as
facts.device_facts over all of a device's records.
"""

import contextlib
import json
import logging
import time
from collections import Counter

import sqlalchemy as sql

from evmeter_tools.backend import notices
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.sessions import corrected_times
from evmeter_tools.backend.store import is_away, now_ms
from evmeter_tools.insight import load, uptime
from evmeter_tools.insight.derive import charging_session, read_message, text_of, whole
from evmeter_tools.insight.facts import (
    LAST_S,
    DeviceFacts,
    Interval,
    read_intervals,
    take_alarm,
)
from evmeter_tools.insight.table import quantile
from evmeter_tools.verify.audit import check_entries
from evmeter_tools.verify.parse import KEY_CHANGE, parse_key

log = logging.getLogger("evmeter.workup")

_LOCK = 0x65766D03  # PostgreSQL's advisory lock: one transaction at a time reads and adds
_AT_ONCE = 500  # records of a device in one transaction
_MOST_STUCK = 16  # of them, each by itself; then none of the device is tried
_MANY = 400  # values in one query
_LONGEST_WHY = 2000
_CLOCK = ("clock_bound", "clock_step")
_ENDLESS_S = 2**62


def waiting(store, devices=None, most=10_000):
    """How many records are stored and in no report yet, of some devices or of all; it is not
    counted beyond `most`."""
    query = sql.select(t.works.c.id).limit(most)
    if devices is not None:
        query = query.where(t.works.c.device.in_(devices))
    with store.engine.connect() as connection:
        return connection.execute(sql.select(sql.func.count()).select_from(
            query.subquery())).scalar()


def work_up(store, budget_s=None, devices=None, pause=None):
    """Take what waits, the oldest first; of these `devices`, or of all. After `budget_s` no other
    part is begun, but one always is.
    `pause()` is called between two devices and ends it where it returns True. Records that cannot
    be worked up wait until the next start and are counted; they cost the others nothing. Returns
    whether nothing waits any more."""
    deadline = None if budget_s is None else time.monotonic() + budget_s
    query = sql.select(t.works.c.device).order_by(t.works.c.id).limit(1)
    if devices is not None:
        query = query.where(t.works.c.device.in_(devices))
    late = False
    while True:
        with store.engine.connect() as connection:
            device = connection.execute(query.where(*_free(store))).scalar()
        if device is None:
            return not (store.stuck if devices is None else store.stuck.keys() & set(devices))
        if late:
            return False
        try:
            _work_up(store, device, _AT_ONCE)
        except Exception as error:  # one device's records must not cost the others their reports
            if is_away(error):
                raise
            _by_halves(store, device)
        if pause and pause():
            return False
        # looked at after a part of the work, or a slow database would never come any further
        late = deadline is not None and time.monotonic() > deadline


def _free(store):
    """Conditions of the notes that may be taken: not those that failed, nor any of a device of
    which too many did."""
    full = [device for device, ids in store.stuck.items() if len(ids) >= _MOST_STUCK]
    ids = [number for device, ids in store.stuck.items() if device not in full for number in ids]
    return [column.not_in(values) for column, values in (
        (t.works.c.device, full), (t.works.c.id, ids)) if values]


@contextlib.contextmanager
def _transaction(store):
    with store.turn, store.engine.begin() as connection:
        if not store.is_sqlite:
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _work_up(store, device, most):
    with _transaction(store) as connection:
        _Device(store, connection, device).work_up(most)


def _by_halves(store, device):
    """As many of a device's records as one transaction takes, in smaller and smaller parts; what
    fails by itself is stuck."""
    left, most = _AT_ONCE, _AT_ONCE // 2
    while left > 0 and len(store.stuck.get(device, ())) < _MOST_STUCK:
        try:
            _work_up(store, device, most)
        except Exception as error:
            if is_away(error):
                raise
            if most > 1:
                most //= 2
                continue
            _stick(store, device, error)
        left -= most
        most = min(2 * most, max(1, left))


def _stick(store, device, error):
    """The oldest note of the device is left alone from now on."""
    with _transaction(store) as connection:
        row = connection.execute(sql.select(t.works).where(
            t.works.c.device == device, *_free(store)).order_by(t.works.c.id).limit(1)).first()
        if row is None:
            return
        text = "record %d is in no report" % row.seq
        log.error("%s: %s: %r", device, text, error, exc_info=error)
        notices.raise_alarm(connection, device, notices.BAD_RECORD, notices.WARNING, text,
                            now_ms(), now_ms())
    store.stuck.setdefault(device, []).append(row.id)


def session_of(store, device, sid):
    """The ChargingSession of a device, with its records; None where there is none."""
    with store.engine.connect() as connection:
        return next(_Device(store, connection, device).sessions([sid]), None)


def edges_of(store, device, sid):
    """{"begin" or "complete": (quality of the clock that dated the record, TrueTime or None)} of a
    session, as its records' messages and later entries of the same boot tell."""
    with store.engine.connect() as connection:
        return _Device(store, connection, device).edges(sid)


def _parts(values):
    values = list(values)
    return [values[at:at + _MANY] for at in range(0, len(values), _MANY)]


class _Device:
    """One device's new records, within a transaction."""

    def __init__(self, store, connection, device):
        self._store = store
        self._connection = connection
        self._device = device
        self._keys = {}
        self._order = []

    def _all(self, statement):
        return self._connection.execute(statement).all()

    def _know_keys(self):
        for key_id, spki in self._all(sql.select(t.keys.c.key_id, t.keys.c.spki).where(
                t.keys.c.device == self._device).order_by(t.keys.c.enrolled_at)):
            self._keys[key_id] = spki
            self._order.append(key_id)

    def work_up(self, most):
        """Take `most` of what waits of the device."""
        taken = self.take(most)
        if not taken:
            return
        self._know_keys()
        rows = self._records(taken)
        messages = [(row, read_message(row)) for row in rows]
        self._tally(rows)
        sids = {row.sid for row in rows if row.sid} | self._restarted(rows)
        times = self._times(messages, sids)
        told = self._happenings(messages, times)
        intervals = [interval for row, message in messages
                     if row.stream == "ivl" and row.verdict == "ok" and _dated(message)
                     for interval in read_intervals(self._device, message)]
        load.add(self._store, self._connection, self._device, intervals)
        covered = self._cover(intervals)
        if any(row.stream == "log" and row.kind == KEY_CHANGE for row in rows):
            sids.update(self._connection.execute(sql.select(t.session_facts.c.sid).where(
                t.session_facts.c.device == self._device)).scalars())
        for part in _parts(sorted(sids)):
            self._sessions(part)
        if told:
            self._tell()
        if told or covered:
            renew_downs(self._store, self._connection, self._device)
        if any(row.stream == "rec" for row in rows):
            self._totals()

    def take(self, most):
        """Take away the notes of the oldest records; returns their (key id, number)."""
        first = sql.select(t.works.c.id).where(
            t.works.c.device == self._device, *_free(self._store)).order_by(
                t.works.c.id).limit(most)
        return self._all(sql.delete(t.works).where(t.works.c.id.in_(first)).returning(
            t.works.c.key_id, t.works.c.seq))

    def _records(self, numbers):
        found, by_key = [], {}
        for key_id, seq in sorted(set(map(tuple, numbers))):
            by_key.setdefault(key_id, []).append(seq)
        for key_id, seqs in by_key.items():
            for part in _parts(seqs):
                found += self._all(sql.select(t.records).where(
                    t.records.c.device == self._device, t.records.c.key_id == key_id,
                    t.records.c.seq.in_(part)).order_by(t.records.c.seq))
        return found

    def _tally(self, rows):
        for key_id in {row.key_id for row in rows}:
            own = [row for row in rows if row.key_id == key_id]
            new = {"stored": len(own), "bad": sum(row.verdict != "ok" for row in own),
                   "highest": max(row.seq for row in own)}
            held = self._connection.execute(sql.select(t.tallies).where(
                t.tallies.c.device == self._device, t.tallies.c.key_id == key_id)).first()
            if held:
                new = {"stored": held.stored + new["stored"], "bad": held.bad + new["bad"],
                       "highest": max(held.highest, new["highest"])}
            self._connection.execute(self._store.insert(t.tallies).values(
                device=self._device, key_id=key_id, **new).on_conflict_do_update(
                    index_elements=[t.tallies.c.device, t.tallies.c.key_id], set_=new))

    def _restarted(self, rows):
        """The sessions in which the device was started right after it wrote one of these rows,
        which tell up to when it ran."""
        found = set()
        after = {}
        for row in rows:
            if not row.sid:
                after.setdefault(row.key_id, []).append(row.seq + 1)
        for key_id, numbers in after.items():
            for part in _parts(numbers):
                found.update(self._connection.execute(sql.select(t.records.c.sid).where(
                    t.records.c.device == self._device, t.records.c.key_id == key_id,
                    t.records.c.seq.in_(part), t.records.c.kind == "boot",
                    t.records.c.sid != "")).scalars())
        return found

    # -- times: what a device dated before it knew the time, a later entry of that boot dates --

    def _boot_rows(self, key_id, seq):
        """The rows of a key from the boot on in which number `seq` was made."""
        begun = self._connection.execute(sql.select(sql.func.max(t.happenings.c.seq)).where(
            t.happenings.c.device == self._device, t.happenings.c.key_id == key_id,
            t.happenings.c.kind == "boot", t.happenings.c.seq <= seq)).scalar() or 0
        return self._all(sql.select(t.records).where(
            t.records.c.device == self._device, t.records.c.key_id == key_id,
            t.records.c.seq >= begun).order_by(t.records.c.seq))

    def _times(self, messages, sids):
        """TrueTimes that the new rows touch, by (key id, number); their sessions join `sids`."""
        first = {}
        for row, message in messages:
            seq = None
            if message.get("tq") == "U":
                seq = row.seq
            elif row.stream == "log" and row.kind in _CLOCK and whole(message, "seq0"):
                seq = message["seq0"]
            if seq is not None:
                first[row.key_id] = min(seq, first.get(row.key_id, seq))
        times = {}
        for key_id, seq in first.items():
            rows = self._boot_rows(key_id, seq)
            times.update({(key_id, number): when
                          for number, when in _corrected(rows).items()})
            sids.update(row.sid for row in rows if row.sid and (key_id, row.seq) in times)
        return times

    # -- boots, alarms, energy outside of sessions, delays --

    def _happenings(self, messages, times):
        values = []
        for row, message in messages:
            if not _dated(message):
                continue
            kind = ("boot" if row.kind == "boot" else "alarm" if row.kind == "alarm"
                    and row.stream == "evt" and row.verdict == "ok" else "")
            outside_mwh = (whole(message, "out_mwh") or None) if row.verdict == "ok" else None
            delay_ms = None
            if row.stream == "rec" and message.get("tq") != "U":
                delay_ms = max(0, row.received_at - message["ts"] * 1000)
            if not kind and outside_mwh is None and delay_ms is None:
                continue
            detail = {name: message[name] for name in ("code", "n", "on_ts", "act", "cause")
                      if kind and name in message}
            values.append({"device": self._device, "key_id": row.key_id, "seq": row.seq,
                           "at_ms": message["ts"] * 1000, "kind": kind, "delay_ms": delay_ms,
                           "outside_mwh": outside_mwh, "detail": json.dumps(detail)})
        if values:
            self._connection.execute(self._store.insert(
                t.happenings).on_conflict_do_nothing(), values)
        moved = 0
        for (key_id, seq), when in times.items():
            moved += self._connection.execute(sql.update(t.happenings).where(
                t.happenings.c.device == self._device, t.happenings.c.key_id == key_id,
                t.happenings.c.seq == seq).values(at_ms=when.unix_ms)).rowcount
        return bool(values) or moved > 0

    def _tell(self):
        """Go through all that has happened, as a device's alarms and counts need its order."""
        found = self._all(sql.select(t.happenings).where(
            t.happenings.c.device == self._device).order_by(t.happenings.c.seq))
        facts, open_alarms = DeviceFacts(self._device), {}
        boots, delays = 0, []
        for key_id in self._order:
            counts = {}
            for row in found:
                if row.key_id != key_id:
                    continue
                if row.kind == "boot":
                    boots += 1
                    facts.alarms += [(code, on_s, row.at_ms // 1000)
                                     for code, on_s in open_alarms.items()]
                    open_alarms.clear()
                    counts = {}
                elif row.kind == "alarm":
                    take_alarm(facts, json.loads(row.detail), row.at_ms, open_alarms, counts)
                if row.delay_ms is not None:
                    delays.append(row.delay_ms)
        facts.alarms += [(code, on_s, None) for code, on_s in open_alarms.items()]
        self._replace(t.alarm_spans, [{"code": code, "from_s": on_s, "to_s": off_s}
                                      for code, on_s, off_s in facts.alarms])
        self._replace(t.refusals, [{"at_ms": at_ms, "count": count} for at_ms, count
                                   in sorted(Counter(facts.refused).items())])
        self._connection.execute(sql.update(t.tallies).where(
            t.tallies.c.device == self._device).values(
                boots=boots, delay_p95_ms=quantile(delays, 950)))

    def _replace(self, table, values):
        self._connection.execute(sql.delete(table).where(table.c.device == self._device))
        if values:
            self._connection.execute(sql.insert(table), [
                {"device": self._device, **each} for each in values])

    # -- outages --

    def _cover(self, intervals):
        """Note what intervals cover; returns whether that made more than a span longer."""
        known = [each for each in intervals if each.quality != "clock"]
        for start_s, stop_s in uptime.merged((each.start_s, each.stop_s) for each in known):
            joined = t.covers.c.device == self._device, t.covers.c.from_s <= stop_s, (
                t.covers.c.to_s >= start_s)
            held = self._all(sql.select(t.covers.c.from_s, t.covers.c.to_s).where(*joined))
            span = {"from_s": min([start_s, *(row.from_s for row in held)]),
                    "to_s": max([stop_s, *(row.to_s for row in held)])}
            self._connection.execute(sql.delete(t.covers).where(*joined))
            self._connection.execute(sql.insert(t.covers).values(device=self._device, **span))
        return bool(known)

    # -- sessions --

    def _before_key(self):
        changes = self._all(sql.select(t.records).where(
            t.records.c.device == self._device, t.records.c.key_id.in_(self._order),
            t.records.c.stream == "log", t.records.c.kind == KEY_CHANGE)) if (
                len(self._order) > 1) else []
        return check_entries([(text_of(row), None) for row in changes],
                             {parse_key(spki) for spki in self._keys.values()})[1]

    def _sessions(self, sids):
        for session in self.sessions(sids):
            self._keep(session)

    def sessions(self, sids):
        """The ChargingSessions of these ids, as far as there are records of them."""
        if not self._order:
            self._know_keys()
        by_sid = {}
        for row in self._all(sql.select(t.records).where(
                t.records.c.sid.in_(sids), t.records.c.device == self._device).order_by(
                    t.records.c.key_id, t.records.c.seq)):
            by_sid.setdefault(row.sid, []).append(row)
        before_key = self._before_key()
        for sid, rows in by_sid.items():
            times, alive_ms = self._context(rows)
            yield charging_session(self._device, sid, rows, self._keys, times, alive_ms, None,
                                   before_key)

    def edges(self, sid):
        """See edges_of."""
        rows = self._all(sql.select(t.records).where(
            t.records.c.sid == sid, t.records.c.device == self._device,
            t.records.c.stream == "rec", t.records.c.verdict == "ok").order_by(
                t.records.c.key_id, t.records.c.seq))
        times, _ = self._context(rows)
        return {row.kind: (_quality(row), times.get((row.key_id, row.seq)))
                for row in rows if row.kind in ("begin", "complete")}

    def _context(self, rows):
        """(times, alive_ms) for charging_session, where a session needs them: it has rows without
        the time, or the device was restarted in it."""
        times, alive_ms = {}, {}
        first = {}
        for row in rows:
            if row.kind == "boot" or read_message(row).get("tq") == "U":
                # of a restart, what was last heard before it counts too
                first.setdefault(row.key_id, max(1, row.seq - (row.kind == "boot")))
        for key_id, seq in first.items():
            around = self._boot_rows(key_id, seq)
            found = _corrected(around)
            times.update({(key_id, number): when for number, when in found.items()})
            last_ms = None
            for row in around:
                message = read_message(row)
                if not _dated(message):
                    continue
                if row.kind == "boot" and last_ms is not None:
                    alive_ms[key_id, row.seq] = last_ms
                last_ms = (found[row.seq].unix_ms if row.seq in found
                           else message["ts"] * 1000)
        return times, alive_ms

    def _keep(self, session):
        values = fact_values(session)
        held = self._connection.execute(sql.select(t.session_facts.c.id).where(
            t.session_facts.c.device == session.device,
            t.session_facts.c.sid == session.sid)).scalar()
        if held is None:
            self._connection.execute(sql.insert(t.session_facts).values(values))
        else:
            self._connection.execute(sql.update(t.session_facts).where(
                t.session_facts.c.id == held).values(values))
        # what the store could tell by one record at a time depends on their order; this does not
        self._connection.execute(sql.update(t.sessions).where(
            t.sessions.c.device == session.device, t.sessions.c.sid == session.sid,
            t.sessions.c.ok.is_not(session.ok)).values(ok=session.ok, changed_at=now_ms()))

    def _totals(self):
        number, energy_mwh = self._connection.execute(sql.select(
            sql.func.count(), sql.func.sum(t.sessions.c.energy_mwh)).where(
                t.sessions.c.device == self._device, t.sessions.c.state == "complete",
                t.sessions.c.ok.is_(True))).one()
        values = {"sessions": number, "energy_mwh": int(energy_mwh or 0)}
        self._connection.execute(self._store.insert(t.totals).values(
            device=self._device, **values).on_conflict_do_update(
                index_elements=[t.totals.c.device], set_=values))


def renew_downs(store, connection, device):
    """Work out anew when a device was down: by its load profile, its alarms, and the states that
    the backend has seen."""
    if not store.is_sqlite:
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))

    def rows(table, order):
        return connection.execute(sql.select(table).where(
            table.c.device == device).order_by(order)).all()

    found = uptime.holes([covering(row) for row in rows(t.covers, t.covers.c.from_s)])
    found += uptime.out_of_order(device, [
        (row.code, row.from_s, row.to_s) for row in rows(t.alarm_spans, t.alarm_spans.c.id)],
        _ENDLESS_S)
    found += uptime.from_spans([(device, row.state, row.from_ms, row.to_ms)
                                for row in rows(t.spans, t.spans.c.id)], _ENDLESS_S)
    connection.execute(sql.delete(t.downs).where(t.downs.c.device == device))
    values = [{"device": device, "from_s": start, "to_s": None if stop == _ENDLESS_S else stop}
              for start, stop in uptime.merged((each.start_s, each.stop_s) for each in found)]
    if values:
        connection.execute(sql.insert(t.downs), values)


def _quality(row):
    """Of the clock that dated a message; nobody signs it."""
    quality = read_message(row).get("tq")
    return quality if quality in ("U", "I", "S", "R") else "U"


def _dated(message):
    return 0 <= whole(message, "ts", -1) < LAST_S


def _corrected(rows):
    return corrected_times([(row.stream, read_message(row)) for row in rows
                            if row.verdict == "ok"])


def covering(row):
    """An Interval that covers what a row of `cover` covers, for uptime.holes."""
    return Interval(row.device, row.from_s, row.to_s - row.from_s, 0, 0, "ok")


def fact_values(session):
    """A ChargingSession as a row of the table session_fact."""
    row = session.row()
    values = {column.name: row[column.name] for column in t.session_facts.columns
              if column.name in row}
    return {**values, "why_not": values["why_not"][:_LONGEST_WHY],
            "until_ms": session.stop_ms, "charging_ms": session.charging_ms,
            "occupied_ms": session.occupied_ms, "idle_ms": session.idle_ms,
            "changed_at": now_ms()}
