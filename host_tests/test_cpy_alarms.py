"""Alarms of the whole firmware under MicroPython, over a real mosquitto."""

import json
import threading
import time

import paho.mqtt.client as mqtt
import pytest

from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench

_KEYS = {"v", "ts", "tq", "code", "sev", "act", "ack", "n", "first_ts", "on_ts", "last_ts", "text"}


class Alarms:
    """What a client of the broker sees of one device's alarms."""

    def __init__(self, bench):
        self._bench = bench
        self._prefix = "evmeter/v1/%s/alarm/" % bench.device_id
        self._changed = threading.Condition()
        self.now = {}
        self.seen = []  # (seconds, code, payload or None, retained) of each change
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(self._prefix + "+", 1)
        self._client.on_message = self._message
        self._client.connect(bench._broker.host, bench._broker.port)
        self._client.loop_start()

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def _message(self, _client, _data, message):
        code = message.topic.removeprefix(self._prefix)
        payload = json.loads(message.payload) if message.payload else None
        with self._changed:
            if payload:
                self.now[code] = payload
            else:
                self.now.pop(code, None)
            self.seen.append((time.monotonic(), code, payload, message.retain))
            self._changed.notify_all()

    def wait(self, code, shown=True, seconds=40):
        """Seconds until `code` is shown, or is over."""
        begun = time.monotonic()
        with self._changed:
            good = self._changed.wait_for(lambda: (code in self.now) == shown, seconds)
        self._bench.check()
        assert good, (code, shown, sorted(self.now), self._bench.watch.lines[-8:])
        return time.monotonic() - begun


def _events(bench):
    store = Store(bench.database)
    rows = [json.loads(row.payload) for row in store.rows(bench.device_id, "evt")]
    store.close()
    return [row for row in rows if row["ev"] == "alarm"]


@pytest.fixture
def bench(tmp_path):
    with Bench(tmp_path, "demo-0001", config={
            "alarms": {"over_voltage_v": 229, "under_voltage_v": 231}}) as bench:
        yield bench


def test_alarms_come_to_the_broker_and_go(bench):
    (bench.folder / "reset").write_text("watchdog")
    nvs = bench.folder / "nvs.json"
    nvs.write_text(json.dumps({**json.loads(nvs.read_text()), "short": 4}))
    alarms = Alarms(bench)
    try:
        bench.device.start()
        for code in ("INSECURE_LINK", "WATCHDOG_RESET", "REPEATED_REBOOTS"):
            alarms.wait(code)
        for code in ("OVER_VOLTAGE", "UNDER_VOLTAGE"):  # a meter that shows 230 V
            alarms.wait(code)
        took = []
        for state in "FE":
            bench.rig.tell(pilot=state)
            took.append(alarms.wait("PILOT_FAULT"))
            assert alarms.now["PILOT_FAULT"]["text"] == "pilot state " + state
            bench.rig.tell(pilot="A")
            alarms.wait("PILOT_FAULT", False)
        print("from F, and from the third second of E, to the broker: %.2f, %.2f s"
              % (took[0], took[1] - 3))
        (bench.folder / "temperature").write_text("91500")
        print("from heat to the broker: %.2f s" % alarms.wait("OVER_TEMPERATURE"))
        bench.rig.tell(diode=False, pilot="C", load_w=3000)  # no session begins with a test plug
        alarms.wait("DIODE_MISSING")
        alarms.wait("ENERGY_NO_SESSION")
        for payload in alarms.now.values():
            assert set(payload) == _KEYS, payload
            assert payload["first_ts"] <= payload["on_ts"] <= payload["last_ts"] <= payload["ts"]
        assert alarms.now["WATCHDOG_RESET"]["act"] is False
        assert alarms.now["ENERGY_NO_SESSION"]["act"] is True
        bench.rig.tell(diode=True, pilot="A")
        bench.rig.tell(latency_ms=60000)
        alarms.wait("METER_LOST")
        _check_retained(bench, alarms)
        bench.device.cut_power()
        alarms.now.clear()
        bench.device.start()
        alarms.wait("WATCHDOG_RESET")  # nobody has acknowledged it
        assert "before the reboot" in alarms.now["WATCHDOG_RESET"]["text"]
    finally:
        alarms.close()
    codes = {event["code"] for event in _events(bench)}
    assert {"WATCHDOG_RESET", "REPEATED_REBOOTS", "PILOT_FAULT", "OVER_TEMPERATURE"} <= codes


def _check_retained(bench, alarms):
    """Who comes later sees what is, and nothing of what is over."""
    alarms.wait("DIODE_MISSING", False)
    later = Alarms(bench)
    try:
        later.wait("METER_LOST")
        time.sleep(0.5)
        assert set(later.now) == set(alarms.now)
        assert all(retained for _, _, _, retained in later.seen)
    finally:
        later.close()


def test_a_device_that_was_never_provisioned_says_what_it_lacks(bench):
    (bench.folder / "nvs.json").unlink()
    flash = bench.folder / "flash.img"
    flash.write_bytes(b"\xff" * flash.stat().st_size)
    alarms = Alarms(bench)
    try:
        bench.device.start()
        alarms.wait("KEY_MISSING")
        alarms.wait("JOURNAL_FAULT")
        bench.rig.tell(pilot="C")
        alarms.wait("SESSION_REFUSED")
        assert alarms.now["KEY_MISSING"]["text"] == "no signing key; provision the device"
        assert alarms.now["JOURNAL_FAULT"]["act"] is True
        bench.rig.tell(pilot="A")
        alarms.wait("SESSION_REFUSED", False)
    finally:
        alarms.close()


def test_what_happens_while_the_link_is_down_is_stored_and_told(bench):
    bench.device.start()
    alarms = Alarms(bench)
    alarms.wait("INSECURE_LINK")
    alarms.close()
    deadline = time.monotonic() + 40
    while not bench.watch.confirmed:  # the collector is there
        assert time.monotonic() < deadline, bench.watch.lines
        time.sleep(0.1)
    bench._broker.kill()
    (bench.folder / "temperature").write_text("99000")
    bench.rig.tell(pilot="F")
    time.sleep(4)
    (bench.folder / "temperature").write_text("20000")  # over before anybody listens
    time.sleep(3)
    back_ts = int(time.time())
    bench._broker.start()
    alarms = Alarms(bench)
    try:
        alarms.wait("PILOT_FAULT", seconds=60)
        assert "OVER_TEMPERATURE" not in alarms.now
        deadline = time.monotonic() + 60
        while True:
            found = {event["code"]: event for event in _events(bench)}
            if {"OVER_TEMPERATURE", "PILOT_FAULT"} <= set(found):
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
    finally:
        alarms.close()
    for code in ("OVER_TEMPERATURE", "PILOT_FAULT"):
        assert found[code]["on_ts"] < back_ts, found[code]
