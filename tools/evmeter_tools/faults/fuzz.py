"""Campaigns `fuzz-...`: the parsers under atheris, one process each, seeds from the tree.

Targets and seeds lie in host_tests/fuzz. A violation is an exception other than the one that the
parser declares, or an answer that an independent check contradicts.
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
TARGETS = ("modbus", "gate", "ack", "config", "ocmf")
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_AT = re.compile(r"^#(\d+)\s", re.MULTILINE)


def fuzz(target, trials=1000000, seed=1, progress=None):
    """Run `target` so many times. Raises UserError where atheris is missing."""
    if importlib.util.find_spec("atheris") is None:
        raise UserError("atheris is not installed; fuzzing needs it: pip install atheris==3.0.0")
    if not FOLDER.is_dir():
        raise UserError("%s is missing: fuzzing runs in a checkout" % FOLDER)
    result = Result("hostile-fuzz-" + target)
    found = BUILD / "fuzz" / target
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    command = [sys.executable, str(FOLDER / "run.py"), target, "-runs=%d" % trials,
               "-seed=%d" % seed, "-print_final_stats=1", "-max_len=4096", "-timeout=20",
               "-artifact_prefix=%s/" % (BUILD / "fuzz"), str(found),
               str(FOLDER / "seeds" / target)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
                          text=True, errors="replace") as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            del lines[:-60]
            at = _AT.match(line)
            if at:
                result.trials = int(at.group(1))
                if progress:
                    progress(min(result.trials, trials), trials)
    done = _DONE.findall("\n".join(lines))
    if done:
        result.trials = int(done[-1])
    result.counts["inputs kept for new paths"] = sum(1 for _ in found.iterdir())
    if process.returncode:
        result.wrong("\n".join(lines[-25:]))
    return result
