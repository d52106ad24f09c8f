"""The journal's head in the second store, by which a journal that lost its newest frames is found
out: next sequence, page, open_seq, mark_mwh, interval_mwh, head hash, record hash, and a CRC-32.
"""

import binascii
import struct

from micropython import const

_HEAD = "<IIIqq16s16s"
_KEY = "head"
_BYTES = const(64)
_CRC_AT = const(60)
_NONE_MWH = -(1 << 62)  # no register yet; a mark can be negative after a jump
NO_HASH = bytes(16)


class JournalError(Exception):
    """The journal cannot do what was asked; the text says what."""


class Head:
    """The head in `nvs` (esp32.NVS).

    next_seq      number of the next frame; `hash` of the newest one
    page          pagination of the newest record; `record_hash` of its signed part
    open_seq      begin record of the open session, 0: none
    mark_mwh      register up to which energy is accounted for, or None
    interval_mwh  register at which the newest interval ended, or None
    faults        what the boot found, in words
    """

    def __init__(self, nvs):
        self._nvs = nvs
        self._head = bytearray(_BYTES)
        self.faults = []
        self.next_seq = 1
        self.page = 0
        self.open_seq = 0
        self.mark_mwh = None
        self.interval_mwh = None
        self.hash = NO_HASH
        self.record_hash = NO_HASH

    def _load_head(self):
        try:
            if self._nvs.get_blob(_KEY, self._head) != _BYTES:
                return False
        except OSError:
            return False
        crc = binascii.crc32(memoryview(self._head)[:_CRC_AT]) & 0xFFFFFFFF
        if crc.to_bytes(4, "little") != bytes(self._head[_CRC_AT:]):
            self.faults.append("second store damaged")
            return False
        (self.next_seq, self.page, self.open_seq, self.mark_mwh, self.interval_mwh, self.hash,
         self.record_hash) = struct.unpack_from(_HEAD, self._head)
        if self.mark_mwh == _NONE_MWH:
            self.mark_mwh = None
        if self.interval_mwh == _NONE_MWH:
            self.interval_mwh = None
        return True

    def _save_head(self):
        head = self._head
        mark_mwh = _NONE_MWH if self.mark_mwh is None else self.mark_mwh
        interval_mwh = _NONE_MWH if self.interval_mwh is None else self.interval_mwh
        struct.pack_into(_HEAD, head, 0, self.next_seq, self.page, self.open_seq, mark_mwh,
                         interval_mwh, self.hash, self.record_hash)
        crc = binascii.crc32(memoryview(head)[:_CRC_AT]) & 0xFFFFFFFF
        head[_CRC_AT:] = crc.to_bytes(4, "little")
        try:
            self._nvs.set_blob(_KEY, head)
            self._nvs.commit()
        except OSError as error:
            raise JournalError("the second store was not written (error %s)"
                               % error.args[0]) from None
