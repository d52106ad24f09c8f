"""The contract file against what the firmware really sends: over a real mosquitto, and from the
ledger of devices in memory for what a short run does not come to."""

import asyncio
import copy
import json
import os
import re
import threading
import time
from types import SimpleNamespace

import jsonschema
import paho.mqtt.client as mqtt
import pytest

import test_cpy_keeper_room as keeper_room
import test_cpy_pass_through as meter_records
from evmeter.ledger.journal import EVT, IVL, LOG, REC
from evmeter.ledger.signer import SoftwareSigner
from evmeter.monitoring import alarms
from evmeter.system import key_change, legal, trial
from evmeter.system.clock import Clock
from evmeter_tools.bench.stand import Bench
from evmeter_tools.contract import Contract
from evmeter_tools.faults.life import OnRing
from evmeter_tools.operator import signing
from evmeter_tools.paths import BUILD, FIRMWARE, ROOT
from fakes import keeper_device
from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, START_UNIX_MS, Device
from fakes.world import FakeBoard, Idle

_STREAMS = {REC: "rec", EVT: "evt", IVL: "ivl", LOG: "log"}
_MORNING_MS = 1_790_056_800_000  # 2026-09-22 06:00 UTC
_TARIFF = {"currency": "EUR", "zone": "UTC0", "windows": [
    {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]}
_USER = {"IL": "HEARSAY", "IT": "CENTRAL", "ID": "4711", "IF": ["RFID_PLAIN"]}
# what a device sends, but not in these runs: the host is no chip, has no time servers here
_NOT_HERE = ("time servers are configured", "the board is a chip", "the network is Wi-Fi")


@pytest.fixture(scope="module")
def contract():
    return Contract()


class Seen:
    """Messages and their properties, as they came."""

    def __init__(self, contract):
        self._contract = contract
        self.properties = {}  # message -> names

    def take(self, topic, payload):
        name, value, faults = self._contract.check(topic, payload)
        assert not faults, (topic, payload, faults)
        self.properties.setdefault(name, set()).update(value if isinstance(value, dict) else ())

    def device(self, device, identity="demo-0001"):
        """Every frame in the journal of a device in memory."""
        for seq in range(1, device.journal.next_seq):
            kind, payload = device.journal.view(seq)
            self.take("evmeter/v1/%s/%s" % (identity, _STREAMS[kind]), bytes(payload))


def test_the_file_is_an_asyncapi_document(contract):
    folder = BUILD / "node" / "node_modules" / "@asyncapi" / "specs" / "schemas"
    if not folder.exists():
        pytest.skip("no Node.js on this machine")
    document = contract.document
    version = document["asyncapi"]
    schema = json.loads((folder / (version + ".json")).read_text())
    judge = jsonschema.Draft7Validator(schema)
    judge.validate(document)
    for where, value in ((("channels", "tel", "address"), 5), (("info", "title"), None),
                         (("operations", "sendTel", "action"), "emit"),
                         (("components", "messages", "tel", "payload"), 7)):
        broken = copy.deepcopy(document)
        part = broken
        for name in where[:-1]:
            part = part[name]
        part[where[-1]] = value
        assert not judge.is_valid(broken), where


def test_each_channel_has_its_messages_and_an_operation(contract):
    document = contract.document
    for name in document["channels"]:
        assert contract.messages(name), name
        qos, retain = contract.bindings(name)
        assert qos in (0, 1) and isinstance(retain, bool), name
    used = {part["$ref"].rsplit("/", 1)[-1] for channel in document["channels"].values()
            for part in channel["messages"].values()}
    assert used == set(document["components"]["messages"])
    for name in used:
        jsonschema.Draft7Validator.check_schema(contract.payload(name))


def test_each_key_is_required_or_says_when_it_is_there(contract):
    for name in contract.document["components"]["messages"]:
        schema = contract.payload(name)
        for key, value in schema.get("properties", {}).items():
            optional = key not in schema["required"]
            assert optional == ("x-when" in value), (name, key)


@pytest.mark.parametrize(("topic", "change"), [
    ("status", {"i_max_ma": "16"}), ("status", {"extra": 1}), ("status", {"tq": "X"}),
    ("status", {"n": None}), ("status", {"cp": "G"}), ("tel", {}), ("evt", {}), ("nonesuch", {}),
    ("alarm/low", {}), ("status", {"n": 1.5}), ("status", {"v": 2}),
])
def test_what_is_not_of_the_contract_is_noticed(contract, topic, change):
    good = {"v": 1, "ts": 1, "tq": "I", "n": 1, "st": "idle", "cp": "A", "pwm": 0, "sid": "",
            "s_mwh": 0, "i_max_ma": None, "al": [], "pend": 0, "meter": "G", "link": "",
            "age_ms": -1}
    assert contract.check("evmeter/v1/d/status", json.dumps(good).encode())[2] == []
    bad = json.dumps({**good, **change}).encode()
    assert contract.check("evmeter/v1/d/" + topic, bad)[2]


def test_each_entry_that_the_firmware_names_is_in_the_contract(contract):
    form = re.compile(r"(?:ledger\.(?:log|event)|(?:self|keeper|app)\.(?:event|note|_note))"
                      r"\(\s*\"(\w+)\"[,)]")
    named = {name for path in FIRMWARE.rglob("*.py") for name in form.findall(path.read_text())}
    assert {"boot", "alarm", "crash", "resume", "firmware"} <= named
    known = set()
    for name in contract.messages("evt") + contract.messages("log"):
        kind = contract.payload(name)["properties"]["ev"]
        known |= set(kind.get("enum", [kind.get("const")]))
    assert named <= known, named - known


def test_the_readme_names_each_alarm():
    text = (ROOT / "README.md").read_text()
    assert [code for code in alarms.ALL if "`%s`" % code not in text] == []


# -- devices in memory --

def _signed(monkeypatch):
    signer = SoftwareSigner(bytes(range(7, 39)), os.urandom)
    monkeypatch.setattr(keeper_device, "FakeSigner", lambda: signer)
    monkeypatch.setattr(keeper_device.Device, "_identity",
                        lambda self: ({"GS": "demo-0001", "MS": self.meter.serial}, 1000, "meter"))


def _order(name, given):
    return 200, None, 0, lambda device: device.also(device.keeper.order(name, given))


def _with_tariff(monkeypatch):
    """A session over a change of the tariff, with orders, cuts and a stop; one cut for too long,
    with more changes than a record holds is test_cpy_tariff_records."""
    monkeypatch.setitem(keeper_device._CONFIG, "tariff", _TARIFF)
    board = FakeBoard()
    device = Device(board, _MORNING_MS - 63_000, quality="S")
    device.live((
        (2000, PILOT_A, 0, None), _order("user", _USER),
        (20000, PILOT_C, 36000, None), _order("user", _USER),
        _order("target", {"target_mwh": 300_000}), (10000, PILOT_C, 36000, None),
        _order("target", {"target_minor": 5000}), (61000, PILOT_C, 36000, None),
        (3000, PILOT_B, 0, None), (3000, PILOT_C, 36000, None),
        _order("stop", {"by": "remote"}), (9000, PILOT_B, 0, None)))
    device.keeper.follow()
    again = Device(board, device.clock.now()[0] + 30_000, device.meter.register_mwh, "S")
    again.run(9000, PILOT_B)
    again.run(9000, PILOT_A)
    again.run(9000, PILOT_B)
    third = Device(board, again.clock.now()[0] + 900_000, again.meter.register_mwh, "S")
    third.run(9000, PILOT_B)
    third.meter.answers = False
    third.run(9000, PILOT_A)
    third.meter.answers = True
    third.run(9000, PILOT_A)
    return third


def _many_changes(monkeypatch):
    """A session with more changes of the tariff than a record holds; then the clock is set."""
    windows = [{"name": "ab"[minute % 2], "from": "06:%02d" % minute,
                "to": "06:%02d" % (minute + 1), "centiminor_per_kwh": 1000 * (1 + minute % 2)}
               for minute in range(15)]
    windows.append({"name": "night", "from": "06:15", "to": "06:00", "centiminor_per_kwh": 500})
    monkeypatch.setitem(keeper_device._CONFIG, "tariff", {**_TARIFF, "windows": windows})
    device = Device(FakeBoard(), _MORNING_MS - 30_000, quality="S")
    device.run(1000, PILOT_A)
    device.run(16 * 60_000, PILOT_C, 36000)
    device.clock._unix_ms += 5000
    device.run(3000, PILOT_C, 36000)
    device.run(15_000, PILOT_A)
    return device


def _without_room(_monkeypatch):
    """A car that starts and stops while the journal has little room."""
    device = Device(keeper_room._board(OnRing()))
    device.run(2000, PILOT_A)
    while device.journal.free_percent() >= 25:
        seq = device.journal.next_seq
        device.journal.append(EVT, json.dumps({
            "v": 1, "ts": 0, "tq": "U", "k": "", "seq": seq, "sid": "", "e_mwh": 0,
            "ev": "charging", "why": "x" * 1900}).encode())
    keeper_room._flap(device, 15)
    return device


def _late_and_doubtful(monkeypatch):
    """A session that opens late, whose split is in doubt, in which the register jumps."""
    monkeypatch.setitem(keeper_device._CONFIG, "tariff", _TARIFF)
    device = Device(FakeBoard(), quality="I")
    device.run(1000, PILOT_A)
    edge_reading = device.meter.edge_reading

    async def slow(*_):
        device.clock.advance(2100)
        return await edge_reading()

    device.meter.edge_reading = slow
    device.run(15000, PILOT_C, 7200)
    device.keeper.meter_event("meter_rebase", {
        "old_mwh": device.meter.register_mwh, "new_mwh": device.meter.register_mwh + 5000,
        "modulus_mwh": 0, "diff_mwh": None, "cause": "meter exchanged", "old_serial": "1",
        "serial": "2"})
    device.run(15000, PILOT_A)
    return device


def _rare(monkeypatch):
    """Entries and intervals that a device writes seldom."""
    device = Device(FakeBoard())
    device.run(1000, PILOT_A)

    async def write():
        ledger = device.keeper.ledger
        await ledger.interval((1_790_000_100, 900, 5_000, 7_000, 11_000, "ok"))
        clock = Clock(START_UNIX_MS, _Ticks())
        clock.set(START_UNIX_MS + 1000, "I", 50, source="battery")
        clock.set(START_UNIX_MS + 900_000, "I", 50, source="sntp")
        await clock.write_notes(ledger, "", 3, 1)
        await key_change.propose(_Nvs(device.board.nvs), os.urandom, ledger, 5000)
        await ledger.log("crash", "", 5000, {"task": "meter", "trace": "Traceback"})
        device.alarms.raise_("PILOT_FAULT", "crit", "pilot state F")
        await device.alarms.write(ledger, "")
        device.board.nvs = _Nvs(device.board.nvs)
        app = SimpleNamespace(ledger=ledger, clock=clock, board=device.board,
                              config={"rev": 2}, poll=SimpleNamespace(bus_idle=Idle()))
        await trial.announce(app, {"rev": 3}, "a1b2c3d4", {"meter.p_max_w": [11000, 12000]})
        await trial.withdraw(app, 3, "broker not reached: no connection")
        await ledger.log("update", "", 5000, {"old": "0.1.0", "by": "a1b2c3d4", "counter": 7,
                                              "version": "0.2.0", "sha256": "ab" * 32})
        await ledger.log("update_confirmed", "", 5000, {"version": "0.2.0"})
        await ledger.log("update_failed", "", 5000, {"counter": 8})
        await ledger.log("unlock", "", 5000, {"by": "a1b2c3d4"})
        device.board.nvs.set_i32("lock", 1)
        await ledger.log("firmware", "", 5000, legal.entry(device.board, 3))

    asyncio.run(write())
    return device


def _records_of_the_meter(_monkeypatch):
    """A meter that signs too, but not at once."""
    device, passing = meter_records._device(meter_records._Signing(fail=4))
    meter_records._play(device, passing, meter_records._SESSION)
    return device


class _Ticks:
    def ticks_ms(self):
        return 9000

    def ticks_diff(self, end, start):
        return end - start


class _Nvs:
    """A second store that keeps whole numbers too."""

    def __init__(self, nvs):
        self._numbers = {}
        self._nvs = nvs

    def __getattr__(self, name):
        return getattr(self._nvs, name)

    def get_i32(self, key):
        if key not in self._numbers:
            raise OSError(-4354)
        return self._numbers[key]

    def set_i32(self, key, value):
        self._numbers[key] = value


def _in_memory(seen, monkeypatch):
    _signed(monkeypatch)
    for run in (_without_room, _rare, _records_of_the_meter, _late_and_doubtful, _with_tariff,
                _many_changes):
        with monkeypatch.context() as inner:
            seen.device(run(inner))


# -- the whole firmware --

class Ear:
    """Hears everything at the broker."""

    def __init__(self, bench):
        self.heard = []  # (topic, payload, QoS, retained)
        ready = threading.Event()
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = lambda _client, _data, got: self.heard.append(
            (got.topic, got.payload, got.qos, got.retain))
        client.on_connect = lambda client, *_: client.subscribe(
            [("evmeter/v1/#", 2), ("homeassistant/#", 2)])
        client.on_subscribe = lambda *_: ready.set()
        client.connect(bench._broker.host, bench._broker.port)
        client.loop_start()
        assert ready.wait(10)

    def say(self, topic, payload):
        self._client.publish(topic, payload, 1).wait_for_publish(10)

    def topics(self):
        return {topic for topic, *_ in list(self.heard)}

    def events(self, name):
        return [payload for topic, payload, *_ in list(self.heard)
                if topic.endswith(("/evt", "/log")) and json.loads(payload)["ev"] == name]

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def _play(bench, ear):
    """Sessions, a power cut, an alarm, a task that dies, the birth of Home Assistant."""
    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            bench.check()
            assert time.monotonic() < deadline, bench.watch.lines[-20:]
            time.sleep(0.05)

    def heard(name, count=1):
        until(lambda: len(ear.events(name)) >= count)

    def over(code):
        topic = "evmeter/v1/demo-0001/alarm/" + code
        return (topic, b"") in [(topic, payload) for topic, payload, *_ in list(ear.heard)][-99:]

    bench.device.start()
    heard("boot")
    bench.rig.tell(pilot="C", load_w=9000)
    heard("open")
    heard("charging")
    bench.rig.tell(pilot="B")
    heard("paused_by_car")
    bench.rig.tell(pilot="F")
    until(lambda: "evmeter/v1/demo-0001/alarm/PILOT_FAULT" in [
        topic for topic, payload, *_ in list(ear.heard) if payload])
    bench.rig.tell(pilot="B")
    until(lambda: over("PILOT_FAULT"))
    ear.say("homeassistant/status", "online")
    bench.device.cut_power()
    bench.device.start()
    heard("resume")
    bench.rig.tell(pilot="A")
    heard("close")
    permit = bench.folder / "permit"  # the next session's task cannot write to it
    permit.unlink(missing_ok=True)
    permit.mkdir()
    bench.rig.tell(pilot="C")
    until(lambda: "evmeter/v1/demo-0001/alarm/TASK_DIED" in [
        topic for topic, payload, *_ in list(ear.heard) if payload])
    heard("crash")
    permit.rmdir()
    bench.rig.tell(pilot="A")
    heard("close", 2)
    until(lambda: bench.watch.confirmed >= bench.watch.head)


def _command(bench, ear, key):
    """Commands and wishes, plain and signed; none of these wishes is taken."""

    def answers():
        return [json.loads(payload) for topic, payload, *_ in list(ear.heard)
                if topic.endswith("/cmd/res")]

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            bench.check()
            assert time.monotonic() < deadline, answers()
            time.sleep(0.05)

    root = "evmeter/v1/demo-0001/"
    for number, (name, args, by) in enumerate((
            ("identify", {"seconds": 1}, None), ("identify", {}, key), ("limit", {"ma": 7}, None),
            ("alarm_ack", {"code": "INSECURE_LINK"}, None))):
        ear.say(root + "cmd", signing.command("demo-0001", name, args, 300, by)[1])
        until(lambda number=number: len(answers()) > number)
    assert [answer["ok"] for answer in answers()] == [True, True, False, True]
    until(lambda: any(json.loads(payload)["ack"] for topic, payload, *_ in list(ear.heard)
                      if topic.endswith("/alarm/INSECURE_LINK") and payload))
    now = int(time.time())
    wish = {"v": 1, "ts": now, "tq": "I", "rev": 3, "cfg": {}, "exp": now + 300}
    for number, text in enumerate((json.dumps({**wish, "rev": 2}), signing.sign(
            wish, "demo-0001", key, time.time_ns() // 1_000_000)), 1):
        ear.say(root + "cfg/set", text)
        until(lambda number=number: sum(
            json.loads(payload)["wish"] > 0 for topic, payload, *_ in list(ear.heard)
            if topic.endswith("/cfg")) >= number)
    ear.say(root + "cfg/set", "")


def test_everything_that_is_sent_is_in_the_contract_and_everything_in_it_is_sent(
        tmp_path, contract, monkeypatch):
    seen = Seen(contract)
    config = {"mqtt": {"discovery": "homeassistant"}, "tariff": _TARIFF}
    key = signing.make_key(tmp_path / "operator.pem")
    config["operator"] = {"keys": [signing.spki(key)]}
    with Bench(tmp_path, "demo-0001", config=config) as bench:
        ear = Ear(bench)
        _play(bench, ear)
        _command(bench, ear, key)
        ear.close()
        later = Ear(bench)
        time.sleep(1)
        later.close()
    for topic, payload, qos, _ in ear.heard:
        if topic.endswith("/cfg/set") and not payload:
            continue  # a wish is withdrawn
        seen.take(topic, payload)
        assert qos == contract.bindings(contract.channel(topic))[0], topic
    for topic, _, _, retained in later.heard:
        live = topic.endswith(("/tel", "/status", "/ack"))  # may have come in that second
        assert live or retained == contract.bindings(contract.channel(topic))[1] is True, topic
    _in_memory(seen, monkeypatch)
    _check_complete(contract, seen)


def _check_complete(contract, seen):
    """Nothing in the contract is made up: each message came, and each key of it, but what these
    runs cannot have."""
    missing = []
    for name in contract.document["components"]["messages"]:
        if name not in seen.properties:
            missing.append(name)
            continue
        for key, value in contract.payload(name).get("properties", {}).items():
            if (key not in seen.properties[name]
                    and not value.get("x-when", "").startswith(_NOT_HERE)):
                missing.append("%s.%s" % (name, key))
    assert not missing, ", ".join(missing)
