"""Emulated meters and vehicles of many firmware processes, in one process.

    python -m evmeter_tools.fleet.stations FOLDER NAME... [--sessions N] [--charge S]

Each NAME is a run folder in FOLDER. A line NAME on standard input begins its sessions; the empty
line unplugs every vehicle, the input's end ends all. A JSON line a second tells how far it is.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import threading
from pathlib import Path

from evmeter_tools.bench.meter import EmulatedMeter
from evmeter_tools.bench.rig import Rig, link
from evmeter_tools.bench.vehicle import Vehicle

_WINDOW_S = 1  # the pilot's windows differ by their noise alone; an edge is written at once
_TELL_S = 1
_ASKS_S = 5  # from the plug, and again before it is pulled
_LEFT_S = 20  # until the next vehicle
_POWERS_W = (3680, 7360, 11000)


class Station:
    """One device's meter and vehicle."""

    def __init__(self, folder, number):
        self._folder = folder
        self._choose = random.Random(number)
        self._meter = EmulatedMeter(serial=21_000_000 + number, register_wh=1000 * number)
        self._vehicle = Vehicle(folder / "pilot.bin", seed=number, period_s=_WINDOW_S)
        self._rig = Rig(self._meter, self._vehicle, self._choose.choice(_POWERS_W))
        self._over = asyncio.Event()
        self.begun = self.ended = 0
        self.task = None

    async def start(self):
        """The meter answers, the pilot shows no vehicle."""
        await self._meter.start()
        link(self._folder, self._meter.path)
        self._vehicle.start()

    async def _wait(self, seconds):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    async def drive(self, sessions, charge_s):
        """So many vehicles come, charge and leave."""
        while self.begun < sessions and not self._over.is_set():
            self.begun += 1
            self._rig.obey({"pilot": "B"})
            await self._wait(_ASKS_S)
            self._rig.obey({"pilot": "C"})
            await self._wait(charge_s * self._choose.uniform(0.7, 1.3))
            self._rig.obey({"pilot": "B"})
            await self._wait(_ASKS_S)
            self._rig.obey({"pilot": "A"})
            self.ended += 1
            await self._wait(_LEFT_S)

    def unplug(self):
        """No more vehicles; one that is there leaves."""
        self._over.set()

    def register_mwh(self):
        """The meter's register as it shows it."""
        return self._rig.status()["register_mwh"]

    async def stop(self):
        """Take it away."""
        if self.task:
            self.task.cancel()
        self._vehicle.stop()
        await self._meter.stop()


def _read(loop, queue):
    with contextlib.suppress(RuntimeError):  # the loop has ended before the input
        for line in sys.stdin:
            loop.call_soon_threadsafe(queue.put_nowait, line.strip())
        loop.call_soon_threadsafe(queue.put_nowait, None)


async def _serve(stations, options):
    queue = asyncio.Queue()
    threading.Thread(target=_read, args=(asyncio.get_running_loop(), queue), daemon=True).start()
    while True:
        print(json.dumps({
            "plugged": sum(each.begun - each.ended for each in stations.values()),
            "ended": sum(each.ended for each in stations.values()),
            "register_mwh": {name: each.register_mwh() for name, each in stations.items()},
        }), flush=True)
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(queue.get(), _TELL_S)
            if line is None:
                return
            if line in stations:
                stations[line].task = asyncio.create_task(
                    stations[line].drive(options.sessions, options.charge))
            elif not line:
                for each in stations.values():
                    each.unplug()


async def _run(options):
    stations = {name: Station(Path(options.folder) / name, number)
                for number, name in enumerate(options.names, 1)}
    try:
        for each in stations.values():
            await each.start()
        await _serve(stations, options)
    finally:
        for each in stations.values():
            await each.stop()


def main():
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="meters and vehicles of many devices")
    parser.add_argument("folder")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--sessions", type=int, default=2, help="of each device")
    parser.add_argument("--charge", type=float, default=30, help="seconds, more or less a third")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
