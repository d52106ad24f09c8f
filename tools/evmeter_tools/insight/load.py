"""A load profile kept by days: for each device, and for all together under the name "".

A row holds the 96 quarters of an hour of a day in UTC: energy in mWh, how many intervals touch a
quarter, and how many of them were not read whole. Intervals whose time is not known stand apart,
one row a day with their energy and number.
"""

import struct
import zlib
from array import array

import numpy as np
import sqlalchemy as sql

from evmeter_tools.backend.tables import load_days
from evmeter_tools.insight.demand import CLOCK, QUARTER_S, pieces

ALL = ""
QUARTERS = 96
_DAY_S = 86400
_SIZES = struct.Struct("<%dq%di%di" % (QUARTERS, QUARTERS, QUARTERS))


class Day:
    """The quarters of one day, as three lists."""

    def __init__(self, blob=None):
        values = _SIZES.unpack(zlib.decompress(blob)) if blob else (0,) * 3 * QUARTERS
        self.mwh = array("q", values[:QUARTERS])
        self.touching = array("l", values[QUARTERS:2 * QUARTERS])
        self.partial = array("l", values[2 * QUARTERS:])

    def add(self, quarter, mwh, is_whole):
        """Take what an interval has of a quarter."""
        self.mwh[quarter] += mwh
        self.touching[quarter] += 1
        self.partial[quarter] += not is_whole

    def add_day(self, other):
        """Take another device's day."""
        for mine, theirs in ((self.mwh, other.mwh), (self.touching, other.touching),
                             (self.partial, other.partial)):
            for at, value in enumerate(theirs):
                mine[at] += value

    def blob(self):
        """As it is stored."""
        return zlib.compress(_SIZES.pack(*self.mwh, *self.touching, *self.partial), 1)


def arrays(blob):
    """The three lists of a stored day as arrays of numpy."""
    data = zlib.decompress(blob)
    return (np.frombuffer(data, "<i8", QUARTERS),
            np.frombuffer(data, "<i4", QUARTERS, 8 * QUARTERS),
            np.frombuffer(data, "<i4", QUARTERS, 12 * QUARTERS))


def days_of(intervals):
    """{(day, whether its time is not known): Day} of intervals."""
    found = {}
    for interval in intervals:
        if interval.quality == CLOCK:
            day = found.setdefault((interval.start_s // _DAY_S, True), Day())
            day.add(interval.start_s % _DAY_S // QUARTER_S, interval.energy_mwh, False)
            continue
        is_whole = interval.quality == "ok" and interval.length_s == QUARTER_S
        for start_s, mwh in pieces(interval):
            day = found.setdefault((start_s // _DAY_S, False), Day())
            day.add(start_s % _DAY_S // QUARTER_S, mwh, is_whole)
    return found


def add(store, connection, device, intervals):
    """Add intervals of a device, each of them once, to its own days and to those of all."""
    for (number, timeless), day in days_of(intervals).items():
        for name in (device, ALL):
            key = {"device": name, "day": number, "timeless": timeless}
            blob = connection.execute(sql.select(load_days.c.quarters).filter_by(**key)).scalar()
            whole = Day(blob)
            whole.add_day(day)
            connection.execute(store.insert(load_days).values(
                **key, quarters=whole.blob()).on_conflict_do_update(
                    index_elements=list(load_days.primary_key.columns),
                    set_={"quarters": whole.blob()}))
