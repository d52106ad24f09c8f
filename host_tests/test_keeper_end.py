from fakes.keeper_device import PILOT_A, PILOT_C, Device
from fakes.world import FakeBoard


def _reading(text, tx):
    """The last reading with that TX in a record's text."""
    at = text.rindex('"TX":"%s"' % tx)
    return text[text.rindex("{", 0, at):text.index("}", at)]


def test_an_end_that_the_meter_does_not_tell_is_not_taken_from_the_next_car():
    for letter, expected in (("T", "T"), ("D", "D"), ("F", "F"), ("X", "X"), ("O", "O")):
        device = Device(FakeBoard())
        device.meter.letter = letter
        device.run(1000, PILOT_A)
        device.run(60000, PILOT_C, 7200)
        told_mwh = device.keeper.register_mwh()
        device.meter.answers = False
        device.run(10000, PILOT_C, 7200)
        device.run(30000, PILOT_A)
        assert device.names().count("close") == 0  # it waits
        device.run(60000, PILOT_C, 7200)
        by_name = dict(device.each())
        assert by_name["close"]["bill"] == 0 and by_name["close"]["st"] == expected
        end = _reading(by_name["complete"]["ocmf"], "E")
        assert '"ST":"%s"' % expected in end and '"EF":"E"' in end
        assert told_mwh - 2000 <= by_name["close"]["end_mwh"] <= told_mwh
        # the energy that nobody read belongs to no session, and none is lost
        device.meter.answers = True
        device.run(20000, PILOT_C, 7200)
        device.run(1000, PILOT_A)
        assert device.names().count("complete") == 2
        assert device.balance() == device.keeper.journal.mark_mwh - 1_000_000


def test_a_meter_that_comes_back_with_the_next_cars_energy_is_not_billed_to_the_first():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(60000, PILOT_C, 7200)
    device.meter.answers = False
    device.run(2000, PILOT_A)
    device.run(5000, PILOT_C, 7200)

    async def one_more(deadline_ms=2000):  # the first reply comes when a car has been there
        device.meter.answers = True
        return device.meter.register_mwh, "G", device.clock.mono_ms() + 6000

    device.meter.edge_reading, edge_reading = one_more, device.meter.edge_reading
    device.run(2000, PILOT_C, 7200)
    device.meter.edge_reading = edge_reading
    by_name = dict(device.each())
    assert by_name["close"]["bill"] == 0 and by_name["close"]["st"] == "S"
    assert '"ST":"S"' in _reading(by_name["complete"]["ocmf"], "E")


def test_a_meter_that_comes_back_while_nobody_else_was_there_tells_the_end():
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)
    device.run(60000, PILOT_C, 7200)
    device.meter.answers = False
    device.run(60000, PILOT_C, 7200)
    device.run(60000, PILOT_A)
    device.meter.answers = True
    device.run(5000, PILOT_A)
    by_name = dict(device.each())
    assert by_name["close"]["bill"] == 1 and by_name["close"]["late_ms"] > 50000
    assert '"ST":"G"' in _reading(by_name["complete"]["ocmf"], "E")
