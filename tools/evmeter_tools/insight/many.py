"""The reports of use.py and demand.py over any number of sessions: the same tables, figure for
figure, from columns (columns.py) and stored days of the load profile (load.py).
"""

import time
from itertools import groupby, pairwise

import numpy as np
import sqlalchemy as sql

from evmeter_tools.backend.tables import downs, load_days, refusals, session_facts
from evmeter_tools.insight import demand, use
from evmeter_tools.insight.columns import OUTCOME_NAMES, UNKNOWN
from evmeter_tools.insight.load import ALL, QUARTERS, arrays
from evmeter_tools.insight.local import WEEKDAYS
from evmeter_tools.insight.session import from_row
from evmeter_tools.insight.table import share

_HOUR_MS = 3_600_000
_QUARTER_MS = 900_000
_DAY_S = 86400
_MANY = 400  # values in one query


def _parts(values):
    values = list(values)
    return (values[at:at + _MANY] for at in range(0, len(values), _MANY))


def _total(values):
    return int(values.sum()) if len(values) else 0


# -- local time --

def offsets_s(zone, quarters):
    """Seconds to add to UTC for quarters of an hour (numbers since 1970, an array): a zone is
    asked once a day where the day has one offset."""
    days = quarters // QUARTERS
    first, last = int(days.min()), int(days.max())
    table = np.empty((last - first + 1) * QUARTERS, np.int64)
    edges = [zone.offset_s(day * _DAY_S) for day in range(first, last + 2)]
    for at, (before, after) in enumerate(pairwise(edges)):
        own = slice(at * QUARTERS, (at + 1) * QUARTERS)
        table[own] = before if before == after else [
            zone.offset_s(((first + at) * QUARTERS + number) * demand.QUARTER_S)
            for number in range(QUARTERS)]
    return table[quarters - first * QUARTERS]


