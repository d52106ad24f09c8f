import asyncio
import json

from evmeter.system.supervisor import Supervisor
from fakes.virtual_time import VirtualTime


class _Dog:
    def __init__(self, time):
        self._time = time
        self.fed_ms = []

    def feed(self):
        self.fed_ms.append(self._time.mono_ms())

    def longest_ms(self):
        return max(after - before for before, after in zip(self.fed_ms, self.fed_ms[1:]))


class _Bench:
    """A supervisor for so many seconds over tasks that the test gives by name."""

    def __init__(self):
        self.time = VirtualTime()
        self.dog = _Dog(self.time)
        self.reports = []
        self.supervisor = Supervisor(
            self.time, self.dog, lambda *report: self.reports.append(report), self.time.sleep_ms)

    def run(self, seconds, **tasks):
        async def main():
            for name in sorted(tasks):
                self.supervisor.start(name, tasks[name])
            keeper = asyncio.create_task(self.supervisor.run())
            await self.time.sleep_ms(seconds * 1000)
            for task in self.supervisor._tasks + [keeper]:
                task.cancel()

        asyncio.run(main())


def test_a_task_that_dies_is_told_and_comes_back_with_longer_pauses():
    for error in (ValueError("no reply"), OSError(5), MemoryError(), KeyError("x")):
        bench = _Bench()
        starts_ms = []

        async def dies(starts_ms=starts_ms, bench=bench, error=error):
            starts_ms.append(bench.time.mono_ms())
            raise error

        bench.run(600, meter=dies)
        pauses_s = [(after - before) // 1000 for before, after in zip(starts_ms, starts_ms[1:])]
        assert pauses_s[:8] == [0, 1, 2, 4, 8, 16, 32, 60], pauses_s
        assert max(pauses_s) == 60
        assert bench.supervisor.restarts == len(starts_ms) == len(bench.reports)
        name, told, trace = bench.reports[0]
        assert (name, told) == ("meter", error)
        assert type(error).__name__ in trace and len(trace) <= 600


def test_a_trace_finds_room_in_an_entry_whatever_the_error_says():
    for text in ("\x00" * 2000, "\u20ac" * 2000, '"\\' * 1000, "short \u00e9\x07"):
        bench = _Bench()

        async def dies(text=text):
            raise ValueError(text)

        bench.run(1, meter=dies)
        trace = bench.reports[0][2]
        assert len(trace) <= 600
        # of the 2,560 bytes of a frame, beside what else is in it and the signature
        assert len(json.dumps({"task": "meter records", "trace": trace}).encode()) < 1400
    assert "short ???" in trace and "\n" in trace


def test_a_task_that_lived_long_comes_back_at_once():
    bench = _Bench()
    starts_ms = []

    async def lives_two_minutes():
        starts_ms.append(bench.time.mono_ms())
        await bench.time.sleep_ms(120000)
        raise ValueError("once in a while")

    bench.run(600, meter=lives_two_minutes)
    assert starts_ms == [120500 * index for index in range(5)]


def test_one_that_dies_takes_no_other_along():
    bench = _Bench()
    turns = []

    async def dies():
        raise RuntimeError("dead")

    async def lives():
        while True:
            turns.append(bench.time.mono_ms())
            await bench.time.sleep_ms(1000)

    bench.run(60, meter=lives, uplink=dies)
    assert turns == list(range(0, 60001, 1000))


def test_the_watchdog_is_fed_while_all_that_measure_check_in():
    bench = _Bench()

    async def checks_in():
        while True:
            bench.supervisor.check_in("meter")
            await bench.time.sleep_ms(15000)

    bench.run(300, meter=checks_in)
    assert len(bench.dog.fed_ms) > 550 and bench.dog.longest_ms() <= 1000


def test_a_task_that_hangs_starves_the_watchdog():
    for name, within_ms in (("meter", 20000), ("session", 180000)):
        bench = _Bench()

        async def hangs(name=name, within_ms=within_ms, bench=bench):
            for _ in range(3):
                bench.supervisor.check_in(name, within_ms)
                await bench.time.sleep_ms(1000)
            await bench.time.sleep_ms(10 ** 9)

        async def checks_in(bench=bench):
            while True:
                bench.supervisor.check_in("pilot")
                await bench.time.sleep_ms(50)

        bench.run(300, pilot=checks_in, hung=hangs)
        assert bench.supervisor.late() == [name]
        assert bench.dog.fed_ms[-1] <= 2000 + within_ms < bench.dog.fed_ms[-1] + 1000


def test_a_task_that_dies_for_good_starves_the_watchdog():
    bench = _Bench()

    async def dies():
        bench.supervisor.check_in("meter")
        bench.supervisor.check_in = lambda *_: None
        raise ValueError("no meter")

    bench.run(120, meter=dies)
    assert bench.dog.fed_ms[-1] <= 20000


def test_a_task_comes_back_where_there_is_no_memory_to_tell_of_its_death():
    bench = _Bench()
    starts = []

    def no_room(*report):
        raise MemoryError

    async def dies():
        starts.append(1)
        raise MemoryError

    bench.supervisor._report = no_room
    bench.run(30, meter=dies)
    assert len(starts) >= 5
    assert bench.supervisor.untold == bench.supervisor.restarts == len(starts)
    assert bench.dog.longest_ms() <= 1000


def test_a_watchdog_that_once_could_not_be_fed_is_fed_again():
    bench = _Bench()
    feed, fails = bench.dog.feed, [3]

    def starve():
        if fails[0]:
            fails[0] -= 1
            raise MemoryError
        feed()

    bench.dog.feed = starve
    bench.run(10)
    assert bench.supervisor.untold == 3 and len(bench.dog.fed_ms) > 10


def test_what_fails_on_the_way_out_ends_no_task():
    for where in ("report", "sleep", "both"):
        bench = _Bench()
        starts = []
        failing = [3]
        report, sleep_ms = bench.supervisor._report, bench.supervisor._sleep_ms

        def fails(name, *more, failing=failing):
            if failing[0]:
                failing[0] -= 1
                raise MemoryError()

        def told(*given, report=report, fails=fails, where=where):
            if where != "sleep":
                fails("report")
            report(*given)

        def slept(ms, sleep_ms=sleep_ms, fails=fails, where=where):
            if where != "report":
                fails("sleep")
            return sleep_ms(ms)

        bench.supervisor._report, bench.supervisor._sleep_ms = told, slept

        async def dies(starts=starts):
            starts.append(1)
            raise ValueError("x")

        bench.run(60, meter=dies)
        assert len(starts) > 5 and failing == [0], where
        assert bench.reports and len(bench.dog.fed_ms) > 100
