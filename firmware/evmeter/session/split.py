"""Energy of the open session by tariff window, from the register where the window changes.

Each change is a reading (OCMF TX=T) and a durable event of its own, so that after a reboot the
journal tells what was split before. The split can be billed only while the clock had quality S or
R at the begin, at each change and at the end, was not set in between, and each change was read
within 10 s or without energy since the reading before it. The session's energy does not depend
on any of this.
"""

from micropython import const

EVENT = "tariff"
_LATE_MS = const(10000)
_STEP_MS = const(2000)  # so far may the clock move against monotonic time between two readings
_MOST_READINGS = const(32)
_GOOD = ("S", "R")


class Split:
    """Begins with the session's begin reading (Unix ms, quality of the clock, register in mWh).

    `readings` are the T readings for the complete record, as ledger/ocmf.py takes them; a window
    without energy has none, but its events are in the journal. `unwritten` are the fields of
    events that wait to be made durable, oldest first: the keeper removes what it has written.
    `why` says why the split cannot be billed, "" if it can.
    """

    def __init__(self, tariff, unix_ms, quality, register_mwh):
        self._tariff = tariff
        self.readings = []
        self.unwritten = []
        self.why = ""
        self.window = 0 if tariff.flat else None
        self.next_s = 0  # Unix time at which to look for a change
        self._before = []  # the window that each of `readings` ended
        self._energies_mwh = [0] * len(tariff)
        self._base_mwh = self._last_mwh = register_mwh
        self._quality = quality
        self._newest_ms = unix_ms
        self._offset_ms = None
        self._check_quality(quality)
        if quality != "U":
            self._look(unix_ms)

    def doubt(self, why):
        """The split cannot be billed. The first reason stays; a flat tariff has nothing to
        split."""
        if self.why or self._tariff.flat:
            return False
        self.why = why
        return True

    def _check_quality(self, quality):
        return quality not in _GOOD and self.doubt("clock quality " + quality)

    def _look(self, unix_ms):
        unix_s = unix_ms // 1000
        self.next_s = self._tariff.next_boundary_s(unix_s)
        if self.window is None:  # begun without a clock: what was before counts here
            self.window = self._tariff.window_at(unix_s)

    def _check_late(self, unix_ms, register_mwh):
        return (self.next_s and unix_ms - self.next_s * 1000 > _LATE_MS
                and register_mwh != self._last_mwh and self.doubt("change not read in time"))

    def _stepped(self, offset_ms):
        """Whether the clock was set since the reading before; over a reboot that is not known."""
        before_ms = self._offset_ms
        self._offset_ms = offset_ms
        return before_ms is not None and abs(offset_ms - before_ms) > _STEP_MS

    def label(self):
        """Event fields that name the window: also for the event that opens the session."""
        fields = {"tc": self._tariff.code, "cur": self._tariff.currency}
        if self.window is not None:
            fields["win"] = self.window
            fields["wname"] = self._tariff.name(self.window)
            fields["price"] = self._tariff.price(self.window)
        if self.why:
            fields["why"] = self.why
        return fields

    def reading(self, unix_ms, quality, register_mwh, mono_ms):
        """Take a believed register, read at `mono_ms`, which was `unix_ms` by the clock."""
        if quality == "U":
            return  # which window it is cannot be told; later readings judge what was missed
        stepped = self._stepped(unix_ms - mono_ms)
        doubt = stepped and self._quality in _GOOD and self.doubt("clock set")
        if stepped or unix_ms >= self.next_s * 1000:
            doubt = self._check_late(unix_ms, register_mwh) or doubt
            window = self._tariff.window_at(unix_ms // 1000)
            if self.window in (None, window):
                self._look(unix_ms)
            else:
                doubt = False
                self._check_quality(quality)
                self._change(unix_ms, quality, register_mwh, window)
                fields = self.label()
                fields["t_ms"] = unix_ms
                fields["t_q"] = quality
                fields["t_mwh"] = register_mwh
                self.unwritten.append(fields)
        if doubt:
            self.unwritten.append(self.label())
        self._last_mwh = register_mwh
        self._quality = quality

    def _change(self, unix_ms, quality, register_mwh, window):
        before = self.window
        if before is not None:
            if self._energies_mwh:
                self._energies_mwh[before] += register_mwh - self._base_mwh
            self._base_mwh = register_mwh
        self._last_mwh = register_mwh
        self._quality = quality
        self.window = window
        self._look(unix_ms)
        if self.readings and self.readings[-1][3] == register_mwh:  # no energy in between
            self.readings.pop()
            before = self._before.pop()
        if len(self.readings) >= _MOST_READINGS:
            self.doubt("too many changes")
        elif before != window:
            # a clock that was set back does not turn time back in a record
            self._newest_ms = max(self._newest_ms, unix_ms)
            self.readings.append((self._newest_ms, quality, "T", register_mwh, "", "G"))
            self._before.append(before)

    def skip(self, energy_mwh, why=""):
        """So much of the register's way is nobody's to pay: gap energy, or with `why` a jump."""
        self._base_mwh += energy_mwh
        if why:
            self._last_mwh += energy_mwh
            self.doubt(why)

    def forget(self, why):
        """What was split before cannot be known any more."""
        self._energies_mwh = None
        self.doubt(why)

    # -- after a reboot: replay each event of the session in order, then known --

    def replay(self, message):
        """Take an event of the session from the journal, as a dict."""
        same = message.get("tc", self._tariff.code) == self._tariff.code
        if not same:
            self.doubt("tariff changed")
        if message.get("why") and "tc" in message:
            self.doubt(message["why"])
        if "t_ms" in message:
            self._change(message["t_ms"], message["t_q"], message["t_mwh"],
                         message["win"] if same else None)
        elif message["ev"] == "resume":
            self.skip(message["gap_mwh"])
        elif "jump_mwh" in message:
            self.skip(message["jump_mwh"], "register not continuous")

    def known(self, unix_ms, quality, register_mwh):
        """The newest register known from before the reboot (the checkpoint's)."""
        if quality != "U" and unix_ms - self.next_s * 1000 < _LATE_MS:
            self._last_mwh = register_mwh

    # -- what it comes to --

    def energies_mwh(self, register_mwh):
        """Energy in each window up to a register, or None where that is not known."""
        if self.window is None or not self._energies_mwh:
            return None
        found = list(self._energies_mwh)
        found[self.window] += register_mwh - self._base_mwh
        return found

    def cost(self, register_mwh):
        """Cost in minor units up to a register, None where no window is known. It informs the
        driver; what is billed is the backend's to say."""
        found = self.energies_mwh(register_mwh)
        return None if found is None else self._tariff.cost(found)

    def missing_mwh(self, amount_minor, register_mwh):
        """Energy that the amount still buys at the price of now; None where that is not known."""
        found = self.energies_mwh(register_mwh)
        if found is None:
            return None
        return self._tariff.energy_mwh(amount_minor, found, self.window)

    def finish(self, unix_ms, quality, register_mwh, mono_ms):
        """Judge the end, as `reading` takes it. Returns the fields for the event that closes the
        session: energy of each tariff by name, cost, whether the split can be billed, and why
        not."""
        self._check_quality(quality)
        self._check_late(unix_ms, register_mwh)
        if self._stepped(unix_ms - mono_ms) and self._quality in _GOOD:
            self.doubt("clock set")
        fields = {"cur": self._tariff.currency, "cost": self.cost(register_mwh),
                  "split": 0 if self.why else 1, "why": self.why, "by": {}}
        found = self.energies_mwh(register_mwh) or ()
        for index in range(len(found)):
            if found[index]:
                fields["by"][self._tariff.name(index)] = found[index]
        return fields
