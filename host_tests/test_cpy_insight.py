"""Reports against figures worked out by hand: zones, changes of the clock, edges of periods."""

import csv
import io
from datetime import UTC, date, datetime

import pytest

from evmeter_tools.errors import UserError
from evmeter_tools.insight import demand, stations, uptime, use
from evmeter_tools.insight.facts import DeviceFacts, Interval
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import REPORTS, View, report
from evmeter_tools.insight.session import ChargingSession, Phase, Stamp
from evmeter_tools.insight.table import Column, Table, median, quantile, share
from evmeter_tools.insight.uptime import Outage

BERLIN = LocalTime("Europe/Berlin")
UTC_ZONE = LocalTime("UTC")
MIN_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
KWH = 1_000_000


def utc(text):
    """Unix s of "2026-03-29 01:00"."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def made(start_ms, stop_ms, energy_mwh=KWH, phases=None, device="d1", quality="S", **more):
    """A verified session; `phases` are (name, ms), one after the other, "charging" to its end
    where left out."""
    session = ChargingSession(
        device, "%s-%d" % (device, start_ms), state="complete", ok=True, billable=True,
        start=Stamp(start_ms, quality), stop=Stamp(stop_ms, quality), energy_mwh=energy_mwh,
        ended_by="E")
    at_ms = start_ms
    for name, length_ms in phases or [("charging", stop_ms - start_ms)]:
        session.phases.append(Phase(name, at_ms, at_ms + length_ms))
        at_ms += length_ms
    for name, value in more.items():
        setattr(session, name, value)
    return session


def quarter(at_s, mwh, device="d1", length_s=900, quality="ok", peak_mw=0):
    return Interval(device, at_s, length_s, mwh, peak_mw, quality)


# -- figures --

@pytest.mark.parametrize(("values", "middle", "p90"), [
    ([], None, None), ([7], 7, 7), ([1, 2], 2, 2), ([3, 1, 2], 2, 3), ([1, 2, 3, 4], 3, 4),
    (range(1, 11), 6, 9), (range(1, 12), 6, 10), (range(100), 50, 89)])
def test_median_and_nearest_rank(values, middle, p90):
    assert median(values) == middle
    assert quantile(values, 900) == p90


@pytest.mark.parametrize(("part", "whole", "expected"), [
    (1, 0, None), (0, 5, 0), (1, 3, 333), (2, 3, 667), (1, 16, 63), (5, 4, 1250), (-1, 4, -250)])
def test_shares_are_rounded_half_up(part, whole, expected):
    assert share(part, whole) == expected


# -- local time --

@pytest.mark.parametrize(("zone", "instant", "weekday_hour"), [
    ("UTC", "2026-03-29 01:00", (6, 1)),
    ("Europe/Berlin", "2026-03-29 00:59", (6, 1)),
    ("Europe/Berlin", "2026-03-29 01:00", (6, 3)),  # 02:00 is skipped
    ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29 01:00", (6, 3)),
    ("Europe/Berlin", "2026-10-25 00:30", (6, 2)),
    ("Europe/Berlin", "2026-10-25 01:30", (6, 2)),  # 02:00 comes twice
    ("Asia/Kolkata", "2026-03-29 18:30", (0, 0)),
    ("America/New_York", "2026-03-08 06:59", (6, 1)),
    ("America/New_York", "2026-03-08 07:00", (6, 3)),
    ("Australia/Lord_Howe", "2026-10-03 15:29", (6, 1)),  # half an hour: 02:00 becomes 02:30
    ("Australia/Lord_Howe", "2026-10-03 15:30", (6, 2)),
])
def test_weekday_and_hour_on_the_wall(zone, instant, weekday_hour):
    assert LocalTime(zone).weekday_hour(utc(instant)) == weekday_hour


@pytest.mark.parametrize(("zone", "day", "instant"), [
    ("Europe/Berlin", date(2026, 3, 29), "2026-03-28 23:00"),
    ("Europe/Berlin", date(2026, 3, 30), "2026-03-29 22:00"),
    ("Europe/Berlin", date(2026, 10, 26), "2026-10-25 23:00"),
    ("America/New_York", date(2026, 1, 1), "2026-01-01 05:00"),
    ("Pacific/Kiritimati", date(2026, 1, 1), "2025-12-31 10:00"),
    ("America/Sao_Paulo", date(2018, 11, 4), "2018-11-04 03:00"),  # midnight is skipped
])
def test_the_first_instant_of_a_day(zone, day, instant):
    assert LocalTime(zone).midnight_s(day) == utc(instant)


def test_a_zone_that_is_none_is_one_clear_line():
    for name in ("Mars/Olympus", "", "../../etc/passwd", "CET-1CEST,M3"):
        with pytest.raises(UserError, match="allowed"):
            LocalTime(name)


# -- use --

def test_utilisation_has_three_names_and_each_its_own_value():
    begin_ms = utc("2026-09-01 00:00") * 1000
    session = made(begin_ms + HOUR_MS, begin_ms + 7 * HOUR_MS, 21 * KWH,
                   [("waiting_for_car", HOUR_MS), ("charging", 3 * HOUR_MS),
                    ("finished_estimated", 2 * HOUR_MS)])
    strange = made(begin_ms, begin_ms + HOUR_MS, device="not-a-station")
    table = use.utilisation([session, strange], begin_ms, begin_ms + DAY_MS,
                            {"d1": 11_000_000, "d2": 22_000_000}, down_ms={"d1": 4 * HOUR_MS})
    rows = {row["definition"]: row for row in table.dicts()}
    assert [(row["part"], row["whole"], row["share_permille"], row["adjusted_permille"])
            for row in rows.values()] == [
        (3 * 3600, 48 * 3600, 63, 68), (6 * 3600, 48 * 3600, 125, 136),
        (21 * KWH, 792 * KWH, 27, 28)]
    assert not table.notes
    # of a station whose power is not known, the energy is in no share
    table = use.utilisation([session], begin_ms, begin_ms + DAY_MS, {"d1": 0, "d2": 22_000_000})
    assert [(row["part"], row["whole"]) for row in table.dicts()] == [
        (3 * 3600, 48 * 3600), (6 * 3600, 48 * 3600), (0, 528 * KWH)]
    assert table.notes[0].startswith("1 of 2 stations")


def test_periods_cut_sessions_and_neighbouring_ones_add_up():
    midnight_ms = utc("2026-09-02 00:00") * 1000
    session = made(midnight_ms - 3 * HOUR_MS, midnight_ms + 3 * HOUR_MS, 8 * KWH + 1, [
        ("waiting_for_car", HOUR_MS), ("charging", 4 * HOUR_MS), ("paused_by_car", HOUR_MS)])
    days = [(midnight_ms - DAY_MS, midnight_ms), (midnight_ms, midnight_ms + DAY_MS)]
    parts = [use.energy_inside(session, *day) for day in days]
    assert parts == [4 * KWH, 4 * KWH + 1]
    for day, charging_s in zip(days, (2 * 3600, 2 * 3600), strict=True):
        row = use.utilisation([session], *day, {"d1": KWH}).dicts()[0]
        assert row["part"] == charging_s
    table = use.utilisation([session], midnight_ms + DAY_MS, midnight_ms + 2 * DAY_MS, {"d1": KWH})
    assert [row["part"] for row in table.dicts()] == [0, 0, 0]


def test_a_session_whose_time_is_not_known_counts_nowhere():
    begin_ms = utc("2026-09-01 00:00") * 1000
    sessions = [made(begin_ms, begin_ms + HOUR_MS, quality="U")]
    period = (begin_ms, begin_ms + DAY_MS)
    assert not use.begun(sessions, *period)
    assert [row["part"] for row in use.utilisation(sessions, *period, {"d1": KWH}).dicts()] == [
        0, 0, 0]
    assert use.concurrency(sessions, UTC_ZONE, *period, 1).dicts()[0]["cars"] == 0
    table = use.distribution(sessions, *period)
    assert table.dicts()[0]["count"] == 0
    assert table.notes == ("1 sessions with %d mWh have no known time and are left out"
                           % sessions[0].energy_mwh,)


@pytest.mark.parametrize(("day", "quarters_at_2", "quarters_in_all"), [
    (date(2026, 3, 29), 0, 23 * 4), (date(2026, 10, 25), 8, 25 * 4), (date(2026, 6, 7), 4, 24 * 4),
])
def test_the_heat_map_knows_skipped_and_doubled_hours(day, quarters_at_2, quarters_in_all):
    from_s = BERLIN.midnight_s(day)
    to_s = BERLIN.midnight_s(date.fromordinal(day.toordinal() + 1))
    starts = [made((from_s + minutes * 60) * 1000, (from_s + minutes * 60 + 600) * 1000)
              for minutes in (0, 119, 120, 179, 180)]
    outside = [made(from_s * 1000 - 1, from_s * 1000 + MIN_MS), made(to_s * 1000, to_s * 1000 + 1)]
    table = use.starts(starts + outside, BERLIN, from_s * 1000, to_s * 1000)
    assert len(table.rows) == 168
    counts = use.matrix(table)
    assert sum(map(sum, counts)) == 5 and sum(counts[6]) == 5
    expected = {0: {0: 1, 1: 1, 3: 2, 4: 1}, 8: {0: 1, 1: 1, 2: 3}, 4: {0: 1, 1: 1, 2: 2, 3: 1}}
    found = {hour: count for hour, count in enumerate(counts[6]) if count}
    assert found == expected[quarters_at_2]
    spent = use.matrix(table, "quarters")
    assert spent[6][2] == quarters_at_2 and sum(map(sum, spent)) == quarters_in_all


def test_cars_at_once_by_a_sweep():
    base_ms = utc("2026-09-07 10:00") * 1000  # a Monday
    sessions = [made(base_ms + begin * MIN_MS, base_ms + end * MIN_MS, device="d%d" % begin)
                for begin, end in ((0, 10), (10, 20), (5, 15), (70, 80))]
    table = use.concurrency(sessions, BERLIN, base_ms, base_ms + DAY_MS, 2)
    whole, *cells = table.dicts()
    # one leaves in the minute in which the next comes: never three
    assert (whole["cars"], whole["peak_s"], whole["full_s"]) == (2, 600, 600)
    assert whole["first"] == "2026-09-07 12:05 +0200"
    assert {(row["weekday"], row["hour"]): row["cars"] for row in cells if row["cars"]} == {
        ("mon", 12): 2, ("mon", 13): 1}
    assert use.concurrency(sessions, BERLIN, base_ms, base_ms + DAY_MS, 3).dicts()[0][
        "full_s"] == 0


def test_energy_and_duration_of_sessions():
    sessions = [made(at * HOUR_MS, at * HOUR_MS + (at + 1) * MIN_MS, (at + 1) * KWH)
                for at in range(10)]
    sessions[9].duration_s = 599  # the monotonic clock's word counts
    sessions.append(made(0, MIN_MS, state="open"))
    rows = {row["figure"]: row for row in use.distribution(sessions, 0, DAY_MS).dicts()}
    assert rows["energy_mwh"] == {
        "figure": "energy_mwh", "count": 10, "sum": 55 * KWH, "least": KWH,
        "median": 5_500_000, "p90": 9 * KWH, "most": 10 * KWH, "mean": 5_500_000}
    assert rows["duration_s"]["most"] == 599 and rows["duration_s"]["p90"] == 540
    assert rows["mean_power_mw"]["median"] == 60 * KWH  # 1 kWh a minute
    assert use.distribution([], 0, DAY_MS).dicts()[0]["median"] is None


@pytest.mark.parametrize(("phases", "idle_min", "over_min"), [
    ([("charging", 60), ("finished_estimated", 30)], 30, 20),
    ([("charging", 60), ("finished_estimated", 10)], 10, 0),
    ([("charging", 30), ("finished_estimated", 20), ("charging", 30), ("paused_by_car", 15)], 15,
     5),
    ([("charging", 60), ("paused_by_charger", 50)], 0, 0),  # not the driver's
    ([("charging", 60), ("fault", 50), ("finished_estimated", 12)], 12, 2),
    ([("waiting_for_car", 90)], 0, 0),  # never charged: a failed start, no overstay
    ([("charging", 60), ("off", 20), ("unknown", 20)], 0, 0),
])
def test_overstay_is_what_the_driver_could_end(phases, idle_min, over_min):
    phases = [(name, minutes * MIN_MS) for name, minutes in phases]
    session = made(0, sum(length for _, length in phases), phases=phases)
    assert (session.idle_ms, session.overstay_ms(10 * MIN_MS)) == (
        idle_min * MIN_MS, over_min * MIN_MS)
    row = use.overstay([session], 0, DAY_MS).dicts()[0]
    assert (row["overstays"], row["overstay_s"]) == (over_min > 0, over_min * 60)


def test_energy_by_tariff_leaves_nothing_out():
    sessions = [
        made(0, HOUR_MS, 5 * KWH, by_tariff={"day": 3 * KWH, "night": 2 * KWH}, split_ok=True),
        made(1, HOUR_MS, 4 * KWH, by_tariff={"day": 3 * KWH}, split_ok=True, gap_mwh=KWH),
        made(2, HOUR_MS, 7 * KWH, by_tariff={"day": 7 * KWH}, split_ok=False),
        made(3, HOUR_MS, 1 * KWH)]
    table = use.tariff_split(sessions, 0, DAY_MS)
    assert {row["tariff"]: (row["sessions"], row["energy_mwh"]) for row in table.dicts()} == {
        "day": (2, 6 * KWH), "night": (1, 2 * KWH), "(gap)": (1, KWH),
        "(not split)": (2, 8 * KWH)}
    assert sum(row["energy_mwh"] for row in table.dicts()) == 17 * KWH
    assert use.off_peak_share(table, ("night",)) == (2 * KWH, 17 * KWH, 118)
    table = use.tariff_table({"(not split)": 5 * KWH, "(gap)": KWH},
                             {"(not split)": 1, "(gap)": 1})
    assert use.off_peak_share(table, ("night",)) == (0, 6 * KWH, None)


@pytest.mark.parametrize(("more", "outcome"), [
    ({}, "success"), ({"ended_by": "L"}, "success"), ({"ended_by": "R"}, "success"),
    ({"ended_by": "A"}, "aborted"), ({"ended_by": "P"}, "power_fail"),
    ({"state": "open", "energy_mwh": None}, "open"), ({"ok": False}, "not_verified"),
    ({"energy_mwh": 0}, "no_energy"),
    ({"energy_mwh": 0, "phases": [("waiting_for_car", MIN_MS)]}, "never_charged"),
])
def test_what_became_of_a_session(more, outcome):
    more = dict(more)
    phases, energy = more.pop("phases", None), more.pop("energy_mwh", KWH)
    session = made(0, MIN_MS, energy, phases, **more)
    assert session.outcome == outcome
    rows = {row["outcome"]: row for row in use.outcomes([session], 0, DAY_MS).dicts()}
    assert rows[outcome]["attempts"] == 1
    assert rows["success"]["share_permille"] == (
        None if outcome == "open" else 1000 if outcome == "success" else 0)


def test_the_success_rate_counts_refused_and_not_too_short_attempts():
    waiting = [("waiting_for_car", 20_000)]
    sessions = [made(0, MIN_MS), made(1, MIN_MS), made(2, 20_002, 0, waiting),
                made(3, MIN_MS, state="open")]
    rows = {row["outcome"]: row for row in use.outcomes(sessions, 0, DAY_MS, refused=1).dicts()}
    assert rows["success"]["share_permille"] == 500  # 2 of 4
    rows = {row["outcome"]: row for row in
            use.outcomes(sessions, 0, DAY_MS, refused=1, least_ms=30_000).dicts()}
    assert rows["success"]["share_permille"] == 667  # 2 of 3


# -- demand --

def test_demand_peak_and_load_factor_by_local_month():
    month_s = utc("2026-02-28 23:00")  # March begins in Berlin
    intervals = [
        quarter(month_s - 900, 900_000),
        quarter(month_s, 500_000), quarter(month_s, 250_000, "d2"),
        quarter(month_s + 900, 250_000),
        quarter(month_s + 1800, 9_000_000, quality="clock")]
    table = demand.demand(intervals, BERLIN)
    february, march = table.dicts()
    assert (february["month"], february["energy_mwh"]) == ("2026-02", 900_000)
    assert march == {
        "month": "2026-03", "energy_mwh": KWH, "peak_mw": 3 * KWH,
        "peak_at": "2026-03-01 00:00 +0100", "peak_quality": "ok", "mean_mw": 2 * KWH,
        "load_factor_permille": 667, "quarters": 2}
    assert "9000000 mWh" in table.notes[0]
    assert demand.demand(intervals, UTC_ZONE).dicts()[0]["month"] == "2026-02"
    assert len(demand.demand(intervals, UTC_ZONE).rows) == 1


def test_long_intervals_are_spread_and_marked():
    long = quarter(0, 1_000_003, length_s=3600)
    assert demand.pieces(long) == [(0, 250_001), (900, 250_001), (1800, 250_001), (2700, 250_000)]
    table = demand.demand([long, quarter(2700, 1, "d2")], UTC_ZONE)
    assert table.dicts()[0]["peak_quality"] == "partial"
    assert table.dicts()[0]["energy_mwh"] == 1_000_004
    assert demand.power_mw(250_000) == KWH and demand.power_mw(1, 900) == 4


def test_off_peak_energy_by_the_hours_of_the_local_day():
    saturday_s = utc("2026-03-28 00:00")
    intervals = [quarter(saturday_s + at * 900, 1000) for at in range(2 * 96)]
    # UTC: two days of 8 hours each
    assert demand.off_peak(intervals, UTC_ZONE, 22 * 60, 6 * 60) == (64_000, 192_000, 333)
    # Berlin: 01:00 on Saturday to 02:00 on Monday, with an hour less in the night to Sunday:
    # 5 h + 2 h + 5 h + 2 h + 2 h
    assert demand.off_peak(intervals, BERLIN, 22 * 60, 6 * 60)[0] == 16 * 4 * 1000
    assert demand.off_peak(intervals, BERLIN, 0, 24 * 60, ("sun",))[0] == 23 * 4 * 1000


def test_peak_power_of_a_session():
    intervals = [quarter(at * 900, 1, peak_mw=at) for at in range(5)]
    assert demand.peak_mw(intervals, 900, 1801) == 2
    assert demand.peak_mw(intervals, 900, 1800) == 1
    assert demand.peak_mw(intervals, 9000, 9001) is None


# -- stations --

def test_station_performance():
    own = DeviceFacts("d1", [
        made(0, 2 * HOUR_MS, 11 * KWH, [("charging", HOUR_MS), ("finished_estimated", HOUR_MS)]),
        made(3 * HOUR_MS, 4 * HOUR_MS, 0, [("waiting_for_car", HOUR_MS)])],
        outside=[(5 * HOUR_MS, 105_000), (30 * HOUR_MS, 10**9)])
    row = stations.stations({"d1": own}, 0, DAY_MS, {"d1": 22_000_000}).dicts()[0]
    assert row == {
        "device": "d1", "sessions": 2, "success_permille": 500, "failed_starts": 1,
        "energy_mwh": 11 * KWH, "charging_mw": 11 * KWH, "delivered_permille": 500,
        "standby_mwh": 105_000, "standby_mw": 5000,  # in 21 hours without a car
        "loss_permille": 9}
    empty = stations.stations({"d2": DeviceFacts("d2")}, 0, DAY_MS, {}).dicts()[0]
    assert empty["charging_mw"] is None and empty["delivered_permille"] is None


def test_voltage_drop_by_phase():
    idle = [{"i_ma": [0, 0], "u_mv": [231_000, 230_000]}] * 3
    loaded = [{"i_ma": [32_000, 16_000], "u_mv": [227_800, 229_000]}] * 3
    half = [{"i_ma": [16_000, 100], "u_mv": [229_400, 230_000]}]
    rows = stations.voltage_drop("d1", idle + loaded + half).dicts()
    assert [(row["phase"], row["drop_mv"], row["drop_permille"], row["source_mohm"])
            for row in rows] == [(1, 3200, 14, 100), (2, 1000, 4, 63)]
    assert stations.voltage_drop("d1", idle).dicts()[0]["drop_mv"] is None
    assert stations.voltage_drop("d1", []).rows == []


def test_delivered_against_offered():
    samples = [{"i_max_ma": 16_000, "u_mv": [230_000] * 3, "p_mw": 5_520_000},
               {"i_max_ma": 16_000, "u_mv": [230_000] * 3, "p_mw": 11_040_000},
               {"i_max_ma": 0, "u_mv": [230_000] * 3, "p_mw": 1}, {"i_max_ma": 16_000}]
    assert stations.delivered("d1", samples).rows == [("d1", 2, 8_280_000, 11_040_000, 750)]


def test_completeness_is_told_by_device():
    own = DeviceFacts("d1", by_stream={("rec", "ok"): 3, ("evt", "bad"): 1}, missing=2,
                      latency_ms=list(range(1, 101)))
    assert stations.completeness({"d1": own}).rows == [("d1", 4, 2, 1, 95, 0)]


# -- up-time --

@pytest.mark.parametrize(("minutes", "excluded", "mpercent", "above"), [
    (0, 0, 100_000, "yes"), (15_768, 0, 97_000, "no"), (15_767, 0, 97_000, "yes"),
    (15_768, 1, 97_000, "yes"), (525_600, 0, 0, "no"), (525_600, 525_600, 100_000, "yes"),
    (5256, 0, 99_000, "yes"),
])
def test_uptime_by_the_rule(minutes, excluded, mpercent, above):
    from_s, to_s = uptime.month_period("2026-12", UTC_ZONE, 12)
    assert to_s - from_s == uptime.YEAR_S
    outages = [Outage("d1", from_s, from_s + excluded * 60, "", "utility"),
               Outage("d1", from_s + excluded * 60, from_s + minutes * 60)]
    row = uptime.uptime(outages, ["d1"], ["2026-12"], UTC_ZONE).dicts()[0]
    assert (row["t_outage_min"], row["t_excluded_min"]) == (minutes, excluded)
    assert (row["uptime_mpercent"], row["above_97_percent"]) == (mpercent, above)


def test_outages_that_overlap_count_once_and_excluded_only_alone():
    hour = 3600
    outages = [Outage("d1", 10 * hour, 12 * hour),
               Outage("d1", 11 * hour, 13 * hour, "", "utility"),
               Outage("d1", 12 * hour, 13 * hour, "", "vandalism"),
               Outage("d1", 20 * hour, 20 * hour)]
    assert uptime.outage_s(outages, 0, 86400) == (3 * hour, hour)
    assert uptime.outage_s(outages, 12 * hour, 86400) == (hour, hour)
    assert uptime.outage_s(outages, 0, 10 * hour) == (0, 0)
    rows = uptime.reasons(outages, ["d1"], 0, 86400).dicts()
    assert [(row["reason"], row["outage_min"], row["count"]) for row in rows] == [
        ("", 120, 1), ("utility", 120, 1), ("vandalism", 60, 1)]


def test_months_are_local_and_as_long_as_they_are():
    from_s, to_s = uptime.month_period("2026-03", BERLIN)
    assert (from_s, to_s) == (utc("2026-02-28 23:00"), utc("2026-03-31 22:00"))
    from_s, to_s = uptime.month_period("2026-10", BERLIN)
    assert to_s - from_s == 31 * 86400 + 3600
    assert uptime.month_period("2026-01", UTC_ZONE, 12)[0] == utc("2025-02-01 00:00")
    for wrong in ("2026", "2026-13", "x", "2026-00"):
        with pytest.raises(UserError, match="month"):
            uptime.month_period(wrong, UTC_ZONE)


def test_an_outage_before_the_twelve_months_does_not_count_any_more():
    from_s, _ = uptime.month_period("2026-12", UTC_ZONE, 12)
    outages = [Outage("d1", from_s - 7200, from_s + 3600)]
    row = uptime.uptime(outages, ["d1"], ["2026-12"], UTC_ZONE).dicts()[0]
    assert (row["t_outage_min"], row["month_outage_min"]) == (60, 0)


def test_only_reasons_of_the_rule_exclude_and_files_are_checked(tmp_path):
    with pytest.raises(UserError, match="utility"):
        Outage("d1", 0, 1, "", "lunch")
    with pytest.raises(UserError, match="ends before"):
        Outage("d1", 2, 1)
    path = tmp_path / "o.csv"
    path.write_text("device,start_s,stop_s,cause,excluded\nd1,0,60,storm,disaster\nd1,60,90,,\n")
    assert uptime.read_outages(path) == [
        Outage("d1", 0, 60, "storm", "disaster"), Outage("d1", 60, 90)]
    for text in ("device,start_s\nd1,0\n", "device,start_s,stop_s\nd1,x,1\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="needs the columns"):
            uptime.read_outages(path)


def test_holes_in_the_load_profile_are_outages():
    intervals = [quarter(at * 900, 1) for at in (0, 1, 2, 6, 7)]
    intervals.append(quarter(3 * 900, 1, length_s=1800))
    assert [(hole.start_s, hole.stop_s) for hole in uptime.holes(intervals)] == [(4500, 5400)]
    assert uptime.holes([quarter(0, 1)]) == []


def test_mtbf_and_mttr():
    hour, month_ms = 3600, 30 * DAY_MS
    outages = [Outage("d1", 10 * hour, 16 * hour),
               Outage("d1", 100 * hour, 106 * hour, "", "utility")]
    sessions = [made(at * DAY_MS, at * DAY_MS + HOUR_MS) for at in range(4)]
    sessions[1].faults = 1
    sessions[2].faults, sessions[2].ended_by = 1, "A"  # the same fault, once
    row = uptime.reliability(outages, sessions, ["d1"], 0, month_ms).dicts()[0]
    assert row == {
        "device": "d1", "outages": 1, "faults": 2, "sessions": 4, "faults_per_1000_sessions": 500,
        "mtbf_s": (720 - 12) * hour // 3, "mttr_s": 6 * hour}
    calm = uptime.reliability([], [], ["d1"], 0, month_ms).dicts()[0]
    assert calm["mtbf_s"] is None and calm["mttr_s"] is None


# -- tables --

def test_each_report_has_a_csv_a_json_and_80_columns():
    base_ms = utc("2026-09-01 00:00") * 1000
    own = DeviceFacts("d1", [made(base_ms, base_ms + HOUR_MS)],
                      [quarter(base_ms // 1000, 1), quarter(base_ms // 1000 + 9000, 1)])
    own.supply, own.offers = [(1, -1, 1, 230_000, 0), (1, 16, 1, 226_000, 16_000)], (1, 7, 8)
    view = View(BERLIN, base_ms, base_ms + 3 * DAY_MS, {"d1": 11 * KWH})
    assert view.months() == ["2026-09"]
    for name in REPORTS:
        table = report(name, {"d1": own}, view)
        rows = list(csv.DictReader(io.StringIO(table.csv())))
        assert len(rows) == len(table.rows) > 0, name
        assert list(rows[0]) == [column.key for column in table.columns]
        assert all(value is None or isinstance(value, (int, str))
                   for row in table.rows for value in row), name
        assert all(len(line) <= 80 for line in table.lines()), name
        assert table.json()["rows"] == table.dicts()
    with pytest.raises(UserError, match="no report"):
        report("x", {}, view)


def test_a_spreadsheet_calculates_nothing():
    table = Table("t", "t", (Column("a", "a"), Column("b", "b")),
                  [("=1+1", 1), ("@x", -5), ("-2", None), ("safe", 0), ('quo"te,', 1)])
    assert table.csv().splitlines()[1:] == [
        "'=1+1,1", "'@x,-5", "'-2,", "safe,0", '"quo""te,",1']
