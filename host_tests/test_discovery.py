import json

from evmeter.uplink.discovery import Discovery


class Meter:
    make, model = "Eastron", 'SDM"630'
    phases = 3


def test_it_is_json_that_names_every_value_once():
    for phases, count in ((1, 12), (3, 16)):
        meter = Meter()
        meter.phases = phases
        discovery = Discovery("homeassistant", "demo-0001", meter)
        found = json.loads("".join(discovery.pieces()))
        parts = found["cmps"]
        assert len(parts) == len({part["uniq_id"] for part in parts.values()}) == count
        assert len({part["name"] for part in parts.values()}) == count
        assert found["dev"]["mdl"] == 'Eastron SDM"630'
        assert parts["energy"]["stat_cla"] == "total_increasing"
        assert parts["alarm"]["p"] == parts["plug"]["p"] == "binary_sensor"
        assert discovery.topic == b"homeassistant/device/evmeter_demo-0001/config"


def test_the_longest_one_fits_the_room_it_asks_for():
    meter = Meter()
    meter.make = meter.model = "X" * 60
    discovery = Discovery("x" * 40, "a" * 20, meter)
    area = bytearray(4096)
    length = discovery.fill(memoryview(area))
    assert json.loads(area[:length]) and length < 3600
    assert discovery.room == length + len(discovery.topic) + 7
