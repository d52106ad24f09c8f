"""The pilot's ADC: samples of the emulated waveform from a file that the bench keeps fresh.

Layout, little-endian as the host: sequence u32, number of samples u32, then u16 millivolts at the
pin.
"""

from array import array

from micropython import const

_SAMPLES = const(250)
_HEAD_WORDS = const(4)
_BYTES = const(508)


class PilotAdc:
    """machine.ADC's read_uv over the newest window; a window is read as a whole."""

    def __init__(self, path):
        self._path = path
        self._file = None
        self._words = array("H", [0] * (_HEAD_WORDS + _SAMPLES))
        self._next = len(self._words)

    def _refill(self):
        words = self._words
        if self._file is None:
            self._file = open(self._path, "rb", buffering=0)
        self._file.seek(0)
        if self._file.readinto(words) != _BYTES or words[2] | words[3] << 16 != _SAMPLES:
            raise OSError(5, "%s holds no window of %d samples" % (self._path, _SAMPLES))
        self._next = _HEAD_WORDS

    def read_uv(self):
        """Microvolts at the pin. Raises OSError where the bench gives no waveform."""
        if self._next >= len(self._words):
            self._refill()
        value = self._words[self._next]
        self._next += 1
        return value * 1000
