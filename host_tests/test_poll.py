import asyncio

from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.metering.reading import MeterError
from evmeter.metering.turn import Turn
from fakes.virtual_time import VirtualTime


class _Bus:
    def __init__(self, time):
        self.quiet = Turn(time.sleep_ms)
        self.requests = self.timeouts = self.damaged = self.exceptions = 0


class _Meter:
    """A meter whose register follows `line(mono_ms)`; each reading takes `reading_ms`.

    `faults`: [(from ms, to ms, MeterError or quality letter)].
    """

    make, model, step_mwh, rollover_mwh, phases = "Maker", "Model", 1000, 0, 1

    def __init__(self, time, line, reading_ms=200, label=None, serial="21034567"):
        self.bus = _Bus(time)
        self.label_serial = label
        self.serial = serial
        self.code = "0020"
        self.faults = []
        self.identity_reads = self.energy_reads = self.billing_reads = self.together = 0
        self._time = time
        self._line = line
        self._reading_ms = reading_ms

    async def _reply(self):
        assert not self.together, "two readings at once"
        self.together = 1
        now_ms = self._time.mono_ms()
        await self._time.sleep_ms(self._reading_ms)
        self.together = 0
        for from_ms, to_ms, fault in self.faults:
            if from_ms <= now_ms < to_ms:
                if isinstance(fault, MeterError):
                    raise fault
                return fault
        return "G"

    async def read_billing(self, reading, energy_only=False):
        if energy_only:
            self.energy_reads += 1
        else:
            self.billing_reads += 1
        reading.quality = await self._reply()
        reading.reason = "" if reading.quality == "G" else "import_mwh is no number"
        if not energy_only:
            reading.voltages_mv[0] = 230000
            reading.power_mw = 3680000
            reading.frequency_mhz = 50000
        reading.import_mwh = self._line(self._time.mono_ms())

    async def read_identity(self):
        self.identity_reads += 1
        await self._reply()
        return self.serial, self.code, "0205"


def _rig(line=lambda now_ms: 10**9 + now_ms, base_mwh=None, period_ms=1000, **options):
    time = VirtualTime()
    meter = _Meter(time, line, **options)
    poll = MeterPoll(meter, Gate(11000, 1000, base_mwh), time, period_ms, time.sleep_ms)
    return time, meter, poll


def _run(time, poll, scenario):
    async def main():
        task = asyncio.create_task(poll.run())
        try:
            return await scenario()
        finally:
            task.cancel()
    return asyncio.run(main())


def test_readings_come_in_their_period_with_their_own_time():
    time, meter, poll = _rig()
    seen = []
    poll.on_reading = lambda reading: seen.append((reading.mono_ms, reading.import_mwh))

    async def scenario():
        assert poll.latest is None and poll.status[0] == "N"
        await time.sleep_ms(10500)
    _run(time, poll, scenario)
    assert len(seen) == 11 and meter.identity_reads == 1
    for index in range(2, 11):
        assert seen[index][0] - seen[index - 1][0] == 1000, seen
        assert seen[index][1] == 10**9 + seen[index][0]
    assert poll.quality == poll.status == "G" and poll.latest.power_mw == 3680000
    assert (poll.serial, poll.serial_source, poll.code, poll.firmware) == (
        "21034567", "meter", "0020", "0205")


def test_a_failed_poll_leaves_the_old_value_its_old_time():
    for fault, letter in ((MeterError("no reply", "T"), "T"), (MeterError("UART", "D"), "D"),
                          ("F", "F")):
        time, meter, poll = _rig()
        meter.faults = [(4000, 9000, fault)]

        async def scenario(time=time, poll=poll, letter=letter):
            await time.sleep_ms(3900)
            read_ms, mwh = poll.latest.mono_ms, poll.latest.import_mwh
            await time.sleep_ms(4000)
            assert poll.latest.mono_ms == read_ms and poll.latest.import_mwh == mwh
            assert poll.quality == letter and poll.status == letter + ": " + poll.reason
            await time.sleep_ms(4000)
            assert poll.quality == "G" and poll.latest.mono_ms > 9000
        _run(time, poll, scenario)


