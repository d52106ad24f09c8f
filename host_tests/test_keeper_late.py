from fakes.keeper_device import PILOT_A, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard


def _silent(device):
    device.meter.answers = False


def _answers(device):
    device.meter.answers = True


def test_a_meter_that_answers_late_is_said_to():
    device = Device(FakeBoard())
    device.live(((1000, PILOT_A, 0, None), (5000, PILOT_C, 7200, _silent),
                 (60000, PILOT_C, 7200, _answers), (4000, PILOT_A, 0, _silent),
                 (4000, PILOT_A, 0, _answers)))
    by_name = dict(device.each())
    # the begin was refused until there was a reading, and is dated to it
    assert 6000 <= by_name["begin"]["begin_ms"] - START_UNIX_MS <= 17000
    assert by_name["begin"]["out_mwh"] > 0
    assert 3500 <= by_name["close"]["late_ms"] <= 5500
    assert device.balance() == device.meter.register_mwh // 1000 * 1000 - 1_000_000


def test_a_prompt_one_is_not():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(5000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    by_name = dict(device.each())
    assert "late_ms" not in by_name["open"] and by_name["close"]["late_ms"] == 0
