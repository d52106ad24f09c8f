"""Campaigns `hostile-tls` and `hostile-flood`: the whole firmware under MicroPython on its bench.

Servers that are not the broker: none gets a byte of MQTT, and the device's status says why, once
it is back at the true one, which wants a client certificate. A flood of acknowledgements, commands
and configurations, right and wrong ones: the meter is read as before.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path

import paho.mqtt.client as mqtt

from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.tls_servers import BAD, REASONS, Certificates, Server, TlsBroker
from evmeter_tools.errors import UserError
from evmeter_tools.faults.relay import Way
from evmeter_tools.faults.result import Result
from evmeter_tools.host_device import HostDevice
from evmeter_tools.paths import BUILD, FIRMWARE, ROOT

_MAIN = FIRMWARE / "main.py"
_SCRIPT = ROOT / "tools/evmeter_tools/faults/scripts/flooded.py"
_STEP_S = 120
_VERSIONS = ("1.3", "1.2")
_TRIALS = len(BAD) * len(_VERSIONS)
_FLOOD_S = 60
_RATE = 1000
_BURST_S = 0.02
_PERIOD_MS = 1000  # of the meter
_MOST_WINDOW_MS = 1000
_SLOW_MS = 300
_CONTROL_S = 5


def _until(bench, what, condition):
    deadline = time.monotonic() + _STEP_S
    while not condition():
        bench.check()
        if time.monotonic() > deadline:
            raise UserError("waited %d s in vain: %s" % (_STEP_S, what))
        time.sleep(0.02)


class _Switch(Way):
    """Passes each connection on to port `target`."""

    def __init__(self):
        super().__init__()
        self.target = 0

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            other_reader, other = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(_pump(reader, other), _pump(other_reader, writer))
        writer.close()


async def _pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def _fresh(name):
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=name + "-", dir=BUILD) as folder:
        yield Path(folder)


def _sound(bench):
    """No life before was a short one: after ten of them the network waits for ten minutes."""
    path = bench.device.folder / "nvs.json"
    if path.exists():
        path.write_text(json.dumps({**json.loads(path.read_text()), "short": 0}))


def _meets(bench, switch, server, kind, result):
    """The device finds the bad server first, then the broker; what it says there."""
    switch.target = server.port
    bench.watch.status = {}
    _sound(bench)
    bench.device.start()
    _until(bench, "an attempt at %s" % kind, lambda: server.connections)
    switch.target = bench._broker.tls_port
    _until(bench, "back at the broker after %s" % kind, lambda: "link" in bench.watch.status)
    link = bench.watch.status["link"]
    bench.device.cut_power()
    server.close()
    if not link.startswith(REASONS[kind]):
        result.wrong("%s: the status says %r" % (kind, link))
    if server.application_bytes:
        result.wrong("%s: %d bytes of MQTT" % (kind, server.application_bytes))
    result.counts["attempts at a bad server"] += server.connections


def tls(trials=_TRIALS, progress=None, control=True):
    """Campaign `hostile-tls`: each bad server, with TLS 1.3 and 1.2."""
    result = Result("hostile-tls")
    with _fresh("hostile-tls") as folder, _Switch() as switch:
        certificates = Certificates(folder)
        certificate, key = certificates.der("client")
        verified = {"host": "localhost", "tls": "verified", "ca": certificates.der(),
                    "certificate": certificate, "key": key}
        bench = Bench(folder / "bench", "bad-tls",
                      config={"mqtt": {**verified, "port": switch.port, "telemetry_s": 1}})
        bench._broker = TlsBroker(folder / "broker", certificates, True)
        with bench:
            for number in range(trials):
                kind = BAD[number % len(BAD)]
                server = Server(certificates, kind, _VERSIONS[number // len(BAD) % 2])
                _meets(bench, switch, server, kind, result)
                result.trials += 1
                if progress:
                    progress(number + 1, trials)
            if control:
                config = json.loads((bench.folder / "config.json").read_text())
                config["mqtt"]["tls"] = "insecure"
                bench.device.write_config(config)
                result.controls["a device that verifies nothing"] = _trusts(bench, switch,
                                                                           certificates)
    return result


def _trusts(bench, switch, certificates):
    """Whether a server under a foreign CA hears MQTT."""
    server = Server(certificates, "wrong CA")
    switch.target = server.port
    _sound(bench)
    bench.device.start()
    _until(bench, "an attempt", lambda: server.application_bytes or server.connections > 1)
    bench.device.cut_power()
    server.close()
    return server.application_bytes > 0


class _Flooded(HostDevice):
    """Runs the firmware with an eye on its readings; `slow_ms` holds it up at each message."""

    slow_ms = 0

    def command(self, script):
        if script != _MAIN:
            return super().command(script)
        command, env = super().command(_SCRIPT)
        return [*command, str(self.slow_ms)], env

    def said(self):
        """What it printed, one dict for each reading."""
        lines = (self.folder / "device.log").read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines
                if line.startswith('{"') and line.endswith("}")]


def _messages(bench):
    """(topic, payload) of the flood, over and over: the third to fifth are well-formed."""
    root = "evmeter/v1/%s/" % bench.device_id
    store = json.loads((bench.folder / "known.json").read_text())
    key = store["k"]
    return (
        (root + "ack", "{"),
        (root + "ack", "[" * 2000),
        (root + "ack", json.dumps({"v": 1, "k": key, "cum": 1, "sel": [], "bad": []})),
        (root + "ack", json.dumps({"v": 1, "k": key, "cum": 0, "sel": list(range(1, 2)),
                                   "bad": []})),
        (root + "ack", json.dumps({"v": 1, "k": key, "cum": 4_000_000_000})),
        (root + "ack", json.dumps({"k": "00000000", "cum": 1, "sel": list(range(900))})),
        (root + "cmd", json.dumps({"id": "x" * 30, "op": "reboot", "args": {}, "exp": 1})),
        (root + "cmd", json.dumps({"id": "y", "op": "nonesuch", "args": [1] * 100})),
        (root + "cmd", "\x00" * 4000),
        (root + "cfg/set", json.dumps({"rev": 1, "meter": {"p_max_w": -1}})),
    )


def _flood(bench, seconds, progress):
    """Send 1,000 messages a second; returns how many."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(0)
    client.connect(bench._broker.host, bench._broker.port)
    client.loop_start()
    messages = _messages(bench)
    begun, sent = time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        while sent < passed * _RATE:
            client.publish(*messages[sent % len(messages)], qos=0)
            sent += 1
        if progress:
            progress(int(passed), seconds)
        bench.check()
        time.sleep(_BURST_S)
    client.disconnect()
    client.loop_stop()
    return sent


