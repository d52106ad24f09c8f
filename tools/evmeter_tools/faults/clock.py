"""Campaign `clock`: false, silent and quarrelling time servers, bad battery clocks, reboots.

The real Clock, SntpClient and TimeKeeper ask servers whose behaviour changes at random. The one
assumption is that no two false servers tell the same lie: against these no client has a remedy. A
violation is a time of quality S that is not as true as it says, an answer believed that was
forged, a clock set by servers that contradict each other, a record behind the newest one without
servers that agree, a clock that moves at a session's edge, a duration that the clock changed, or
a time that the backend corrects wrongly.
"""

import random

from evmeter.system import sntp
from evmeter.system.clock import Clock
from evmeter.system.sntp import SntpClient
from evmeter.system.timekeeper import TimeKeeper
from evmeter_tools.backend.sessions import corrected_times
from evmeter_tools.faults.clock_world import (
    BUILD_MS,
    DAY_MS,
    FALSE,
    HOUR_MS,
    KINDS,
    TRUE,
    Battery,
    Sockets,
    TimeSource,
    World,
)
from evmeter_tools.faults.result import Result

_SLACK_MS = 5000
_EPOCH = 120  # faults with one device
_CONTROL_TRIALS = 3000


class Designs:
    """The parts that tell time; a control puts a wrong one in."""

    def __init__(self):
        self.clock = Clock
        self.client = SntpClient
        self.keeper = TimeKeeper


def _run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the coroutine waits for something else")


