"""Paths, the CPython shim, Ctrl-C; nothing else, so that the tests run without pytest too."""

import signal
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
for _folder in ("host_tests", "build/upy-lib/micropython-umqtt.simple", "boards/host", "tools",
                ".", "firmware"):
    sys.path.insert(0, str(_ROOT / _folder))

import cpython_shim  # noqa: E402

cpython_shim.install()

# a shell that runs this behind itself has it ignored, and so every program that a test ends by it
signal.signal(signal.SIGINT, signal.default_int_handler)

# they wait longest: of files that run side by side these begin first
_LONGEST = ("test_cpy_update.py", "test_cpy_update_files.py", "test_cpy_network.py",
            "test_cpy_faults.py", "test_cpy_end_to_end.py")


def pytest_collection_modifyitems(items):
    """The longest first, else as they stand."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name)
               if item.path.name in _LONGEST else len(_LONGEST))
