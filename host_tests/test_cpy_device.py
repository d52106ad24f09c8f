"""A board's image fits its flash and runs from there; partition tables that cannot be are refused.
"""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import host_flash
from drivers.file_slots import FileSlots
from evmeter_tools.cli import app
from evmeter_tools.device import boards, image, legal, package
from evmeter_tools.device import command as device_command
from evmeter_tools.errors import UserError
from evmeter_tools.faults.ram_flash import RamFlash
from evmeter_tools.host_device import micropython
from evmeter_tools.operator import signing
from evmeter_tools.paths import HOST_BOARD, ROOT
from fakes.memory_store import MemoryNvs

_MIB = 1024 * 1024
_MOST_MODULE = 12 * 1024  # bytes of bytecode; a module this large should be two
_LINE = "nvs, data, nvs, 0x9000, 0x6000\n"
_FILES = ["a.romfs", "boot.py", "file_slots.mpy", "main.py", "prompt.mpy", "rom_boot.mpy",
          "rom_file.mpy", "rom_slots.mpy"]
_NVS = """\
class Nvs:
    state = 0
    def get_i32(self, key):
        return self.state
    def set_i32(self, key, value):
        self.state = value
    def commit(self):
        pass

"""
# imports from the second of the two images that the partition has room for
_FROM_SECOND = _NVS + """\
import sys, vfs
from drivers.rom_slots import RomSlots, mount

class Flash:
    def ioctl(self, operation, argument):
        return len(partition) // 4096

with open(sys.argv[1], "rb") as file:
    partition = file.read()
slots = RomSlots(Nvs(), Flash())
slots.try_other()
sys.path[:] = ["", ".frozen"]
view, size = memoryview(partition), slots.slot_bytes
assert mount(slots, lambda slot: vfs.VfsRom(view[slot * size : (slot + 1) * size]), vfs,
             sys.path) == 1
for name in ("drivers", "drivers.rom_slots"):
    del sys.modules[name]
import evmeter.metering.gate, drivers.meter_profile
print(sys.modules["evmeter.metering.gate"].__file__)
print(drivers.meter_profile.load_profile("eastron_sdm120")["model"])
import evmeter.ledger, evmeter.session
from evmeter.system import legal
print(legal.digest())
"""
# boots twice from a chip's littlefs, with an update in between, as boot.py does it
_FROM_FILES = _NVS + """\
import json, os, sys, vfs
import host_flash

class Esp32:
    class Partition:
        TYPE_DATA = 1
        find = staticmethod(lambda kind, label: [])
    NVS = staticmethod(lambda name: nvs)

class Machine:
    WDT = staticmethod(lambda timeout: told.append(timeout))

def boot():
    for name in list(sys.modules):
        if name not in ("esp32", "machine"):
            del sys.modules[name]
    sys.path[:] = ["", ".frozen"]
    with open("/boot.py") as file:
        exec(file.read(), {"__name__": "__main__"})
    left = sorted(sys.modules)
    import drivers.meter_profile, evmeter.metering.gate
    with open("/rom/drivers/meter_profiles/eastron_sdm120.json") as file:
        assert json.load(file)["model"] == drivers.meter_profile.load_profile(
            "eastron_sdm120")["model"]
    print(evmeter.metering.gate.__file__, left, len(os.listdir("/rom/evmeter")), told)

told = []
nvs = Nvs()
flash = host_flash.FlashFile(sys.argv[1] + "/vfs.img", 168)
root = host_flash.mount(flash)
vfs.umount("/")
vfs.mount(root, "/")
sys.modules["esp32"], sys.modules["machine"] = Esp32, Machine
boot()
from drivers.file_slots import FileSlots
slots = FileSlots(nvs)
block = bytearray(4096)
with slots.open(0) as file:
    for number in range(slots.slot_bytes // 4096):
        if not file.readinto(block):
            break
        slots.write(number, block)
slots.finish()
slots.try_other()
vfs.umount("/rom")  # as the restart does
os.remove("/a.romfs")
boot()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One of each instruction set: {board: (image, bytes of its modules, folder of the files)}"""
    found = {}
    for name in ("esp32_devkit", "esp32_c3_devkit"):
        folder = tmp_path_factory.mktemp(name)
        found[name] = (*image.build(boards.board(name), folder), folder)
    return found


