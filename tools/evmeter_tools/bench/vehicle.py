"""The emulated control pilot: what the charger's ADC would sample, window by window.

Levels and resistances as in IEC 61851-1 Annex A; front end "fe3" of drivers/control_pilot.py:
1300 mV at 0 V and 88.5 mV per volt.
"""

import os
import random
import struct
import threading

SAMPLES = 250
PERIOD_S = 0.02
_LEVEL_MV = {"A": 12000, "B": 9000, "C": 6000, "D": 3000, "E": 0, "F": -12000}
_LOW_MV = -12000
_ZERO_MV = 1300
_GAIN_PER_V = 88.5
_VARIANTS = 16


def duty_percent(offered_ma):
    """PWM duty for an offered current, IEC 61851-1 Table A.7: 0.6 A per percent up to 51 A."""
    if offered_ma <= 0:
        return 100.0
    return offered_ma / 600 if offered_ma <= 51000 else offered_ma / 2500 + 64


class Vehicle:
    """Keeps `path` filled with the newest window; `set` changes the pilot at once."""

    def __init__(self, path, noise_mv=4, seed=1):
        self._path = str(path)
        self._noise_mv = noise_mv
        self._random = random.Random(seed)
        self._sequence = 0
        self._windows = {}
        self._stop = threading.Event()
        self._thread = None
        self._file = None
        self.state = "A"
        self.offered_ma = 16000

    def set(self, state=None, offered_ma=None):
        """The pilot state A to F and the current that the charger offers (0: no PWM)."""
        if state is not None:
            if state not in _LEVEL_MV:
                raise ValueError("pilot state %r is not one of A to F" % (state,))
            self.state = state
        if offered_ma is not None:
            self.offered_ma = offered_ma
        self._write()

    def _pin(self, pilot_mv):
        volts = pilot_mv / 1000
        noise = self._random.gauss(0, self._noise_mv) if self._noise_mv else 0
        return min(3300, max(0, round(_ZERO_MV + volts * _GAIN_PER_V + noise)))

    def _window(self, state, duty):
        high_mv = _LEVEL_MV[state]
        pulsed = state in "BCD" and duty < 100
        phase = self._random.random()
        samples = []
        for _ in range(SAMPLES):
            phase = (phase + self._random.uniform(0.03, 0.05)) % 1
            level_mv = _LOW_MV if pulsed and phase * 100 >= duty else high_mv
            samples.append(self._pin(level_mv))
        return struct.pack("<%dH" % SAMPLES, *samples)

    def _write(self):
        duty = duty_percent(self.offered_ma)
        key = self.state, duty
        if key not in self._windows:
            self._windows[key] = [self._window(*key) for _ in range(_VARIANTS)]
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        body = self._windows[key][self._sequence % _VARIANTS]
        os.pwrite(self._file, struct.pack("<II", self._sequence, SAMPLES) + body, 0)

    def start(self):
        """Begin to write windows, one every 20 ms."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._write()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(PERIOD_S):
            self._write()

    def stop(self):
        """The waveform stands still from now on."""
        self._stop.set()
        self._thread.join()
        os.close(self._file)
