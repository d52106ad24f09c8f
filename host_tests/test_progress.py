from evmeter.session import machine as rules
from evmeter.session import progress as names
from evmeter.session.progress import Progress


class _Car:
    """A session that is updated once a second."""

    def __init__(self):
        self.now_ms = 10_000
        self.progress = Progress(self.now_ms)
        self.happened = []

    def run(self, seconds, phase, power_w=0, pwm=True, finished_ms=None, missing_mwh=None):
        phase_ms = self.now_ms
        for _ in range(seconds):
            self.happened += self.progress.update(phase, phase_ms, pwm, finished_ms, missing_mwh,
                                                  self.now_ms)
            self.now_ms += 1000
            self.progress.power(power_w * 1000, self.now_ms)
        return self

    def names(self):
        return [row[0] for row in self.happened]


def test_each_phase_has_its_state_and_reason():
    car = _Car()
    car.run(5, rules.CONNECTED, pwm=False)
    car.run(5, rules.CONNECTED)
    car.run(100, rules.CHARGING, 3600)
    car.run(5, rules.SUSPENDED_EVSE, pwm=False)
    car.run(5, rules.CHARGING, 3600)
    car.run(5, rules.SUSPENDED_EV)
    car.run(5, rules.FAULT)
    assert car.happened == [
        (names.PAUSED_BY_CHARGER, 10_000, "no current offered"),
        (names.WAITING, 15_000, "car has not asked"),
        (names.CHARGING, 20_000, "car asks"),
        (names.PAUSED_BY_CHARGER, 120_000, "no current offered"),
        (names.CHARGING, 125_000, "car asks"),
        (names.PAUSED_BY_CAR, 130_000, "car stopped asking"),
        (names.FAULT, 135_000, "pilot in E or F"),
    ]
    assert car.progress.elapsed_s(car.now_ms) == 130
    assert Progress(5000, 70).elapsed_s(35_999) == 100


def test_before_the_first_phase_nothing_is_said():
    car = _Car().run(3, None)
    assert car.happened == []
    assert car.progress.state is None


def test_no_current_in_c():
    # half a minute from asking to drawing is usual
    car = _Car().run(40, rules.CHARGING, 20).run(60, rules.CHARGING, 3600)
    assert car.names() == [names.CHARGING]
    car = _Car().run(20, rules.CONNECTED).run(100, rules.CHARGING, 20)
    assert car.happened[1:] == [(names.CHARGING, 30_000, "car asks"),
                                (names.NO_CURRENT, 30_000, "no power")]
    # neither a little power nor a short break changes it
    car.run(100, rules.CHARGING, 150)
    assert len(car.happened) == 3
    car.run(10, rules.CHARGING, 1400)
    assert car.happened[3:] == [(names.CHARGING, 231_000, "power flows")]
    car.run(59, rules.CHARGING, 0).run(300, rules.CHARGING, 1400)
    assert len(car.happened) == 4
    # time without power before it asked does not count
    car = _Car().run(300, rules.CONNECTED).run(59, rules.CHARGING, 0)
    assert names.NO_CURRENT not in car.names()


def test_export_is_power_too():
    assert names.NO_CURRENT not in _Car().run(100, rules.CHARGING, -3600).names()


def test_finished_and_overstay():
    car = _Car().run(100, rules.CHARGING, 3600).run(120, rules.SUSPENDED_EV)
    assert car.progress.overstay_s(car.now_ms) is None
    car.run(10, rules.SUSPENDED_EV, finished_ms=110_000)
    assert car.happened[-1] == (names.FINISHED, 110_000, "car does not ask again")
    assert car.progress.overstay_s(car.now_ms) == 130
    # that the charger withdraws its offer then changes nothing
    car.run(10, rules.SUSPENDED_EVSE, pwm=False, finished_ms=110_000)
    assert len(car.happened) == 3
    car.run(10, rules.CHARGING, 3600)
    assert car.happened[3:] == [(names.CHARGING, 250_000, "car asks")]
    assert car.progress.overstay_s(car.now_ms) is None


def test_finished_by_low_power():
    car = _Car().run(100, rules.CHARGING, 3600).run(100, rules.CHARGING, 20)
    assert car.names() == [names.CHARGING, names.NO_CURRENT]
    car.run(5, rules.CHARGING, 20, finished_ms=car.now_ms)
    assert car.happened[-1] == (names.FINISHED, 210_000, "power stays low")


def test_time_to_the_target():
    car = _Car()
    assert car.progress.remaining_s(1_000_000) is None
    car.run(60, rules.CONNECTED)
    assert car.progress.remaining_s(1_000_000) is None
    car.run(10, rules.CHARGING, 3600)
    assert car.progress.remaining_s(3_600_000) == 3600
    assert car.progress.remaining_s(1) == 1
    assert car.progress.remaining_s(0) == 0
    # noise is smoothed, a step is followed
    car.run(1, rules.CHARGING, 4600)
    assert 3550 < car.progress.remaining_s(3_600_000) < 3600
    car.run(300, rules.CHARGING, 4600)
    assert 2800 < car.progress.remaining_s(3_600_000) < 2850
    car.run(1, rules.CHARGING, 1400)
    assert car.progress.remaining_s(1_400_000) == 3600
    car.run(70, rules.CHARGING, 10)
    assert car.progress.remaining_s(1_000_000) is None


def test_a_target_is_reached_once():
    car = _Car()
    for missing_mwh in (2000, 1000, 0, -1000, -2000):
        car.run(1, rules.CHARGING, 3600, missing_mwh=missing_mwh)
    assert car.happened[1:] == [(names.TARGET, 12_000, "target")]
    car.run(1, rules.CHARGING, 3600, missing_mwh=500)  # a new one
    car.run(1, rules.CHARGING, 3600, missing_mwh=0)
    assert car.names()[1:] == [names.TARGET, names.TARGET]


def test_large_energies_stay_exact():
    car = _Car().run(10, rules.CHARGING, 350_000)
    assert car.progress.remaining_s(10 ** 15) == (10 ** 15 * 3600 - 1) // 350_000_000 + 1
