import asyncio
import gc
import struct
import sys

from drivers.modbus_meter import ModbusMeter, ProfileError, plan
from drivers.modbus_rtu import ModbusError, ModbusRtu
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.metering.reading import Reading
from fakes.profiles import profile_with
from fakes.uart import FakeUart, reply, with_crc
from fakes.virtual_time import VirtualTime
from support import raises

_SDM120 = "eastron_sdm120"


def _meter(registers, profile=_SDM120, unit=1, serial=None, baud=9600, total_is_import=False):
    """A meter over a dict (function, address) -> word; exception 2 outside of it."""
    time = VirtualTime()
    char_us = 10000000 // baud

    def answer(request):
        _, function, high, low, _, count = request[:6]
        start = high << 8 | low
        words = [registers.get((function, start + index)) for index in range(count)]
        if None in words:
            return [(20, with_crc("%02x%02x02" % (request[0], function | 0x80)))]
        return [(20, reply(request[0], function, words))]

    uart = FakeUart(time, char_us, answer)
    bus = ModbusRtu(uart, baud, 10, None, 0, time, time.sleep_ms)
    return ModbusMeter(bus, profile, unit, serial, total_is_import), uart


def _put_float(registers, address, value, function=4):
    high, low = struct.unpack(">HH", struct.pack(">f", value))
    registers[(function, address)] = high
    registers[(function, address + 1)] = low


def _sdm120():
    registers = {}
    for address in range(0x20):
        registers[(4, address)] = 0
    for address, value in ((0, 230.3), (6, 16.0), (12, -3684.8), (0x12, 3690.5), (0x18, -204.8),
                           (0x1E, -0.9984), (0x46, 49.98),
                           (0x48, 1138.6640625), (0x4A, 0.25)):
        _put_float(registers, address, value)
    for address, word in ((0xFC00, 0x0140), (0xFC01, 0xF5A7), (0xFC02, 0x20), (0xFC03, 0x0205)):
        registers[(3, address)] = word
    return registers


def test_the_billing_set_of_an_sdm120_in_two_requests():
    meter, uart = _meter(_sdm120())
    reading = Reading(meter.phases)
    asyncio.run(meter.read_billing(reading))
    assert reading.quality == "G"
    assert reading.voltages_mv == [230300]
    assert reading.currents_ma == [16000]
    assert reading.power_mw == -3684800
    assert reading.frequency_mhz == 49980
    assert reading.import_mwh == 1138664063
    assert reading.export_mwh == 250000
    asked = [request.hex() if hasattr(request, "hex") else request for _, request in uart.requests]
    assert asked == [with_crc("01040000000e").hex(), with_crc("010400460006").hex()]
    assert meter.bus.gap_ms == 60 and meter.step_mwh == 1000


def test_the_energy_alone_in_one_request():
    meter, uart = _meter(_sdm120())
    reading = Reading(meter.phases)
    asyncio.run(meter.read_billing(reading, True))
    assert reading.import_mwh == 1138664063
    assert reading.voltages_mv == [None]
    assert len(uart.requests) == 1


def test_identity_in_one_request():
    meter, uart = _meter(_sdm120())
    assert asyncio.run(meter.read_identity()) == ("21034407", "0020", "0205")
    assert [request for _, request in uart.requests] == [with_crc("0103fc000004")]


def test_a_meter_that_lacks_its_identity_registers():
    registers = _sdm120()
    del registers[(3, 0xFC02)]
    meter, _ = _meter(registers, serial="label-7")
    assert asyncio.run(meter.read_identity()) == (None, None, None)
    assert meter.label_serial == "label-7"


def test_no_number_in_a_register_is_a_fault():
    for address, high in ((0, 0x7FC0), (0x46, 0x7F80), (0x48, 0xFF80), (0x48, 0x6000)):
        registers = _sdm120()
        registers[(4, address)] = high
        meter, _ = _meter(registers)
        reading = Reading(1)
        asyncio.run(meter.read_billing(reading))
        assert reading.quality == "F" and reading.reason.endswith("is no number"), address


def test_the_slow_set_of_an_sdm120_in_one_request():
    meter, uart = _meter(_sdm120())
    reading = Reading(1)
    asyncio.run(meter.read_slow(reading))
    assert (reading.pf_milli, reading.apparent_mva, reading.reactive_mvar) == (
        -998, 3690500, -204800)
    assert reading.import_mwh is None and len(uart.requests) == 1
    registers = _sdm120()
    registers[(4, 0x1E)] = 0x7FC0  # 0 W / 0 VA
    meter, _ = _meter(registers)
    asyncio.run(meter.read_slow(reading))
    assert reading.pf_milli is None and reading.apparent_mva == 3690500
    assert reading.quality == "G", "no fault of the billing set"


