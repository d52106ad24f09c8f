"""Sets up everything under build/: Python packages, MicroPython, mosquitto, verifiers, and on
request what only the tests need.

    python3 tools/setup/bootstrap.py [--require micropython,mosquitto,...] [--try micropython32]

Needs Python 3.11, nothing else; no root. A second run finds everything in place. What is missing
is told in one line each and written to build/setup.json; with --require it is an error (exit code
2). EVMETER_MICROPYTHON and EVMETER_MOSQUITTO choose where these come from: path, fetch or none.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import debian

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"
VENV = BUILD / "venv"
BIN = BUILD / "bin"

_MICROPYTHON_SUITE = "trixie"
_MICROPYTHON32_SUITES = ("trixie", "sid")  # the first that has it for i386
_MICROPYTHON = ("micropython", "libc6", "libffi8", "libmbedcrypto16", "libmbedtls21",
                "libmbedx509-7")
_MOSQUITTO = ("mosquitto", "libmosquitto1", "libdlt2", "libcjson1", "libwrap0", "libcap2",
              "libssl3", "libssl3t64", "libsystemd0", "libnsl2", "libtirpc3", "libtirpc3t64",
              "libwebsockets17", "libwebsockets19t64")
_POSTGRES = ("postgresql-15", "postgresql-17", "libpq5", "libicu72", "libicu76", "libxml2",
             "libldap-2.5-0", "libldap2", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3",
             "libkrb5support0", "libkeyutils1", "libcom-err2", "libsasl2-2", "liblz4-1",
             "libzstd1", "libssl3", "libssl3t64", "libsystemd0", "libgcrypt20", "libgpg-error0",
             "libgnutls30", "libgnutls30t64", "libp11-kit0", "libidn2-0", "libunistring2",
             "libunistring5", "libtasn1-6", "libhogweed6", "libhogweed6t64", "libnettle8",
             "libnettle8t64", "libgmp10", "libffi8", "liburing2", "libnuma1")
_LEAST_MICROPYTHON = (1, 25)
# what the host board and the uplink need of it
_PROBE = ("import sys, asyncio, hashlib, os, socket\nfrom vfs import VfsLfs2\n"
          "hashlib.sha256(os.urandom(1))\n"
          "print('%d %d' % sys.implementation.version[:2])\n")
_WHO = "import sys\nprint('%d.%d' % sys.implementation.version[:2], sys.maxsize >> 32)\n"
# sdists from PyPI that pip cannot install: they have no setup.py
_DEVICE_PACKAGES = (
    ("micropython-umqtt.simple", "1.3.4", "umqtt",
     "b6a2520239e3992c63a7de9370ee9b3d9d27819a90359c521f1c0f7ccab8d12f"),
    ("micropython-logging", "0.5.2", "logging",
     "4fe714775fa6cafc2466bac7fe28485c13610470d3ea2bddac956bcd89b4453d"),
)


class SetupError(Exception):
    """Something that everything else needs cannot be had."""


def _sha256(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
    return digest.hexdigest()


def _run(command, **more):
    done = subprocess.run(command, check=False, capture_output=True, text=True, **more)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        wrong = [line for line in lines if line.lower().startswith(("error", "npm err"))]
        wrong += [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise SetupError("%s: %s" % (Path(command[0]).name, wrong[0].strip()))
    return done.stdout


def _script(name, text):
    """Write build/bin/<name>; one that another process is just starting is not touched."""
    BIN.mkdir(parents=True, exist_ok=True)
    path = BIN / name
    text = '#!/bin/sh\nH="$(dirname "$(readlink -f "$0")")"\n' + text
    if not path.exists() or path.read_text() != text:
        new = BIN / (name + ".new")
        new.write_text(text)
        new.chmod(0o755)
        new.replace(path)
    return path


def _step(title, function):
    """Run a step; returns (where it is, version, "") or (None, "", reason why it failed)."""
    begun = time.monotonic()
    print("%-28s" % title, end="", flush=True)
    try:
        where, version, words = function()
    except (SetupError, debian.FetchError, OSError) as error:
        print("missing: %s" % error, flush=True)
        return None, "", str(error)
    print("%-14s %s (%.1f s)" % (version, words, time.monotonic() - begun), flush=True)
    return str(where), version, ""


# -- Python --

def _python(*arguments):
    return _run([str(VENV / "bin" / "python"), *arguments])


def _make_venv():
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(VENV)])
        return
    except SetupError:
        # Debian without python3-venv: take pip from the package that venv would take it from
        _run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    folder = BUILD / "pip"
    debian.fetch(debian.codename(), ("python3-pip-whl",), folder, ("python3-pip-whl",))
    wheel = next((folder / "usr/share/python-wheels").glob("pip-*.whl"))
    _python("%s/pip" % wheel, "install", "--quiet", "--no-index", str(wheel))


def python_packages():
    """The virtual environment with the pinned packages, and the command `evmeter`."""
    stamp = VENV / "evmeter.stamp"
    wanted = _sha256(HERE / "requirements.txt", sys.version, str(ROOT))
    words = "in place"
    if not stamp.exists() or stamp.read_text() != wanted:
        _make_venv()
        _python("-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--require-hashes", "--no-deps", "-r", str(HERE / "requirements.txt"))
        packages = next((VENV / "lib").glob("python3*/site-packages"))
        (packages / "evmeter-tools.pth").write_text("%s\n" % (ROOT / "tools"))
        stamp.write_text(wanted)
        words = "installed"
    _script("evmeter", 'exec "$H/../venv/bin/python" -m evmeter_tools.cli "$@"\n')
    return VENV, "Python %d.%d.%d" % sys.version_info[:3], words


# -- MicroPython --

def _micropython_version(program):
    """(major, minor) of a MicroPython that has what the host board needs, or None."""
    try:
        done = subprocess.run([str(program), "-c", _PROBE], capture_output=True, text=True,
                              check=False, timeout=20)
        if done.returncode:
            return None
        return tuple(int(word) for word in done.stdout.split())[:2]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _in_path(name):
    """Programs of that name in PATH that are not our own wrapper."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin"]:
        found = Path(folder or ".").absolute() / name
        if (found.is_file() and os.access(found, os.X_OK)
                and found.parent.resolve() != BIN.resolve()):
            yield found


