"""MicroPython for figures: the 64-bit one of the host, and a 32-bit one where it can be had.

The 32-bit one has the ESP32's big-integer digits and object sizes. Debian's sid is the suite that
has it; its version is told with the figures.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import BUILD, ROOT

SCRIPTS = Path(__file__).resolve().parent / "scripts"
# name on PyPI -> version, hash of its archive, where in it the modules lie
_PEERS = {
    "micropython-modbus": (
        "2.3.7", "b9351a66af0ff29dd585900e53827a989dedcb02ec63b1041358165089652271", ""),
    "starkbank_ecdsa": (
        "2.3.1", "712315c87ba7966a963f6f939a773f7a7a15cdc056ece097a30c0a9d393ee513", ""),
    "ecdsa": (
        "0.19.2", "62635b0ac1ca2e027f82122b5b81cb706edc38cd91c63dda28e4f3455a2bf930", "src"),
}
_TIMEOUT_S = 300
_WHO = """\
import sys
print("%d.%d.%d" % sys.implementation.version[:3], 64 if sys.maxsize >> 32 else 32)
"""


class Vm:
    """One MicroPython. `bits`: 32 or 64; `version` as it says itself."""

    def __init__(self, command, bits):
        self._command = command
        self.bits = bits
        done = subprocess.run(
            [*command, "-c", _WHO],
            capture_output=True, text=True, check=False, timeout=20)
        words = done.stdout.split()
        self.works = done.returncode == 0 and words[1:] == [str(bits)]
        self.version = words[0] if self.works else ""

    def __str__(self):
        return "MicroPython %s, %d bits" % (self.version, self.bits)

    def command(self, script, *arguments, heap="512k", path=()):
        """Command and environment that run scripts/`script`."""
        where = micropython_path()
        if path:
            where = ":".join([*[str(one) for one in path], where])
        return ([*self._command, "-X", "heapsize=" + heap, str(SCRIPTS / script), *arguments],
                dict(os.environ, MICROPYPATH=where))

    def run(self, script, *arguments, **more):
        """Run scripts/`script`; returns the JSON of its last line. Raises UserError."""
        command, env = self.command(script, *arguments, **more)
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True,
                              check=False, timeout=_TIMEOUT_S)
        return result(script, done.returncode, done.stdout, done.stderr)


def result(script, code, output, errors):
    """The JSON of a script's last line. Raises UserError where it failed."""
    lines = output.strip().splitlines()
    if code or not lines:
        said = (errors or output).strip().splitlines() or ["no output"]
        raise UserError("%s: %s" % (script, said[-1]))
    return json.loads(lines[-1])


def host():
    """The host's MicroPython. Raises UserError where there is none."""
    program = micropython()
    if program is None:
        raise UserError("no MicroPython in build/bin; run 'make setup'")
    return Vm([str(program)], 64)


def _setup():
    sys.path.insert(0, str(ROOT / "tools" / "setup"))
    import bootstrap

    return bootstrap


def present():
    """The 32-bit MicroPython that was fetched before, or None."""
    command = _setup().command32()
    machine = Vm(command, 32) if command else None
    return machine if machine and machine.works else None


def small():
    """(a 32-bit MicroPython or None, why there is none)."""
    machine = present()
    if machine:
        return machine, ""
    print("fetching a 32-bit MicroPython", file=sys.stderr, flush=True)
    setup = _setup()
    try:
        setup.micropython32()
    except (setup.SetupError, setup.debian.FetchError, OSError) as error:
        return None, str(error)
    return present(), "it does not run here"


def peer(name="micropython-modbus"):
    """Folder of another project's package, fetched from PyPI and checked. Raises UserError."""
    version, digest, inside = _PEERS[name]
    stem = "%s-%s" % (name, version)
    archive = BUILD / "downloads" / (stem + ".tar.gz")
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(Path(sys.executable).parent / "unearth"), "--no-binary", "--download",
                        str(archive.parent), "%s==%s" % (name, version)],
                       cwd=BUILD, capture_output=True, check=False)
    if not archive.exists():
        raise UserError("%s %s cannot be downloaded" % (name, version))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        raise UserError("%s %s is not the file that was pinned" % (name, version))
    folder = BUILD / "peers"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / stem / inside