def test_the_image_fits_half_of_its_partition(built):
    slot = min(boards.board(name).slot_bytes() for name in boards.names())
    for data, sizes, _ in built.values():
        assert data[:3] == b"\xd2\xcd\x31"
        assert len(data) <= slot
        assert {"board", "chip", "evmeter/app", "umqtt/simple"} <= set(sizes)
        for name, size in sizes.items():  # machine code is loaded only where it is asked for
            assert size <= _MOST_MODULE or name.startswith("evmeter/ledger/p256_"), name


def test_every_boards_own_modules_compile_for_its_chip(tmp_path):
    for name in boards.names():
        board = boards.board(name)
        files = list(image.board_sources(board))
        assert {inside.name for _, inside in files} >= {"board.py", "chip.py"}
        assert sum(image.compiled(*one, tmp_path, board.arch) for one in files) < _MOST_MODULE


def test_an_image_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(boards.Board, "slot_bytes", lambda self: 50000)
    with pytest.raises(UserError, match="allowed: 50000"):
        image.build(boards.board("esp32_devkit"))


def test_the_second_image_in_the_partition_runs(built, tmp_path):
    if micropython() is None:
        pytest.skip("no MicroPython; 'make setup' fetches it")
    data = built["esp32_devkit"][0]
    slot = boards.board("esp32_devkit").slot_bytes()
    (tmp_path / "romfs").write_bytes(b"\xff" * slot + data + b"\xff" * (slot - len(data)))
    (tmp_path / "second.py").write_text(_FROM_SECOND)
    done = subprocess.run([str(micropython()), str(tmp_path / "second.py"),
                           str(tmp_path / "romfs")], env={"MICROPYPATH": "%s:.frozen" % ROOT},
                          cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["/rom/evmeter/metering/gate.mpy", "SDM120",
                                   legal.digest(legal.files(data))], done.stderr


def test_the_hash_is_of_the_legally_relevant_part_alone(built, tmp_path):
    data = built["esp32_devkit"][0]
    found = legal.files(data)
    inside = Path("evmeter/session/machine.py")
    image.compiled(image.FIRMWARE / inside, inside, tmp_path)
    assert found["evmeter/session/machine.mpy"] == (
        tmp_path / "evmeter/session/machine.mpy").read_bytes()
    whole = legal.digest(found)
    for path, same in (("evmeter/session/machine.mpy", False), ("evmeter/app.mpy", True),
                       ("drivers/meter_profiles/eastron_sdm120.json", False),
                       ("drivers/modbus_rtu.mpy", False), ("board.mpy", True)):
        changed = {**found, path: found[path][:-1] + bytes((found[path][-1] ^ 1,))}
        assert (legal.digest(changed) == whole) is same, path
        less = {name: found[name] for name in found if name != path}
        assert (legal.digest(less) == whole) is same, path
    for bad in (b"", b"\xd2\xcd\x31", data[:5000], b"x" + data):
        with pytest.raises(UserError, match="no ROMFS"):
            legal.files(bad)


def _release(*arguments):
    return CliRunner().invoke(app, ["release", *map(str, arguments)])


def test_a_package_is_signed_and_checked(tmp_path):
    key, file = tmp_path / "key.pem", tmp_path / "x.evu"
    spki = _release("key", "--out", key).output.strip()
    assert len(spki) == 182 and key.stat().st_mode & 0o777 == 0o600
    assert "cannot be written" in str(_release("key", "--out", key).exception)
    done = _release("pack", "--board", "esp32_devkit", "--key", key, "--counter", 7, "--out", file)
    assert done.exit_code == 0, done.output
    done = _release("check", file, "--key", spki, "--json")
    fields = json.loads(done.output)
    assert fields["counter"] == 7 and len(fields["legal"]) == 64
    assert fields["legal"] in _release("check", file).output
    other = _release("key", "--out", tmp_path / "other.pem").output.strip()
    for given, words in (((file, "--key", other), "not signed by that key"),
                         ((file, "--key", "zz"), "no public key"), ((key,), "no package"),
                         ((tmp_path / "none",), "cannot be read")):
        assert words in str(_release("check", *given).exception)
    image = package.split(file.read_bytes())[1]
    for changed in ({"version": None}, {"counter": "7"}, {"size": True}, {"more": 1}):
        text = json.dumps({**fields, **changed}).encode()
        file.write_bytes(b"EVU1" + len(text).to_bytes(2, "little") + text + bytes(64) + image)
        assert "no package" in str(_release("check", file).exception), changed
    text = json.dumps(fields).encode()
    file.write_bytes(b"EVU1" + len(text).to_bytes(2, "little") + text + bytes(64) + image[:-1])
    assert "damaged" in str(_release("check", file).exception)


def test_the_image_is_a_file_and_two_of_them_fit_the_file_system(built):
    data, _, folder = built["esp32_devkit"]
    assert sorted(path.name for path in folder.iterdir()) == _FILES
    assert (folder / "a.romfs").read_bytes() == data
    for name in ("esp32_devkit", "esp32_s3_devkit"):
        board = boards.board(name)
        tables = [{one.label: one for one in board.partitions(plain)} for plain in (False, True)]
        vfs = tables[1]["vfs"]
        assert vfs.size == tables[0]["romfs"].size + tables[0]["vfs"].size
        assert (vfs.offset, vfs.end) == (tables[0]["romfs"].offset, tables[0]["vfs"].end)
        assert "romfs" not in tables[1]
        flash = RamFlash(vfs.size // 4096)
        host_flash.mkfs(flash)
        fs = host_flash.mount(flash)
        for path in sorted(folder.iterdir()):
            with fs.open("/" + path.name, "wb") as file:
                file.write(path.read_bytes())
        for file in ("/config.json", "/config.old"):
            with fs.open(file, "wb") as file:
                file.write(bytes(4096))
        slots = FileSlots(MemoryNvs(), "", fs, fs.open)
        room = slots.slot_bytes
        assert room >= board.slot_bytes(), name
        for block in range(room // 4096):  # what it says is there
            slots.write(block, bytes(4096))
        slots.finish()
        assert fs.stat("/b.romfs")[6] == room // 4096 * 4096


def test_a_chip_boots_from_its_file_and_from_the_updated_one(built, tmp_path):
    if micropython() is None:
        pytest.skip("no MicroPython; 'make setup' fetches it")
    flash = host_flash.FlashFile(str(tmp_path / "vfs.img"), 168)
    host_flash.mkfs(flash)
    fs = host_flash.mount(flash)
    for path in built["esp32_devkit"][2].iterdir():
        with fs.open("/" + path.name, "wb") as file:
            file.write(path.read_bytes())
    flash.close()
    (tmp_path / "boot.py").write_text(_FROM_FILES)
    done = subprocess.run(
        [str(micropython()), "-X", "heapsize=1m", str(tmp_path / "boot.py"), str(tmp_path)],
        env={"MICROPYPATH": "%s:.frozen" % HOST_BOARD}, capture_output=True, text=True,
        check=False, timeout=120)
    seen = "/rom/evmeter/metering/gate.mpy ['esp32', 'machine', 'prompt', 'rom_file'] %d %s\n"
    folders = len(list(image.FIRMWARE.glob("evmeter/[!_.]*"))) + 1
    assert done.stdout == seen % (folders, []) + seen % (folders, [120000]), done.stderr


@pytest.mark.parametrize(("mib", "journal", "apps"), [(4, 0x168000, 1), (8, 0x380000, 2)])
def test_the_tables_have_the_room_that_was_promised(mib, journal, apps):
    text = (boards.BOARDS / ("partitions-%dMiB.csv" % mib)).read_text()
    found = {one.label: one for one in boards.read_partitions(text, mib * _MIB)}
    assert found["journal"].size == journal
    kinds = [one for one in found.values() if one.kind == "app"]
    assert [one.size for one in kinds] == [0x1e0000] * apps
    assert max(one.end for one in found.values()) == mib * _MIB
    assert found["romfs"].offset % 0x10000 == 0  # a page of the chip's memory map
    assert ("otadata" in found) == (apps == 2)


@pytest.mark.parametrize(("lines", "words"), [
    ("app, app, factory, 0x10000, 1M\napp2, app, ota_0, 0x100000, 1M", "allowed: 0x110000"),
    ("app, app, factory, 0x18000, 1M", "multiples"),
    ("j, data, 0x40, 0x10000, 0x1800", "multiples"),
    ("j, data, 0x40, 0x10000, 0", "multiples"),
    ("j, data, 0x40, 0x10000, 4M", "allowed: 0xf000 to 0x400000"),
    ("nvs, data, nvs, 0x10000, 0x1000", "twice"),
    ("j, data, 0x40, , 0x1000", "no offset"),
])
def test_tables_that_cannot_be_are_refused(lines, words):
    with pytest.raises(UserError, match=words):
        boards.read_partitions(_LINE + lines, 4 * _MIB)


def test_sizes_as_esp_idf_takes_them():
    found = boards.read_partitions(_LINE + "# a comment\napp, app, factory, 64K, 1M,\n", 4 * _MIB)
    assert found[1] == boards.Partition("app", "app", "factory", 0x10000, _MIB)


def test_the_command(tmp_path):
    out = tmp_path / "x.romfs"
    done = CliRunner().invoke(app, ["image", "--board", "esp32_devkit", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 50000
    assert "xtensawin" in done.output
    done = CliRunner().invoke(app, ["image", "--board", "moon"])
    assert isinstance(done.exception, UserError)
    assert "esp32_devkit" in str(done.exception)


@pytest.mark.parametrize(("words", "said"), [
    (["image", "--board", "esp32_devkit", "--out", "/dev/null/x"],
     "/dev/null/x: cannot be written: File exists"),
    (["image", "--board", "esp32_devkit", "--plain", "/dev/null"],
     "/dev/null/a.romfs: cannot be written: File exists"),
    (["release", "pack", "--board", "esp32_devkit", "--key", "KEY", "--counter", "1", "--out",
      "/dev/null/x"], "/dev/null/x: cannot be written: File exists"),
    (["flash", "--board", "esp32_devkit", "--port", "/dev/null"],
     "'evmeter firmware --board esp32_devkit' does it, or"),
    (["flash", "--board", "esp32_devkit", "--port", "/dev/x"], "/dev/x does not exist"),
    (["flash", "--board", "esp32_devkit", "--port", ""], "give the device's serial port"),
    (["provision", "--port", ""], "give the device as --port"),
    (["update", "demo-0001", "KEY", "--key", "KEY", "--broker", "127.0.0.1:1"],
     "no package of evmeter's"),
])
def test_what_cannot_be_done_is_one_line(monkeypatch, tmp_path, words, said):
    key = tmp_path / "key.pem"
    signing.make_key(key)
    monkeypatch.setattr(device_command, "BUILD", tmp_path)
    monkeypatch.setattr(image, "compile_all", lambda files, folder, arch: folder.mkdir() or {})
    done = CliRunner().invoke(app, [str(key) if word == "KEY" else word for word in words])
    assert isinstance(done.exception, UserError), (words, done.exception)
    assert said in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize(("words", "said"), [
    (["flash", "BOARD=b", "PORT=/dev/x"], 'build/bin/evmeter flash --board "b" --port "/dev/x"'),
    (["provision", "PORT=/dev/x", "FILE=c.json", "LABEL=l.pdf"],
     'build/bin/evmeter provision c.json --port "/dev/x" --label l.pdf'),
])
def test_the_same_by_make(words, said):
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert said in " ".join(done.stdout.replace("\\\n", "").split())
