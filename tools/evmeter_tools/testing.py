"""`evmeter selftest`: lint, the tests on CPython, the shared tests on MicroPython, one count."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from evmeter_tools.errors import UserError
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import BUILD, ROOT

# Objects of the 64-bit port are twice as large as the chip's, and sources are compiled into the
# heap: the largest file needs some 125 KiB. What the firmware needs on 32 bits is measured apart.
_HEAP = "192k"
_TESTS = ROOT / "host_tests"
_TIMEOUT_S = 600
_AT_ONCE = 2
_WORKERS = 3  # most tests wait for a bench, not for the processor
_COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped|xfailed|xpassed)")


class Counts:
    """What passed, failed and was skipped, summed over all parts."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, line):
        """Take the counts in a runner's closing line; returns whether there were any."""
        found = _COUNT.findall(line)
        for number, what in found:
            if what == "passed":
                self.passed += int(number)
            elif what in ("skipped", "xfailed"):
                self.skipped += int(number)
            else:
                self.failed += int(number)
        return bool(found)


def shared_tests():
    """Names of the test modules that both interpreters run."""
    return [path.stem for path in sorted(_TESTS.glob("test_*.py"))
            if not path.stem.startswith("test_cpy_")]


def _last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _lint(counts):
    begun = time.monotonic()
    done = subprocess.run([str(BUILD / "venv/bin/ruff"), "check", "--quiet", "."], cwd=ROOT,
                          check=False)
    counts.add("1 passed" if done.returncode == 0 else "1 failed")
    print("%-44s %s (%d s)" % ("ruff", "ok" if done.returncode == 0 else "FAILED",
                               time.monotonic() - begun), flush=True)


def _cpython(counts, only):
    print("CPython %s, pytest:" % sys.version.split()[0], flush=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no",
               "-n", str(_WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]
    if only:
        command += ["-k", only]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        last = ""
        for line in process.stdout:
            print("  " + line, end="", flush=True)
            last = line if line.strip() else last
        process.wait()
    if not counts.add(last) or (process.returncode not in (0, 1, 5)):
        counts.failed += 1


def _one(name):
    """Run one file; returns (name, exit code, standard output, standard error, seconds)."""
    env = dict(os.environ, MICROPYPATH=micropython_path(_TESTS))
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [str(micropython()), "-X", "heapsize=" + _HEAP, str(_TESTS / "run_micropython.py"),
             name], env=env, cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=_TIMEOUT_S)
        result = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        result = 1, "", "no end within %d s" % _TIMEOUT_S
    return name, *result, time.monotonic() - begun


def judge(counts, code, output):
    """Count one file's run by its exit code and its closing line; returns (good, that line).

    A run that did not come to its closing line, or failed outside a test, is one failure.
    """
    last = _last_line(output)
    failed = counts.failed
    told = counts.add(last)
    if not told or (code and counts.failed == failed):
        counts.failed += 1
    return counts.failed == failed, last if told else "did not end"


def _micropython(counts, only):
    if micropython() is None:
        print("MicroPython: FAILED, there is none; run 'make setup'")
        counts.failed += 1
        return
    print("MicroPython, one process a file, heap %s:" % _HEAP, flush=True)
    names = [name for name in shared_tests() if not only or only in name]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, code, output, errors, seconds in pool.map(_one, names):
            good, words = judge(counts, code, output)
            print("  %-42s %s (%d s)" % (name, words, seconds), flush=True)
            if not good:
                print(output + errors, flush=True)


def selftest(
    only: Annotated[
        str, typer.Option(help="Only tests whose name holds this; no lint")] = "",
):
    """Run every test; the last line counts them. Exit code 1 where one failed.

    Example: evmeter selftest --only journal
    """
    if not _TESTS.is_dir():
        raise UserError("%s is missing: the self-test runs in a checkout" % _TESTS)
    counts = Counts()
    if not only:
        _lint(counts)
    _cpython(counts, only)
    _micropython(counts, only)
    if not counts.passed:
        counts.failed += 1
        print("no test ran")
    print("%d passed, %d failed, %d skipped" % (counts.passed, counts.failed, counts.skipped))
    raise typer.Exit(1 if counts.failed else 0)
