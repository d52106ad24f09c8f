"""The rig process: emulated meter, vehicle and pulse output around one device's run folder.

    python -m evmeter_tools.bench.rig --dir build/demo [--meter /dev/ttyUSB0] [--baud 9600]

Commands come as JSON lines on standard input: {"pilot": "C"}, {"offered_ma": 10000},
{"load_w": 7200}, {"latency_ms": 80}, {"quit": true}; each setting of bench/waveform.py, as
{"low_mv": -10700} or {"cp": "cut"}; each of bench/pulses.py behind "pulse_", as
{"pulse_bounces": 2}. Several in one object are carried out together or, where one is wrong, not at
all. Status goes out as JSON lines every 250 ms and after each command, after a first line with
"ready". The rig ends when its standard input is closed. Current flows only in state C or D while
current is offered.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import sys
import threading
import time
from pathlib import Path

from evmeter_tools.bench import pulses, waveform
from evmeter_tools.bench.meter import BAUDS, PARITIES, EmulatedMeter
from evmeter_tools.bench.pulses import PulseOutput, PulseTrain
from evmeter_tools.bench.rig_client import setting
from evmeter_tools.bench.vehicle import OPTIONS, Vehicle
from evmeter_tools.errors import UserError

_STATUS_S = 0.25
_STEP_S = 0.05  # of the load on its ramp
_PULSE_STEP_S = 0.02
_LIMITS = {"offered_ma": 80_000, "load_w": 100_000, "latency_ms": 60_000}
_PILOT = ("duty_percent", *OPTIONS)
_PULSE = "pulse_"


def _check_command(command, has_pulses):
    """Raises ValueError on anything but an object of known commands with values in range."""
    if not isinstance(command, dict):
        raise ValueError("a command is a JSON object")
    for name, value in command.items():
        if name in _LIMITS:
            if type(value) is not int or not 0 <= value <= _LIMITS[name]:
                raise ValueError("%s: a whole number from 0 to %d" % (name, _LIMITS[name]))
        elif name in _PILOT:
            waveform.check(name, value)
        elif name == "pilot":
            waveform.check("state", value)
        elif name.startswith(_PULSE) and name[len(_PULSE):] in pulses.SETTINGS:
            if not has_pulses:
                raise ValueError("%s: the rig has no pulse output; start it with --pulses" % name)
            pulses.check(name[len(_PULSE):], value)
        elif name != "quit":
            raise ValueError("unknown command %s; there is: pilot, quit, %s"
                             % (name, ", ".join((*_LIMITS, *_PILOT,
                                                 *(_PULSE + key for key in pulses.SETTINGS)))))


class Rig:
    """Meter and vehicle, linked by the load. `meter` is None beside a real one, `output` where
    there are no pulses. The load rises over `ramp_s` seconds and ends at once."""

    def __init__(self, meter, vehicle, load_w=7200, ramp_s=0, output=None):
        self._meter = meter
        self._vehicle = vehicle
        self._output = output
        self._load_w = load_w
        self._ramp_s = ramp_s
        self._target_w = 0
        self._flowing_w = 0

    def obey(self, command):
        """Carry out one command; returns whether it is the last. Raises ValueError on a wrong
        one, which changes nothing."""
        _check_command(command, self._output is not None)
        vehicle = self._vehicle
        vehicle.set(command.get("pilot"), command.get("offered_ma"),
                    **{name: command[name] for name in _PILOT if name in command})
        if self._output:
            self._output.train.set(**{name: command[_PULSE + name] for name in pulses.SETTINGS
                                      if _PULSE + name in command})
        self._load_w = command.get("load_w", self._load_w)
        if self._meter and "latency_ms" in command:
            self._meter.latency_ms = command["latency_ms"]
        # a vehicle whose pilot is shorted stops; where only the board is cut off, it does not
        flows = vehicle.state in "CD" and vehicle.offered_ma > 0 and vehicle.cp != "short"
        self._target_w = self._load_w if flows else 0
        if not self._ramp_s or self._target_w < self._flowing_w:
            self._flow(self._target_w)
        return bool(command.get("quit"))

    def _flow(self, load_w):
        self._flowing_w = load_w
        if self._meter:
            self._meter.set_load(load_w)
        if self._output:
            self._output.set_load(load_w)

    async def ramp(self):
        """Let the load rise to its target, for ever."""
        while True:
            await asyncio.sleep(_STEP_S)
            if self._flowing_w < self._target_w:
                step_w = int(self._load_w * _STEP_S / self._ramp_s) + 1
                self._flow(min(self._target_w, self._flowing_w + step_w))

    async def pulse(self):
        """Give pulses for ever."""
        while True:
            self._output.tick()
            await asyncio.sleep(_PULSE_STEP_S)

    def status(self):
        """What a reader of the rig's output sees."""
        found = {"mono_ms": time.monotonic_ns() // 1_000_000, "pilot": self._vehicle.state,
                 "pilot_unix_ms": self._vehicle.edge_unix_ms, "load_w": self._flowing_w}
        if self._meter:
            found["register_wh"] = self._meter.register_wh
            found["register_bits"] = self._meter.register_bits
            step_mwh = self._meter.profile.data["step_mwh"]
            found["register_mwh"] = ((self._meter.register_mwh + step_mwh // 2)
                                     // step_mwh * step_mwh)
            found["requests"] = self._meter.wire.requests
        if self._output:
            found["pulses_due"] = self._output.train.due
            found["pulses_sent"] = self._output.train.sent
        return found


def _say(message):
    print(json.dumps(message), flush=True)


def _read_commands(loop, queue):
    """Thread: put the lines of standard input into the queue, None at its end. A thread serves
    a pipe, a file and a terminal alike; unbuffered, so that it can be left behind at the end."""
    with contextlib.suppress(RuntimeError):  # the loop has ended before the input
        with (contextlib.suppress(OSError),  # a terminal that went away, a folder
              open(0, "rb", buffering=0, closefd=False) as commands):
            for line in commands:
                loop.call_soon_threadsafe(queue.put_nowait, line)
        loop.call_soon_threadsafe(queue.put_nowait, None)


async def _serve(rig):
    queue = asyncio.Queue()
    threading.Thread(target=_read_commands, args=(asyncio.get_running_loop(), queue),
                     daemon=True).start()
    over = False
    while not over:
        try:
            # no line by then: time for the next status
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(queue.get(), _STATUS_S)
                if line is None:
                    return
                over = rig.obey(json.loads(line))
        except (ValueError, RecursionError) as error:
            _say({"error": str(error)})
        _say(rig.status())


def link(folder, path):
    """Show the device in `folder` its meter's line."""
    link = folder / "meter.tty"
    fresh = folder / "meter.tty.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path)
    os.replace(fresh, link)


_RANGES = {"unit": (1, 247), "latency_ms": (0, 60_000), "register_wh": (0, 10**9),
           "serial": (0, 2**32 - 1), "load_w": (0, 100_000), "ramp_s": (0, 3600)}


def _check(options):
    if not Path(options.dir).is_dir():
        raise UserError("the run folder %s does not exist" % options.dir)
    if options.meter and not os.path.exists(options.meter):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % options.meter)
    if options.baud not in BAUDS:
        raise UserError("--baud %d: allowed: %s" % (options.baud, ", ".join(map(str, BAUDS))))
    for name, (least, most) in _RANGES.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise UserError("--%s %s: allowed: %d to %d"
                            % (name.replace("_", "-"), value, least, most))


def _front_end(text):
    """A front end's name, or its zero and its gain."""
    if "," not in text:
        return text
    try:
        zero_mv, gain = map(float, text.split(","))
        if not (math.isfinite(zero_mv) and 1 <= gain <= 1000):
            raise ValueError
    except ValueError:
        raise UserError("--front-end %s: a name, or mV at 0 V and mV per volt, as 1300,88.5"
                        % text) from None
    return zero_mv, gain


def _vehicle(options, folder):
    try:
        return Vehicle(folder / "pilot.bin", front_end=_front_end(options.front_end),
                       noise_mv=options.noise_mv)
    except ValueError as error:
        raise UserError(str(error)) from None


def _output(options, folder):
    if not options.pulses:
        return None
    try:
        return PulseOutput(folder / "pulses.bin", PulseTrain(options.pulses))
    except ValueError as error:
        raise UserError("--pulses: %s" % error) from None


async def _run(options):
    folder = Path(options.dir)
    vehicle = _vehicle(options, folder)
    first = dict(setting(text) for text in options.set)
    try:
        _check_command(first, bool(options.pulses))
    except ValueError as error:
        raise UserError("--set: %s" % error) from None
    output = _output(options, folder)
    meter = None
    if not options.meter:
        meter = EmulatedMeter(
            profile=options.profile, unit=options.unit, baud=options.baud, parity=options.parity,
            serial=options.serial, latency_ms=options.latency_ms, register_wh=options.register_wh)
        await meter.start()
    path = options.meter or meter.path
    link(folder, path)
    vehicle.start()
    rig = Rig(meter, vehicle, options.load_w, options.ramp_s, output)
    rig.obey(first)
    tasks = [asyncio.create_task(rig.ramp())] if options.ramp_s > 0 else []
    if output:
        tasks.append(asyncio.create_task(rig.pulse()))
    try:
        _say({"ready": True, "path": path, **rig.status()})
        await _serve(rig)
    finally:
        for task in tasks:
            task.cancel()
        vehicle.stop()
        if output:
            output.close()
        if meter:
            # the number of a closed pty goes to the next terminal on this machine
            (folder / "meter.tty").unlink(missing_ok=True)
            await meter.stop()


def _options():
    parser = argparse.ArgumentParser(description="emulated meter, vehicle and pulses")
    parser.add_argument("--dir", required=True, help="run folder of the device")
    parser.add_argument("--meter", help="serial port of a real meter; default: an emulated one")
    parser.add_argument("--profile", default="eastron_sdm120", help="which meter is emulated")
    parser.add_argument("--baud", type=int, default=9600)
    parser.add_argument("--parity", choices=PARITIES, default="N")
    parser.add_argument("--unit", type=int, default=1)
    parser.add_argument("--latency-ms", type=int, default=40, help="of the meter's answers")
    parser.add_argument("--register-wh", type=int, default=1234567, help="at the start")
    parser.add_argument("--serial", type=int, default=21034567, help="serial number")
    parser.add_argument("--load-w", type=int, default=7200, help="while current flows")
    parser.add_argument("--ramp-s", type=float, default=0, help="time for the load to rise")
    parser.add_argument("--noise-mv", type=float, default=4, help="of the pilot, at the pin")
    parser.add_argument("--front-end", default="fe3",
                        help="of the pilot: fe1, fe2, fe3 or ZERO_MV,MV_PER_VOLT")
    parser.add_argument("--pulses", type=int, default=0, metavar="IMP",
                        help="also an S0 output with so many pulses a kWh; default: none")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="a command from the start, e.g. low_mv=-10700; may be repeated")
    return parser.parse_args()


def main():
    """Entry point of the process."""
    try:
        os.fstat(0)
    except OSError:  # started with standard input closed: the next file would take its number
        os.open(os.devnull, os.O_RDONLY)
    try:
        options = _options()
        _check(options)
        asyncio.run(_run(options))
    except UserError as error:
        print("rig: %s" % error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the status is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
