"""The set-up's choices: apt sources, programs from PATH or fetched, lock files, counting."""

import json
import re
import sys
from pathlib import Path

import pytest

from evmeter_tools.testing import Counts, judge

SETUP = Path(__file__).resolve().parents[1] / "tools" / "setup"
sys.path.insert(0, str(SETUP))

import bootstrap  # noqa: E402
import debian  # noqa: E402

_MODERN = """\
# made by the installer
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/a.gpg

Types: deb
URIs: http://switched.off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main
"""
_OLD = """\
deb cdrom:[Debian_12]/ bookworm main
# deb http://comment.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/Keys/vendor.gpg] http://vendor.example/linux bookworm stable
deb\t[Signed-By=/usr/Share/a.gpg trusted=yes] http://archive.example/debian bookworm main non-free
"""


def _archives(tmp_path, name, text, own="bookworm"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return debian.archives(debian.sources(tmp_path), own)


def test_a_modern_source_is_taken_with_the_key_that_stands_in_it(tmp_path):
    found = _archives(tmp_path, "sources.list.d/debian.sources", _MODERN)
    assert [fields["uris"] for fields in found] == ["http://archive.example/debian"]
    assert debian.stanza(found[0], "trixie").splitlines() == [
        "Types: deb", "URIs: http://archive.example/debian", "Suites: trixie",
        "Components: main", "signed-by: ", " -----BEGIN PGP PUBLIC KEY BLOCK-----", " .", " mQ",
        " -----END PGP PUBLIC KEY BLOCK-----"]


@pytest.mark.parametrize("name", ["sources.list", "sources.list.d/debian.list"])
def test_a_source_of_one_line_is_taken_with_its_options(tmp_path, name):
    found = _archives(tmp_path, name, _OLD)
    assert [debian.stanza(fields, "trixie").splitlines() for fields in found] == [[
        "Types: deb", "URIs: http://archive.example/debian", "Suites: trixie",
        "Components: main", "signed-by: /usr/Share/a.gpg", "trusted: yes"]]


def test_a_suite_may_go_by_its_alias_and_none_is_an_error(tmp_path):
    line = "deb http://archive.example/debian stable main\n"
    assert _archives(tmp_path, "sources.list", line)[0]["uris"].endswith("/debian")
    with pytest.raises(debian.FetchError, match="no source for the main part of bookworm"):
        _archives(tmp_path, "sources.list", "deb http://vendor.example/x bookworm stable\n")


def test_the_suite_is_read_from_the_release_file(tmp_path):
    release = tmp_path / "os-release"
    with pytest.raises(debian.FetchError, match="no Debian"):
        debian.codename(release)
    release.write_text("NAME=other\n")
    with pytest.raises(debian.FetchError, match="no Debian"):
        debian.codename(release)
    release.write_text('NAME="Debian"\nVERSION_CODENAME="bookworm"\n')
    assert debian.codename(release) == "bookworm"


def _fake(folder, name, version):
    """A program that answers the set-up's probes like MicroPython and mosquitto."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    answer = "mosquitto version %s" % version if name == "mosquitto" else version
    path.write_text("#!/bin/sh\necho %s\n" % answer)
    path.chmod(0o755)
    return path


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build folder, a PATH of two folders, and nothing to fetch from."""
    folder = tmp_path / "build"
    folder.mkdir()
    monkeypatch.setattr(bootstrap, "BUILD", folder)
    monkeypatch.setattr(bootstrap, "BIN", folder / "bin")
    monkeypatch.setenv("PATH", ":".join(
        str(path) for path in (folder / "bin", tmp_path / "one", tmp_path / "two")))
    for name in ("MICROPYTHON", "MOSQUITTO"):
        monkeypatch.delenv("EVMETER_" + name, raising=False)

    def fetch(*_):
        raise debian.FetchError("no network")

    monkeypatch.setattr(debian, "fetch", fetch)
    return folder


def test_the_first_program_in_path_that_will_do_is_wrapped(build, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "micropython").mkdir()  # a folder of sources is no program
    _fake(tmp_path / "two", "micropython", "1 25")
    where, version, words = bootstrap.micropython()
    assert (version, words) == ("1.25", "from PATH")
    assert str(tmp_path / "two") in where.read_text()
    text = where.read_text()
    bootstrap.micropython()
    assert where.read_text() == text  # its own wrapper comes first in PATH: passed over


def test_too_old_a_micropython_is_passed_over(build, tmp_path):
    _fake(tmp_path / "one", "micropython", "1 24")
    with pytest.raises(debian.FetchError, match="no network"):
        bootstrap.micropython()
    _fake(tmp_path / "two", "micropython", "1 26")
    assert bootstrap.micropython()[1] == "1.26"


@pytest.mark.parametrize(("way", "error"), [
    ("none", "switched off by EVMETER_MICROPYTHON=none"),
    ("path", "PATH has no MicroPython of 1.25 or newer"),
    ("fetch", "no network"),
    ("hope", "EVMETER_MICROPYTHON=hope: allowed: path, fetch, none"),
])
def test_what_is_missing_leaves_no_wrapper_behind(build, tmp_path, monkeypatch, way, error):
    fake = _fake(tmp_path / "one", "micropython", "1 25")
    bootstrap.micropython()
    if way == "path":
        fake.unlink()
    monkeypatch.setenv("EVMETER_MICROPYTHON", way)
    with pytest.raises((bootstrap.SetupError, debian.FetchError), match=re.escape(error)):
        bootstrap.micropython()
    assert not (build / "bin" / "micropython").exists()


def test_mosquitto_in_path_is_wrapped_and_one_that_is_none_is_not(build, tmp_path, monkeypatch):
    fake = _fake(tmp_path / "one", "mosquitto", "2.0.11")
    assert bootstrap.mosquitto()[1:] == ("2.0.11", "from PATH")
    fake.write_text("#!/bin/sh\necho something else\n")
    monkeypatch.setattr(bootstrap, "_in_path", lambda name: [fake])
    with pytest.raises(debian.FetchError):
        bootstrap.mosquitto()


def test_python_packages_are_pinned_with_hashes():
    lock = (SETUP / "requirements.txt").read_text()
    entries = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)[^\n]*\\\n"
                         r"((?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n)+)", lock, re.MULTILINE)
    names = re.findall(r"^[A-Za-z][^\s=\[]*", lock, re.MULTILINE)
    assert [entry[0] for entry in entries] == names
    locked = {name.lower(): version for name, version, _ in entries}
    direct = (SETUP / "requirements.in").read_text().splitlines()
    assert direct
    for line in direct:
        name, version = line.split(";")[0].strip().split("==")
        assert locked[name.lower()] == version, name


