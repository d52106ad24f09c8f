"""Every profile against the emulated meter: pymodbus behind a wire, its registers written by the
host's decimal arithmetic, read by the device's; and the meter that misbehaves on request."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from drivers.meter_profile import check_profile
from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusError, ModbusRtu
from evmeter.metering.gate import Gate
from evmeter.metering.reading import Reading
from evmeter_tools.bench.meter import EmulatedMeter
from evmeter_tools.bench.misbehaviour import KINDS, Misbehaviour
from evmeter_tools.bench.profile import Profile, profile_names
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import ROOT
from host_uart import Uart

_END_S = 60
_ATTRIBUTES = {"power": "power_mw", "frequency": "frequency_mhz", "import": "import_mwh",
               "total": "import_mwh", "export": "export_mwh", "pf": "pf_milli",
               "apparent": "apparent_mva", "reactive": "reactive_mvar"}
_SERIAL = 21034567
_IDENTITY = {
    "eastron_sdm120": ("21034567", "0020", "0205"), "eastron_sdm230": ("21034567", None, None),
    "eastron_sdm630": ("21034567", "0070", "0205"), "eastron_sdm72d_v1": (None, "0200", "0205"),
    "eastron_sdm72d_v2": ("21034567", "0089", "0205"), "abb_b2x": ("21034567", "B23", "517"),
    "orno_we516": ("21034567", None, None), "bauer_bsm_ws36a": ("21034567", None, "517"),
    "iskra_wm3m4c": (None, "WM3M", None)}


def _of(reading, name):
    """The value of a profile's quantity in a Reading."""
    if name[-3:-1] == "_l":
        values = {"voltage": reading.voltages_mv, "current": reading.currents_ma}[name[:-3]]
        return values[int(name[-1]) - 1]
    return getattr(reading, _ATTRIBUTES[name])


