from drivers.control_pilot import FRONT_ENDS, ControlPilot
from support import raises


class _Adc:
    """Gives the pin voltage of a pilot waveform, one sample after the other."""

    def __init__(self, front_end, high_mv, low_mv, duty_percent, noise_mv=0, spikes=0):
        self._zero_uv, self._gain = FRONT_ENDS[front_end]
        self._levels = (high_mv, low_mv)
        self._duty = duty_percent
        self._noise = noise_mv
        self._spikes = spikes
        self._random = 12345
        self.reads = 0

    def read_uv(self):
        self._random = (self._random * 1103515245 + 12345) & 0x7FFFFFFF
        phase = (self._random >> 8) % 100
        level_mv = self._levels[0] if phase < self._duty else self._levels[1]
        if self.reads < self._spikes:
            level_mv = 15000
        self.reads += 1
        if self._noise:
            level_mv += (self._random >> 16) % (2 * self._noise) - self._noise
        return self._zero_uv + level_mv * self._gain // 10


def test_levels_and_pwm_through_each_front_end():
    for front_end in FRONT_ENDS:
        for high_mv, low_mv, duty, pwm in (
            (12000, 12000, 100, False), (9000, -12000, 50, True), (6000, -12000, 10, True),
            (6000, -12000, 96, True), (6000, 6000, 100, False), (3000, -10700, 27, True),
            (0, 0, 100, False), (-12000, -12000, 100, False), (9000, -9000, 53, True),
        ):
            pilot = ControlPilot(_Adc(front_end, high_mv, low_mv, duty), front_end)
            pilot.sample()
            assert pilot.pwm == pwm, (front_end, high_mv, duty)
            assert abs(pilot.high_mv - high_mv) <= 15, (front_end, high_mv, pilot.high_mv)
            if pwm:
                assert abs(pilot.low_mv - low_mv) <= 15, (front_end, low_mv, pilot.low_mv)


def test_noise_and_spikes_do_not_move_the_levels():
    pilot = ControlPilot(_Adc("fe3", 6000, -12000, 30, noise_mv=400, spikes=2), "fe3")
    pilot.sample()
    assert pilot.pwm
    assert abs(pilot.high_mv - 6000) < 250, pilot.high_mv
    assert abs(pilot.low_mv + 12000) < 250, pilot.low_mv


def test_reads_are_jittered_and_enough():
    pauses = []
    adc = _Adc("fe3", 9000, -12000, 50)
    ControlPilot(adc, "fe3", pauses.append).sample()
    assert adc.reads == 250
    assert len(set(pauses)) > 10


def test_an_unknown_front_end_is_refused_with_the_known_ones():
    message = str(raises(ValueError, ControlPilot, _Adc("fe3", 0, 0, 1), "fe9"))
    assert "fe9" in message
    assert "fe1, fe2, fe3" in message
