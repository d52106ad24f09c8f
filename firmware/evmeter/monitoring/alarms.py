"""Alarms by code: raised once, counted, cleared once."""

METER = "METER"
METER_CHANGED = "METER_CHANGED"
JOURNAL = "JOURNAL"
JOURNAL_FULL = "JOURNAL_FULL"
KEY = "KEY_MISSING"
SESSION_REFUSED = "SESSION_REFUSED"
PILOT = "PILOT"
DIODE = "DIODE"
WATCHDOG = "WATCHDOG_RESET"
TASK = "TASK"
PULSES = "PULSES"
CLOCK = "CLOCK"
INSECURE = "INSECURE_LINK"
_ALL = (METER, METER_CHANGED, JOURNAL, JOURNAL_FULL, KEY, SESSION_REFUSED, PILOT, DIODE, WATCHDOG,
        TASK, PULSES, CLOCK, INSECURE)

CRITICAL = "crit"
WARNING = "warn"


class Alarms:
    """Active alarms; `on_change()` is called when one is raised or cleared."""

    def __init__(self, clock):
        self._clock = clock
        self._active = {}
        # All of them once: what a broker retains of an earlier boot may be gone by now.
        self._changed = set(_ALL)
        self.on_change = None

    def raise_(self, code, severity, text):
        """Raise `code`, or count it once more where it is active."""
        alarm = self._active.get(code)
        if alarm:
            alarm["n"] += 1
            return
        unix_ms, quality = self._clock.now()
        self._active[code] = {"v": 1, "ts": unix_ms // 1000, "tq": quality, "sev": severity,
                              "act": True, "n": 1, "text": text}
        self._note(code)

    def clear(self, code):
        """The cause of `code` is gone; nothing happens where it was not active."""
        if self._active.pop(code, None):
            self._note(code)

    def _note(self, code):
        self._changed.add(code)
        if self.on_change:
            self.on_change()

    def codes(self):
        """The active codes, sorted."""
        return sorted(self._active)

    def changes(self):
        """The codes raised or cleared since the last call, with the alarm's fields or None."""
        changed = [(code, self._active.get(code)) for code in sorted(self._changed)]
        self._changed.clear()
        return changed

    def active(self):
        """All active alarms as (code, fields)."""
        return [(code, self._active[code]) for code in self.codes()]