def test_the_poll_reads_the_slow_set_every_tenth_time():
    registers = _sdm120()
    _put_float(registers, 12, 3684.8)
    meter, uart = _meter(registers)
    time = uart._time
    poll = MeterPoll(meter, Gate(11000, 1000), time, 1000, time.sleep_ms)
    seen = []
    poll.on_reading = lambda reading: seen.append((reading.mono_ms, reading.slow_ms))

    async def scenario():
        task = asyncio.create_task(poll.run())
        await time.sleep_ms(25500)
        assert poll.latest.apparent_mva == 3690500 and not poll.slow_reason
        del registers[(4, 0x12)]
        await time.sleep_ms(10000)
        assert poll.status == "G" and poll.latest.apparent_mva is None
        assert poll.latest.slow_ms is None and poll.slow_reason == "exception 2 from unit 1"
        assert time.mono_ms() - poll.latest.mono_ms < 1000
        task.cancel()
    asyncio.run(scenario())
    asked = [request[3] for _, request in uart.requests if request[1] == 4]
    assert asked[:5] == [0, 0x46, 0x12, 0, 0x46] and asked.count(0x12) == 4
    at_s = [at_us // 1000000 for at_us, request in uart.requests if request[3] == 0x12]
    assert at_s == [at_s[0], at_s[0] + 10, at_s[0] + 20, at_s[0] + 30], at_s
    assert seen[0][1] is None
    for mono_ms, slow_ms in seen[1:25]:
        assert 0 < mono_ms - slow_ms < 10900, (mono_ms, slow_ms)


def test_a_total_counts_as_import_only_where_that_is_configured():
    error = str(raises(ProfileError, _meter, {}, "orno_we514"))
    assert "billing.import" in error and "total_is_import" in error and "WE-514" in error
    registers = {(3, address): 0 for address in range(0x130, 0x142)}
    registers[(3, 0xA000)], registers[(3, 0xA001)] = 1, 2
    meter, _ = _meter(registers, "orno_we514", total_is_import=True)
    reading = Reading(1)
    asyncio.run(meter.read_billing(reading))
    assert reading.import_mwh == 65538 * 10000 and reading.export_mwh is None


def test_registers_that_the_meter_does_not_have():
    # The holes between the wanted registers, then a register of its own; never the import's.
    wide = {"import": ["0x0000", "u32", "Wh"], "export": ["0x0002", "u32", "Wh"],
            "power": ["0x0008", "i16", "W"], "frequency": ["0x0030", "u16", "Hz"]}
    profile = profile_with(phases=1, billing=wide)
    has = {(3, address): 7 for address in (0, 1, 2, 3, 8)}
    for missing, requests in (
        ((), [(0, 49), (48, 1), (0, 9), (8, 1), (0, 4)]),
        ((2, 3), [(0, 49), (48, 1), (0, 9), (8, 1), (0, 4), (8, 1), (2, 2), (8, 1), (0, 2)]),
    ):
        registers = {key: has[key] for key in has if key[1] not in missing}
        meter, uart = _meter(registers, profile)
        reading = Reading(1)
        asyncio.run(meter.read_billing(reading))
        assert reading.quality == "G" and reading.import_mwh == 0x70007 * 1000
        assert reading.power_mw == 7000 and reading.frequency_mhz is None
        assert reading.export_mwh == (None if missing else 0x70007 * 1000)
        before = len(uart.requests)
        asyncio.run(meter.read_billing(reading))
        assert len(uart.requests) - before == 2, "what it has not is not asked for again"
        # what was answered once is not given up
        del registers[(3, 8)]
        raises(ModbusError, asyncio.run, meter.read_billing(reading))
    meter, uart = _meter({}, profile)
    raises(ModbusError, asyncio.run, meter.read_billing(reading, True))
    assert meter._requests[-1][2][0][2] == "import_mwh"


def test_the_slow_set_of_a_meter_that_lacks_some_of_it():
    registers = _sdm120()
    del registers[(4, 0x18)]
    meter, uart = _meter(registers)
    reading = Reading(1)
    asyncio.run(meter.read_slow(reading))
    assert (reading.pf_milli, reading.apparent_mva, reading.reactive_mvar) == (-998, 3690500, None)
    before = len(uart.requests)
    asyncio.run(meter.read_slow(reading))
    assert len(uart.requests) - before == 2


def test_an_exception_reaches_the_caller():
    registers = _sdm120()
    meter, uart = _meter(registers)
    asyncio.run(meter.read_billing(Reading(1)))
    registers.clear()
    error = raises(ModbusError, asyncio.run, meter.read_billing(Reading(1)))
    assert error.code == 2 and len(uart.requests) == 3


def test_integers_scales_and_codes_for_not_available():
    profile = profile_with(
        missing={"u32": 0xFFFFFFFF, "i32": 0x7FFFFFFF},
        billing={
            "voltage_l1": ["0x5B00", "u32", "V", -1], "voltage_l2": ["0x5B02", "u32", "V", -1],
            "voltage_l3": ["0x5B04", "u32", "V", -1], "power": ["0x5B14", "i32", "W", -2],
            "frequency": ["0x5B2C", "u16", "Hz", -2], "import": ["0x5000", "u64", "kWh", -2],
            "export": ["0x5004", "u64", "kWh", -2]},
        identity={"serial": ["0x8900", "u32"], "firmware": ["0x8908", "str8"]})
    registers = {(3, 0x5000 + index): word for index, word in
                 enumerate((0, 0, 0x3B9A, 0xCA00, 0, 0, 0, 7))}
    for address in range(0x5B00, 0x5B2D):
        registers[(3, address)] = 0
    for address, word in ((0x5B01, 2303), (0x5B02, 0xFFFF), (0x5B03, 0xFFFF), (0x5B05, 1),
                          (0x5B14, 0xFFFF), (0x5B15, 0xFFFE), (0x5B2C, 5001),
                          (0x8900, 0x12), (0x8901, 0x3456)):
        registers[(3, address)] = word
    for index, text in enumerate(("B2", "3 ", "v1", ".0", "\0\0", "\0\0", "\0\0", "\0\0")):
        registers[(3, 0x8908 + index)] = ord(text[0]) << 8 | ord(text[1])
    meter, uart = _meter(registers, profile, unit=7)
    reading = Reading(3)
    asyncio.run(meter.read_billing(reading))
    assert reading.quality == "G", reading.reason
    assert reading.voltages_mv == [230300, None, 100]
    assert reading.power_mw == -20
    assert reading.frequency_mhz == 50010
    assert reading.import_mwh == 10000000000000
    assert reading.export_mwh == 70000
    assert len(uart.requests) == 2
    assert uart.requests[-1][1][2] == 0x50, "the import register comes last"
    assert asyncio.run(meter.read_identity()) == ("1193046", None, "B23 v1.0")


def test_words_low_first():
    profile = profile_with(order="little", phases=1, function=4, billing={
        "import": ["0x0010", "i32", "kWh", -1], "voltage_l1": ["0x0000", "i32", "V", -1]})
    registers = {(4, address): 0 for address in range(0x12)}
    registers[(4, 0x10)], registers[(4, 0x11)] = 0x86A1, 0x0001
    registers[(4, 0)] = 2301
    meter, _ = _meter(registers, profile)
    reading = Reading(1)
    asyncio.run(meter.read_billing(reading))
    assert reading.import_mwh == 100001 * 100000
    assert reading.voltages_mv == [230100]


def test_the_plan_weighs_unused_registers_against_another_request():
    rows = [(0, 2), (6, 2), (12, 2), (0x46, 2), (0x48, 2), (0x4A, 2)]
    for most, request_us, char_us, expected in (
        (80, 113000, 1042, [(0, 14), (0x46, 6)]),  # SDM120 at 9600 baud
        (80, 154000, 4167, [(0, 14), (0x46, 6)]),  # at 2400
        (80, 107000, 521, [(0, 76)]),  # at 19200 one request is quicker
        (75, 107000, 521, [(0, 14), (0x46, 6)]),  # but not within the meter's limit
        (4, 107000, 521, [(0, 2), (6, 2), (12, 2), (0x46, 2), (0x48, 4)]),
        (80, 1, 1042, [(0, 2), (6, 2), (12, 2), (0x46, 6)]),
    ):
        found = [(one[0], one[1]) for one in plan(list(reversed(rows)), most, request_us, char_us)]
        assert found == expected, (most, found)


def test_the_plan_of_rows_that_overlap():
    rows = [(10, 9), (11, 1), (15, 4), (17, 3), (40, 2)]  # values with the same scale factor
    assert [one[:2] for one in plan(rows, 20, 1, 1)] == [(10, 10), (40, 2)]
    assert [one[:2] for one in plan(rows, 60, 1000, 1)] == [(10, 32)]


class _QuietUart:
    """Answers as an SDM120 at once and allocates nothing."""

    def __init__(self, replies):
        self._replies = replies
        self._reply = b""
        self._count = 0

    def any(self):
        return self._count

    def readinto(self, buffer, nbytes=None):
        count = self._count
        index = 0
        while index < count:
            buffer[index] = self._reply[index]
            index += 1
        self._count = 0
        return count

    def write(self, data):
        self._reply = self._replies[data[5]]
        self._count = len(self._reply)
        return 8


def test_a_reading_allocates_little():
    # On CPython gc.mem_alloc is a stub, and this shows no more than that the path runs.
    registers = _sdm120()
    replies = {14: reply(1, 4, [registers[(4, address)] for address in range(14)]),
               6: reply(1, 4, [registers[(4, 0x46 + index)] for index in range(6)])}
    bus = ModbusRtu(_QuietUart(replies), 9600, 10)
    meter = ModbusMeter(bus, _SDM120, 1)
    bus.gap_ms = 0
    reading = Reading(1)

    async def scenario():
        await meter.read_billing(reading)
        gc.collect()
        before = gc.mem_alloc()
        for _ in range(4):
            await meter.read_billing(reading)
        return (gc.mem_alloc() - before) // 4
    taken = asyncio.run(scenario())
    assert reading.import_mwh == 1138664063
    assert taken <= (1024 if sys.maxsize > 1 << 32 else 512), taken
