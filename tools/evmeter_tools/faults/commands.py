"""Campaign `hostile-commands`: forged, changed, repeated and delayed commands, on CPython and in
MicroPython, whose json takes what CPython's does not. scripts/commands.py holds the attacks."""

import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.faults import fakes
from evmeter_tools.faults.result import Result
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import ROOT

_SCRIPTS = Path(__file__).resolve().parent / "scripts"
_HEAP = "1m"
_LIMIT_S = 900
_CONTROL_EVERY = 61


def _attacks():
    """The attacks, in this process."""
    fakes.reach()
    if str(_SCRIPTS) not in sys.path:
        sys.path.append(str(_SCRIPTS))
    return importlib.import_module("commands")


def _in_micropython(every):
    program = micropython()
    if program is None:
        raise UserError("no MicroPython in build/bin; run 'make setup'")
    done = subprocess.run(
        [str(program), "-X", "heapsize=" + _HEAP, str(_SCRIPTS / "commands.py"), str(every)],
        env=dict(os.environ, MICROPYPATH=micropython_path(fakes.TESTS)), cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise UserError("commands.py: %s" % (done.stderr or done.stdout).strip()[-200:])
    return json.loads(lines[-1])


def run(every, progress=lambda done, all_: None):
    """`every`: only every so manieth bit is flipped (1: all of them)."""
    result = Result("hostile-commands")
    attacks = _attacks()
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL)  # each refusal is a warning
    try:
        steps = 2 + len(attacks.WRONG)
        court = attacks.run(every)
        told = [("CPython", court.trials, court.counts, court.texts)]
        progress(1, steps)
        found = _in_micropython(2 * every)
        told.append(("MicroPython", found["trials"], found["counts"], found["texts"]))
        progress(2, steps)
        for at, name in enumerate(attacks.WRONG):
            result.controls[name] = bool(attacks.run(_CONTROL_EVERY, name).texts)
            progress(3 + at, steps)
    finally:
        logging.getLogger().setLevel(level)
    for where, trials, counts, texts in told:
        result.trials += trials
        for kind, number in counts.items():
            result.counts[kind] += number
        for text in texts:
            result.wrong("%s: %s" % (where, text))
    return result
