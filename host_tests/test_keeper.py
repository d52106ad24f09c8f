from evmeter.ledger import journal as frames
from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard


def _plain_session(device):
    device.run(2000, PILOT_A)
    device.run(3000, PILOT_B)
    device.run(60000, PILOT_C, 7200)
    device.run(7000, PILOT_B)
    device.run(2000, PILOT_A)


def test_a_plain_session_makes_two_records_and_its_events():
    device = Device(FakeBoard())
    _plain_session(device)
    assert device.names() == ["boot", "begin", "open", "waiting_for_car", "charging",
                              "paused_by_car", "finished_estimated", "complete", "close"]
    by_name = dict(device.each())
    close = by_name["close"]
    assert close["energy_mwh"] == 120_000
    assert close["gap_mwh"] == 0
    assert close["bill"] == 1
    assert close["sid"] == "demo-0001-000001"
    # both ends are dated back to the first window that showed the change
    assert abs(by_name["begin"]["begin_ms"] - START_UNIX_MS - 2050) <= 50
    assert '"TX":"E"' in by_name["complete"]["ocmf"]
    assert device.keeper.session is None
    assert device.journal.open_seq == 0
    assert device.balance() == device.meter.register_mwh - 1_000_000


def test_below_100_register_steps_a_session_is_not_billable():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(49000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    close = dict(device.each())["close"]
    assert 90_000 < close["energy_mwh"] < 100_000
    assert close["bill"] == 0


def test_a_session_that_must_be_refused_raises_an_alarm_and_its_energy_is_declared():
    for what, code in (("key", "KEY_MISSING"), ("meter", "METER_LOST"), ("room", "JOURNAL_FULL")):
        board = FakeBoard()
        permits = []
        board.permit = permits.append
        device = Device(board, signer=what != "key")
        device.run(2000, PILOT_A)
        if what == "meter":
            device.meter.answers = False
        if what == "room":
            board.store.capacity = 60
            for _ in range(40):
                device.journal.append(frames.EVT, b'{"ev": "filler", "seq": %d}' % (
                    device.journal.next_seq) + b" " * 200)
            board.store.capacity = 44
        device.run(3000, PILOT_B)
        device.run(10000, PILOT_C, 7200)
        assert device.keeper.session is None
        assert code in device.alarms.codes(), (what, device.alarms.codes())
        assert "SESSION_REFUSED" in device.alarms.codes()
        assert permits[-1] is False
        assert "begin" not in device.names()
        device.run(2000, PILOT_A)
        assert "SESSION_REFUSED" not in device.alarms.codes()
        if what == "meter":
            device.meter.answers = True
            device.run(1000, PILOT_A)
            _plain_session(device)
            assert device.balance() == device.meter.register_mwh - 1_000_000


def test_a_meter_that_comes_back_lets_the_session_open_late():
    device = Device(FakeBoard())
    device.run(2000, PILOT_A)
    device.meter.answers = False
    device.run(5000, PILOT_C, 7200)
    device.meter.answers = True
    device.run(30000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    assert dict(device.each())["begin"]["out_mwh"] > 0
    assert device.balance() == (device.meter.register_mwh - 1_000_000) // 1000 * 1000


def test_the_end_reading_is_waited_for_and_never_invented():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(60000, PILOT_C, 7200)
    device.meter.answers = False
    device.run(20000, PILOT_A)
    assert "complete" not in device.names()
    assert device.keeper.session is not None
    device.meter.answers = True
    device.run(2000, PILOT_A)
    assert dict(device.each())["close"]["end_mwh"] == 1_000_000 + 120_000


def _rebase(device, new_mwh, diff_mwh=None, cause="register stepped back"):
    device.keeper.meter_event("meter_rebase", {
        "old_mwh": device.meter.register_mwh, "new_mwh": new_mwh, "modulus_mwh": 0,
        "diff_mwh": diff_mwh, "cause": cause})
    device.meter.register_mwh = new_mwh


def test_a_register_that_goes_on_from_elsewhere_is_declared_and_spoils_only_its_session():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(3000, PILOT_A, 3600)
    _rebase(device, 500_000)
    device.run(1000, PILOT_A)
    device.run(30000, PILOT_C, 7200)
    _rebase(device, 9_000_000)
    device.run(30000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    _plain_session(device)
    messages = device.messages()
    jumps = sum(m["jump_mwh"] for name, m in messages if name == "meter_rebase")
    assert device.balance() + jumps == device.meter.register_mwh - 1_000_000
    closes = [m for name, m in messages if name == "close"]
    assert [close["bill"] for close in closes] == [0, 1]
    assert closes[0]["energy_mwh"] == closes[0]["end_mwh"] - closes[0]["begin_mwh"] - (
        messages_jump(messages, closes[0]["sid"]))
    completes = [m["ocmf"] for name, m in messages if name == "complete"]
    assert '"ST":"O"' in completes[0]
    assert '"ST":"O"' not in completes[1]


def messages_jump(messages, sid):
    return sum(m["jump_mwh"] for name, m in messages
               if name == "meter_rebase" and m["sid"] == sid)
