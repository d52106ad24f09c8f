"""Local time: a zone by its IANA name or as the POSIX text that a device's tariff has."""

import zoneinfo
from datetime import UTC, date, datetime

from evmeter_tools import firmware
from evmeter_tools.errors import UserError

_QUARTER_S = 900  # no zone in use changes elsewhere than at a quarter of an hour
_DAY_S = 86400
_EPOCH = date(1970, 1, 1).toordinal()
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class LocalTime:
    """The zone `name`: "Europe/Berlin", "UTC" or "CET-1CEST,M3.5.0,M10.5.0/3".

    Raises UserError for another text.
    """

    def __init__(self, name):
        self.name = name
        self._known = {}
        try:
            zone = zoneinfo.ZoneInfo(name)
            self._look_up = lambda unix_s: int(
                datetime.fromtimestamp(unix_s, UTC).astimezone(zone).utcoffset().total_seconds())
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            firmware.reach()
            from evmeter.session.zone import Zone
            try:
                posix = Zone(name)
            except ValueError:
                raise UserError("the time zone %.40r is not known; allowed: an IANA name as "
                                "Europe/Berlin, or a POSIX text as CET-1CEST,M3.5.0,M10.5.0/3"
                                % name) from None
            self._look_up = lambda unix_s: posix.at(unix_s)[0]

    def offset_s(self, unix_s):
        """Seconds to add to UTC."""
        quarter = unix_s // _QUARTER_S
        found = self._known.get(quarter)
        if found is None:
            found = self._known[quarter] = self._look_up(quarter * _QUARTER_S)
        return found

    def day_and_second(self, unix_s):
        """(days since 1970-01-01, second of the day) on the wall."""
        return divmod(unix_s + self.offset_s(unix_s), _DAY_S)

    def weekday_hour(self, unix_s):
        """(0 for Monday .. 6, 0..23)."""
        day, second = self.day_and_second(unix_s)
        return (day + 3) % 7, second // 3600

    def date(self, unix_s):
        """The local date."""
        return date.fromordinal(_EPOCH + self.day_and_second(unix_s)[0])

    def month(self, unix_s):
        """The local month as "2026-03"."""
        return self.date(unix_s).strftime("%Y-%m")

    def midnight_s(self, day):
        """Unix time of the first instant of a date."""
        wanted = day.toordinal() - _EPOCH
        low, high = (wanted - 1) * _DAY_S, (wanted + 1) * _DAY_S
        while low < high:
            middle = (low + high) // 2
            if self.day_and_second(middle)[0] < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def text(self, unix_s):
        """"2026-03-29 03:00 +0200"."""
        offset_s = self.offset_s(unix_s)
        at = datetime.fromtimestamp(unix_s + offset_s, UTC)
        return "%s %s%02d%02d" % (at.strftime("%Y-%m-%d %H:%M"), "-" if offset_s < 0 else "+",
                                  *divmod(abs(offset_s) // 60, 60))