def _program(name, wanted, version_of, fetched, fetch, use='exec "%s" "$@"\n'):
    """A program at build/bin/<name>, from PATH or fetched; what a step returns.

    `wanted` says what is looked for; `version_of(program)` is its version or "" where it will not
    do; `fetched(folder)` writes the wrapper of the unpacked one and returns its version or "";
    `fetch(folder)` unpacks it; `use` is the wrapper's text around one from PATH.
    """
    variable = "EVMETER_" + name.upper()
    way = os.environ.get(variable, "")
    folder = BUILD / name
    try:
        if way not in ("", "path", "fetch", "none"):
            raise SetupError("%s=%s: allowed: path, fetch, none" % (variable, way))
        if way == "none":
            raise SetupError("switched off by %s=none" % variable)
        for program in _in_path(name) if way != "fetch" else ():
            version = version_of(program)
            if version:
                return _script(name, use % program), version, "from PATH"
        if way == "path":
            raise SetupError("PATH has no " + wanted)
        words = "in place"
        version = fetched(folder)
        if not version:
            fetch(folder)
            version, words = fetched(folder), "fetched"
        if not version:
            raise SetupError("the fetched %s does not run" % name)
        return BIN / name, version, words
    except (SetupError, debian.FetchError):
        (BIN / name).unlink(missing_ok=True)
        raise


def _good_micropython(program):
    version = _micropython_version(program)
    return "%d.%d" % version if version and version >= _LEAST_MICROPYTHON else ""


