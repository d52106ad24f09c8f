"""The host board's pulse input: edges from a file, in time and none twice."""

import gc
import os
import struct
import time

from board import Board
from drivers.pulse_meter import PulseMeter
from fakes.memory_store import MemoryNvs
from fakes.pulses import RtcMemory

_FOLDER = "build/test-host-pulses"


def _board():
    for path in ("build", _FOLDER):
        try:
            os.mkdir(path)
        except OSError:
            continue
    for entry in os.listdir(_FOLDER):
        os.remove(_FOLDER + "/" + entry)
    return Board(_FOLDER)


def _write(edges, now_ms):
    """Append edges, (ms from now, level)."""
    with open(_FOLDER + "/pulses.bin", "ab") as file:
        for ahead_ms, level in edges:
            file.write(struct.pack("<I", ((now_ms + ahead_ms) & 0x1FFFFFFF) << 1 | level))


def _pulse(ago_ms, low_ms=30):
    return (-ago_ms, 0), (low_ms - ago_ms, 1)


def _wait(pulses, number):
    """Wait up to 5 s until `pulses` has counted `number`; returns what it has."""
    begun = time.ticks_ms()
    while pulses.value() < number and time.ticks_diff(time.ticks_ms(), begun) < 5000:
        time.sleep_ms(1)
    return pulses.value()


def test_pulses_count_once_and_noise_does_not():
    pulses = _board().pulse_input()
    assert pulses.value() == 0
    time.sleep_ms(20)  # the contact was open for long enough
    now_ms = time.ticks_ms()
    edges = _pulse(0) + _pulse(-60) + ((120, 0), (130, 1)) + ((150, 0), (170, 1), (173, 0),
                                                            (193, 1))
    _write(edges, now_ms)
    assert _wait(pulses, 3) == 3
    time.sleep_ms(60)
    assert pulses.value() == 3
    assert pulses.rejected == 2
    assert not pulses.missed


def test_an_edge_counts_when_its_time_has_come():
    pulses = _board().pulse_input()
    now_ms = time.ticks_ms()
    _write(_pulse(-900), now_ms)
    while pulses.value() == 0:
        assert time.ticks_diff(time.ticks_ms(), now_ms) < 5000
    assert time.ticks_diff(time.ticks_ms(), now_ms) >= 915


def test_the_time_of_an_edge_is_its_own_not_that_of_the_look():
    pulses = _board().pulse_input()
    time.sleep_ms(20)
    now_ms = time.ticks_ms()
    _write(((5, 0), (10, 1), (30, 0), (60, 1)), now_ms)
    time.sleep_ms(100)
    assert pulses.value() == 1
    assert pulses.age_ms() >= 70


def test_a_board_that_was_off_has_seen_nothing_but_the_level():
    board = _board()
    now_ms = time.ticks_ms()
    old = []
    for index in range(100):
        old += _pulse(10000 - 60 * index)
    _write(old + [(-500, 0)], now_ms)
    pulses = board.pulse_input()
    assert pulses.value() == 0
    assert pulses.rejected == 0
    _write(((0, 1),), time.ticks_ms())  # the pulse had begun before
    pulses.value()
    time.sleep_ms(20)
    _write(_pulse(0), time.ticks_ms())
    assert _wait(pulses, 1) == 1


def test_too_many_edges_at_once_are_a_gap():
    pulses = _board().pulse_input()
    time.sleep_ms(5)
    now_ms = time.ticks_ms()
    _write([(index - 220, index & 1) for index in range(200)], now_ms)
    pulses.value()
    assert pulses.missed
    assert pulses.rejected >= 136


def test_a_look_takes_no_memory():
    pulses = _board().pulse_input()
    time.sleep_ms(20)
    _write(_pulse(0) + _pulse(-60), time.ticks_ms())
    pulses.value()
    gc.collect()
    before = gc.mem_alloc()
    begun = time.ticks_ms()
    while time.ticks_diff(time.ticks_ms(), begun) < 150:
        pulses.value()
        pulses.age_ms()
    assert gc.mem_alloc() == before
    assert pulses.value() == 2


class _Clock:
    def mono_ms(self):
        return time.ticks_ms()


def test_a_pulse_meter_on_the_board_and_its_part_of_rtc_memory():
    board = _board()
    store = MemoryNvs()
    meter = PulseMeter(board.pulse_input(), store, 1000, _Clock(), "4711", board.rtc_pulses)
    time.sleep_ms(20)
    board.rtc_memory(b"the session")
    _write(_pulse(0) + _pulse(-60) + _pulse(-120), time.ticks_ms())
    begun = time.ticks_ms()
    while meter.count < 3 and time.ticks_diff(time.ticks_ms(), begun) < 5000:
        meter.step()
        time.sleep_ms(5)
    assert meter.count == 3
    with open(_FOLDER + "/reset", "w") as file:
        file.write("watchdog")
    board = Board(_FOLDER)
    again = PulseMeter(board.pulse_input(), store, 1000, _Clock(), "4711", board.rtc_pulses)
    assert (again.count, again.gap, board.rtc_memory()) == (3, "", b"the session")
    with open(_FOLDER + "/reset", "w") as file:
        file.write("power-on")
    board = Board(_FOLDER)
    lost = PulseMeter(board.pulse_input(), store, 1000, _Clock(), "4711", board.rtc_pulses)
    assert (lost.gap, board.rtc_memory()) == ("pulse gap", b"")


def test_the_fake_and_the_part_have_one_face():
    for rtc in (RtcMemory(), _board().rtc_pulses):
        assert rtc() == b""
        assert rtc(b"x") is None
        assert rtc() == b"x"
