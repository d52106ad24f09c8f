"""The waveform of a control pilot as an ADC behind a front end samples it: no file, no thread, no
clock; the same seed gives the same samples.

Levels and duty as in IEC 61851-1 Annex A; front ends as in drivers/pilot_front_end.py.
"""

import random
from array import array

SAMPLES = 250
STEP_MS = 0.04  # mean distance of two samples; a window takes 10 ms
LEVEL_MV = {"A": 12000, "B": 9000, "C": 6000, "D": 3000, "E": 0, "F": -12000}
# millivolts at the pin at 0 V, and a volt on the pilot makes so many more
FRONT_ENDS = {"fe1": (1337.5, 102.1), "fe2": (1650.0, 125.0), "fe3": (1300.0, 88.5)}
_PULSED = "BCD"
_JITTER = 0.25  # of a step, either way: an even step would lock to the PWM's phase

# What `Waveform.set` takes: a number's least and most and whether None is one too, or the choices.
SETTINGS = {
    "state": tuple(LEVEL_MV),
    "duty_percent": (0, 100, False),
    "level_mv": (-15000, 15000, True),
    "low_mv": (-15000, 0, False),
    "ramp_ms": (0, 10000, False),
    "slew_us": (0, 400, False),
    "noise_mv": (0, 1000, False),
    "spikes": (0, 250, False),
    "spike_mv": (0, 3300, False),
    "offset_mv": (-1000, 1000, False),
    "gain": (0.5, 2, False),
    "adc_gain": (0.5, 2, False),
    "top_mv": (1000, 5000, False),
    "idle_mv": (0, 5000, True),
    "cp": ("ok", "short", "cut"),
    "diode": (True, False),
}


def duty_percent(offered_ma):
    """PWM duty for an offered current, IEC 61851-1 Table A.7: 0.6 A per percent up to 51 A."""
    if offered_ma <= 0:
        return 100.0
    return offered_ma / 600 if offered_ma <= 51000 else min(offered_ma / 2500 + 64, 100.0)


def check(name, value):
    """Raise ValueError unless `value` is one that the setting `name` can have."""
    if name not in SETTINGS:
        raise ValueError("unknown setting %s; there is: %s" % (name, ", ".join(SETTINGS)))
    allowed = SETTINGS[name]
    if isinstance(allowed[0], str | bool):
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise ValueError("%s %r is not one of %s"
                             % (name, value, ", ".join(map(str, allowed))))
        return
    least, most, optional = allowed
    if value is None and optional:
        return
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError("%s %r is not in %s to %s" % (name, value, least, most))


