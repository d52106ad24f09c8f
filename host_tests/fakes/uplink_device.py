"""The real uplink on a real socket with a journal of made-up frames; on both interpreters.

As a program: uplink_device.py PORT FRAMES WINDOW BYTES [CA-FILE [CLIENT-FILE]], prints one line of
JSON when everything is confirmed. With a CA it connects over TLS.
"""

import asyncio
import gc
import json
import sys
import time

# ruff: noqa: E402
gc.threshold(2048)  # before anything is compiled: that leaves a small heap in crumbs

from evmeter.system.clock import Clock
from evmeter.uplink.publisher import Uplink
from fakes.memory_journal import SeriesJournal

NAME = "demo-0001"
KEY_ID = "a1b2c3d4"


class Monitor:
    """Live messages that say little."""

    def info(self):
        return json.dumps({"v": 1, "k": KEY_ID})

    def status(self):
        return '{"v":1,"st":"idle"}'

    telemetry = status

    def diagnostics(self, counters):
        return json.dumps(counters)

    def alarms(self, all_codes=False):
        return []


async def deliver(port, frames, window, payload_bytes, ca_file=None, client_file=None):
    """Run until the backend has confirmed all frames; returns the figures as a dict."""
    link = None
    if ca_file:
        from fakes.tls_device import secure_link

        link = secure_link(ca_file, time.time_ns() // 1000000000, False, client_file)
    journal = SeriesJournal(frames, payload_bytes, KEY_ID)
    settings = {"host": "localhost" if ca_file else "127.0.0.1", "port": port,
                "user": None, "password": None, "keepalive_s": 5,
                "window": window, "telemetry_s": 10}
    uplink = Uplink(settings, NAME, journal, Clock(), Monitor(), KEY_ID, link)
    task = asyncio.create_task(uplink.run())
    while not uplink.backend_online:
        await asyncio.sleep_ms(1)
    begun = time.ticks_ms()
    longest_ms = 0
    while journal.cursor < frames:
        slept = time.ticks_ms()
        await asyncio.sleep_ms(10)
        if task.done():
            await task  # raises what it died of
        longest_ms = max(longest_ms, time.ticks_diff(time.ticks_ms(), slept) - 10)
    duration_ms = time.ticks_diff(time.ticks_ms(), begun)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return {"ms": duration_ms, "late_ms": longest_ms, "reconnects": uplink.reconnects,
                "resends": uplink.resends, "refused": uplink.acks_refused}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(deliver(*[int(word) for word in sys.argv[1:5]],
                                         *sys.argv[5:]))))
