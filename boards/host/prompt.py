"""drivers/prompt.py for the host board: closed is what the run folder's second store says.

On the unix port Ctrl-C is SIGINT, and the prompt comes with the next process on the same terminal
(tools/evmeter_tools/bench/console.py).
"""

import os
import sys
import time

import micropython
from micropython import const

from host_nvs import NvsFile

_KEY = "lock"
_CTRL_C = const(3)
_PAUSE_MS = const(500)
_RESTART = const(3)  # exit code

_closed = [True]


def _store():
    return NvsFile(os.getenv("EVMETER_HOST_DIR") + "/nvs.json")


def _restart():
    with open(os.getenv("EVMETER_HOST_DIR") + "/reset", "w") as file:
        file.write("software")
    sys.exit(_RESTART)


def ask():
    """As drivers/prompt.py."""
    try:
        _closed[0] = _store().get_i32(_KEY) != 0
    except (OSError, TypeError):  # nobody has closed it yet, or there is no run folder
        _closed[0] = False
    if not _closed[0]:
        micropython.kbd_intr(_CTRL_C)


def hand_over():
    """As drivers/prompt.py."""
    if _closed[0]:
        nvs = _store()
        nvs.set_i32(_KEY, 0)
        nvs.commit()
        _restart()


def leave(error=None):
    """As drivers/prompt.py."""
    if not _closed[0]:
        return
    if error and not isinstance(error, SystemExit):
        sys.print_exception(error)
        time.sleep_ms(_PAUSE_MS)
    _restart()
