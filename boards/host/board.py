"""The simulated board: a run folder in place of a chip.

EVMETER_HOST_DIR names the folder: config.json and config.old (the one before it), meter.tty (the
meter's line, a link to a pty or a serial port), pilot.bin (the sampled pilot), flash.img,
nvs.json, rtc.bin, reset (why the device starts: power-on, watchdog, software, brown-out; without
it, power-on), permit (the permit output, 0 or 1), pulses.bin (the contact of an S0 output),
battery (by how many ms the battery-backed clock is ahead of the host's, or "stopped"; without it,
right), button (there while it is pressed), temperature (of the board, in thousandths of a degree
Celsius; without it, 25000), rom.img or vfs.img (the firmware, as a chip has it: rom_start.py). RTC
memory is lost at power-on, and only then.
"""

import asyncio
import os
import sys
import time

from micropython import const

from drivers.config_files import ConfigFiles
from drivers.rtc_memory import RtcMemory
from host_adc import PilotAdc
from host_flash import BLOCK_BYTES, FlashFile, mkfs, mount
from host_nvs import NvsFile
from host_uart import Uart

_NETWORK_STEP_MS = const(10000)
_JOURNAL_BLOCKS = const(1024)  # 4 MiB
_RTC_BYTES = const(2048)
_RESTART = const(3)  # exit code
_RESETS = ("power-on", "watchdog", "software", "brown-out")


class BatteryClock:
    """A clock that runs on without power: the host's, ahead by what the file `path` says."""

    def __init__(self, path):
        self._path = path

    def unix_ms(self):
        """Unix time in ms. Raises ValueError where it has stopped, OSError where the clock does
        not answer."""
        try:
            with open(self._path) as file:
                text = file.read().strip()
        except OSError:
            text = "0"
        if text == "stopped":
            raise ValueError("battery clock not set: its oscillator has stopped")
        # both host interpreters count from 1970
        return time.time_ns() // 1000000 + int(text)

    def set(self, unix_ms):
        """Set it. Raises OSError."""
        with open(self._path, "w") as file:
            file.write("%d" % (unix_ms - time.time_ns() // 1000000))


class Network:
    """Always there; names are asked of the host's own name servers."""

    def up(self):
        return True

    def dns_servers(self):
        """The name servers' addresses as text, best first."""
        try:
            with open("/etc/resolv.conf") as file:
                lines = [line.split() for line in file]
        except OSError:
            return []
        return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]

    def diag(self):
        return {}

    async def run(self):
        """There is nothing to keep up."""
        while True:
            await asyncio.sleep_ms(_NETWORK_STEP_MS)


class Watchdog:
    """Bites nobody; the bench resets the device itself."""

    def __init__(self):
        self.feeds = 0

    def feed(self):
        self.feeds += 1


class Board:
    """The hardware as the firmware sees it."""

    name = "host"
    rs485_de = None
    pace_us = None
    pilot_edges = None
    pilot_pwm = None
    set_time = None
    unique_id = b"\x02host0"

    def __init__(self, folder):
        self._folder = folder
        files = ConfigFiles(folder)
        self.read_config, self.write_config = files.read, files.write
        self.restore_config = files.restore
        self.battery_clock = BatteryClock(folder + "/battery")
        self.network = Network()
        self.watchdog = Watchdog()
        self.nvs = NvsFile(folder + "/nvs.json")
        self.pilot_adc = PilotAdc(folder + "/pilot.bin")
        self._flash = None
        self.reset_cause = self._reset_cause()
        if self.reset_cause == "power-on":
            self._rtc_ram(b"")
        rtc = RtcMemory(self._rtc_ram)
        self.rtc_memory = rtc.session
        self.rtc_pulses = rtc.pulses

    def _read(self, name):
        with open(self._folder + "/" + name, "rb") as file:
            return file.read()

    def _reset_cause(self):
        try:
            cause = self._read("reset").decode().strip()
        except OSError:
            return "power-on"
        return cause if cause in _RESETS else "unknown"

    def temperature_mc(self):
        """The board's temperature in thousandths of a degree Celsius. Raises OSError."""
        try:
            return int(self._read("temperature"))
        except (OSError, ValueError):
            return 25000

    def permit(self, on):
        """The output to the charge controller: whether it may close the contactor."""
        with open(self._folder + "/permit", "w") as file:
            file.write("1" if on else "0")

    def open_network(self, settings, hostname):
        """The host's own network is there already."""

    def open_uart(self, baudrate, bits, parity, stop):
        """The meter's line. Raises OSError where the port is missing."""
        return Uart(self._folder + "/meter.tty", baudrate, bits, parity, stop)

    def pulse_input(self):
        """A fresh count of the S0 input's pulses: `edges` of drivers.pulse_meter.PulseMeter."""
        from host_pulses import PulseInput

        return PulseInput(self._folder + "/pulses.bin")

    def _device(self):
        if self._flash is None:
            self._flash = FlashFile(self._folder + "/flash.img", _JOURNAL_BLOCKS)
        return self._flash

    def journal_flash(self):
        """The journal's flash without a file system: a block device as esp32.Partition."""
        return self._device()

    def mount_journal(self):
        """The journal's littlefs. Raises OSError on blank or damaged flash; never formats."""
        return mount(self._device())

    def format_journal(self):
        """Make an empty littlefs; for commissioning only."""
        mkfs(self._device())

    def rom_slots(self):
        """The two images of the firmware, in a partition or in files as rom_start.py has mounted
        them, or None where it lies in the checkout."""
        there = os.listdir(self._folder)
        if "rom.img" in there:
            from drivers.rom_slots import RomSlots

            path = self._folder + "/rom.img"
            return RomSlots(self.nvs, FlashFile(path, os.stat(path)[6] // BLOCK_BYTES))
        if "vfs.img" in there:
            from drivers.file_slots import FileSlots

            return FileSlots(self.nvs, "/flash")
        return None

    def _rtc_ram(self, data=None):
        """machine.RTC().memory on a file."""
        path = self._folder + "/rtc.bin"
        if data is None:
            try:
                return self._read("rtc.bin")
            except OSError:
                return b""
        if len(data) > _RTC_BYTES:
            raise ValueError("buffer too long")
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.rename(path + ".new", path)
        return None

    def identify(self, seconds):
        """Make the device easy to find for so long."""
        print("evmeter: here I am, for %d s" % seconds)

    def button_held(self):
        """Whether the file `button` is there."""
        try:
            self._read("button")
        except OSError:
            return False
        return True

    def reset(self):
        """Restart: the process ends with exit code 3, whoever started it starts it again."""
        with open(self._folder + "/reset", "w") as file:
            file.write("software")
        sys.exit(_RESTART)

    def halt(self, text):
        """Say why the firmware cannot start, and end the process."""
        print(text)
        sys.exit(2)


def build():
    """The board in the folder that EVMETER_HOST_DIR names."""
    folder = os.getenv("EVMETER_HOST_DIR")
    try:
        os.stat(folder or "")
    except OSError:
        print("evmeter: EVMETER_HOST_DIR names no run folder (it is '%s')" % (folder or ""))
        sys.exit(2)
    return Board(folder)
