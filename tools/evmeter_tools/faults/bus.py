"""Campaign `bus`: damaged, late, foreign and false replies through the whole metering path.

The real ModbusRtu, ModbusMeter, Gate and MeterPoll read a meter that misbehaves. A violation is a
reading that was believed and is not what the meter said, an exception that gets out, a read that
lasts longer than its tries may, a meter that is given up, or a register re-based without cause.
"""

import traceback

from drivers import modbus_rtu
from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu, find_reply
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter_tools.faults.line import LineUart, Time
from evmeter_tools.faults.meter import P_MAX_W, SERIAL, UNIT, BadMeter
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.rows import place, profiles

_EPOCH = 400  # faults with one device
_REGISTERS_WH = (1234567, 131000017, 5000, 10**10, 999999)
_BAUDS = (9600, 2400, 19200)
_CONTROL_TRIALS = 4000
_LOST_MS = 60000
_REBASE_MS = 150000  # the serial number is asked for once a minute
_LOST_ROUNDS = 3
_CONTROL = "control"


class Designs:
    """The parts of the metering path; a control puts a wrong one in."""

    def __init__(self):
        self.bus = ModbusRtu
        self.gate = Gate
        self.find_reply = find_reply


def _timed(bus_class):
    """`bus_class` with a check of each read's duration."""

    class Timed(bus_class):
        told = None
        readers = 0
        longest = 0

        async def read_each(self, unit, function, requests, index, take, latency_ms=300):
            time = self.time
            begin_us = time.now_us
            most_ms = sum(self.most_ms(one[1], latency_ms) for one in requests[index:])
            self.readers += 1
            shared = self.readers > 1
            self.longest = max([self.longest, *(one[1] for one in requests)])
            try:
                await super().read_each(unit, function, requests, index, take, latency_ms)
            finally:
                if shared or self.readers > 1:  # a try of the other reader before each of its own
                    most_ms += len(requests[index:]) * self.most_ms(self.longest, latency_ms)
                self.readers -= 1
                took_ms = (time.now_us - begin_us) // 1000
                if took_ms > most_ms:
                    self.told("a read of %d requests took %d ms"
                              % (len(requests) - index, took_ms))

        def most_ms(self, count, latency_ms):
            """Three tries, each with a line that falls silent late, wire time and latency; once a
            reply that is owed to another request."""
            wire_ms = ((13 + 2 * count) * self.char_us + 999) // 1000
            silence_ms = max(self.gap_ms, self.char_us * 7 // 2000 + 1) + 2
            return 3 * (4 * silence_ms + wire_ms + latency_ms + 4) + 2 * latency_ms + wire_ms

    return Timed


class _Rig:
    """One device with one bad meter."""

    def __init__(self, result, designs, profile, baud, register_wh, seed, cuts):
        self.result = result
        self.time = time = Time()
        self.gate = designs.gate(P_MAX_W, profile["step_mwh"])
        self.bad = bad = BadMeter(profile, time, register_wh, seed, lambda: self.gate._mwh)
        bad.cuts = cuts
        self.model = profile["model"]
        char_us = (10 * 1000000 + baud - 1) // baud
        bad.uart = LineUart(time, char_us, bad.request)
        self.bus = _timed(designs.bus)(bad.uart, baud, 10, None, 0, time, time.sleep_ms)
        self.bus.time = time
        self.bus.told = self._wrong
        meter = ModbusMeter(self.bus, profile, UNIT,
                            None if "serial" in profile.get("identity", {}) else str(SERIAL))
        addresses = [request[0] for request in meter._requests]
        bad.first_address, bad.last_address = addresses[0], addresses[-1]
        bad.requests_each_cycle = len(addresses)
        self.stale_ms = 2 * profile["latency_ms"] + self._wire_ms(140)
        self.slow_ms = len(addresses) * self.bus.most_ms(
            max(request[1] for request in meter._requests), profile["latency_ms"])
        # an edge reading asks who the meter is, then for the register
        self.edge_ms = self.slow_ms + sum(
            self.bus.most_ms(request[1], profile["latency_ms"]) for request in meter._identity)
        self.poll = MeterPoll(meter, self.gate, time, 1000, time.sleep_ms)
        self.poll.on_reading = self._believed
        self.poll.on_event = self._event
        self.believed_ms = 0
        self.rolls_mwh = profile.get("rollover_mwh", 0)

    def _wire_ms(self, chars):
        return chars * self.bus.char_us // 1000

    def _wrong(self, text):
        self.result.wrong("%s; after %s" % (text, self.bad._kind))

    def _event(self, name, fields):
        """The register was re-based: only for a true change, soon after it, with the energy
        between the two only where a rollover says what it is."""
        self.result.counts["re-based"] += 1
        if not self._is_changed():
            self._wrong("%s without cause: %s" % (name, fields))
            return
        kind = self.bad.changed[0]
        self.bad.pending = False
        known = fields["diff_mwh"] is not None
        if kind != "several" and known != (kind == "rollover"):
            self._wrong("%s after a %s: %s" % (name, kind, fields))
        elif known:
            self.result.counts["rollovers added"] += 1
            if fields["diff_mwh"] != fields["new_mwh"] + self.rolls_mwh - fields["old_mwh"]:
                self._wrong("a rollover of %s" % fields)

    def _believed(self, reading):
        self.believed_ms = reading.mono_ms
        self.result.counts["believed"] += 1
        self.result.counts["believed, " + self.model] += 1
        for address, served in self.bad.served.items():
            names = served[-1][1] if served else ()
            if not names:
                continue
            found = {}
            for name in names:
                attribute, phase = place(name)
                value = getattr(reading, attribute)
                found[name] = value if phase is None else value[phase]
            self._compare(address, served, found)

    def _compare(self, address, served, found):
        if served[-1][1] == found:
            return
        for at_us, values in reversed(served):
            if values == found:
                age_ms = (self.time.now_us - at_us) // 1000
                self.result.counts["own reply to an earlier try"] += 1
                self.result.counts["oldest of them, ms"] = max(
                    age_ms, self.result.counts["oldest of them, ms"])
                most_ms = self.stale_ms
                if address != self.bad.last_address:
                    most_ms += self.slow_ms
                if age_ms > most_ms:
                    self._wrong("a value of %d ms before was believed" % age_ms)
                return
        if not any(found.values()) and not served[-1][1].get("import"):
            # The range rule takes a line without voltage and load for possible; the register was
            # not in that reply, or is 0.
            self.result.counts["one reply of zeros believed, not the register"] += 1
            return
        if self.bad.collided(address, found):
            self.result.counts["collision of CRC-16, believed"] += 1
            return
        self._wrong("register %04X: believed %s, true %s" % (address, found, served[-1][1]))

    async def _edge(self):
        self.bad.edge = True
        begin_ms = self.time.mono_ms()
        mwh, letter, at_ms = await self.poll.edge_reading()
        self.bad.edge = False
        self.result.counts["edge readings"] += 1
        if mwh is not None:
            self.result.counts["edge readings believed"] += 1
            told = [values["import"] for _, values in self.bad.served[self.bad.last_address]]
            if letter != "G" or mwh not in told[-8:]:
                self._wrong("an edge reading of %d mWh, true %s" % (mwh, told[-8:]))
        most_ms = 2000 + self.edge_ms
        if at_ms - begin_ms > most_ms:
            self._wrong("an edge reading took %d ms" % (at_ms - begin_ms))

    def run(self, faults):
        """Inject so many faults."""
        time, bad, rng = self.time, self.bad, self.bad._rng
        time.spawn(self.poll.run())
        try:
            while bad.injected.total() < faults and not self._is_enough():
                if rng.random() < 0.05 and not bad.edge and time.now_us > bad.unasked_until_us:
                    time.spawn(self._edge())
                if rng.random() < 0.004:
                    bad.uart.fail = True
                    bad.injected["dead UART"] += 1
                    time.run(time.now_us + rng.randrange(2500000))
                    bad.uart.fail = False
                time.run(time.now_us + rng.randrange(1500000))
                if time.mono_ms() - self.believed_ms > _LOST_MS + _REBASE_MS * self._is_changed():
                    self._wrong("nothing believed for %d s: %s"
                                % (_LOST_MS // 1000, self.poll.status))
                    return
            if not self._is_enough():
                self._recover()
        except Exception:  # whatever gets out is what is looked for
            self._wrong("crash: %s" % traceback.format_exc().strip().replace("\n", " / "))
        finally:
            time.end()
            self.result.counts["refused by the gate"] += self.gate.refused
            self.result.counts["requests"] += self.bus.requests
            for kind, number in bad.injected.items():
                self.result.counts["fault: " + kind] += number
            self.result.trials += bad.injected.total()

    def _is_changed(self):
        """Whether the register went on from elsewhere not long ago."""
        changed = self.bad.changed
        return changed is not None and self.time.now_us - changed[1] < _REBASE_MS * 1000

    def _is_enough(self):
        """A wrong design is noticed by one violation."""
        return self.result.campaign == _CONTROL and self.result.violations

    def _recover(self):
        """Without faults the next polls are believed."""
        self.bad.off = True
        if self._is_changed():
            self.time.run(self.time.now_us + _REBASE_MS * 1000)
        for _ in range(_LOST_ROUNDS):
            self.time.run(self.time.now_us + 2500000)
        if self.time.mono_ms() - self.believed_ms > 2000 or self.poll.quality != "G":
            self._wrong("not recovered: %s" % self.poll.status)


def _campaign(result, designs, trials, seed, progress=None):
    kept = modbus_rtu.find_reply
    modbus_rtu.find_reply = designs.find_reply
    every = profiles()
    epoch = 0
    cuts = set()
    try:
        while result.trials < trials and not (result.campaign == _CONTROL and result.violations):
            profile, other = every[epoch % len(every)], epoch // len(every)
            rig = _Rig(result, designs, profile, _BAUDS[(epoch + other) % len(_BAUDS)],
                       _REGISTERS_WH[epoch % len(_REGISTERS_WH)], seed + epoch, cuts)
            rig.run(min(_EPOCH, trials - result.trials))
            epoch += 1
            if progress:
                progress(result.trials, trials)
    finally:
        result.counts["lengths that replies were cut to"] = len(cuts)
        modbus_rtu.find_reply = kept


class _NoFlush(ModbusRtu):
    def _pause_ms(self, address, count, latency_ms):
        return 0


class _NothingOwed(ModbusRtu):
    def _pause_ms(self, address, count, latency_ms):
        self._owed = -1
        return super()._pause_ms(address, count, latency_ms)


class _NoStepRule(Gate):
    def _against(self, old_mwh, old_ms, mwh, now_ms):
        return ""


class _NeverRebased(Gate):
    def _follow(self, mwh, now_ms):
        self._agreed = 0
        return super()._follow(mwh, now_ms)


class _RebasedAtOnce(Gate):
    def _follow(self, mwh, now_ms):
        self._agreed, self._first_ms = 9, -10**9
        self._line_mwh, self._line_ms = mwh, now_ms
        return super()._follow(mwh, now_ms)


class _AlwaysRollover(Gate):
    def _rebase(self, mwh, now_ms, cause):
        super()._rebase(mwh, now_ms, cause)
        self.event["diff_mwh"] = mwh + self.rollover_mwh - self.event["old_mwh"]


class _Patient(ModbusRtu):
    async def read_each(self, unit, function, requests, index, take, latency_ms=300):
        await super().read_each(unit, function, requests, index, take, 4 * latency_ms)


class _NoRange(Gate):
    def _range(self, reading):
        return ""

    def judge(self, reading):
        reading.quality = "G"
        if reading.import_mwh is None:
            reading.import_mwh = self._mwh
        return super().judge(reading)


def _any_unit(data, length, unit, function, count):
    for start in range(length - 1):
        if data[start + 1] == function:
            at = find_reply(data, length, data[start], function, count)
            if at >= 0:
                return at
    return find_reply(data, length, unit, function, count)


def _any_crc(data, length, unit, function, count):
    for start in range(length - 4 - 2 * count):
        if data[start:start + 3] == bytes((unit, function, 2 * count)):
            return start + 3
    return find_reply(data, length, unit, function, count)


def controls():
    """Wrong designs: name -> Designs."""
    found = {}
    for name, part, design in (
        ("no check of the unit", "find_reply", _any_unit),
        ("no check of the CRC", "find_reply", _any_crc),
        ("no flush before a request", "bus", _NoFlush),
        ("no wait for a reply that is owed", "bus", _NothingOwed),
        ("gate without the step rule", "gate", _NoStepRule),
        ("gate that takes what is no number", "gate", _NoRange),
        ("gate that never re-bases", "gate", _NeverRebased),
        ("gate that re-bases at once", "gate", _RebasedAtOnce),
        ("gate that takes each re-basing for a rollover", "gate", _AlwaysRollover),
        ("no deadline of the meter's own", "bus", _Patient),
    ):
        found[name] = Designs()
        setattr(found[name], part, design)
    return found


def run(trials=100000, seed=3, progress=None, control_trials=_CONTROL_TRIALS):
    """Inject `trials` faults, then look whether wrong designs are noticed."""
    result = Result("bus")
    _campaign(result, Designs(), trials, seed, progress)
    for name, designs in controls().items():
        tried = Result(_CONTROL)
        _campaign(tried, designs, control_trials, seed)
        result.controls[name] = bool(tried.violations)
    return result
