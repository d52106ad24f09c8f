"""A pulse meter's life of campaign `memory-tasks`: the task that counts and the one that reads, by
interrupt, over a restart that the RTC's memory survives.

No pulse is lost without a gap being told, none is counted twice, and the count is durable.
"""

import gc
from types import SimpleNamespace
from unittest.mock import patch

from drivers import pulse_meter
from drivers.pulse_meter import EdgeRing, PulseMeter
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.system.supervisor import Supervisor
from evmeter_tools.faults.injector import Watched
from evmeter_tools.faults.line import Time
from evmeter_tools.faults.session import _silence
from evmeter_tools.faults.world import MemoryNvs, Power

_IMP_PER_KWH = 1000
_PERIOD_MS = 1000
_STEP_MS = 200
_LOOK_MS = 1000
_IDLE_MS = 120000  # everything is committed after that
_FRESH_MS = 15000
# (pulses, ms closed, ms open) of what comes one after the other
_TRAIN = ((40, 30, 60), (3, 40, 3000), (60, 30, 30), (1, 500, 20000), (30, 32, 400))


class PulseStation:
    """A pulse output, its meter's two tasks, and what outlives them. `deaths`, `bites`, `live`,
    `facts` and `judge` are as in tasks_session.Charger."""

    supervisor = Supervisor

    def __init__(self, injector):
        self.injector = injector
        self.time = Time()
        self.deaths, self.bites, self.wrong = [], [], []
        self.given = 0  # pulses
        self.gaps = 0
        self._level = 1
        self._nvs = MemoryNvs(Power())
        self._rtc = b""
        self.meter = self.poll = self._ring = None

    def _memory(self, data=None):
        if data is None:
            return self._rtc
        self._rtc = bytes(data)
        return None

    def _pin(self):
        return self._level

    def boot(self):
        """Make the meter of what is there, and start both tasks."""
        time = self.time
        self._ring = EdgeRing(self._pin, ticks=time)
        self.meter = PulseMeter(self._ring, self._nvs, _IMP_PER_KWH, time, "4711", self._memory)
        self.poll = MeterPoll(self.meter, Gate(22000, self.meter.step_mwh), time, _PERIOD_MS,
                              time.sleep_ms)
        keeper = self.supervisor(time, None, self._died, time.sleep_ms)
        for name, function in (("pulses", self.meter.run), ("meter", self.poll.run)):
            time.spawn(Watched(keeper._keep(name, function), self.injector, name))

    def _died(self, name, error, trace):
        self.deaths.append("%s: %r" % (name, error))

    def pass_ms(self, ms):
        """Let time pass; a gap that is told is taken note of, as App does."""
        end_us = self.time.now_us + ms * 1000
        while self.time.now_us < end_us:
            try:
                self.time.run(min(end_us, self.time.now_us + _LOOK_MS * 1000))
            except Exception as error:  # out of a task: nobody starts it again
                self.wrong.append("not caught by the supervisor: %r" % (error,))
            if self.meter.gap:
                self.gaps += 1
                self.meter.gap = ""
            if self.meter.count > self.given:
                self.wrong.append("%d pulses of %d" % (self.meter.count, self.given))

    def _edge(self, level, ms):
        self._level = level
        self._ring.isr(None)
        self.pass_ms(ms)

    def _pulse(self, closed_ms, open_ms):
        self.given += 1
        self._edge(0, closed_ms)
        self._edge(1, open_ms)

    def live(self):
        """Pulses in all their ways, twice; returns the station."""
        gc.collect()
        gc.disable()
        try:
            with _silence(), patch.object(pulse_meter, "asyncio",
                                          SimpleNamespace(sleep_ms=self.time.sleep_ms)):
                self.boot()
                for _ in range(2):
                    self.pass_ms(1000)
                    for count, closed_ms, open_ms in _TRAIN:
                        for _ in range(count):
                            self._pulse(closed_ms, open_ms)
                    self.pass_ms(2 * _STEP_MS + 60000)  # a task that died is back
                    self.time.end()
                    self.boot()
                self.injector.armed = False
                self.pass_ms(_IDLE_MS)
        finally:
            gc.enable()
        return self

    def facts(self):
        """What each life has to come to."""
        return {}

    def judge(self, least):
        """What is wrong with it."""
        meter, wrong = self.meter, self.wrong
        if meter.count != self.given and not self.gaps:
            wrong.append("%d pulses of %d, and no gap told" % (meter.count, self.given))
        again = PulseMeter(EdgeRing(self._pin, ticks=self.time), self._nvs, _IMP_PER_KWH,
                           self.time, "4711")
        if again.count != meter.count:
            wrong.append("%d pulses are durable, of %d" % (again.count, meter.count))
        latest = self.poll.latest
        if not latest or self.time.mono_ms() - latest.mono_ms > _FRESH_MS:
            wrong.append("the meter is read no more")
        elif latest.import_mwh != meter.count * (1_000_000 // _IMP_PER_KWH):
            wrong.append("the register shows %d mWh" % latest.import_mwh)
        return wrong