async def _with(scenario, **options):
    emulated = EmulatedMeter(latency_ms=2, baud=115200, **options)
    await emulated.start()
    uart = Uart(emulated.path, 115200)
    bus = ModbusRtu(uart, 115200)
    try:
        meter = ModbusMeter(bus, options["profile"], 1, None, True)
        bus.gap_ms = 0  # that the pause is kept is a test of the bus
        meter._latency_ms = max(50, meter._latency_ms // 4)
        await asyncio.wait_for(scenario(emulated, meter), _END_S)
    finally:
        uart.close()
        await emulated.stop()


def _values(profile, rng):
    """Values of all quantities, of the sign that the register has."""
    found = {}
    for register in profile.registers:
        least = -1 if register.kind[0] in "if" or register.kind == "t6" else 0
        most = {"V": 260, "A": 63, "Hz": 61, "W": 30000, "kW": 30000, "Wh": 40000000,
                "kWh": 40000000, "VA": 30000, "kVA": 30000, "var": 30000, "kvar": 30000,
                "": 1, "%": 1}[register.unit]
        found[register.name] = Decimal(rng.randint(least * most * 1000, most * 1000)) / 1000
    return found


@pytest.mark.parametrize("name", profile_names())
def test_every_quantity_over_the_wire(name):
    rng = random.Random(name)

    async def scenario(emulated, meter):
        assert await meter.read_identity() == _IDENTITY.get(name, (None, None, None))
        for _ in range(4):
            emulated.fixed = _values(emulated.profile, rng)
            reading = Reading(meter.phases)
            await meter.read_billing(reading)
            await meter.read_slow(reading)
            assert reading.quality == "G", reading.reason
            for register in emulated.profile.registers:
                words = register.words(emulated.fixed[register.name])
                assert _of(reading, register.name) == register.exact(words), register
        assert meter.bus.timeouts == meter.bus.damaged == meter.bus.exceptions == 0
        requests = meter.bus.requests
        await meter.read_billing(Reading(meter.phases), True)
        assert meter.bus.requests == requests + 1
        await meter.read_billing(Reading(meter.phases))
        assert meter.bus.requests <= requests + (6 if "em24" in name else 4)

    asyncio.run(_with(scenario, profile=name, serial=_SERIAL))


async def _read_by_micropython(name, fixed):
    emulated = EmulatedMeter(latency_ms=2, baud=115200, profile=name, serial=_SERIAL)
    emulated.fixed = fixed
    await emulated.start()
    try:
        process = await asyncio.create_subprocess_exec(
            str(micropython()), "-X", "heapsize=256k",
            str(ROOT / "host_tests" / "read_profile.py"), emulated.path, name,
            env=dict(os.environ, MICROPYPATH=micropython_path()), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        output, _ = await asyncio.wait_for(process.communicate(), _END_S)
    finally:
        await emulated.stop()
    assert process.returncode == 0, output.decode()
    return json.loads(output)


@pytest.mark.parametrize("name", profile_names())
def test_every_quantity_over_the_wire_under_micropython(name):
    profile = Profile(name)
    fixed = _values(profile, random.Random(name))
    found = asyncio.run(_read_by_micropython(name, fixed))
    assert found["quality"] == "G", found
    assert tuple(found["identity"]) == _IDENTITY.get(name, (None, None, None))
    reading = SimpleNamespace(**found)
    for register in profile.registers:
        assert _of(reading, register.name) == register.exact(
            register.words(fixed[register.name])), register


@pytest.mark.parametrize("name", profile_names())
def test_the_emulated_register_is_the_one_that_is_read(name):
    async def scenario(emulated, meter):
        emulated.set_load(30000)
        for _ in range(3):
            emulated._energy_mw_ns += 33 * 3600 * 10**12
            reading = Reading(meter.phases)
            before_mwh = emulated.register_mwh
            await meter.read_billing(reading)
            assert before_mwh <= reading.import_mwh <= emulated.register_mwh
        emulated.set_load(0)
        await meter.read_billing(reading)
        assert reading.import_mwh == emulated.register_mwh
        assert reading.power_mw == 0

    asyncio.run(_with(scenario, profile=name, register_wh=131000017))


@pytest.mark.parametrize("name", profile_names())
def test_the_limits_of_the_meter_are_those_of_the_profile(name):
    async def scenario(emulated, meter):
        profile = emulated.profile
        bus, address = meter.bus, profile.registers[0].address & ~1

        async def code(function, at, count):
            try:
                await bus.read(1, function, at, count, 100)
            except ModbusError as error:
                return error.code
            return 0

        assert await code(profile.function, address, 2) == 0
        assert await code(profile.function, 0xFFF0, 2) == 2
        if profile.function != profile.identity_function or profile.identity_function == 4:
            assert profile.eastron or await code(7 - profile.function, address, 2)
        if profile.eastron:
            assert await code(4, 1, 2) == 2
            assert await code(4, 0, 3) == 2
            assert await code(4, 0, profile.max_registers + 2) == 3

    asyncio.run(_with(scenario, profile=name))


def test_the_profiles_of_the_host_and_of_the_device_are_the_same():
    names = profile_names()
    assert len(names) == 23
    for name in names:
        text = (ROOT / "drivers/meter_profiles" / (name + ".json")).read_text()
        assert text.isascii(), name
        data = json.loads(text)
        rows = check_profile(data)
        registers = Profile(name).registers
        assert len(registers) == len(rows["billing"]) + len(rows["slow"])
        assert set(data["billing"]) == {one.name for one in registers
                                        if one.section == "billing"}
        if data["confidence"] != "high":
            assert data["note"], name
    with pytest.raises(UserError, match="there is: abb_b2x, .*socomec"):
        Profile("nonesuch")


# -- faults --

_CALM = ("noise-before", "noise-after", "echo", "late", "truncated", "bad-crc", "silent",
         "noise-inside", "other-unit", "exception-4", "exception-6")


@pytest.mark.parametrize("kind", _CALM)
def test_a_fault_on_the_line_costs_a_try_at_most(kind):
    async def scenario(emulated, meter):
        for _ in range(7):
            reading = Reading(1)
            await meter.read_billing(reading)
            assert reading.quality == "G"
            assert reading.import_mwh == emulated.register_mwh
        assert emulated.fault.spoilt >= 2
        lost = meter.bus.timeouts + meter.bus.damaged + meter.bus.exceptions
        assert bool(lost) == (kind not in ("noise-before", "noise-after", "echo"))

    asyncio.run(_with(scenario, profile="eastron_sdm120", fault=kind, fault_every=3))


def test_a_register_that_the_meter_refuses_is_not_asked_for_again():
    async def scenario(emulated, meter):
        await meter.read_billing(Reading(1))
        with pytest.raises(ModbusError) as caught:
            await meter.read_billing(Reading(1))
        assert caught.value.code == 2
        assert meter.bus.requests == 2

    asyncio.run(_with(scenario, profile="eastron_sdm120", fault="exception-2", fault_every=2))


@pytest.mark.parametrize(("kind", "name", "quality", "reason"), [
    ("nan", "eastron_sdm120", "F", "import_mwh is no number"),
    ("inf", "eastron_sdm630", "F", "import_mwh is no number"),
    ("negative", "eastron_sdm120", "O", "negative energy"),
    ("negative", "cg_em340", "O", "negative energy"),
    ("step-back", "eastron_sdm120", "O", "register stepped back"),
    ("step-back", "abb_b2x", "O", "register stepped back"),
    ("jump", "eastron_sdm120", "O", "register stepped over the power limit"),
    ("jump", "iskra_wm3m4c", "O", "register stepped over the power limit"),
    ("word-swapped", "eastron_sdm120", None, None),
    ("word-swapped", "cg_em24_din", None, None),
    ("zeros", "eastron_sdm120", "O", "all values are zero"),
    ("zeros", "orno_we516", "O", "all values are zero"),
])
def test_a_value_that_cannot_be_is_refused_with_its_reason(kind, name, quality, reason):
    async def scenario(emulated, meter):
        gate = Gate(11000, meter.step_mwh)
        emulated.fault._every = 1000
        reading = Reading(meter.phases)
        await meter.read_billing(reading)
        assert gate.judge(reading)
        emulated.fault._every = 1
        await meter.read_billing(reading)
        reading.mono_ms = 1000
        assert not gate.judge(reading)
        if quality:
            assert (reading.quality, reading.reason) == (quality, reason)

    asyncio.run(_with(scenario, profile=name, fault=kind))


def test_a_fault_that_a_meter_cannot_have_is_refused():
    for name, kind in (("cg_em340", "nan"), ("abb_b2x", "inf"), ("abb_b2x", "negative"),
                       ("eastron_sdm120", "colour")):
        with pytest.raises(UserError, match="--fault " + kind):
            Misbehaviour(Profile(name), kind)
    assert len(KINDS) == 19


def test_the_command_serves_any_profile_and_misbehaves():
    process = subprocess.Popen(
        [sys.executable, "-m", "evmeter_tools.cli", "emulate", "meter", "cg_em340",
         "--baud", "19200", "--fault", "bad-crc", "--fault-every", "2", "--latency-ms", "1"],
        env={"PYTHONPATH": str(ROOT / "tools")}, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "Carlo Gavazzi EM340" in line
        uart = Uart(line.split()[4].rstrip(";"), 19200)
        meter = ModbusMeter(ModbusRtu(uart, 19200), "cg_em340", 1)
        reading = Reading(3)

        async def read():
            for _ in range(3):
                await meter.read_billing(reading)
        asyncio.run(read())
        uart.close()
        assert reading.import_mwh == 1234500000
        assert meter.bus.damaged >= 2
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
