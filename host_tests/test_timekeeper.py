from evmeter.system.clock import Clock
from evmeter.system.sntp import SntpClient
from evmeter.system.timekeeper import TimeKeeper
from fakes.time_server import FakeTime, Net, run, server

FLOOR = 1_795_478_400_000
NOW = 1_800_000_000_000
DAY = 86400000
NAMES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")


class Battery:
    """A battery-backed clock that is wrong by `off_ms`, or raises `error`."""

    def __init__(self, time, off_ms=0, error=None):
        self._time = time
        self.off_ms = off_ms
        self.error = error
        self.sets = 0

    def unix_ms(self):
        if self.error:
            raise self.error
        return self._time.unix_ms + self.off_ms

    def set(self, unix_ms):
        self.sets += 1
        self.error = None
        self.off_ms = unix_ms - self._time.unix_ms


class Rig:
    def __init__(self, count=2, authority=True, battery=None):
        self.time = FakeTime(NOW)
        self.net = Net(self.time)
        self.clock = Clock(FLOOR, self.time)
        self.nonce = 0
        self.battery = battery(self.time) if battery else None
        client = SntpClient(self.clock, None, self.net, self._random, self.time.sleep_ms)
        settings = {"servers": NAMES[:count], "time_authority": authority}
        self.keeper = TimeKeeper(settings, self.clock, client, self.battery, None, self._random,
                                 self.time.sleep_ms)

    def _random(self, count):
        self.nonce += 1
        return bytes((self.nonce >> 8, self.nonce & 255)) * (count // 2) or b"\0"

    def servers(self, *answers):
        for name, one in zip(NAMES, answers):
            self.net.servers[name] = one

    def round(self):
        return run(self.keeper.ask_all())

    def wrong_ms(self):
        return self.clock.now()[0] - self.time.unix_ms


def _silent(asked, unix_ms):
    return []


def test_what_gives_which_quality():
    good, liar = server(), server(off_ms=DAY)
    for name, authority, answers, quality in (
            ("two agree", True, (good, good), "S"),
            ("no authority", False, (good, good), "I"),
            ("499 ms apart", True, (good, server(off_ms=499)), "S"),
            ("502 ms apart", True, (good, server(off_ms=502)), "U"),
            ("one", True, (good,), "I"),
            ("one silent", True, (good, _silent), "I"),
            ("none", True, (_silent, _silent), "U"),
            ("one of two lies", True, (good, liar), "U"),
            ("one of three lies", True, (liar, good, good), "S"),
            ("two of four lie alike", True, (liar, good, liar, good), "U"),
            ("two of four lie", True, (liar, good, server(off_ms=-DAY), good), "U"),
            ("one of four lies", True, (good, good, liar, good), "S"),
            ("too uncertain", True, (server(1400, dispersion_ms=1490),) * 2, "I")):
        rig = Rig(len(answers), authority)
        rig.servers(*answers)
        rig.round()
        assert rig.clock.quality == quality, name
        if quality != "U":
            assert abs(rig.wrong_ms()) <= rig.clock.uncertainty_ms, name


def test_two_names_of_one_server_are_one_witness():
    rig = Rig(2)
    rig.keeper.servers[1].name = rig.keeper.servers[0].name
    rig.servers(server())
    rig.round()
    assert rig.clock.quality == "I" and rig.keeper.status == "one time server only"


def test_a_step_of_a_known_clock_is_informative_until_it_is_confirmed():
    rig = Rig()
    rig.servers(server(off_ms=-DAY), server(off_ms=-DAY))
    rig.round()
    assert rig.clock.quality == "S"
    rig.servers(server(), server())
    assert rig.round() == 64000
    assert rig.clock.quality == "I" and rig.wrong_ms() == 0
    assert [note[0] for note in rig.clock.notes] == ["clock_bound", "clock_step"]
    assert rig.round() == 1024000
    assert rig.clock.quality == "S"


def test_one_server_does_not_overrule_two():
    rig = Rig()
    rig.servers(server(), server())
    rig.round()
    rig.servers(_silent, server(off_ms=3600000))
    rig.round()
    assert (rig.clock.quality, rig.wrong_ms()) == ("S", 0)
    rig.servers(server(off_ms=-DAY), server(off_ms=-DAY))
    rig.round()
    assert (rig.clock.quality, rig.wrong_ms()) == ("S", 0)
    assert rig.keeper.status == "time servers: it is 86399 s behind the newest record"


def test_pauses_grow_while_nobody_answers():
    rig = Rig()
    rig.servers(_silent, _silent)
    pauses = [rig.round() // 1000 for _ in range(9)]
    assert pauses == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
    rig.servers(server(), server())
    assert rig.round() == 1024000
    rig.servers(_silent, _silent)
    assert rig.round() == 16000
    rig = Rig()  # one that answers is no reason to wait long for the other
    rig.servers(server(), _silent)
    assert [rig.round(), rig.round()] == [16000, 32000]
    rig = Rig(1)
    rig.servers(server())
    assert rig.round() == 1024000


def test_a_kiss_of_death_is_obeyed():
    for code in (b"DENY", b"RSTR"):
        rig = Rig()
        rig.servers(server(stratum=0, reference=code), server())
        for _ in range(3):
            rig.round()
            rig.time.pass_ms(2 * DAY)
        assert rig.net.asked.count(rig.net.servers[NAMES[0]]) == 1
        assert rig.keeper.servers[0].status == "the server says " + code.decode()
    rig = Rig()
    rig.servers(server(stratum=0, reference=b"RATE"), server())
    asked = []
    for _ in range(60):  # of ten minutes each
        rig.round()
        asked.append(rig.net.asked.count(rig.net.servers[NAMES[0]]))
        rig.time.pass_ms(600000)
    assert asked[0] == asked[5] == 1 and asked[6] == 2 and asked[-1] == 4  # after 1, 2, 4 hours


def test_the_battery_clock_stands_in_and_is_set():
    rig = Rig(battery=lambda time: Battery(time, 3000))
    rig.servers(_silent, _silent)
    rig.keeper.from_battery()
    assert (rig.clock.quality, rig.clock.source, rig.wrong_ms()) == ("I", "battery", 3000)
    rig.servers(server(), server())
    rig.round()
    assert (rig.clock.quality, rig.wrong_ms(), rig.battery.off_ms) == ("S", 0, 0)
    rig.battery.off_ms = 10000
    rig.round()
    assert rig.battery.sets == 1  # once a day
    rig.servers(_silent, _silent)
    for _ in range(8):  # a week and more without servers
        rig.time.pass_ms(DAY)
        rig.clock.mono_ms()
        rig.round()
    assert (rig.clock.quality, rig.clock.source, rig.wrong_ms()) == ("I", "battery", 10000)


def test_a_battery_clock_that_cannot_be_used():
    for error in (OSError(19), ValueError("its oscillator has stopped")):
        rig = Rig(battery=lambda time: Battery(time, 0, error))
        rig.keeper.from_battery()
        assert rig.clock.quality == "U"
        rig.servers(server(), server())
        rig.round()
        assert rig.clock.quality == "S"
        assert rig.battery.sets == (1 if isinstance(error, ValueError) else 0)
    rig = Rig(battery=lambda time: Battery(time, -10000 * DAY))
    rig.keeper.from_battery()
    assert rig.clock.quality == "U"
    rig = Rig(battery=lambda time: Battery(time, -DAY))
    rig.clock.raise_floor(NOW)
    rig.keeper.from_battery()
    assert rig.clock.quality == "U"


def test_nothing_is_set_at_an_edge():
    rig = Rig(battery=lambda time: Battery(time, 90000))
    rig.servers(server(), server())
    rig.clock.hold()
    rig.round()
    assert rig.clock.quality == "U" and rig.battery.sets == 0
    rig.clock.release()
    assert rig.clock.quality == "S" and rig.wrong_ms() == 0


def test_the_task_waits_for_the_network_and_asks_on():
    class Enough(Exception):
        pass

    class Up:
        calls = 0

        def __call__(self):
            self.calls += 1
            if rig.keeper.rounds == 3:
                raise Enough
            return self.calls > 5

    rig = Rig(battery=lambda time: Battery(time))
    rig.servers(server(), server())
    rig.keeper._up = Up()
    try:
        run(rig.keeper.run())
    except Enough:
        pass
    assert rig.keeper._up.calls == 9 and rig.clock.quality == "S"
    assert 3 * 1024000 <= rig.clock.mono_ms() < 4 * 1024000


def test_what_diag_tells():
    rig = Rig(1)
    rig.servers(server())
    rig.round()
    fields = {}
    rig.keeper.counters(fields)
    assert fields == {"t_src": "sntp", "t_unc_ms": fields["t_unc_ms"], "t_steps": 0,
                      "t_why": "one time server only", "t_bad": 0, "t_srv": [""]}
