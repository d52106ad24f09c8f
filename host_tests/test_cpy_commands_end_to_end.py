"""Commands and the configuration's twin: `evmeter command`, mosquitto, collector, the firmware
under MicroPython; the device restarts by itself and is switched on again."""

import json
import threading
import time

import pytest
from typer.testing import CliRunner

from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
from evmeter_tools.cli import app
from evmeter_tools.errors import UserError
from evmeter_tools.operator import signing
from evmeter_tools.operator.line import Line

_NAME = "demo-0001"


class _Site:
    """A bench whose device is switched on again when it restarts itself, and an operator."""

    def __init__(self, folder, **options):
        self.key_file = folder / "operator.pem"
        self.key = signing.make_key(self.key_file)
        self.bench = Bench(folder / "bench", _NAME, config={
            "operator": {"keys": [signing.spki(self.key)]}}, **options)
        self.restarts = 0
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow)

    def _follow(self):
        while not self._ended.wait(0.05):
            self.restarts += self.bench.device.follow()

    def __enter__(self):
        self.bench.__enter__()
        self.watch = self.bench.watch
        self.bench.device.start()
        self._follower.start()
        self.until(lambda: self.watch.count("boot") == 1)
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._follower.join()
        self.bench.__exit__()

    def until(self, condition, seconds=40):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.watch.lines[-20:]
            time.sleep(0.05)

    def command(self, operation, *words, signed=False):
        """(exit code, answer) of `evmeter command`."""
        options = ["--key", str(self.key_file)] if signed else []
        while True:
            done = CliRunner().invoke(app, ["command", _NAME, operation, *words, "--json",
                                            "--broker", self.bench.broker, *options])
            if isinstance(done.exception, UserError):
                raise done.exception
            answer = json.loads(done.output)
            if "end of the trial" not in answer.get("err", ""):
                return done.exit_code, answer

    def reported(self):
        """What the device reports of its configuration, as the broker retains it."""
        code, reported = self.command("config")
        assert code == 0
        return reported

    def wish(self, name, **changes):
        """A file with the reported configuration, some sections of it changed."""
        wished = self.reported()["cfg"]
        for section, fields in changes.items():
            wished[section].update(fields)
        file = self.key_file.parent / name
        file.write_text(json.dumps(wished))
        return str(file)


def test_an_operator_gives_orders(tmp_path):
    with _Site(tmp_path) as site:
        code, answer = site.command("identify", "seconds=3")
        assert (code, answer["ok"], answer["res"]["id"]) == (0, True, _NAME)
        head = site.watch.head
        seen = len(site.watch.events)
        code, answer = site.command("resend", "from=1", "to=%d" % head)
        assert (code, answer["res"]) == (0, {"n": head})
        site.until(lambda: len(site.watch.events) >= seen + head)
        for operation, words, why in (
            ("dance", [], "allowed: alarm_ack"), ("resend", ["from=0", "to=1"], "from is 0"),
            ("limit", ["ma=16000"], "does not drive the pilot"), ("update", [], "signature"),
            ("stop", ["by=remote"], "no session is open"), ("alarm_ack", ["code=X"], "no alarm X"),
            ("time", ["unix_ms=1", "n=1"], "n is 1"), ("key_change", [], "signature"),
        ):
            code, answer = site.command(operation, *words)
            assert (code, answer["ok"]) == (1, False) and why in answer["err"], answer
        code, answer = site.command("update", signed=True)
        assert code == 1 and "no other has a place" in answer["err"]
        # who charges stands in the record, and the operator ends the session
        assert site.command("user", "IL=HEARSAY", "IT=ISO14443", "ID=1F2D3A4F")[0] == 0
        site.bench.rig.tell(pilot="C", load_w=10000)
        site.until(lambda: site.watch.count("open") == 1)
        assert site.command("target", "target_mwh=5000")[0] == 0
        assert site.command("stop", "by=remote")[0] == 0
        # a restart inside a session ends none
        assert site.command("reboot")[0] == 0
        site.until(lambda: site.watch.count("resume") == 1)
        site.bench.rig.tell(pilot="A")
        site.until(lambda: site.watch.count("close") == 1 and site.watch.count("complete") == 1)
        record = [body["ocmf"] for name, body in site.watch.events if name == "complete"][0]
        assert '"ID":"1F2D3A4F"' in record and '"TX":"R"' in record
        assert site.restarts == 1


