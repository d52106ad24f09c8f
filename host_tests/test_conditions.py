"""Each alarm of a condition: onset after its time, clear below its threshold, and again."""

from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import Alarms
from evmeter.monitoring.conditions import Conditions
from evmeter.session import pilot
from fakes.clock import FakeClock

SETTINGS = {"over_voltage_v": 253, "under_voltage_v": 207, "over_current_percent": 10,
            "stray_w": 100, "temperature_c": 85}


class _Any:
    """Attributes as given."""

    def __init__(self, **fields):
        for name in fields:
            setattr(self, name, fields[name])


class Rig:
    """Everything as it should be, until a test changes it; `wait` lets seconds pass."""

    def __init__(self, settings=SETTINGS):
        self.clock = FakeClock(1_790_000_000_000)
        self.alarms = Alarms(self.clock)
        self.latest = _Any(mono_ms=0, power_mw=0, voltages_mv=[230000, 231000, 229000],
                           currents_ma=[0, 0, 0])
        self.poll = _Any(latest=self.latest, quality="G", status="G")
        self.filter = _Any(state=pilot.A, since_ms=0, pwm=False, diode_fault=False)
        self.machine = _Any(is_open=False)
        self.keeper = _Any(refused="", booted=True, session=None, filter=self.filter,
                           machine=self.machine, duty_permille=None)
        self.percent = 100
        self.journal = _Any(ready=True, faults=[], free_percent=lambda: self.percent)
        self.mc = 30000
        self.answers = True
        self.conditions = Conditions(settings, self.clock, self.alarms, self.poll, self.keeper,
                                     self.journal, self._temperature_mc)

    def _temperature_mc(self):
        if self.mc is None:
            raise OSError(5)
        return self.mc

    def wait(self, seconds=1):
        """The codes after so many seconds."""
        for _ in range(seconds):
            self.clock.advance(1000)
            if self.answers:
                self.latest.mono_ms = self.clock.mono_ms()
            self.conditions.check()
        return self.alarms.codes()

    # what goes wrong, as far as `much` says: 0 not, 1 less than it takes to raise, 2 raises

    def meter(self, much, letter="T"):
        self.answers = much < 2
        self.poll.quality = letter if much else "G"
        self.poll.status = letter + ": why"

    def swapped(self, much):
        self.meter(much, "X")

    def implausible(self, much):
        self.meter(much, "O")

    def pilot_e(self, much):
        if much != 1:
            self.filter.state = pilot.E if much else pilot.A
            self.filter.since_ms = self.clock.mono_ms()

    def pilot_f(self, much):
        if much != 1:
            self.filter.state = pilot.F if much else pilot.A
            self.filter.since_ms = self.clock.mono_ms()

    def pilot_dead(self, much):
        self.conditions.pilot_why = "pilot not readable: 5" if much == 2 else ""

    def diode(self, much):
        self.filter.diode_fault = much == 2

    def stray(self, much):
        self.latest.power_mw = (79_000, 100_000, 101_000)[much]

    def current(self, much):
        self.filter.pwm = self.machine.is_open = True
        self.keeper.session = self
        self.keeper.duty_permille = 267  # 16,020 mA, by 10 % and 1 A: 18,622
        self.latest.currents_ma = [10, None, (-18_122, 18_622, 18_623)[much]]

    def current_unoffered(self, much):
        self.machine.is_open = True
        self.keeper.session = self
        self.latest.currents_ma = [(500, 1000, 1001)[much], 0, 0]

    def over_voltage(self, much):
        self.latest.voltages_mv[1] = (250_470, 253_000, 253_001)[much]

    def under_voltage(self, much):
        self.latest.voltages_mv[2] = (209_070, 207_000, 206_999)[much]

    def phase_lost(self, much):
        self.latest.voltages_mv[0] = (230_000, 207_000, 0)[much]

    def heat(self, much):
        self.mc = (80_000, 85_999, 86_000)[much]

    def room(self, much):
        self.percent = (30, 29, 24)[much]

    def clock_lost(self, much):
        self.clock.quality = "U" if much == 2 else "I"


