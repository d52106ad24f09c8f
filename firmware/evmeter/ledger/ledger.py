"""Makes durable what happens: signed records, events and audit entries, one writer at a time.

A payload is built once, as the JSON text that is published; those bytes are what lies on flash.
"""

import asyncio
import binascii
import hashlib
import json

from micropython import const

from evmeter.ledger import journal as frames
from evmeter.ledger import ocmf

_LOOK_BACK = const(4)
_CHANGES = const(6)  # of the tariff in one record, at most


def account(kind, payload):
    """What a frame found on flash changes in the journal's head (Journal.append), as a dict."""
    message = json.loads(payload)
    head = {}
    if "reg_mwh" in message:
        head["mark_mwh"] = message["reg_mwh"]
    if kind == frames.IVL:
        head["interval_mwh"] = message["e_mwh"] + message["d_mwh"]
    if kind == frames.REC:
        text = message["ocmf"]
        head["page"] = ocmf.pagination(text)
        head["record_hash"] = hashlib.sha256(ocmf.signed_part(text)).digest()[:16]
        if message["kind"] == "begin":
            head["open_seq"] = message["seq"]
        elif message["kind"] == "complete":
            head["open_seq"] = 0
    return head


def read_message(journal, seq):
    """The message in frame `seq`, as a dict. Raises JournalError; ValueError where it is none."""
    return json.loads(bytes(journal.view(seq)[1]))


def newest_unix_ms(journal, quality=""):
    """Unix ms after which the newest frames (of time quality `quality`) were made, 0 where none
    can be read. An event is dated by what it tells, so that the last frame alone may be older than
    the one before."""
    newest_s = -1
    for seq in range(max(1, journal.next_seq - _LOOK_BACK), journal.next_seq):
        try:
            message = read_message(journal, seq)
            if quality in ("", message["tq"]):
                newest_s = max(newest_s, message["ts"])
        except (frames.JournalError, ValueError, KeyError):
            continue  # the journal tells of it when the frame is wanted
    return (newest_s + 1) * 1000


def _with_record(payload, record):
    """The JSON object `payload` with the parts of a record's text, ASCII, as its last field, in
    pieces: a small heap has no room for it as text, as JSON and as bytes."""
    yield payload[:-1]
    yield b',"ocmf":"'
    for text in record:
        for piece in frames.pieces(text):
            yield piece.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    yield b'"}'


