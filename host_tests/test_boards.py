"""Each board for a chip gives what the firmware asks for, on pins that the chip has."""

import json
import os
import sys
import time

from drivers.file_slots import FileSlots
from fakes import chip as fake
from support import raises

_BOARDS = __file__[:-len("host_tests/test_boards.py")] + "boards"
_NAMES = sorted([name for name in os.listdir(_BOARDS) if "." not in name and name[0] != "_"
                 and "board.json" in os.listdir(_BOARDS + "/" + name)])
_STRAPPING = {"esp32": (0, 2, 5, 12, 15), "esp32s3": (0, 3, 45, 46), "esp32c3": (2, 8, 9)}
# pins that a reset reads and that are used all the same; the board's module says why
_EXCEPTIONS = {"wt32_eth01": (5, 15), "olimex_esp32_poe": (12, 15)}
# the prompt's and USB's
_SERVICE = {"esp32": (1, 3), "esp32s3": (19, 20, 43, 44), "esp32c3": (18, 19, 20, 21)}
_SETTINGS = {"ssid": "site", "password": "secret12", "country": "DE", "address": None,
             "mask": "255.255.255.0", "gateway": "0.0.0.0", "dns": ()}
_FIELDS = ("name", "rs485_de", "pace_us", "pilot_edges", "set_time", "unique_id", "battery_clock",
           "watchdog", "nvs", "pilot_adc", "reset_cause", "rtc_memory", "rtc_pulses", "permit",
           "read_config", "open_network", "open_uart", "pulse_input", "journal_flash",
           "mount_journal", "format_journal", "halt")


def _chip(name):
    with open("%s/%s/board.json" % (_BOARDS, name)) as file:
        return json.loads(file.read())["chip"]


class _Built:
    """A board over the fakes, taken away at the end."""

    def __init__(self, name, **parts):
        self._name = name
        self._parts = parts

    def __enter__(self):
        fake.install(_chip(self._name), **self._parts)
        kept = sys.modules.pop("board", None)
        paths = [_BOARDS + "/" + self._name, _BOARDS]
        sys.path[:0] = paths
        try:
            return __import__("board").build()
        finally:
            del sys.path[:2]
            sys.modules.pop("board", None)
            if kept:
                sys.modules["board"] = kept

    def __exit__(self, *_):
        fake.remove()


def test_boards_are_there():
    assert len(_NAMES) >= 6 and "esp32_devkit" in _NAMES


def test_every_board_has_the_whole_interface_and_no_pin_twice():
    for name in _NAMES:
        with _Built(name) as board:
            assert board.name == name
            for field in _FIELDS:
                assert hasattr(board, field), (name, field)
            board.open_network(_SETTINGS, "evm-0001")
            for method in ("up", "dns_servers", "diag", "run"):
                assert hasattr(board.network, method), (name, method)
            board.open_uart(9600, 8, "E", 1)
            board.pulse_input()
            pins = [board.TX, board.RX, board.PILOT, board.PERMIT, board.PULSES, board.SDA,
                    board.SCL] + ([] if board.DE is None else [board.DE])
            assert len(set(pins)) == len(pins), name
            lan = getattr(board.network._nic, "told", {})
            taken = [lan[key].number for key in ("mdc", "mdio", "power", "ref_clk") if key in lan]
            if lan:
                taken += [19, 21, 22, 25, 26, 27] + ([] if "ref_clk" in lan else [0])
            assert not set(taken) & set(pins), name
            used = set(fake.Pin.used) | set(taken)
            if lan:
                used.discard(0)  # the PHY's clock, on the pin that the MAC wants it on
            assert set(pins) <= used
            chip = _chip(name)
            assert not used & set(_SERVICE[chip]), name
            strapping = used & set(_STRAPPING[chip])
            assert strapping <= set(_EXCEPTIONS.get(name, ())), (name, strapping)
            assert board.PERMIT not in _STRAPPING[chip] and board.PILOT not in _STRAPPING[chip]


def test_the_readmes_table_is_what_the_boards_say():
    with open(_BOARDS[:-len("boards")] + "README.md") as file:
        rows = [line for line in file if line.startswith("| `") and "MB |" in line]
    told = {}
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        told[cells[0][1:-1]] = cells[1:]
    assert sorted(told) == _NAMES
    for name in _NAMES:
        with _Built(name) as board:
            flash, uart, pilot, permit, pulses, i2c, network = told[name]
            assert uart == "%d, %d, %s" % (board.TX, board.RX,
                                           "-" if board.DE is None else board.DE), name
            assert [pilot, permit, pulses, i2c] == [
                "%d" % board.PILOT, "%d" % board.PERMIT, "%d" % board.PULSES,
                "%d, %d" % (board.SDA, board.SCL)], name
            assert network.startswith("Ethernet" if hasattr(board, "lan") else "Wi-Fi")
        with open("%s/%s/board.json" % (_BOARDS, name)) as file:
            assert flash == "%d MB" % json.loads(file.read())["flash_mib"]


