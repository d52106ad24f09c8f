from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard

_USER = {"IL": "HEARSAY", "IT": "ISO14443", "ID": "1F2D3A4F5506C7", "IF": ["RFID_PLAIN"]}
_IN_RECORD = '"IS":true,"IL":"HEARSAY","IF":["RFID_PLAIN"],"IT":"ISO14443","ID":"1F2D3A4F5506C7"'


def _order(device, name, given, after_ms=1000):
    """Give an order while time passes."""
    said = []

    async def give():
        try:
            await device.keeper.order(name, given)
        except ValueError as error:
            said.append(str(error))

    error = device.live(((after_ms, None, 0, lambda device: device.also(give())),))
    if error:
        raise error
    return said


def test_who_charges_stands_in_both_records():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    assert _order(device, "user", _USER) == []
    device.run(20000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    by_name = dict(device.each())
    assert _IN_RECORD in by_name["begin"]["ocmf"] and _IN_RECORD in by_name["complete"]["ocmf"]
    # the next one is not his
    device.run(20000, PILOT_C, 7200)
    device.run(1000, PILOT_A)
    assert '"IS":false' in dict(device.each())["complete"]["ocmf"]


def test_who_is_known_too_long_before_is_nobody():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    _order(device, "user", _USER)
    device.run(301000)
    device.run(2000, PILOT_C)
    assert '"IS":false' in dict(device.each())["begin"]["ocmf"]


def test_orders_outlive_a_power_cut():
    board = FakeBoard()
    device = Device(board)
    device.run(1000, PILOT_A)
    device.run(20000, PILOT_C, 7200)
    assert _order(device, "user", _USER) == []
    assert _order(device, "target", {"target_mwh": 100_000}) == []
    assert _order(device, "stop", {"by": "remote"}) == []
    register_mwh = device.meter.register_mwh
    board.cut_power()
    again = Device(board, START_UNIX_MS + 40000, register_mwh)
    again.run(20000, PILOT_C, 7200)
    assert again.keeper.session.target_mwh == 100_000
    again.run(2000, PILOT_B)
    again.run(1000, PILOT_A)
    by_name = dict(again.each())
    assert '"IS":false' in by_name["begin"]["ocmf"] and _IN_RECORD in by_name["complete"]["ocmf"]
    assert '"TX":"R"' in by_name["complete"]["ocmf"]


def test_a_target_is_told_when_it_is_reached():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(10000, PILOT_C, 7200)
    assert _order(device, "target", {"target_mwh": 30_000}) == []
    device.run(10000, PILOT_C, 7200)
    assert device.names().count("target_reached") == 1
    assert dict(device.each())["target_reached"]["e_mwh"] >= 30_000


def test_an_order_without_a_session_is_refused():
    device = Device(FakeBoard())
    device.run(2000, PILOT_A)
    for name, given in (("target", {"target_mwh": 5}), ("stop", {"by": "local"})):
        said = _order(device, name, given)
        assert said == ["%s: no session is open" % name]
    assert device.names() == ["boot"]
