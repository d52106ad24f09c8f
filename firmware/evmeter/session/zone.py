"""Local time from a POSIX TZ text such as "CET-1CEST,M3.5.0,M10.5.0/3", by integers alone.

The text is that of POSIX.1 and RFC 8536, section 3.3.1: names of three or more letters or in
angle brackets, offsets west of Greenwich counted positive, rules Mm.w.d, Jn or n with a time of
-167 to 167 hours. `time.localtime` is not used: its epoch differs between ports.
"""

from micropython import const

_DAY_S = const(86400)


def day_number(year, month, day):
    """Days from 1970-01-01 to the date."""
    if month < 3:  # years begin in March, so that the leap day is the last
        year -= 1
        month += 12
    return (365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day
            - 719469)


def date(days):
    """(year, month, day) of the day number `days`."""
    year = 1970 + days // 366
    while days >= day_number(year + 1, 1, 1):
        year += 1
    month = 12
    while days < day_number(year, month, 1):
        month -= 1
    return year, month, days - day_number(year, month, 1) + 1


def _rule_s(rule, year):
    """Local seconds since 1970 at which a rule of `year` takes effect."""
    kind, month, week, day, at_s = rule
    if kind == "M":
        days = day_number(year, month, 1)
        days += (day - days - 4) % 7 + (week - 1) * 7  # 1970-01-01 was a Thursday
        if days >= (day_number(year, month + 1, 1) if month < 12 else day_number(year + 1, 1, 1)):
            days -= 7
    else:
        days = day_number(year, 1, 1) + day
        if kind == "J" and days >= day_number(year, 2, 29):  # Jn does not count 29 February
            days = day_number(year, 3, 1) + day - 59
    return days * _DAY_S + at_s


class Zone:
    """A time zone. Raises ValueError, which names the part that is wrong and what is allowed."""

    def __init__(self, text):
        self._text = self._rest = text
        self._year = None
        self._rules = ()
        self._name()
        self._std_s = self._dst_s = -self._time_s(24)
        if self._rest:
            self._name()
            self._dst_s += 3600
            if self._rest[:1] not in ("", ","):
                self._dst_s = -self._time_s(24)
            self._rules = (self._rule(), self._rule())
        if self._rest:
            self._refuse("no more text")

    # -- reading the text: `_rest` is what is left of it --

    def _refuse(self, allowed):
        raise ValueError("%r at %r; allowed: %s, as in CET-1CEST,M3.5.0,M10.5.0/3"
                         % (self._text, self._rest, allowed))

    def _take(self, char):
        if not self._rest.startswith(char):
            return False
        self._rest = self._rest[len(char):]
        return True

    def _expect(self, char):
        if not self._take(char):
            self._refuse("'%s'" % char)

    def _span(self, more):
        """How many characters at the front are letters or in `more`."""
        count = 0
        for char in self._rest:
            if not ("a" <= char.lower() <= "z" or char in more):
                break
            count += 1
        return count

    def _name(self):
        quoted = self._take("<")
        count = self._span("0123456789+-" if quoted else "")
        if count < 3:
            self._refuse("a name of 3 or more letters")
        self._rest = self._rest[count:]
        if quoted:
            self._expect(">")

    def _number(self, low, high):
        digits = ""
        for char in self._rest:
            if not "0" <= char <= "9":
                break
            digits += char
        if not 0 < len(digits) < 4 or not low <= int(digits) <= high:
            self._refuse("a number from %d to %d" % (low, high))
        self._rest = self._rest[len(digits):]
        return int(digits)

    def _time_s(self, most_hours):
        sign = -1 if self._take("-") else 1
        if sign > 0:
            self._take("+")
        seconds = self._number(0, most_hours) * 3600
        if self._take(":"):
            seconds += self._number(0, 59) * 60
            if self._take(":"):
                seconds += self._number(0, 59)
        return sign * seconds

    def _rule(self):
        self._expect(",")
        month = week = 0
        kind = self._rest[:1]
        if self._take("M"):
            month = self._number(1, 12)
            self._expect(".")
            week = self._number(1, 5)
            self._expect(".")
            day = self._number(0, 6)
        elif self._take("J"):
            day = self._number(1, 365) - 1
        else:
            day = self._number(0, 365)
        return kind, month, week, day, self._time_s(167) if self._take("/") else 7200

    # -- using it --

    def at(self, unix_s):
        """(seconds to add to UTC at `unix_s` for local time, Unix time of the next change or None
        where there is none)."""
        if not self._rules:
            return self._std_s, None
        year = date(unix_s // _DAY_S)[0]
        if year != self._year:
            self._changes = changes = []
            for near in (year - 1, year, year + 1):
                # A start sorts behind an end at the same instant: then it is always summer time.
                changes.append((_rule_s(self._rules[0], near) - self._std_s, 1))
                changes.append((_rule_s(self._rules[1], near) - self._dst_s, 0))
            changes.sort()
            self._year = year
        summer = 1 - self._changes[0][1]
        next_s = None
        for change_s, after in self._changes:
            if change_s > unix_s:
                next_s = change_s
                break
            summer = after
        return self._dst_s if summer else self._std_s, next_s
