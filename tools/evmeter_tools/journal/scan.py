"""Find a journal's frames, and where its chain or a checksum breaks: pure functions.

Whether bytes are a frame is judged by the firmware's own reader (ledger/journal.py); this module
says why some are not, goes on behind them, and compares what should follow on one another.
"""

import binascii
import hashlib
import json
import re
import struct
from dataclasses import dataclass, field

from evmeter_tools.firmware import reach

reach()

from evmeter.ledger import journal as frames  # noqa: E402
from evmeter.session.session import unpack, unpack_end  # noqa: E402

KINDS = {frames.REC: "rec", frames.EVT: "evt", frames.IVL: "ivl", frames.LOG: "log"}
_MAGIC = struct.pack("<H", frames._MAGIC)
_OVERHEAD = frames._OVERHEAD
_HEADER_BYTES = frames._HEADER_BYTES
_SEGMENT = re.compile(r"/s/(\d{8})", re.ASCII)
_BAD = re.compile(r"/s/\d{8}\.bad", re.ASCII)


@dataclass
class Entry:
    """A whole frame. `file` and `offset` say where it lies, `message` is its payload parsed (None
    where it is no JSON object), `digest` what the next frame names as its predecessor."""

    seq: int
    kind: str
    file: str
    offset: int
    previous: str
    digest: str
    payload: bytes
    message: dict | None


@dataclass
class Fault:
    """Something that is not as it must be; `expected` and `found` only where there is a pair."""

    what: str
    file: str | None = None
    offset: int | None = None
    seq: int | None = None
    expected: str | None = None
    found: str | None = None


@dataclass
class Report:
    """All that was found: entries in the journal's order, faults, notes, the small files.

    cursor    newest frame that the backend has confirmed, None where that is not stored
    refused   confirmed frames that the backend called bad: the device keeps them longest
    session   the open session's checkpoint (session.Session), None where there is none
    ended_unix_ms   when the last session ended, where the checkpoint tells of no open one
    salvaged  whether the entries come from a search of the raw flash, not from files
    """

    name: str
    entries: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    cursor: int | None = None
    refused: tuple = ()
    session: object = None
    ended_unix_ms: int | None = None
    salvaged: bool = False

    @property
    def ok(self):
        """Tell whether nothing is broken."""
        return not self.faults


class _Bytes:
    """A store over bytes, for the firmware's reader: one segment."""

    def __init__(self, data):
        self._data = memoryview(data)

    def read(self, segment, offset, buffer, length):
        piece = self._data[offset : offset + length]
        buffer[: len(piece)] = piece
        return len(piece)


class _Reader:
    """Frames out of bytes, by the firmware's own reader."""

    def __init__(self, data, file):
        self._data = data
        self._file = file
        self._journal = frames.Journal(_Bytes(data), None, None)

    def at(self, offset):
        """The `Entry` at `offset`, or None."""
        kind, length, seq = self._journal._load(0, offset)
        if not kind:
            return None
        end = offset + length + _OVERHEAD
        frame = self._data[offset:end]
        payload = frame[_HEADER_BYTES : _HEADER_BYTES + length]
        return Entry(seq, KINDS.get(kind, "type %d" % kind), self._file, offset,
                     frame[9:_HEADER_BYTES].hex(), hashlib.sha256(frame).digest()[:16].hex(),
                     bytes(payload), _message(payload))

    def next_from(self, offset):
        """The first frame at or behind `offset`, or None."""
        at = self._data.find(_MAGIC, offset)
        while at >= 0:
            entry = self.at(at)
            if entry:
                return entry
            at = self._data.find(_MAGIC, at + 1)
        return None


def _end(entry):
    return entry.offset + len(entry.payload) + _OVERHEAD


def _message(payload):
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _damage(data, offset, file):
    """A `Fault` that says why no frame begins at `offset`."""
    rest = len(data) - offset
    seq = expected = found = None
    if rest < _OVERHEAD:
        what = "%d bytes, too few for a frame" % rest
    else:
        magic, length, seq, kind, _ = struct.unpack_from(frames._HEADER, data, offset)
        if magic != frames._MAGIC:
            what, seq = "no frame begins here: wrong magic", None
            expected, found = _MAGIC.hex(), data[offset : offset + 2].hex()
        elif length > frames.MAX_PAYLOAD:
            what = "the length of the frame is impossible"
            expected, found = "at most %d" % frames.MAX_PAYLOAD, "%d" % length
        elif length + _OVERHEAD > rest:
            what = "the frame is cut off"
            expected, found = "%d bytes" % (length + _OVERHEAD), "%d bytes" % rest
        else:
            end = offset + _HEADER_BYTES + length
            crc = binascii.crc32(data[offset:end])
            what = "CRC wrong" if kind else "the frame has no type"
            expected = "%08x" % crc
            found = "%08x" % struct.unpack_from("<I", data, end)[0]
    return Fault(what, file, offset, seq, expected, found)


