import os

import host_flash
from board import Board
from host_nvs import NvsFile
from support import raises

_FOLDER = "build/test-host-board"


def _folder(name):
    """An empty run folder of its own."""
    for path in ("build", _FOLDER, _FOLDER + "/" + name):
        try:
            os.mkdir(path)
        except OSError:
            continue
    folder = _FOLDER + "/" + name
    for entry in os.listdir(folder):
        os.remove(folder + "/" + entry)
    return folder


def _flash(name, blocks=32):
    return host_flash.FlashFile(_folder(name) + "/flash.img", blocks)


def test_programming_clears_bits_and_erasing_sets_them():
    flash = _flash("nor")
    data = bytearray(4)
    flash.readblocks(3, data, 100)
    assert data == b"\xff\xff\xff\xff"
    for written, expected in ((b"\xf0\xff\x0f\xaa", b"\xf0\xff\x0f\xaa"),
                              (b"\x0f\xff\xff\xff", b"\x00\xff\x0f\xaa"),
                              (b"\xff\xff\xff\xff", b"\x00\xff\x0f\xaa")):
        flash.writeblocks(3, written, 100)
        flash.readblocks(3, data, 100)
        assert data == expected
    flash.ioctl(6, 3)
    flash.readblocks(3, data, 100)
    assert data == b"\xff\xff\xff\xff"
    assert (flash.ioctl(4, 0), flash.ioctl(5, 0)) == (32, 4096)
    assert (flash.erases, flash.programs) == (1, 3)


def test_a_blank_flash_does_not_mount_and_is_not_formatted():
    flash = _flash("blank")
    raises(OSError, host_flash.mount, flash)
    raises(OSError, host_flash.mount, flash)
    assert flash.erases == flash.programs == 0


def test_files_are_there_after_a_new_mount():
    flash = _flash("files")
    host_flash.mkfs(flash)
    fs = host_flash.mount(flash)
    fs.mkdir("/s")
    with fs.open("/s/00000001", "wb") as file:
        assert file.write(b"hello") == 5
    with fs.open("/s/00000001", "ab") as file:
        file.write(memoryview(b" world")[:6])
    flash.close()
    fs = host_flash.mount(host_flash.FlashFile(_FOLDER + "/files/flash.img", 32))
    with fs.open("/s/00000001", "rb") as file:
        file.seek(6)
        buffer = bytearray(20)
        assert file.readinto(buffer) == 5
        assert buffer[:5] == b"world"
    assert [tuple(entry)[:2] for entry in fs.ilistdir("/s")] == [("00000001", 0x8000)]
    assert fs.stat("/s/00000001")[6] == 11
    assert fs.statvfs("/")[2] == 32
    fs.rename("/s/00000001", "/s/x")
    fs.remove("/s/x")
    assert raises(OSError, fs.open, "/s/x", "rb").args[0] == 2
    assert raises(OSError, fs.stat, "/nope").args[0] == 2
    assert raises(OSError, fs.open, "/s", "rb").args[0] == 21
    assert raises(OSError, fs.mkdir, "/s").args[0] == 17
    with fs.open("/fresh", "ab") as file:
        file.write(b"x")
    file = fs.open("/fresh", "r+b")
    file.write(b"y")
    file.close()
    with fs.open("/fresh", "rb") as file:
        assert file.read() == b"y"


def test_an_image_of_another_size_is_refused():
    _flash("size", 16).close()
    raises(OSError, host_flash.FlashFile, _FOLDER + "/size/flash.img", 32)


def test_the_second_store_keeps_what_was_committed():
    path = _folder("nvs") + "/nvs.json"
    nvs = NvsFile(path)
    raises(OSError, nvs.get_i32, "boots")
    nvs.set_i32("boots", 7)
    nvs.set_blob("key", b"\x00\x01\xff")
    nvs.commit()
    nvs.set_i32("boots", 8)  # never committed
    nvs = NvsFile(path)
    assert nvs.get_i32("boots") == 7
    buffer = bytearray(8)
    assert nvs.get_blob("key", buffer) == 3
    assert buffer[:3] == b"\x00\x01\xff"
    raises(OSError, nvs.get_blob, "key", bytearray(2))
    raises(OSError, nvs.get_blob, "boots", buffer)
    raises(OSError, nvs.get_i32, "key")
    nvs.erase_key("key")
    nvs.commit()
    raises(OSError, NvsFile(path).get_blob, "key", buffer)


