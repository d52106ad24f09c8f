"""Up-time by 23 CFR 680.116(b), the rule for stations that NEVI pays for; MTBF and MTTR.

uptime = (525,600 - (T_outage - T_excluded)) / 525,600 for each port and month, over the twelve
months that end with it, T in minutes. A port is up while it is on line and available or in use,
and dispenses. What is excluded needs a reason from the list; the rule counts 525,600 minutes in
a leap year too.
"""

import csv
import time
from dataclasses import dataclass
from datetime import date

from evmeter_tools.errors import UserError
from evmeter_tools.insight.table import Column, Table, share

YEAR_S = 525_600 * 60
LEAST_PERCENT = 97  # uptime must be greater
REASONS = {
    "utility": "interruption of the electric utility's service",
    "internet": "outage of the communication provider",
    "vehicle": "the fault of the vehicle",
    "maintenance": "scheduled maintenance",
    "vandalism": "vandalism",
    "disaster": "natural disaster",
    "closed": "outside of the station's hours of operation",
}


@dataclass(frozen=True)
class Outage:
    """A time, Unix s, in which a device was not available. `cause` is free text; `excluded` is ""
    or one of REASONS."""

    device: str
    start_s: int
    stop_s: int
    cause: str = ""
    excluded: str = ""

    def __post_init__(self):
        if self.excluded and self.excluded not in REASONS:
            raise UserError("the reason %.40r excludes no outage; allowed: %s"
                            % (self.excluded, ", ".join(REASONS)))
        if self.stop_s < self.start_s:
            raise UserError("an outage of %.40s ends before it begins" % self.device)


