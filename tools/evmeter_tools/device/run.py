"""Run a piece of the firmware on a device and read its lines, as they come.

On a serial port by mpremote, which interrupts the firmware; on the host board as a process of its
own in the run folder, while the firmware does not run there.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice

RESET_S = 30
END_S = 5
# what mpremote says, and what it means
_CLOSED = ("could not enter raw repl: nobody answers there. Where the prompt is closed, 'evmeter "
           "unlock' it first; else press reset, then give the command again")
_GARBLED = ("the line garbles what is sent, or the device was just starting: check the cable, "
            "then give the command again")
_BROKE_OFF = "the line to the device broke off: was it unplugged? Then give the command again"
_WORDS = (
    ("failed to access", "the port cannot be opened: does another program hold it?"),
    ("could not enter raw repl", _CLOSED),
    ("could not exec command", _GARBLED),
    ("Input/output error", _BROKE_OFF),
    ("device disconnected", _BROKE_OFF),
    ("write failed", _BROKE_OFF),
    ("No such device", _BROKE_OFF),
)


def check(port):
    """Raise UserError where there is no serial port `port`, or it is not this user's to open."""
    if not port:
        raise UserError("give the device's serial port as --port")
    if port.startswith("/"):
        if not os.path.exists(port):
            raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % port)
        if not os.access(port, os.R_OK | os.W_OK):
            raise UserError("the port %s cannot be opened: no permission; its group is that of "
                            "'ls -l %s'" % (port, port))


def _meaning(said):
    for words, meaning in _WORDS:
        if words in said:
            return meaning
    return "the device could not do it: %s" % (said or "no reason given")


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
    if port is not None:
        check(port)
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
            why = _meaning(last_error(process))
            raise UserError("%s: %s" % (port, why) if port else why)