def test_the_second_store_has_the_limits_of_the_chip():
    path = _folder("nvs") + "/nvs.json"
    nvs = NvsFile(path)
    for value in (2147483647, -2147483648):
        nvs.set_i32("k", value)
        assert nvs.get_i32("k") == value
    for value in (2147483648, -2147483649):
        raises(OverflowError, nvs.set_i32, "k", value)
    nvs.set_i32("a" * 15, 1)
    assert raises(OSError, nvs.set_i32, "a" * 16, 1).args[0] == -4361
    assert raises(OSError, nvs.set_blob, "a" * 16, b"1").args[0] == -4361
    nvs.commit()
    for damaged in ("{", "[1]", ""):
        with open(path, "w") as file:
            file.write(damaged)
        assert raises(OSError, NvsFile(path).get_i32, "k").args[0] == -4354


def _reset(folder, cause):
    with open(folder + "/reset", "w") as file:
        file.write(cause)
    return Board(folder)


def test_rtc_memory_is_lost_at_power_on_and_only_then():
    folder = _folder("rtc")
    board = Board(folder)
    assert board.reset_cause == "power-on"
    assert (board.rtc_memory(), board.rtc_pulses()) == (b"", b"")
    board.rtc_memory(b"\x01\x02")
    board.rtc_pulses(b"\x03")
    for said, cause in (("watchdog", "watchdog"), ("software\n", "software"),
                        ("brown-out", "brown-out"), ("", "unknown"), ("gremlins", "unknown")):
        board = _reset(folder, said)
        assert board.reset_cause == cause
        assert (board.rtc_memory(), board.rtc_pulses()) == (b"\x01\x02", b"\x03")
    board = _reset(folder, "power-on")
    assert board.reset_cause == "power-on"
    assert (board.rtc_memory(), board.rtc_pulses()) == (b"", b"")
    board.rtc_memory(b"\x01")
    os.remove(folder + "/reset")  # the bench said nothing
    assert (Board(folder).reset_cause, Board(folder).rtc_memory()) == ("power-on", b"")
    raises(ValueError, board.rtc_memory, bytes(2049))


def test_a_reset_is_known_even_if_rtc_memory_is_empty():
    folder = _folder("reset")
    for cause in ("watchdog", "software", "brown-out"):  # from a board that never ran before
        board = _reset(folder, cause)
        assert (board.reset_cause, board.rtc_memory(), board.rtc_pulses()) == (cause, b"", b"")


def test_the_permit_output_can_be_seen_from_outside():
    folder = _folder("permit")
    board = Board(folder)
    for on in (True, False):
        board.permit(on)
        with open(folder + "/permit") as file:
            assert file.read() == str(int(on))


def test_the_adc_gives_whole_windows():
    folder = _folder("adc")
    board = Board(folder)
    raises(OSError, board.pilot_adc.read_uv)
    for sequence in (1, 2):
        with open(folder + "/pilot.bin", "wb") as file:
            file.write(bytes([sequence, 0, 0, 0, 250, 0, 0, 0]))
            for index in range(250):
                value = 1000 * sequence + index
                file.write(bytes([value & 255, value >> 8]))
        samples = [board.pilot_adc.read_uv() for _ in range(250)]
        assert samples == [(1000 * sequence + index) * 1000 for index in range(250)]
    with open(folder + "/pilot.bin", "wb") as file:
        file.write(b"\x01\x00\x00\x00")
    raises(OSError, board.pilot_adc.read_uv)


def test_the_battery_clock_counts_from_1970():
    assert 1_700_000_000_000 < Board(_folder("clock")).battery_clock.unix_ms() < 4_000_000_000_000


def test_a_missing_port_and_a_missing_configuration_are_errors():
    folder = _folder("missing")
    board = Board(folder)
    error = raises(OSError, board.open_uart, 9600, 8, "N", 1)
    assert error.args[0] == 2
    assert "no serial port" in error.args[1]
    raises(OSError, board.read_config)
    with open(folder + "/meter.tty", "w") as file:
        file.write("not a port")
    error = raises(OSError, board.open_uart, 2400, 8, "N", 1)
    assert "2400 baud" in error.args[1]
