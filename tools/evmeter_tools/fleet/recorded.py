"""Recorded sessions of many devices: written and signed by the firmware's own ledger, each device
with a key of its own."""

import json
import random
from dataclasses import dataclass

from evmeter_tools.sample.device import SampleDevice

_BEGIN_UNIX_MS = 1_790_000_000_000
_DAY_MS = 86_400_000
_FIRST_SECRET = 1000
_POWERS_W = (3680, 7360, 11000)


@dataclass
class Recorded:
    """One device's history: `frames` are (stream, bytes), number 1 first."""

    name: str
    key_id: str
    spki: str
    frames: list

    def line(self):
        """As a line of a file, for fleet/replay.py."""
        return json.dumps({"device": self.name, "k": self.key_id, "frames": [
            (stream, payload.decode()) for stream, payload in self.frames]}) + "\n"


class _Signed(SampleDevice):
    """Writes its signed records alone."""

    def event(self, *_, **__):
        """None."""

    def run(self, seconds, power_w=0):
        """Let time pass in one step."""
        self.unix_ms += seconds * 1000
        self._register_nj += power_w * seconds * 1000
        return self


def record(number, sessions=1, signed=False):
    """The history of device `number`: a boot and so many sessions, or with `signed` of the
    sessions only what is signed. The same numbers give the same sessions; the signatures differ.
    """
    choose = random.Random(number)
    device = (_Signed if signed else SampleDevice)(
        "replay-%05d" % number, _BEGIN_UNIX_MS + choose.randrange(_DAY_MS),
        choose.randrange(10**6) * 1000, secret=_FIRST_SECRET + number)
    for _ in range(sessions):
        device.run(choose.randrange(60, 1200))
        device.plug().charge(choose.randrange(600, 3600), choose.choice(_POWERS_W))
        device.phase("finished_estimated", choose.randrange(60, 900)).unplug()
    return Recorded(device.name, device.key_id, device.spki, device.messages)
