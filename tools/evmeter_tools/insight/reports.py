"""The reports by name: each makes a Table of the devices' facts and a view."""

import time
from dataclasses import dataclass, field, replace

from evmeter_tools.errors import UserError
from evmeter_tools.insight import demand, stations, uptime, use
from evmeter_tools.insight.table import Column, Table

_ROW = (
    ("device", "device"), ("sid", "session"), ("state", "state"), ("energy_mwh", "mWh"),
    ("billable", "billable"), ("outcome", "outcome"), ("start_ms", "start, Unix ms"),
    ("stop_ms", "stop, Unix ms"), ("start_quality", "clock"), ("stop_quality", "clock at stop"),
    ("start_corrected", "start corrected"), ("stop_corrected", "stop corrected"),
    ("duration_s", "s"), ("charging_s", "charging s"), ("occupied_s", "connected s"),
    ("idle_s", "idle s"), ("faults", "faults"), ("gap_mwh", "gap mWh"), ("ok", "ok"),
    ("why_not", "why not"), ("ended_by", "TX"), ("currency", "currency"),
    ("cost_info_minor", "cost for information"))


@dataclass
class View:
    """What a report looks at.

    zone        local.LocalTime
    from_ms, to_ms  the period, Unix ms, the end excluded
    rated_mw    {device: rated power}; only these count as stations
    outages     uptime.Outage, beside those that load profile and alarms show
    off_peak    names of the off-peak tariffs
    off_peak_minutes  (from, to) minutes of the local day, where no tariff splits the energy
    """

    zone: object
    from_ms: int
    to_ms: int
    rated_mw: dict = field(default_factory=dict)
    outages: list = field(default_factory=list)
    off_peak: tuple = ("night",)
    off_peak_minutes: tuple = (22 * 60, 6 * 60)
    grace_ms: int = use.GRACE_MS

    def months(self):
        """The local months of the period."""
        found = []
        at_s = self.from_ms // 1000
        while at_s < self.to_ms // 1000:
            month = self.zone.month(at_s)
            found.append(month)
            at_s = uptime.month_period(month, self.zone)[1]
        return found

    def inside(self, intervals):
        """The intervals in the period; of a longer one across its edges, the quarters of an hour
        that begin in it."""
        found = []
        for each in intervals:
            is_one = each.quality == demand.CLOCK or (
                self._has(each.start_s) and self._has(each.stop_s - demand.QUARTER_S))
            found += [part for part in ([each] if is_one else self._parts(each))
                      if self._has(part.start_s)]
        return found

    def _has(self, at_s):
        return self.from_ms <= at_s * 1000 < self.to_ms

    @staticmethod
    def _parts(interval):
        quality = interval.quality if interval.length_s == demand.QUARTER_S else demand.PARTIAL
        return [replace(interval, start_s=start_s, length_s=demand.QUARTER_S, energy_mwh=mwh,
                        quality=quality) for start_s, mwh in demand.pieces(interval)]


def _sessions(facts):
    return [session for own in facts.values() for session in own.sessions]


def _intervals(facts, view):
    return view.inside([each for own in facts.values() for each in own.intervals])


