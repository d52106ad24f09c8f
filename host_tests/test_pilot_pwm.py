from drivers.pilot_pwm import PilotPwm, duty_u16
from evmeter.session.pilot import offered_ma
from support import raises


class FakePwm:
    """machine.PWM on a timer of `bits` bits; `most` is the highest duty that it takes."""

    def __init__(self, bits=16, most=65536):
        self._bits = bits
        self._most = most
        self.hertz = self.duty = 0
        self.error = None

    def freq(self, hertz):
        if self.error:
            raise self.error
        self.hertz = hertz

    def duty_u16(self, value=None):
        if value is None:
            return self.duty
        if not 0 <= value <= self._most:
            raise ValueError("duty_u16 must be from 0 to %d" % self._most)
        self.duty = value >> 16 - self._bits << 16 - self._bits
        return None


def test_the_duty_table():
    # percent of a period in thousandths, from current / 0.6 and current / 2.5 + 64
    for ma, milli_percent in (
        (6000, 10000), (10000, 16666), (13000, 21666), (16000, 26666), (20000, 33333),
        (25000, 41666), (32000, 53333), (40000, 66666), (48000, 80000), (51000, 85000),
        (63000, 89200), (70000, 92000), (80000, 96000),
    ):
        duty = duty_u16(ma)
        assert abs(duty * 100000 // 65536 - milli_percent) <= 3, (ma, duty)
        assert duty * 100000 <= milli_percent * 65536 + 65536, ma
    assert duty_u16(0) == 65536  # a steady +12 V offers nothing


def test_no_duty_offers_more_than_was_asked_for():
    last = 0
    for ma in range(6000, 80001, 37):
        duty = duty_u16(ma)
        assert duty >= last, ma
        last = duty
        for bits in (16, 13, 10):  # of the timer; it rounds down
            permille = (duty >> 16 - bits << 16 - bits) * 1000 // 65536
            # what the other end of the pilot reads, in steps of 60 and 250 mA
            assert offered_ma(permille) <= ma, (ma, permille)
        missing_ma = ma - offered_ma(duty * 1000 // 65536)
        assert missing_ma <= (60 if ma <= 51000 else 255) or 51000 < ma <= 52750, (ma, missing_ma)


def test_what_cannot_be_offered_is_refused_and_changes_nothing():
    for ma in (-1, 1, 5999, 80001):
        raises(ValueError, duty_u16, ma)
        raises(ValueError, PilotPwm, FakePwm(), ma)
    pwm = FakePwm()
    pilot = PilotPwm(pwm, 32000)
    pilot.offer(16000)
    duty = pwm.duty
    for ma, words in ((32001, "at most 32000"), (5999, "6000 to 80000"), (-1, "6000")):
        assert words in str(raises(ValueError, pilot.offer, ma)), ma
    assert (pwm.duty, pwm.hertz, pilot.offered_ma, pilot.fault) == (duty, 1000, 16000, "")


def test_the_output_is_read_back():
    for bits, most, inverted in ((16, 65536, False), (13, 65535, False), (13, 65536, True)):
        pwm = FakePwm(bits, most)
        pilot = PilotPwm(pwm, 32000, inverted)
        pilot.offer(32000)
        share = 65536 - pwm.duty if inverted else pwm.duty
        assert abs(share * 1000 // 65536 - 533) <= 1, (bits, share)
        assert share <= duty_u16(32000)
        pilot.offer(0)
        assert pwm.duty == 0 if inverted else pwm.duty >= 65528
        assert pilot.fault == ""
    pwm.error = OSError(5)
    pilot.offer(6000)
    assert "not reached" in pilot.fault
    pwm.error = None
    pwm.duty_u16 = lambda value=None: 1
    pilot.offer(6000)
    assert "is at 1 of 65536" in pilot.fault
