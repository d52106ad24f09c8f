"""DS3231, a battery-backed clock on I2C: Unix time in whole seconds, 2000 to 2199, always UTC.

Registers as in the data sheet (19-5170): BCD seconds to year at 0x00, control at 0x0E, status at
0x0F, temperature at 0x11. The chip stops, or loses its time, without supply and battery, and says
so by the oscillator-stop flag.
"""

from micropython import const

_ADDRESS = const(0x68)
_TIME = const(0x00)
_CONTROL = const(0x0E)
_STATUS = const(0x0F)
_TEMPERATURE = const(0x11)
_CENTURY = const(0x80)  # of the month; set from 2100 on
_HOURS_12 = const(0x40)
_PM = const(0x20)
_STOP = const(0x80)  # EOSC in control: no oscillator on battery; OSF in status: it has stopped
_TO_2000 = const(10957)  # days from 1970 to 2000
_DAY_S = const(86400)
_LAST_YEAR = const(199)
_DAYS = b"\x1f\x1c\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f"


def _from_bcd(value):
    if value & 15 > 9 or value > 0x99:
        raise ValueError("battery clock holds no time (0x%02x)" % value)
    return (value >> 4) * 10 + (value & 15)


def _to_bcd(value):
    return value // 10 << 4 | value % 10


def _month_days(year, month):
    """`year` counts from 2000; of the centuries up to 2199 only 2000 is a leap year."""
    leap = month == 2 and year % 4 == 0 and year != 100
    return _DAYS[month - 1] + (1 if leap else 0)


def _hour(value):
    if not value & _HOURS_12:
        return _from_bcd(value & 0x3F)
    hour = _from_bcd(value & 0x1F)
    if not 1 <= hour <= 12:
        raise ValueError("battery clock holds no time (hour %d of 12)" % hour)
    return hour % 12 + (12 if value & _PM else 0)


class Ds3231:
    """`i2c` has readfrom_mem_into and writeto_mem, as machine.I2C. Raises OSError where the chip
    does not answer."""

    def __init__(self, i2c):
        self._i2c = i2c
        self._data = bytearray(7)
        self._one = bytearray(1)

    def _flag(self, register):
        self._i2c.readfrom_mem_into(_ADDRESS, register, self._one)
        return self._one[0]

    def unix_ms(self):
        """Unix time in ms, true within half a second of what the chip keeps.

        Raises ValueError where it has stopped or was never set, OSError.
        """
        if self._flag(_STATUS) & _STOP:
            raise ValueError("battery clock not set: its oscillator has stopped")
        data = self._data
        self._i2c.readfrom_mem_into(_ADDRESS, _TIME, data)  # in one go: latched at its start
        second, minute, hour = _from_bcd(data[0]), _from_bcd(data[1]), _hour(data[2])
        day, month = _from_bcd(data[4]), _from_bcd(data[5] & 0x1F)
        year = _from_bcd(data[6]) + (100 if data[5] & _CENTURY else 0)
        if (second > 59 or minute > 59 or hour > 23 or not 1 <= month <= 12
                or not 1 <= day <= _month_days(year, month)):
            raise ValueError("battery clock holds no time (%d-%d-%d %d:%d:%d)"
                             % (2000 + year, month, day, hour, minute, second))
        days = _TO_2000 + 365 * year + (year + 3) // 4 - (1 if year > 100 else 0) + day - 1
        for earlier in range(1, month):
            days += _month_days(year, earlier)
        return (days * _DAY_S + hour * 3600 + minute * 60 + second) * 1000 + 500

    def set(self, unix_ms):
        """Set the chip to the nearest whole second, and start it where it had stopped.

        Raises ValueError outside of 2000 to 2199 or where the chip does not keep it, OSError.
        """
        unix_s = (unix_ms + 500) // 1000
        days, second = unix_s // _DAY_S - _TO_2000, unix_s % _DAY_S
        weekday = (days + 5) % 7 + 1  # 2000-01-01 was a Saturday; 1 is Monday
        year, month = 0, 1
        while days >= 365 + (_month_days(year, 2) - 28):
            days -= 365 + (_month_days(year, 2) - 28)
            year += 1
        while days >= _month_days(year, month):
            days -= _month_days(year, month)
            month += 1
        if days < 0 or year > _LAST_YEAR:
            raise ValueError("the battery clock takes 2000 to 2199, not Unix time %d" % unix_s)
        data = self._data
        data[0] = _to_bcd(second % 60)
        data[1] = _to_bcd(second // 60 % 60)
        data[2] = _to_bcd(second // 3600)  # 24 hours
        data[3] = weekday
        data[4] = _to_bcd(days + 1)
        data[5] = _to_bcd(month) | (_CENTURY if year > 99 else 0)
        data[6] = _to_bcd(year % 100)
        i2c = self._i2c
        # The flag goes last: a cut before leaves a clock that says that it is not set.
        self._put(_CONTROL, self._flag(_CONTROL) & ~_STOP)
        i2c.writeto_mem(_ADDRESS, _TIME, data)
        self._put(_STATUS, self._flag(_STATUS) & ~_STOP)
        if not 0 <= self.unix_ms() - unix_s * 1000 <= 2500:
            raise ValueError("the battery clock does not keep what it is set to")

    def _put(self, register, value):
        self._one[0] = value
        self._i2c.writeto_mem(_ADDRESS, register, self._one)

    def temperature_mc(self):
        """The chip's temperature in thousandths of a degree Celsius, in steps of 250. Raises
        OSError."""
        self._i2c.readfrom_mem_into(_ADDRESS, _TEMPERATURE, self._data)
        quarters = (self._data[0] << 2 | self._data[1] >> 6) & 0x3FF
        return (quarters - 1024 if quarters & 0x200 else quarters) * 250
