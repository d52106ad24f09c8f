"""A meter, a board and a clock for the session keeper, moved by hand."""

import asyncio

from fakes.memory_store import MemoryNvs, MemoryStore


class FakeReading:
    quality = "G"
    reason = ""
    export_mwh = 0
    power_mw = 0

    def __init__(self, import_mwh, mono_ms):
        self.import_mwh = import_mwh
        self.mono_ms = mono_ms


class FakeMeter:
    """metering/poll.py's face to the keeper: a register that the test sets."""

    step_mwh = 1000
    make = "Eastron"
    model = "SDM120"
    serial_source = "meter"
    status = "G"

    def __init__(self, clock, register_mwh, serial="21034567"):
        self._clock = clock
        self.register_mwh = register_mwh
        self.serial = serial
        self.answers = True
        self.letter = "T"  # why it does not answer

    @property
    def latest(self):
        return FakeReading(self.register_mwh, self._clock.mono_ms()) if self.answers else None

    async def edge_reading(self, deadline_ms=2000):
        await asyncio.sleep_ms(0)
        if not self.answers:
            return None, self.letter, self._clock.mono_ms()
        return self.register_mwh, "G", self._clock.mono_ms()


class FakeBoard:
    """What outlives a reboot: second store, journal, RTC memory."""

    permit = None
    device = None  # that runs on it

    def __init__(self, power=None):
        self.nvs = MemoryNvs(power)
        self.store = MemoryStore(power, capacity=400, segment_bytes=300)
        self.reset_cause = "power-on"
        self._ram = b""

    def rtc_memory(self, data=None):
        if data is None:
            return self._ram
        self._ram = bytes(data)
        return None

    def cut_power(self):
        self._ram = b""
        self.reset_cause = "power-on"


class FakeSigner:
    """Signs nothing, at once."""

    key_id = "a1b2c3d4"

    def spki_hex(self):
        return "00"

    async def sign(self, digest):
        await asyncio.sleep_ms(0)
        return b"\x30\x06\x02\x01\x01\x02\x01\x01"


class Idle:
    """The bus at rest."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False
