"""The meter's whole path against an emulated SDM120: pymodbus behind a wire with line speed, the
host board's UART, this Modbus master; and register decoding against exact fractions."""

import asyncio
import random
import struct
from fractions import Fraction

import pytest

from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.metering.reading import MeterError, Reading
from evmeter.metering.registers import float32
from evmeter.system.clock import Clock
from evmeter_tools.bench.meter import EmulatedMeter, float_bits_mwh
from host_uart import Uart


def _half_away(value):
    whole = abs(value) + Fraction(1, 2)
    return (whole.numerator // whole.denominator) * (1 if value >= 0 else -1)


def _bits(rng):
    kind = rng.randrange(5)
    if kind == 0:
        return rng.getrandbits(32)
    if kind == 1:  # a register in kWh
        return struct.unpack(">I", struct.pack(">f", rng.random() * 10 ** rng.randrange(8)))[0]
    if kind == 2:  # ties: few bits set
        return rng.randrange(100, 167) << 23 | 1 << rng.randrange(23)
    if kind == 3:  # denormals and their neighbours
        return rng.getrandbits(24) | rng.getrandbits(1) << 31
    return rng.randrange(160, 256) << 23 | rng.getrandbits(23)


def test_float32_against_exact_fractions():
    rng = random.Random(120)
    for _ in range(20000):
        bits = _bits(rng)
        exponent = rng.randrange(-9, 10)
        found = float32(bits >> 16, bits & 0xFFFF, exponent)
        value = struct.unpack(">f", struct.pack(">I", bits))[0]
        if value != value or abs(value) >= 2**40:
            assert found is None, hex(bits)
        else:
            expected = _half_away(Fraction(value) * Fraction(10) ** exponent)
            assert found == expected, (hex(bits), exponent)


async def _with_meter(scenario, **options):
    emulated = EmulatedMeter(**options)
    await emulated.start()
    baud = options.get("baud", 9600)
    uart = Uart(emulated.path, baud)
    bus = ModbusRtu(uart, baud)
    try:
        return await scenario(emulated, ModbusMeter(bus, "eastron_sdm120", options.get("unit", 1)))
    finally:
        uart.close()
        await emulated.stop()


@pytest.mark.parametrize("register_wh", [0, 1138664, 8200001, 131000017, 10**10])
def test_billing_set_and_identity_against_pymodbus(register_wh):
    async def scenario(emulated, meter):
        emulated.set_load(3680)
        reading = Reading(1)
        await meter.read_billing(reading)
        assert reading.quality == "G"
        assert reading.voltages_mv == [230000]
        assert reading.currents_ma == [16000]
        assert reading.power_mw == 3680000
        assert reading.frequency_mhz == 50000
        assert reading.export_mwh == 0
        shown_mwh = Fraction(struct.unpack(">f", struct.pack(">I", emulated.register_bits))[0])
        assert abs(reading.import_mwh - _half_away(shown_mwh * 1000000)) <= 1000
        rounded_mwh = (reading.import_mwh + 500) // 1000 * 1000
        assert abs(rounded_mwh - float_bits_mwh(emulated.register_bits)) <= 1000
        assert await meter.read_identity() == ("21034567", "0020", "0205")
        assert meter.bus.requests == 3

    asyncio.run(_with_meter(scenario, register_wh=register_wh))


def test_another_unit_is_not_heard():
    async def scenario(emulated, meter):
        meter.bus.gap_ms = 0
        with pytest.raises(MeterError) as caught:
            await ModbusMeter(meter.bus, "eastron_sdm120", 2).read_billing(Reading(1))
        assert caught.value.letter == "T"
        assert meter.bus.timeouts == 3
        reading = Reading(1)
        await meter.read_billing(reading)
        assert reading.import_mwh

    asyncio.run(_with_meter(scenario))


def test_damaged_replies_cost_a_try_and_never_a_wrong_value():
    rng = random.Random(7)
    faults = [
        lambda data: None,
        lambda data: data[: rng.randrange(1, len(data))],
        lambda data: bytes(rng.getrandbits(8) for _ in range(5)) + data,
        lambda data: data[:4] + bytes([data[4] ^ 1 << rng.randrange(8)]) + data[5:],
        lambda data: bytes([2]) + data[1:],
        lambda data: data[:2] + bytes([data[2] ^ 2]) + data[3:],
        lambda data: data[:6] + b"\x00" + data[6:],
        lambda data: data + bytes(9),
    ]

    async def scenario(emulated, meter):
        meter._latency_ms = 60
        for fault in faults:
            left = [fault]
            emulated.wire.on_reply = lambda data, left=left: left.pop()(data) if left else data
            reading = Reading(1)
            await meter.read_billing(reading)
            assert reading.import_mwh == float_bits_mwh(emulated.register_bits, 1)
            assert reading.voltages_mv == [230000]

    asyncio.run(_with_meter(scenario, latency_ms=5))


def test_poll_and_edges_while_current_flows():
    async def scenario(emulated, meter):
        clock = Clock()
        poll = MeterPoll(meter, Gate(11000, meter.step_mwh), clock, 300)
        emulated.set_load(7360)
        task = asyncio.create_task(poll.run())
        try:
            await asyncio.sleep(1)
            begin_mwh, letter, begin_ms = await poll.edge_reading()
            assert letter == "G"
            await asyncio.sleep(2)
            end_mwh, letter, end_ms = await poll.edge_reading()
            assert letter == "G"
            assert poll.status == "G", poll.status
            expected_mwh = 7360 * (end_ms - begin_ms) // 3600
            # one register step and a second of load, for a machine that is busy
            assert abs(end_mwh - begin_mwh - expected_mwh) <= 1000 + 7360 * 1000 // 3600
        finally:
            task.cancel()

    asyncio.run(_with_meter(scenario, register_wh=131000))
