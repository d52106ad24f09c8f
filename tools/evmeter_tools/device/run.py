"""Run a piece of the firmware on a device and read its lines, as they come.

On a serial port by mpremote, which interrupts the firmware; on the host board as a process of its
own in the run folder, while the firmware does not run there.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice

RESET_S = 30
END_S = 5


def mpremote(port, *arguments):
    """The command that has mpremote do something on `port` without a reset before."""
    return [sys.executable, "-m", "mpremote", "connect", port, "resume", *arguments]


def reset(port):
    """Start the firmware again; returns whether that worked, and tells the user if it did not."""
    try:
        subprocess.run(mpremote(port, "reset"), capture_output=True, timeout=RESET_S,
                       stdin=subprocess.DEVNULL, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        print("%s: could not be started again; where it was stopped at all (a closed prompt stops "
              "nothing), switch its power off and on" % port, file=sys.stderr)
        return False
    return True


def _pump(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def lines_of(process, silence_s):
    """Yield the lines that a process prints, as text; raise UserError after a silence."""
    lines = queue.Queue()
    pump = threading.Thread(target=_pump, args=(process.stdout, lines))
    pump.start()
    try:
        while True:
            try:
                line = lines.get(timeout=silence_s)
            except queue.Empty:
                raise UserError(
                    "the device does not answer: is it the right port, with MicroPython's REPL "
                    "on it, and does no other program hold it?") from None
            if line is None:
                break
            yield line.decode("ascii", "replace").strip()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    finally:
        process.kill()
        pump.join()


def last_error(process):
    """The last line of what a process said on standard error, or ""."""
    said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
    return said[-1][:200] if said else ""


def objects(program, *, port=None, folder=None, silence_s=60):
    """Yield each JSON object that `program` (Python for the device) prints as a line.

    Raises UserError where the device does not answer or the program does not run to its end.
    """
    env = None
    if port:
        command = mpremote(port, "exec", program)
    else:
        device = HostDevice(folder)
        if not (device.folder / "config.json").exists():
            raise UserError("%s is no run folder of the host board: it has no config.json"
                            % folder)
        script = Path(device.folder) / "program.py"
        script.write_text(program)
        command, env = device.command(script)
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        for line in lines_of(process, silence_s):
            if line.startswith("{"):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise UserError("a line was garbled on its way (%.40s...); try again"
                                    % line) from None
        if process.wait():
            raise UserError("the device could not do it: %s"
                            % (last_error(process) or "no reason given"))