class _Device:
    """One device over its boots, and what its records said."""

    def __init__(self, result, designs, seed):
        self.rng = rng = random.Random(seed)
        self.result = result
        self.designs = designs
        self.world = World(rng)
        self.servers = {"10.0.0.%d" % at: TimeSource(rng)
                        for at in range(1, rng.randint(1, 4) + 1)}
        self.battery = Battery(self.world)
        self.battery.off_ms = rng.choice((0, 0, 20000, -DAY_MS, DAY_MS, -9000 * DAY_MS))
        self.authority = rng.random() < 0.8
        self.messages = []
        self.true_ms = {}  # when each of them was made
        self.newest = {"S": 0, "I": 0}
        self.boots = 0
        self.agreed = False  # since the newest record true servers agreed
        self.session = None
        self.boot()

    # -- what the device does --

    def boot(self):
        """Start as the firmware does, from what is on flash."""
        self.boots += 1
        world, designs, rng = self.world, self.designs, self.rng
        self.session = None
        world.clock = self.clock = clock = designs.clock(BUILD_MS, world)
        last = [(message["ts"] * 1000, message["tq"]) for message in self.messages[-4:]]
        clock.raise_floor(max([unix_ms for unix_ms, _ in last], default=0),
                          max([unix_ms for unix_ms, quality in last if quality == "S"], default=0))
        self.first_seq = len(self.messages) + 1
        self.agreed = False
        client = designs.client(clock, None, Sockets(world, self.servers), rng.randbytes,
                                world.sleep_ms)
        self._watch(client)
        settings = {"servers": tuple(self.servers), "time_authority": self.authority}
        self.keeper = designs.keeper(settings, clock, client, self.battery, None, rng.randbytes,
                                     world.sleep_ms)
        self.keeper.from_battery()
        self.write_notes()
        self.record("boot")

    def _watch(self, client):
        ask = client.ask

        async def watched(name, floor_ms):
            sample = await ask(name, floor_ms)
            kind = self.servers[name].kind
            if kind in FALSE:
                self.wrong("an answer was believed: %s" % kind)
            self.result.counts["answers believed"] += 1
            self.heard.append((self.servers[name].off_ms, sample))
            return sample

        client.ask = watched

    def ask(self):
        """One round of questions."""
        clock = self.clock
        self.heard = []
        set_at_ms, offset_ms = clock.set_at_mono_ms, clock.unix_ms_at(0)
        held = clock._holds
        _run(self.keeper.ask_all())
        true = sum(off_ms == 0 for off_ms, _ in self.heard)
        self.agreed = self.agreed or true >= 2
        moved = clock.unix_ms_at(0) != offset_ms
        if held and moved:
            self.wrong("the clock moved at a session's edge")
        lies = {off_ms for off_ms, _ in self.heard}
        if (len(lies) > 1 and true < 2 and clock.source == "sntp"
                and clock.set_at_mono_ms != set_at_ms):
            self.wrong("set by servers that contradict each other")
        if len(lies) > 1:
            self.result.counts["rounds with a liar"] += 1
        self.write_notes()

    def write_notes(self):
        """As the firmware's housekeeping."""
        _run(self.clock.write_notes(self, "", self.boots, self.first_seq))

    async def log(self, event, sid, mono_ms, fields):
        """The ledger's: append an audit entry."""
        self.record(event, mono_ms, fields)

    def record(self, event, mono_ms=None, fields=()):
        """Append a message and judge its date."""
        clock = self.clock
        fields = dict(fields)
        mono_ms = clock.mono_ms() if mono_ms is None else mono_ms
        unix_ms, quality = clock.unix_ms_at(mono_ms), clock.quality
        seq = len(self.messages) + 1
        fields.update(ev=event, seq=seq, ts=unix_ms // 1000, tq=quality)
        self.messages.append(fields)
        self.true_ms[seq] = self.world.true_ms
        self.check()
        if quality == "U":
            return
        # what it may be wrong by, as it says itself, does not count as going back
        for least, allowed in (("S", False), ("I", self.agreed)):
            behind_ms = self.newest[least] - _SLACK_MS - unix_ms
            if behind_ms > 0 and not allowed:
                self.wrong("%d s behind a record made with %s" % (behind_ms // 1000 + 5, least))
        self.agreed = self.agreed and bool(clock._held)
        least_ms = unix_ms - clock.uncertainty_ms
        self.newest["I"] = least_ms
        if quality == "S":
            self.newest["S"] = max(self.newest["S"], least_ms)

    def edge(self):
        """A session begins or ends: the date stands still in itself while that is written."""
        clock, world = self.clock, self.world
        clock.hold()
        offset_ms = clock.unix_ms_at(0)
        if self.rng.random() < 0.5:
            self.ask()
        world.pass_ms(self.rng.randrange(3000))
        if clock.unix_ms_at(0) != offset_ms:
            self.wrong("the clock moved at a session's edge")
        self.record("rec")
        if self.session:
            begun_ms, begun_true_ms = self.session
            took_ms = clock.mono_ms() - begun_ms
            true_ms = world.true_ms - begun_true_ms
            if abs(took_ms - true_ms) > true_ms * 100 // 10**6 + 2:
                self.wrong("a session of %d ms was measured as %d" % (true_ms, took_ms))
            self.result.counts["sessions"] += 1
            self.session = None
        else:
            self.session = clock.mono_ms(), world.true_ms
        clock.release()
        self.write_notes()
        self.check()

    # -- what is judged --

    def wrong(self, text):
        """A rule was broken."""
        self.result.wrong("%s (boot %d)" % (text, self.boots))

    def check(self):
        """What S says is true, now."""
        unix_ms, quality = self.clock.now()
        self.result.counts["quality " + quality] += 1
        if quality != "S":
            return
        wrong_ms = abs(unix_ms - self.world.true_ms)
        if wrong_ms > self.clock.uncertainty_ms + 2 or self.clock.uncertainty_ms > 2000:
            self.wrong("S, but %d ms wrong, said to be %d"
                       % (wrong_ms, self.clock.uncertainty_ms))

    def check_corrections(self):
        """The backend dates records of U by later entries."""
        for seq, when in corrected_times(
                ("log", message) for message in self.messages).items():
            wrong_ms = abs(when.unix_ms - self.true_ms[seq])
            self.result.counts["dates corrected"] += 1
            if when.quality == "S" and wrong_ms > when.uncertainty_ms + 2:
                self.wrong("record %d corrected, but %d ms wrong, said to be %d"
                           % (seq, wrong_ms, when.uncertainty_ms))


def _server(device):
    servers = list(device.servers.values())
    kind = device.rng.choice(KINDS) if device.rng.random() < 0.5 else (
        device.rng.choice(("good", "lying", "silent")))
    device.rng.choice(servers).become(kind, servers)
    return "server: " + kind


def _all_true(device):
    servers = list(device.servers.values())
    for server in servers:
        server.become(device.rng.choice(TRUE), servers)
    return "all servers true"


def _battery(device):
    rng = device.rng
    device.battery.fault = rng.choice(("", "", "", "gone", "stopped"))
    if not device.battery.fault:
        device.battery.off_ms = rng.choice((0, 0, 1500, -HOUR_MS, DAY_MS, -DAY_MS,
                                            3650 * DAY_MS, -9000 * DAY_MS))
    return "battery clock: " + (device.battery.fault or ("wrong" if device.battery.off_ms
                                                         else "true"))


def _reboot(device):
    device.world.clock = None
    device.world.pass_ms(device.rng.choice((2000, 60000, HOUR_MS, 3 * DAY_MS)))
    device.boot()
    return "reboot"


def _wait(device):
    device.world.pass_ms(device.rng.choice((1000, 60000, HOUR_MS, 7 * HOUR_MS, 3 * DAY_MS,
                                            9 * DAY_MS)))
    device.check()
    return "time passes"


def _ask(device):
    device.ask()
    device.check()
    device.world.pass_ms(device.rng.choice((16000, 64000, 1024000)))
    return "round of questions"


def _record(device):
    device.record("rec")
    return "record"


def _edge(device):
    device.edge()
    return "session edge"


_ACTIONS = (_server, _server, _server, _all_true, _battery, _reboot, _wait, _wait, _ask, _ask,
            _ask, _ask, _record, _edge, _edge)


def _lives(result, designs, trials, seed, progress=None):
    while result.trials < trials:
        device = _Device(result, designs, "%d %d" % (seed, result.trials))
        for _ in range(min(_EPOCH, trials - result.trials)):
            result.counts[device.rng.choice(_ACTIONS)(device)] += 1
            result.trials += 1
        device.check_corrections()
        if progress:
            progress(result.trials, trials)


def _any_reply():
    """A client that takes whatever has 48 bytes, as ntptime does."""

    class Trusting(SntpClient):
        async def _exchange(self, sock, address, floor_unix_ms, timeout_ms):
            sock.send(sntp.question(self._random(8)))
            for _ in range(timeout_ms // 10):
                length = self._look(sock.readinto, self._buffer)
                if length is not None and length >= 48:
                    seconds = int.from_bytes(self._buffer[40:44], "big")
                    unix_ms = sntp._unix_ms(seconds, 0, floor_unix_ms // 1000)
                    return sntp.Sample(address, self._clock.mono_ms(), unix_ms, 1000, 20)
                await self._sleep_ms(10)
            raise sntp.SntpError("no answer")

    return Trusting


def _no_agreement():
    """One answer is enough for S."""

    class Alone(TimeKeeper):
        def _judge(self, samples):
            return self._set(samples[0], samples[0].uncertainty_ms, True) if samples else 0

    return Alone


def _no_majority():
    """Any two that agree are enough, whatever the others say; the first pair of two."""

    class Pair(TimeKeeper):
        def _judge(self, samples):
            if len(samples) < 2:
                return super()._judge(samples)
            return self._set(samples[0], samples[0].uncertainty_ms + 500, True)

    return Pair


def _no_floor():
    class Loose(Clock):
        def _check(self, unix_ms, quality, mono_ms, agreed):
            """Anything goes."""

    return Loose


def _no_age():
    class Lasting(Clock):
        @property
        def quality(self):
            return self._quality

        uncertainty_ms = property(lambda self: self._uncertainty_ms)

    return Lasting


def _no_hold():
    class Restless(Clock):
        def hold(self):
            """Not held."""

        def release(self):
            """Not held."""

    return Restless


def _ticks_unbound():
    """Durations by the wall clock."""

    class Wall(Clock):
        def mono_ms(self):
            return super().mono_ms() + (self._offset_ms if self.steps else 0)

    return Wall


_CONTROLS = (
    ("takes any reply", "client", _any_reply),
    ("one server is enough for S", "keeper", _no_agreement),
    ("servers need not agree", "keeper", _no_majority),
    ("goes behind the newest record", "clock", _no_floor),
    ("S never ends", "clock", _no_age),
    ("set at a session's edge", "clock", _no_hold),
    ("durations by the wall clock", "clock", _ticks_unbound),
)


def run(trials, seed=1, progress=None, control_trials=_CONTROL_TRIALS):
    """The campaign's Result; the same `seed` gives the same faults."""
    import logging

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        result = Result("clock")
        _lives(result, Designs(), trials, seed, progress)
        for name, part, make in _CONTROLS if control_trials else ():
            designs = Designs()
            setattr(designs, part, make())
            control = Result(name)
            _lives(control, designs, control_trials, seed)
            result.controls[name] = control.violations > 0
        return result
    finally:
        logger.setLevel(level)
