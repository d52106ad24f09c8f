"""Monotonic time and wall-clock time with its quality.

Durations come from `mono_ms` only. The wall clock is an offset to it, so that setting the clock
never changes a duration and a past instant can be dated after the clock became known. No epoch of
the platform (1970 or 2000) comes in: Unix time comes from a source or not at all.
"""

import time

from micropython import const

from evmeter.system.log import log

_EARLIEST_S = const(1577836800)  # 2020-01-01: earlier is an unset clock
_DRIFT_PPM = const(100)  # a crystal of an ESP32 module over its temperature range, with room
_S_MOST_MS = const(2000)  # above this uncertainty time is informative only
_S_AGE_S = const(21600)
_I_AGE_S = const(604800)
_SLACK_MS = const(5000)  # so far may a true time lie behind the newest record
_LOGGED_MS = const(60000)
_MOST_NOTES = const(8)
_BATTERY_MS = const(60000)  # a DS3231 drifts 2 ppm, a minute a year
_RANKS = "UIRS"


class Clock:
    """Time since boot and, when something has set it, Unix time.

    `floor_unix_ms` is the earliest time that can be true (build time or newest record); until the
    clock is set, `now` counts up from it with quality U. `ticks` has ticks_ms and ticks_diff.

    `source` names what set the clock. `notes` are audit entries to write, oldest first, as (event,
    mono ms, fields): `clock_bound` binds this boot's ticks to real time whenever the quality
    rises, `clock_step` tells of a step over 60 s; `step_ms` in them is by how much a record made
    before is dated wrongly. `on_step(step_ms, source)` is called at each step over 60 s; `steps`
    counts those of a clock that was known.
    """

    def __init__(self, floor_unix_ms=0, ticks=time):
        self._ticks = ticks
        self._last_ticks = ticks.ticks_ms()
        self._mono_ms = 0
        self._offset_ms = floor_unix_ms
        self._newest_ms = self._firm_ms = floor_unix_ms
        self._quality = "U"
        self._uncertainty_ms = None
        self._age_ms = (_S_AGE_S * 1000, _I_AGE_S * 1000)
        self._s_until_ms = self._i_until_ms = 0
        self._holds = 0
        self._held = None
        self.set_at_mono_ms = None
        self.source = ""
        self.steps = 0
        self._battery_why = ""
        self.notes = []
        self.on_step = None

    def limit(self, s_age_s, i_age_s):
        """Seconds after which S that nothing renews becomes I, and I becomes U."""
        self._age_ms = (s_age_s * 1000, i_age_s * 1000)

    def mono_ms(self):
        """Milliseconds since boot. Never wraps, if called at least once in 6 days
        (MicroPython's ticks wrap at 2**30 ms)."""
        now = self._ticks.ticks_ms()
        self._mono_ms += self._ticks.ticks_diff(now, self._last_ticks)
        self._last_ticks = now
        return self._mono_ms

    @property
    def quality(self):
        """U, I, S or R now: S becomes I by age or an uncertainty over 2 s, I becomes U by age."""
        quality = self._quality
        if quality == "S" and self.mono_ms() > self._s_until_ms:
            quality = "I"
        if quality == "I" and self.mono_ms() > self._i_until_ms:
            quality = "U"
        return quality

    @property
    def uncertainty_ms(self):
        """What the source said, grown by the crystal's drift; None where nothing is known."""
        if self._uncertainty_ms is None:
            return None
        age_ms = self.mono_ms() - self.set_at_mono_ms
        return self._uncertainty_ms + age_ms * _DRIFT_PPM // 1000000

    def _check(self, unix_ms, quality, mono_ms, agreed):
        """`unix_ms` is not impossible, and not behind the newest record made with S. Behind one
        made with I only sources that agree may go: they show that it was ahead."""
        if quality not in ("I", "S", "R"):
            raise ValueError("clock quality %r is not one of I, S, R" % (quality,))
        if unix_ms < _EARLIEST_S * 1000:
            raise ValueError("clock time %d ms is before 2020" % unix_ms)
        known_ms, sure_ms = self._reached()
        least_ms = sure_ms if agreed else max(sure_ms, known_ms)
        behind_ms = least_ms - (unix_ms + self.mono_ms() - mono_ms)
        if behind_ms > _SLACK_MS:
            raise ValueError("it is %d s behind the newest record" % (behind_ms // 1000))

    def _reached(self):
        """Unix ms up to which records may have been made with I or better, and with S."""
        known_ms, sure_ms = self._newest_ms, self._firm_ms
        if self._quality != "U":
            slow_ms = self._offset_ms - self.uncertainty_ms
            now_ms = self.mono_ms()
            known_ms = max(known_ms, slow_ms + min(now_ms, self._i_until_ms))
            if self._quality == "S":
                sure_ms = max(sure_ms, slow_ms + min(now_ms, self._s_until_ms))
        return known_ms, sure_ms

    def set(self, unix_ms, quality, uncertainty_ms, mono_ms=None, source="", agreed=False):
        """Say that it was `unix_ms` at `mono_ms` (now, when not given). Quality is I, S or R;
        `agreed`: more than one source says so, as with S.

        Returns the step in ms that dates make against the clock before, or None where it waits
        for `release`. Raises ValueError on an unknown quality, a time before 2020 or behind the
        newest record.
        """
        if mono_ms is None:
            mono_ms = self.mono_ms()
        self._check(unix_ms, quality, mono_ms, agreed or quality == "S")
        self._held = (unix_ms, quality, uncertainty_ms, mono_ms, source)
        return None if self._holds else self._apply()

    def offer(self, unix_ms, uncertainty_ms, source):
        """Take a time of last resort with quality I, if nothing better is known: the
        battery-backed clock's, the backend's. Returns whether it was wanted. Raises ValueError as
        `set`."""
        if self.quality != "U" or self._held:
            return False
        self.set(unix_ms, "I", uncertainty_ms, source=source)
        return True

    def ask_battery(self, battery):
        """Take the time of a battery-backed clock (`unix_ms()`), if nothing better is known."""
        if self.quality != "U":
            return
        why = ""
        try:
            self.offer(battery.unix_ms(), _BATTERY_MS, "battery")
        except (OSError, ValueError) as error:
            why = str(error)
        if why and why != self._battery_why:
            log.warning("battery clock not used: %s", why)
        self._battery_why = why

    def hold(self):
        """A session's edge is being written: dates must not move until `release`."""
        self._holds += 1

    def release(self):
        """The counterpart of `hold`; the newest time set meanwhile is taken now."""
        self._holds -= 1
        if not self._holds and self._held:
            self._apply()

    def _apply(self):
        unix_ms, quality, uncertainty_ms, mono_ms, source = self._held
        self._held = None
        self._newest_ms, self._firm_ms = self._reached()
        was = self.quality
        offset_ms = unix_ms - mono_ms
        step_ms = offset_ms - self._offset_ms
        self._offset_ms = offset_ms
        self._quality = quality
        self._uncertainty_ms = uncertainty_ms
        self.set_at_mono_ms = mono_ms
        good_ms = max(0, _S_MOST_MS - uncertainty_ms) * 1000000 // _DRIFT_PPM
        self._s_until_ms = mono_ms + min(self._age_ms[0], good_ms)
        self._i_until_ms = mono_ms + self._age_ms[1]
        self.source = source
        large = abs(step_ms) > _LOGGED_MS
        if _RANKS.find(self.quality) > _RANKS.find(was):
            self._note("clock_bound", step_ms)
        elif large:
            self._note("clock_step", step_ms)
        if large and was != "U":
            self.steps += 1
            log.warning("clock set by %d s from %s", step_ms // 1000, source or "outside")
        if large and self.on_step:
            self.on_step(step_ms, source)
        return step_ms

    def _note(self, event, step_ms):
        if len(self.notes) >= _MOST_NOTES:
            self.notes.pop(0)
            log.error("clock: an audit entry could not be written in time")
        mono_ms = self.mono_ms()
        self.notes.append((event, mono_ms, {
            "mono_ms": mono_ms, "unix_ms": self._offset_ms + mono_ms, "q": self.quality,
            "unc_ms": self.uncertainty_ms, "step_ms": step_ms, "src": self.source}))

    async def write_notes(self, ledger, sid, boot, first_seq):
        """Write `notes` to the ledger. `boot` is the boot count, `first_seq` the first sequence
        number that this boot could use: what was recorded from there on, its ticks date. Raises
        JournalError, SignerError; what was not written is kept."""
        notes = self.notes
        while notes:
            event, mono_ms, fields = notes[0]
            fields["boot"] = boot
            fields["seq0"] = first_seq
            await ledger.log(event, sid, mono_ms, fields)
            if notes and notes[0][2] is fields:
                notes.pop(0)

    def raise_floor(self, unix_ms, firm_unix_ms=0):
        """Records are on flash up to `unix_ms`, those made with S up to `firm_unix_ms`; it is not
        earlier. While the clock is not set, it counts up from there."""
        self._newest_ms = max(self._newest_ms, unix_ms)
        self._firm_ms = max(self._firm_ms, firm_unix_ms)
        if self._quality == "U":
            self._offset_ms = max(self._offset_ms, unix_ms - self.mono_ms())

    def floor_ms(self):
        """The earliest Unix time in ms that can be true: build time, newest record made with S."""
        return self._firm_ms

    def unix_ms_at(self, mono_ms):
        """Unix time in ms of the instant `mono_ms`."""
        return self._offset_ms + mono_ms

    def now(self):
        """(Unix time in ms, quality letter U, I, S or R)."""
        return self._offset_ms + self.mono_ms(), self.quality

    def unix_s(self):
        """Unix time in whole seconds."""
        return (self._offset_ms + self.mono_ms()) // 1000