def test_a_refused_reading_says_why_and_is_not_shown():
    time, meter, poll = _rig(lambda now_ms: 5 if 4000 <= now_ms < 9000 else 10**9 + now_ms)
    seen = []
    poll.on_reading = lambda reading: seen.append(reading.import_mwh)

    async def scenario():
        await time.sleep_ms(8500)
        assert poll.status == "O: register stepped back"
        assert poll.latest.mono_ms < 4000
        await time.sleep_ms(3000)
        assert poll.status == "G"
    _run(time, poll, scenario)
    assert 5 not in seen and poll.counters()["refused"] >= 4


def test_the_first_reading_against_the_durable_register():
    time, meter, poll = _rig(base_mwh=2 * 10**9)

    async def scenario():
        await time.sleep_ms(5000)
        assert poll.latest is None and poll.status == "O: register stepped back"
    _run(time, poll, scenario)


def test_identity_comes_before_the_first_reading_and_is_tried_for_ever():
    time, meter, poll = _rig()
    meter.faults = [(0, 300000, MeterError("no reply", "T"))]

    async def scenario():
        await time.sleep_ms(299000)
        assert poll.latest is None and meter.billing_reads == 0 and meter.identity_reads > 200
        await time.sleep_ms(3000)
        assert poll.latest is not None
    _run(time, poll, scenario)


def test_the_serial_number_of_label_and_meter():
    for label, serial, shown, source, status in (
        (None, "21034567", "21034567", "meter", "G"), ("A-1", None, "A-1", "label", "G"),
        (None, None, "", "label", "G"), ("0021034567", "21034567", "21034567", "meter", "G"),
        ("7", "8", "7", "label", "X: serial number is 8, configured is 7"),
    ):
        time, meter, poll = _rig(label=label, serial=serial)

        async def scenario(time=time):
            await time.sleep_ms(3000)
        _run(time, poll, scenario)
        assert (poll.serial, poll.serial_source) == (shown, source), (label, serial)
        assert poll.status == status and (poll.latest is not None) == (status == "G")


def test_an_exchanged_meter_is_marked_and_then_believed_with_an_event():
    time, meter, poll = _rig(lambda now_ms: 10**9 + now_ms if now_ms < 5000 else 7000 + now_ms)
    meter.faults = [(5000, 9500, MeterError("no reply", "T"))]
    events = []
    poll.on_event = lambda name, fields: events.append((name, fields))

    async def scenario():
        await time.sleep_ms(8000)
        meter.serial = "99"
        await time.sleep_ms(8000)
        assert poll.status == "X: meter exchanged" and poll.latest.mono_ms < 6000
        mwh, letter, _ = await poll.edge_reading()
        assert mwh is None and letter == "X"
        await time.sleep_ms(8000)
        assert poll.status == "G" and poll.serial == "99"
    _run(time, poll, scenario)
    assert len(events) == 1 and events[0][0] == "meter_rebase"
    fields = events[0][1]
    assert fields["old_serial"] == "21034567" and fields["diff_mwh"] is None
    assert fields["old_mwh"] > 10**9 and fields["new_mwh"] < 10**6


def test_identity_is_looked_at_again_every_minute():
    time, meter, poll = _rig()

    async def scenario():
        await time.sleep_ms(185000)
    _run(time, poll, scenario)
    assert meter.identity_reads == 4


def test_a_rebase_without_exchange_has_no_serial_numbers():
    time, meter, poll = _rig(lambda now_ms: 10**9 if now_ms < 5000 else 5)
    events = []
    poll.on_event = lambda name, fields: events.append(fields)

    async def scenario():
        await time.sleep_ms(20000)
        assert poll.status == "G" and poll.latest.import_mwh == 5
    _run(time, poll, scenario)
    assert len(events) == 1 and "old_serial" not in events[0]


def test_an_edge_reading_is_two_replies_and_the_second_counts():
    time, meter, poll = _rig()

    async def scenario():
        await time.sleep_ms(3050)  # in the middle of a regular poll
        asked_ms = time.mono_ms()
        mwh, letter, read_ms = await poll.edge_reading()
        assert letter == "G" and meter.energy_reads == 2
        assert mwh == 10**9 + read_ms and asked_ms + 600 <= read_ms <= asked_ms + 900
        before = meter.billing_reads
        await time.sleep_ms(2000)
        assert meter.billing_reads > before, "the regular poll goes on"
    _run(time, poll, scenario)


