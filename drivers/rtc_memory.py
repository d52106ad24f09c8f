"""RTC memory in two parts that do not touch each other: the open session, and the pulse count.

Each part has a fixed place with room for its data behind a length and a CRC32. Memory that was
never written, or lost its contents with the power, reads as empty parts.
"""

import binascii
import struct

from micropython import const

_HEAD = "<HI"  # length, CRC32 of length and data
_HEAD_BYTES = const(6)
_SESSION = const(0)
_PULSES = const(256)
_BYTES = const(320)


def _crc(length, data):
    return binascii.crc32(data, length) & 0xFFFFFFFF


class RtcMemory:
    """`session` and `pulses` read their part, or store `data` in it: at most 250 and 58 bytes.

    `memory` has the face of machine.RTC().memory: it gives the bytes, or takes them. It is read
    once; nobody else may write it.
    """

    def __init__(self, memory):
        self._memory = memory
        self._image = image = bytearray(_BYTES)
        kept = memory()
        if len(kept) == _BYTES:  # else it is blank, or another firmware's
            image[:] = kept

    def _part(self, at, end, data):
        image = self._image
        begin = at + _HEAD_BYTES
        if data is None:
            length, crc = struct.unpack_from(_HEAD, image, at)
            if length > end - begin:
                return b""
            found = bytes(image[begin : begin + length])
            return found if _crc(length, found) == crc else b""
        length = len(data)
        if length > end - begin:
            raise ValueError("%d bytes are too long; there is room for %d" % (length, end - begin))
        struct.pack_into(_HEAD, image, at, length, _crc(length, data))
        image[begin : begin + length] = data
        self._memory(image)
        return None

    def session(self, data=None):
        """The open session. Raises ValueError for more than 250 bytes."""
        return self._part(_SESSION, _PULSES, data)

    def pulses(self, data=None):
        """The pulse meter's newest record. Raises ValueError for more than 58 bytes."""
        return self._part(_PULSES, _BYTES, data)