CASES = (  # what, code, text, seconds until it is raised, seconds until it is cleared, between
    (Rig.meter, codes.METER_LOST, "meter: T: why", 11, 4, True),
    (Rig.swapped, codes.METER_SWAPPED, "meter: X: why", 11, 4, True),
    (Rig.implausible, codes.METER_IMPLAUSIBLE, "meter: O: why", 11, 4, True),
    (Rig.pilot_e, codes.PILOT, "pilot state E", 3, 2, True),
    (Rig.pilot_f, codes.PILOT, "pilot state F", 1, 2, True),
    (Rig.pilot_dead, codes.PILOT, "pilot not readable: 5", 1, 2, False),
    (Rig.diode, codes.DIODE, "pilot without diode", 1, 4, False),
    (Rig.stray, codes.STRAY_ENERGY, "101 W without a session", 11, 11, True),
    (Rig.current, codes.OVER_CURRENT, "18623 mA where 16020 are offered", 11, 11, True),
    (Rig.current_unoffered, codes.OVER_CURRENT, "1001 mA where 0 are offered", 11, 11, True),
    (Rig.over_voltage, codes.OVER_VOLTAGE, "253001 mV", 11, 11, True),
    (Rig.under_voltage, codes.UNDER_VOLTAGE, "206999 mV", 11, 11, True),
    (Rig.phase_lost, codes.UNDER_VOLTAGE, "0 mV", 11, 11, True),
    (Rig.heat, codes.OVER_TEMPERATURE, "86 degrees Celsius", 1, 1, True),
    (Rig.room, codes.JOURNAL_FULL, "24 % of the journal free", 1, 1, True),
    (Rig.clock_lost, codes.CLOCK, "time not known: ", 121, 1, False),
)
STAYING = (codes.METER_SWAPPED, codes.METER_IMPLAUSIBLE)


def test_each_condition_raises_and_clears_its_alarm_and_no_other():
    for what, code, text, on_s, off_s, between in CASES:
        rig = Rig()
        assert rig.wait(20) == []
        for count in (1, 2):
            what(rig, 1)
            assert rig.wait(200) == [], (what, "below")
            what(rig, 2)
            assert rig.wait(on_s - 1) == [], (what, "too early")
            assert rig.wait() == [code], (what, "late")
            fields = dict(rig.alarms.changes())[code]
            assert (fields["text"], fields["n"]) == (text, count), (what, fields)
            rig.alarms.acknowledge(code)
            if between and what not in (Rig.meter, Rig.swapped, Rig.implausible):
                what(rig, 1)
                assert rig.wait(200) == [code], (what, "cleared too high")
            what(rig, 0)
            if off_s > 1:
                assert rig.wait(off_s - 1) == [code], (what, "cleared too early")
            assert rig.wait() == [], (what, "not cleared")
        rig.alarms.changes()
        what(rig, 2)
        rig.wait(on_s)
        what(rig, 0)
        expected = [code] if code in STAYING else []  # nobody has seen it
        assert rig.wait(off_s) == expected, what


def test_a_moment_is_no_alarm():
    for what, code, _, on_s, off_s, _ in CASES:
        if on_s < 3:
            continue
        rig = Rig()
        for _ in range(20):
            what(rig, 2)
            assert rig.wait(on_s - 1) == [], what
            what(rig, 0)
            assert rig.wait(1) == [], what


def test_a_moment_of_quiet_ends_no_alarm():
    for what, code, _, on_s, off_s, _ in CASES:
        if off_s < 2 or code in codes.OF_METER.values():  # whose silence begins anew
            continue
        rig = Rig()
        rig.wait()
        what(rig, 2)
        rig.wait(on_s)
        for _ in range(20):
            what(rig, 0)
            assert rig.wait(off_s - 1) == [code], what
            what(rig, 2)
            assert rig.wait(1) == [code], what


