from fakes.keeper_device import PILOT_A, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard


def test_another_meter_after_the_reboot_closes_the_session():
    board = FakeBoard()
    device = Device(board)
    device.run(1000, PILOT_A)
    device.run(20000, PILOT_C, 7200)
    again = Device(board, START_UNIX_MS + 25000, device.meter.register_mwh, serial="999")
    again.run(2000, PILOT_C)
    by_name = dict(again.each())
    assert by_name["power_fail"]["why"] == "meter exchanged"
    assert by_name["close"]["bill"] == 0
    assert '"ST":"X"' in by_name["complete"]["ocmf"]
