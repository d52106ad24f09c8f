"""Whether a reading can be believed (DESIGN.md 4.1). Pure rules over integers and monotonic time.

A register may stand still or go forward by what the installation can draw. A meter that goes on
from elsewhere (rollover, reset, exchange) is believed again once 5 replies over 10 s agree.
"""

from micropython import const

_AGREE = const(5)
_AGREE_MS = const(10000)
_MAX_MV = const(1000000)
_MAX_MA = const(10000000)
_MAX_MHZ = const(100000)
_MAX_MW = const(1000000000)


class Gate:
    """Judges one meter's readings, in the order of their time.

    `p_max_w`: the most the installation draws. `step_mwh`: step of the import register.
    `base_mwh`: the last durable register before the boot, rounded to the step, or None.
    `rollover_mwh`: where the register starts again at 0, or 0 if that is not known.
    `event`: what the last call of `judge` re-based, or None: a dict with `old_mwh`, `new_mwh`,
    `modulus_mwh` (added by a rollover, else 0), `diff_mwh` (energy between the two, or None: not
    known), `cause`.
    """

    def __init__(self, p_max_w, step_mwh, base_mwh=None, rollover_mwh=0):
        self._p_max_w = p_max_w
        self._step_mwh = step_mwh
        self.rollover_mwh = rollover_mwh
        self.refused = 0
        self.event = None
        self._letter = ""
        self._doubt = ""
        self._agreed = 0
        self._line_mwh = self._line_ms = self._first_ms = 0
        self.base(base_mwh)

    def base(self, mwh):
        """Judge the next reading against the durable register `mwh`, without the power limit."""
        self._mwh = mwh
        self._at_ms = None
        self._agreed = 0

    def distrust(self, letter, cause):
        """Refuse all readings with the OCMF `letter` and `cause` until they were re-based; for a
        meter that says itself that it is another one."""
        self._letter = letter
        self._doubt = cause
        self._agreed = 0

    def _reach_mwh(self, mwh, passed_ms):
        """The most that the register can have grown in a time: P_max and one step, of the meter
        or of a float32 (2**-23 of its value) if that is larger."""
        return ((self._p_max_w * passed_ms + 3599) // 3600
                + max(self._step_mwh, (mwh >> 23) + 1))

    def _against(self, old_mwh, old_ms, mwh, now_ms):
        """Why `mwh` cannot follow `old_mwh`, or ""."""
        if old_ms is None:  # the durable register was rounded to the step
            return "register stepped back" if mwh < old_mwh - self._step_mwh // 2 else ""
        if mwh < old_mwh:
            return "register stepped back"
        if mwh - old_mwh > self._reach_mwh(mwh, now_ms - old_ms):
            return "register stepped over the power limit"
        return ""

    def _range(self, reading):
        """Why a value cannot be, or ""."""
        if reading.import_mwh is None:
            return "no import register"
        if reading.import_mwh < 0 or (reading.export_mwh or 0) < 0:
            return "negative energy"
        dead = True
        seen = False
        for voltage_mv in reading.voltages_mv:
            if voltage_mv is not None:
                seen = True
                dead = dead and voltage_mv == 0
                if not 0 <= voltage_mv <= _MAX_MV:
                    return "voltage out of range"
        for current_ma in reading.currents_ma:
            if abs(current_ma or 0) > _MAX_MA:
                return "current out of range"
        if not 0 <= (reading.frequency_mhz or 0) <= _MAX_MHZ:
            return "frequency out of range"
        if abs(reading.power_mw or 0) > _MAX_MW:
            return "power out of range"
        if seen and dead and not reading.frequency_mhz and not reading.import_mwh:
            return "all values are zero"
        return ""

    def judge(self, reading):
        """Whether `reading` is believed; if not, its quality and reason say why."""
        self.event = None
        if reading.quality == "G":
            reason = self._range(reading)
            letter = "O"
            if not reason:
                letter = self._letter or "O"
                reason = self._follow(reading.import_mwh, reading.mono_ms)
            if not reason:
                return True
            reading.quality = letter
            reading.reason = reason
        self.refused += 1
        return False

    def _follow(self, mwh, now_ms):
        reason = self._doubt
        if not reason and self._mwh is not None:
            reason = self._against(self._mwh, self._at_ms, mwh, now_ms)
        if reason:
            if self._agreed and not self._against(self._line_mwh, self._line_ms, mwh, now_ms):
                self._agreed += 1
            else:
                self._agreed = 1
                self._first_ms = now_ms
            self._line_mwh = mwh
            self._line_ms = now_ms
            if self._agreed < _AGREE or now_ms - self._first_ms < _AGREE_MS:
                return reason
            self._rebase(mwh, now_ms, reason)
        self._mwh = mwh
        self._at_ms = now_ms
        self._agreed = 0
        return ""

    def _rebase(self, mwh, now_ms, cause):
        modulus_mwh = 0
        diff_mwh = None
        if self.rollover_mwh and not self._doubt and self._at_ms is not None and mwh < self._mwh:
            diff_mwh = mwh + self.rollover_mwh - self._mwh
            if 0 <= diff_mwh <= self._reach_mwh(self._mwh, now_ms - self._at_ms):
                modulus_mwh = self.rollover_mwh
            else:
                diff_mwh = None
        self.event = {"old_mwh": self._mwh, "new_mwh": mwh, "modulus_mwh": modulus_mwh,
                      "diff_mwh": diff_mwh, "cause": cause}
        self._letter = self._doubt = ""
