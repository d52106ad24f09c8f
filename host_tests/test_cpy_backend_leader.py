"""What reports are made of waits while a collector cannot keep up, and not for ever."""

import math
from types import SimpleNamespace

import pytest

from evmeter_tools.backend import leader
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.store import Store

_TICKS = 5


class _Ticks:
    """An Event that is set after so many waits."""

    def __init__(self):
        self.left = _TICKS

    def wait(self, _seconds):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(("pressed_at", "meanwhile", "longest_s", "told"), [
    (-math.inf, -math.inf, 10, [False] * 2),  # each pause is a wait too
    (-math.inf, math.inf, 1e9, [True]),
    (math.inf, math.inf, 1e9, []),
    (math.inf, math.inf, -1, [False])])
def test_reports_give_way_to_a_rush_but_not_for_ever(
        tmp_path, monkeypatch, pressed_at, meanwhile, longest_s, told):
    store = Store(tmp_path / "rush.sqlite")
    store.pressed_at = pressed_at
    made = leader.Leader(store, Address("127.0.0.1", 1))
    made._stopping, made.leads = _Ticks(), SimpleNamespace(is_set=lambda: True)
    pauses = []

    def work_up(_store, pause):
        store.pressed_at = meanwhile
        pauses.append(pause())

    monkeypatch.setattr(leader, "work_up", work_up)
    monkeypatch.setattr(leader, "_LONGEST_RUSH_S", longest_s)
    made._work_up()
    assert pauses[:len(told)] == told and bool(pauses) == bool(told)
    store.close()
