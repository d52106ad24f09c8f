"""Whose MicroPython's prompt is: nobody's, on a device in service. Lies beside boot.py in the
chip's file system, where no update replaces it.

The port looks for Ctrl-C while it takes a byte from UART0 or USB, and ends the program there;
boot.py and main.py both start with that (MicroPython's shared/runtime/pyexec.c), and switch it
off before anything else. Any other byte waits for a prompt, and there is one only where main.py
has ended (ports/esp32/main.c): a device whose prompt is closed restarts there.
"""

import sys
import time

import machine
import micropython
from esp32 import NVS
from micropython import const

_KEY = "lock"  # 1: closed
_CTRL_C = const(3)
_PAUSE_MS = const(5000)  # between two restarts: each boot is counted in flash

_closed = [True]  # as long as it is not known


def ask():
    """Give Ctrl-C back, unless the prompt is closed."""
    try:
        _closed[0] = NVS("evmeter").get_i32(_KEY) != 0
    except OSError:  # nobody has closed it yet
        _closed[0] = False
    if not _closed[0]:
        micropython.kbd_intr(_CTRL_C)


def hand_over():
    """Open a closed prompt for whoever stands beside the device; by a restart."""
    if _closed[0]:
        nvs = NVS("evmeter")
        nvs.set_i32(_KEY, 0)
        nvs.commit()
        machine.reset()


def leave(error=None):
    """The program has ended, by `error`; returns where the prompt may come."""
    if not _closed[0]:
        return
    try:
        if error:
            sys.print_exception(error)
        time.sleep_ms(_PAUSE_MS)
    finally:
        machine.reset()
