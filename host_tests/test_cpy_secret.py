"""The secret key of a device appears nowhere but in its second store: all traffic, logs, exports
and files of a run are searched for it."""

import base64
import json
import subprocess
import sys
import threading
import time

import paho.mqtt.client as mqtt

from evmeter_tools.bench.stand import Bench
from evmeter_tools.paths import BUILD


def _spellings(secret):
    """Every way in which 32 bytes are likely to be written; parts of them count too."""
    number = int.from_bytes(secret, "big")
    found = {str(number).encode(), b"%x" % number, b"%X" % number}
    for data in (secret, secret[::-1], number.to_bytes(32, "little")):
        found |= {data, data[:16], data[16:], data.hex().encode(), data.hex().upper().encode(),
                  data.hex()[:24].encode(), data.hex()[-24:].encode(), data.hex(" ").encode(),
                  repr(data)[2:-1].encode(), repr(list(data))[1:-1].encode()}
        for offset in range(3):  # base64 where the key begins inside a group of three
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.add(encode(bytes(offset) + data)[4:40])
    return found


def _holds(text, secret):
    return [spelling for spelling in _spellings(secret) if spelling in text]


def test_the_search_finds_what_it_looks_for():
    secret = bytes(range(100, 132))
    for text in (b"key " + secret.hex().encode(), b'{"k": "%s"}' % base64.b64encode(secret),
                 b"\0" + secret, base64.b64encode(b"x" + secret), b"Signer(%r)" % secret,
                 str(int.from_bytes(secret, "big")).encode(), secret[16:] + b"cut"):
        assert _holds(text, secret), text
    assert not _holds(bytes(range(256))[:100] * 3, secret)


class _Ear:
    """Everything that the broker passes on, topics and payloads."""

    def __init__(self, host, port):
        self.heard = []
        ready = threading.Event()
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = lambda _c, _u, m: self.heard.append(m.topic.encode() + b" "
                                                                 + m.payload)
        client.on_connect = lambda c, *_: c.subscribe("#", 0)
        client.on_subscribe = lambda *_: ready.set()
        client.connect(host, port)
        client.loop_start()
        assert ready.wait(15)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def _play(bench):
    watch = bench.watch

    def until(condition):
        deadline = time.monotonic() + 30
        while not condition():
            bench.check()
            assert time.monotonic() < deadline, watch.lines[-20:]
            time.sleep(0.05)

    bench.device.start()
    until(lambda: watch.count("boot"))
    bench.rig.tell(pilot="C", load_w=10000)
    until(lambda: watch.count("open"))
    bench.device.cut_power()
    bench.device.start()
    until(lambda: watch.count("boot") == 2)
    start_mwh = bench.register_mwh()
    until(lambda: bench.register_mwh() - start_mwh > 3000)
    bench.rig.tell(pilot="A")
    until(lambda: watch.count("close") and watch.confirmed >= watch.head)


def _evmeter(out, *arguments):
    done = subprocess.run([sys.executable, "-m", "evmeter_tools.cli", *arguments],
                          capture_output=True, check=False, timeout=60,
                          env={"PYTHONPATH": str(BUILD.parent / "tools"), "PATH": "/usr/bin:/bin"})
    # 1: the cut at the end of the run may fall into an append, which the journal's tools tell
    assert done.returncode in (0, 1), done.stdout + done.stderr
    out.append(done.stdout + done.stderr)


def test_the_key_is_nowhere_but_in_the_second_store(tmp_path):
    with Bench(tmp_path, "demo-0001") as bench:
        ear = _Ear(bench._broker.host, bench._broker.port)
        _play(bench)
        ear.close()
    store = tmp_path / "nvs.json"
    secret = bytes.fromhex(json.loads(store.read_text())["key"])
    assert len(secret) == 32
    assert _holds(store.read_bytes(), secret)

    said = []
    flash, records = str(tmp_path / "flash.img"), str(tmp_path / "records.jsonl")
    _evmeter(said, "journal", "read", flash, "--json", "--key", bench.spki)
    _evmeter(said, "journal", "check", flash, "--nvs", str(store), "--key", bench.spki)
    _evmeter(said, "journal", "export", flash, "--type", "rec,evt,ivl,log")
    _evmeter(said, "journal", "export", flash, "--out", records, "--key", bench.spki)
    _evmeter(said, "verify", records)
    _evmeter(said, "receipt", records, "--out", str(tmp_path / "receipts"))
    _evmeter(said, "backend", "sessions", "demo-0001", "--db",
             str(bench.database))

    topics = {message.split(b" ")[0].split(b"/")[-1] for message in ear.heard}
    assert {b"rec", b"evt", b"info", b"status", b"tel", b"ack"} <= topics
    assert all(said[:3])
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != store]
    names = {path.name for path in files}
    assert {"flash.img", "device.log", "backend.sqlite", "backend.log", "rtc.bin"} <= names
    for where, text in [("traffic", message) for message in ear.heard] + [
            ("evmeter", text) for text in said] + [(path.name, path.read_bytes())
                                                   for path in files]:
        assert not _holds(text, secret), where