def _outages(facts, view):
    return view.outages + [outage for own in facts.values()
                           for outage in recorded_outages(own, view.to_ms // 1000)]


def recorded_outages(own, until_s):
    """What a device's records and the states that the backend has seen tell of its outages
    (DeviceFacts), up to Unix s but not beyond now, with the reasons that operators gave."""
    until_s = min(until_s, int(time.time()))  # nobody knows when what goes on will be over
    found = uptime.holes(own.intervals) + uptime.out_of_order(own.device, own.alarms, until_s)
    found += uptime.from_spans([(own.device, *state) for state in own.states], until_s)
    return uptime.excluding(found, own.exclusions) if own.exclusions else found


def since(facts):
    """{device: Unix s of the first that is known of it}, see uptime.uptime."""
    return {name: own.since_s for name, own in facts.items() if own.since_s is not None}


def known(facts):
    """The devices of which something was ever heard, by name."""
    return sorted(name for name, own in facts.items() if own.is_known)


def _list(facts, view):
    found = use.begun(_sessions(facts), view.from_ms, view.to_ms)
    rows = [tuple(row[key] for key, _ in _ROW) for row in (session.row() for session in found)]
    return Table("list", "Sessions, one by one",
                 tuple(Column(key, label) for key, label in _ROW), rows)


def _utilisation(facts, view):
    outages = _outages(facts, view)
    by_device = uptime.by_device(outages)
    down_ms = {device: 1000 * uptime.outage_s(by_device.get(device, ()), view.from_ms // 1000,
                                              view.to_ms // 1000)[0] for device in view.rated_mw}
    return use.utilisation(_sessions(facts), view.from_ms, view.to_ms, view.rated_mw, down_ms)


def _off_peak(facts, view):
    return off_peak_table(
        view, use.tariff_split(_sessions(facts), view.from_ms, view.to_ms),
        demand.off_peak(_intervals(facts, view), view.zone, *view.off_peak_minutes))


def off_peak_table(view, split, by_hours):
    """The off-peak share by the tariffs of a tariff_split, and by the hours (demand.off_peak)."""
    begin, end = view.off_peak_minutes
    return Table("off_peak", "Off-peak share", (
        Column("basis", "basis"), Column("off_peak_mwh", "off-peak mWh"),
        Column("energy_mwh", "of mWh"), Column("share_permille", "permille")), [
            ("tariffs " + ", ".join(view.off_peak), *use.off_peak_share(split, view.off_peak)),
            ("hours %02d:%02d to %02d:%02d" % (*divmod(begin, 60), *divmod(end, 60)),
             *by_hours)])


REPORTS = {
    "list": _list,
    "utilisation": _utilisation,
    "starts": lambda facts, view: use.starts(
        _sessions(facts), view.zone, view.from_ms, view.to_ms),
    "demand": lambda facts, view: demand.demand(_intervals(facts, view), view.zone),
    "profile": lambda facts, view: demand.profile(
        _intervals(facts, view), view.zone, view.from_ms // 1000, view.to_ms // 1000),
    "concurrency": lambda facts, view: use.concurrency(
        _sessions(facts), view.zone, view.from_ms, view.to_ms, len(facts)),
    "sessions": lambda facts, view: use.distribution(_sessions(facts), view.from_ms, view.to_ms),
    "overstay": lambda facts, view: use.overstay(
        _sessions(facts), view.from_ms, view.to_ms, view.grace_ms),
    "tariffs": lambda facts, view: use.tariff_split(_sessions(facts), view.from_ms, view.to_ms),
    "off_peak": _off_peak,
    "outcomes": lambda facts, view: use.outcomes(
        _sessions(facts), view.from_ms, view.to_ms,
        sum(view.from_ms <= at_ms < view.to_ms for own in facts.values()
            for at_ms in own.refused)),
    "stations": lambda facts, view: stations.stations(
        facts, view.from_ms, view.to_ms, view.rated_mw),
    "voltage": lambda facts, _view: stations.supply(facts),
    "delivered": lambda facts, _view: stations.offers(facts),
    "uptime": lambda facts, view: uptime.uptime(
        _outages(facts, view), known(facts), uptime.begun(view.months(), view.zone), view.zone,
        since(facts)),
    "outages": lambda facts, view: uptime.reasons(
        _outages(facts, view), sorted(facts), view.from_ms // 1000, view.to_ms // 1000),
    "reliability": lambda facts, view: uptime.reliability(
        _outages(facts, view), _sessions(facts), sorted(facts), view.from_ms, view.to_ms),
    "records": lambda facts, _view: stations.completeness(facts),
}


def report(name, facts, view):
    """The Table `name` of {device: DeviceFacts}. Raises UserError for a name that is none."""
    if name not in REPORTS:
        raise UserError("no report %.40s; there are: %s" % (name, ", ".join(REPORTS)))
    return REPORTS[name](facts, view)
