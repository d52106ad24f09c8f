"""Verifiers of OCMF that are not ours, for the tests under CPython."""

import json
import shutil
import subprocess
from pathlib import Path

import pyocmf
import pytest

_ROOT = Path(__file__).resolve().parents[1]


def mutations(record):
    """Return the record with each character of its payload changed, two ways."""
    start, end = record.index("|") + 1, record.rindex("|")
    out = []
    for at in range(start, end):
        old = record[at]
        for new in (chr(ord(old) ^ 1), "0" if old != "0" else "9"):
            out.append(record[:at] + new + record[at + 1 :])
    return [text for text in out if text != record]


def node(key, records):
    """Return what @road-labs/ocmf says of each record; skip only where Node.js itself lacks."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js on this machine")
    done = subprocess.run(
        [program, str(_ROOT / "host_tests/node/verify.mjs"), str(_ROOT / "build/node")],
        input=json.dumps({"key": key, "records": records}),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, "@road-labs/ocmf does not run: " + done.stderr
    return json.loads(done.stdout)


def pyocmf_accepts(key, text):
    """Whether pyocmf in strict mode takes the record and its signature."""
    try:
        return pyocmf.OCMF.from_string(text, strict=True).verify_signature(key)
    except pyocmf.PyOCMFError:
        return False
