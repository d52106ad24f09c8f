"""What devices say of now: the newest message of each topic, the state for the pages, alarms.

A status is newer by (boot, n), whatever order it comes in; what is older changes nothing.
"""

import json
import math
import re

import sqlalchemy as sql

from evmeter_tools.backend import notices
from evmeter_tools.backend.supply import Supply
from evmeter_tools.backend.tables import commands, live, samples, spans, states
from evmeter_tools.insight.uptime import DOWN
from evmeter_tools.insight.workup import renew_downs
from evmeter_tools.words import is_plain

OFFLINE = "offline"
UNKNOWN = "unknown"
AVAILABLE = "available"
FAULT = "fault"
_PHASES = ("connected", "charging", "suspended_ev", "suspended_evse", FAULT)
_TOPICS = ("avail", "info", "status", "tel", "diag", "cfg", "cmd/res")
SILENT = b"silent"  # in place of a device's own word at `avail`
_NEVER_KEPT = ("tel", "diag")  # by no broker: whoever says it is there
SUBSCRIPTIONS = (*_TOPICS, "alarm/+")
_MAX_BYTES = 8192
_LATE_MS = 60_000  # a lower number that comes later than this is a new boot, not an old message
_DENSE_MS = 1000  # of the samples of a session's first minutes
_SPARSE_MS = 10_000
_DENSE_FOR_MS = 300_000
_CODE = re.compile(r"alarm/([A-Z][A-Z0-9_]{0,31})", re.ASCII)
_SEVERITIES = (notices.CRITICAL, notices.WARNING, "info")
_HIGHEST = 2**53  # exact in every browser, and the database can add up many
_LATEST_S = 2**40
_DEEPEST = 20


def newest(store, device, topic):
    """The newest live message of a topic as a dict that can be told on as JSON; {} where there is
    none or no JSON."""
    return newest_at(store, device, topic)[0]


def newest_at(store, device, topic):
    """The same with the Unix ms at which it came, 0 where there is none."""
    with store.engine.connect() as connection:
        row = connection.execute(sql.select(live.c.payload, live.c.received_at).where(
            live.c.device == device, live.c.topic == topic)).first()
    try:
        found = json.loads(row.payload) if row else {}
    except (ValueError, RecursionError):
        found = {}
    return (_tellable(found) if isinstance(found, dict) else {}), (
        row.received_at if row else 0)


def _tellable(value, depth=0):
    """A value of JSON without what other readers refuse: texts that are no Unicode, numbers that
    are none, and what is nested deeper than anything that a device has to say."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (dict, list)) and depth == _DEEPEST:
        return None
    if isinstance(value, dict):
        return {_tellable(name): _tellable(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_tellable(each, depth + 1) for each in value]
    return value


def whole(value, least=0, most=_HIGHEST):
    """`value` where it is a whole number that the database can hold, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < most:
        return value
    return None


def _parse(payload):
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _plain(value, longest):
    return value if is_plain(value, longest) else ""


