from drivers.ds3231 import Ds3231
from support import raises

SECONDS = (  # Unix time, registers 0 to 6 (weekday 1 is Monday)
    (946684800, "00 00 00 06 01 01 00"),  # 2000-01-01
    (951782400, "00 00 00 02 29 02 00"),  # 2000 had a 29 February
    (1700000000, "20 13 22 02 14 11 23"),
    (1798761599, "59 59 23 04 31 12 26"),
    (2085978496, "16 28 06 04 07 02 36"),  # NTP's second era begins
    (2147483648, "08 14 03 02 19 01 38"),  # 2**31
    (4102444799, "59 59 23 04 31 12 99"),
    (4102444800, "00 00 00 05 01 81 00"),  # 2100: the century bit
    (4107542400, "00 00 00 01 01 83 00"),  # 2100-03-01, the day after 28 February
    (7258118399, "59 59 23 02 31 92 99"),  # the last second of 2199
)


class Chip:
    """The registers of a DS3231; time stands still."""

    def __init__(self, time="00 00 00 01 01 01 00", status=0x88, control=0x9C):
        self.registers = bytearray(19)
        self.registers[:7] = bytes(int(text, 16) for text in time.split())
        self.registers[14] = control
        self.registers[15] = status
        self.gone = False
        self.stuck = False
        self.written = []

    def _check(self, address):
        if self.gone or address != 0x68:
            raise OSError(19)

    def readfrom_mem_into(self, address, register, buffer):
        self._check(address)
        buffer[:] = self.registers[register : register + len(buffer)]

    def writeto_mem(self, address, register, data):
        self._check(address)
        self.written.append(register)
        if not self.stuck or register > 6:
            self.registers[register : register + len(data)] = data


def test_reads_and_sets_each_time():
    for unix_s, text in SECONDS:
        chip = Chip(text, status=0x08)
        assert Ds3231(chip).unix_ms() == unix_s * 1000 + 500, text
        chip = Chip()
        clock = Ds3231(chip)
        clock.set(unix_s * 1000 + 499)
        assert chip.registers[:7] == bytes(int(one, 16) for one in text.split()), text
        assert clock.unix_ms() == unix_s * 1000 + 500


def test_every_day_of_two_centuries_reads_back():
    chip = Chip()
    clock = Ds3231(chip)
    for days in range(0, 73049, 37):
        unix_ms = (946684800 + days * 86400 + days) * 1000
        clock.set(unix_ms)
        assert clock.unix_ms() == unix_ms + 500


def test_a_chip_that_was_stopped_says_that_it_is_not_set():
    chip = Chip("20 13 22 02 14 11 23", status=0x88)
    clock = Ds3231(chip)
    assert "stopped" in str(raises(ValueError, clock.unix_ms))
    clock.set(1_700_000_000_000)
    assert clock.unix_ms() == 1_700_000_000_500
    assert chip.registers[15] == 0x08 and chip.registers[14] == 0x1C
    assert chip.written == [14, 0, 15]  # the flag last


def test_chips_that_count_twelve_hours():
    for hour, register in ((0, 0x52), (1, 0x41), (11, 0x51), (12, 0x72), (13, 0x61), (23, 0x71)):
        chip = Chip("00 00 %02x 06 01 01 00" % register, status=0)
        assert Ds3231(chip).unix_ms() == (946684800 + hour * 3600) * 1000 + 500, register


def test_registers_that_are_no_time_are_refused():
    for text in ("60 00 00 06 01 01 00", "00 60 00 06 01 01 00", "00 00 24 06 01 01 00",
                 "0a 00 00 06 01 01 00", "a0 00 00 06 01 01 00", "00 00 00 06 00 01 00",
                 "00 00 00 06 01 00 00", "00 00 00 06 01 13 00", "00 00 00 06 31 04 00",
                 "00 00 00 06 29 02 23", "00 00 00 06 29 82 00", "00 00 40 06 01 01 00",
                 "00 00 53 06 01 01 00", "ff ff ff ff ff ff ff", "00 00 00 00 00 00 00"):
        error = raises(ValueError, Ds3231(Chip(text, status=0)).unix_ms)
        assert "holds no time" in str(error), text


def test_what_the_chip_does_not_take_is_an_error():
    clock = Ds3231(Chip())
    for unix_ms in (0, 946684799499, 7258118400000):
        assert "2000 to 2199" in str(raises(ValueError, clock.set, unix_ms))
    chip = Chip(status=0)
    chip.stuck = True
    assert "does not keep" in str(raises(ValueError, Ds3231(chip).set, 1_700_000_000_000))
    chip.gone = True
    clock = Ds3231(chip)
    for function in (clock.unix_ms, clock.temperature_mc, lambda: clock.set(1_700_000_000_000)):
        raises(OSError, function)


def test_temperature():
    chip = Chip()
    for high, low, milli in ((0x19, 0x40, 25250), (0, 0, 0), (0xE7, 0x40, -24750),
                             (0xFF, 0xC0, -250), (0x7F, 0xC0, 127750)):
        chip.registers[17:19] = bytes((high, low))
        assert Ds3231(chip).temperature_mc() == milli
