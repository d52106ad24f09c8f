"""The pilot's ADC: samples of the emulated waveform from a file that the bench keeps fresh.

Layout, little-endian: sequence u32, number of samples u32, then u16 millivolts at the pin.
"""

import struct
from array import array

from micropython import const

_SAMPLES = const(250)
_HEAD_BYTES = const(8)


class PilotAdc:
    """machine.ADC's read_uv over the newest window; a window is read as a whole."""

    def __init__(self, path):
        self._path = path
        self._file = None
        self._data = bytearray(_HEAD_BYTES + 2 * _SAMPLES)
        self._samples = array("H", [0] * _SAMPLES)
        self._next = _SAMPLES

    def _refill(self):
        if self._file is None:
            self._file = open(self._path, "rb", buffering=0)
        self._file.seek(0)
        if self._file.readinto(self._data) != len(self._data):
            raise OSError(5)
        if struct.unpack_from("<II", self._data)[1] != _SAMPLES:
            raise OSError(5)
        samples, data = self._samples, self._data
        for index in range(_SAMPLES):
            at = _HEAD_BYTES + 2 * index
            samples[index] = data[at] | data[at + 1] << 8
        self._next = 0

    def read_uv(self):
        """Microvolts at the pin. Raises OSError where the bench gives no waveform."""
        if self._next >= _SAMPLES:
            self._refill()
        value = self._samples[self._next]
        self._next += 1
        return value * 1000
