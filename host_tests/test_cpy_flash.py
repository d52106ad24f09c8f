"""What is asked of MicroPython's build, esptool and mpremote; none of them meets a board here.

The arguments were taken by esptool 5.6.0's own command line and mpremote 1.29.0's.
"""

import hashlib
import json
import os
import stat
import struct

import pytest

from evmeter_tools.device import boards, firmware
from evmeter_tools.errors import UserError

_APP = b"\xe9" + bytes(range(256)) * 64
_BOOT = ["boot.py", "file_slots.mpy", "main.py", "prompt.mpy", "rom_boot.mpy", "rom_file.mpy",
         "rom_slots.mpy"]
_RECORDER = """\
#!/bin/sh
echo "$(basename "$0") $*" | tr '\n' ' ' >> "{log}"; echo >> "{log}"
exit {code}
"""


def _combined(board):
    """firmware.bin as MicroPython's makeimg.py makes it: gaps are 0xff."""
    data = bytearray(b"\xff" * (0x10000 - board.begin)) + _APP
    data[: 4] = b"boot"
    table = firmware.table(board.partitions())
    data[0x8000 - board.begin : 0x8000 - board.begin + len(table)] = table
    return bytes(data)


def _recorded(monkeypatch, tmp_path, code=0):
    """esptool and mpremote that only note their arguments; returns the notes' file."""
    log = tmp_path / "log"
    for name in ("esptool", "mpremote"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(_RECORDER.format(log=log, code=code))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", "%s:%s" % (tmp_path / "bin", os.environ["PATH"]))
    monkeypatch.setattr(firmware, "BUILD", tmp_path / "build")
    monkeypatch.setattr(firmware, "mpremote",
                        lambda port, *words: ["mpremote", "connect", port, *words])
    monkeypatch.setattr(firmware.image, "build", lambda board: (b"\xd2\xcd1image", {}))
    return log


@pytest.mark.parametrize("name", ["esp32_devkit", "esp32_s3_devkit", "esp32_c3_devkit"])
def test_what_is_written_leaves_key_journal_and_files_alone(name):
    board = boards.board(name)
    table = {one.label: one for one in board.partitions()}
    written = firmware.pieces(board, _combined(board), b"image")
    for offset, data in written:
        for label in ("nvs", "phy_init", "vfs", "journal"):
            assert offset + len(data) <= table[label].offset or offset >= table[label].end, label
    found = dict(written)
    app = next(one for one in table.values() if one.kind == "app")
    assert found[board.begin][:4] == b"boot"
    assert found[board.begin][0x8000 - board.begin:][:2] == b"\xaa\x50"
    assert found[app.offset] == _APP
    assert found[table["romfs"].offset] == b"image"
    if "otadata" in table:
        assert found[table["otadata"].offset] == b"\xff" * 0x2000


def test_an_application_that_does_not_fit_is_refused():
    board = boards.board("esp32_devkit")
    for data in (b"", _combined(board)[:0x5000], _combined(board) + bytes(0x1e0000)):
        with pytest.raises(UserError, match="allowed: 1 to 1966080"):
            firmware.pieces(board, data, b"image")


def test_a_stock_image_is_not_written_where_plain_was_forgotten():
    """Its application would be overwritten, and no partition of ours be there."""
    board = boards.board("esp32_devkit")
    stock = bytearray(_combined(board))
    table = firmware.table(boards.read_partitions(
        "nvs,data,nvs,0x9000,0x6000\nphy_init,data,phy,0xf000,0x1000\n"
        "factory,app,factory,0x10000,0x1f0000\nvfs,data,fat,0x200000,0x200000", 4 << 20))
    stock[0x8000 - board.begin : 0x8000 - board.begin + len(table)] = table
    for data in (stock, _combined(board)[: 0x8000 - board.begin] + bytes(0x9000)):
        with pytest.raises(UserError, match="has built, or --plain"):
            firmware.pieces(board, bytes(data), b"image")
    assert firmware.pieces(board, bytes(stock[:3]) + b"\x2f" + bytes(stock[4:]), None)


def test_a_stock_image_for_less_flash_is_refused():
    board = boards.board("esp32_s3_devkit")
    data = bytearray(_combined(board))
    data[3] = 0x2F
    with pytest.raises(UserError, match="made for 4 MiB of flash; allowed: 8 or more"):
        firmware.pieces(board, bytes(data), None)
    data[3] = 0x3F
    assert firmware.pieces(board, bytes(data), None)


def test_flashing_step_by_step(monkeypatch, tmp_path):
    log = _recorded(monkeypatch, tmp_path)
    board = boards.board("esp32_s3_devkit")
    (tmp_path / "firmware.bin").write_bytes(_combined(board))
    (tmp_path / "c.json").write_text('{"id": "demo-0001"}')
    firmware.flash(board, "/dev/ttyX", tmp_path / "firmware.bin", tmp_path / "c.json")
    lines = [line.strip() for line in log.read_text().splitlines()]
    folder = tmp_path / "build" / "image" / board.name
    assert lines[0] == ("esptool --chip esp32s3 --port /dev/ttyX --baud 460800 write-flash "
                        + " ".join("0x%x %s/%x.bin" % (at, folder, at)
                                   for at in (0, 0xd000, 0x10000, 0x3d0000)))
    files = folder / "files"
    # it has started meanwhile, perhaps with its watchdog
    assert lines[1] == ("mpremote connect /dev/ttyX sleep 5 exec from machine import WDT "
                        "WDT(timeout=600000)")
    assert lines[2] == "mpremote connect /dev/ttyX fs cp %s :/" % " ".join(
        "%s/%s" % (files, name) for name in _BOOT)
    assert lines[3].startswith("mpremote connect /dev/ttyX exec from esp32 import NVS")
    assert 'nvs.set_i32("slot", 0)' in lines[3]
    assert lines[4].endswith("c.json :/config.json")
    assert lines[5:] == ["mpremote connect /dev/ttyX reset"]
    assert (folder / "3d0000.bin").read_bytes() == b"\xd2\xcd1image"


def test_a_stock_image_gets_our_table_and_the_image_as_a_file(monkeypatch, tmp_path):
    log = _recorded(monkeypatch, tmp_path)
    for name in ("esp32_devkit", "esp32_s3_devkit"):
        board = boards.board(name)
        (tmp_path / "stock.bin").write_bytes(_combined(board))
        log.write_text("")
        firmware.flash(board, "/dev/ttyX", tmp_path / "stock.bin", None, plain=True)
        lines = [line.strip() for line in log.read_text().splitlines()]
        folder = tmp_path / "build" / "image" / name
        written = {int(at, 16): (folder / ("%x.bin" % int(at, 16))).read_bytes()
                   for at in lines[0].split("write-flash ")[1].split()[::2]}
        named = {one.label: one for one in board.partitions(plain=True)}
        for offset, data in written.items():
            for label in ("nvs", "phy_init", "vfs", "journal"):
                one = named[label]
                assert offset + len(data) <= one.offset or offset >= one.end, label
        head = written[board.begin]
        found = head[0x8000 - board.begin :][:0xC00]
        assert head[:4] == b"boot" and len(head) == 0x9000 - board.begin
        entries = [found[at : at + 32] for at in range(0, 32 * len(named), 32)]
        for entry, one in zip(entries, named.values(), strict=True):
            assert entry[:2] == b"\xaa\x50" and entry[28:] == bytes(4)
            assert entry[12:28].rstrip(b"\x00").decode() == one.label
            assert struct.unpack("<II", entry[4:12]) == (one.offset, one.size)
        behind = found[32 * len(named) :]
        assert behind[:16] == b"\xeb\xeb" + b"\xff" * 14
        assert behind[16:32] == hashlib.md5(b"".join(entries)).digest()  # noqa: S324
        assert set(behind[32:]) == {255}
        assert lines[1].startswith("mpremote connect /dev/ttyX sleep 5 exec from machine import")
        assert "import os, vfs" in lines[1]
        copied = next(line for line in lines if " fs cp " in line)
        assert copied == "mpremote connect /dev/ttyX fs cp %s :/" % " ".join(
            "%s/files/%s" % (folder, one) for one in ["a.romfs", *_BOOT])
        assert (folder / "files" / "a.romfs").read_bytes() == b"\xd2\xcd1image"
        assert lines[-1] == "mpremote connect /dev/ttyX reset"


def test_nothing_is_written_for_bad_input_and_a_failure_ends_it(monkeypatch, tmp_path):
    log = _recorded(monkeypatch, tmp_path)
    board = boards.board("esp32_devkit")
    good = tmp_path / "firmware.bin"
    good.write_bytes(_combined(board))
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    for path, config, words in ((tmp_path / "none.bin", None, "no file"),
                                (good, tmp_path / "none.json", "no file"),
                                (good, bad, "not valid JSON"), (bad, None, "allowed: 1 to")):
        with pytest.raises(UserError, match=words):
            firmware.flash(board, "/dev/ttyX", path, config)
    assert not log.exists()
    log = _recorded(monkeypatch, tmp_path, code=2)
    with pytest.raises(UserError, match="MicroPython: failed"):
        firmware.flash(board, "/dev/ttyX", good)
    assert len(log.read_text().splitlines()) == 1
    log = _recorded(monkeypatch, tmp_path)
    (tmp_path / "bin" / "mpremote").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match="file system: failed.*'evmeter unlock' it, then flash"):
        firmware.flash(board, "/dev/ttyX", good)
    (tmp_path / "bin" / "esptool").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="pip install esptool"):
        firmware.flash(board, "/dev/ttyX", good)