def test_what_is_not_to_be_watched_is_not():
    rig = Rig(dict.fromkeys(SETTINGS, 0))
    for what, code, _, on_s, _, _ in CASES:
        if what in (Rig.stray, Rig.current, Rig.current_unoffered, Rig.over_voltage,
                    Rig.under_voltage, Rig.phase_lost, Rig.heat):
            what(rig, 2)
    assert rig.wait(60) == []


def test_a_meter_that_is_lost_tells_nothing_of_now():
    rig = Rig()
    rig.over_voltage(2)
    rig.wait(11)
    rig.over_voltage(0)
    rig.meter(2)
    assert rig.wait(60) == ["METER_LOST", "OVER_VOLTAGE"]
    rig.meter(0)
    assert rig.wait(20) == []


def test_the_alarm_follows_what_the_meter_suffers_from():
    rig = Rig()
    rig.meter(2)
    assert rig.wait(12) == ["METER_LOST"]
    rig.swapped(2)
    assert rig.wait(10) == ["METER_SWAPPED"]
    rig.keeper.refused = "no believed reading"
    rig.meter(0)
    assert rig.wait(60) == ["METER_SWAPPED"]
    rig.keeper.refused = ""
    rig.alarms.acknowledge("METER_SWAPPED")
    assert rig.wait(10) == []


def test_energy_inside_a_session_or_before_the_boot_is_settled_is_no_stray():
    rig = Rig()
    rig.stray(2)
    rig.keeper.booted = False
    assert rig.wait(60) == []
    rig.keeper.booted, rig.keeper.session = True, rig
    assert rig.wait(60) == []
    rig.keeper.session = None
    assert rig.wait(11) == ["ENERGY_NO_SESSION"]
    rig.latest.power_mw = None
    assert rig.wait(11) == []


def test_an_offer_that_is_not_told_limits_nothing():
    for duty_permille in (None, 50):  # no edges on this board; digital communication
        rig = Rig()
        rig.current(2)
        rig.keeper.duty_permille = duty_permille
        rig.latest.currents_ma = [32000, 32000, 32000]
        assert rig.wait(60) == []
    rig = Rig()  # nothing is plugged in
    rig.current_unoffered(2)
    rig.machine.is_open = False
    assert rig.wait(60) == []


def test_phases_that_are_not_there_have_no_low_voltage():
    rig = Rig()
    rig.latest.voltages_mv = [230000, None, 0]
    assert rig.wait(60) == []
    rig.latest.voltages_mv = [230000, None, 104000]  # it has had voltage, if too little
    assert rig.wait(60) == ["UNDER_VOLTAGE"]


def test_a_sensor_that_fails_changes_nothing():
    rig = Rig()
    rig.heat(2)
    rig.wait()
    rig.mc = None
    assert rig.wait(60) == ["OVER_TEMPERATURE"]
    rig.mc = 20000
    assert rig.wait() == []


def test_a_journal_that_fills_up_gets_graver_and_each_fault_is_told():
    rig = Rig()
    rig.room(2)
    rig.wait()
    severities = []
    for rig.percent in (12, 9, 12, 29, 30):
        rig.wait()
        severities += [fields and fields["sev"] for _, fields in rig.alarms.changes()]
    assert severities == ["warn", "crit", "warn", None]
    rig.journal.faults.append("second store lost")
    rig.journal.faults.append("head hash differs")
    assert rig.wait(5) == ["JOURNAL_FAULT"]
    (code, fields), = rig.alarms.changes()
    assert (fields["n"], fields["text"]) == (2, "head hash differs")
    rig.alarms.acknowledge("JOURNAL_FAULT")
    rig.journal.ready, rig.percent = False, 0
    assert rig.wait(5) == []
