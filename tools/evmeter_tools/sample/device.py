"""A device on virtual time, whose messages are written by the firmware's own ledger.

Records, tariff split and intervals come from the firmware's modules, unchanged, with signatures
by `cryptography`; what the pilot and the meter would do is told by calls. An hour takes about a
millisecond.
"""

import hashlib
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from evmeter_tools import firmware
from evmeter_tools.backend import messages

firmware.reach()

from evmeter import VERSION  # noqa: E402
from evmeter.ledger import journal as frames  # noqa: E402
from evmeter.ledger.ledger import Ledger, account  # noqa: E402
from evmeter.metering.intervals import Intervals  # noqa: E402
from evmeter.session.session import Session  # noqa: E402
from evmeter.session.split import EVENT, Split  # noqa: E402
from evmeter.session.tariff import Tariff  # noqa: E402

STEP_MWH = 1000
_BILLABLE_STEPS = 100
_STREAMS = {frames.REC: "rec", frames.EVT: "evt", frames.IVL: "ivl", frames.LOG: "log"}
_READ_MS = 30_000  # a reading at least so often, and at each change of the tariff


class _Signer:
    """ledger/signer.py's interface over `cryptography`."""

    def __init__(self, secret):
        self._key = ec.derive_private_key(secret, ec.SECP256R1())
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.spki = der.hex()
        self.key_id = hashlib.sha256(der).hexdigest()[:8]

    def spki_hex(self):
        return self.spki

    async def sign(self, digest):
        return self._key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


class _Journal:
    """As much of ledger/journal.py as the ledger writes to."""

    def __init__(self):
        self.next_seq = 1
        self.page = 0
        self.record_hash = bytes(16)
        self.mark_mwh = None
        self.frames = []

    def append(self, kind, payload, **_head):
        payload = payload if isinstance(payload, bytes) else b"".join(payload)
        for name, value in account(kind, payload).items():
            setattr(self, name, value)
        self.frames.append((_STREAMS[kind], payload))
        self.next_seq += 1
        return self.next_seq - 1


class _Quiet:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