def test_node_packages_are_pinned_with_hashes():
    lock = json.loads((SETUP / "package-lock.json").read_text())
    wanted = json.loads((SETUP / "package.json").read_text())["dependencies"]
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry.get("integrity", "").startswith("sha512-") for entry in packages.values())
    for name, version in wanted.items():
        assert packages["node_modules/" + name]["version"] == version


@pytest.mark.parametrize(("code", "output", "expected"), [
    (0, "3 passed, 0 failed\n", (3, 0)),
    (1, "FAILED x\n2 passed, 1 failed\n", (2, 1)),
    (1, "Traceback\nImportError: x\n", (0, 1)),
    (0, "left early\n", (0, 1)),
    (0, "", (0, 1)),
    (1, "0 passed, 0 failed\n", (0, 1)),
    (-9, "3 passed, 0 failed\n", (3, 1)),
])
def test_every_way_to_end_is_counted(code, output, expected):
    counts = Counts()
    good, _ = judge(counts, code, output)
    assert (counts.passed, counts.failed) == expected
    assert good == (expected[1] == 0)


def test_skips_and_errors_in_the_line_of_pytest_are_counted():
    counts = Counts()
    assert counts.add("1 failed, 261 passed, 2 skipped, 3 warnings, 1 error in 86.45s (0:01:26)")
    assert (counts.passed, counts.failed, counts.skipped) == (261, 2, 2)
    assert not counts.add("no tests ran in 0.01s")