def _play(name, seconds, slow_ms, result, progress=None):
    with _fresh(name) as folder, Bench(folder, "flooded") as bench:
        (bench.folder / "known.json").write_text(json.dumps(bench.device.provision()))
        bench.device = _Flooded(bench.folder, bench.device.interpreter)
        bench.device.slow_ms = slow_ms
        bench.device.start()
        _until(bench, "a first reading", lambda: len(bench.device.said()) > 3)
        _until(bench, "the link", lambda: bench.watch.online)
        bench.watch.close()  # it believes what it hears
        before = bench.device.said()[-1]
        sent = _flood(bench, seconds, progress)
        during = [one for one in bench.device.said() if one["readings"] > before["readings"]]
    readings = len(during)
    longest_ms = max([one["reading_ms"] for one in during], default=seconds * 1000)
    window_ms = max([one["window_ms"] for one in during], default=seconds * 1000)
    taken = during[-1]["messages"] - before["messages"] if during else 0
    if readings < seconds - 1 or longest_ms >= 2 * _PERIOD_MS:
        result.wrong("%d readings in %d s, once %d ms apart" % (readings, seconds, longest_ms))
    if window_ms > _MOST_WINDOW_MS:
        result.wrong("the pilot was not looked at for %d ms" % window_ms)
    if not taken:
        result.wrong("none of %d messages came" % sent)
    result.trials = sent
    result.counts.update({"readings of the meter": readings, "messages sent": sent,
                          "messages taken by the device": taken,
                          "longest time between two readings, ms": longest_ms,
                          "longest time between two looks at the pilot, ms": window_ms})


def flood(trials=_FLOOD_S * _RATE, progress=None):
    """Campaign `hostile-flood`: so many messages at 1,000 a second."""
    result = Result("hostile-flood")
    _play("hostile-flood", max(5, trials // _RATE), 0, result, progress)
    tried = Result("control")
    _play("hostile-flood-control", _CONTROL_S, _SLOW_MS, tried)
    result.controls["a device that each message holds up for %d ms" % _SLOW_MS] = bool(
        tried.violations)
    return result
