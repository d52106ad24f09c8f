"""Campaigns `network-broker`, `network-wire` and `network-outage`: the device's own uplink under
MicroPython, a real mosquitto, the real collector and its SQLite database.

The broker is killed and started again under load while 70,000 frames pass, with some 35,000 live
messages, so that both ranges of packet ids wrap; the connection is reset at each byte of a publish
and of an acknowledgement, half-open, silent, and loses, delays and doubles packets. The device's
sockets block for ever after setblocking(True), as an ESP32's do. Rules: the database has every
number once, with the bytes that the device made; nothing is in quarantine. After 30 days without
a backend, 1,000 signed sessions of a journal come through complete.
"""

import hashlib
import os
import random
import signal
import sqlite3
import time

from evmeter_tools import firmware
from evmeter_tools.backend.sessions import device_report
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.backlog import Backlog
from evmeter_tools.faults.relay import DOWN, NEW, UP, Relay
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.uplink_stand import STALL_S, Device, Stand, payload, play

FRAMES = 70000
SESSIONS = 1000
_KILLS_PER_FRAME = 50 / FRAMES
_FROZEN_S = 0.4
_SCALE = 10
_MOST_GAP_MS = 5000
_CONTROL_FRAMES = 1500
_CONTROLS = 5  # whether a kill meets what was acknowledged and not passed on is up to chance
_BREAKS = 150 + 40  # bytes of a publish of this length, and some of the next packet
_AWAY_DAYS = 30


def judge(stand, device, result):
    """What must hold once all is over."""
    if device.stalled:
        result.wrong(device.stalled)
    stand.wait_until_settled(device.name)
    rows, bad = stand.contents(device.name)
    numbers = [seq for seq, _ in rows]
    if numbers != list(range(1, device.frames + 1)):
        missing = sorted(set(range(1, device.frames + 1)) - set(numbers))
        result.wrong("%s: %d frames, %d of %d are missing: %s" % (
            device.name, len(numbers), len(missing), device.frames, missing[:10]))
    for seq, text in rows:
        if text != payload(stand.key, seq):
            result.wrong("%s: frame %d has another content" % (device.name, seq))
    if bad:
        result.wrong("%d messages in quarantine" % bad)
    figures = device.figures()
    if figures is None:
        result.wrong("%s: not everything was confirmed" % device.name)
        return
    if figures["gap_ms"] > _MOST_GAP_MS:
        result.wrong("%s: the pilot waited for %d ms" % (device.name, figures["gap_ms"]))
    result.counts["pilot's longest gap, ms (it wants 50)"] = max(
        result.counts["pilot's longest gap, ms (it wants 50)"], figures["gap_ms"])
    for key, name in (("reconnects", "connections lost"), ("resends", "frames sent again in time"),
                      ("refused", "acknowledgements refused")):
        result.counts[name] += figures.get(key, 0)
    result.counts["frames stored"] += len(rows)
    result.counts["simulated hours"] += figures.get("simulated_s", 0) // 3600


