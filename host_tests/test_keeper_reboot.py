from evmeter.session import machine
from fakes.keeper_device import PILOT_A, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard


def test_a_power_cut_in_mid_charge_is_resumed_with_the_gap_declared():
    board = FakeBoard()
    device = Device(board)
    device.run(1000, PILOT_A)
    device.run(90000, PILOT_C, 7200)  # the checkpoint is 30 s old at the cut
    register_mwh = device.meter.register_mwh
    board.cut_power()
    again = Device(board, START_UNIX_MS + 91000 + 20000, register_mwh + 40_000)
    again.run(30000, PILOT_C, 7200)
    again.run(1000, PILOT_A)
    by_name = dict(again.each())
    resume = by_name["resume"]
    assert resume["gap_mwh"] > 40_000
    close = by_name["close"]
    assert close["gap_mwh"] == resume["gap_mwh"]
    assert '"ZG":%d' % close["gap_mwh"] in by_name["complete"]["ocmf"]
    assert close["energy_mwh"] == close["end_mwh"] - by_name["begin"]["begin_mwh"]
    assert close["sid"] == "demo-0001-000001"
    assert close["dur_pm_s"] == 3 and abs(close["dur_s"] - 140) <= close["dur_pm_s"]
    assert again.balance() == (again.meter.register_mwh - 1_000_000) // 1000 * 1000
    assert again.names().count("begin") == again.names().count("complete") == 1


def test_without_proof_the_session_is_closed_by_power_failure():
    for off_s, quality, pilot, cause, tx in (
        (200, "I", PILOT_C, "power-on", "P"),  # too long
        (10, "U", PILOT_C, "power-on", "P"),  # nothing proves the time
        (10, "I", PILOT_A, "power-on", "P"),  # the car is gone
        (10, "I", PILOT_C, "power-on", "E"),
        (900, "U", PILOT_C, "watchdog", "E"),
    ):
        board = FakeBoard()
        device = Device(board, quality=quality)
        device.run(1000, PILOT_A)
        device.run(60000, PILOT_C, 7200)
        register_mwh = device.meter.register_mwh
        board.cut_power()
        board.reset_cause = cause
        again = Device(board, START_UNIX_MS + 61000 + off_s * 1000, register_mwh, quality)
        again.run(3000, pilot)
        again.run(2000, PILOT_A)
        names = again.names()
        complete = dict(again.each())["complete"]["ocmf"]
        assert '"TX":"B"' in complete
        if tx == "P":
            first = next(m["ocmf"] for name, m in again.each() if name == "complete")
            assert '"TX":"P"' in first, (off_s, quality, cause)
            assert names.count("resume") == 0
        else:
            assert '"TX":"E"' in complete, (off_s, quality, cause)
            assert names.count("resume") == 1
        assert names.count("begin") == names.count("complete") == names.count("close")
        assert again.balance() == again.meter.register_mwh - 1_000_000
        pages = [m["ocmf"].split('"PG":"T')[1].split('"')[0] for name, m in again.each()
                 if name in ("begin", "complete")]
        assert pages == [str(page) for page in range(1, len(pages) + 1)]


def test_a_watchdog_reset_resumes_from_the_memory_that_it_keeps():
    board = FakeBoard()
    device = Device(board, quality="U")
    device.run(1000, PILOT_A)
    device.run(50000, PILOT_C, 7200)
    device.keeper.follow()
    board.reset_cause = "watchdog"
    again = Device(board, 0, device.meter.register_mwh, "U")
    again.run(5000, PILOT_C, 7200)
    again.run(1000, PILOT_A)
    by_name = dict(again.each())
    assert by_name["resume"]["gap_mwh"] == 0
    # nobody knows how long the reset took: it lasted so long at least
    assert by_name["close"]["dur_s"] in (53, 54, 55) and by_name["close"]["dur_pm_s"] == -1


def test_a_checkpoint_lost_is_rebuilt_from_the_begin_record():
    board = FakeBoard()
    device = Device(board)
    device.run(1000, PILOT_A)
    device.run(70000, PILOT_C, 7200)
    board.cut_power()
    board.store.small["session"] = b"damaged"
    again = Device(board, START_UNIX_MS + 75000, device.meter.register_mwh)
    again.run(2000, PILOT_C)
    again.run(1000, PILOT_A)
    close = dict(again.each())["close"]
    assert close["begin_mwh"] == dict(again.each())["begin"]["begin_mwh"]
    assert close["gap_mwh"] == close["energy_mwh"]  # nothing of it is proven to be charged on
    assert abs(close["dur_s"] - 76) <= close["dur_pm_s"] == 3
    assert machine.CLOSE in again.names()


def test_a_clock_that_was_set_in_the_session_is_told_in_its_record_after_reboots_too():
    for steps, cause, marked in (((), "power-on", False), ((1,), "power-on", True),
                                 ((1,), "watchdog", True), ((2,), "power-on", True)):
        board = FakeBoard()
        device = Device(board)
        device.run(1000, PILOT_A)
        device.clock.steps = 1 if 2 in steps else 0  # before the session: no matter
        device.run(5000, PILOT_C, 7200)
        if steps:
            device.clock.steps += 1
        device.run(1000)  # long before the next checkpoint is due
        register_mwh = device.meter.register_mwh
        if cause == "power-on":
            board.cut_power()
        board.reset_cause = cause
        again = Device(board, START_UNIX_MS + 12000, register_mwh)
        again.run(3000, PILOT_C, 7200)
        again.run(2000, PILOT_A)
        assert again.names().count("resume") == 1
        record = dict(again.each())["complete"]["ocmf"]
        assert record.count('"EF":"t"') == marked, (steps, cause, record)
