"""Figures of all sessions side by side in memory, so that a report over a million of them is a
few sums; what has changed in the database is read before each use.

About 90 bytes a session. Sessions without a known time are in none of these reports.
"""

import json
import threading

import numpy as np
import sqlalchemy as sql

from evmeter_tools.backend.tables import session_facts
from evmeter_tools.insight.session import OUTCOMES

_MARGIN_MS = 30_000  # a commit may be seen later than the instant written in it
_AT_ONCE = 50_000
_NUMBERS = ("start_ms", "until_ms", "energy_mwh", "gap_mwh", "charging_ms", "occupied_ms",
            "duration_s", "changed_at")
UNKNOWN = np.iinfo(np.int64).min
OUTCOME_NAMES = tuple(OUTCOMES)
_f = session_facts.c
# what Python need not look at row by row: numbers, UNKNOWN for none
_SOURCE = (
    _f.id, _f.device, *(sql.func.coalesce(_f[name], sql.literal_column(str(-2**63)))
                        for name in _NUMBERS),
    sql.case({name: at for at, name in enumerate(OUTCOME_NAMES)}, value=_f.outcome, else_=0),
    sql.case((_f.state == "complete", 1), else_=0),
    sql.case((sql.and_(_f.start_ms.is_not(None), sql.or_(
        _f.start_corrected == 1, _f.start_quality != "U")), 1), else_=0),
    sql.case((sql.and_(_f.split_ok == 1, _f.by_tariff != "{}"), _f.by_tariff)))


class Columns:
    """Over a Store; `use()` gives a consistent view."""

    def __init__(self, store):
        self._store = store
        self._lock = threading.Lock()
        self._room = 0
        self._seen_ms = None
        self._devices = {}
        self._names = {}  # of tariffs
        self._splits = {}  # id -> [(name's number, mWh)]; only of sessions that have one
        self.columns = {}
        self._grow(1024)

    def _grow(self, room):
        kinds = {**dict.fromkeys(_NUMBERS, np.int64), "device": np.int32, "outcome": np.int8,
                 "complete": np.bool_, "known": np.bool_}
        for name, kind in kinds.items():
            column = np.zeros(room, kind)
            if self._room:
                column[:self._room] = self.columns[name]
            self.columns[name] = column
        self._room = room

    def use(self):
        """The columns as they are now, as a Selection of every session whose time is known."""
        with self._lock:
            self._refresh()
            columns = dict(self.columns)
            known = np.flatnonzero(columns["known"])
            timeless = np.flatnonzero(columns["complete"] & ~columns["known"])
            return Selection(columns, known, dict(self._devices), tuple(self._names),
                             self._splits, timeless)

    def _refresh(self):
        query = sql.select(*_SOURCE)
        if self._seen_ms is not None:
            query = query.where(session_facts.c.changed_at >= self._seen_ms - _MARGIN_MS)
        with self._store.engine.connect() as connection:
            found = connection.execution_options(yield_per=_AT_ONCE).execute(query)
            fresh = False
            for rows in found.partitions(_AT_ONCE):
                fresh = self._take(rows, fresh)

    def _take(self, rows, fresh):
        """Take rows; those that are held as they are change nothing. What is in use elsewhere is
        not touched: the first change copies the columns."""
        numbers, devices, *values, outcomes, complete, known, splits = zip(*rows, strict=True)
        ids = np.array(numbers, np.int64)
        changed = np.array(values[_NUMBERS.index("changed_at")], np.int64)
        if ids.max() >= self._room:
            self._grow(max(2 * self._room, int(ids.max()) + 1))
            fresh = True
        self._seen_ms = max(self._seen_ms or 0, int(changed.max()))
        if (self.columns["changed_at"][ids] == changed).all():
            return fresh
        if not fresh:
            self.columns = {name: column.copy() for name, column in self.columns.items()}
            self._splits = dict(self._splits)
        for name, own in (*zip(_NUMBERS, values, strict=True), ("outcome", outcomes),
                          ("complete", complete), ("known", known)):
            self.columns[name][ids] = np.array(own, self.columns[name].dtype)
        held = self._devices
        self.columns["device"][ids] = [held.setdefault(name, len(held)) for name in devices]
        for number, text in zip(numbers, splits, strict=True):
            if text is not None:
                self._splits[number] = [
                    (self._names.setdefault(name, len(self._names)), mwh)
                    for name, mwh in json.loads(text).items()]
            elif self._splits:
                self._splits.pop(number, None)
        return True


class Selection:
    """Some of the sessions: `ids` are their rows' numbers in the table session_fact. Those that
    have ended and whose time is not known stand apart, `timeless`."""

    def __init__(self, columns, ids, devices, names, splits, timeless):
        self._columns = columns
        self.ids = ids
        self._devices = devices
        self.names = names
        self.splits = splits
        self._timeless = timeless

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, name):
        """A column: numbers, UNKNOWN where there is none."""
        return self._columns[name][self.ids]

    def where(self, mask):
        """Those for which the mask holds."""
        return Selection(self._columns, self.ids[mask], self._devices, self.names, self.splits,
                         self._timeless)

    def timeless(self):
        """(number, mWh) of the ended sessions of these devices that are in no period."""
        return len(self._timeless), int(self._columns["energy_mwh"][self._timeless].sum())

    def of(self, devices):
        """Those of some devices."""
        chosen = np.zeros(len(self._devices), np.bool_)
        chosen[[self._devices[name] for name in devices if name in self._devices]] = True
        found = self.where(chosen[self["device"]])
        found._timeless = self._timeless[chosen[self._columns["device"][self._timeless]]]
        return found

    def begun(self, from_ms, to_ms):
        """Those that begin in a period."""
        start_ms = self["start_ms"]
        return self.where((from_ms <= start_ms) & (start_ms < to_ms))

    def inside(self, from_ms, to_ms):
        """Those that touch a period."""
        return self.where((self["start_ms"] < to_ms) & (self["until_ms"] > from_ms))