class Live:
    """Takes live messages in batches, from one thread."""

    def __init__(self, store):
        self._store = store
        self._devices = set()
        self._supply = Supply(store)
        self._silent = set()  # devices that are off line because nothing was heard of them
        self._sampled = {}  # device -> (session, its first sample, its last one), ms

    def _known(self, device):
        if device not in self._devices:
            self._devices = {device for device, _ in self._store.trusted()}
        return device in self._devices

    def take(self, batch):
        """Commit a batch of (device, topic, payload, received at ms), oldest first."""
        batch = [item for item in batch if len(item[2]) <= _MAX_BYTES and self._known(item[0])]
        if not batch:
            return
        self._supply.forget()  # of a batch that was not committed
        with self._store.turn, self._store.engine.begin() as connection:
            devices = {device for device, *_ in batch}
            held = {row.device: dict(row._mapping) for row in connection.execute(
                sql.select(states).where(states.c.device.in_(devices)))}
            before = {device: dict(row) for device, row in held.items()}
            touched = {}
            for device, topic, payload, at in batch:
                touched[device] = at
                row = held.setdefault(device, {
                    "device": device, "online": False, "state": UNKNOWN, "since_at": at, "cp": "",
                    "sid": "", "power_mw": None, "session_mwh": None, "register_mwh": None,
                    "progress": "", "unsent": 0, "heard_at": at, "changed_at": at})
                self._one(connection, row, topic, bytes(payload), at)
            for device, row in held.items():
                self._save(connection, before.get(device), row, touched[device])
            self._supply.write(connection)

    def silent_since(self, before_ms):
        """The devices that are on line by the broker's word and were not heard since then."""
        with self._store.engine.connect() as connection:
            return connection.execute(sql.select(states.c.device).where(
                states.c.online.is_(True), states.c.heard_at < before_ms)).scalars().all()

    def _one(self, connection, row, topic, payload, at):
        if topic in _NEVER_KEPT and row["device"] in self._silent:
            self._avail(connection, row, True, at)  # it is there after all
        code = _CODE.fullmatch(topic)
        if code:
            self._alarm(connection, row["device"], code[1], payload, at)
        elif topic == "avail":
            self._avail(connection, row, payload == b"online", at)
            if payload == SILENT:
                self._silent.add(row["device"])
        elif topic in _TOPICS:
            message = _parse(payload)
            if not message or not self._note(connection, row["device"], topic, message, payload,
                                             at):
                return
            if topic == "status":
                self._status(row, message)
                self._supply.offered(row["device"], whole(message.get("i_max_ma")))
            elif topic == "tel":
                self._telemetry(connection, row, message, at)
            elif topic == "cmd/res":
                self._answer(connection, row["device"], message, payload, at)
        if topic != "avail":
            row["heard_at"] = max(at, row["heard_at"])

    def _note(self, connection, device, topic, message, payload, at):
        """Keep the newest message of a topic; returns whether this is it."""
        held = connection.execute(sql.select(live.c.boot, live.c.n, live.c.received_at).where(
            live.c.device == device, live.c.topic == topic)).first()
        boot, n = whole(message.get("boot")), 0
        if topic == "status":
            n = whole(message.get("n")) or 0
            if boot is None:
                boot = connection.execute(sql.select(live.c.boot).where(
                    live.c.device == device, live.c.topic == "info")).scalar()
        boot = boot or 0
        if held and (boot, n) < (held.boot, held.n) and at - held.received_at < _LATE_MS:
            return False
        values = {"payload": payload, "received_at": at, "boot": boot, "n": n}
        connection.execute(self._store.insert(live).values(
            device=device, topic=topic, **values).on_conflict_do_update(
                index_elements=[live.c.device, live.c.topic], set_=values))
        return True

    def _avail(self, connection, row, online, at):
        self._silent.discard(row["device"])
        row["online"] = online
        if online:
            notices.clear_alarm(connection, row["device"], notices.OFFLINE, at)
            row["heard_at"] = at
            return
        row["power_mw"] = None
        notices.raise_alarm(connection, row["device"], notices.OFFLINE, notices.WARNING,
                            "no word from the charger", at, at)

    @staticmethod
    def _status(row, message):
        phase = message.get("st")
        row["cp"] = _plain(message.get("cp"), 2)
        row["sid"] = _plain(message.get("sid"), 36)
        row["progress"] = _plain(message.get("prog"), 24)
        row["unsent"] = whole(message.get("pend")) or 0
        row["session_mwh"] = whole(message.get("s_mwh"))
        if row["cp"] in ("E", "F"):
            row["state"] = FAULT
        else:
            row["state"] = phase if phase in _PHASES else AVAILABLE if phase == "idle" else UNKNOWN

    def _telemetry(self, connection, row, message, at):
        row["power_mw"] = whole(message.get("p_mw"), -_HIGHEST)
        row["register_mwh"] = whole(message.get("e_mwh"))
        row["session_mwh"] = whole(message.get("s_mwh"))
        self._supply.take(row["device"], message, at, row["state"] == "charging")
        sid = _plain(message.get("sid"), 36)
        if not sid or row["power_mw"] is None:
            return
        device = row["device"]
        first_at, last_at = self._sampled.get(device, ("", 0, 0))[1:]
        if self._sampled.get(device, ("",))[0] != sid:
            first_at, last_at = at, 0
        every_ms = _DENSE_MS if at - first_at < _DENSE_FOR_MS else _SPARSE_MS
        if at - last_at < every_ms - 200:
            return
        self._sampled[device] = sid, first_at, at
        connection.execute(self._store.insert(samples).values(
            device=device, at_ms=at, sid=sid, power_mw=row["power_mw"],
            session_mwh=row["session_mwh"]).on_conflict_do_nothing())

    @staticmethod
    def _alarm(connection, device, code, payload, at):
        message = _parse(payload)
        if not payload:
            notices.clear_alarm(connection, device, code, at)
        elif message and code not in notices.OWN:
            severity, text = message.get("sev"), message.get("text")
            onset_s = whole(message.get("on_ts", message.get("ts")), most=_LATEST_S)
            number = notices.raise_alarm(
                connection, device, code,
                severity if severity in _SEVERITIES else notices.WARNING,
                text if is_plain(text, 400) else "", at if onset_s is None else onset_s * 1000,
                at, whole(message.get("n"), 1) or 1, message.get("act") is not False)
            if message.get("ack") is True:
                notices.acknowledge(connection, number, "at the charger", "", at)

    @staticmethod
    def _answer(connection, device, message, payload, at):
        number = message.get("id")
        if is_plain(number, 36):
            connection.execute(sql.update(commands).where(
                commands.c.id == number, commands.c.device == device,
                commands.c.answered_at.is_(None)).values(
                    answered_at=at, answer=payload.decode("ascii", "backslashreplace")[:1000]))

    def _save(self, connection, before, row, at):
        """Write a state that has changed, and the span that a new state begins."""
        if row == before:
            return
        row["changed_at"] = at
        shown = row["state"] if row["online"] else OFFLINE
        was = None
        if before:
            was = before["state"] if before["online"] else OFFLINE
        if shown != was:
            row["since_at"] = at
            connection.execute(sql.update(spans).where(
                spans.c.device == row["device"], spans.c.to_ms.is_(None)).values(to_ms=at))
            connection.execute(sql.insert(spans).values(
                device=row["device"], state=shown, from_ms=at))
            if {shown, was} & set(DOWN):
                renew_downs(self._store, connection, row["device"])
        connection.execute(self._store.insert(states).values(row).on_conflict_do_update(
            index_elements=[states.c.device], set_=row))

    def forget_samples(self, before_ms):
        """Delete the samples made before that."""
        with self._store.engine.begin() as connection:
            connection.execute(sql.delete(samples).where(samples.c.at_ms < before_ms))
