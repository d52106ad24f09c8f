"""What a session does when the journal's room runs out, on both stores."""

import pytest

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import JournalError
from evmeter_tools.faults.life import OnLittlefs, OnRing
from evmeter_tools.faults.ram_flash import RamFlash
from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, Device
from fakes.world import FakeBoard

_BLOCKS = 80


def _board(stores):
    flash = RamFlash(_BLOCKS)
    stores.format(flash)
    board = FakeBoard()
    board.store = stores.store(flash)
    return board


def _fill(device, percent):
    """Frames that nobody confirms, until less than `percent` is free."""
    while device.journal.free_percent() >= percent:
        seq = device.journal.next_seq
        device.journal.append(frames.EVT, b'{"ev": "filler", "seq": %d, "pad": "%s"}'
                              % (seq, b"x" * 1900))


def _told(device, name):
    return [message for found, message in device.each() if found == name]


def _flap(device, times):
    for _ in range(times):
        device.run(3000, PILOT_C, 7200)
        device.run(3000, PILOT_B)


@pytest.mark.parametrize("stores", [OnLittlefs(), OnRing()])
def test_below_25_percent_free_events_of_a_kind_come_once_a_minute_with_a_count(stores):
    device = Device(_board(stores))
    device.run(2000, PILOT_A)
    _flap(device, 20)
    assert len(_told(device, "charging")) == len(_told(device, "paused_by_car")) == 20
    _fill(device, 25)
    before = device.journal.next_seq
    _flap(device, 40)  # four minutes
    device.run(1000, PILOT_A)
    for name in ("charging", "paused_by_car"):
        messages = [message for message in _told(device, name) if message["seq"] >= before]
        assert 4 <= len(messages) <= 6, (name, messages)
        assert sum(message.get("n", 1) for message in messages) == 40
        times = [message["ts"] for message in messages]
        assert times == sorted(times)
    assert [name for name, _ in device.each()].count("complete") == 1
    close = _told(device, "close")[0]
    assert close["seq"] == device.journal.next_seq - 1


@pytest.mark.parametrize("stores", [OnLittlefs(), OnRing()])
def test_below_10_percent_free_the_session_is_finished_and_no_new_one_begins(stores):
    device = Device(_board(stores))
    device.run(2000, PILOT_A)
    device.run(60000, PILOT_C, 7200)
    _fill(device, 10)
    device.run(60000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    assert device.names()[-2:] == ["complete", "close"]
    assert '"TX":"E"' in _told(device, "complete")[0]["ocmf"]
    device.run(5000, PILOT_C, 7200)
    assert device.keeper.session is None
    assert {"JOURNAL_FULL", "SESSION_REFUSED"} <= set(device.alarms.codes())
    assert device.names().count("begin") == 1
    device.journal.confirm(device.journal.next_seq - 1)  # the backend is back
    device.run(15000, PILOT_C, 7200)
    assert device.keeper.session is not None
    device.run(1000, PILOT_A)
    assert device.names()[-1] == "close"
    total = 0
    for seq in range(1, device.journal.next_seq):
        try:
            total += device.journal.view(seq)[0] == frames.REC
        except JournalError:
            assert seq <= device.journal.cursor
    assert total == 4
