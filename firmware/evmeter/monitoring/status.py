"""The live messages: birth, status, telemetry, diagnostics. Texts are JSON, whole numbers with
their unit in the key."""

import gc
import json

from evmeter import VERSION
from evmeter.session import pilot


class Monitor:
    """Builds the messages from what the other rooms show."""

    def __init__(self, config, clock, board, poll, keeper, journal, signer, alarms, boots):
        self._boots = boots
        self._config = config
        self._clock = clock
        self._board = board
        self._poll = poll
        self._keeper = keeper
        self._journal = journal
        self._signer = signer
        self._alarms = alarms
        self.number = self.told_ms = 0  # of the newest status message, and when it was made
        self.time = self.uplink = self.temperature_mc = None

    def _text(self, fields):
        unix_ms, quality = self._clock.now()
        fields["v"] = 1
        fields["ts"] = unix_ms // 1000
        fields["tq"] = quality
        return json.dumps(fields)

    def info(self):
        """The birth message."""
        meter, journal, signer = self._poll, self._journal, self._signer
        return self._text({
            "fw": VERSION, "board": self._board.name, "make": meter.make, "model": meter.model,
            "serial": meter.serial, "k": signer.key_id if signer else "",
            "spki": signer.spki_hex() if signer else "", "caps": [],
            "boot": self._boots, "cause": self._board.reset_cause,
            "head": journal.next_seq - 1, "tail": journal.cursor + 1,
        })

    def status(self):
        """Pilot, session, alarms, backlog; no user's identity."""
        self.number += 1
        self.told_ms = self._clock.mono_ms()
        keeper = self._keeper
        state = keeper.filter.state
        latest = self._poll.latest
        fields = {
            "n": self.number, "st": keeper.machine.phase or "idle",
            "cp": "" if state is None else pilot.NAMES[state],
            "pwm": 1 if keeper.filter.pwm else 0, "sid": keeper.sid,
            "s_mwh": keeper.energy_mwh(), "i_max_ma": pilot.offered_ma(keeper.duty_permille),
            "al": self._alarms.codes(), "pend": self._journal.unconfirmed(),
            "meter": self._poll.status, "link": self.uplink.reason if self.uplink else "",
            "age_ms": self._clock.mono_ms() - latest.mono_ms if latest else -1,
        }
        if keeper.session and keeper.progress:
            self._session(keeper, fields)
        return self._text(fields)

    def _session(self, keeper, fields):
        """What the driver wants to know. The cost is for information; the backend bills."""
        progress, split, now_ms = keeper.progress, keeper.split, self._clock.mono_ms()
        fields["prog"] = progress.state
        fields["el_s"] = progress.elapsed_s(now_ms)
        fields["over_s"] = progress.overstay_s(now_ms)
        missing_mwh = keeper.missing_mwh()
        fields["eta_s"] = None if missing_mwh is None else progress.remaining_s(missing_mwh)
        if split:
            fields.update(split.label())
            register_mwh = keeper.register_mwh()
            if register_mwh is not None:
                fields["cost_info"] = split.cost(register_mwh)

    def telemetry(self):
        """Live values with their age; None where the meter has not been read yet."""
        latest = self._poll.latest
        if latest is None:
            return None
        keeper, poll = self._keeper, self._poll
        now_ms = self._clock.mono_ms()
        slow_ms = latest.slow_ms
        return self._text({
            "age_ms": now_ms - latest.mono_ms, "q": poll.quality, "why": poll.reason,
            "slow_age_ms": -1 if slow_ms is None else now_ms - slow_ms,
            "pf_milli": latest.pf_milli, "s_mva": latest.apparent_mva,
            "q_mvar": latest.reactive_mvar,
            "e_mwh": latest.import_mwh, "x_mwh": latest.export_mwh, "p_mw": latest.power_mw,
            "u_mv": latest.voltages_mv, "i_ma": latest.currents_ma, "f_mhz": latest.frequency_mhz,
            "sid": keeper.sid, "s_mwh": keeper.energy_mwh(),
            "head": self._journal.next_seq - 1, "cur": self._journal.cursor,
        })

    def diagnostics(self, counters):
        """Memory, bus and link counters; why the newest poll and the slow set failed, if so."""
        counters.update(self._poll.counters())
        counters["why"] = self._poll.reason
        counters["slow_why"] = self._poll.slow_reason
        if self.time:
            self.time.counters(counters)
        counters.update(self._board.network.diag())
        if self.temperature_mc:
            try:
                counters["temp_mc"] = self.temperature_mc()
            except OSError:
                counters["temp_mc"] = None
        counters["heap_free"] = gc.mem_free()
        counters["heap_used"] = gc.mem_alloc()
        counters["up_s"] = self._clock.mono_ms() // 1000
        counters["free_pc"] = self._journal.free_percent() if self._journal.ready else 0
        return self._text(counters)

    def alarms(self, all_codes=False):
        """Alarms that changed since the last call, or all codes: (code, JSON, "" where there is
        none)."""
        return [(code, self._text(fields) if fields else "")
                for code, fields in self._alarms.changes(all_codes)]