def micropython():
    """MicroPython 1.25 or newer at build/bin/micropython."""
    return _program(
        "micropython", "MicroPython of 1.25 or newer", _good_micropython, _fetched_micropython,
        lambda folder: debian.fetch(_MICROPYTHON_SUITE, _MICROPYTHON, folder,
                                    ("micropython", "libc6")))


def _fetched_micropython(folder):
    loader = debian.loader(folder)
    if not loader:
        return ""
    library = loader.parent.relative_to(folder)
    return _good_micropython(_script(
        "micropython",
        'R="$H/../micropython"\n'
        'exec "$R/%s/%s" --library-path "$R/%s" "$R/usr/bin/micropython" "$@"\n'
        % (library, loader.name, library)))


def micropython32():
    """A 32-bit MicroPython in build/micropython32: its objects are as large as the ESP32's."""
    if platform.machine() not in ("x86_64", "i686"):
        raise SetupError("this machine runs no i386 programs")
    folder = BUILD / "micropython32"
    version, words, reason = _micropython32_version(folder), "in place", "it does not run here"
    for suite in () if version else _MICROPYTHON32_SUITES:
        try:
            with _apt_for_i386():
                debian.fetch(suite, _MICROPYTHON, folder, ("micropython", "libc6"))
        except debian.FetchError as error:
            reason = str(error)
            continue
        version, words = _micropython32_version(folder), "fetched"
        if version:
            break
    if not version:
        raise SetupError(reason)
    return folder, version, words


def command32():
    """The command of the 32-bit MicroPython that was fetched, as a list; None where there is
    none."""
    folder = BUILD / "micropython32"
    loader = debian.loader(folder)
    return loader and [str(loader), "--library-path", str(loader.parent),
                       str(folder / "usr/bin/micropython")]


def _micropython32_version(folder):
    command = command32() if folder.is_dir() else None
    if not command:
        return ""
    done = subprocess.run([*command, "-c", _WHO], capture_output=True, text=True, check=False,
                          timeout=20)
    words = done.stdout.split()
    return words[0] if done.returncode == 0 and words[1:] == ["0"] else ""


@contextlib.contextmanager
def _apt_for_i386():
    configuration = BUILD / "micropython32.conf"
    configuration.write_text('APT::Architecture "i386";\nAPT::Architectures "i386";\n')
    before = os.environ.get("APT_CONFIG")
    os.environ["APT_CONFIG"] = str(configuration)
    try:
        yield
    finally:
        del os.environ["APT_CONFIG"]
        if before is not None:
            os.environ["APT_CONFIG"] = before


def device_packages():
    """umqtt.simple and logging in build/upy-lib; a folder each, as CPython has its own logging."""
    target = BUILD / "upy-lib"
    stamp = target / "evmeter.stamp"
    wanted = _sha256(*_DEVICE_PACKAGES, "a folder each")
    versions = ", ".join(package[1] for package in _DEVICE_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return target, versions, "in place"
    shutil.rmtree(target, ignore_errors=True)
    downloads = BUILD / "downloads"
    for name, version, package, digest in _DEVICE_PACKAGES:
        archive = downloads / ("%s-%s.tar.gz" % (name, version))
        if not archive.exists() or _sha256(archive) != digest:
            archive.unlink(missing_ok=True)
            downloads.mkdir(parents=True, exist_ok=True)
            _run([str(VENV / "bin" / "unearth"), "--no-binary", "--download", str(downloads),
                  "%s==%s" % (name, version)], cwd=BUILD)
        if not archive.exists():
            raise SetupError("%s %s was not downloaded" % (name, version))
        if _sha256(archive) != digest:
            raise SetupError("%s %s is not the file that was pinned" % (name, version))
        root = "%s-%s/%s/" % (name, version, package)
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.isfile() and member.name.startswith(root):
                    path = target / name / package / member.name[len(root):]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())
    stamp.write_text(wanted)
    return target, versions, "unpacked"


# -- mosquitto --

