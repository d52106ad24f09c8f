"""Numbers that a device has passed over: seen, asked for again, closed when they are there."""

import sqlalchemy as sql

from evmeter_tools.backend import notices, orders
from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import gaps, records

_MARGIN_MS = 60_000  # a commit may be seen later than the instant written in it
_ASK_AGAIN_MS = 600_000
_EXPIRES_MS = 300_000
_MOST_RANGES = 200  # of one device at a time
_ASKED_AT_ONCE = 3  # a device works on one command a second and lets four wait
_MOST_NUMBERS = 1000  # in one command


class Gaps:
    """Looks for them, one caller at a time. A gap that is older than `wait_ms` is asked for."""

    def __init__(self, store, wait_ms=60_000):
        self._store = store
        self._wait_ms = wait_ms
        self._seen_at = None  # up to when records were looked at
        self._cum = {}

    def look(self):
        """One round: new gaps, closed ones, commands for those that wait."""
        begun = now_ms()
        lines = self._store.lines()
        for device, line in self._touched(lines):
            self._look_at(device, line, begun)
        self._close(lines, begun)
        self._ask(lines, begun)
        self._tell(begun)
        self._seen_at = begun

    def _touched(self, lines):
        """The lines that may have a new gap: those with new numbers that do not simply go on."""
        came = sql.select(
            records.c.device, records.c.key_id, sql.func.count().label("count"),
            sql.func.min(records.c.seq).label("first"),
            sql.func.max(records.c.seq).label("last")).group_by(
                records.c.device, records.c.key_id)
        if self._seen_at is not None:
            came = came.where(records.c.received_at >= self._seen_at - _MARGIN_MS)
        with self._store.engine.connect() as connection:
            rows = connection.execute(came).all()
        found = set()
        for row in rows:
            line = lines.get((row.device, row.key_id), (row.key_id,))
            key = row.device, line
            whole = row.last - row.first + 1 == row.count
            if whole and len(line) == 1 and row.first <= self._cum.get(key, 0) + 1:
                self._cum[key] = max(row.last, self._cum.get(key, 0))
            else:
                found.add(key)
        return sorted(found)

    def _look_at(self, device, line, at):
        cum = self._cum[device, line] = self._store.contiguous(
            device, line, self._cum.get((device, line), 0))
        mine = records.c.device == device, records.c.key_id.in_(line)
        before = sql.func.lag(records.c.seq, 1, cum).over(order_by=records.c.seq)
        steps = sql.select(records.c.seq, records.c.key_id, before.label("before")).where(
            *mine, records.c.seq > cum).subquery()
        with self._store.engine.begin() as connection:
            ranges = connection.execute(sql.select(steps).where(
                steps.c.seq > steps.c.before + 1).limit(_MOST_RANGES)).all()
            for row in ranges:
                self._note(connection, device, line, row, at)

    def _note(self, connection, device, line, row, at):
        first, last = row.before + 1, row.seq - 1
        known = connection.execute(sql.select(gaps.c.first).where(
            gaps.c.device == device, gaps.c.key_id.in_(line), gaps.c.closed_at.is_(None),
            gaps.c.first <= first, gaps.c.last >= last)).first()
        if known:
            return
        values = {"last": last, "missing": last - first + 1, "seen_at": at, "asked_at": None,
                  "asked": 0, "closed_at": None}
        connection.execute(self._store.insert(gaps).values(
            device=device, key_id=row.key_id, first=first, **values).on_conflict_do_update(
                index_elements=[gaps.c.device, gaps.c.key_id, gaps.c.first], set_=values))

    def _close(self, lines, at):
        with self._store.engine.begin() as connection:
            for gap in connection.execute(
                    sql.select(gaps).where(gaps.c.closed_at.is_(None))).all():
                line = lines.get((gap.device, gap.key_id), (gap.key_id,))
                there = connection.execute(
                    sql.select(sql.func.count(records.c.seq.distinct())).where(
                        records.c.device == gap.device, records.c.key_id.in_(line),
                        records.c.seq.between(gap.first, gap.last))).scalar()
                missing = gap.last - gap.first + 1 - there
                if missing != gap.missing:  # it goes on: what is left is asked for without delay
                    connection.execute(sql.update(gaps).where(
                        gaps.c.device == gap.device, gaps.c.key_id == gap.key_id,
                        gaps.c.first == gap.first).values(
                            missing=missing, asked_at=None,
                            closed_at=None if missing else at))

    def _tell(self, at):
        """The alarm stands for as long as there is a gap that was worth asking for."""
        with self._store.engine.begin() as connection:
            asked = dict(connection.execute(
                sql.select(gaps.c.device, sql.func.sum(gaps.c.missing)).where(
                    gaps.c.closed_at.is_(None), gaps.c.asked > 0).group_by(
                        gaps.c.device)).all())
            for device, number in asked.items():
                notices.raise_alarm(connection, device, notices.GAP, notices.WARNING,
                                    "%d records are missing" % number, at, at)
            for device in notices.with_open(connection, notices.GAP):
                if device not in asked:
                    notices.clear_alarm(connection, device, notices.GAP, at)

    def _ask(self, lines, at):
        asked = {}
        with self._store.engine.begin() as connection:
            for gap in connection.execute(sql.select(gaps).where(
                    gaps.c.closed_at.is_(None), gaps.c.seen_at <= at - self._wait_ms,
                    sql.or_(gaps.c.asked_at.is_(None),
                            gaps.c.asked_at <= at - _ASK_AGAIN_MS)).order_by(
                                gaps.c.device, gaps.c.first)).all():
                asked[gap.device] = asked.get(gap.device, 0) + 1
                if asked[gap.device] > _ASKED_AT_ONCE:
                    continue
                line = lines.get((gap.device, gap.key_id), (gap.key_id,))
                first = self._store.contiguous(gap.device, line, gap.first - 1) + 1
                orders.put(connection, gap.device, "resend",
                           {"from": first, "to": min(gap.last, first + _MOST_NUMBERS - 1)},
                           "gap", _EXPIRES_MS)
                connection.execute(sql.update(gaps).where(
                    gaps.c.device == gap.device, gaps.c.key_id == gap.key_id,
                    gaps.c.first == gap.first).values(asked_at=at, asked=gap.asked + 1))
