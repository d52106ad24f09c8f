"""The rig process: emulated meter and vehicle around one device's run folder.

    python -m evmeter_tools.bench.rig --dir build/demo [--meter /dev/ttyUSB0] [--baud 9600]

Commands come as JSON lines on standard input: {"pilot": "C"}, {"offered_ma": 10000},
{"load_w": 7200}, {"latency_ms": 80}. Status goes out as JSON lines every 250 ms, after a first
line with "ready". The rig ends when its standard input is closed. Current flows only in state C
or D while current is offered.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from evmeter_tools.bench.meter import EmulatedMeter
from evmeter_tools.bench.vehicle import Vehicle
from evmeter_tools.errors import UserError

_STATUS_S = 0.25


class Rig:
    """Meter and vehicle, linked by the load."""

    def __init__(self, folder, meter, vehicle):
        self._folder = folder
        self._meter = meter
        self._vehicle = vehicle
        self._load_w = 7200
        self._flowing_w = 0

    def obey(self, command):
        """Carry out one command. Raises ValueError on an unknown one."""
        for name, value in command.items():
            if name == "pilot":
                self._vehicle.set(state=value)
            elif name == "offered_ma":
                self._vehicle.set(offered_ma=int(value))
            elif name == "load_w":
                self._load_w = int(value)
            elif name == "latency_ms" and self._meter:
                self._meter.latency_ms = int(value)
            else:
                raise ValueError("unknown command %s" % name)
        vehicle = self._vehicle
        flows = vehicle.state in "CD" and vehicle.offered_ma > 0
        self._flowing_w = self._load_w if flows else 0
        if self._meter:
            self._meter.set_load(self._flowing_w)

    def status(self):
        """What a reader of the rig's output sees."""
        found = {"pilot": self._vehicle.state, "load_w": self._flowing_w}
        if self._meter:
            found["register_wh"] = self._meter.register_wh
            found["register_bits"] = self._meter.register_bits
            found["requests"] = self._meter.wire.requests
        return found


def _say(message):
    print(json.dumps(message), flush=True)


async def _serve(rig):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    line = asyncio.ensure_future(reader.readline())
    while True:
        done, _ = await asyncio.wait([line], timeout=_STATUS_S)
        if done:
            if not line.result():
                return
            try:
                rig.obey(json.loads(line.result()))
            except (ValueError, TypeError) as error:
                _say({"error": str(error)})
            line = asyncio.ensure_future(reader.readline())
        _say(rig.status())


def _link(folder, path):
    link = folder / "meter.tty"
    fresh = folder / "meter.tty.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path)
    os.replace(fresh, link)


def _check(options):
    if not Path(options.dir).is_dir():
        raise UserError("the run folder %s does not exist" % options.dir)
    if options.meter and not os.path.exists(options.meter):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % options.meter)


async def _run(options):
    folder = Path(options.dir)
    vehicle = Vehicle(folder / "pilot.bin")
    meter = None
    if options.meter:
        _link(folder, options.meter)
    else:
        meter = EmulatedMeter(unit=options.unit, baud=options.baud, latency_ms=options.latency_ms)
        await meter.start()
        _link(folder, meter.path)
    vehicle.start()
    rig = Rig(folder, meter, vehicle)
    _say({"ready": True, "path": options.meter or meter.path, **rig.status()})
    try:
        await _serve(rig)
    finally:
        vehicle.stop()
        if meter:
            await meter.stop()


def main():
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="emulated meter and vehicle")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--meter")
    parser.add_argument("--baud", type=int, default=9600)
    parser.add_argument("--unit", type=int, default=1)
    parser.add_argument("--latency-ms", type=int, default=40)
    try:
        options = parser.parse_args()
        _check(options)
        asyncio.run(_run(options))
    except UserError as error:
        print("rig: %s" % error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
