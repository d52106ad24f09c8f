"""Alarms by code, with their life: raised, counted, acknowledged, cleared, raised again.

Most are over when their cause is. What an operator must have seen stays until it is acknowledged
as well. Each change goes to the broker at once, and into the journal as an event `alarm`, so that
it is known even if nobody listened; events of one code keep a distance that doubles from a minute
to an hour while it comes and goes, and then tell what they left out by `n`.
"""

from micropython import const

METER_LOST = "METER_LOST"
METER_SWAPPED = "METER_SWAPPED"
METER_IMPLAUSIBLE = "METER_IMPLAUSIBLE"
PILOT = "PILOT_FAULT"
DIODE = "DIODE_MISSING"
STRAY_ENERGY = "ENERGY_NO_SESSION"
OVER_CURRENT = "OVER_CURRENT"
OVER_VOLTAGE = "OVER_VOLTAGE"
UNDER_VOLTAGE = "UNDER_VOLTAGE"
OVER_TEMPERATURE = "OVER_TEMPERATURE"
JOURNAL = "JOURNAL_FAULT"
JOURNAL_FULL = "JOURNAL_FULL"
CLOCK = "CLOCK_LOST"
KEY = "KEY_MISSING"
INSECURE = "INSECURE_LINK"
WATCHDOG = "WATCHDOG_RESET"
REBOOTS = "REPEATED_REBOOTS"
SESSION_REFUSED = "SESSION_REFUSED"
PULSES = "PULSES_DIFFER"
TASK = "TASK_DIED"
METER_RECORD = "METER_RECORD"
SIGNATURE = "SIGNATURE_FAULT"
# of the meter, by the OCMF letter of its newest poll; any other letter is METER_LOST
OF_METER = {"X": METER_SWAPPED, "O": METER_IMPLAUSIBLE, "": METER_LOST}
# bits of `unseen`, which outlive a firmware: the order stays, new ones come last
_LATCHED = (METER_SWAPPED, METER_IMPLAUSIBLE, JOURNAL, WATCHDOG, REBOOTS, PULSES, TASK,
            SIGNATURE)
ALL = (METER_LOST, PILOT, DIODE, STRAY_ENERGY, OVER_CURRENT, OVER_VOLTAGE, UNDER_VOLTAGE,
       OVER_TEMPERATURE, JOURNAL_FULL, CLOCK, KEY, INSECURE, SESSION_REFUSED,
       METER_RECORD) + _LATCHED

CRITICAL = "crit"
WARNING = "warn"

_MOST_TEXT = const(120)
_PAUSE_MS = const(60000)
_LONGEST_PAUSE_MS = const(3600000)


class _Alarm:
    """One code since the boot. Times are in ms since then; `untold` counts the changes that no
    event tells of yet."""

    def __init__(self, now_ms):
        self.active = self.acknowledged = self.shown = False
        self.severity = self.text = ""
        self.count = self.untold = 0
        self.first_ms = self.onset_ms = self.last_ms = self.changed_ms = now_ms
        self.written_ms = None
        self.pause_ms = _PAUSE_MS


class Alarms:
    """All alarms; `on_change()` is called when one is raised, acknowledged or cleared."""

    def __init__(self, clock):
        self._clock = clock
        self._alarms = {}
        self._changed = set()
        self.on_change = None

    def raise_(self, code, severity, text):
        """The cause of `code` is there; where it is known already, the time and the text move."""
        now_ms = self._clock.mono_ms()
        alarm = self._alarms.get(code)
        if alarm is None:
            alarm = self._alarms[code] = _Alarm(now_ms)
        alarm.last_ms = now_ms
        alarm.text = text[:_MOST_TEXT]
        if not alarm.active:
            alarm.active = alarm.shown = True
            alarm.onset_ms = now_ms
            alarm.count += 1
        elif alarm.severity == severity:
            return
        alarm.severity = severity
        alarm.acknowledged = False
        self._note(code, alarm)

    def clear(self, code):
        """The cause of `code` is gone; nothing happens where it was not there."""
        alarm = self._alarms.get(code)
        if alarm and alarm.active:
            alarm.active = False
            alarm.shown = code in _LATCHED and not alarm.acknowledged
            self._note(code, alarm)

    def happened(self, code, severity, text):
        """The cause of `code` came and is over, or has no end that could be seen. One that is
        there by `raise_` stays what it is."""
        if not self.is_active(code):
            self.raise_(code, severity, text)
            self.clear(code)

    def acknowledge(self, code):
        """An operator has seen `code`. Raises ValueError where it is not among `codes`."""
        if code not in self.codes():
            raise ValueError("no alarm %s; there is: %s"
                             % (code, ", ".join(self.codes()) or "none"))
        alarm = self._alarms[code]
        alarm.acknowledged = True
        alarm.shown = alarm.active
        self._note(code, alarm)

    def _note(self, code, alarm):
        alarm.changed_ms = self._clock.mono_ms()
        alarm.untold += 1
        self._changed.add(code)
        if self.on_change:
            self.on_change()

    def is_active(self, code):
        """Whether the cause of `code` is there."""
        return code in self._alarms and self._alarms[code].active

    def codes(self):
        """The codes to be seen, sorted: their cause is there, or waits for acknowledgement."""
        return sorted([code for code, alarm in self._alarms.items() if alarm.shown])

    def unseen(self):
        """Which of those that stay until they are acknowledged are shown, as bits; for
        `restore` after a reboot."""
        bits = 0
        for index, code in enumerate(_LATCHED):
            if code in self._alarms and self._alarms[code].shown:
                bits |= 1 << index
        return bits

    def restore(self, bits):
        """Show again what was `unseen` before the reboot."""
        for index, code in enumerate(_LATCHED):
            if bits >> index & 1:
                self.happened(code, WARNING, "not acknowledged before the reboot")

    def _fields(self, code):
        """What is told of an alarm; dated now, so that a clock that was set later counts."""
        alarm, unix_ms_at = self._alarms[code], self._clock.unix_ms_at
        return {"code": code, "sev": alarm.severity, "act": alarm.active,
                "ack": alarm.acknowledged, "n": alarm.count,
                "first_ts": unix_ms_at(alarm.first_ms) // 1000,
                "on_ts": unix_ms_at(alarm.onset_ms) // 1000,
                "last_ts": unix_ms_at(alarm.last_ms) // 1000, "text": alarm.text}

    def changes(self, all_codes=False):
        """What changed since the last call, or everything there is, for a broker may have lost
        what it retained, or retain what was before the boot: (code, fields, None once over)."""
        shown = self.codes()
        changed = [(code, self._fields(code) if code in shown else None)
                   for code in (ALL if all_codes else sorted(self._changed))]
        self._changed.clear()
        return changed

    async def write(self, ledger, sid):
        """Append an event for each code that changed and whose turn it is. Raises JournalError;
        what was not written is tried again."""
        for code in sorted(self._alarms):
            alarm, now_ms = self._alarms[code], self._clock.mono_ms()
            if not alarm.untold:
                continue
            pause_ms = _PAUSE_MS
            if alarm.written_ms is not None:
                passed_ms = now_ms - alarm.written_ms
                if passed_ms < alarm.pause_ms:
                    continue
                if passed_ms < 2 * alarm.pause_ms:
                    pause_ms = min(2 * alarm.pause_ms, _LONGEST_PAUSE_MS)
            untold = alarm.untold
            await ledger.event("alarm", sid, alarm.changed_ms, self._fields(code))
            alarm.untold -= untold
            alarm.written_ms = now_ms
            alarm.pause_ms = pause_ms