def test_pins_that_a_chip_does_not_have_are_refused_by_the_fake():
    fake.install("esp32")
    try:
        for number, mode, pull in ((6, fake.Pin.IN, None), (34, fake.Pin.OUT, None),
                                   (39, fake.Pin.IN, fake.Pin.PULL_UP)):
            raises(ValueError, fake.Pin, number, mode, pull)
        raises(ValueError, fake.ADC, fake.Pin(25), 3)
    finally:
        fake.remove()


def test_the_permit_is_off_from_the_first_moment_and_follows():
    with _Built("esp32_devkit") as board:
        pin = board.permit._pin
        assert pin.level == 0
        board.permit(True)
        assert pin.level == 1
        board.permit(False)
        assert pin.level == 0


def test_the_meters_line_is_as_configured():
    for parity, told in (("N", None), ("E", 0), ("O", 1)):
        with _Built("esp32_devkit") as board:
            uart = board.open_uart(2400, 8, parity, 2)
            assert uart.number == 1 and uart.told["rxbuf"] > 288
            assert [uart.told[key] for key in ("baudrate", "bits", "parity", "stop")] == [
                2400, 8, told, 2]
            assert (uart.told["tx"].number, uart.told["rx"].number) == (17, 16)
            assert board.rs485_de.level == 0


def test_the_transceiver_on_board_is_switched_on():
    with _Built("lilygo_t_can485") as board:
        assert board.rs485_de is None
        board.open_uart(9600, 8, "N", 1)
        assert all(fake.Pin.used[number] == fake.Pin.OUT for number in (16, 17, 19))


def test_why_the_chip_started():
    for cause, told in ((1, "power-on"), (2, "software"), (3, "watchdog"), (4, "unknown"),
                        (5, "software"), (0, "unknown")):
        with _Built("esp32_devkit", cause=cause) as board:
            assert board.reset_cause == told


def test_the_watchdog_starts_with_the_first_feed():
    with _Built("esp32_devkit") as board:
        assert fake.WDT.made == 0
        board.watchdog.feed()
        board.watchdog.feed()
        assert fake.WDT.made == 1
        assert board.watchdog._timer.feeds == 2 and board.watchdog._timer.timeout > 20000


def test_session_and_pulses_share_rtc_memory():
    with _Built("esp32_devkit") as board:
        assert board.rtc_memory() == b"" and board.rtc_pulses() == b""
        board.rtc_memory(b"session")
        board.rtc_pulses(b"pulses")
        assert board.rtc_memory() == b"session" and board.rtc_pulses() == b"pulses"
        assert 0 < len(fake.RTC.kept) <= 2048


def test_pulses_by_counter_or_by_interrupt():
    with _Built("esp32_devkit") as board:
        assert board.pulse_input().value() == 7
    with _Built("esp32_c3_devkit", counter=False) as board:
        ring = board.pulse_input()
        pin = ring._pin
        assert pin.number == 5 and pin.handler == ring.isr and pin.trigger == 3
        assert ring.value() == 0


def test_network_by_wifi_and_by_cable():
    with _Built("esp32_devkit") as board:
        settings = dict(_SETTINGS)
        settings["address"], settings["gateway"] = "192.168.1.9", "192.168.1.1"
        board.open_network(settings, "evm-0001")
        assert board.network._address == ("192.168.1.9", "255.255.255.0", "192.168.1.1",
                                          "192.168.1.1")
        settings["ssid"] = None
        assert "network.ssid" in str(raises(ValueError, board.open_network, settings, "x"))
    with _Built("olimex_esp32_poe") as board:
        board.open_network(settings, "evm-0001")
        told = board.network._nic.told
        assert (told["power"].number, told["ref_clk"].number, told["phy_addr"]) == (12, 17, 0)


def test_a_foreign_partition_table_is_told():
    with _Built("esp32_devkit") as board:
        assert board.journal_flash().label == "journal"
        there = fake.Partition.there
        fake.Partition.there = ("vfs",)
        try:
            assert "journal" in str(raises(OSError, board.journal_flash))
        finally:
            fake.Partition.there = there


def test_the_firmware_lies_in_a_partition_or_in_files_or_in_neither():
    with _Built("esp32_devkit") as board:
        there, made = fake.Partition.there, FileSlots.there
        fake.Partition.ioctl = lambda self, operation, argument: 128
        try:
            assert board.rom_slots().slot_bytes == 64 * 4096
            fake.Partition.there = ("vfs", "journal")
            assert board.rom_slots() is None
            FileSlots.there = lambda self: True
            assert isinstance(board.rom_slots(), FileSlots)
        finally:
            fake.Partition.there, FileSlots.there = there, made
            del fake.Partition.ioctl


def test_the_chips_clock_counts_from_2000():
    with _Built("esp32_devkit") as board:
        board.set_time(1790000000)  # 2026-09-21 14:13:20, a Monday
        told = fake.RTC.told
        # where this test runs, time counts from 1970: the year comes out 30 too early
        assert time.gmtime(0)[0] == 1970
        assert told[:3] == (1996, 9, 21) and told[4:] == (14, 13, 20, 0), told


def test_halt_says_why_and_comes_back():
    with _Built("esp32_devkit") as board:
        assert board.halt("evmeter: configuration: id is missing") is None
