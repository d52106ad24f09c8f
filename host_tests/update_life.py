"""A device on the host board whose firmware runs from the image in its flash, and is updated."""

import json
import os
import subprocess
import sys
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import host_flash
from evmeter_tools.backend.sessions import device_report
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
from evmeter_tools.device import image, package
from evmeter_tools.operator import signing
from evmeter_tools.paths import ROOT

_SLOT = 64 * 4096
_VFS_BLOCKS = 168  # on 4 MiB of flash
# machine code of a chip, and its table
_NATIVE = ("p256_field.py", "p256_viper.py", "p256_comb_native.py")
_PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption())
_BROKEN = "raise ValueError('this firmware is broken')\n"


def _image(folder, version, broken=False):
    """A ROMFS of the firmware for the host board under another version."""
    def text(path, inside):
        made = path.read_text()
        if str(inside) == "evmeter/__init__.py":
            made = made.replace('VERSION = "', 'VERSION = "%s-' % version)
        if broken and str(inside) == "evmeter/app.py":
            made = _BROKEN + made
        return made

    sources, compiled = folder / ("src-" + version), folder / ("mpy-" + version)
    files = []
    for path, inside in image.sources():
        if path.name in _NATIVE:
            continue
        (sources / inside).parent.mkdir(parents=True, exist_ok=True)
        (sources / inside).write_text(text(path, inside))
        files.append((sources / inside, inside))
    image.compile_all(files, compiled, None)
    data = image.romfs(compiled)
    assert len(data) <= _SLOT
    return data


def make(folder):
    """Three images: what is flashed, a good new one, a broken one; and the two keys."""
    release, operator = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    return {"first": _image(folder, "first"), "good": _image(folder, "good"),
            "broken": _image(folder, "broken", True), "release": release, "operator": operator}


class Life:
    """A device that runs from its flash on a bench: from a partition, or from a file of its
    littlefs, with a broken firmware as the other one."""

    def __init__(self, folder, made, files):
        folder.mkdir(parents=True, exist_ok=True)
        if files:
            flash = host_flash.FlashFile(str(folder / "vfs.img"), _VFS_BLOCKS)
            host_flash.mkfs(flash)
            fs = host_flash.mount(flash)
            for path, name in (("/a.romfs", "first"), ("/b.romfs", "broken")):
                with fs.open(path, "wb") as file:
                    file.write(made[name])
            flash.close()
        else:
            (folder / "rom.img").write_bytes(made["first"].ljust(2 * _SLOT, b"\xff"))
        self.made = made
        self.bench = Bench(folder, "demo-0001", interpreter="micropython", config={
            "operator": {"keys": [signing.spki(made["operator"])]},
            "update": {"keys": [signing.spki(made["release"])]}})

    def until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            self.bench.device.follow()
            assert time.monotonic() < deadline, self.bench.watch.lines[-20:]
            time.sleep(0.05)

    def revive(self):
        """What the watchdog does with a firmware that died."""
        if not self.bench.device.running() and not self.bench.device.follow():
            self.bench.device.watchdog_reset()
            self.bench.device.start()

    def session(self, energy_mwh=3000):
        closed = self.bench.watch.count("close")
        start_mwh = self.bench.register_mwh()
        self.bench.rig.tell(pilot="C", load_w=10000)
        self.until(lambda: self.bench.register_mwh() - start_mwh >= energy_mwh)
        self.bench.rig.tell(pilot="A")
        self.until(lambda: self.bench.watch.count("close") > closed)

    def update(self, name, counter, key=None):
        """What `evmeter update` says of an image."""
        made, folder = self.made, self.bench.folder
        file, pem = folder / "x.evu", folder / "operator.pem"
        file.write_bytes(package.pack(made[name], key or made["release"], "host", name, counter))
        if not pem.exists():
            pem.write_bytes(made["operator"].private_bytes(*_PEM))
        return subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.cli", "update", "demo-0001", str(file), "--key",
             str(pem), "--broker", self.bench.broker, "--wait", "60"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT / "tools")))

    def leave_a_backlog(self):
        """The backend goes away, and a car comes; the session is still open."""
        self.bench.end_collector()
        self.bench.rig.tell(pilot="C", load_w=10000)
        time.sleep(3)

    def update_from_the_backlog(self):
        """The car leaves, another firmware is taken, and confirmed once the backend is back."""
        self.bench.rig.tell(pilot="A")
        time.sleep(5)
        code, said = self.said(self.update("good", 5))
        assert code == 0 and "counter 5, on trial" in said, said
        self.bench.start_collector()
        self.until(lambda: self.entries("update_confirmed"), 150)

    def said(self, process):
        self.until(lambda: process.poll() is not None, 400)
        return process.returncode, process.stdout.read().strip()

    def entries(self, name):
        store = Store(self.bench.database)
        rows = [json.loads(row.payload) for row in store.rows("demo-0001", "log")]
        store.close()
        return [message for message in rows if message["ev"] == name]

    def versions(self):
        """GV of each record, in order."""
        store = Store(self.bench.database)
        report = device_report(store, "demo-0001")
        store.close()
        assert report.ok, [record.reasons for record in report.records]
        return [record.payload["GV"].split("-")[0] for record in report.records]
