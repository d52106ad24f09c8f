"""The emulated control pilot: what the charger's ADC would sample, window by window.

Levels and resistances as in IEC 61851-1 Annex A; front end "fe3" of drivers/control_pilot.py:
1300 mV at 0 V and 88.5 mV per volt.
"""

import os
import random
import struct
import threading
import time

SAMPLES = 250
PERIOD_S = 0.02
_LEVEL_MV = {"A": 12000, "B": 9000, "C": 6000, "D": 3000, "E": 0, "F": -12000}
_LOW_MV = -12000
_ZERO_MV = 1300
_GAIN_PER_V = 88.5
_RANGE_MV = 3300
_VARIANTS = 16


def duty_percent(offered_ma):
    """PWM duty for an offered current, IEC 61851-1 Table A.7: 0.6 A per percent up to 51 A."""
    if offered_ma <= 0:
        return 100.0
    return offered_ma / 600 if offered_ma <= 51000 else min(offered_ma / 2500 + 64, 100.0)


class Vehicle:
    """Keeps the file `path` filled with the newest window; `set` changes the pilot at once.

    `noise_mv`: standard deviation at the ADC's pin. `offset_mv` (at the pin) and `gain`: what a
    front end is off by. `edge_unix_ms`: when the first window of the present state was written.
    """

    def __init__(self, path, noise_mv=4, offset_mv=0, gain=1.0, seed=1):
        self._path = str(path)
        self._noise_mv = noise_mv
        self._zero_mv = _ZERO_MV + offset_mv
        self._gain_per_v = _GAIN_PER_V * gain
        self._random = random.Random(seed)
        self._sequence = 0
        self._windows = {}
        # without it, the thread could put a window of the state before over one just set
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = None
        self._file = None
        self.state = "A"
        self.offered_ma = 16000
        self.edge_unix_ms = 0

    def set(self, state=None, offered_ma=None):
        """The pilot state A to F and the current that the charger offers (0: no PWM).

        Raises ValueError on another state or a current outside of 0 to 80,000 mA; nothing is
        changed then.
        """
        state = self.state if state is None else state
        offered_ma = self.offered_ma if offered_ma is None else offered_ma
        if state not in tuple(_LEVEL_MV):
            raise ValueError("pilot state %r is not one of A to F" % (state,))
        if not 0 <= offered_ma <= 80000:
            raise ValueError("offered current %r mA is not in 0 to 80000" % (offered_ma,))
        with self._lock:
            changed = state != self.state
            self.state = state
            self.offered_ma = offered_ma
            if self._file is not None:
                self._write()
            if changed:
                self.edge_unix_ms = time.time_ns() // 1_000_000

    def _pin(self, pilot_mv):
        noise = self._random.gauss(0, self._noise_mv) if self._noise_mv else 0
        level_mv = self._zero_mv + pilot_mv * self._gain_per_v / 1000 + noise
        return min(_RANGE_MV, max(0, round(level_mv)))

    def _window(self, state, duty):
        high_mv = _LEVEL_MV[state]
        pulsed = state in "BCD" and duty < 100
        phase = self._random.random()
        samples = []
        for _ in range(SAMPLES):
            # 40 us of a 1 ms period, with jitter: a fixed step would lock to the PWM's phase
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
        self.edge_unix_ms = time.time_ns() // 1_000_000
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(PERIOD_S):
            with self._lock:
                self._write()

    def stop(self):
        """The waveform stands still from now on."""
        self._stop.set()
        self._thread.join()
        os.close(self._file)
        self._file = None
