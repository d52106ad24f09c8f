"""Time-of-use tariff: which window an instant lies in, when that changes, what energy costs.

An instant lies in a window if its local date is in the window's season and on one of its days,
and its local time of day is at or after `from` and before `to`. Seasons wrap over new year and
times over midnight in the same way: days "fri", "22:00" to "06:00" is Friday's first six hours
and its last two. Local times that summer time skips are left out; the doubled ones count twice.
"""

import binascii

from micropython import const

from evmeter.session.zone import Zone, date

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_WINDOWS = const(16)
_MOST_PRICE = const(100000000)
_UNIT = const(100000000)  # mWh in a kWh times hundredths in a minor unit
_DAY_S = const(86400)
_AHEAD_S = const(691200)  # 8 days
# A window as a tuple: name, price, days as bits, from and to in minutes, season's ends as
# month * 100 + day
_DAY_BITS = const(2)
_FROM = const(3)
_TO = const(4)
_SEASON = const(5)


def _refuse(name, value, allowed):
    raise ValueError("%s is %r; allowed: %s" % (name, value, allowed))


def _check_keys(name, given, required, optional=()):
    if not isinstance(given, dict):
        _refuse(name, given, "an object")
    for key in given:
        if key not in required and key not in optional:
            raise ValueError("unknown field %s.%s" % (name, repr(key)[1:-1]))
    for key in required:
        if key not in given:
            raise ValueError("%s.%s is missing" % (name, key))


def _only(text, least, most, low, high):
    """Whether it is a text of `least` to `most` characters, each from `low` to `high`."""
    return (isinstance(text, str) and least <= len(text) <= most
            and not [c for c in text if not low <= c <= high])


def _pair(name, text, separator, allowed):
    """Two numbers of two digits each."""
    if (not _only(text, 5, 5, "-", ":") or text[2] != separator
            or not _only(text[:2] + text[3:], 4, 4, "0", "9")):
        _refuse(name, text, allowed)
    return int(text[:2]), int(text[3:])


def _minute(name, text, last):
    allowed = "HH:MM from 00:00 to %02d:%02d" % divmod(last, 60)
    hour, minute = _pair(name, text, ":", allowed)
    if minute > 59 or hour * 60 + minute > last:
        _refuse(name, text, allowed)
    return hour * 60 + minute


def _month_length(month):
    return 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31


def _month_day(name, text):
    allowed = "MM-DD, a day of the calendar"
    month, day = _pair(name, text, "-", allowed)
    if not 1 <= month <= 12 or not 1 <= day <= _month_length(month):
        _refuse(name, text, allowed)
    return month * 100 + day


def _window(name, given):
    _check_keys(name, given, ("name", "from", "to", "centiminor_per_kwh"), ("days", "season"))
    title = given["name"]
    if not _only(title, 1, 16, " ", "~"):
        _refuse(name + ".name", title, "1 to 16 printable ASCII characters")
    price = given["centiminor_per_kwh"]
    if type(price) is not int or not 0 <= price <= _MOST_PRICE:
        _refuse(name + ".centiminor_per_kwh", price, "a whole number from 0 to %d" % _MOST_PRICE)
    bits = 0
    days = given.get("days", _DAYS)
    for day in days if isinstance(days, (list, tuple)) else ():
        if day not in _DAYS:
            bits = 0
            break
        bits |= 1 << _DAYS.index(day)
    if not bits:
        _refuse(name + ".days", days, "a list of " + " ".join(_DAYS))
    begin = _minute(name + ".from", given["from"], 1439)
    end = _minute(name + ".to", given["to"], 1440)
    if begin == end:
        _refuse(name + ".to", given["to"], "a time other than from; 24:00 for the end of the day")
    season = given.get("season", ("01-01", "12-31"))
    if not isinstance(season, (list, tuple)) or len(season) != 2:
        _refuse(name + ".season", season, "a list of the first and the last day, MM-DD")
    return (title, price, bits, begin, end, _month_day(name + ".season", season[0]),
            _month_day(name + ".season", season[1]))