def read_outages(path):
    """Outages from a CSV file with the columns device, start_s, stop_s and optionally cause and
    excluded. Raises UserError, one line."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [Outage(row["device"], int(row["start_s"]), int(row["stop_s"]),
                       row.get("cause") or "", row.get("excluded") or "") for row in rows]
    except OSError as error:
        raise UserError("%s: %s" % (path, error.strerror)) from None
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError("%s: needs the columns device, start_s, stop_s (Unix s), and cause and "
                        "excluded where there is something to say (%s)" % (path, error)) from None


def holes(intervals, cause="no interval recorded"):
    """Outages of one device that its load profile shows: times between its intervals that no
    interval covers. A device writes one each quarter of an hour, on line or not, so that a hole
    is a device without power. Before the first and after the last nothing is known."""
    found = []
    covered_s = None
    for interval in sorted(intervals, key=lambda each: each.start_s):
        if interval.quality == "clock":
            continue
        if covered_s is not None and interval.start_s > covered_s:
            found.append(Outage(interval.device, covered_s, interval.start_s, cause))
        covered_s = max(covered_s or 0, interval.stop_s)
    return found


def merged(spans):
    """[(start, stop)] in order, without overlap."""
    found = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        elif stop > start:
            found.append((start, stop))
    return found


# While one of these is there, no session can be opened, or none that could be billed.
OUT_OF_ORDER = ("METER_LOST", "METER_SWAPPED", "PILOT_FAULT", "KEY_MISSING", "JOURNAL_FULL",
                "SESSION_REFUSED")


def out_of_order(device, alarms, until_s):
    """Outages that a device's alarms tell of: (code, onset, over or None), Unix s; what is not
    over goes up to `until_s`."""
    return [Outage(device, on_s, max(on_s, until_s if off_s is None else off_s), code)
            for code, on_s, off_s in alarms if code in OUT_OF_ORDER]


DOWN = ("offline", "fault")  # a state in which nobody can charge, as far as the backend can tell


def from_spans(spans, until_s, down=DOWN):
    """Outages from the states that the backend has seen: (device, state, from_ms, to_ms or None),
    as its table status_span holds them."""
    return [Outage(device, from_ms // 1000,
                   max(from_ms // 1000, until_s if to_ms is None else to_ms // 1000), state)
            for device, state, from_ms, to_ms in spans if state in down]


def excluding(outages, exclusions):
    """Outages cut at what operators exclude, [(Unix s, Unix s, reason)]: what lies within has the
    reason, where it has none already."""
    found = []
    for outage in outages:
        rest = [] if outage.excluded else [(outage.start_s, outage.stop_s)]
        found += [outage] if outage.excluded else []
        for from_s, to_s, reason in exclusions:
            left = []
            for start_s, stop_s in rest:
                inner = max(start_s, from_s), min(stop_s, to_s)
                if inner[0] >= inner[1]:
                    left.append((start_s, stop_s))
                    continue
                found.append(Outage(outage.device, *inner, outage.cause, reason))
                left += [(start, stop) for start, stop in ((start_s, inner[0]),
                                                           (inner[1], stop_s)) if stop > start]
            rest = left
        found += [Outage(outage.device, *span, outage.cause) for span in rest]
    return found


def by_device(items):
    """{device: its outages or sessions}."""
    found = {}
    for item in items:
        found.setdefault(item.device, []).append(item)
    return found


def _length(spans, from_s, to_s):
    return sum(max(0, min(stop, to_s) - max(start, from_s)) for start, stop in spans)


def outage_s(outages, from_s, to_s):
    """(T_outage, T_excluded) of one device in a period, s: each instant counts once, and as
    excluded only while all that keeps the device down is excluded."""
    down = merged((each.start_s, each.stop_s) for each in outages)
    own = merged((each.start_s, each.stop_s) for each in outages if not each.excluded)
    whole_s = _length(down, from_s, to_s)
    return whole_s, whole_s - _length(own, from_s, to_s)


def _first(month, back=0):
    """The first day of a month "2026-03", or of the one so many months before it."""
    try:
        year, number = (int(part) for part in month.split("-"))
        date(year, number, 1)
    except ValueError:
        raise UserError("%.20r is no month; give it as 2026-03" % month) from None
    count = year * 12 + number - 1 - back
    return date(count // 12, count % 12 + 1, 1)


def month_period(month, zone, months=1):
    """(from, to), Unix s: the `months` local months that end with `month`, "2026-03"."""
    return (zone.midnight_s(_first(month, months - 1)), zone.midnight_s(_first(month, -1)))


def begun(months, zone, now_s=None):
    """Those of the months that have begun: of what is still to come nobody knows the uptime."""
    now_s = int(time.time()) if now_s is None else now_s
    return [month for month in months if month_period(month, zone)[0] <= now_s]


def uptime_mpercent(down_s, excluded_s):
    """Uptime of a year in thousandths of a percent, rounded half up."""
    return share(YEAR_S - (down_s - excluded_s), YEAR_S, 100_000)


def meets(down_s, excluded_s):
    """Whether the uptime is greater than 97 %, exactly."""
    return 100 * (YEAR_S - (down_s - excluded_s)) > LEAST_PERCENT * YEAR_S


def uptime(outages, devices, months, zone, since_s=None):
    """Uptime of each device for each month "2026-03", over the twelve months that end with it.
    A month that ends before the first that is known of a device has none: `since_s` {device:
    Unix s}."""
    rows = []
    outages_of = by_device(outages)
    since_s = since_s or {}
    for device in devices:
        own = outages_of.get(device, ())
        for month in months:
            if month_period(month, zone)[1] <= since_s.get(device, 0):
                continue
            down_s, excluded_s = outage_s(own, *month_period(month, zone, 12))
            inside_s, _ = outage_s(own, *month_period(month, zone))
            rows.append((device, month, (down_s + 30) // 60, (excluded_s + 30) // 60,
                         uptime_mpercent(down_s, excluded_s),
                         "yes" if meets(down_s, excluded_s) else "no", (inside_s + 30) // 60))
    return Table("uptime", "Uptime by 23 CFR 680.116(b)", (
        Column("device", "device"), Column("month", "month"),
        Column("t_outage_min", "T_outage", "minutes in the twelve months that end here"),
        Column("t_excluded_min", "T_excluded", "of these, for a reason that the rule excludes"),
        Column("uptime_mpercent", "m%", "thousandths of a percent"),
        Column("above_97_percent", "> 97 %"),
        Column("month_outage_min", "month min", "outage in this month alone")), rows)


def reasons(outages, devices, from_s, to_s):
    """Outage by device and reason in a period: "" is what counts against the uptime."""
    rows = []
    outages_of = by_device(outages)
    for device in devices:
        own = outages_of.get(device, ())
        for reason in ("", *REASONS):
            spans = merged((each.start_s, each.stop_s) for each in own if each.excluded == reason)
            inside_s = _length(spans, from_s, to_s)
            if inside_s:
                rows.append((device, reason, (inside_s + 30) // 60,
                             sum(stop > from_s and start < to_s for start, stop in spans),
                             REASONS.get(reason, "counts as outage")))
    return Table("outages", "Outages by reason", (
        Column("device", "device"), Column("reason", "reason"), Column("outage_min", "minutes"),
        Column("count", "times"), Column("means", "means")), rows)


def reliability(outages, sessions, devices, from_ms, to_ms):
    """MTBF and MTTR of each device. A failure is an outage that nothing excludes, a fault in a
    session (pilot E or F for 3 s or more), or a session that a fault ended. MTBF is the time of
    the period less outage, by failures; MTTR the mean length of the outages."""
    rows = []
    outages_of, sessions_of = by_device(outages), by_device(sessions)
    for device in devices:
        own = outages_of.get(device, ())
        down_s, _ = outage_s(own, from_ms // 1000, to_ms // 1000)
        counted = [(start, stop) for start, stop in merged(
            (each.start_s, each.stop_s) for each in own if not each.excluded)
            if stop > from_ms // 1000 and start < to_ms // 1000]
        begun = [session for session in sessions_of.get(device, ()) if session.start
                 and from_ms <= session.start_ms < to_ms]
        faults = sum(max(session.faults, session.ended_by == "A") for session in begun)
        failures = len(counted) + faults
        up_s = (to_ms - from_ms) // 1000 - down_s
        rows.append((device, len(counted), faults, len(begun),
                     share(1000 * faults, len(begun), 1), share(up_s, failures, 1),
                     share(_length(counted, from_ms // 1000, to_ms // 1000), len(counted), 1)))
    return Table("reliability", "MTBF and MTTR", (
        Column("device", "device"), Column("outages", "outages"), Column("faults", "faults"),
        Column("sessions", "sessions"),
        Column("faults_per_1000_sessions", "per 1000"),
        Column("mtbf_s", "MTBF s"), Column("mttr_s", "MTTR s")), rows)
