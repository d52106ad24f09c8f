"""Protocol-level devices, a process of its own: each plays its recorded frames, obeys the
acknowledgements and repeats what none has named.

    python -m evmeter_tools.fleet.replay RECORDED HOST PORT [--user U] [--spread S]

The password is taken from EVMETER_BROKER_PASSWORD. A JSON line a second tells how far it is; ends
when everything is acknowledged or standard input is closed. One connection speaks for many
devices, which the log-in has to be allowed to.
"""

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections import deque

from evmeter_tools import firmware
from evmeter_tools.backend import mqtt

firmware.reach()

from evmeter.uplink.publisher import parse_ack  # noqa: E402 - the firmware's own

WINDOW = 8
_RESEND_S = 10  # and twice as long each time, as the firmware does
_LONGEST_RESEND_S = 60
_LOOK_S = 0.5
_TELL_S = 1
_SUBSCRIBED_AT_ONCE = 100
_MOST_UNSENT = 1000  # messages on one connection


class Device:
    """One device's delivery; times are monotonic seconds."""

    def __init__(self, name, key_id, frames):
        self.name = name
        self.key_id = key_id
        self.frames = frames
        self.cursor = 0  # everything up to here is acknowledged
        self._named = set()
        self._sent = {}  # number -> [first sent, last sent, so long until it is sent again]
        self._published = 0

    @property
    def done(self):
        """Whether every frame is acknowledged."""
        return self.cursor == len(self.frames)

    def due(self, now):
        """The numbers to send now: those again that were not acknowledged in time, and new
        ones."""
        again = []
        for seq, sent in self._sent.items():
            if now - sent[1] >= sent[2]:
                sent[1], sent[2] = now, min(2 * sent[2], _LONGEST_RESEND_S)
                again.append(seq)
        new = []
        while len(self._sent) < WINDOW and self._published < len(self.frames):
            self._published += 1
            self._sent[self._published] = [now, now, _RESEND_S]
            new.append(self._published)
        return again, new

    def acknowledged(self, payload, now):
        """Take an acknowledgement; yields the seconds since each frame that it names was sent
        first. Raises ValueError where the firmware would refuse it."""
        cum, named, bad = parse_ack(payload, self.key_id, self._published)
        self._named.update(named + bad)
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in self._named:
            self.cursor += 1
        for seq in [seq for seq in self._sent if seq <= self.cursor or seq in self._named]:
            yield now - self._sent.pop(seq)[0]


