"""Wear: block erases of a session of one hour on each store, counted at the device."""

import asyncio
import os
import tempfile
from pathlib import Path

import host_flash
from evmeter.ledger import ocmf, ring_scan
from evmeter.ledger.journal import Journal
from evmeter.ledger.ledger import Ledger, account
from evmeter.ledger.ring import RingStore
from evmeter.ledger.segments import SegmentStore
from evmeter.session.session import Session
from evmeter.system.clock import Clock
from evmeter_tools.paths import BUILD

_BLOCKS = 256  # the smallest partition that is recommended, 1 MiB
_WARM = 200  # sessions before anything is counted: the journal is full by then, and goes round
_SESSIONS = 1500
_SESSIONS_TEN_YEARS = 36500
_CYCLES = 100000
_START_MS = 1_790_000_000_000
_IDENTITY = {"GI": "evmeter", "GS": "demo-0001", "GV": "0.1.0", "MV": "Eastron", "MM": "SDM120",
             "MS": "21034567"}


class _Flash(host_flash.FlashFile):
    """Counts the erases of each block."""

    def __init__(self, path, blocks):
        super().__init__(path, blocks)
        self.each = [0] * blocks

    def erase(self, block):
        self.each[block] += 1
        super().erase(block)


class _Nvs(dict):
    """The second store, which is in a partition of its own."""

    def get_blob(self, key, buffer):
        if key not in self:
            raise OSError(0x1102)
        buffer[:] = self[key]
        return len(buffer)

    def set_blob(self, key, value):
        self[key] = bytes(value)

    def commit(self):
        return None


class _Signer:
    """Signatures of the usual length."""

    key_id = "a1b2c3d4"

    async def sign(self, digest):
        return b"\x30\x46" + (b"\x02\x21\x00" + digest) * 2


class _Idle:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


class _Device:
    def __init__(self, flash, ring):
        if ring:
            ring_scan.lay(flash)
            store = RingStore(lambda: flash)
        else:
            host_flash.mkfs(flash)
            SegmentStore.format(host_flash.mount(flash))
            store = SegmentStore(lambda: host_flash.mount(flash))
        self.journal = Journal(store, _Nvs(), account)
        self.journal.open()
        clock = Clock()
        clock.set(_START_MS, "I", 1000)
        self.ledger = Ledger(self.journal, _Signer(), clock, _Idle(),
                             lambda: (_IDENTITY, 1000, "meter"))
        self._mwh = 1_234_567_000

    async def _event(self, name, sid, **fields):
        fields["e_mwh"] = 1_234_000
        await self.ledger.event(name, sid, 1000, fields)

    async def _acknowledged(self):
        """The backend has everything; the cursor becomes durable."""
        self.journal.confirm(self.journal.next_seq - 1)
        await self.ledger.save_cursor()

    async def session(self):
        """One hour: 2 records, 6 events, 4 intervals, 60 checkpoints."""
        ledger, begin_mwh = self.ledger, self._mwh
        begin = (_START_MS, "I", "B", begin_mwh, "", "G")
        await self._event("plug", "")
        _, _, sid = await ledger.begin(begin, "demo-0001", 1000)
        await self._event("open", sid, out_mwh=1000, reg_mwh=begin_mwh)
        await self._acknowledged()
        await self._event("charging", sid)
        await self._acknowledged()
        body = Session().pack()
        for minute in range(60):
            self._mwh += 122_000
            await ledger.save("session", body)
            if minute % 15 == 7:
                await ledger.interval((_START_MS // 1000, 900, self._mwh, 1_830_000, 7_400_000,
                                       "ok"))
                await self._acknowledged()
        await self._event("paused_by_car", sid)
        await self._acknowledged()
        await self._event("finished_estimated", sid)
        end = (_START_MS + 3_600_000, "I", "E", ocmf.quantise(self._mwh, 1000), "", "G")
        await ledger.complete(sid, (begin, end), Session(), True, None)
        await self._event("close", sid, begin_mwh=begin_mwh, end_mwh=self._mwh, gap_mwh=0,
                          energy_mwh=self._mwh - begin_mwh, tx="E", dur_s=3600, bill=1)
        await self._acknowledged()


async def _live(flash, ring):
    device = _Device(flash, ring)
    for _ in range(_WARM):
        await device.session()
    before = list(flash.each)
    for _ in range(_SESSIONS):
        await device.session()
    return [now - then for now, then in zip(flash.each, before, strict=True)]


def _erases(ring):
    """Erases of each block."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        flash = _Flash(os.fspath(Path(folder) / "flash.img"), _BLOCKS)
        each = asyncio.run(_live(flash, ring))
        flash.close()
    return each


def _figures(each):
    """(erases a session, percent of a block's life after ten years in a straight line from the
    block that was erased most, at ten sessions a day)."""
    return (round(sum(each) / _SESSIONS, 2),
            round(max(each) / _SESSIONS * _SESSIONS_TEN_YEARS * 100 / _CYCLES, 2))


def stores(default):
    """erases_per_session and wear_ten_years_percent of the default store ("ring", "littlefs"), the
    other's in words."""
    ring = default == "ring"
    names = ("littlefs, which may reach 15", "the raw ring, which may reach 3")
    mine, other = _erases(ring), _erases(not ring)
    erases, percent = _figures(mine)
    yield ("erases_per_session", erases,
           "%s on %d blocks, %d sessions, cursor saved 8 times in each; %s: %g"
           % (default, _BLOCKS, _SESSIONS, names[not ring], _figures(other)[0]))
    yield ("wear_ten_years_percent", percent,
           "worst block %d erases, mean %.1f; the other store: %g, worst block %d"
           % (max(mine), sum(mine) / _BLOCKS, _figures(other)[1], max(other)))
