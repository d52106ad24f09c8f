from fakes.keeper_device import PILOT_A, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard


def test_another_meter_between_sessions_is_declared_and_no_energy():
    for new_mwh in (3_000, 900_000_000):
        board = FakeBoard()
        device = Device(board)
        device.run(1000, PILOT_A)
        device.run(60000, PILOT_C, 7200)
        device.run(1000, PILOT_A)
        old_mwh = device.meter.register_mwh
        again = Device(board, START_UNIX_MS + 90000, new_mwh, serial="999")
        again.run(1000, PILOT_A)
        again.run(60000, PILOT_C, 7200)
        again.run(1000, PILOT_A)
        rebase = [m for name, m in again.each() if name == "meter_rebase"][0]
        assert (rebase["old_mwh"], rebase["jump_mwh"]) == (old_mwh, new_mwh - old_mwh)
        assert again.balance() + rebase["jump_mwh"] == again.meter.register_mwh - 1_000_000
        assert [m["bill"] for name, m in again.each() if name == "close"] == [1, 1]
        third = Device(board, START_UNIX_MS + 190000, again.meter.register_mwh, serial="999")
        third.run(1000, PILOT_A)
        assert third.names().count("meter_rebase") == 1
