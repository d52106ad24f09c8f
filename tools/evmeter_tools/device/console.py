"""`evmeter logs`, `evmeter shell`, `evmeter pull-journal`: look into a device on a serial port."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import serial
import typer

from evmeter_tools.device import run
from evmeter_tools.errors import UserError
from evmeter_tools.words import clean

_BAUD = 115200
_STEP_S = 0.2
# The firmware's watchdog bites 30 s after the firmware stands still, and cannot be stopped. To run
# this interrupts the firmware, too: mpremote's `repl` alone only listens.
_A_DAY = "from machine import WDT\nWDT(timeout=86400000)\n"
_Port = Annotated[str, typer.Option(help="Serial port of the device")]


def _open(port):
    line = serial.Serial()
    line.port, line.baudrate, line.timeout = port, _BAUD, _STEP_S
    # On the common boards these two lines hold the chip in reset, or in its boot loader.
    line.dtr = line.rts = False
    try:
        line.open()
    except (OSError, serial.SerialException) as error:
        raise UserError("the port %s cannot be opened: %s" % (
            port, os.strerror(error.errno) if error.errno else error)) from None
    return line


def logs(
    port: _Port,
    seconds: Annotated[int, typer.Option(min=0, help="End after so long; 0: at Ctrl-C")] = 0,
):
    """Show what the firmware says. Only listens: the device goes on metering.

    Example: evmeter logs --port /dev/ttyUSB0
    """
    run.check(port)
    end = time.monotonic() + seconds if seconds else None
    held = b""
    with _open(port) as line:
        try:
            while end is None or time.monotonic() < end:
                held += line.read(line.in_waiting or 1)
                *whole, held = held.split(b"\n")
                for text in whole:
                    print("%s  %s" % (time.strftime("%H:%M:%S"),
                                      clean(text.decode("utf-8", "replace").strip("\r"))),
                          flush=True)
        except (OSError, serial.SerialException):
            raise UserError("the port %s is gone; was the device unplugged?" % port) from None
        except KeyboardInterrupt:
            print()


def shell(port: _Port):
    """MicroPython's prompt on the device, by mpremote; Ctrl-X leaves it.

    The firmware stops, and with it the metering; it is started again at the end.

    Example: evmeter shell --port /dev/ttyUSB0
    """
    run.check(port)
    print("%s: the firmware stops; Ctrl-X leaves the prompt and starts it again" % port,
          file=sys.stderr)
    try:
        code = subprocess.run(run.mpremote(port, "exec", _A_DAY, "repl"), check=False).returncode
    finally:
        run.reset(port)
    raise typer.Exit(2 if code else 0)


def pull_journal(
    port: _Port,
    out: Annotated[Path, typer.Option(help="File for the copy of the flash")],
):
    """Copy the journal's flash out of a device; 'evmeter journal' reads the copy.

    The firmware stops meanwhile and is started again. Exit code 1 where what was copied is no
    sound journal: it is kept all the same.

    Example: evmeter pull-journal --port /dev/ttyUSB0 --out charger-17.img
    """
    from evmeter_tools.journal import words
    from evmeter_tools.journal.device import copy_flash
    from evmeter_tools.journal.scan import scan

    report = scan(copy_flash(port, out))
    print("\n".join(words.summary(report)))
    raise typer.Exit(0 if report.ok else 1)
