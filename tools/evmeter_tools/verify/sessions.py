"""Judge what belongs together: the records of a session, and all records of a device."""

from dataclasses import dataclass, field
from itertools import pairwise

_DEVICE = ("GI", "GS", "GV", "MV", "MM", "MS", "MF")
_USER = ("IS", "IL", "IF", "IT", "ID")
_PLACE = ("TT", "CF", "LC", "CT", "CI")
_QUALITY = "RUIS"


@dataclass
class Session:
    """A session's records, in the order of their pages, and what was found out about them.

    state     "complete", "open" (a begin record only), or "broken"
    reasons   why it does not hold; empty when it does
    begin, end  readings (check.Reading) or None; `energy_mwh` is their difference or None
    changes   the readings at tariff changes (TX=T), of all its records, in the order of the pages
    """

    id: str
    records: list
    state: str = "broken"
    reasons: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    begin: object = None
    end: object = None
    changes: list = field(default_factory=list)

    @property
    def ok(self):
        """Tell whether the session and each of its records hold."""
        return not self.reasons and all(record.ok for record in self.records)

    @property
    def energy_mwh(self):
        """Return the register's difference between begin and end in mWh, None where unknown."""
        if None in (self.begin, self.end) or None in (self.begin.mwh, self.end.mwh):
            return None
        return self.end.mwh - self.begin.mwh

    @property
    def billable(self):
        """Tell whether it holds, is complete and was not marked as not billable."""
        return self.ok and self.state == "complete" and self._complete.get("ZB") != 0

    @property
    def _complete(self):
        return next(record for record in self.records if record.kind == "complete")

    @property
    def quality(self):
        """Return the worst time quality of its readings (R, U, I, S from worst to best)."""
        letters = [reading.quality for record in self.records for reading in record.readings]
        return min(letters, key=_QUALITY.index) if letters else None


def _device(record):
    """What counts the pages: the gateway, or the meter where there is no gateway."""
    return str(record.get("GS") or record.get("MS"))


def _unique(records):
    """Return the records without copies, by page; those without a page last."""
    seen = {record.text: record for record in records}
    return sorted(seen.values(), key=lambda item: (item.page is None, item.page or 0))


def _pages(records):
    """Return the pages as text: T3, T4."""
    return ", ".join(str(record.get("PG")) for record in records)


def _same_faults(session):
    """Yield which fields, or the key, differ between a session's records."""
    for before, after in pairwise(session.records):
        names = _DEVICE + _USER + _PLACE
        if before.get("IS") is False and after.get("IS") is True:
            session.notes.append("the user was assigned after %s" % _pages([before]))
            names = _DEVICE + _PLACE
        for name in names:
            if before.get(name) != after.get(name):
                yield "%s differs between %s" % (name, _pages([before, after]))
        if before.key != after.key:
            yield "the key differs between %s" % _pages([before, after])


def _step_faults(before, after):
    """Yield what is wrong from one record of a device to the next one at hand."""
    if after.page == before.page:
        yield "page T%d was given out twice, with different contents" % after.page
    elif after.page == before.page + 1 and "ZP" in after.payload:
        if after.get("ZP") != before.hash:
            yield "T%d does not follow T%d: ZP names another record" % (after.page, before.page)
    elif "ZP" in before.payload and "ZP" not in after.payload:
        yield "T%d names no record before it: ZP is missing" % after.page


def _gap(before, after):
    missing = after.page - before.page - 1
    if missing < 1:
        return None
    first = "T%d" % (before.page + 1)
    return first + (" is missing" if missing == 1 else " to T%d are missing" % (after.page - 1))


def _runs_back(before, after):
    """Which of time and register is lower in the later reading, as a word; None if neither."""
    if after.time < before.time:
        return "time"
    if None not in (before.mwh, after.mwh) and after.mwh < before.mwh:
        return "register"
    return None


def _tariff_faults(session):
    """Collect the readings at tariff changes; yield which are not in order between begin and
    end, over the borders of the records."""
    last = session.begin
    for record in session.records:
        for reading in record.readings:
            if reading.tx != "T":
                continue
            what = _runs_back(last, reading)
            if not what and last.tx == "T" and reading.time == last.time:
                what = "time"
            if what:
                yield ("a tariff reading of %s is out of order: the %s does not go on"
                       % (_pages([record]), what))
            for name in ("RI", "RU", "RT"):
                if reading.raw.get(name) != last.raw.get(name):
                    yield "%s of a tariff reading of %s is another" % (name, _pages([record]))
            session.changes.append(reading)
            last = reading
    what = session.end and _runs_back(last, session.end)
    if what and last is not session.begin:
        yield "a tariff reading lies behind the end: the %s goes back" % what


def _left_out_faults(completes, tariffs):
    """Yield whether the readings that the complete record leaves to tariff records (ZT) are
    there."""
    left = completes[0].get("ZT") if completes else None
    there = sum(len(record.readings) for record in tariffs)
    if type(left) is int and left != there:
        yield ("the complete record leaves %d tariff readings to tariff records, which have %d"
               % (left, there))


