"""Judge an input: all records of its devices across their sessions, with their audit entries."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from evmeter_tools.verify.audit import check_entries
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import key_id
from evmeter_tools.verify.sessions import check_session, device_of, gap, step_faults, unique

_CLOCK_SLACK = timedelta(days=1)
_NO_HASH = "0" * 32  # what the first record of a device names


@dataclass
class Report:
    """The verdict over an input: its records, sessions and audit entries (audit.Entry), and what
    concerns them together."""

    records: list
    sessions: list
    reasons: list
    notes: list
    entries: list = field(default_factory=list)

    @property
    def ok(self):
        """Tell whether every record, every session, every entry and what joins them holds."""
        return not self.reasons and all(
            part.ok for part in self.records + self.sessions + self.entries)


def _group(records):
    """Return [(id, records)]: by ZS, else a begin record with what follows it in page order."""
    groups = {}
    running = {}
    latest = {}
    for record in records:
        device = device_of(record)
        name = "page %s" % record.get("PG")
        if record.session is not None:
            # by its id alone, so that records of one session under two serial numbers meet
            name, device = record.session, None
        elif record.kind == "begin":
            running[device] = latest[device] = name
        elif record.kind == "complete":
            name = latest[device] = running.pop(device, name)
        elif record.kind == "tariff":
            name = latest.get(device, name)
        groups.setdefault((device, name), []).append(record)
    return [(name, group) for (_, name), group in groups.items()]


def _succession(name, before, end, after, report):
    """Judge the begin reading of a record against the newest end reading before it."""
    pages = "from T%d to T%d" % (before.page, after.page)
    if before.get("MS") != after.get("MS"):
        report.notes.append("%s: the meter changes %s" % (name, pages))
    elif None not in (end.mwh, after.readings[0].mwh) and after.readings[0].mwh < end.mwh:
        report.reasons.append("%s: the register goes back %s" % (name, pages))
    if after.readings[0].time < end.time:
        # Without a clock that was set, the order of times proves nothing.
        unsure = "U" in (end.quality, after.readings[0].quality)
        (report.notes if unsure else report.reasons).append(
            "%s: the time goes back %s" % (name, pages))


def _check_device(records, inside, report, is_whole):
    """Judge all records of one device and key across its sessions: pages, chain, registers, times.

    `inside` has the pairs of neighbours that `check_session` has judged already.
    """
    name = device_of(records[0])
    ended = None
    for before, after in pairwise(records):
        if before.kind == "complete" and before.readings:
            ended = before
        if (id(before), id(after)) in inside:
            continue
        report.reasons += ["%s: %s" % (name, fault) for fault in step_faults(before, after)]
        missing = gap(before, after)
        if missing:
            (report.reasons if is_whole else report.notes).append(
                "%s: %s in the input" % (name, missing))
        if ended and after.readings and after.kind in ("begin", "complete"):
            _succession(name, ended, ended.readings[-1], after, report)


def _check_keys(devices, before_key, enrolled, report):
    """Judge the devices whose records are signed by more than one key, and the keys that sign for
    more than one device. A change that both keys signed, or keys that are trusted for the device
    by other means (`enrolled`), explain the former."""
    spans, owners = {}, {}
    for (device, _), group in devices.items():
        owners.setdefault(group[0].key, set()).add(device)
        own = spans.setdefault(device, {})
        for record in group:
            own.setdefault(record.key, []).append(record.page)
    for key, names in owners.items():
        if key is not None and len(names) > 1:
            report.reasons.append("key %s signs for more than one device: %s"
                                  % (key_id(key), ", ".join(sorted(names))))
    for device, keys in spans.items():
        if len(keys) < 2:
            continue
        words = ", ".join("%s: T%d to T%d" % (key and key_id(key), min(pages), max(pages))
                          for key, pages in keys.items())
        explained = enrolled or sum(before_key.get(key) in keys for key in keys) == len(keys) - 1
        if explained:
            report.notes.append("%s: signed by %d keys (%s)" % (device, len(keys), words))
        else:
            report.reasons.append("%s: signed by %d keys (%s), and no change of the key that both "
                                  "signed is in the input" % (device, len(keys), words))
        for key, pages in keys.items():
            if before_key.get(key) in keys and min(pages) <= max(keys[before_key[key]]):
                report.reasons.append("%s: key %s goes on signing after its successor began"
                                      % (device, key_id(before_key[key])))


def _check_entries(report):
    """Judge the audit entries together: no number twice."""
    seen = {}
    for entry in report.entries:
        if entry.seq is None:
            continue
        same = entry.key_id, entry.seq
        if same in seen:
            report.reasons.append("audit entry %d was given out twice, with different contents"
                                  % entry.seq)
        seen[same] = entry


def _abandoned_faults(sessions):
    """Yield the open sessions that later pages of the device follow: only one can be open."""
    newest = {}
    for session in sessions:
        for record in session.records:
            device = device_of(record)
            page = -1 if record.page is None else record.page
            newest[device] = max(newest.get(device, -1), page)
    for session in sessions:
        last = session.records[-1]
        if session.state == "open" and newest[device_of(last)] > last.page:
            yield ("%s: its complete record is missing, and later ones are in the input"
                   % session.id)


def _first_key(key, before_key):
    """The key at the beginning of a chain of changes."""
    met = set()
    while key in before_key and key not in met:
        met.add(key)
        key = before_key[key]
    return key


def check_all(records, *, is_whole=False, entries=(), before_key=None, enrolled=False):
    """Judge all records of an input (`Verdict`s); return a `Report`.

    Pages missing between sessions are a note, not a fault: an input may be a selection, unless
    `is_whole` says that it is all that the device has written from its first page on. `entries`
    and `before_key` are what audit.check_entries returns; `enrolled` says that each record's key
    is trusted for its device by other means.
    """
    before_key = before_key or {}
    readable = unique([record for record in records if record.payload is not None])
    own = {}
    for entry in entries:
        if entry.own and entry.ok:
            same = entry.session, _first_key(entry.key, before_key)
            own.setdefault(same, []).append(entry.own)
    sessions = []
    for name, group in _group(readable):
        same = name, _first_key(group[0].key, before_key)
        sessions.append(check_session(group, name, own.pop(same, ()), before_key))
    report = Report(records, sessions, list(_abandoned_faults(sessions)), [], list(entries))
    report.notes += ["%s: the meter's own records are in the input, ours are not" % sid
                     for sid, _ in own]
    inside = {
        (id(before), id(after))
        for session in sessions
        for before, after in pairwise(session.records)
    }
    devices = {}
    for record in readable:
        if record.page is not None:
            first = _first_key(record.key, before_key)
            devices.setdefault((device_of(record), first), []).append(record)
    for (device, _), group in devices.items():
        _check_device(group, inside, report, is_whole)
        if is_whole and group[0].page > 1 and len([d for d, _ in devices if d == device]) == 1:
            report.reasons.append("%s: the input begins with T%d" % (device, group[0].page))
        if group[0].page == 1 and group[0].get("ZP") not in (None, _NO_HASH):
            report.reasons.append("%s: T1 names a record before it" % device)
    if is_whole:
        report.reasons += ["%s: its begin record is missing" % session.id for session in sessions
                           if session.end and session.records[0].kind != "begin"]
    _check_keys(devices, before_key, enrolled, report)
    _check_entries(report)
    copies = len(records) - len({record.text for record in records})
    if copies:
        report.notes.append("%d record(s) stand in the input more than once" % copies)
    return report


def _key_for(text, own, given, trusted):
    """The key to judge a record by: the one beside it where that is trusted, else the one of the
    trusted that fits, else the given one."""
    if not given or own in trusted:
        return own
    fitting = (key for key in sorted(trusted) if check_record(text, key).signature)
    return next(fitting, given)


def judge(records, entries, given=None, *, is_whole=False):
    """Judge an input as read.find_all returns it; `given`, DER, is the key that is trusted, else
    those in the input are taken. Returns a `Report`."""
    keys = {given} if given else {own for _, own in (*records, *entries) if own}
    found, before_key = check_entries(entries, keys)
    trusted = keys | set(before_key)
    verdicts = [check_record(text, _key_for(text, own, given, trusted)) for text, own in records]
    report = check_all(verdicts, is_whole=is_whole, entries=found, before_key=before_key)
    newest = max((reading.time for record in verdicts for reading in record.readings),
                 default=None)
    if newest and newest > datetime.now(UTC) + _CLOCK_SLACK:
        report.notes.append("a reading of %s lies in the future of this machine's clock"
                            % newest.strftime("%Y-%m-%d"))
    if given and any(own and own not in trusted for _, own in (*records, *entries)):
        report.notes.append("the input names another key, which was not used")
    return report
