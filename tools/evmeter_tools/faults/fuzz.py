"""Campaigns `hostile-fuzz-...`: the parsers under atheris, one process each, seeds from the tree.

Targets, seeds and the wrong parsers lie in host_tests/fuzz. A violation is an exception other than
the one that the parser declares, or an answer that an independent check contradicts.
"""

import importlib.util
import re
import shutil
import subprocess
import sys

from evmeter_tools.errors import UserError
from evmeter_tools.faults.result import Result
from evmeter_tools.paths import BUILD, ROOT

FOLDER = ROOT / "host_tests" / "fuzz"
# target -> its wrong parsers, by name
TARGETS = {
    "modbus": ("no CRC", "no exceptions", "waits for more"),
    "registers": ("through floats", "without signs"),
    "gate": ("no step rule", "no range"),
    "profile": ("any size", "takes none"),
    "config": ("no limit", "defaults in place of errors"),
    "ack": ("any key", "any number"),
    "command": ("any device", "any field"),
    "wish": ("what is hidden is lost", "the old one in place of errors"),
    "mqtt": ("no PUBACK", "any packet"),
    "ocmf": ("any signature", "another text"),
    "key": ("any point",),
    "audit": ("any entry", "no reasons"),
    "checkpoint": ("any length", "no sign"),
    "journal": ("a number twice", "no CRC"),
    "sntp": ("a second off", "too sure"),
    "dns": ("any question", "any code"),
    "certificate": ("local time",),
}
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_AT = re.compile(r"^#(\d+)\s", re.MULTILINE)
_FOUND = re.compile(r"Uncaught Python exception.*\s+AssertionError")
_CONTROL_TRIALS = 20000
_LAST_LINES = 60
# bytes of an input: where more of the same costs time and finds nothing
_LONGEST = {"mqtt": 300, "journal": 100, "gate": 200, "registers": 40, "checkpoint": 80,
            "dns": 300, "certificate": 600}
_LONG = 4096


def is_there():
    """Whether atheris can be had: it is a wheel for Linux on x86-64, Python 3.11 to 3.13."""
    return importlib.util.find_spec("atheris") is not None


def _play(target, options, found, told):
    """Run the fuzzer; returns (exit code, its last lines). `told(number)`: inputs tried."""
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    command = [sys.executable, str(FOLDER / "run.py"), target, *options, "-print_final_stats=1",
               "-max_len=%d" % _LONGEST.get(target, _LONG), "-timeout=20",
               "-artifact_prefix=%s/" % found.parent, str(found),
               str(FOLDER / "seeds" / target)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
                          text=True, errors="replace") as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            del lines[:-_LAST_LINES]
            at = _AT.match(line)
            if at:
                told(int(at.group(1)))
    text = "\n".join(lines)
    done = _DONE.findall(text)
    if done:
        told(int(done[-1]))
    return process.returncode, text


def fuzz(target, trials=1000000, seed=1, progress=None, control_trials=_CONTROL_TRIALS):
    """Run `target` so many times, then look whether it notices its wrong parsers. Raises UserError
    where atheris is missing."""
    if not is_there():
        raise UserError("atheris is not installed; it is a wheel for Linux on x86-64 with Python "
                        "3.11 to 3.13, where `make setup` installs it")
    if not FOLDER.is_dir():
        raise UserError("%s is missing: fuzzing runs in a checkout" % FOLDER)
    result = Result("hostile-fuzz-" + target)

    def told(number):
        result.trials = number
        if progress:
            progress(min(number, trials), trials)

    found = BUILD / "fuzz" / target
    code, text = _play(target, ["-runs=%d" % trials, "-seed=%d" % seed], found, told)
    result.counts["inputs kept for new paths"] = sum(1 for _ in found.iterdir())
    if code:
        result.wrong(text[-2000:])
    for name in TARGETS[target] if control_trials else ():
        code, text = _play(target, ["--wrong", name, "-runs=%d" % control_trials,
                                    "-seed=%d" % seed], BUILD / "fuzz" / "wrong" / target,
                           lambda number: None)
        result.controls[name] = code != 0 and bool(_FOUND.search(text))
    return result