def _now(coroutine):
    """Run what never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the ledger waited")


class SampleDevice:
    """A device `name` that starts at `unix_ms` with the register at `register_mwh`.

    secret   of its key, a number from 1 on
    tariff   the configuration's section, or None
    quality  of its clock: U, I, S or R
    evse_id  goes into the records, if given

    `messages` are (stream, bytes), in the order of their numbers; `keys` {key id: SPKI}, all that
    it has had.
    """

    def __init__(self, name, unix_ms, register_mwh=1_000_000_000, *, secret=1, tariff=None,
                 quality="S", evse_id=""):
        self.name = name
        self.unix_ms = unix_ms
        self.quality = quality
        self._register_nj = register_mwh * 3600  # mW s: no power is too small for a step of time
        self._boot_ms = unix_ms - 10_000
        self._first_seq = 1
        self._tariff = Tariff(tariff) if tariff else None
        self._evse_id = evse_id
        self._signer = _Signer(secret)
        self.keys = {self._signer.key_id: self._signer.spki}
        self._journal = _Journal()
        self._intervals = Intervals()
        self._ledger = Ledger(self._journal, self._signer, self, _Quiet(), self._identity)
        self._session = self._split = None
        self.sid = ""
        _now(self._ledger.event("boot", "", self.mono_ms(), {
            "now_mwh": self.register_mwh, "cause": "power-on", "faults": 0, "out_mwh": 0},
            self.register_mwh))

    # -- the clock, as the ledger sees it --

    def mono_ms(self):
        """Ms since the boot."""
        return self.unix_ms - self._boot_ms

    def unix_ms_at(self, mono_ms):
        """The wall clock at `mono_ms`."""
        return self._boot_ms + mono_ms

    def now(self):
        """(Unix ms, quality)."""
        return self.unix_ms, self.quality

    def _identity(self):
        fields = {"GI": "evmeter", "GS": self.name, "GV": VERSION, "MV": "Eastron",
                  "MM": "SDM120", "MS": "S-" + self.name}
        if self._evse_id:
            fields.update(CI=self._evse_id, CT="EVSEID")
        return fields, STEP_MWH, "meter"

    # -- what it has written --

    @property
    def key_id(self):
        """Short name of its key."""
        return self._signer.key_id

    @property
    def spki(self):
        """Its public key, hex."""
        return self._signer.spki

    @property
    def messages(self):
        """[(stream, bytes)], in the order of their numbers."""
        return self._journal.frames

    def entries(self, first=0):
        """The messages from the position `first` on as the collector would store them."""
        trusted = {(self.name, key): spki for key, spki in self.keys.items()}
        return [messages.read(self.name, stream, payload, trusted)
                for stream, payload in self.messages[first:]]

    def store(self, store):
        """Enrol it and store all it has written."""
        for key, spki in self.keys.items():
            store.enrol(self.name, key, spki)
        store.add(self.entries())

    # -- what happens to it --

    def change_key(self, secret):
        """Another key, which the old one and the new one have signed, takes over at once."""
        new = _Signer(secret)
        _now(self._ledger.log("key_change", "", self.mono_ms(), {
            "new_k": new.key_id, "new_spki": new.spki}, new_signer=new))
        self._signer = self._ledger._signer = new
        self.keys[new.key_id] = new.spki
        return self

    def alarm(self, code, active, count=1, onset_s=None):
        """An alarm's event, as monitoring/alarms.py writes it."""
        now_s = self.unix_ms // 1000
        self.event("alarm", code=code, sev="crit", act=active, ack=False, n=count,
                   first_ts=now_s, on_ts=now_s if onset_s is None else onset_s, last_ts=now_s,
                   text="sample")
        return self

    def set_clock(self, step_ms, quality="S"):
        """The clock is set by so much; the audit entry tells how this boot's ticks lie."""
        self.unix_ms += step_ms
        self._boot_ms += step_ms
        self.quality = quality
        _now(self._ledger.log("clock_bound", self.sid, self.mono_ms(), {
            "mono_ms": self.mono_ms(), "unix_ms": self.unix_ms, "q": quality, "unc_ms": 40,
            "step_ms": step_ms, "src": "sntp", "boot": 1, "seq0": self._first_seq}))
        return self

    @property
    def register_mwh(self):
        """The meter's register, a multiple of its step."""
        return self._register_nj // 3600 // STEP_MWH * STEP_MWH

    def event(self, name, **fields):
        """Write an event of now."""
        if self._session:
            fields["e_mwh"] = self.register_mwh - self._session.begin_mwh
        _now(self._ledger.event(name, self.sid, self.mono_ms(), fields))

    def run(self, seconds, power_w=0):
        """Let time pass while `power_w` is drawn."""
        end_ms = self.unix_ms + seconds * 1000
        while self.unix_ms < end_ms:
            next_ms = min(end_ms, self.unix_ms - self.unix_ms % _READ_MS + _READ_MS)
            if self._split and self._split.next_s * 1000 > self.unix_ms:
                next_ms = min(next_ms, self._split.next_s * 1000)
            self._register_nj += power_w * (next_ms - self.unix_ms)
            self.unix_ms = next_ms
            self._read(power_w)
        return self

    def _read(self, power_w):
        register_mwh = self.register_mwh
        if self._split:
            self._split.reading(self.unix_ms, self.quality, register_mwh, self.mono_ms())
            while self._split.unwritten:
                self.event(EVENT, **self._split.unwritten.pop(0))
        self._intervals.reading(register_mwh, power_w * 1000, self.mono_ms(),
                                self.unix_ms // 1000, self.quality != "U")
        if self._intervals.closed:
            _now(self._ledger.interval(self._intervals.closed))
            self._intervals.written()

    def plug(self, user=None):
        """A car is connected: a session begins. `user`: OCMF's IS, IL, IF, IT and ID."""
        session = self._session = Session()
        session.begin_mwh = self.register_mwh
        session.begin_unix_ms, session.begin_quality = self.now()
        session.user = user
        reading = (session.begin_unix_ms, self.quality, "B", session.begin_mwh, "", "G")
        session.begin_seq, session.page, self.sid = _now(self._ledger.begin(
            reading, self.name, session.begin_mwh - self._journal.mark_mwh, user))
        if self._tariff:
            self._split = Split(self._tariff, *reading[:2], session.begin_mwh)
        self.event("open", **(self._split.label() if self._split else {}))
        self.event("waiting_for_car", why="car has not asked")
        return self

    def phase(self, name, seconds, power_w=0):
        """The session enters a phase of session/progress.py and stays in it."""
        self.event(name, why="sample")
        return self.run(seconds, power_w)

    def charge(self, seconds, power_w=7000):
        """The car charges."""
        return self.phase("charging", seconds, power_w)

    def cut(self, seconds, power_w=0):
        """The device is without power; the session goes on if it was off for at most 180 s, else
        it ends with TX=P."""
        last_mwh, last_ms = self.register_mwh, self.unix_ms
        self._register_nj += power_w * seconds * 1000
        self.unix_ms += seconds * 1000
        self._boot_ms = self.unix_ms - 3000
        self._first_seq = self._journal.next_seq
        gap_mwh = self.register_mwh - last_mwh
        self._intervals = Intervals(getattr(self._journal, "interval_mwh", None))
        fields = {"now_mwh": self.register_mwh, "cause": "power-on", "faults": 0}
        session = self._session
        if not session:
            fields["out_mwh"] = self.register_mwh - self._journal.mark_mwh
            _now(self._ledger.event("boot", "", self.mono_ms(), fields, self.register_mwh))
            return self
        _now(self._ledger.event("boot", self.sid, self.mono_ms(), fields))
        if self._split:
            self._split = Split(self._tariff, session.begin_unix_ms, session.begin_quality,
                                session.begin_mwh)
            for _, payload in self.messages[session.begin_seq:]:
                message = json.loads(payload)
                if "ev" in message and message.get("sid") == self.sid:
                    self._split.replay(message)
            self._split.known(last_ms, self.quality, last_mwh)
            self._split.skip(gap_mwh)
        session.gap_mwh += gap_mwh
        if seconds > 180:
            self.event("power_fail", why="off for %d s" % seconds)
            return self.unplug("P")
        self.event("resume", gap_mwh=gap_mwh, off_ms=seconds * 1000)
        return self

    def unplug(self, tx="E"):
        """The session ends with a complete record."""
        session, split = self._session, self._split
        end_mwh = self.register_mwh
        fields = {}
        changes = ()
        if split:
            fields = split.finish(self.unix_ms, self.quality, end_mwh, self.mono_ms())
            changes = tuple(split.readings)
        energy_mwh = end_mwh - session.begin_mwh
        billable = energy_mwh >= _BILLABLE_STEPS * STEP_MWH
        readings = ((session.begin_unix_ms, session.begin_quality, "B", session.begin_mwh, "",
                     "G"), *changes, (self.unix_ms, self.quality, tx, end_mwh, "", "G"))
        _now(self._ledger.complete(self.sid, readings, session, billable, fields.get("split")))
        fields.update({
            "begin_mwh": session.begin_mwh, "end_mwh": end_mwh, "gap_mwh": session.gap_mwh,
            "energy_mwh": energy_mwh, "tx": tx,
            "dur_s": (self.unix_ms - session.begin_unix_ms) // 1000, "dur_pm_s": 0,
            "late_ms": 0, "bill": 1 if billable else 0})
        self.event("close", **fields)
        self._session = self._split = None
        self.sid = ""
        return self
