"""Run one target under atheris: run.py TARGET [options of libFuzzer] [folders of inputs]."""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from evmeter_tools import firmware  # noqa: E402

firmware.reach()
with atheris.instrument_imports(include=["drivers", "evmeter", "evmeter_tools.verify"]):
    import targets

name = sys.argv.pop(1)
atheris.Setup(sys.argv, targets.TARGETS[name])
atheris.Fuzz()
