"""A device whose backend was away: a journal of signed sessions on a ring of flash, made by the
firmware's own ledger in simulated time."""

import asyncio
import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

_BEGIN_UNIX_MS = 1_790_000_000_000
_STEP_MWH = 1000
_EVENTS = ("plug", "open", "charging", "paused_by_car", "finished_estimated", "close")
_SESSION_S = 1800
_BLOCKS = 1152  # a session takes one, as hardly two of its records fit into one
_POWER_MW = 7_320_000
_LIFE = {"GI": "evmeter", "GV": "0.1.0", "MV": "Eastron", "MM": "SDM120", "MS": "21034567"}


class _Signer:
    """The device's own key, at the host's speed."""

    def __init__(self, secret, key_id):
        self.key_id = key_id
        self._key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())

    async def sign(self, digest):
        return self._key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


class _Ticks:
    """Simulated time."""

    def __init__(self):
        self.ms = 0

    def ticks_ms(self):
        return self.ms

    @staticmethod
    def ticks_diff(end, start):
        return end - start


class _Idle:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


class Backlog:
    """`sessions` of half an hour each over `days`, in `folder`: flash.img and nvs.json of the host
    board. `known` are the public facts (id, k, spki), `hashes` the SHA-256 of each frame's
    payload, first frame first."""

    def __init__(self, folder, device_id):
        from evmeter.ledger import ring_scan
        from evmeter.system import keys
        from host_flash import FlashFile
        from host_nvs import NvsFile

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._flash = FlashFile(os.fspath(self.folder / "flash.img"), _BLOCKS)
        ring_scan.lay(self._flash)
        self._nvs = NvsFile(os.fspath(self.folder / "nvs.json"))
        signer = keys.make(self._nvs, os.urandom)
        self.known = {"id": device_id, "k": signer.key_id, "spki": signer.spki_hex()}
        self.hashes = []

    def fill(self, sessions, days, progress=None):
        """Make it. Raises JournalError where the sessions find no room."""
        asyncio.run(self._fill(sessions, days, progress))

    async def _fill(self, sessions, days, progress):
        from evmeter.ledger.journal import Journal
        from evmeter.ledger.ledger import Ledger, account
        from evmeter.ledger.ring import RingStore
        from evmeter.metering.intervals import LENGTH_S
        from evmeter.system import keys
        from evmeter.system.clock import Clock

        journal = Journal(RingStore(lambda: self._flash), self._nvs, account)
        journal.open()
        ticks = _Ticks()
        clock = Clock(_BEGIN_UNIX_MS, ticks)
        clock.set(_BEGIN_UNIX_MS, "I", 1000)
        signer = _Signer(keys.read(self._nvs, keys.KEY), self.known["k"])
        identity = dict(_LIFE, GS=self.known["id"])
        ledger = Ledger(journal, signer, clock, _Idle(), lambda: (identity, _STEP_MWH, "meter"))
        pause_ms = days * 86_400_000 // sessions - _SESSION_S * 1000
        register_mwh = 1_234_567_000
        for number in range(sessions):
            register_mwh = await self._session(ledger, clock, ticks, register_mwh, LENGTH_S)
            ticks.ms += pause_ms
            if progress:
                progress(number + 1, sessions)
        for seq in range(1, journal.next_seq):
            self.hashes.append(hashlib.sha256(journal.view(seq)[1]).hexdigest())
        self._flash.close()

    async def _session(self, ledger, clock, ticks, begin_mwh, length_s):
        from evmeter.session.session import Session

        async def event(name, sid):
            await ledger.event(name, sid, clock.mono_ms(), {"e_mwh": begin_mwh})

        def now():
            return clock.unix_ms_at(clock.mono_ms())

        mwh = begin_mwh
        await event(_EVENTS[0], "")
        begin = (now(), "I", "B", begin_mwh, "", "G")
        _, _, sid = await ledger.begin(begin, self.known["id"], 0)
        for name in _EVENTS[1:3]:
            await event(name, sid)
        for _ in range(_SESSION_S // length_s):
            ticks.ms += length_s * 1000
            energy_mwh = _POWER_MW * length_s // 3600
            await ledger.interval((now() // 1000 - length_s, length_s, mwh, energy_mwh, _POWER_MW,
                                   "ok"))
            mwh += energy_mwh
        for name in _EVENTS[3:5]:
            await event(name, sid)
        await ledger.complete(sid, (begin, (now(), "I", "E", mwh, "", "G")), Session(), True, None)
        await event(_EVENTS[5], sid)
        return mwh
