"""Judge what belongs together in a session: its records, and what the meter signed itself."""

from dataclasses import dataclass, field
from itertools import pairwise

_DEVICE = ("GI", "GS", "MV", "MM", "MS", "MF")
_USER = ("IS", "IL", "IF", "IT", "ID")
_PLACE = ("TT", "LC", "CT", "CI")
_SOFTWARE = ("GV", "CF")  # may be updated in between
_QUALITY = "RUIS"


@dataclass
class Session:
    """A session's records, in the order of their pages, and what was found out about them.

    state     "complete", "open" (a begin record only), or "broken"
    reasons   why it does not hold; empty when it does
    begin, end  readings (check.Reading) or None; `energy_mwh` is their difference or None
    changes   the readings at tariff changes (TX=T), of all its records, in the order of the pages
    own       what the meter signed itself (audit.OwnRecord), where it does: begin, end
    """

    id: str
    records: list
    state: str = "broken"
    reasons: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    begin: object = None
    end: object = None
    changes: list = field(default_factory=list)
    own: list = field(default_factory=list)

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


def device_of(record):
    """What counts the pages: the gateway, or the meter where there is no gateway."""
    return str(record.get("GS") or record.get("MS"))


def unique(records):
    """Return the records without copies, by page; those without a page last. A payload counts
    once, however often it is signed: (r, n - s) is a signature where (r, s) is."""
    seen = {}
    for record in records:
        same = record.signed, record.key
        if same not in seen or record.ok:
            seen[same] = record
    return sorted(seen.values(), key=lambda item: (item.page is None, item.page or 0))


def _pages(records):
    """Return the pages as text: T3, T4."""
    return ", ".join(str(record.get("PG")) for record in records)


def _same_faults(session, before_key):
    """Yield which fields, or the key, differ between a session's records."""
    for before, after in pairwise(session.records):
        names = _DEVICE + _USER + _PLACE
        if before.get("IS") is False and after.get("IS") is True:
            session.notes.append("the user was assigned after %s" % _pages([before]))
            names = _DEVICE + _PLACE
        for name in names:
            if before.get(name) != after.get(name):
                yield "%s differs between %s" % (name, _pages([before, after]))
        session.notes += ["%s differs between %s: an update" % (name, _pages([before, after]))
                          for name in _SOFTWARE if before.get(name) != after.get(name)]
        if before.key != after.key and before_key.get(after.key) != before.key:
            yield "the key differs between %s" % _pages([before, after])


def step_faults(before, after):
    """Yield what is wrong from one record of a device to the next one at hand."""
    if after.page == before.page:
        yield "page T%d was given out twice, with different contents" % after.page
    elif after.page == before.page + 1 and "ZP" in after.payload:
        if after.get("ZP") != before.hash:
            yield "T%d does not follow T%d: ZP names another record" % (after.page, before.page)
    elif "ZP" in before.payload and "ZP" not in after.payload:
        yield "T%d names no record before it: ZP is missing" % after.page


def gap(before, after):
    """Which pages are missing between two records, in words, or None."""
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
        yield from step_faults(before, after)
        missing = gap(before, after)
        if missing:
            yield missing
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


def _own_faults(session):
    """Yield where the records that the meter signed itself do not agree with ours, or with each
    other. It makes them after ours, so that its registers are not below."""
    tolerance = max([own.step_mwh for own in session.own], default=0)
    for own, ours in ((own, session.begin if own.tx == "B" else session.end)
                      for own in session.own):
        if ours and None not in (ours.mwh, own.total_mwh) and (
                own.total_mwh < ours.mwh - tolerance):
            yield ("the meter's own record %s has a register of %d mWh, below ours" % (
                own.page, own.total_mwh))
    for before, after in pairwise(session.own):
        if (before.tx, after.tx) != ("B", "E"):
            yield "the meter's own records are not one at the begin and one at the end"
        if before.serial != after.serial or before.key != after.key:
            yield "the meter's own records are of two meters or keys"
        if None not in (before.total_mwh, after.total_mwh) and (
                after.total_mwh < before.total_mwh):
            yield "the register of the meter's own records goes back"
        if not _page_number(before) < _page_number(after):
            yield "the pages of the meter's own records do not go on"
        if before.time > after.time:
            yield "the time of the meter's own records goes back"


def _page_number(own):
    digits = own.page[1:]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else -1


def check_session(records, session_id="", own=(), before_key=None):
    """Judge the records of one session (`Verdict`s) together; return a `Session`. `own`: what the
    meter signed itself; `before_key`: new key -> the key before it, where both signed the change.

    A complete record proves a session by itself; a begin record alone is an open session. Pages
    must run on without a gap, serial numbers, user and key must agree.
    """
    session = Session(session_id, unique(records), own=list(own))
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
    reasons += _same_faults(session, before_key or {})
    reasons += _find_readings(session, begins, completes)
    reasons += _page_faults(session.records)
    if session.begin:
        reasons += _tariff_faults(session)
    reasons += _left_out_faults(completes, tariffs)
    reasons += _own_faults(session)
    session.state = _state(session, begins, completes)
    return session
