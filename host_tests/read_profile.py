# read_profile.py PORT PROFILE: one reading of all quantities, as JSON; runs under MicroPython.
import asyncio
import json
import sys

from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu
from evmeter.metering.reading import Reading
from host_uart import Uart


async def main(port, profile):
    bus = ModbusRtu(Uart(port, 115200), 115200)
    meter = ModbusMeter(bus, profile, 1, None, True)
    bus.gap_ms = 0
    reading = Reading(meter.phases)
    identity = await meter.read_identity()
    await meter.read_billing(reading)
    await meter.read_slow(reading)
    found = {name: getattr(reading, name) for name in (
        "voltages_mv", "currents_ma", "power_mw", "frequency_mhz", "import_mwh", "export_mwh",
        "pf_milli", "apparent_mva", "reactive_mvar", "quality", "reason")}
    found["identity"] = identity
    print(json.dumps(found))


asyncio.run(main(sys.argv[1], sys.argv[2]))
