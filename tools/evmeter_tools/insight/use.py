"""How the places are used: shares of time, peak hours, concurrency, sessions, overstay, tariffs.

Pure functions over ChargingSessions; each returns a Table. Periods are Unix ms, the end excluded.
"""

from evmeter_tools.insight.local import WEEKDAYS
from evmeter_tools.insight.session import CHARGING, OPEN, OUTCOMES, SUCCESS
from evmeter_tools.insight.table import Column, Table, median, quantile, share

_HOUR_MS = 3_600_000
_QUARTER_MS = 900_000
GRACE_MS = 600_000
UTILISATION = {
    "charging_time": "time in which a car charged / all time of the stations",
    "occupied_time": "time in which a car was connected (pilot B, C, D) / all time",
    "energy": "energy delivered / rated power of the stations for all time",
}


def _inside(session, from_ms, to_ms):
    return (session.start is not None and session.start.known
            and session.start_ms < to_ms and session.stop_ms > from_ms)


def begun(sessions, from_ms, to_ms):
    """The sessions that begin in a period and whose time is known."""
    return [session for session in sessions if session.start and session.start.known
            and from_ms <= session.start_ms < to_ms]


def energy_inside(session, from_ms, to_ms):
    """Verified energy of a session within a period, mWh."""
    if session.energy_mwh is None:
        return 0
    return session.energy_until(to_ms) - session.energy_until(from_ms)


def utilisation(sessions, from_ms, to_ms, rated_mw, down_ms=None):
    """Utilisation by its three names. `rated_mw`: {device: rated power, mW} of every station that
    counts, used or not, 0 where it is not known: then its time counts, and its energy in no
    share; `down_ms`: {device: time in which it was not available}, for the adjusted share.
    Sessions whose time is unknown count nowhere."""
    return utilisation_table(
        *time_and_energy([session for session in sessions if session.device in rated_mw],
                         from_ms, to_ms, rated_mw), from_ms, to_ms, rated_mw, down_ms or {})


def time_and_energy(sessions, from_ms, to_ms, rated_mw):
    """(charging ms, connected ms, mWh) of sessions within a period; the energy is that of
    stations with a rated power."""
    found = [session for session in sessions if _inside(session, from_ms, to_ms)]
    return (sum(session.phase_ms((CHARGING,), from_ms, to_ms) for session in found),
            sum(min(session.stop_ms, to_ms) - max(session.start_ms, from_ms)
                for session in found),
            sum(energy_inside(session, from_ms, to_ms) for session in found
                if rated_mw[session.device]))


