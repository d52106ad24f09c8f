# Asks SNTP servers, all at once: ask_time.py FLOOR_MS NAME... A JSON line for each of them:
# [Unix ms at the end, Unix ms by this host then, uncertainty ms, round trip ms], or the refusal.

import asyncio
import json
import sys
import time

import cpython_shim

cpython_shim.install()

from evmeter.system.clock import Clock  # noqa: E402
from evmeter.system.sntp import SntpClient, SntpError  # noqa: E402


async def ask(client, clock, name):
    try:
        sample = await client.ask(name, int(sys.argv[1]), 1000)
    except (SntpError, OSError) as error:
        return "%s: %s" % (type(error).__name__, error)
    here_ms = time.time_ns() // 1000000 - clock.mono_ms() + sample.mono_ms
    return [sample.unix_ms, here_ms, sample.uncertainty_ms, sample.round_trip_ms]


async def main():
    clock = Clock(int(sys.argv[1]))
    client = SntpClient(clock)
    for answer in await asyncio.gather(*[ask(client, clock, name) for name in sys.argv[2:]]):
        print(json.dumps(answer))


asyncio.run(main())