def _segment(data, file, report, unit=1):
    """Append a segment's entries and damage to the report; returns the fault of its end, if bytes
    that are no frame are there."""
    reader = _Reader(data, file)
    offset = 0
    while offset < len(data):
        entry = reader.at(offset)
        if not entry:
            fault = _damage(data, offset, file)
            entry = reader.next_from(offset + 1)
            skipped = (entry.offset if entry else len(data)) - offset
            fault.what += "; %d bytes are not readable" % skipped
            report.faults.append(fault)
            if not entry:
                return fault
        report.entries.append(entry)
        offset = -(-_end(entry) // unit) * unit
    return None


def _said(entry):
    """Yield the faults of an entry's own contents."""
    where = (entry.file, entry.offset, entry.seq)
    if entry.kind not in KINDS.values():
        yield Fault("unknown %s" % entry.kind, *where)
    if entry.message is None:
        yield Fault("the payload is no JSON object", *where)
    elif entry.message.get("seq") != entry.seq:
        yield Fault("the payload carries another number", *where, str(entry.seq),
                    "%.20s" % entry.message.get("seq"))


def _follows(before, entry):
    """Yield what is wrong from one entry to the next."""
    where = (entry.file, entry.offset, entry.seq)
    if before is None:
        if entry.seq == 1 and entry.previous != "0" * 32:
            yield Fault("the first frame names a predecessor", *where, "0" * 32, entry.previous)
        return
    if entry.seq <= before.seq:
        yield Fault("the numbers do not run on", *where, str(before.seq + 1), str(entry.seq))
    elif entry.seq > before.seq + 1:
        last = entry.seq - 1
        yield Fault("%s missing" % ("frame %d is" % last if last == before.seq + 1 else
                                    "frames %d to %d are" % (before.seq + 1, last)),
                    *where, str(before.seq + 1), str(entry.seq))
    elif entry.previous != before.digest:
        yield Fault("the chain breaks: it does not name the frame before it", *where,
                    before.digest, entry.previous)


def _small(files, name, report):
    """The body of a small file, None where it is empty or damaged (then a fault)."""
    data = files.get("/" + name)
    if not data:
        return None
    body, crc = data[:-4], data[-4:]
    right = binascii.crc32(body).to_bytes(4, "little")
    if crc != right:
        report.faults.append(Fault("CRC wrong", "/" + name, max(0, len(data) - 4),
                                   expected=right.hex(), found=crc.hex()))
        return None
    return body or None


def _small_files(files, report):
    for name in ("cursor", "session"):
        if "/" + name not in files:
            report.faults.append(Fault("missing; it is made when the journal is formatted",
                                       "/" + name))
    body = _small(files, "cursor", report)
    if body is not None:
        report.cursor = int.from_bytes(body, "little")
        newest = max((entry.seq for entry in report.entries), default=0)
        if report.cursor > newest:
            report.faults.append(Fault(
                "more frames are confirmed than are there: the newest are lost", "/cursor",
                expected="at most %d" % newest, found=str(report.cursor)))
    body = _small(files, "refused", report) or b""
    report.refused = struct.unpack("<%dI" % (len(body) // 4), body[: len(body) // 4 * 4])
    body = _small(files, "session", report)
    if body is not None:
        report.session = unpack(body)
        report.ended_unix_ms = unpack_end(body)
        if report.session is None and report.ended_unix_ms is None:
            report.faults.append(Fault("no checkpoint of a session that this version knows",
                                       "/session"))


def _raw(data):
    """Every whole frame anywhere in the flash, old copies too."""
    reader = _Reader(data, "raw flash")
    entry = reader.next_from(0)
    while entry:
        yield entry
        entry = reader.next_from(_end(entry))


def _salvage(data, report):
    """Fill the report from the raw flash: each frame once, by number."""
    found = {}
    for entry in _raw(data):
        found.setdefault(entry.seq, {}).setdefault(entry.digest, entry)
    named = {entry.previous for group in found.values() for entry in group.values()}
    report.salvaged = True
    for _, group in sorted(found.items()):
        # An interrupted append leaves a frame whose number was then given to another one: the
        # one that the next frame names is right.
        right = [entry for entry in group.values() if entry.digest in named]
        report.entries.append((right or list(group.values()))[-1])
    report.notes.append("%d whole frames were found by a search of the raw flash; what was "
                        "written last cannot be known" % len(report.entries))


def _rolled_back(data, report):
    """Compare the newest frame with what else lies in the flash."""
    newest = max((entry.seq for entry in report.entries), default=0)
    # An append that a power cut interrupted may have left its frame without its place in a file.
    later = [entry for entry in _raw(data) if entry.seq > newest and _said_nothing(entry)]
    beyond = sorted({entry.seq for entry in later if entry.seq > newest + 1})
    if beyond:
        report.faults.append(Fault(
            "frames up to %d lie in the flash, but in no file: the newest are lost"
            % beyond[-1], "raw flash", next(e.offset for e in later if e.seq == beyond[-1]),
            beyond[-1], "at most %d" % (newest + 1), str(beyond[-1])))
    elif later:
        report.notes.append("frame %d lies in the flash, but in no file: an append that was "
                            "interrupted, or a loss of the newest frame" % (newest + 1))


def _said_nothing(entry):
    return not list(_said(entry))


def _second_store(nvs, report):
    """Compare the newest frame with the head in the second store (`get_blob`)."""
    journal = frames.Journal(None, nvs, None)
    if not journal._load_head():
        report.faults.append(Fault("the second store holds no head that can be read",
                                   "second store"))
        return
    last = report.entries[-1] if report.entries else None
    newest = last.seq if last else 0
    if newest not in (journal.next_seq - 1, journal.next_seq):
        report.faults.append(Fault(
            "the newest frame is another than the second store says", "second store",
            expected=str(journal.next_seq - 1), found=str(newest)))
    elif newest == journal.next_seq:
        report.notes.append("the newest frame is not yet in the second store: the device takes "
                            "it over at its next boot")
    elif last and last.digest != journal.hash.hex():
        report.faults.append(Fault("the newest frame is another than the second store says",
                                   last.file, last.offset, last.seq, journal.hash.hex(),
                                   last.digest))


def _segments(image, report):
    for name in sorted(image.files):
        data = image.files[name]
        match = _SEGMENT.fullmatch(name)
        if not match:
            if _BAD.fullmatch(name):
                report.faults.append(Fault("set aside by the device: %d bytes without a whole "
                                           "frame" % len(data), name))
            elif name.startswith("/s/"):
                report.faults.append(Fault("no segment's name", name))
            continue
        if not data:
            report.notes.append("%s is empty: its creation was interrupted by a power cut" % name)
        known = len(report.entries)
        torn = _segment(data, name, report, image.unit)
        if torn and image.tears:
            # Whether a frame is missing shows at the next one, or in the second store.
            report.faults.remove(torn)
            report.notes.append("%s ends in %d bytes that are no frame: an append that was "
                                "interrupted" % (name, len(data) - torn.offset))
        if len(report.entries) > known and report.entries[known].seq != int(match[1]):
            first = report.entries[known]
            report.faults.append(Fault("the file's name is not its first frame's number", name,
                                       first.offset, first.seq, str(int(match[1])),
                                       str(first.seq)))


def _kept_over(before, entry, report):
    """Whether frames are missing between two entries because those before them were kept longer:
    the device gives confirmed ones back, and a segment with a refused one last."""
    if (before is None or before.file == entry.file
            or not before.seq + 1 < entry.seq <= (report.cursor or 0) + 1):
        return False
    kept = [str(other.seq) for other in report.entries
            if other.file == before.file and other.seq in report.refused]
    if kept:
        report.notes.append("frames %d to %d are confirmed and gone; kept before them, because "
                            "the backend refused them: %s"
                            % (before.seq + 1, entry.seq - 1, ", ".join(kept)))
    return bool(kept)


def scan(image, nvs=None):
    """Judge an `image.Image`; return a `Report`. `nvs`: the second store, where it is at hand."""
    report = Report(image.name, faults=[Fault(text) for text in image.faults])
    if image.mounted:
        _segments(image, report)
        _small_files(image.files, report)
        _rolled_back(image.data, report)
    else:
        _salvage(image.data, report)
    before = None
    for entry in list(report.entries):
        if before and before.digest == entry.digest and before.file != entry.file:
            report.notes.append("frame %d is there twice, for the first could not be read back "
                                "when it was written" % entry.seq)
            report.entries.remove(entry)
            continue
        report.faults += _said(entry)
        if not _kept_over(before, entry, report):
            report.faults += _follows(before, entry)
        before = entry
    if nvs is not None:
        _second_store(nvs, report)
    return report
