"""What is wrong now: looked at once a second, with a time to hold either way and two thresholds,
so that no alarm flutters. Alarms of a moment are raised where it happens."""

from micropython import const

from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import CRITICAL, WARNING
from evmeter.session import pilot

_METER_MS = const(10000)  # without a believed reading
_METER_BACK_MS = const(3000)
_FRESH_MS = const(5000)  # an older reading tells nothing of now
_E_MS = const(3000)  # a shorter E changes nothing, some chargers wake a car up with it
_F_MS = const(500)
_PILOT_BACK_MS = const(1000)
_DIODE_BACK_MS = const(3000)
_CLOCK_MS = const(120000)
_ROOM_PERCENT = const(25)
_LEAST_PERCENT = const(10)  # below it no session begins
_ENOUGH_PERCENT = const(30)
_HOLD_MS = const(10000)  # a car has 5 s to follow what is offered, a session some to open
_EXTRA_MA = const(1000)
_COOLER_C = const(5)


def _above(text, value, most, back):
    """`text` with the value where that is above `most`, "" where it is not above `back`, None in
    between."""
    if value > most:
        return text % value
    return None if value > back else ""


class Conditions:
    """`settings`: the configuration's section "alarms", where 0 leaves out. `temperature_mc`,
    where there is a sensor, gives thousandths of a degree Celsius and may raise OSError.

    pilot_why   why the pilot cannot be read, or ""
    clock_why   called for the reason why time is not known
    """

    def __init__(self, settings, clock, alarms, poll, keeper, journal, temperature_mc=None):
        self._settings = settings
        self._clock = clock
        self._alarms = alarms
        self._poll = poll
        self._keeper = keeper
        self._journal = journal
        self._temperature_mc = temperature_mc if settings["temperature_c"] else None
        self._since = {}  # code: since when what is seen differs from what is told
        self._faults = 0
        self._alive = 0  # one bit a phase that has had voltage
        self.pilot_why = ""
        self.clock_why = lambda: ""

    def _watch(self, code, severity, why, on_ms=0, off_ms=0):
        """Raise `code` once `why` was a text for `on_ms`, clear it once it was "" for `off_ms`;
        None changes nothing."""
        alarms, now_ms = self._alarms, self._clock.mono_ms()
        active = alarms.is_active(code)
        if why is not None and bool(why) != active:
            if now_ms - self._since.setdefault(code, now_ms) < (on_ms if why else off_ms):
                return
        self._since.pop(code, None)
        if why:
            alarms.raise_(code, severity, why)
        elif why is not None:
            alarms.clear(code)

    def check(self):
        """Look at everything; to be called every second."""
        self._meter()
        self._pilot()
        self._room()
        self._watch(codes.CLOCK, WARNING, "" if self._clock.quality != "U" else
                    "time not known: %s" % self.clock_why(), _CLOCK_MS)
        latest = self._poll.latest
        if latest and self._clock.mono_ms() - latest.mono_ms <= _FRESH_MS:
            self._energy(latest)
            self._current(latest)
            self._voltage(latest)
        if self._temperature_mc:
            self._temperature()

    def _meter(self):
        poll, keeper = self._poll, self._keeper
        latest = poll.latest
        why = None if keeper.refused else ""
        if self._clock.mono_ms() - (latest.mono_ms if latest else 0) > _METER_MS:
            why = "meter: " + poll.status
        letter = poll.quality if poll.quality in codes.OF_METER else ""
        for other in codes.OF_METER:
            self._watch(codes.OF_METER[other], CRITICAL, why if not why or other == letter else "",
                        0, _METER_BACK_MS)

    def _pilot(self):
        seen = self._keeper.filter
        why = self.pilot_why
        if not why and seen.state in (pilot.E, pilot.F):
            held_ms = self._clock.mono_ms() - seen.since_ms
            why = None
            if held_ms >= (_E_MS if seen.state == pilot.E else _F_MS):
                why = "pilot state " + pilot.NAMES[seen.state]
        self._watch(codes.PILOT, CRITICAL, why, 0, _PILOT_BACK_MS)
        self._watch(codes.DIODE, WARNING, "pilot without diode" if seen.diode_fault else "", 0,
                    _DIODE_BACK_MS)

    def _room(self):
        journal = self._journal
        if not journal.ready:
            return
        for fault in journal.faults[self._faults:]:
            self._alarms.happened(codes.JOURNAL, WARNING, fault)
        self._faults = len(journal.faults)
        percent = journal.free_percent()
        why = None if percent < _ENOUGH_PERCENT else ""
        if percent < _ROOM_PERCENT:
            why = "%d %% of the journal free" % percent
        self._watch(codes.JOURNAL_FULL, WARNING if percent >= _LEAST_PERCENT else CRITICAL, why)

    def _energy(self, latest):
        keeper, most_w = self._keeper, self._settings["stray_w"]
        if most_w:
            power_w = 0
            if keeper.booted and not keeper.session:
                power_w = (latest.power_mw or 0) // 1000
            self._watch(codes.STRAY_ENERGY, CRITICAL, _above(
                "%d W without a session", power_w, most_w, most_w * 4 // 5), _HOLD_MS, _HOLD_MS)

    def _current(self, latest):
        percent, keeper = self._settings["over_current_percent"], self._keeper
        if not percent:
            return
        offered_ma = None
        if keeper.machine.is_open:
            offered_ma = pilot.offered_ma(keeper.duty_permille) if keeper.filter.pwm else 0
        why = ""
        if offered_ma is not None:
            most_ma = offered_ma * (100 + percent) // 100
            seen_ma = max([abs(current_ma or 0) for current_ma in latest.currents_ma])
            why = _above("%%d mA where %d are offered" % offered_ma, seen_ma,
                         most_ma + _EXTRA_MA, most_ma + _EXTRA_MA // 2)
        self._watch(codes.OVER_CURRENT, CRITICAL, why, _HOLD_MS, _HOLD_MS)

    def _voltage(self, latest):
        most_mv = self._settings["over_voltage_v"] * 1000
        least_mv = self._settings["under_voltage_v"] * 1000
        high_mv, low_mv = 0, 2 * least_mv
        for phase in range(len(latest.voltages_mv)):
            voltage_mv = latest.voltages_mv[phase] or 0
            high_mv = max(high_mv, voltage_mv)
            if voltage_mv > least_mv // 2:
                self._alive |= 1 << phase
            if self._alive >> phase & 1:  # else a phase that is not connected
                low_mv = min(low_mv, voltage_mv)
        if most_mv:
            self._watch(codes.OVER_VOLTAGE, WARNING, _above(
                "%d mV", high_mv, most_mv, most_mv * 99 // 100), _HOLD_MS, _HOLD_MS)
        if least_mv:
            why = "%d mV" % low_mv if low_mv < least_mv else (
                None if low_mv < least_mv * 101 // 100 else "")
            self._watch(codes.UNDER_VOLTAGE, WARNING, why, _HOLD_MS, _HOLD_MS)

    def _temperature(self):
        most_c = self._settings["temperature_c"]
        try:
            value_c = self._temperature_mc() // 1000
        except OSError:
            return  # then it is not known
        self._watch(codes.OVER_TEMPERATURE, CRITICAL,
                    _above("%d degrees Celsius", value_c, most_c, most_c - _COOLER_C))
