"""Sums of telemetry that tell how a station is supplied and what it delivers.

By day (UTC), phase and whole amperes: how often, voltage and current; and while a car charges,
its power beside what was offered. The messages themselves are not kept.
"""

import sqlalchemy as sql

from evmeter_tools.backend.tables import offers, supplies

IDLE_BAND = -1
IDLE_MA = 500
_DAY_MS = 86_400_000
_MOST_PHASES = 3
_MOST_MA = 1_000_000
_MOST_MV = 1_000_000


class Supply:
    """Takes telemetry and adds it to the tables, a batch at a time."""

    def __init__(self, store):
        self._store = store
        self._offered_ma = {}  # device -> as its newest status has it
        self._supplies = {}
        self._offers = {}

    def offered(self, device, offered_ma):
        """What the newest status offers, None where it tells of none."""
        self._offered_ma[device] = offered_ma

    def take(self, device, message, at_ms, charges):
        """One message of `tel`; one with values that cannot be adds nothing."""
        voltages_mv, currents_ma = (
            _numbers(message.get(name), most) for name, most in (("u_mv", _MOST_MV),
                                                                 ("i_ma", _MOST_MA)))
        day = at_ms // _DAY_MS
        for phase, (voltage_mv, current_ma) in enumerate(
                zip(voltages_mv, currents_ma, strict=False), 1):
            size_ma = abs(current_ma)
            band_a = IDLE_BAND if size_ma < IDLE_MA else size_ma // 1000
            _add(self._supplies, (device, day, phase, band_a), voltage_mv, size_ma)
        offered_ma, power_mw = self._offered_ma.get(device), message.get("p_mw")
        if charges and offered_ma and voltages_mv and type(power_mw) is int and (
                abs(power_mw) <= _MOST_MV * _MOST_MA // 1000 * _MOST_PHASES):
            _add(self._offers, (device, day), power_mw, offered_ma * sum(voltages_mv) // 1000)

    def write(self, connection):
        """Add what was taken since the last time."""
        for table, held in ((supplies, self._supplies), (offers, self._offers)):
            if not held:
                continue
            keys = [column.name for column in table.primary_key.columns]
            sums = [column.name for column in table.columns if column.name not in keys]
            statement = self._store.insert(table)
            connection.execute(statement.on_conflict_do_update(
                index_elements=keys,
                set_={name: table.c[name] + statement.excluded[name] for name in sums}),
                [dict(zip((*keys, *sums), (*key, *values), strict=True))
                 for key, values in sorted(held.items())])

    def forget(self):
        """What was taken is written."""
        self._supplies.clear()
        self._offers.clear()


def _add(sums, key, first, second):
    held = sums.setdefault(key, [0, 0, 0])
    held[0] += 1
    held[1] += first
    held[2] += second


def _numbers(values, most):
    """A list of whole numbers, one for each phase; empty where it is none."""
    if not isinstance(values, list) or not 0 < len(values) <= _MOST_PHASES:
        return []
    return values if all(type(value) is int and abs(value) <= most for value in values) else []


def read(connection, devices, from_ms, to_ms):
    """({device: [(phase, band in A, count, mV, mA)]}, {device: (count, mW, offered mW)}): sums
    over the days (UTC) that a period touches."""
    by_band, by_device = {}, {}
    days = from_ms // _DAY_MS, (to_ms - 1) // _DAY_MS

    def sums(table, *by):
        names = [column for column in table.columns if not column.primary_key]
        return connection.execute(sql.select(*by, *map(sql.func.sum, names)).where(
            table.c.device.in_(devices), table.c.day.between(*days)).group_by(*by).order_by(*by))

    for device, *found in sums(supplies, supplies.c.device, supplies.c.phase, supplies.c.band_a):
        by_band.setdefault(device, []).append(tuple(map(int, found)))
    for device, *found in sums(offers, offers.c.device):
        by_device[device] = tuple(map(int, found))
    return by_band, by_device