def utilisation_table(charging_ms, occupied_ms, energy_mwh, from_ms, to_ms, rated_mw, downs_ms):
    """The shares that these sums are; see utilisation."""
    period_ms = to_ms - from_ms
    whole_ms = period_ms * len(rated_mw)
    down_ms = sum(downs_ms.values())
    rated_mwh = sum(rated_mw.values()) * period_ms // _HOUR_MS
    up_mwh = (sum(rated_mw.values()) * period_ms - sum(
        rated_mw[device] * ms for device, ms in downs_ms.items())) // _HOUR_MS
    unrated = sum(not mw for mw in rated_mw.values())
    notes = ("%d of %d stations have no rated power: their time counts, their energy does not"
             % (unrated, len(rated_mw)),) if unrated else ()
    rows = [
        (name, part, whole, share(part, whole), share(part, up), UTILISATION[name])
        for name, part, whole, up in (
            ("charging_time", charging_ms // 1000, whole_ms // 1000, (whole_ms - down_ms) // 1000),
            ("occupied_time", occupied_ms // 1000, whole_ms // 1000, (whole_ms - down_ms) // 1000),
            ("energy", energy_mwh, rated_mwh, up_mwh))]
    return Table("utilisation", "Utilisation, three definitions", (
        Column("definition", "utilisation"),
        Column("part", "part", "seconds, or mWh for energy"),
        Column("whole", "of", "seconds, or mWh for energy"),
        Column("share_permille", "permille"),
        Column("adjusted_permille", "adj.", "of the time in which the stations were available"),
        Column("means", "means")), rows, notes)


def starts(sessions, zone, from_ms, to_ms):
    """Heat map of session starts: weekday by local hour, 168 rows. `quarters`: so many quarters of
    an hour of the period lie in that cell; a change of the clock takes away or adds four."""
    counts = [[0] * 24 for _ in WEEKDAYS]
    for session in begun(sessions, from_ms, to_ms):
        weekday, hour = zone.weekday_hour(session.start_ms // 1000)
        counts[weekday][hour] += 1
    quarters = [[0] * 24 for _ in WEEKDAYS]
    for at_ms in range(from_ms, to_ms, _QUARTER_MS):
        weekday, hour = zone.weekday_hour(at_ms // 1000)
        quarters[weekday][hour] += 1
    return starts_table(zone, counts, quarters)


def starts_table(zone, counts, quarters):
    """The heat map of 7 lists of 24 counts each."""
    return Table("starts", "Session starts by weekday and hour (%s)" % zone.name, (
        Column("weekday", "day"), Column("hour", "hour", "local time"),
        Column("starts", "starts"),
        Column("quarters", "quarters", "quarters of an hour of the period in this cell")),
        [(WEEKDAYS[weekday], hour, counts[weekday][hour], quarters[weekday][hour])
         for weekday in range(7) for hour in range(24)])


def matrix(table, key="starts"):
    """A table of 168 rows as 7 lists of 24 values."""
    values = [row[key] for row in table.dicts()]
    return [values[at:at + 24] for at in range(0, 168, 24)]


def _edges(sessions, from_ms, to_ms):
    """[(Unix ms, +1 or -1)]; at one instant the ends come first."""
    edges = []
    for session in sessions:
        if _inside(session, from_ms, to_ms):
            edges.append((max(session.start_ms, from_ms), 1))
            edges.append((min(session.stop_ms, to_ms), -1))
    return sorted(edges)


def concurrency(sessions, zone, from_ms, to_ms, places):
    """Cars at once, by a sweep over starts and stops: the highest number, for how long, and for
    how long all `places` were taken; then the same by local weekday and hour (168 more rows)."""
    most = [[0] * 24 for _ in WEEKDAYS]
    at_most_ms = {}
    first_ms = {}
    count = 0
    edges = _edges(sessions, from_ms, to_ms)
    for at, (at_ms, change) in enumerate(edges):
        count += change
        next_ms = edges[at + 1][0] if at + 1 < len(edges) else at_ms
        if next_ms == at_ms or not count:
            continue
        at_most_ms[count] = at_most_ms.get(count, 0) + next_ms - at_ms
        first_ms.setdefault(count, at_ms)
        step_ms = at_ms
        while step_ms < next_ms:
            weekday, hour = zone.weekday_hour(step_ms // 1000)
            most[weekday][hour] = max(most[weekday][hour], count)
            step_ms += _QUARTER_MS - step_ms % _QUARTER_MS
    return concurrency_table(zone, most, at_most_ms, first_ms, places)


def concurrency_table(zone, most, at_most_ms, first_ms, places):
    """The table of what a sweep has found: the highest number in each hour of the week, and for
    each number of cars, how long and when first."""
    peak = max(at_most_ms, default=0)
    full_ms = sum(ms for number, ms in at_most_ms.items() if number >= places)
    rows = [("all", None, peak, at_most_ms.get(peak, 0) // 1000, full_ms // 1000,
             zone.text(first_ms[peak] // 1000) if peak else None)]
    rows += [(WEEKDAYS[weekday], hour, most[weekday][hour], None, None, None)
             for weekday in range(7) for hour in range(24)]
    return Table("concurrency", "Cars at once", (
        Column("weekday", "day"), Column("hour", "hour", "local time"),
        Column("cars", "cars at once", "highest number"),
        Column("peak_s", "for s", "so long, altogether"),
        Column("full_s", "all taken s", "time in which every place was taken"),
        Column("first", "first at")), rows)


def distribution(sessions, from_ms, to_ms):
    """Energy, duration, charging time and mean power of the verified sessions that begin in the
    period and have ended; those whose time is not known are in no period, and told of."""
    timeless = [session.energy_mwh for session in sessions
                if session.state == "complete" and not session.start.known]
    found = [session for session in begun(sessions, from_ms, to_ms)
             if session.state == "complete"]
    figures = (
        ("energy_mwh", [session.energy_mwh for session in found]),
        ("duration_s", [session.occupied_ms // 1000 if session.duration_s is None
                        else session.duration_s for session in found]),
        ("charging_s", [session.charging_ms // 1000 for session in found]),
        ("mean_power_mw", [(session.energy_mwh - session.gap_mwh) * _HOUR_MS
                           // session.charging_ms for session in found if session.charging_ms]))
    return distribution_table(
        [(name, len(values), sum(values), min(values, default=None), median(values),
          quantile(values, 900), max(values, default=None), share(sum(values), len(values), 1))
         for name, values in figures], len(timeless), sum(timeless))


def distribution_table(rows, timeless=0, timeless_mwh=0):
    """The table of these figures; so many ended sessions have no known time."""
    notes = ()
    if timeless:
        notes = ("%d sessions with %d mWh have no known time and are left out"
                 % (timeless, timeless_mwh),)
    return Table("sessions", "Sessions", (
        Column("figure", "figure"), Column("count", "sessions"), Column("sum", "sum"),
        Column("least", "least"), Column("median", "median"),
        Column("p90", "p90", "nearest rank"), Column("most", "most"), Column("mean", "mean")),
        rows, notes)


def overstay(sessions, from_ms, to_ms, grace_ms=GRACE_MS):
    """Overstay by device: time after the last charging in which the car kept the place and did
    not want more, less the grace. What the charger or a fault held up is nobody's overstay."""
    rows = {}
    for session in begun(sessions, from_ms, to_ms):
        row = rows.setdefault(session.device, [0, 0, 0, 0, 0])
        row[0] += 1
        row[1] += session.overstay_ms(grace_ms) > 0
        row[2] += session.idle_ms
        row[3] += session.overstay_ms(grace_ms)
        row[4] += session.occupied_ms
    return Table("overstay", "Overstay beyond %d s" % (grace_ms // 1000), (
        Column("device", "device"), Column("sessions", "sessions"),
        Column("overstays", "overstays"),
        Column("idle_s", "idle s", "after the last charging, the car connected and content"),
        Column("overstay_s", "overstay s", "idle beyond the grace"),
        Column("share_permille", "permille", "overstay of all connected time")),
        [(device, count, over, idle // 1000, beyond // 1000, share(beyond, whole))
         for device, (count, over, idle, beyond, whole) in sorted(rows.items())])


def tariff_split(sessions, from_ms, to_ms):
    """Energy by tariff as the devices split it, of verified sessions that begin in the period.
    Energy whose split cannot be billed, or that has none, stands apart, as gap energy does."""
    energy, count = {}, {}
    for session in begun(sessions, from_ms, to_ms):
        if session.state != "complete":
            continue
        parts = dict(session.by_tariff) if session.split_ok else {}
        rest = session.energy_mwh - session.gap_mwh - sum(parts.values())
        if rest:
            parts["(not split)"] = rest
        if session.gap_mwh:
            parts["(gap)"] = session.gap_mwh
        for name, mwh in parts.items():
            energy[name] = energy.get(name, 0) + mwh
            count[name] = count.get(name, 0) + 1
    return tariff_table(energy, count)


def tariff_table(energy, count):
    """The table of energy and number of sessions by tariff."""
    whole = sum(energy.values())
    return Table("tariffs", "Energy by tariff", (
        Column("tariff", "tariff"), Column("sessions", "sessions"),
        Column("energy_mwh", "energy mWh"), Column("share_permille", "permille")),
        [(name, count[name], energy[name], share(energy[name], whole))
         for name in sorted(energy)])


def off_peak_share(table, names):
    """(off-peak mWh, all mWh, permille) of a tariff_split, `names` being the off-peak tariffs;
    where none of the energy is split, nobody knows the share, None."""
    rows = table.dicts()
    part = sum(row["energy_mwh"] for row in rows if row["tariff"] in names)
    whole = sum(row["energy_mwh"] for row in rows)
    is_split = any(not row["tariff"].startswith("(") for row in rows)
    return part, whole, share(part, whole) if is_split else None


def outcomes(sessions, from_ms, to_ms, refused=0, least_ms=0):
    """What became of the attempts that begin in the period, and the charging success rate: energy
    flowed and the session ended as it should, of all that have ended. An attempt is a car that was
    connected, `refused` being those for which no session could open; a car that was connected for
    less than `least_ms` and did not charge is no attempt."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for session in begun(sessions, from_ms, to_ms):
        outcome = session.outcome
        if outcome != "never_charged" or session.occupied_ms >= least_ms:
            counts[outcome] += 1
    return outcomes_table(counts, refused)


def outcomes_table(counts, refused):
    """The table of the numbers of each outcome."""
    counts = {**counts, "refused": refused}
    ended = sum(counts.values()) - counts[OPEN]
    words = {**OUTCOMES, "refused": "no session could be opened"}
    return Table("outcomes", "Charging success", (
        Column("outcome", "outcome"), Column("attempts", "attempts"),
        Column("share_permille", "permille", "of the attempts that have ended"),
        Column("means", "means")),
        [(name, counts[name],
          None if name == OPEN else share(counts[name], ended), words[name])
         for name in (SUCCESS, *(name for name in counts if name != SUCCESS))])