class Waveform:
    """What the ADC reads while a vehicle does what `set` says.

    front_end     a key of FRONT_ENDS, or (mV at the pin at 0 V, mV at the pin per volt)
    state         A to F; PWM only in B, C and D
    duty_percent  of the PWM; 100: none, the pilot is steady
    level_mv      on the pilot, in place of the state's nominal level (None); until the state
                  changes
    low_mv        of the PWM's negative half and of state F; op-amps sag to -10,700
    ramp_ms       how long the upper half takes from one level to the next
    slew_us       rise and fall of the PWM itself
    noise_mv      at the pin, standard deviation
    spikes        mean number in a window, of up to `spike_mv` at the pin, either way
    offset_mv     at the pin
    gain          of the front end, 1.0 where it is as its data say
    adc_gain      of the ADC, over the whole level at the pin
    top_mv        where the ADC ends
    cp            "short": to earth, both halves at 0 V. "cut": the front end hangs in the air; its
                  pin then lies at `idle_mv`, by default (None) at zero / (1 - gain), where the
                  passive network that makes zero and gain puts it: as 1.4 to 1.9 V on the
                  pilot. (A pilot that is cut towards the car is state A.)
    diode         False: the negative half is clamped like the positive one

    A change counts from the time `at_ms` on; times are the caller's, in ms.
    """

    def __init__(self, front_end="fe3", seed=1, **settings):
        if isinstance(front_end, str):
            if front_end not in FRONT_ENDS:
                raise ValueError("front end %s is not one of %s"
                                 % (front_end, ", ".join(FRONT_ENDS)))
            front_end = FRONT_ENDS[front_end]
        self._zero_mv, self._gain_per_v = front_end
        self._random = random.Random(seed)
        self.settings = {
            "state": "A", "duty_percent": 100.0, "level_mv": None, "low_mv": -12000, "ramp_ms": 0,
            "slew_us": 0, "noise_mv": 4, "spikes": 0, "spike_mv": 800, "offset_mv": 0,
            "gain": 1.0, "adc_gain": 1.0, "top_mv": 3300, "idle_mv": None, "cp": "ok",
            "diode": True}
        for name, value in settings.items():
            check(name, value)
        self.settings.update(settings)
        self._signal = self._before = self._now()
        self._since_ms = float("-inf")

    def _now(self):
        """Upper and lower level on the pilot in mV, and the share of the upper one."""
        settings = self.settings
        if settings["cp"] == "short":
            return 0, 0, 1
        if settings["cp"] == "cut":
            idle_mv = settings["idle_mv"]
            if idle_mv is None:
                idle_mv = self._zero_mv / (1 - self._gain_per_v / 1000)
            level_mv = (idle_mv - self._zero_mv) * 1000 / self._gain_per_v
            return level_mv, level_mv, 1
        state, high_mv, low_mv = settings["state"], settings["level_mv"], settings["low_mv"]
        if high_mv is None:
            high_mv = low_mv if state == "F" else LEVEL_MV[state]
        duty = settings["duty_percent"] / 100 if state in _PULSED else 1
        return high_mv, low_mv if settings["diode"] else -high_mv, duty

    def _high_mv(self, at_ms):
        """The upper level at a time, which may lie on the way to a new one."""
        if at_ms < self._since_ms:
            return self._before[0]
        ramp_ms = self.settings["ramp_ms"]
        passed_ms = at_ms - self._since_ms
        if passed_ms >= ramp_ms:
            return self._signal[0]
        begin_mv = self._before[0]
        return begin_mv + (self._signal[0] - begin_mv) * passed_ms / ramp_ms

    def set(self, at_ms=0, **settings):
        """Change settings from `at_ms` on; of a change before that, its ramp is cut short.

        Raises ValueError on an unknown setting or a value out of range; nothing is changed then.
        """
        for name, value in settings.items():
            check(name, value)
        high_mv = self._high_mv(at_ms)
        if settings.get("state", self.settings["state"]) != self.settings["state"]:
            self.settings["level_mv"] = None
        self.settings.update(settings)
        signal = self._now()
        if signal != self._signal:
            self._before = (high_mv, *self._signal[1:])
            self._signal = signal
            self._since_ms = at_ms

    def window(self, at_ms=0):
        """The next 250 samples as array("H"), whole mV at the pin, the first one at `at_ms`."""
        settings, draw, gauss = self.settings, self._random.random, self._random.gauss
        scale = self._gain_per_v / 1000 * settings["gain"] * settings["adc_gain"]
        zero_mv = self._zero_mv * settings["adc_gain"] + settings["offset_mv"] + 0.5
        noise_mv, top_mv, slew = settings["noise_mv"], settings["top_mv"], settings["slew_us"]
        slew /= 1000
        high_mv, low_mv, duty = self._signal
        settled = at_ms >= self._since_ms + settings["ramp_ms"]
        first, spread = STEP_MS * (1 - _JITTER), STEP_MS * 2 * _JITTER
        phase = draw()
        samples = array("H", bytes(2 * SAMPLES))
        for index in range(SAMPLES):
            step = first + spread * draw()
            phase = (phase + step) % 1
            if not settled:
                at_ms += step
                low_mv, duty = (self._signal if at_ms >= self._since_ms else self._before)[1:]
                high_mv = self._high_mv(at_ms)
            level_mv = high_mv
            if duty < 1:
                if phase >= duty:
                    level_mv = low_mv
                if slew:
                    since = phase - duty if phase >= duty else phase
                    if since < slew:
                        level_mv += (high_mv + low_mv - 2 * level_mv) * (1 - since / slew)
            pin_mv = zero_mv + level_mv * scale
            if noise_mv:
                pin_mv += gauss(0, noise_mv)
            samples[index] = int(min(top_mv, max(0, pin_mv)))
        if settings["spikes"]:
            self._spike(samples)
        return samples

    def _spike(self, samples):
        settings = self.settings
        share = settings["spikes"] / SAMPLES
        for index in range(SAMPLES):
            if self._random.random() < share:
                spike_mv = self._random.uniform(-1, 1) * settings["spike_mv"]
                samples[index] = int(min(settings["top_mv"], max(0, samples[index] + spike_mv)))