def _find_readings(session, begins, completes):
    """Set begin and end; yield where the begin and the complete record disagree."""
    if begins and begins[0].readings:
        session.begin = begins[0].readings[0]
    if completes and completes[0].readings:
        own = completes[0].readings[0]
        if session.begin and own.raw != session.begin.raw:
            yield "the begin reading differs between %s" % _pages([begins[0], completes[0]])
        session.begin = own
        session.end = completes[0].readings[-1]


def _page_faults(records):
    """Yield where a session's pages do not run on."""
    paged = [record for record in records if record.page is not None]
    for before, after in pairwise(paged):
        yield from _step_faults(before, after)
        gap = _gap(before, after)
        if gap:
            yield gap
        if after.kind == "begin":
            yield "the begin record %s is not the first" % _pages([after])


def _state(session, begins, completes):
    """Return the session's state, with the notes that go with it."""
    if not session.ok:
        return "broken"
    if completes:
        if not begins:
            session.notes.append("its begin record is not in the input")
        return "complete"
    session.notes.append("no complete record: still open, or its end is not in the input")
    return "open"


def check_session(records, session_id=""):
    """Judge the records of one session (`Verdict`s) together; return a `Session`.

    A complete record proves a session by itself; a begin record alone is an open session. Pages
    must run on without a gap, serial numbers, user and key must agree.
    """
    session = Session(session_id, _unique(records))
    begins, completes, tariffs, others = (
        [record for record in session.records if record.kind == kind]
        for kind in ("begin", "complete", "tariff", "other")
    )
    reasons = session.reasons
    if len(begins) > 1 or len(completes) > 1:
        reasons.append("more than one begin or complete record: %s" % _pages(begins + completes))
    if others:
        reasons.append("%s: neither begin, complete nor tariff record" % _pages(others))
    elif not begins and not completes:
        reasons.append("neither a begin nor a complete record")
    reasons += _same_faults(session)
    reasons += _find_readings(session, begins, completes)
    reasons += _page_faults(session.records)
    if session.begin:
        reasons += _tariff_faults(session)
    reasons += _left_out_faults(completes, tariffs)
    session.state = _state(session, begins, completes)
    return session


@dataclass
class Report:
    """The verdict over an input: its records, its sessions, and what concerns them together."""

    records: list
    sessions: list
    reasons: list
    notes: list

    @property
    def ok(self):
        """Tell whether every record, every session and what joins them holds."""
        return not self.reasons and all(part.ok for part in self.records + self.sessions)


def _group(records):
    """Return [(id, records)]: by ZS, else a begin record with what follows it in page order."""
    groups = {}
    running = {}
    latest = {}
    for record in records:
        device = _device(record)
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
    name = _device(records[0])
    ended = None
    for before, after in pairwise(records):
        if before.kind == "complete" and before.readings:
            ended = before
        if (id(before), id(after)) in inside:
            continue
        report.reasons += ["%s: %s" % (name, fault) for fault in _step_faults(before, after)]
        gap = _gap(before, after)
        if gap:
            (report.reasons if is_whole else report.notes).append(
                "%s: %s in the input" % (name, gap))
        if ended and after.readings and after.kind in ("begin", "complete"):
            _succession(name, ended, ended.readings[-1], after, report)


def _check_keys(devices, report):
    """Note the devices whose records are signed by more than one key."""
    keys = {}
    for (device, _), group in devices.items():
        keys.setdefault(device, []).append("%s: T%d to T%d" % (
            group[0].key_id, group[0].page, group[-1].page))
    for device, spans in keys.items():
        if len(spans) > 1:
            report.notes.append("%s: signed by %d keys (%s)"
                                % (device, len(spans), ", ".join(spans)))


def _abandoned_faults(sessions):
    """Yield the open sessions that later pages of the device follow: only one can be open."""
    newest = {}
    for session in sessions:
        for record in session.records:
            device = _device(record)
            page = -1 if record.page is None else record.page
            newest[device] = max(newest.get(device, -1), page)
    for session in sessions:
        last = session.records[-1]
        if session.state == "open" and newest[_device(last)] > last.page:
            yield ("%s: its complete record is missing, and later ones are in the input"
                   % session.id)


def check_all(records, *, is_whole=False):
    """Judge all records of an input (`Verdict`s); return a `Report`.

    Pages missing between sessions are a note, not a fault: an input may be a selection, unless
    `is_whole` says that it is all that the device has written from its first page on.
    """
    readable = _unique([record for record in records if record.payload is not None])
    sessions = [check_session(group, name) for name, group in _group(readable)]
    report = Report(records, sessions, list(_abandoned_faults(sessions)), [])
    inside = {
        (id(before), id(after))
        for session in sessions
        for before, after in pairwise(session.records)
    }
    devices = {}
    for record in readable:
        if record.page is not None:
            devices.setdefault((_device(record), record.key), []).append(record)
    for (device, _), group in devices.items():
        _check_device(group, inside, report, is_whole)
        if is_whole and group[0].page > 1 and len([d for d, _ in devices if d == device]) == 1:
            report.reasons.append("%s: the input begins with T%d" % (device, group[0].page))
    _check_keys(devices, report)
    copies = len(records) - len({record.text for record in records})
    if copies:
        report.notes.append("%d record(s) stand in the input more than once" % copies)
    return report
