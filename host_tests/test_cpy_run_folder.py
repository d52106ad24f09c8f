"""A run's folder: nothing of somebody else's is lost, no two runs share one."""

import subprocess
import sys

import pytest

from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT
from evmeter_tools.run_folder import empty

_OTHER = """\
import sys
sys.path.insert(0, sys.argv[1])
from evmeter_tools.run_folder import empty
empty(sys.argv[2])
print("mine", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_emptied_where_it_is_ours(tmp_path):
    folder = tmp_path / "run"
    (empty(folder) / "old").write_text("x")
    assert [path.name for path in empty(folder).iterdir()] == ["run-folder.txt"]


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "letter").write_text("x")
    with pytest.raises(UserError, match="holds something else; give an empty folder"):
        empty(tmp_path)
    assert (tmp_path / "letter").read_text() == "x"


def test_another_run_keeps_its_folder(tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(ROOT / "tools"), str(folder)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "mine\n"
        (folder / "kept").write_text("x")
        with pytest.raises(UserError, match="another run is at work in"):
            empty(folder)
        assert (folder / "kept").exists()
    finally:
        other.communicate()
    assert [path.name for path in empty(folder).iterdir()] == ["run-folder.txt"]