def test_the_boards_description_for_micropython(tmp_path):
    for name in boards.names():
        board = boards.board(name)
        firmware.describe(board, tmp_path / name)
        text = {path.name: path.read_text() for path in (tmp_path / name).iterdir()}
        assert "#define MICROPY_VFS_ROM (1)" in text["mpconfigboard.h"]
        assert "set(IDF_TARGET %s)" % board.chip in text["mpconfigboard.cmake"]
        lines = dict(line.split("=", 1) for line in text["sdkconfig.board"].splitlines())
        assert lines["CONFIG_ESPTOOLPY_FLASHSIZE_%dMB" % board.flash_mib] == "y"
        table = lines["CONFIG_PARTITION_TABLE_CUSTOM_FILENAME"].strip('"')
        with open(table) as file:
            assert boards.read_partitions(file.read(), board.flash_mib << 20) == board.partitions()
        assert json.loads(text["board.json"]) == {"mcu": board.chip}


def test_what_a_build_lacks_is_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("IDF_PATH", raising=False)
    with pytest.raises(UserError, match="sources, 1.25 or newer.*ESP-IDF"):
        firmware.build(boards.board("esp32_devkit"), None)
    (tmp_path / "ports" / "esp32").mkdir(parents=True)
    (tmp_path / "ports" / "esp32" / "Makefile").touch()
    with pytest.raises(UserError, match="needed: the ESP-IDF") as caught:
        firmware.build(boards.board("esp32_devkit"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_build_runs_micropythons_make_over_our_description(monkeypatch, tmp_path):
    port = tmp_path / "ports" / "esp32"
    port.mkdir(parents=True)
    port.joinpath("Makefile").write_text(
        "all:\n\t@test -f $(BOARD_DIR)/mpconfigboard.cmake && mkdir -p $(BUILD)"
        " && echo $(BOARD) > $(BUILD)/firmware.bin\n")
    program = tmp_path / "bin" / "idf.py"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (program.parent, os.environ["PATH"]))
    monkeypatch.setenv("IDF_PATH", str(tmp_path))
    monkeypatch.setattr(firmware, "BUILD", tmp_path / "build")
    found = firmware.build(boards.board("wt32_eth01"), tmp_path)
    assert found.read_text() == "EVMETER_WT32_ETH01\n"
    port.joinpath("Makefile").write_text("all:\n\t@exit 1\n")
    found.unlink()
    with pytest.raises(UserError, match="not built"):
        firmware.build(boards.board("wt32_eth01"), tmp_path)
