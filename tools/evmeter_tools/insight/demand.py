"""Load profile: 15-minute demand, the month's peak and load factor, energy at off-peak times.

Quarters of an hour are those of UTC; months and times of the day are local.
"""

from evmeter_tools.insight.local import WEEKDAYS
from evmeter_tools.insight.table import Column, Table, share

QUARTER_S = 900
CLOCK = "clock"
PARTIAL = "partial"


def pieces(interval):
    """[(quarter's start, Unix s; mWh)]: a longer interval is spread evenly over its quarters, the
    remainder over the first ones, so that the sum stays."""
    count = max(1, interval.length_s // QUARTER_S)
    whole, rest = divmod(interval.energy_mwh, count)
    return [(interval.start_s + at * QUARTER_S, whole + (at < rest)) for at in range(count)]


def quarters(intervals):
    """{quarter's start, Unix s: [mWh, whether each interval in it was read whole]} over all
    devices. Intervals whose time is not known count nowhere."""
    found = {}
    for interval in intervals:
        if interval.quality == CLOCK:
            continue
        good = interval.quality == "ok" and interval.length_s == QUARTER_S
        for start_s, mwh in pieces(interval):
            entry = found.setdefault(start_s, [0, True])
            entry[0] += mwh
            entry[1] = entry[1] and good
    return found


def power_mw(energy_mwh, length_s=QUARTER_S):
    """Mean power of an energy over a time, rounded half up."""
    return (2 * energy_mwh * 3600 + length_s) // (2 * length_s)


def demand(intervals, zone):
    """By local month: energy, the highest 15-minute mean power and when, the mean over the
    quarters that are covered, and the load factor, which is mean / peak."""
    by_month = {}
    for start_s, (mwh, good) in sorted(quarters(intervals).items()):
        by_month.setdefault(zone.month(start_s), []).append((start_s, mwh, good))
    rows = []
    for month, found in sorted(by_month.items()):
        energy_mwh = sum(mwh for _, mwh, _ in found)
        peak_s, peak_mwh, good = max(found, key=lambda entry: (entry[1], -entry[0]))
        rows.append(month_row(month, zone, energy_mwh, peak_s, peak_mwh, good, len(found)))
    unknown = [interval for interval in intervals if interval.quality == CLOCK]
    return demand_table(zone, rows, len(unknown),
                        sum(interval.energy_mwh for interval in unknown))


def month_row(month, zone, energy_mwh, peak_s, peak_mwh, good, count):
    """A month's row: `count` quarters are covered, the highest one began at `peak_s`."""
    return (month, energy_mwh, power_mw(peak_mwh), zone.text(peak_s), "ok" if good else PARTIAL,
            power_mw(energy_mwh, QUARTER_S * count), share(energy_mwh, peak_mwh * count), count)


def demand_table(zone, rows, unknown, unknown_mwh):
    """The table of these months; `unknown` intervals have no known time."""
    notes = ()
    if unknown:
        notes = ("%d intervals with %d mWh have no known time and are left out"
                 % (unknown, unknown_mwh),)
    return Table("demand", "15-minute demand by month (%s)" % zone.name, (
        Column("month", "month"), Column("energy_mwh", "energy mWh"),
        Column("peak_mw", "peak mW", "highest mean power of a quarter of an hour"),
        Column("peak_at", "at"),
        Column("peak_quality", "quality", "partial: estimated, or begun late"),
        Column("mean_mw", "mean mW"),
        Column("load_factor_permille", "load f.", "mean / peak, permille"),
        Column("quarters", "quarters", "covered")), rows, notes)


def profile(intervals, zone, from_s, to_s):
    """Mean power of each quarter of an hour that is covered, over all devices."""
    return profile_table(zone, ((start_s, mwh, good, QUARTER_S) for start_s, (mwh, good)
                                in sorted(quarters(intervals).items())
                                if from_s <= start_s < to_s))


def profile_table(zone, found):
    """The table of (start, Unix s; mWh; whether read whole; s that are covered)."""
    return Table("profile", "Load profile", (
        Column("start_s", "Unix s"), Column("local", "local time"),
        Column("power_mw", "mean mW"), Column("quality", "quality")),
        [(start_s, zone.text(start_s), power_mw(mwh, length_s), "ok" if good else PARTIAL)
         for start_s, mwh, good, length_s in found])


def off_peak(intervals, zone, from_minute, to_minute, days=WEEKDAYS):
    """(off-peak mWh, all mWh, permille): energy of quarters that begin at or after `from_minute`
    and before `to_minute` of the local day, on its own date's weekday; over midnight where `from`
    is the later. Where no tariff splits the energy."""
    part = whole = 0
    for start_s, (mwh, _) in quarters(intervals).items():
        day, second = zone.day_and_second(start_s)
        minute = second // 60
        within = (from_minute <= minute < to_minute if from_minute < to_minute
                  else minute >= from_minute or minute < to_minute)
        whole += mwh
        part += mwh if within and WEEKDAYS[(day + 3) % 7] in days else 0
    return part, whole, share(part, whole)


def peak_mw(intervals, from_s, to_s):
    """Highest power that any interval overlapping a period shows, mW; None without one."""
    return max((interval.peak_mw for interval in intervals
                if interval.start_s < to_s and interval.stop_s > from_s), default=None)
