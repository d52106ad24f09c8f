"""The emulated control pilot: what the charger's ADC would sample, window by window, in a file.

Front end "fe3" of drivers/pilot_front_end.py unless another one is named.
"""

import os
import struct
import threading
import time

from evmeter_tools.bench.waveform import SAMPLES, SETTINGS, Waveform, duty_percent

PERIOD_S = 0.02
# what the vehicle sets by itself
_OWN = ("state", "duty_percent")
OPTIONS = tuple(name for name in SETTINGS if name not in _OWN)


def _now_ms():
    return time.monotonic_ns() / 1_000_000


class Vehicle:
    """Keeps the file `path` filled with a window of the last `period_s`; `set` changes the pilot
    at once.

    `options`: settings of waveform.Waveform but state and duty, which follows from the current
    that the charger offers. `edge_unix_ms`: when the first window of the present state was
    written.
    """

    def __init__(self, path, *, front_end="fe3", seed=1, period_s=PERIOD_S, **options):
        self._path = str(path)
        self._period_s = period_s
        self.offered_ma = 16000
        self._waveform = Waveform(front_end, seed, duty_percent=duty_percent(self.offered_ma),
                                  **options)
        self._sequence = 0
        # without it, the thread could put a window of the state before over one just set
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = None
        self._file = None
        self.edge_unix_ms = 0

    @property
    def state(self):
        """The pilot state, A to F."""
        return self._waveform.settings["state"]

    @property
    def cp(self):
        """The pilot's wire: ok, short or cut."""
        return self._waveform.settings["cp"]

    def set(self, state=None, offered_ma=None, **options):
        """The pilot state A to F, the current that the charger offers (0: no PWM), and settings
        of waveform.Waveform; a duty_percent stands until the next offered current.

        Raises ValueError on another state, a current outside of 0 to 80,000 mA or a wrong setting;
        nothing is changed then.
        """
        if offered_ma is not None:
            if not 0 <= offered_ma <= 80000:
                raise ValueError("offered current %r mA is not in 0 to 80000" % (offered_ma,))
            options.setdefault("duty_percent", duty_percent(offered_ma))
        if state is not None:
            options["state"] = state
        before = self.state
        with self._lock:
            self._waveform.set(_now_ms(), **options)
            if offered_ma is not None:
                self.offered_ma = offered_ma
            if self._file is not None:
                self._write()
            if self.state != before:
                self.edge_unix_ms = time.time_ns() // 1_000_000

    def _write(self):
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        samples = self._waveform.window(_now_ms())
        body = struct.pack("<II%dH" % SAMPLES, self._sequence, SAMPLES, *samples)
        os.pwrite(self._file, body, 0)

    def start(self):
        """Begin to write windows, one each period (20 ms)."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._write()
        self.edge_unix_ms = time.time_ns() // 1_000_000
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(self._period_s):
            with self._lock:
                self._write()

    def stop(self):
        """The waveform stands still from now on."""
        self._stop.set()
        self._thread.join()
        os.close(self._file)
        self._file = None
