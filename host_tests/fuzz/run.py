"""Run one target under atheris: run.py TARGET [--wrong NAME] [options of libFuzzer] [folders].

--wrong puts a wrong parser in the place of the right one.
"""

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_tests/fuzz"), str(ROOT / "host_tests"), str(ROOT / "tools")]

from evmeter_tools import firmware  # noqa: E402

firmware.reach()
with atheris.instrument_imports(include=["drivers", "evmeter", "evmeter_tools.verify", "umqtt"]):
    import targets

name = sys.argv.pop(1)
if sys.argv[1] == "--wrong":
    setattr(*targets.WRONG[name][sys.argv[2]])
    del sys.argv[1:3]
atheris.Setup(sys.argv, targets.TARGETS[name])
atheris.Fuzz()
