"""What the stored records say: sessions, gaps in the numbers, energy outside of sessions."""

import json
from dataclasses import dataclass
from itertools import islice, pairwise

from evmeter_tools.verify.audit import check_entries
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from evmeter_tools.verify.parse import parse_key

_TIME_RANK = "UIRS".index  # how good a quality of time is
_DRIFT_PPM = 100  # of a device's crystal
_MOST_MISSING = 10_000
_HALF_S_MS = 500  # messages are dated in whole seconds
_LATEST_MS = 2**32 * 1000


@dataclass
class Balance:
    """A device's energy as its messages account for it, in mWh, and what is missing."""

    first_mwh: int | None = None  # register at the first boot that is known
    last_mwh: int | None = None  # register after the last accounted event
    sessions_mwh: int = 0
    outside_mwh: int = 0
    gap_mwh: int = 0  # part of the sessions: flowed while the device was off
    jump_mwh: int = 0  # the register went on from elsewhere by so much; no energy
    missing: tuple = ()

    @property
    def exact(self):
        """Whether sessions and outside energy are the register's own difference."""
        if self.first_mwh is None or self.last_mwh is None:
            return False
        accounted_mwh = self.sessions_mwh + self.outside_mwh + self.jump_mwh
        return accounted_mwh == self.last_mwh - self.first_mwh


def device_report(store, device):
    """The verdict (verify.device.Report) over all stored records and audit entries of `device`."""
    spki = {key: value for (name, key), value in store.trusted().items() if name == device}
    verdicts = []
    for row in store.rows(device, "rec"):
        verdicts.append(check_record(text_of_record(row), spki[row.key_id]))
    entries, before_key = check_entries(
        [(_text(row.payload), None) for row in store.rows(device, "log")],
        {parse_key(value) for value in spki.values()})
    return check_all(verdicts, entries=entries, before_key=before_key, enrolled=True)


def text_of_record(row):
    """The record's text in a stored message of the stream `rec`; what was refused may have
    anything in its place."""
    text = str(json.loads(row.payload).get("ocmf"))
    return text.encode("utf-8", "backslashreplace").decode()


def _text(payload):
    """A message's text, word for word: its bytes again when it is encoded the same way."""
    return payload.decode("utf-8", "surrogateescape")


def missing_numbers(store, device):
    """Sequence numbers of `device` that were passed over, per key, the first 10,000; keys that
    took over from each other count together."""
    held = {}
    lines = store.lines()
    for row in store.rows(device):
        held.setdefault(lines.get((device, row.key_id), row.key_id), []).append(row.seq)
    return tuple(islice((
        seq for numbers in held.values() for before, after in pairwise([0, *sorted(set(numbers))])
        for seq in range(before + 1, after)), _MOST_MISSING))


def balance(store, device):
    """The energy balance of `device` from its messages (whole numbers, mWh)."""
    result = Balance(missing=missing_numbers(store, device))
    for row in store.rows(device):
        message = json.loads(row.payload)
        outside_mwh = message.get("out_mwh", 0)
        result.outside_mwh += outside_mwh
        if row.kind == "boot" and result.first_mwh is None:
            result.first_mwh = message["reg_mwh"] - outside_mwh
        if row.kind == "meter_rebase":
            result.jump_mwh += message["jump_mwh"]
        if row.kind == "complete":
            session_mwh = message["reg_mwh"] - message["begin_mwh"] - message["jump_mwh"]
            result.sessions_mwh += session_mwh
            result.gap_mwh += message["gap_mwh"]
        if "reg_mwh" in message:
            result.last_mwh = message["reg_mwh"]
    return result


@dataclass(frozen=True)
class TrueTime:
    """When a record was really made, as a later entry of the same boot shows."""

    unix_ms: int
    uncertainty_ms: int
    quality: str  # of the entry that tells: I or S
    told_by: int  # its sequence number


class _Boot:
    """One boot's ticks: which records they date, and the entry that binds them best."""

    def __init__(self):
        self.mono_ms = {}  # sequence number -> ms since boot
        self.best = None

    def take(self, note):
        if self.best is None or _TIME_RANK(note["q"]) > _TIME_RANK(self.best["q"]):
            self.best = note

    def times(self):
        best = self.best
        for seq, mono_ms in self.mono_ms.items():
            drift_ms = abs(best["mono_ms"] - mono_ms) * _DRIFT_PPM // 10**6
            yield seq, TrueTime(best["unix_ms"] - best["mono_ms"] + mono_ms,
                                best["unc_ms"] + drift_ms + _HALF_S_MS, best["q"], best["seq"])


def _tells_time(message):
    """Whether it is an audit entry that binds ticks to real time."""
    return (message.get("ev") in ("clock_bound", "clock_step") and message.get("q") in ("I", "S")
            and all(isinstance(message.get(name), int) and abs(message[name]) < _LATEST_MS
                    for name in ("seq0", "mono_ms", "unix_ms", "step_ms", "unc_ms")))


def _is_dated(message):
    """Whether it has a Unix time, known or not: nobody signs that of an event."""
    at_s = message.get("ts")
    return type(at_s) is int and abs(at_s) * 1000 < _LATEST_MS


def corrected_times(messages):
    """Sequence number -> TrueTime of the records that were dated before the clock was known.

    `messages`: (stream, message as a dict) of one key, by sequence number, those with a bad
    signature left out. A record whose `tq` is U is dated by the audit entries
    `clock_bound` and `clock_step` of its own boot: they say what the clock showed before and
    after it was set at an instant of the ticks. What was signed stays as it is.
    """
    boots = {}
    waiting = []
    for stream, message in messages:
        if stream == "log" and _tells_time(message):
            boot = boots.setdefault(message["seq0"], _Boot())
            # unix time minus ticks, as the clock had it before
            before_ms = message["unix_ms"] - message["mono_ms"] - message["step_ms"]
            for seq, unix_ms in waiting:
                if seq >= message["seq0"]:
                    boot.mono_ms[seq] = unix_ms - before_ms
            waiting = []
            boot.take(message)
        elif message.get("tq") == "U" and _is_dated(message):
            waiting.append((message["seq"], message["ts"] * 1000 + _HALF_S_MS))
    return {seq: when for boot in boots.values() for seq, when in boot.times()}


def device_times(store, device):
    """corrected_times of each key of `device`: {(key id, sequence number): TrueTime}."""
    by_key = {}
    for row in store.rows(device):
        if row.verdict == "ok":
            by_key.setdefault(row.key_id, []).append((row.stream, json.loads(row.payload)))
    return {(key_id, seq): when for key_id, messages in by_key.items()
            for seq, when in corrected_times(messages).items()}


def session_times(store, device):
    """{session id: {"begin" or "complete": TrueTime}} of the records of `device` that were dated
    before its clock was known."""
    times = device_times(store, device)
    found = {}
    for row in store.rows(device, "rec"):
        when = times.get((row.key_id, row.seq))
        if when:
            found.setdefault(row.sid, {})[row.kind] = when
    return found


def export_lines(store, device=None):
    """Every stored record and audit entry as a JSON line with its device's public key."""
    spki = store.trusted()
    for row in store.rows(device):
        if row.stream not in ("rec", "log"):
            continue
        line = {"device": row.device, "seq": row.seq}
        if row.stream == "rec":
            line["ocmf"] = json.loads(row.payload).get("ocmf")
        else:
            line["log"] = _text(row.payload)
        yield json.dumps({**line, "spki": spki[row.device, row.key_id]})
