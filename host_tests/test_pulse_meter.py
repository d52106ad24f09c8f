"""Pulses of an S0 output: what counts, what survives a power cut, and what power they tell."""

import asyncio

from drivers.pulse_meter import EdgeQualifier, EdgeRing, PulseMeter
from evmeter.metering.gate import Gate
from evmeter.metering.poll import MeterPoll
from evmeter.metering.reading import Reading
from fakes.memory_store import MemoryNvs, Power, PowerCut
from fakes.pulses import PERIOD, Contact, Counter, FailingNvs, RtcMemory, TearingNvs, Ticks
from support import raises


class _Rig:
    """A contact on a ring on a meter."""

    def __init__(self, imp=1000, store=None, rtc=None, start_ms=0, min_ms=15):
        self.ticks = Ticks(start_ms)
        self.contact = Contact(self.ticks)
        self.ring = EdgeRing(self.contact, min_ms, self.ticks)
        self.contact.isr = self.ring.isr
        self.store = store or MemoryNvs()
        self.meter = PulseMeter(self.ring, self.store, imp, self.ticks, "4711", rtc)
        self.contact.wait(100)

    def pulses(self, number, high_ms=970, **how):
        for _ in range(number):
            self.contact.pulse(high_ms=high_ms, **how)
            self.meter.step()


def _read(meter, energy_only=False):
    reading = Reading(meter.phases)
    asyncio.run(meter.read_billing(reading, energy_only))
    return reading


# (what, edges as (level, ms until the next), pulses)
_CONTACTS = (
    ("clean", ((1, 100), (0, 30), (1, 30)), 1),
    ("two at the standard's limit", ((1, 100), (0, 30), (1, 30), (0, 30), (1, 30)), 2),
    ("just wide enough", ((1, 15), (0, 15), (1, 15), (0, 15), (1, 15)), 2),
    ("LOW too short", ((1, 100), (0, 14), (1, 100)), 0),
    ("HIGH too short before", ((1, 14), (0, 100), (1, 100)), 0),
    ("HIGH too short between: one pulse, doubled",
     ((1, 100), (0, 50), (1, 14), (0, 50), (1, 50)), 1),
    ("bounce of the closing contact", ((1, 100), (0, 1), (1, 1), (0, 2), (1, 1), (0, 30), (1, 30)),
     1),
    ("bounce of the opening contact", ((1, 100), (0, 30), (1, 1), (0, 1), (1, 2), (0, 1), (1, 30)),
     1),
    ("break in the middle of a pulse", ((1, 100), (0, 20), (1, 3), (0, 20), (1, 100)), 1),
    ("noise of the contactor", ((1, 100), (0, 1), (1, 9), (0, 4), (1, 12), (0, 1), (1, 100)), 0),
    ("noise for long", ((1, 100),) + ((0, 3), (1, 3)) * 40 + ((1, 100),), 0),
    ("LOW from the start: begun before", ((0, 100), (1, 100)), 0),
    ("LOW from the start, then a pulse", ((0, 100), (1, 100), (0, 30), (1, 30)), 1),
    ("an edge that nobody saw, while LOW", ((1, 100), (0, 20), (0, 20), (1, 100)), 1),
    ("an edge that nobody saw, while HIGH", ((1, 100), (0, 10), (0, 10), (1, 100)), 0),
    ("still LOW", ((1, 100), (0, 15)), 1),
    ("LOW for hours", ((1, 100), (0, 10000000), (1, 100)), 1),
)


def _qualified(edges, start_ms):
    ticks = Ticks(start_ms)
    qualifier = EdgeQualifier(edges[0][0], ticks.ticks_ms(), 15, ticks)
    ticks.ms += edges[0][1]
    for level, ms in edges[1:]:
        qualifier.edge(level, ticks.ticks_ms())
        ticks.ms += ms
    qualifier.settle(ticks.ticks_ms())
    return qualifier


