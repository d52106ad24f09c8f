"""Decides what the clock is set to: SNTP servers that agree, one server, the battery-backed clock.

Quality S needs two servers within 500 ms of each other, more of those that answered than not, an
uncertainty of at most 2 s, and the operator's setting `time_authority`. A clock that was known and
steps by more than a minute is informative until the next round says the same.
"""

import asyncio
import os

from micropython import const

from evmeter.system.log import log
from evmeter.system.sntp import STOP, Kiss, SntpError

_AGREE_MS = const(500)
_S_MOST_MS = const(2000)
_LARGE_MS = const(60000)
_ROUND_MS = const(1024000)
_SOON_MS = const(64000)
_FIRST_PAUSE_MS = const(16000)
_RATE_MS = const(3600000)
_RATE_MOST_MS = const(86400000)
_LOOK_MS = const(1000)
_BATTERY_OFF_MS = const(2000)
_BATTERY_EVERY_MS = const(86400000)  # it is set at most once a day


class Server:
    """A configured server; `status` is "" after a good answer, else why there was none."""

    def __init__(self, name):
        self.name = name
        self.status = "not asked"
        self.stopped = False
        self.due_ms = 0
        self._pause_ms = _RATE_MS

    def kissed(self, code, now_ms):
        """It asked to be left alone: for good (until the next boot), or for a while."""
        self.stopped = code in STOP
        if code == "RATE":
            self.due_ms = now_ms + self._pause_ms
            self._pause_ms = min(2 * self._pause_ms, _RATE_MOST_MS)


def agreed(samples):
    """Of Samples from different servers the best that a majority (of at least two) stands by, as
    (Sample, uncertainty in ms that takes in how far the others are), or None."""
    most = []
    for lowest in samples:
        group = [one for one in samples
                 if 0 <= one.offset_ms() - lowest.offset_ms() <= _AGREE_MS]
        if len(group) > len(most):
            most = group
    if len(most) < 2 or 2 * len(most) <= len(samples):
        return None
    best = min(most, key=lambda one: one.uncertainty_ms)
    apart_ms = max([abs(one.offset_ms() - best.offset_ms()) for one in most])
    return best, best.uncertainty_ms + apart_ms


class TimeKeeper:
    """`settings` is the configuration's section "clock"; `client` an SntpClient, or None;
    `battery` a battery-backed clock (`unix_ms()`, `set(unix_ms)`), or None; `up()` says whether
    there is a network."""

    def __init__(self, settings, clock, client=None, battery=None, up=None, random=os.urandom,
                 sleep_ms=asyncio.sleep_ms):
        self._authority = settings["time_authority"]
        self.servers = [Server(name) for name in settings["servers"]] if client else []
        self._clock = clock
        self._client = client
        self._battery = battery
        self._up = up
        self._random = random
        self._sleep_ms = sleep_ms
        self._pause_ms = _FIRST_PAUSE_MS
        self._battery_set_ms = None
        self.rounds = 0
        self.status = "not set"  # "" while the newest round set the clock

    def from_battery(self):
        """Take the battery-backed clock's time if nothing better is known."""
        if self._battery:
            self._clock.ask_battery(self._battery)

    async def run(self):
        """Ask for ever: every 17 minutes, sooner after a failure."""
        await self._sleep_ms(self._random(1)[0] * 16)  # a fleet does not ask at the same moment
        while True:
            while self._up and not self._up():
                self._pause_ms = _FIRST_PAUSE_MS
                await self._sleep_ms(_LOOK_MS)
                self.from_battery()
            pause_ms = await self.ask_all()
            until_ms = self._clock.mono_ms() + pause_ms + self._random(1)[0] * pause_ms // 4096
            while self._clock.mono_ms() < until_ms:
                await self._sleep_ms(_LOOK_MS)

    async def ask_all(self):
        """Ask every server once and set the clock by what they say. Returns for how many ms to
        wait before the next."""
        self.rounds += 1
        samples = []
        for server in self.servers:
            if server.stopped or self._clock.mono_ms() < server.due_ms:
                continue
            sample = await self._ask(server)
            # two names of one server are one witness
            if sample and all(sample.address != other.address for other in samples):
                samples.append(sample)
        pause_ms = self._judge(samples)
        self.from_battery()
        if pause_ms:
            self._pause_ms = _FIRST_PAUSE_MS
            return pause_ms
        pause_ms = self._pause_ms
        self._pause_ms = min(2 * pause_ms, _ROUND_MS)
        return pause_ms

    async def _ask(self, server):
        clock = self._clock
        try:
            sample = await self._client.ask(server.name, clock.floor_ms())
        except Kiss as error:
            server.kissed(error.code, clock.mono_ms())
            why = str(error)
        except (OSError, SntpError) as error:
            why = str(error)
        else:
            server.status = ""
            return sample
        if why != server.status:
            log.warning("time server %s: %s", server.name, why)
        server.status = why
        return None

    def _judge(self, samples):
        """Set the clock if it can be. Returns the pause in ms, 0 after a failure."""
        if not samples:
            self.status = "no time server answers"
            return 0
        if len(samples) == 1:
            return self._set(samples[0], samples[0].uncertainty_ms, False)
        found = agreed(samples)
        if not found:
            self._trouble("time servers do not agree")
            return 0
        return self._set(found[0], found[1], True)

    def _set(self, sample, uncertainty_ms, several):
        clock = self._clock
        was = clock.quality
        if was == "S" and not several:  # one server is no reason to doubt two, or to trust them
            self.status = "one time server only"
            return 0
        step_ms = sample.unix_ms - clock.unix_ms_at(sample.mono_ms)
        doubt = was != "U" and abs(step_ms) > _LARGE_MS
        good = several and self._authority and uncertainty_ms <= _S_MOST_MS and not doubt
        try:
            taken = clock.set(sample.unix_ms, "S" if good else "I", uncertainty_ms,
                              sample.mono_ms, "sntp", several)
        except ValueError as error:
            self._trouble("time servers: %s" % error)
            return 0
        self.status = "" if several else "one time server only"
        if several and not doubt and taken is not None:
            self._set_battery()
        if not several and len(self.servers) > 1:
            return 0  # the others are asked again soon
        return _SOON_MS if doubt else _ROUND_MS

    def _trouble(self, text):
        if text != self.status:
            log.warning(text)
        self.status = text

    def _set_battery(self):
        """Set the battery-backed clock where it is wrong; at most once a day, for it is moved by
        half a second each time."""
        battery, now_ms = self._battery, self._clock.mono_ms()
        if not battery or (self._battery_set_ms is not None
                           and now_ms - self._battery_set_ms < _BATTERY_EVERY_MS):
            return
        unix_ms = self._clock.now()[0]
        try:
            try:
                if abs(battery.unix_ms() - unix_ms) < _BATTERY_OFF_MS:
                    return
            except ValueError as error:
                log.info("battery clock is set: %s", error)
            battery.set(unix_ms)
            self._battery_set_ms = now_ms
        except (OSError, ValueError) as error:
            log.warning("battery clock cannot be set: %s", error)

    def counters(self, fields):
        """What `diag` tells of time."""
        clock = self._clock
        fields["t_src"] = clock.source
        fields["t_unc_ms"] = clock.uncertainty_ms
        fields["t_steps"] = clock.steps
        fields["t_why"] = self.status
        fields["t_bad"] = self._client.refused if self._client else 0
        fields["t_srv"] = [one.status for one in self.servers]
