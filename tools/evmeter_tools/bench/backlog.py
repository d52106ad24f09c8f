"""A device whose backend was away: a journal of signed sessions on the host board's flash, made by
the firmware's own ledger in simulated time."""

import asyncio
import hashlib
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from evmeter_tools.host_device import HostDevice

_BEGIN_UNIX_MS = 1_790_000_000_000
_STEP_MWH = 1000
_EVENTS = ("plug", "open", "charging", "paused_by_car", "finished_estimated", "close")
_INTERVALS = 4
_INTERVAL_S = 900
_INTERVAL_MWH = 1_830_000
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
    """`sessions` of one hour each over `days` on the ring, in the folder of a HostDevice, whose
    configuration is `config`. `known` are its public facts (id, k, spki), `hashes` the SHA-256 of each frame's
    payload, first frame first."""

    def __init__(self, folder, config):
        self.device = HostDevice(folder, "cpython")
        self.device.write_config(config)
        self.known = self.device.provision()
        self.hashes = []

    def fill(self, sessions, days, progress=None):
        """Make it. Raises JournalError where the sessions find no room."""
        asyncio.run(self._fill(sessions, days, progress))

    async def _fill(self, sessions, days, progress):
        from board import Board
        from evmeter.ledger import store
        from evmeter.ledger.journal import Journal
        from evmeter.ledger.ledger import Ledger, account
        from evmeter.system import keys
        from evmeter.system.clock import Clock

        board = Board(os.fspath(self.device.folder))
        journal = Journal(store("ring", board), board.nvs, account)
        journal.open()
        ticks = _Ticks()
        clock = Clock(_BEGIN_UNIX_MS, ticks)
        clock.set(_BEGIN_UNIX_MS, "I", 1000)
        signer = _Signer(keys.read(board.nvs, keys.KEY), self.known["k"])
        identity = dict(_LIFE, GS=self.known["id"])
        ledger = Ledger(journal, signer, clock, _Idle(), lambda: (identity, _STEP_MWH, "meter"))
        pause_ms = days * 86_400_000 // sessions - _INTERVALS * _INTERVAL_S * 1000
        register_mwh = 1_234_567_000
        for number in range(sessions):
            register_mwh = await self._session(ledger, clock, ticks, register_mwh)
            ticks.ms += pause_ms
            if progress:
                progress(number + 1, sessions)
        for seq in range(1, journal.next_seq):
            self.hashes.append(hashlib.sha256(journal.view(seq)[1]).hexdigest())
        board._device().close()

    async def _session(self, ledger, clock, ticks, begin_mwh):
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
        for _ in range(_INTERVALS):
            ticks.ms += _INTERVAL_S * 1000
            await ledger.interval((now() // 1000 - _INTERVAL_S, _INTERVAL_S, mwh, _INTERVAL_MWH,
                                   7_400_000, "ok"))
            mwh += _INTERVAL_MWH
        for name in _EVENTS[3:5]:
            await event(name, sid)
        await ledger.complete(sid, (begin, (now(), "I", "E", mwh, "", "G")), Session(), True, None)
        await event(_EVENTS[5], sid)
        return mwh