def _within(value, low, high):
    """Whether a value that goes round lies from `low` to before `high`."""
    return low <= value < high if low < high else value >= low or value < high


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
        _check_keys("tariff", config, ("currency", "zone", "windows"))
        self.currency = currency = config["currency"]
        if not _only(currency, 3, 3, "A", "Z"):
            _refuse("tariff.currency", currency, "three capital letters of ISO 4217")
        zone = config["zone"]
        if not isinstance(zone, str):
            _refuse("tariff.zone", zone, "a text such as CET-1CEST,M3.5.0,M10.5.0/3")
        try:
            self._zone = Zone(zone)
        except ValueError as error:
            raise ValueError("tariff.zone is %s" % error) from None
        windows = config["windows"]
        if not isinstance(windows, list) or not 0 < len(windows) <= _MOST_WINDOWS:
            raise ValueError("tariff.windows; allowed: a list of 1 to %d windows" % _MOST_WINDOWS)
        self._windows = []
        self._first = []  # of the windows with the same name
        for index in range(len(windows)):
            self._add(_window("tariff.windows[%d]" % index, windows[index]))
        self._edges = edges = [0]  # minutes of the day at which a window may begin or end
        for window in self._windows:
            for minute in (window[_FROM], window[_TO] % 1440):
                if minute not in edges:
                    edges.append(minute)
        edges.sort()
        self._check_cover()
        self.flat = not any(self._first)  # one tariff: no clock is needed to know it
        # Tells a change of the tariff inside a session that was open before a reboot.
        self.code = binascii.crc32(("%s %s %r" % (currency, zone, self._windows)).encode())

    def _add(self, window):
        first = len(self._windows)
        for index in range(first):
            if self._windows[index][0] == window[0]:
                first = index
                price = self._windows[index][1]
                if price != window[1]:
                    _refuse("tariff.windows[%d].centiminor_per_kwh" % len(self._windows),
                            window[1], "%d, the price of windows[%d] of the same name"
                            % (price, index))
                break
        self._windows.append(window)
        self._first.append(first)

    def _of_day(self, month_day, weekday):
        """Numbers of the windows that hold on a day."""
        found = []
        for index in range(len(self._windows)):
            window = self._windows[index]
            if (window[_DAY_BITS] >> weekday & 1
                    and _within(month_day, window[_SEASON], window[_SEASON + 1] + 1)):
                found.append(index)
        return found

    def _check_cover(self):
        """Between the edges of seasons, days and times nothing changes: one instant of each part
        is enough."""
        firsts = [101]
        for window in self._windows:
            last = window[_SEASON + 1]
            after = last + 1
            if last % 100 == _month_length(last // 100):
                after = last // 100 % 12 * 100 + 101
            for month_day in (window[_SEASON], after):
                if month_day not in firsts:
                    firsts.append(month_day)
        seen = []
        for month_day in firsts:
            for weekday in range(7):
                found = self._of_day(month_day, weekday)
                if found not in seen:
                    seen.append(found)
                    self._check_day(found, "%s from %02d-%02d on" % (
                        (_DAYS[weekday],) + divmod(month_day, 100)))

    def _check_day(self, found, day):
        for position in range(len(self._edges)):
            minute = self._edges[position]
            inside = ["%d %s" % (index, self._windows[index][0]) for index in found
                      if _within(minute, self._windows[index][_FROM], self._windows[index][_TO])]
            if len(inside) != 1:
                end = (self._edges + [1440])[position + 1]
                near = ", ".join(["%d %s" % (index, self._windows[index][0]) for index in found])
                raise ValueError("tariff.windows: %s, %02d:%02d to %02d:%02d lies in %s; allowed: "
                                 "every time in exactly one window" % (
                                     (day,) + divmod(minute, 60) + divmod(end, 60)
                                     + (" and ".join(inside) or "no window (there: %s)" % near,)))

    def window_at(self, unix_s):
        """Number of the window at a Unix time: the first one of its name."""
        days, second = divmod(unix_s + self._zone.at(unix_s)[0], _DAY_S)
        _, month, day = date(days)
        for index in self._of_day(month * 100 + day, (days + 3) % 7):
            if _within(second // 60, self._windows[index][_FROM], self._windows[index][_TO]):
                return self._first[index]
        return None  # never: the windows were checked to cover every time

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
        for index in range(len(energies_mwh)):
            total += energies_mwh[index] * self._windows[index][1]
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
