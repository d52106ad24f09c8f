"""Time-of-use tariff: which window an instant lies in, when that changes, what energy costs.

An instant lies in a window if its local date is in the window's season and on one of its days,
and its local time of day is at or after `from` and before `to`. Seasons wrap over new year and
times over midnight in the same way: days "fri", "22:00" to "06:00" is Friday's first six hours
and its last two. Local times that summer time skips are left out; the doubled ones count twice.
"""

import binascii

from micropython import const

from evmeter.session.zone import Zone, date

_UNIT = const(100000000)  # mWh in a kWh times hundredths in a minor unit
_DAY_S = const(86400)
_AHEAD_S = const(691200)  # 8 days
# A window is a tuple: name, price, days as bits, from and to in minutes, the season's first and
# last day as month * 100 + day
_DAY_BITS = const(2)
FROM = const(3)
TO = const(4)
SEASON = const(5)


def _within(value, low, high):
    """Whether a value that goes round lies from `low` to before `high`."""
    return low <= value < high if low < high else value >= low or value < high


def of_day(windows, month_day, weekday):
    """Numbers of the windows that hold on a day."""
    return [index for index, window in enumerate(windows)
            if window[_DAY_BITS] >> weekday & 1
            and _within(month_day, window[SEASON], window[SEASON + 1] + 1)]


def at_minute(windows, found, minute):
    """Those of the windows `found` that hold at a minute of the day."""
    return [index for index in found
            if _within(minute, windows[index][FROM], windows[index][TO])]


class Tariff:
    """`config` is the configuration's section `tariff`:

    `currency` (ISO 4217, three letters), `zone` (POSIX TZ text) and `windows`, 1 to 16 of `name`,
    `from` and `to` ("HH:MM", local time), `centiminor_per_kwh` (price in hundredths of the
    currency's minor unit: 3974 is 39.74 cent), and optionally `days` (list of "mon" to "sun") and
    `season` (["MM-DD", "MM-DD"], first and last day). Windows of one name are one tariff and must
    have one price; `flat` says that there is no other.

    Raises ValueError, one line, unless every minute lies in exactly one window.
    """

    def __init__(self, config):
        from evmeter.session.windows import read

        self._windows, self._edges = read(config)
        self.currency = config["currency"]
        try:
            self._zone = Zone(config["zone"])
        except ValueError as error:
            raise ValueError("tariff.zone is %s" % error) from None
        names = [window[0] for window in self._windows]
        self._first = [names.index(name) for name in names]
        self.flat = not any(self._first)  # one tariff: no clock is needed to know it
        # Tells a change of the tariff inside a session that was open before a reboot.
        self.code = binascii.crc32(
            ("%s %s %r" % (self.currency, config["zone"], self._windows)).encode())

    def window_at(self, unix_s):
        """Number of the window at a Unix time: the first one of its name."""
        days, second = divmod(unix_s + self._zone.at(unix_s)[0], _DAY_S)
        _, month, day = date(days)
        today = of_day(self._windows, month * 100 + day, (days + 3) % 7)
        return self._first[at_minute(self._windows, today, second // 60)[0]]

    def next_boundary_s(self, unix_s):
        """Unix time at which the window of `unix_s` ends; at most 8 days ahead, where it may be
        the same window that goes on."""
        window = self.window_at(unix_s)
        at_s = unix_s
        while at_s < unix_s + _AHEAD_S:
            offset_s, change_s = self._zone.at(at_s)
            second = (at_s + offset_s) % _DAY_S
            to_go_s = _DAY_S - second
            for minute in self._edges:
                if minute * 60 > second:
                    to_go_s = minute * 60 - second
                    break
            at_s += to_go_s
            if change_s is not None and change_s < at_s:
                at_s = change_s
            if self.window_at(at_s) != window:
                break
        return at_s

    def name(self, index):
        """Name of a window."""
        return self._windows[index][0]

    def price(self, index):
        """Price of a window, in hundredths of the minor unit per kWh."""
        return self._windows[index][1]

    def _sum(self, energies_mwh):
        total = 0
        for index, energy_mwh in enumerate(energies_mwh):
            total += energy_mwh * self._windows[index][1]
        return total

    def cost(self, energies_mwh):
        """Cost in minor units of the energy in each window (a list as long as the windows):
        summed exactly, then rounded once, half up."""
        return (self._sum(energies_mwh) + _UNIT // 2) // _UNIT

    def energy_mwh(self, amount_minor, energies_mwh, index):
        """Energy, rounded up, that `amount_minor` less the cost of `energies_mwh` buys at the
        price of a window; at least 0. None where that price is 0."""
        price = self._windows[index][1]
        left = max(0, amount_minor * _UNIT - self._sum(energies_mwh))
        return (left + price - 1) // price if price else None

    def __len__(self):
        return len(self._windows)
