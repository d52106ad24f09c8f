"""The pages' application over a database with a small fleet, without a network."""

import json

from fastapi.testclient import TestClient

from evmeter_tools.backend import messages
from evmeter_tools.backend.live import Live
from evmeter_tools.backend.outbox import Channels
from evmeter_tools.backend.store import Store, now_ms
from evmeter_tools.insight.workup import work_up
from evmeter_tools.web import access
from evmeter_tools.web.server import Settings, create_app
from fakes.device import FakeDevice

PASSWORD = "a long password"


class FakeWeb:
    """Chargers `cp-1` (a session that ended, one that goes on, an alarm), `cp-2` (free) and
    `cp-3` (never heard of); accounts `ann` (operator) and `vic` (viewer)."""

    def __init__(self, folder, url=None, **settings):
        self.store = Store(url or folder / "web.sqlite")
        for name, role in (("ann", access.OPERATOR), ("vic", access.VIEWER)):
            access.set_account(self.store, name, role, PASSWORD)
        self.devices = {}
        for name in ("cp-1", "cp-2", "cp-3"):
            device = self.devices[name] = FakeDevice(name)
            self.store.enrol(name, device.key_id, device.spki)
        device = self.devices["cp-1"]
        self.done, self.sid = "cp-1-000001", "cp-1-000003"
        self.add("cp-1", "rec", device.record(1, "begin", 5_000_000, self.done))
        self.add("cp-1", "rec", device.record(2, "complete", 6_000_000, self.done))
        self.add("cp-1", "rec", device.record(3, "begin", 6_000_000, self.sid))
        self.live = Live(self.store)
        self.say("cp-1", avail=b"online", info={"boot": 3, "fw": "0.1.0"},
                 status={"n": 1, "st": "charging", "cp": "C", "sid": self.sid, "prog": "charging",
                         "s_mwh": 250_000, "el_s": 125, "i_max_ma": 16000, "cost_info": 10,
                         "cur": "EUR", "wname": "day", "price": 3974},
                 tel={"p_mw": 7_200_000, "s_mwh": 250_000, "e_mwh": 6_250_000, "sid": self.sid})
        self.say("cp-2", avail=b"online", status={"n": 1, "st": "idle", "cp": "A"})
        self.alarm("cp-1", "METER_LOST")
        self.settings = Settings(**{"channels": Channels(smtp="127.0.0.1:1",
                                                         ntfy="http://127.0.0.1:1"),
                                    "public_url": "https://charge.example", **settings})
        self.app = create_app(self.store, self.settings)

    def add(self, device, stream, payload):
        """Store a durable message and work it up, as the leader does."""
        added = self.store.add([messages.read(device, stream, payload, self.store.trusted())])
        work_up(self.store)
        return added

    def say(self, device, **topics):
        """Take live messages."""
        self.live.take([(device, topic, body if isinstance(body, bytes) else
                         json.dumps(body).encode(), now_ms()) for topic, body in topics.items()])

    def alarm(self, device, code, severity="crit"):
        """Raise an alarm as the device does."""
        body = {"sev": severity, "act": True, "n": 1, "on_ts": now_ms() // 1000, "text": "gone"}
        self.live.take([(device, "alarm/" + code, json.dumps(body).encode(), now_ms())])

    def client(self, name=None):
        """A browser, logged in as `name`."""
        client = TestClient(self.app, follow_redirects=False)
        if name:
            answer = client.post("/api/v1/login", json={"name": name, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client

    def close(self):
        self.store.close()