def _hours(zone, unix_ms):
    """The cell of a week, weekday * 24 + hour, of each instant."""
    if not len(unix_ms):
        return np.zeros(0, np.int64)
    local_s = unix_ms // 1000 + offsets_s(zone, unix_ms // _QUARTER_MS)
    return (local_s // _DAY_S + 3) % 7 * 24 + local_s % _DAY_S // 3600


# -- sessions --

def _sessions_of(store, ids):
    """ChargingSessions by their numbers."""
    found = []
    with store.engine.connect() as connection:
        for part in _parts(map(int, ids)):
            found += map(from_row, connection.execute(sql.select(session_facts).where(
                session_facts.c.id.in_(part))).mappings())
    return found


def utilisation(store, chosen, from_ms, to_ms, rated_mw, down_ms=None):
    """use.utilisation; only sessions across the period's edges are looked at one by one."""
    found = chosen.of(rated_mw).inside(from_ms, to_ms)
    start_ms, until_ms = found["start_ms"], found["until_ms"]
    is_whole = (start_ms >= from_ms) & (until_ms <= to_ms)
    inner = found.where(is_whole)
    energy_mwh = inner.of([device for device, mw in rated_mw.items() if mw])["energy_mwh"]
    part = use.time_and_energy(_sessions_of(store, found.ids[~is_whole]), from_ms, to_ms,
                               rated_mw)
    charging_ms = _total(inner["charging_ms"]) + part[0]
    occupied_ms = _total(np.minimum(until_ms, to_ms) - np.maximum(start_ms, from_ms))
    return use.utilisation_table(
        charging_ms, occupied_ms, _total(energy_mwh[energy_mwh != UNKNOWN]) + part[2],
        from_ms, to_ms, rated_mw, down_ms or {})


def starts(chosen, zone, from_ms, to_ms):
    """use.starts."""
    begun = np.bincount(_hours(zone, chosen.begun(from_ms, to_ms)["start_ms"]), minlength=168)
    quarters = np.bincount(_hours(zone, np.arange(from_ms, to_ms, _QUARTER_MS)), minlength=168)
    return use.starts_table(zone, begun.reshape(7, 24).tolist(), quarters.reshape(7, 24).tolist())


def concurrency(chosen, zone, from_ms, to_ms, places):
    """use.concurrency."""
    found = chosen.inside(from_ms, to_ms)
    begin_ms = np.maximum(found["start_ms"], from_ms)
    end_ms = np.minimum(found["until_ms"], to_ms)
    most = np.zeros(168, np.int64)
    if not len(found):
        return use.concurrency_table(zone, most.reshape(7, 24).tolist(), {}, {}, places)
    # one number an edge: at one instant the ends come first
    edges = np.sort(np.concatenate((begin_ms * 2 + 1, end_ms * 2)))
    at_ms, count = edges >> 1, np.cumsum((edges & 1) * 2 - 1)
    # only what an instant comes to counts
    last = np.flatnonzero(np.append(at_ms[1:] != at_ms[:-1], True))
    at_ms, count = at_ms[last], count[last]
    lasts_ms = np.diff(at_ms, append=at_ms[-1])
    # sums of whole ms below 2**53: exact as floats too
    sums_ms = np.bincount(count, lasts_ms)
    first_at = np.zeros(len(sums_ms), np.int64)
    first_at[count[::-1]] = at_ms[::-1]
    at_most_ms = {number: int(sums_ms[number]) for number in range(1, len(sums_ms))
                  if sums_ms[number]}
    first_ms = {number: int(first_at[number]) for number in at_most_ms}
    # the highest number in each quarter: of those that begin in it, and of what goes on into it
    quarter = at_ms // _QUARTER_MS
    first_quarter, number_of = int(quarter[0]), int(quarter[-1] - quarter[0]) + 1
    highest = np.zeros(number_of, np.int64)
    lasting, counts = quarter[:-1] - first_quarter, count[:-1]  # the last instant lasts no more
    if len(lasting):
        first_of = np.flatnonzero(np.append(True, lasting[1:] != lasting[:-1]))
        highest[lasting[first_of]] = np.maximum.reduceat(counts, first_of)
    edges_ms = (first_quarter + np.arange(1, number_of)) * _QUARTER_MS
    into = count[np.searchsorted(at_ms, edges_ms, "right") - 1]
    highest[1:] = np.maximum(highest[1:], np.where(edges_ms < at_ms[-1], into, 0))
    cells = _hours(zone, (first_quarter + np.arange(number_of)) * _QUARTER_MS)
    np.maximum.at(most, cells, highest)
    return use.concurrency_table(zone, most.reshape(7, 24).tolist(), at_most_ms, first_ms, places)


def _figures(name, values):
    """One row of use.distribution."""
    count = len(values)
    if not count:
        return name, 0, 0, None, None, None, None, None
    middle, p90 = (count - 1) // 2, max(0, -(-900 * count // 1000) - 1)
    ordered = np.partition(values, sorted({middle, count // 2, p90}))
    total = int(values.sum())
    return (name, count, total, int(values.min()),
            (int(ordered[middle]) + int(ordered[count // 2]) + 1) // 2, int(ordered[p90]),
            int(values.max()), share(total, count, 1))


def distribution(chosen, from_ms, to_ms):
    """use.distribution."""
    found = chosen.begun(from_ms, to_ms)
    found = found.where(found["complete"])
    energy_mwh, charging_ms = found["energy_mwh"], found["charging_ms"]
    duration_s, charged = found["duration_s"], charging_ms > 0
    return use.distribution_table([
        _figures("energy_mwh", energy_mwh),
        _figures("duration_s", np.where(duration_s == UNKNOWN, found["occupied_ms"] // 1000,
                                        duration_s)),
        _figures("charging_s", charging_ms // 1000),
        _figures("mean_power_mw", (energy_mwh - found["gap_mwh"])[charged] * _HOUR_MS
                 // charging_ms[charged])], *chosen.timeless())


def tariff_split(chosen, from_ms, to_ms):
    """use.tariff_split."""
    found = chosen.begun(from_ms, to_ms)
    found = found.where(found["complete"])
    gap_mwh = found["gap_mwh"]
    rest_mwh = found["energy_mwh"] - gap_mwh
    energy, count = {}, {}

    def take(name, mwh, number):
        if number:
            energy[name] = energy.get(name, 0) + mwh
            count[name] = count.get(name, 0) + number

    if found.splits:
        for at, number in enumerate(found.ids.tolist()):
            for name, mwh in found.splits.get(number, ()):
                take(found.names[name], mwh, 1)
                rest_mwh[at] -= mwh
    for name, values in (("(not split)", rest_mwh), ("(gap)", gap_mwh)):
        take(name, _total(values), int(np.count_nonzero(values)))
    return use.tariff_table(energy, count)


def outcomes(chosen, from_ms, to_ms, refused=0):
    """use.outcomes."""
    counts = np.bincount(chosen.begun(from_ms, to_ms)["outcome"], minlength=len(OUTCOME_NAMES))
    return use.outcomes_table(dict(zip(OUTCOME_NAMES, counts.tolist(), strict=True)), refused)


def refused(store, devices, from_ms, to_ms):
    """How many attempts were refused a session in a period, at some devices or (None) at all."""
    query = sql.select(sql.func.sum(refusals.c["count"])).where(
        refusals.c.at_ms >= from_ms, refusals.c.at_ms < to_ms)
    return sum(int(count or 0) for count, in _rows(store, query, refusals, devices))


def down_s(store, devices, from_s, to_s):
    """{device: time for which it was down in a period}, of some devices or (None) of all; those
    that were not are left out."""
    def within(value):
        return sql.case((value < from_s, from_s), (value > to_s, to_s), else_=value)

    over = sql.func.coalesce(downs.c.to_s, min(to_s, int(time.time())))
    query = sql.select(downs.c.device, sql.func.sum(within(over) - within(downs.c.from_s))).where(
        downs.c.from_s < to_s, over > from_s).group_by(downs.c.device)
    return {device: int(down) for device, down in _rows(store, query, downs, devices)}


def _rows(store, query, table, devices):
    with store.engine.connect() as connection:
        if devices is None:
            return connection.execute(query).all()
        return [row for part in _parts(devices) for row in connection.execute(
            query.where(table.c.device.in_(part)))]


# -- load profile --

class Profile:
    """Quarters of an hour of some devices, or (None) of all, from `from_s` to `to_s`.

    first    number of the first quarter since 1970
    mwh, touching, partial  arrays, one value a quarter
    timeless  (intervals, mWh) whose time is not known
    """

    def __init__(self, store, devices, from_s, to_s):
        self._from, self._to = -(-from_s // demand.QUARTER_S), -(-to_s // demand.QUARTER_S)
        days = from_s // _DAY_S, (to_s - 1) // _DAY_S
        self.first = days[0] * QUARTERS
        room = (days[1] - days[0] + 1) * QUARTERS
        self.mwh, self.touching, self.partial = (np.zeros(room, np.int64) for _ in range(3))
        unknown = [np.zeros(room, np.int64) for _ in range(2)]
        query = sql.select(load_days.c.day, load_days.c.timeless, load_days.c.quarters).where(
            load_days.c.day.between(*days))
        with store.engine.connect() as connection:
            for part in [[ALL]] if devices is None else _parts(devices):
                for number, timeless, blob in connection.execute(query.where(
                        load_days.c.device.in_(part))):
                    own = slice((number - days[0]) * QUARTERS, (number - days[0] + 1) * QUARTERS)
                    mwh, touching, partial = arrays(blob)
                    if timeless:
                        unknown[0][own] += touching
                        unknown[1][own] += mwh
                        continue
                    self.mwh[own] += mwh
                    self.touching[own] += touching
                    self.partial[own] += partial
        own = slice(self._from - self.first, self._to - self.first)
        self.timeless = tuple(int(values[own].sum()) for values in unknown)

    def quarters(self):
        """(numbers since 1970, mWh, whether read whole), of the quarters that are covered."""
        at = np.flatnonzero(self.touching)
        at = at[(at + self.first >= self._from) & (at + self.first < self._to)]
        return at + self.first, self.mwh[at], self.partial[at] == 0


def load_demand(profile, zone):
    """demand.demand."""
    numbers, mwh, good = profile.quarters()
    rows = []
    if len(numbers):
        local_days = (numbers * demand.QUARTER_S + offsets_s(zone, numbers)) // _DAY_S
        edges = np.flatnonzero(np.append(True, local_days[1:] != local_days[:-1]))
        by_month = groupby(edges.tolist(), lambda at: zone.month(
            int(numbers[at]) * demand.QUARTER_S))
        months = [(month, next(iter(own))) for month, own in by_month]
        for (month, begin), (_, end) in zip(months, [*months[1:], ("", len(numbers))],
                                            strict=True):
            own = slice(begin, end)
            peak = begin + int(np.argmax(mwh[own]))
            rows.append(demand.month_row(
                month, zone, _total(mwh[own]), int(numbers[peak]) * demand.QUARTER_S,
                int(mwh[peak]), bool(good[peak]), end - begin))
    return demand.demand_table(zone, rows, *profile.timeless)


_MOST_POINTS = 3000


def load_profile(profile, zone, steps=(1,)):
    """demand.profile; `steps` are the numbers of quarters that a row may be the mean of, the
    first that makes few enough rows is taken."""
    numbers, mwh, good = profile.quarters()
    step = next((step for step in steps if len(numbers) <= step * _MOST_POINTS), steps[-1])
    if step > 1:
        begins = np.flatnonzero(np.append(True, np.diff(numbers // step) != 0))
        count = np.diff(begins, append=len(numbers))
        mwh = np.add.reduceat(mwh, begins)
        good = np.logical_and.reduceat(good, begins)
        numbers = numbers[begins]
        found = zip(numbers.tolist(), mwh.tolist(), good.tolist(), count.tolist(), strict=True)
    else:
        found = ((*each, 1) for each in zip(numbers.tolist(), mwh.tolist(), good.tolist(),
                                            strict=True))
    table = demand.profile_table(zone, (
        (number * demand.QUARTER_S, energy, whole, count * demand.QUARTER_S)
        for number, energy, whole, count in found))
    if step > 1:
        table.notes = ("a point is the mean of up to %d min; the CSV has each quarter of an hour"
                       % (15 * step),)
    return table


def off_peak(profile, zone, from_minute, to_minute, days=WEEKDAYS):
    """demand.off_peak."""
    numbers, mwh, _ = profile.quarters()
    if not len(numbers):
        return 0, 0, None
    local_s = numbers * demand.QUARTER_S + offsets_s(zone, numbers)
    minute = local_s % _DAY_S // 60
    within = ((from_minute <= minute) & (minute < to_minute) if from_minute < to_minute
              else (minute >= from_minute) | (minute < to_minute))
    chosen = np.array([name in days for name in WEEKDAYS])[(local_s // _DAY_S + 3) % 7]
    part, whole = _total(mwh[within & chosen]), _total(mwh)
    return part, whole, share(part, whole)


