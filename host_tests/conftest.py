"""Paths and the CPython shim; nothing else, so that the tests run without pytest too."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
for _folder in ("host_tests", "build/upy-lib/micropython-umqtt.simple", "boards/host", "tools",
                ".", "firmware"):
    sys.path.insert(0, str(_ROOT / _folder))

import cpython_shim  # noqa: E402

cpython_shim.install()