class Replay:
    """All devices over a few connections. `figures` are what is told."""

    def __init__(self, devices, address, connections=8, spread_s=60):
        self._devices = {device.name: device for device in devices}
        self._queue = queue.SimpleQueue()
        self._backend = threading.Event()
        self._lock = threading.Lock()
        self._clients = []
        self._client_of = {}
        self._unsent = {}  # client -> messages that the broker has not taken yet
        self._spread_s = spread_s
        self._waits_ms = {}  # ms from the first sending to the acknowledgement -> how often
        self.figures = {"devices": len(self._devices), "begun": 0, "done": 0, "frames": sum(
            len(device.frames) for device in devices), "sent": 0, "again": 0, "acked": 0,
            "refused": 0}
        count = min(connections, len(devices))
        for number in range(count):
            mine = list(self._devices)[number::count]
            client = mqtt.client(address, "fleet-%d" % number)
            client.max_queued_messages_set(0)
            client.max_inflight_messages_set(1000)
            client.on_message = self._message
            client.on_publish = self._on_publish
            self._unsent[client] = 0
            mqtt.connect(client, address, lambda made, mine=mine: self._subscribe(made, mine))
            self._clients.append(client)
            self._client_of.update(dict.fromkeys(mine, client))

    @staticmethod
    def _subscribe(client, names):
        for first in range(0, len(names), _SUBSCRIBED_AT_ONCE):
            client.subscribe([("%s%s/ack" % (mqtt.ROOT, name), 1)
                              for name in names[first:first + _SUBSCRIBED_AT_ONCE]])
        client.subscribe(mqtt.HOST_STATE, 1)

    def _on_publish(self, client, *_):
        with self._lock:
            self._unsent[client] -= 1

    def _message(self, _client, _data, message):
        if message.topic == mqtt.HOST_STATE:
            if json.loads(message.payload).get("online") is True:
                self._backend.set()
            else:
                self._backend.clear()
            return
        self._queue.put((message.topic.split("/")[2], message.payload, time.monotonic()))

    def close(self):
        """End the connections."""
        for client in self._clients:
            mqtt.close(client)

    def run(self, told, ended):
        """Deliver everything; `told(figures)` each second. `ended` (an Event) breaks it off."""
        names = deque(self._devices)
        active = {}
        begun = time.monotonic()
        look = tell = begun
        self.figures["seconds"] = 0
        while self.figures["done"] < len(self._devices) and not ended.is_set():
            now = time.monotonic()
            begin = len(self._devices) * min(1, (now - begun) / self._spread_s
                                             if self._spread_s else 1)
            while names and self.figures["begun"] < begin and self._backend.is_set():
                self.figures["begun"] += 1
                name = names.popleft()
                active[name] = self._devices[name]
                self._greet(name)
                self._send(name, now)
            self._take(active)
            if now - look >= _LOOK_S:
                look = now
                for name in list(active):
                    self._send(name, now)
            if now - tell >= _TELL_S:
                tell = now
                told(self._told(begun))
        return self._told(begun)

    def _told(self, begun):
        figures = self.figures
        figures["seconds"] = round(time.monotonic() - begun, 3)
        figures.update({"p50_ms": self._wait_ms(0.5), "p95_ms": self._wait_ms(0.95),
                        "most_ms": max(self._waits_ms, default=0)})
        return figures

    def _wait_ms(self, share):
        left = share * sum(self._waits_ms.values())
        for wait_ms in sorted(self._waits_ms):
            left -= self._waits_ms[wait_ms]
            if left <= 0:
                return wait_ms
        return 0

    def _greet(self, name):
        client, root = self._client_of[name], mqtt.ROOT + name
        with self._lock:
            self._unsent[client] += 2
        client.publish(root + "/avail", b"online", 1, True)
        client.publish(root + "/status", json.dumps({
            "v": 1, "ts": int(time.time()), "tq": "I", "n": 1, "st": "idle", "cp": "A",
            "pend": len(self._devices[name].frames)}), 1, True)

    def _send(self, name, now):
        device = self._devices[name]
        client = self._client_of[name]
        # a device's own connection would hold it up as well
        if not self._backend.is_set() or self._unsent[client] > _MOST_UNSENT:
            return
        again, new = device.due(now)
        self.figures["again"] += len(again)
        for seq in again + new:
            stream, payload = device.frames[seq - 1]
            with self._lock:
                self._unsent[client] += 1
            client.publish("%s%s/%s" % (mqtt.ROOT, name, stream), payload, 1)
            self.figures["sent"] += 1

    def _take(self, active):
        """Take the acknowledgements that have come, and send what they make room for."""
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=0.02)
            while True:
                name, payload, at = item
                device = self._devices[name]
                try:
                    for wait_s in device.acknowledged(payload, at):
                        self.figures["acked"] += 1
                        wait_ms = int(wait_s * 1000)
                        self._waits_ms[wait_ms] = self._waits_ms.get(wait_ms, 0) + 1
                except ValueError:
                    self.figures["refused"] += 1
                if name in active:
                    if device.done:
                        del active[name]
                        self.figures["done"] += 1
                    else:
                        self._send(name, time.monotonic())
                item = self._queue.get_nowait()


def read(path):
    """The Devices of a file of recorded sessions."""
    with open(path) as lines:
        for line in lines:
            found = json.loads(line)
            yield Device(found["device"], found["k"],
                         [(stream, text.encode()) for stream, text in found["frames"]])


def _say(figures):
    print(json.dumps(figures), flush=True)


def main():
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="devices that replay recorded sessions")
    parser.add_argument("recorded")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--user", default="")
    parser.add_argument("--spread", type=float, default=60, help="seconds until the last begins")
    options = parser.parse_args()
    ended = threading.Event()

    def wait():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    replay = Replay(list(read(options.recorded)), mqtt.Address(
        options.host, options.port, options.user, os.environ.get("EVMETER_BROKER_PASSWORD", "")),
        spread_s=options.spread)
    _say({**replay.run(_say, ended), "over": True})
    replay.close()


if __name__ == "__main__":
    main()