class _Killer:
    """Kills the broker each time that so many more frames are stored; every other time the
    collector was frozen before, so that messages lie in the broker that it had acknowledged."""

    def __init__(self, stand, frames, kills):
        self._stand = stand
        self._due = [(number + 1) * frames // (kills + 1) for number in range(kills)]
        self.kills = 0

    def __call__(self, stored):
        if not self._due or stored < self._due[0]:
            return
        self._due.pop(0)
        stand = self._stand
        freeze = self.kills % 2 == 0
        if freeze:
            stand.freeze_collector(True)
            time.sleep(_FROZEN_S)
        os.kill(stand.broker.pid, signal.SIGKILL)
        stand.broker.kill()  # reaps it
        if freeze:
            stand.freeze_collector(False)
        stand.broker.start()
        self.kills += 1


def _kill(stand, name, frames, kills, result, progress=None, **words):
    killer = _Killer(stand, frames, kills)
    with Device(stand, name, stand.broker.port, frames, **words) as device:
        play(stand, device, killer, progress)
        judge(stand, device, result)
    if killer.kills < kills:
        result.wrong("%s: only %d of %d kills" % (name, killer.kills, kills))
    result.counts["broker killed"] += killer.kills


def killed(trials=FRAMES, kills=None, progress=None):
    """Campaign `network-broker`: so many frames, with a kill for each 1,400 of them."""
    result = Result("network-broker")
    with Stand("network-broker") as stand:
        _kill(stand, "net-kill", trials, kills or max(2, round(trials * _KILLS_PER_FRAME)), result,
              progress)
        result.trials = trials
        tried = Result("control")
        for number in range(_CONTROLS):
            _kill(stand, "net-trust-%d" % number, _CONTROL_FRAMES, 2, tried, design="trusts")
            if tried.violations:
                break
        result.controls["an uplink that trusts PUBACK"] = bool(tried.violations)
    return result


def _wire_faults(trials, rng):
    """Each byte of a publish and of an acknowledgement once, then the others in turn."""
    bytes_ = [("reset up", at) for at in range(_BREAKS)]
    bytes_ += [("reset down", at) for at in range(_BREAKS)]
    bytes_ = bytes_[:: max(1, 2 * len(bytes_) // trials)]
    others = [kind for kind in UP + DOWN + NEW if not kind.startswith("reset")]
    faults = bytes_ + [(others[number % len(others)], rng.randrange(_BREAKS))
                       for number in range(max(len(others), trials - len(bytes_)))]
    rng.shuffle(faults)
    return [(kind, number, 0 if kind in NEW else rng.randrange(4)) for kind, number in faults]


def _wire(stand, name, faults, result, progress=None, stall_s=STALL_S, **words):
    def told(stored):
        if progress:
            progress(relay.all - relay.left, relay.all)

    with (Relay(stand.broker.port, faults) as relay,
          Device(stand, name, relay.port, 5 * len(faults) + 20, scale=_SCALE, **words) as device):
        play(stand, device, told, stall_s=stall_s)
        judge(stand, device, result)
    if relay.left:
        result.wrong("%s: %d faults did not strike" % (name, relay.left))
    for kind, number in relay.struck.items():
        result.counts["fault: " + kind] += number


def wire(trials=600, seed=11, progress=None):
    """Campaign `network-wire`: so many faults on the way to the broker."""
    result = Result("network-wire")
    faults = _wire_faults(trials, random.Random(seed))
    with Stand("network-wire") as stand:
        _wire(stand, "net-wire", faults, result, progress)
        result.trials = len(faults)
        for name, design, control in (
                ("an uplink that trusts PUBACK", "trusts", ("lost after puback", 0, 3)),
                ("bare umqtt.simple, where a socket blocks for ever", "bare",
                 ("puback lost", 0, 3))):
            tried = Result("control")
            _wire(stand, "net-" + design, [control], tried, stall_s=5, design=design)
            result.controls[name] = bool(tried.violations)
    return result


def _away(stand, backlog, days, result, progress):
    """The device, while nobody collects: the broker dies three times in the days; then the
    collector comes. Returns what the device said."""
    with Device(stand, "net-away", stand.broker.port, 0, spki=backlog.known["spki"],
                key=backlog.known["k"], folder=backlog.folder, live=False,
                away_days=days) as device:
        for tenth in range(10):
            if not device.line().startswith("away"):
                break
            if tenth in (2, 5, 8):
                stand.broker.kill()
                stand.broker.start()
        stand.start_collector()
        frames = len(backlog.hashes)
        play(stand, device, lambda stored: progress and progress(stored, frames))
        if device.stalled:
            result.wrong(device.stalled)
        return device.figures()


def _judge_away(stand, backlog, sessions, figures, result):
    rows, bad = stand.contents("net-away")
    if [seq for seq, _ in rows] != list(range(1, len(backlog.hashes) + 1)):
        result.wrong("%d frames in the database, %d in the journal"
                     % (len(rows), len(backlog.hashes)))
    for (seq, text), digest in zip(rows, backlog.hashes, strict=False):
        if hashlib.sha256(text).hexdigest() != digest:
            result.wrong("frame %d has another content" % seq)
    store = Store(stand.database)
    report = device_report(store, "net-away")
    refused = sum(row.verdict != "ok" for row in store.rows("net-away"))
    store.close()
    whole = sum(session.ok and session.state == "complete" for session in report.sessions)
    if whole != sessions or not report.ok:
        result.wrong("%d of %d sessions complete" % (whole, sessions))
    if bad or refused:
        result.wrong("%d messages in quarantine, %d refused" % (bad, refused))
    if figures is None:
        result.wrong("not everything was confirmed")
    elif figures["early"]:
        result.wrong("%d frames were published while nobody collected" % figures["early"])
    result.counts["frames stored"] = len(rows)
    result.counts["sessions complete"] = whole


def outage(trials=SESSIONS, progress=None, days=_AWAY_DAYS):
    """Campaign `network-outage`: so many sessions wait for a backend that is away."""
    firmware.reach()
    result = Result("network-outage")
    with Stand("network-outage") as stand:
        stand.stop_collector()
        backlog = Backlog(stand.folder / "device", "net-away")
        backlog.fill(trials, days)
        figures = _away(stand, backlog, days, result, progress)
        _judge_away(stand, backlog, trials, figures, result)
        result.trials = trials
        result.counts["days away"] = days
        if figures:
            result.counts["connections lost"] = figures["reconnects"]
            result.counts["frames a second"] = figures["frames"] * 1000 // max(1, figures["ms"])
        stand.stop_collector()  # it still works up what it has
        with sqlite3.connect(stand.database, timeout=30) as database:  # a session is not there
            database.execute("delete from record where seq = ?", (len(backlog.hashes) // 2,))
        database.close()
        tried = Result("control")
        _judge_away(stand, backlog, trials, figures, tried)
        result.controls["a frame that is missing in the database"] = bool(tried.violations)
    return result