def test_contacts_and_the_wrap_of_the_ticks():
    for what, edges, pulses in _CONTACTS:
        for start_ms in (0, PERIOD - 1, PERIOD - 100, PERIOD - 115, PERIOD - 131, PERIOD // 2):
            found = _qualified(edges, start_ms).pulses
            assert found == pulses, (what, start_ms, found)


def test_without_widths_the_same_contacts_are_miscounted():
    wrong = 0
    for what, edges, pulses in _CONTACTS:
        falling = len([1 for at in range(1, len(edges)) if edges[at][0] == 0])
        wrong += falling != pulses
    assert wrong >= 8


def test_bouncing_pulses_at_the_highest_rate():
    for bounces in range(5):
        rig = _Rig()
        rig.pulses(300, high_ms=30, bounces=bounces)
        assert rig.meter.count == 300, bounces
        assert rig.contact.edges == 600 * (2 * bounces + 1)
        assert not rig.meter.gap
        assert (rig.ring.rejected > 0) == (bounces > 0)


def test_counting_edges_alone_counts_the_bounce():
    rig = _Rig(min_ms=0)
    rig.pulses(50, bounces=2)
    assert rig.meter.count == 250


def test_pulses_below_the_standard_are_lost_and_said_to_be_short():
    rig = _Rig()
    for width_ms in (1, 5, 14):
        rig.pulses(10, low_ms=width_ms)
    assert rig.meter.count == 0
    assert _read(rig.meter).import_mwh == 0
    assert rig.meter.damaged == 30


def test_counted_once_however_often_it_is_looked_at():
    rig = _Rig()
    rig.contact.after_each = rig.meter.step
    for _ in range(100):
        rig.contact.to(0, 1)
        for _ in range(10):
            rig.contact.wait(4)
        rig.contact.to(1, 2)
        for _ in range(10):
            rig.contact.wait(3)
    assert rig.meter.count == 100


def test_an_edge_between_the_time_and_the_ring_does_not_lengthen_a_level():
    rig = _Rig()
    rig.contact.to(0)
    rig.contact.wait(14)
    now_ms = rig.ticks.ticks_ms()
    rig.ring._ticks_ms = lambda: now_ms  # the time was taken,
    rig.ticks.ms += 1
    rig.ring._edges[1] = rig.ticks.ticks_ms()  # then came the edge
    rig.ring._head = 2
    assert rig.ring.value() == 1
    rig = _Rig()
    rig.contact.to(0)
    rig.contact.wait(13)
    rig.contact.to(1)
    rig.ring._ticks_ms = lambda: rig.ticks.ticks_ms() - 5
    assert rig.ring.value() == 0


def test_a_stalled_loop_keeps_what_the_ring_can_hold():
    rig = _Rig()
    for _ in range(31):
        rig.contact.pulse()
    assert rig.meter.count == 0
    rig.meter.step()
    assert rig.meter.count == 31
    assert not rig.meter.gap


def test_a_full_ring_is_said_and_invents_nothing():
    rig = _Rig()
    for _ in range(40):
        rig.contact.pulse(bounces=1)
    assert _read(rig.meter).reason == "pulse gap"
    count = rig.meter.count
    assert 0 < count <= 40
    rig.meter.gap = ""
    rig.contact.wait(1000)
    rig.pulses(5)
    assert rig.meter.count == count + 5
    assert _read(rig.meter).reason == ""


# imp/kWh, step in mWh
_CONSTANTS = ((1000, 1000), (800, 1250), (2000, 500), (10000, 100), (500, 2000), (400, 2500),
              (1, 1000000), (100, 10000), (100000, 10), (3000, 1000), (6400, 1000), (300, 10000),
              (375, 10000), (3, 1000000), (7, 1000000), (99999, 100))


def test_energy_is_exact_for_every_constant():
    for imp, step_mwh in _CONSTANTS:
        meter = PulseMeter(Counter(), MemoryNvs(), imp, Ticks())
        assert meter.step_mwh == step_mwh, imp
        for count in (0, 1, 2, 3, imp - 1, imp, imp + 1, 2**24 + 1, 2**31 + 7, imp * 10**7 + 1):
            meter.count = count
            mwh = _read(meter).import_mwh
            if 1000000 % imp == 0:
                assert mwh == count * step_mwh, (imp, count)
            # never more than was counted, less by under 1 mWh: nothing adds up
            assert 0 <= count * 1000000 - mwh * imp < imp, (imp, count)


def test_a_constant_that_cannot_be_is_refused():
    for imp in (0, -1, 100001):
        error = raises(ValueError, PulseMeter, Counter(), MemoryNvs(), imp, Ticks())
        assert str(error) == "imp_per_kwh is %d; allowed: 1 to 100000" % imp


def _life(meter_of, store, power, pulses):
    """Count until the power goes; returns (counted, what a reading for an edge has told)."""
    counter = Counter()
    ticks = Ticks()
    meter = told = None
    try:
        meter = meter_of(counter, store, ticks)
        told = meter.count
        for number in range(pulses):
            counter.count += 1
            ticks.ms += 700
            meter.step()
            if number % 37 == 36:
                told = _read(meter, True).import_mwh // 1000
    except PowerCut:
        power.restore()
    return (meter.count if meter else None), told


def test_a_cut_at_every_store_operation_loses_no_told_pulse():
    whole = Power()
    assert _life(_meter, MemoryNvs(whole), whole, 200) == (200, 185)
    assert whole.operations == 11
    for kind in (MemoryNvs, TearingNvs):
        for cut in range(1, whole.operations):
            power = Power()
            store = kind(power)
            power.left = cut
            counted, told = _life(_meter, store, power, 200)
            assert counted is not None and counted < 200, cut
            again = PulseMeter(Counter(), store, 1000, Ticks())
            # 20 pulses of 700 ms after a commit there is the next
            assert counted - 20 <= again.count <= counted, (cut, counted, again.count)
            assert again.count >= told, (cut, told, again.count)
            assert again.gap == "pulse gap"
            # and the life after that goes on from there
            counted = again.count
            third = _life(_meter, store, power, 40)[0]
            assert third == counted + 40


def _meter(counter, store, ticks):
    return PulseMeter(counter, store, 1000, ticks)


def test_a_cut_at_the_very_first_write():
    for kind in (MemoryNvs, TearingNvs):
        power = Power()
        store = kind(power)
        power.left = 0
        assert _life(_meter, store, power, 5) == (None, None)
        meter = PulseMeter(Counter(), store, 1000, Ticks())
        assert meter.count == 0
        assert meter.gap == ("" if kind is MemoryNvs else "pulse gap")


def test_the_first_boot_has_no_gap_the_next_one_has():
    store = MemoryNvs()
    assert PulseMeter(Counter(), store, 1000, Ticks()).gap == ""
    meter = PulseMeter(Counter(), store, 1000, Ticks())
    assert meter.gap == "pulse gap"
    assert _read(meter).reason == "pulse gap"
    assert _read(meter).quality == "G"


def _record_with(store, key, change):
    body = bytearray(20)
    store.get_blob(key, body)
    change(body)
    store.set_blob(key, body)


def test_a_damaged_record_gives_way_to_the_one_before():
    def flip(body):
        body[4] ^= 1

    for keys, count in ((("pulse0",), 6), (("pulse1",), 5), (("pulse0", "pulse1"), 0)):
        store = MemoryNvs()
        meter = PulseMeter(Counter(), store, 1000, Ticks())  # the first record, in pulse0
        for value in (4, 5, 6):
            meter.count = value
            meter.commit()
        for key in keys:
            _record_with(store, key, flip)
        meter = PulseMeter(Counter(), store, 1000, Ticks())
        assert meter.count == count, keys
        assert meter.gap == "pulse gap"
        store.set_blob("pulse0", b"")
        store.set_blob("pulse1", b"\x00" * 30 if count else b"")
        if not count:
            assert PulseMeter(Counter(), store, 1000, Ticks()).count == 0


def test_memory_that_survived_makes_a_clean_boot():
    rtc = RtcMemory()
    store = MemoryNvs()
    rig = _Rig(store=store, rtc=rtc)
    rig.pulses(7)
    meter = PulseMeter(Counter(), store, 1000, Ticks(), rtc=rtc)
    assert (meter.count, meter.gap) == (7, "")
    assert PulseMeter(Counter(), store, 1000, Ticks()).count == 7  # it was committed at once
    rtc.data = b""
    assert PulseMeter(Counter(), store, 1000, Ticks(), rtc=rtc).gap == "pulse gap"
    for at in range(20):
        rig = _Rig(store=MemoryNvs(), rtc=rtc)
        rig.pulses(3)
        damaged = bytearray(rtc.data)
        damaged[at] ^= 4
        rtc.data = bytes(damaged)
        meter = PulseMeter(Counter(), rig.store, 1000, Ticks(), rtc=rtc)
        assert (meter.count, meter.gap) == (0, "pulse gap"), at


def test_a_cut_right_after_a_soft_reset_finds_a_whole_record():
    for cut in range(4):
        power = Power()
        store = TearingNvs(power)
        rtc = RtcMemory()
        rig = _Rig(store=store, rtc=rtc)
        rig.pulses(2)
        rig.meter.commit()
        rig.pulses(3)
        power.left = cut
        try:
            PulseMeter(Counter(), store, 1000, Ticks(), rtc=rtc)
        except PowerCut:
            assert cut == 0
        power.restore()
        meter = PulseMeter(Counter(), store, 1000, Ticks())
        assert meter.count == (2 if cut == 0 else 5), cut


def test_old_memory_does_not_take_the_count_back():
    rtc = RtcMemory()
    rig = _Rig(rtc=rtc)
    rig.pulses(3)
    old = rtc.data
    rig.meter.commit()
    rig.pulses(3)
    rig.meter.commit()
    rtc.data = old
    assert PulseMeter(Counter(), rig.store, 1000, Ticks(), rtc=rtc).count == 6


def test_another_constant_keeps_the_energy():
    store = MemoryNvs()
    meter = PulseMeter(Counter(), store, 1000, Ticks())
    meter.count = 1234
    meter.commit()
    meter = PulseMeter(Counter(), store, 800, Ticks())
    meter.at_least(1234000)
    assert meter.count == 987  # 1233.75 Wh; the next one would be 1235
    assert _read(meter).import_mwh == 1233750


def test_the_register_does_not_go_below_a_durable_one():
    for imp, _ in _CONSTANTS:
        for base_mwh in (0, 1, 999, 1000, 123456789):
            meter = PulseMeter(Counter(), MemoryNvs(), imp, Ticks())
            step_mwh = meter.step_mwh
            base_mwh = (base_mwh + step_mwh // 2) // step_mwh * step_mwh
            meter.at_least(base_mwh)
            mwh = _read(meter).import_mwh
            assert (mwh + step_mwh // 2) // step_mwh * step_mwh == base_mwh, (imp, base_mwh, mwh)
            gate = Gate(11000, step_mwh, base_mwh)
            assert gate.judge(_read(meter)), (imp, base_mwh)
            count = meter.count
            meter.at_least(base_mwh)
            meter.at_least(0)
            assert meter.count == count


def test_when_the_count_is_committed():
    power = Power()
    rig = _Rig(store=MemoryNvs(power))
    assert power.operations == 1
    rig.pulses(19, high_ms=570)
    assert power.operations == 1
    rig.pulses(1)
    assert power.operations == 2
    rig.pulses(100, high_ms=70)  # 10 s, and 20 pulses many times over
    assert power.operations == 3
    rig.contact.wait(9999)
    rig.meter.step()
    rig.pulses(1)
    written = power.operations
    for _ in range(200):
        rig.contact.wait(1000)
        rig.meter.step()
    assert power.operations == written + 1  # after 60 s without a pulse, once
    _read(rig.meter)
    _read(rig.meter, True)
    assert power.operations == written + 1
    rig.pulses(1)
    _read(rig.meter, True)
    assert power.operations == written + 2


def test_a_store_that_fails_is_tried_again():
    store = FailingNvs()
    rig = _Rig(store=store)
    store.fails = True
    rig.pulses(5)
    assert _read(rig.meter, True).import_mwh == 5000
    assert rig.meter.exceptions == 1
    store.fails = False
    _read(rig.meter, True)
    assert PulseMeter(Counter(), store, 1000, Ticks()).count == 5


# (ms after the newest pulse, power in W): pulses of 1 Wh every 2000 ms are 1800 W
_DECAY = ((0, 1800), (100, 1800), (1999, 1800), (2000, 1800), (4000, 900), (36000, 100),
          (60000, 60), (60001, 0), (200000, 0))


def test_power_decays_while_the_next_pulse_does_not_come():
    rig = _Rig()
    assert rig.meter.power_mw() is None
    rig.pulses(1, high_ms=1970)
    assert rig.meter.power_mw() is None
    rig.pulses(9, high_ms=1970)
    rig.contact.to(0)
    began_ms = rig.ticks.ms
    rig.contact.wait(30)
    rig.contact.to(1)
    rig.meter.step()
    for passed_ms, power_w in _DECAY:
        if passed_ms >= 30:
            rig.ticks.ms = began_ms + passed_ms
            assert rig.meter.power_mw() == power_w * 1000, passed_ms
    assert _DECAY[1][0] > 30


def test_power_of_a_slow_load_waits_three_intervals():
    rig = _Rig()
    rig.pulses(3, high_ms=899970)  # 4 W
    assert rig.meter.power_mw() == 4000
    rig.ticks.ms += 1800000
    assert rig.meter.power_mw() == 1333
    rig.ticks.ms += 1
    assert rig.meter.power_mw() == 0


def test_power_at_many_rates():
    for imp, period_ms, power_mw in ((1000, 327, 11009174), (10000, 60, 6000000),
                                     (800, 1000, 4500000), (400, 130, 69230769),
                                     (1000, 60, 60000000)):
        rig = _Rig(imp)
        rig.pulses(100, high_ms=period_ms - 30)
        assert rig.meter.power_mw() == power_mw, imp


def test_no_power_after_a_minute_without_any_pulse():
    rig = _Rig()
    rig.ticks.ms = 60000
    assert rig.meter.power_mw() is None
    rig.ticks.ms += 1
    assert rig.meter.power_mw() == 0


def test_a_counter_in_hardware():
    counter = Counter()
    counter.count = 17  # before this meter looked
    ticks = Ticks()
    meter = PulseMeter(counter, MemoryNvs(), 1000, ticks)
    assert meter.confidence == "high"
    for _ in range(60):  # 2.5 pulses a second: 9 kW
        ticks.ms += 200
        counter.count += 1 if ticks.ms % 400 else 0
        meter.step()
        ticks.ms += 200
        counter.count += 1 if ticks.ms % 2000 else 0
        meter.step()
    assert meter.count == counter.count - 17
    assert abs(meter.power_mw() - 16200000) < 600000
    assert _read(meter).import_mwh == meter.count * 1000
    assert (meter.damaged, meter.gap) == (0, "")


def test_the_poll_takes_it_for_a_meter():
    rig = _Rig(imp=800)
    meter = rig.meter
    assert meter.confidence == "medium"

    async def no_time(ms):
        rig.contact.wait(ms)
        await asyncio.sleep_ms(0)

    gate = Gate(11000, meter.step_mwh, 0, meter.rollover_mwh)
    poll = MeterPoll(meter, gate, rig.ticks, 1000, no_time)

    async def main():
        task = asyncio.create_task(poll.run())
        for number in range(50):
            rig.contact.pulse(high_ms=670, bounces=2)
            for _ in range(3):
                await asyncio.sleep_ms(0)
        edge = await poll.edge_reading()
        async with poll.bus_idle:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return edge

    assert asyncio.run(main())[:2] == (62500, "G")
    assert (poll.serial, poll.serial_source, poll.step_mwh) == ("4711", "label", 1250)
    assert (poll.make, poll.model, poll.status) == ("S0", "800 imp/kWh", "G")
    assert poll.latest.voltages_mv == []
    assert poll.latest.import_mwh <= 62500
    assert poll.counters()["refused"] == 0
    assert poll.counters()["mb_damaged"] == meter.damaged > 100


def test_run_counts_without_a_reader():
    rig = _Rig()

    async def main():
        task = asyncio.create_task(rig.meter.run())
        rig.contact.pulse()
        for _ in range(3):
            await asyncio.sleep_ms(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return rig.meter.count

    assert asyncio.run(main()) == 1
