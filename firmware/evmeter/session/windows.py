"""Reads a tariff's windows from the configuration and checks them whole.

Needed once, at the start or when a configuration is checked.
"""

from micropython import const

from evmeter.session.tariff import FROM, SEASON, TO, at_minute, of_day

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_WINDOWS = const(16)
_MOST_PRICE = const(100000000)


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


def read(config):
    """The windows of the configuration's section `tariff`, as tuples (tariff.py), and the minutes
    of the day at which one may begin or end. Raises ValueError, one line."""
    _check_keys("tariff", config, ("currency", "zone", "windows"))
    if not _only(config["currency"], 3, 3, "A", "Z"):
        _refuse("tariff.currency", config["currency"], "three capital letters of ISO 4217")
    if not _only(config["zone"], 1, 64, " ", "~"):
        _refuse("tariff.zone", config["zone"], "1 to 64 characters, as CET-1CEST,M3.5.0,M10.5.0/3")
    given = config["windows"]
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_WINDOWS:
        raise ValueError("tariff.windows; allowed: a list of 1 to %d windows" % _MOST_WINDOWS)
    windows = []
    edges = [0]
    for number, fields in enumerate(given):
        window = _window("tariff.windows[%d]" % number, fields)
        for index, other in enumerate(windows):
            if other[0] == window[0] and other[1] != window[1]:
                _refuse("tariff.windows[%d].centiminor_per_kwh" % number, window[1],
                        "%d, the price of windows[%d] of the same name" % (other[1], index))
        windows.append(window)
        for minute in (window[FROM], window[TO] % 1440):
            if minute not in edges:
                edges.append(minute)
    edges.sort()
    _check_cover(windows, edges)
    return windows, edges


def _check_cover(windows, edges):
    """Between the edges of seasons, days and times nothing changes: one instant of each part is
    enough."""
    firsts = [101]
    for window in windows:
        last = window[SEASON + 1]
        after = last + 1
        if last % 100 == _month_length(last // 100):
            after = last // 100 % 12 * 100 + 101
        for month_day in (window[SEASON], after):
            if month_day not in firsts:
                firsts.append(month_day)
    seen = []
    for month_day in firsts:
        for weekday in range(7):
            found = of_day(windows, month_day, weekday)
            if found not in seen:
                seen.append(found)
                _check_day(windows, edges, found, "%s from %02d-%02d on" % (
                    (_DAYS[weekday],) + divmod(month_day, 100)))


def _check_day(windows, edges, found, day):
    for position, minute in enumerate(edges):
        inside = at_minute(windows, found, minute)
        if len(inside) != 1:
            end = (edges + [1440])[position + 1]
            names = ", ".join(["%d %s" % (index, windows[index][0]) for index in inside or found])
            raise ValueError(
                "tariff.windows: %s, %02d:%02d to %02d:%02d lies in %s%s; allowed: every time in "
                "exactly one window" % ((day,) + divmod(minute, 60) + divmod(end, 60)
                                        + ("" if inside else "no window of ", names)))
