"""The open session and its checkpoint."""

import struct

from micropython import const

METER_KEY = "meter"  # in the second store: whose register is accounted for
_VERSION = const(2)
_FORMAT = "<BBIIqqBqqBqIhIq"
_BEGIN_QUALITY = const(26)
_LAST_QUALITY = const(43)
_END_BYTES = const(8)


class Session:
    """What is known of the open session. Registers are rounded to the meter's energy step."""

    def __init__(self):
        self.begin_seq = 0
        self.page = 0  # pagination of the begin record; it also numbers the session
        self.begin_mwh = 0
        self.begin_unix_ms = 0
        self.begin_quality = "U"
        self.last_mwh = 0
        self.last_unix_ms = 0
        self.last_quality = "U"
        self.gap_mwh = 0
        self.duration_s = 0  # up to the checkpoint: monotonic time, and off-time that is proven
        self.duration_pm_s = 0  # so far may that be off; -1: it is the least that it can be
        self.jump_mwh = 0  # by so much the register went on from elsewhere inside the session
        self.meter = 0  # CRC-32 of the meter's serial number
        self.charged = False
        self.stepped = False  # its clock was set by over a minute: begin and end are of two clocks
        self.spoiled = ""  # why the session cannot be billed, if so
        # Ordered from outside (orders.py), and T readings in tariff records: in the journal, not
        # in the checkpoint
        self.user = self.target_mwh = self.target_minor = None
        self.stop = ""  # L or R: who stopped it
        self.changes_written = 0

    def exchanged(self):
        """Whether it was spoiled by another meter in the place of the first."""
        return "exchanged" in self.spoiled

    def pack(self):
        """The checkpoint: 70 bytes."""
        return struct.pack(
            _FORMAT, _VERSION, (1 if self.charged else 0) | (2 if self.spoiled else 0)
            | (4 if self.exchanged() else 0) | (8 if self.stepped else 0),
            self.begin_seq, self.page, self.begin_mwh, self.begin_unix_ms,
            ord(self.begin_quality), self.last_mwh, self.last_unix_ms, ord(self.last_quality),
            self.gap_mwh, self.duration_s, self.duration_pm_s, self.meter, self.jump_mwh)


def unpack(body):
    """The session in a checkpoint, or None where there is none that can be read."""
    if not body or len(body) != struct.calcsize(_FORMAT) or body[0] != _VERSION:
        return None
    if body[_BEGIN_QUALITY] not in b"UISR" or body[_LAST_QUALITY] not in b"UISR":
        return None
    session = Session()
    (_, flags, session.begin_seq, session.page, session.begin_mwh, session.begin_unix_ms, begin,
     session.last_mwh, session.last_unix_ms, last, session.gap_mwh,
     session.duration_s, session.duration_pm_s, session.meter,
     session.jump_mwh) = struct.unpack(_FORMAT, body)
    session.begin_quality = chr(begin)
    session.last_quality = chr(last)
    session.charged = bool(flags & 1)
    session.stepped = bool(flags & 8)
    if flags & 2:
        session.spoiled = "meter exchanged" if flags & 4 else "register not continuous"
    return session


def pack_end(unix_ms):
    """The checkpoint while no session is open: when the last one ended, 8 bytes."""
    return unix_ms.to_bytes(_END_BYTES, "little")


def unpack_end(body):
    """Unix ms of the last session's end in such a checkpoint, or None where it is none."""
    if not body or len(body) != _END_BYTES:
        return None
    return int.from_bytes(body, "little")
