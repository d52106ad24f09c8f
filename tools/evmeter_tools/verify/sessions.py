"""Judge what belongs together: the records of a session, and all records of a device."""

from dataclasses import dataclass, field

_DEVICE = ("GI", "GS", "GV", "MV", "MM", "MS", "MF")
_USER = ("IS", "IL", "IF", "IT", "ID", "TT", "CF", "LC", "CT", "CI")
_FIRST = "0" * 32
_QUALITY = "RUIS"


@dataclass
class Session:
    """A session's records, in the order of their pages, and what was found out about them.

    state     "complete", "open" (a begin record only), or "broken"
    reasons   why it does not hold; empty when it does
    begin, end  readings (check.Reading) or None; `energy_mwh` is their difference or None
    """

    id: str
    records: list
    state: str = "broken"
    reasons: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    begin: object = None
    end: object = None

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


def _unique(records):
    """Return the records without copies, by page; those without a page last."""
    seen = {record.text: record for record in records}
    return sorted(seen.values(), key=lambda item: (item.page is None, item.page or 0))


def _pages(records):
    """Return the pages as text: T3, T4."""
    return ", ".join(str(record.get("PG")) for record in records)


def _same_faults(records):
    """Yield which fields, or the key, differ between a session's records."""
    first = records[0]
    for other in records[1:]:
        for name in _DEVICE + _USER:
            if first.get(name) != other.get(name):
                yield "%s differs between %s" % (name, _pages([first, other]))
        if first.key != other.key:
            yield "the key differs between %s" % _pages([first, other])


def _step_faults(before, after):
    """Yield what is wrong from one record of a device to the next one at hand."""
    if after.page == before.page:
        yield "page T%d was given out twice, with different contents" % after.page
    elif after.page == before.page + 1 and "ZP" in (after.payload or {}):
        if after.get("ZP") != before.hash:
            yield "T%d does not follow T%d: ZP names another record" % (after.page, before.page)


def _gap(before, after):
    missing = after.page - before.page - 1
    if missing < 1:
        return None
    first = "T%d" % (before.page + 1)
    return first + (" is missing" if missing == 1 else " to T%d are missing" % (after.page - 1))


def _tariff_faults(session, tariffs):
    """Yield which readings of tariff records are not in order between begin and end."""
    last = session.begin
    for record in tariffs:
        for reading in record.readings:
            if reading.time < last.time or reading.mwh < last.mwh:
                yield "a tariff reading of %s is out of order" % _pages([record])
            last = reading
    if session.end and (session.end.time < last.time or session.end.mwh < last.mwh):
        yield "a tariff reading lies behind the end"


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


def check_session(records, session_id=""):
    """Judge the records of one session (`Verdict`s) together; return a `Session`.

    A complete record proves a session by itself; a begin record alone is an open session. Pages
    must run on without a gap, serial numbers, user and key must agree.
    """
    records = _unique(records)
    session = Session(session_id, records)
    by_kind = {
        kind: [record for record in records if record.kind == kind]
        for kind in ("begin", "complete", "tariff", "other")
    }
    begins, completes, tariffs = (by_kind[kind] for kind in ("begin", "complete", "tariff"))
    reasons = session.reasons
    if len(begins) > 1 or len(completes) > 1:
        reasons.append("more than one begin or complete record: %s" % _pages(begins + completes))
    reasons += _same_faults(records)
    reasons += _find_readings(session, begins, completes)
    if by_kind["other"]:
        reasons.append("a record that is neither begin, complete nor tariff")
    paged = [record for record in records if record.page is not None]
    for before, after in zip(paged, paged[1:], strict=False):
        reasons += _step_faults(before, after)
        gap = _gap(before, after)
        if gap:
            reasons.append(gap)
        if [before.kind, after.kind] not in (
            ["begin", "complete"], ["complete", "tariff"], ["tariff", "tariff"], ["begin", "tariff"]
        ):  # fmt: skip
            reasons.append("%s are not in the order begin, complete, tariff" % _pages(paged))
    if tariffs and session.begin:
        reasons += _tariff_faults(session, tariffs)
    if completes:
        session.state = "complete"
        if not begins:
            session.notes.append("its begin record is not in the input")
    elif begins and not tariffs:
        session.state = "open"
        session.notes.append("no complete record: still open, or its end is not in the input")
    else:
        reasons.append("no complete record")
    if not session.ok:
        session.state = "broken"
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
    latest = {}
    for record in _unique(records):
        device = (str(record.get("GS")), str(record.get("MS")))
        if record.session is not None:
            name = record.session
        elif record.kind == "tariff" and device in latest:
            name = latest[device]
        elif record.kind == "complete" and groups.get((device, latest.get(device))) and all(
            item.kind == "begin" for item in groups[device, latest[device]]
        ):
            name = latest[device]
        else:
            name = "page %s" % record.get("PG")
            latest[device] = name
        groups.setdefault((device, name), []).append(record)
    return [(name, group) for (_, name), group in groups.items()]


def _check_device(records, report):
    """Judge all records of one device and key: pages, chain, registers."""
    name = str(records[0].get("GS") or records[0].get("MS"))
    if records[0].page == 0 and records[0].get("ZP") not in (None, _FIRST):
        report.reasons.append("%s: the first record names one before it" % name)
    for before, after in zip(records, records[1:], strict=False):
        report.reasons += ["%s: %s" % (name, fault) for fault in _step_faults(before, after)]
        gap = _gap(before, after)
        if gap:
            report.notes.append("%s: %s in the input" % (name, gap))
        old, new = before.readings, after.readings
        same = before.session is not None and before.session == after.session
        if old and new and not same and None not in (old[-1].mwh, new[0].mwh):
            if before.get("MS") == after.get("MS") and "complete" == before.kind:
                if new[0].mwh < old[-1].mwh:
                    report.reasons.append(
                        "%s: the register goes back from T%d to T%d"
                        % (name, before.page, after.page)
                    )


def check_all(records):
    """Judge all records of an input (`Verdict`s); return a `Report`."""
    readable = [record for record in records if record.payload is not None]
    sessions = [check_session(group, name) for name, group in _group(readable)]
    report = Report(records, sessions, [], [])
    devices = {}
    for record in _unique(readable):
        if record.page is not None:
            key = (str(record.get("GS")), str(record.get("MS")), record.key)
            devices.setdefault(key, []).append(record)
    for group in devices.values():
        _check_device(group, report)
    copies = len(records) - len({record.text for record in records})
    if copies:
        report.notes.append("%d record(s) stand in the input more than once" % copies)
    return report
