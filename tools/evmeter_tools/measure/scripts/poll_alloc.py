# poll_alloc.py POLLS: bytes that one poll of the billing set allocates in steady state.
import asyncio
import gc
import json
import sys

from quiet_uart import QuietUart

from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.system.clock import Clock


async def main(polls):
    bus = ModbusRtu(QuietUart(20), 9600, 10)
    meter = ModbusMeter(bus, "eastron_sdm120", 1)
    bus.gap_ms = 0
    poll = MeterPoll(meter, Gate(11000, 1000), Clock(), 200)
    counts = [0, 0, 0]  # polls, allocated before and after

    def on_reading(reading):
        counts[0] += 1
        if counts[0] == 5:
            gc.collect()
            gc.disable()
            counts[1] = gc.mem_alloc()
        elif counts[0] == 5 + polls:
            counts[2] = gc.mem_alloc()
            gc.enable()

    poll.on_reading = on_reading
    task = asyncio.create_task(poll.run())
    await asyncio.sleep_ms((7 + polls) * 200 + 1000)  # no other task wakes in between
    if counts[0] < 5 + polls:
        raise ValueError(poll.status)
    task.cancel()
    print(json.dumps({"bytes": (counts[2] - counts[1]) // polls,
                      "requests": bus.requests, "import_mwh": poll.latest.import_mwh}))


asyncio.run(main(int(sys.argv[1])))
