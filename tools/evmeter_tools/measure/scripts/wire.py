# wire.py PORT BAUD SETS: read the billing set again and again; microseconds of each set.
import asyncio
import json
import sys
import time

from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu
from evmeter.metering.reading import Reading
from host_uart import Uart


async def main(port, baud, sets):
    uart = Uart(port, baud)
    bus = ModbusRtu(uart, baud)
    meter = ModbusMeter(bus, "eastron_sdm120", 1)
    reading = Reading(1)
    await meter.read_billing(reading)
    took = []
    requests = bus.requests
    for _ in range(sets):
        begin = time.ticks_us()
        await meter.read_billing(reading)
        took.append(time.ticks_diff(time.ticks_us(), begin))
        if reading.quality != "G":
            raise ValueError(reading.reason)
    print(json.dumps({"us": took, "requests": bus.requests - requests,
                      "lost": bus.timeouts + bus.damaged}))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