def test_a_configuration_is_taken_whole_or_the_old_one_stays(tmp_path):
    with _Site(tmp_path) as site:
        assert site.reported()["rev"] == 0
        code, answer = site.command("config", "--file", site.wish("1.json", mqtt={"window": 2}))
        assert (code, answer["rev"], answer["cfg"]["mqtt"]["window"]) == (0, 1, 2)
        relevant = site.wish("2.json", meter={"p_max_w": 12000})
        code, answer = site.command("config", "--file", relevant)
        assert code == 1 and "meter.p_max_w needs the signature" in answer["err"]
        code, answer = site.command("config", "--file", relevant, signed=True)
        assert (code, answer["rev"], answer["cfg"]["meter"]["p_max_w"]) == (0, 2, 12000)
        bad = site.wish("3.json", meter={"baud": 9601})
        code, answer = site.command("config", "--file", bad, signed=True)
        assert code == 1 and "meter.baud is 9601; allowed" in answer["err"]
        # one that is good by itself, but that this device cannot start with
        lost = site.wish("3.json", meter={"profile": "nonesuch"})
        code, answer = site.command("config", "--file", lost, signed=True)
        assert (code, answer["rev"], answer["wish"]) == (1, 2, 3), answer
        assert "nonesuch" in answer["err"]
        site.until(lambda: site.watch.count("config_back") == 1)
        logged = [body for name, body in site.watch.events if name == "config"]
        assert [(body["rev"], body["old_rev"]) for body in logged][:1] == [(2, 0)] or [
            (body["rev"], body["old_rev"]) for body in logged][:1] == [(2, 1)]
        assert {"meter.p_max_w": [11000, 12000]} in [body["chg"] for body in logged]
        assert {body["by"] for body in logged} == {signing.key_id(site.key)}
        # what is wished while a car charges waits for its end
        site.bench.rig.tell(pilot="C", load_w=10000)
        site.until(lambda: site.watch.count("open") == 1)
        cfg = json.loads((tmp_path / "2.json").read_text())
        cfg["session"]["checkpoint_s"] = 30
        with Line(_NAME, site.bench.broker) as line:
            line._client.publish("evmeter/v1/%s/cfg/set" % _NAME, json.dumps(
                {"v": 1, "rev": 4, "cfg": cfg}), 1, True).wait_for_publish(5)
            told = line.configuration(20, lambda message: message["wish"] == 4)
            assert "end of the session" in told["err"] and told["rev"] == 2
            restarts = site.restarts
            site.bench.rig.tell(pilot="A")
            told = line.configuration(40, lambda message: message["rev"] == 4)
            assert told["cfg"]["session"]["checkpoint_s"] == 30
            assert site.restarts == restarts + 1
        site.until(lambda: site.watch.count("close") == 1)


def test_a_key_is_changed_and_the_backend_follows(tmp_path):
    with _Site(tmp_path) as site:
        site.until(lambda: site.watch.confirmed >= site.watch.head)
        code, answer = site.command("key_change", signed=True)
        assert code == 0 and answer["res"]["seq"] > 0
        site.until(lambda: site.watch.count("boot") == 2)
        site.bench.rig.tell(pilot="C", load_w=10000)
        site.until(lambda: site.watch.count("open") == 1)
        site.bench.rig.tell(pilot="A")
        site.until(lambda: site.watch.count("close") == 1)
        site.until(lambda: site.watch.confirmed >= site.watch.head)
        store = Store(site.bench.database)
        keys = {row.key_id for row in store.rows()}
        assert len(keys) == 2 and {row.verdict for row in store.rows()} == {"ok"}
        store.close()


def test_a_device_without_a_clock_is_told_the_time(tmp_path):
    with _Site(tmp_path, battery=False, gives_time=True) as site:
        site.until(lambda: site.watch.status.get("tq") == "I")
        assert abs(site.watch.status["ts"] - time.time()) < 30
        site.until(lambda: site.watch.count("clock_bound") == 1)
        bound = [body for name, body in site.watch.events if name == "clock_bound"][0]
        assert (bound["q"], bound["src"]) == ("I", "backend")
        # what waits for the time does not wait any more
        assert site.command("stop", "by=remote")[1]["err"] == "stop: no session is open"


def test_the_tool_says_what_is_wrong(tmp_path):
    key = tmp_path / "operator.pem"
    done = CliRunner().invoke(app, ["operator-key", str(key), "--json"])
    made = json.loads(done.output)
    assert (made["spki"], made["by"]) == (signing.spki(signing.load_key(key)),
                                          signing.key_id(signing.load_key(key)))
    assert key.stat().st_mode & 0o777 == 0o600
    broken = tmp_path / "broken.pem"
    broken.write_text("x")
    for arguments, words in (
        (["operator-key", str(key)], "cannot be written: File exists"),
        (["command", _NAME, "identify", "--broker", "127.0.0.1:1"], "no broker at 127.0.0.1:1"),
        (["command", _NAME, "identify", "--broker", "here"], "host:port"),
        (["command", _NAME, "resend", "from"], "NAME=VALUE"),
        (["command", _NAME, "identify", "--key", str(broken)], "no private key"),
        (["command", _NAME, "identify", "--ca", str(broken)], "--ca"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError), (arguments, done.output)
        assert words in str(done.exception), done.exception
        assert "\n" not in str(done.exception)


def test_nobody_answers(tmp_path):
    from evmeter_tools.backend.broker import Broker

    broker = Broker(tmp_path).start()
    try:
        address = "%s:%d" % (broker.host, broker.port)
        for arguments, words in ((["identify", "--wait", "1"], "did not answer within 1 s"),
                                 (["config"], "has not reported its configuration")):
            done = CliRunner().invoke(app, ["command", _NAME, *arguments, "--broker", address])
            assert isinstance(done.exception, UserError)
            assert words in str(done.exception)
    finally:
        broker.stop()


def test_signed_text_is_what_the_firmware_takes(tmp_path):
    from evmeter.uplink import commands

    key = signing.make_key(tmp_path / "operator.pem")
    name, text = signing.command(_NAME, "update", {"a": 1}, 60, key)
    found = commands.read(text.encode())
    with pytest.raises(commands.CommandError, match="another device"):
        commands.check(found, text.encode(), "demo-0002")
    commands.check(found, text.encode(), _NAME)
    assert (found["id"], found["by"]) == (name, signing.key_id(key))