def _mosquitto_version(program):
    try:
        done = subprocess.run([str(program), "-h"], capture_output=True, text=True, check=False,
                              timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    return words[2] if words[:2] == ["mosquitto", "version"] else ""


def mosquitto():
    """mosquitto at build/bin/mosquitto."""
    return _program(
        "mosquitto", "mosquitto", _mosquitto_version, _fetched_mosquitto,
        lambda folder: debian.fetch(debian.codename(), _MOSQUITTO, folder, ("mosquitto",)))


def _fetched_mosquitto(folder):
    if not (folder / "usr/sbin/mosquitto").exists():
        return ""
    libraries = [path.relative_to(folder) for pattern in ("usr/lib/*-linux-*", "lib/*-linux-*")
                 for path in sorted(folder.glob(pattern))]
    return _mosquitto_version(_script(
        "mosquitto",
        'R="$H/../mosquitto"\n'
        'export LD_LIBRARY_PATH="%s"\n'
        'exec "$R/usr/sbin/mosquitto" "$@"\n' % ":".join("$R/%s" % path for path in libraries)))


# -- PostgreSQL and a browser: what the backend is tested with --

def _version_of(program, *words):
    """The last word of what `program --version` answers, if it begins with `words`."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True,
                              check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = done.stdout.replace("(PostgreSQL)", "").split()
    return found[len(words)] if tuple(found[:len(words)]) == words else ""


def _libraries(folder):
    """The value of LD_LIBRARY_PATH for what was unpacked into `folder`, seen from `$R`."""
    return ":".join("$R/%s" % path.relative_to(folder)
                    for pattern in ("usr/lib/*-linux-*", "lib/*-linux-*",
                                    "usr/lib/*-linux-*/pulseaudio")
                    for path in sorted(folder.glob(pattern)))


def postgres():
    """PostgreSQL at build/bin/postgres: `postgres NAME ...` runs its program NAME."""
    return _program(
        "postgres", "PostgreSQL", _good_postgres, _fetched_postgres,
        lambda folder: debian.fetch(debian.codename(), _POSTGRES, folder, ()),
        'P="$(dirname "$(readlink -f "%s")")/$1"\nshift\nexec "$P" "$@"\n')


def _good_postgres(program):
    return _version_of(program, "postgres")


def _fetched_postgres(folder):
    for binaries in sorted(folder.glob("usr/lib/postgresql/*/bin"), reverse=True):
        wrapper = _script(
            "postgres",
            'R="$H/../postgres"\n'
            'export LD_LIBRARY_PATH="%s"\n'
            'P="$R/%s/$1"\nshift\nexec "$P" "$@"\n'
            % (_libraries(folder), binaries.relative_to(folder)))
        done = subprocess.run([str(wrapper), "initdb", "--version"], capture_output=True,
                              text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split()[2]
    return ""


def chromium():
    """Chromium at build/bin/chromium, with what it needs and the system has not installed."""
    return _program(
        "chromium", "Chromium", lambda program: _version_of(program, "Chromium"),
        _fetched_chromium,
        lambda folder: debian.fetch(debian.codename(), ("chromium",), folder, ("chromium",),
                                    closure=True))


def _fetched_chromium(folder):
    if not (folder / "usr/lib/chromium/chromium").exists():
        return ""
    return _version_of(_script(
        "chromium",
        'R="$H/../chromium"\n'
        'export LD_LIBRARY_PATH="$R/usr/lib/chromium:%s"\n'
        'exec "$R/usr/lib/chromium/chromium" "$@"\n' % _libraries(folder)), "Chromium")


# -- verifiers that are not ours --

def pyocmf():
    """pyocmf, installed with the Python packages."""
    version = _python("-c", "import importlib.metadata as m, pyocmf; print(m.version('pyocmf'))")
    return VENV, version.strip(), "in place"


def node_ocmf():
    """@road-labs/ocmf in build/node; only where there is Node.js."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise SetupError("there is no Node.js (optional)")
    folder = BUILD / "node"
    stamp = folder / "evmeter.stamp"
    inputs = [HERE / name for name in ("package.json", "package-lock.json", ".npmrc")]
    wanted = _sha256(*inputs)
    version = json.loads((HERE / "package.json").read_text())["dependencies"]["@road-labs/ocmf"]
    if stamp.exists() and stamp.read_text() == wanted:
        return folder, version, "in place"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in inputs:
        shutil.copy(path, folder)
    _run(["npm", "ci", "--loglevel=error"], cwd=folder)
    stamp.write_text(wanted)
    return folder, version, "installed"


def ocpi_models():
    """extrawest_ocpi's models of OCPI in build/ocpi, apart from the other packages: it asks for
    old versions of what it shares with them."""
    folder = BUILD / "ocpi"
    stamp = folder / "evmeter.stamp"
    lock = HERE / "ocpi.txt"
    wanted = _sha256(lock, sys.version)
    version = lock.read_text().split()[0].split("==")[1]
    if stamp.exists() and stamp.read_text() == wanted:
        return folder, version, "in place"
    shutil.rmtree(folder, ignore_errors=True)
    _python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
            "--no-deps", "--target", str(folder), "-r", str(lock))
    stamp.write_text(wanted)
    return folder, version, "installed"