class Ledger:
    """`quiet` is an async context manager in which no Modbus transaction runs: a flash erase
    stops interrupts for up to 400 ms, and a reply in that time would be lost. Whoever writes
    flash while tasks run, the second store too, does it inside. `identity()` gives
    what every record repeats: (OCMF fields, the meter's energy step in mWh, where the serial
    number is from: "meter" or "label")."""

    def __init__(self, journal, signer, clock, quiet, identity):
        self._journal = journal
        self._signer = signer
        self._clock = clock
        self.quiet = quiet
        # taken and given back by hand: what `async with` awaits at its end would have to be made
        # first, and may fail for lack of memory, with the frame on flash and the lock taken
        self._lock = asyncio.Lock()
        self._identity = identity

    def can_sign(self):
        """Whether there is a key."""
        return self._signer is not None

    def busy(self):
        """Whether something is being signed or written."""
        return self._lock.locked()

    def begin_reading(self, seq):
        """What the begin record in frame `seq` says: (pagination, Unix ms, quality, register mWh).
        Raises JournalError."""
        found = read_message(self._journal, seq)
        if found.get("kind") != "begin":
            raise frames.JournalError("frame %d is no begin record" % seq)
        return (ocmf.pagination(found["ocmf"]), found["begin_ms"], found["tq"],
                found["begin_mwh"])

    def _message(self, fields, sid, at_unix_ms, quality):
        fields["v"] = 1
        fields["ts"] = at_unix_ms // 1000
        fields["tq"] = quality
        fields["k"] = self._signer.key_id if self._signer else ""
        fields["seq"] = self._journal.next_seq
        fields["sid"] = sid
        return json.dumps(fields, separators=(",", ":")).encode()

    async def _append(self, kind, payload, **head):
        seq = 0
        try:
            async with self.quiet:
                seq = self._journal.append(kind, payload, **head)
        except (MemoryError, RuntimeError):
            if not seq:  # else it is there, and only the way out had no memory
                raise
        return seq

    async def event(self, name, sid, at_mono_ms, fields, mark_mwh=None):
        """Append the event `name`, which happened at `at_mono_ms`; returns its sequence number.

        `mark_mwh`: the register that the event accounts for. Raises JournalError.
        """
        return await self._happened(frames.EVT, name, sid, at_mono_ms, fields, mark_mwh)

    async def log(self, name, sid, at_mono_ms, fields, mark_mwh=None, new_signer=None):
        """Append an audit entry as `event` does an event, signed where there is a key: "sg", its
        last field, is the signature's DER in hex over the text before the comma that leads to it.
        With `new_signer` "sn" stands before it, made the same way: a second key signs first.
        Raises JournalError, SignerError."""
        return await self._happened(frames.LOG, name, sid, at_mono_ms, fields, mark_mwh,
                                    new_signer)

    async def _happened(self, kind, name, sid, at_mono_ms, fields, mark_mwh, new_signer=None):
        await self._lock.acquire()
        try:
            fields["ev"] = name
            head = {}
            if mark_mwh is not None:
                fields["reg_mwh"] = head["mark_mwh"] = mark_mwh
            payload = self._message(fields, sid, self._clock.unix_ms_at(at_mono_ms),
                                    self._clock.quality)
            if kind == frames.LOG and self._signer:
                payload = payload[:-1]
                for field, signer in ((b"sn", new_signer), (b"sg", self._signer)):
                    if signer:
                        der = await signer.sign(hashlib.sha256(payload).digest())
                        payload += b',"' + field + b'":"' + binascii.hexlify(der) + b'"'
                payload += b"}"
            return await self._append(kind, payload, **head)
        finally:
            self._lock.release()

    async def interval(self, closed):
        """Append an interval as metering/intervals.py closes it. Raises JournalError."""
        start_s, length_s, start_mwh, energy_mwh, peak_mw, quality = closed
        await self._lock.acquire()
        try:
            unix_ms, clock = self._clock.now()
            payload = self._message({
                "t0": start_s, "len": length_s, "e_mwh": start_mwh, "d_mwh": energy_mwh,
                "p_max_mw": peak_mw, "q": quality}, "", unix_ms, clock)
            await self._append(frames.IVL, payload, interval_mwh=start_mwh + energy_mwh)
        finally:
            self._lock.release()

    async def begin(self, reading, device_id, out_mwh, user=None):
        """Sign and append the begin record over one reading (TX=B); `out_mwh` is the energy since
        the last accounted register that belongs to no session, `user` None or a dict of OCMF's
        IS, IL, IF, IT, ID. Returns (sequence number, pagination, session id). Raises
        JournalError, SignerError, OcmfError."""
        await self._lock.acquire()
        try:
            page = self._journal.page + 1
            sid = "%s-%06d" % (device_id, page)
            seq = self._journal.next_seq
            told = seq, page, sid  # made before there is a record
            message = {"out_mwh": out_mwh}
            if user:
                message["user"] = user
            await self._record("begin", sid, (reading,), user, [],
                               {"open_seq": seq, "mark_mwh": reading[3]}, message)
            return told
        finally:
            self._lock.release()

    async def complete(self, sid, readings, session, billable, split):
        """Sign and append the complete record: begin reading, tariff changes, end reading; of
        `session` (session.py) what else belongs into it. `split`: None, or 1 where the energy of
        the tariffs can be billed, else 0. Changes that find no room in the record go before it, in
        tariff records. Returns its sequence number. Raises JournalError, SignerError, OcmfError.
        """
        vendor = [("ZB", 1 if billable else 0)]
        if split is not None:
            vendor.append(("ZW", split))
        if session.gap_mwh:
            vendor.append(("ZG", session.gap_mwh))
        changes = readings[1:-1]
        await self._lock.acquire()
        try:
            if changes and (session.changes_written or not self._fits(
                    "complete", sid, readings, session.user, vendor)):
                while session.changes_written < len(changes):
                    part = self._part(sid, changes[session.changes_written:], session.user)
                    await self._record("tariff", sid, part, session.user, [], {},
                                       {"n": len(part)})
                    session.changes_written += len(part)
                vendor.append(("ZT", len(changes)))
                readings = (readings[0], readings[-1])
            return await self._record("complete", sid, readings, session.user, vendor,
                                      {"open_seq": 0, "mark_mwh": readings[-1][3]},
                                      {"gap_mwh": session.gap_mwh, "jump_mwh": session.jump_mwh})
        finally:
            self._lock.release()

    def _part(self, sid, changes, user):
        """The first of the tariff's changes, as many as find room in one record."""
        count = min(_CHANGES, len(changes))
        while count > 1 and not self._fits("tariff", sid, changes[:count], user, []):
            count -= 1
        return changes[:count]

    def _payload(self, kind, sid, readings, user, vendor):
        fields, step_mwh, serial_source = self._identity()
        if user:
            fields.update(user)
        previous = binascii.hexlify(self._journal.record_hash).decode()
        return ocmf.payload(kind, fields, self._journal.page + 1, step_mwh, readings,
                            [("ZP", previous), ("ZS", sid), ("ZQ", serial_source)] + vendor)

    def _fits(self, kind, sid, readings, user, vendor):
        try:
            self._payload(kind, sid, readings, user, vendor)
        except ocmf.TooLong:
            return False
        return True

    async def _record(self, kind, sid, readings, user, vendor, head, message):
        journal = self._journal
        text = self._payload(kind, sid, readings, user, vendor)
        digest = hashlib.sha256()
        for piece in frames.pieces(text):
            digest.update(piece)
        digest = digest.digest()
        before, behind = ocmf.envelope(await self._signer.sign(digest))
        message["kind"] = kind
        unix_ms, quality, _, register_mwh, _, _ = readings[-1]
        if kind != "tariff":
            message["begin_ms"], _, _, message["begin_mwh"], _, _ = readings[0]
            message["reg_mwh"] = register_mwh
        payload = self._message(message, sid, unix_ms, quality)
        return await self._append(
            frames.REC, _with_record(payload, (before, text, behind)), page=journal.page + 1,
            record_hash=digest[:16], **head)

    async def save(self, name, body):
        """Replace a checkpoint whole. Raises JournalError."""
        async with self.quiet:
            self._journal.save_small(name, body)

    async def save_cursor(self):
        """Make the confirmed position durable. Raises JournalError."""
        async with self.quiet:
            self._journal.save_cursor()