def test_an_edge_reading_that_is_not_believed_is_none():
    for name, line, fault, letter in (
        ("silent", None, MeterError("no reply", "T"), "T"),
        ("damaged", None, MeterError("x"), "F"),
        ("no number", None, "F", "F"), ("back", lambda now_ms: 10**9 - now_ms, None, "O"),
        ("over", lambda now_ms: 10**9 + now_ms * 100, None, "O"),
    ):
        time, meter, poll = _rig(lambda now_ms, line=line:
                                 line(now_ms) if line and now_ms > 5000 else 10**9)
        meter.faults = [(5000, 10**9, fault)] if fault else []

        async def scenario(time=time, poll=poll, letter=letter, name=name):
            await time.sleep_ms(5500)
            asked_ms = time.mono_ms()
            mwh, found, at_ms = await poll.edge_reading()
            assert mwh is None and found == letter, (name, mwh, found)
            assert 2000 <= at_ms - asked_ms <= 2600, (name, at_ms - asked_ms)
        _run(time, poll, scenario)


def test_an_edge_reading_recovers_within_its_deadline():
    time, meter, poll = _rig()
    meter.faults = [(3000, 4000, MeterError("no reply", "T"))]

    async def scenario():
        await time.sleep_ms(3100)
        mwh, letter, read_ms = await poll.edge_reading()
        assert letter == "G" and mwh == 10**9 + read_ms
    _run(time, poll, scenario)


def test_an_edge_reading_is_two_replies_in_a_row():
    time, meter, poll = _rig()
    meter.faults = [(3500, 3700, "F")]

    async def scenario():
        await time.sleep_ms(3250)  # just after a regular poll: 3450 good, 3650 bad, then good
        assert (await poll.edge_reading())[1] == "G"
        assert meter.energy_reads == 4
    _run(time, poll, scenario)


def test_an_edge_reading_asks_whose_register_it_is():
    for serial, code in (("99", "0020"), ("21034567", "0070")):
        time, meter, poll = _rig()

        async def scenario(time=time, meter=meter, poll=poll, serial=serial, code=code):
            await time.sleep_ms(5000)
            meter.serial, meter.code = serial, code
            mwh, letter, _ = await poll.edge_reading()
            assert mwh is None and letter == "X", (serial, code)
            await time.sleep_ms(15000)
            assert (await poll.edge_reading())[1] == "G"
            assert poll.serial == serial and poll.code == code
        _run(time, poll, scenario)


def test_an_edge_reading_before_the_first_poll_knows_the_meter_first():
    time, meter, poll = _rig()

    async def scenario():
        mwh, letter, _ = await poll.edge_reading()
        assert letter == "G" and meter.identity_reads == 1 and poll.serial_source == "meter"
    asyncio.run(scenario())


def test_a_dead_bus_does_not_stop_the_other_tasks():
    time, meter, poll = _rig(reading_ms=0)
    meter.faults = [(0, 10**9, MeterError("UART", "D"))]
    ticks = []

    async def other():
        while True:
            ticks.append(time.mono_ms())
            await time.sleep_ms(10)

    async def scenario():
        task = asyncio.create_task(other())
        mwh, letter, _ = await poll.edge_reading()
        assert mwh is None and letter == "D"
        task.cancel()
    _run(time, poll, scenario)
    assert len(ticks) >= 150, len(ticks)


def test_many_edges_at_once_take_turns():
    time, meter, poll = _rig()

    async def scenario():
        tasks = [asyncio.create_task(poll.edge_reading(20000)) for _ in range(4)]
        for task in tasks:
            assert (await task)[1] == "G"
    _run(time, poll, scenario)


def test_a_period_shorter_than_a_reading_still_lets_edges_in():
    time, meter, poll = _rig(period_ms=200, reading_ms=300)

    async def scenario():
        await time.sleep_ms(3000)
        assert (await poll.edge_reading())[1] == "G"
    _run(time, poll, scenario)
