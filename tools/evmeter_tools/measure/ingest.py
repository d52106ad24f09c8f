"""What a record costs the collector on one core, beside its bare parts: a message received, a
signature checked, a row committed with the rest of its batch."""

import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from evmeter_tools.backend.broker import HOST, Broker
from evmeter_tools.backend.mqtt import ROOT
from evmeter_tools.errors import UserError
from evmeter_tools.fleet import recorded, replay
from evmeter_tools.paths import ROOT as CHECKOUT

_BARE = ("receive", "check", "insert")
_DEVICES, _SESSIONS = 500, 8
_ROUNDS = 7
_AT_ONCE = 50  # devices that send at a time
_CHUNK = 65536


def cores():
    """(The core of what is measured, those of the broker and the sender.)"""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], set(mine[1:] or mine)


def as_sent(devices, seed=1):
    """[(device, key id, SPKI, stream, payload)] of all frames as they come in from many devices at
    a time, of each a window."""
    choose = random.Random(seed)
    waiting = [(device, 0) for device in devices]
    active = [waiting.pop() for _ in range(min(len(waiting), _AT_ONCE))]
    found = []
    while active:
        at = choose.randrange(len(active))
        device, first = active[at]
        beyond = first + replay.WINDOW
        found += [(device.name, device.key_id, device.spki, stream, payload)
                  for stream, payload in device.frames[first:beyond]]
        if beyond < len(device.frames):
            active[at] = device, beyond
        elif waiting:
            active[at] = waiting.pop()
        else:
            active.pop(at)
    return found


def _text(data):
    return len(data).to_bytes(2, "big") + data


def packet(kind, body):
    """An MQTT packet."""
    length, head = len(body), bytearray([kind])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def send(port, records):
    """Publish them with QoS 1 as fast as the broker takes them, at next to no cost of our own."""
    data = memoryview(b"".join(
        packet(0x32, _text(("%s%s/%s" % (ROOT, device, stream)).encode())
               + (number % 65535 + 1).to_bytes(2, "big") + payload)
        for number, (device, _, _, stream, payload) in enumerate(records)))
    left = 4 * len(records)  # bytes of the broker's acknowledgements
    with socket.create_connection((HOST, port)) as made:
        made.sendall(packet(0x10, _text(b"MQTT") + b"\x04\x02\x00\x00" + _text(b"sender")))
        made.recv(4)
        while data:
            data = data[made.send(data[:_CHUNK]):]
            with contextlib.suppress(BlockingIOError):
                left -= len(made.recv(_CHUNK, socket.MSG_DONTWAIT))
        while left:
            came = len(made.recv(_CHUNK))
            if not came:
                raise UserError("the broker ended the connection")
            left -= came


def _run(folder, name, records):
    """One part in a process of its own: the seconds that it tells."""
    core, others = cores()
    for path in folder.glob("*.sqlite*"):
        path.unlink()
    with contextlib.ExitStack() as stack:
        port = 0
        if name in ("receive", "collect"):
            # one that keeps no messages of the part before for a collector that comes back
            broker = Broker(Path(stack.enter_context(tempfile.TemporaryDirectory(
                prefix="broker-", dir=folder))), kind="mosquitto").start()
            stack.callback(broker.stop)
            os.sched_setaffinity(broker.pid, others)
            port = broker.port
        process = stack.enter_context(subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.measure.ingest_parts", name, str(folder),
             str(core), str(port)], cwd=CHECKOUT / "tools", stdout=subprocess.PIPE, text=True))
        if port and process.stdout.readline() == "ready\n":
            send(port, records)
        try:
            return json.loads(process.stdout.readline())
        except ValueError:
            raise UserError("%s: no figure; it needs mosquitto and a quiet machine"
                            % name) from None


def rounds(devices, count):
    """[{part: seconds}] of `count` interleaved rounds, and how many records each had. Raises
    UserError where the collector has not verified and stored each of them."""
    records = as_sent(devices)
    found = []
    mine = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="evmeter-") as name:
        folder = Path(name)
        (folder / "records.jsonl").write_text("".join(
            json.dumps((*head, payload.decode())) + "\n" for *head, payload in records))
        os.sched_setaffinity(0, cores()[1])
        try:
            for _ in range(count):
                found.append({part: _run(folder, part, records) for part in (*_BARE, "collect")})
                if found[-1]["collect"]["sound"] != len(records):
                    raise UserError("the collector verified and stored %d of %d records"
                                    % (found[-1]["collect"]["sound"], len(records)))
        finally:
            os.sched_setaffinity(0, mine)
    return found, len(records)


def _share(each, kind):
    return sum(each[part][kind] for part in _BARE) / each["collect"][kind]


def ratio(devices=_DEVICES, sessions=_SESSIONS, count=_ROUNDS):
    """ingest_ratio, in seconds of the one core; and the same of whole sessions, events and
    intervals included, of which few are signed."""
    found, records = rounds([recorded.record(number, sessions, signed=True)
                             for number in range(devices)], count)
    each_us = {part: statistics.median(one[part]["cpu_s"] for one in found) * 1e6 / records
               for part in found[0]}
    wall = statistics.median(records / one["collect"]["wall_s"] for one in found)
    ratios = sorted(_share(one, "cpu_s") for one in found)
    yield ("ingest_ratio", round(statistics.median(ratios), 3),
           "%d records, microseconds of one core each: receive %.0f, check %.0f, insert %.0f; "
           "collector %.0f; %d/s by the clock (median of %d, %.2f to %.2f)" % (
               records, *(each_us[part] for part in (*_BARE, "collect")), wall, count,
               ratios[0], ratios[-1]))
    found, records = rounds([recorded.record(number, 3) for number in range(devices)],
                            (count + 1) // 2)
    wall = statistics.median(records / one["collect"]["wall_s"] for one in found)
    yield ("ingest_session_ratio", round(statistics.median(
        _share(one, "cpu_s") for one in found), 3),
        "the same of whole sessions, %d messages; %d/s by the clock" % (records, wall))
