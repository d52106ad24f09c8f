"""Campaigns on the journal in MicroPython itself: its own littlefs (`power-cut-vfs`), a heap that
is all but full (`memory-journal`); `-ring` on the ring. scripts/journal.py does the work.
"""

import json
import os
import subprocess
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.faults.result import Result
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import ROOT

_SCRIPT = Path(__file__).resolve().parent / "scripts" / "journal.py"
_HEAP = "700k"
_LIMIT_S = 600
_NAMES = {"cut": "power-cut-vfs", "heap": "memory-journal"}


def _run(*arguments):
    program = micropython()
    if program is None:
        raise UserError("no MicroPython in build/bin; run 'make setup'")
    done = subprocess.run(
        [str(program), "-X", "heapsize=" + _HEAP, str(_SCRIPT), *map(str, arguments)],
        env=dict(os.environ, MICROPYPATH=micropython_path()), cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=_LIMIT_S)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise UserError("%s: %s" % (_SCRIPT.name, said[-1]))
    return json.loads(lines[-1])


def run(what, ring, each):
    """`what`: "cut" or "heap"; `each`: only every so manieth step of 32 bytes."""
    result = Result(_NAMES[what] + ("-ring" if ring else ""))
    store = "ring" if ring else "lfs"
    found = _run(what, store, "right", each)
    result.trials, result.violations = found["trials"], found["violations"]
    result.texts = found["texts"]
    result.counts["trials that ended early"] = found["refused"]
    wrong = _run(what, store, "wrong", each)
    result.controls["the second store hears of a frame before the flash has it"] = bool(
        wrong["violations"])
    return result