_STEPS = (
    ("micropython", "MicroPython for the host", micropython),
    ("upy-lib", "umqtt.simple and logging", device_packages),
    ("mosquitto", "mosquitto", mosquitto),
    ("postgres", "PostgreSQL", postgres),
    ("chromium", "Chromium", chromium),
    ("pyocmf", "verifier pyocmf", pyocmf),
    ("node-ocmf", "verifier @road-labs/ocmf", node_ocmf),
    ("ocpi", "OCPI models", ocpi_models),
    ("micropython32", "MicroPython of 32 bits", micropython32),
)
_OPTIONAL_WITHOUT_NODE = "node-ocmf"
# set up only where they are asked for
_FOR_TESTS = ("postgres", "chromium", "ocpi", "micropython32")


def _fail(reason):
    print("setup: " + reason, file=sys.stderr)
    sys.exit(2)


def _set_up(required, wanted):
    _, _, reason = _step("Python packages", python_packages)
    if reason:
        _fail("the Python packages cannot be installed: %s" % reason)
    result = {"found": {}, "versions": {}, "missing": {}}
    for name, title, function in _STEPS:
        if name in _FOR_TESTS and name not in required and name not in wanted:
            continue
        where, version, reason = _step(title, function)
        if reason:
            result["missing"][name] = reason
        else:
            result["found"][name] = where
            result["versions"][name] = version
    (BUILD / "setup.json").write_text(json.dumps(result, indent=1) + "\n")
    if not shutil.which("node"):
        required = [name for name in required if name != _OPTIONAL_WITHOUT_NODE]
    for name in ("upy-lib", *required):
        if name in result["missing"]:
            _fail("%s is missing: %s" % (name, result["missing"][name]))


def main():
    """Run all steps; exit code 2 where something needed is missing."""
    parser = argparse.ArgumentParser(description="set up build/")
    parser.add_argument("--require", default="", help="comma-separated: what must not be missing")
    parser.add_argument("--try", default="", dest="wanted",
                        help="comma-separated: what is set up too, and may be missing")
    arguments = parser.parse_args()
    required, wanted = [[name for name in words.split(",") if name]
                        for words in (arguments.require, arguments.wanted)]
    names = [name for name, _, _ in _STEPS]
    for name in required + wanted:
        if name not in names:
            parser.error("%s: allowed: %s" % (name, ", ".join(names)))
    if sys.version_info < (3, 11):
        _fail("Python 3.11 or newer is needed, this is %s" % sys.version.split()[0])
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two at once the second finds everything in place
        _set_up(required, wanted)


if __name__ == "__main__":
    main()
