"""tariff.py against brute force: every minute of every kind of day, local time by zoneinfo."""

import datetime
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evmeter.session import tariff as module
from evmeter.session import windows as reader
from evmeter.session.tariff import Tariff

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"
YEAR = [datetime.date(2024, 1, 1) + datetime.timedelta(day) for day in range(366)]


def _clock(minute):
    return "%02d:%02d" % divmod(minute, 60)


def _minutes(text):
    return int(text[:2]) * 60 + int(text[3:])


# -- what a window means, written down a second time and in another way --

def _holds_on(window, month_day, weekday):
    first, last = window.get("season", ("01-01", "12-31"))
    inside = (first <= month_day <= last if first <= last
              else not last < month_day < first)
    return inside and DAYS[weekday] in window.get("days", DAYS)


def _times(window):
    begin, end = _minutes(window["from"]), _minutes(window["to"])
    return set(range(begin, end)) if begin < end else set(range(1440)) - set(range(end, begin))


def _covers_exactly(windows):
    times = [_times(window) for window in windows]
    kinds = {tuple(index for index, window in enumerate(windows)
                   if _holds_on(window, day.strftime("%m-%d"), weekday))
             for day in YEAR for weekday in range(7)}
    return all(sum(len(times[index]) for index in kind) == 1440
               and len(set().union(*(times[index] for index in kind))) == 1440
               for kind in kinds)


def _window_then(windows, unix_s, zone):
    local = datetime.datetime.fromtimestamp(unix_s, zone)
    found = [index for index, window in enumerate(windows)
             if _holds_on(window, local.strftime("%m-%d"), local.weekday())
             and local.hour * 60 + local.minute in _times(window)]
    assert len(found) == 1
    return next(index for index, window in enumerate(windows)
                if window["name"] == windows[found[0]]["name"])


# -- tariffs that cover everything by the way they are made --

@st.composite
def tariffs(draw):
    """Windows by season, group of days and time; at most 16."""
    windows = []
    cuts = sorted(draw(st.lists(st.integers(0, 365), max_size=2, unique=True)))
    spans = [(YEAR[begin], YEAR[end - 1])
             for begin, end in zip(cuts, cuts[1:] + cuts[:1], strict=True)]
    for season in spans or [None]:
        groups = draw(st.lists(st.integers(0, 1), min_size=7, max_size=7))
        for group in sorted(set(groups)):
            days = [day for day, of in zip(DAYS, groups, strict=True) if of == group]
            edges = sorted(draw(st.lists(st.integers(0, 1439), min_size=1, max_size=3,
                                         unique=True)))
            for begin, end in zip(edges, edges[1:] + edges[:1], strict=True):
                number = len(windows)
                window = {"name": "w%d" % number, "from": _clock(begin), "to": _clock(end),
                          "centiminor_per_kwh": 1000 + number}
                if len(edges) == 1:
                    window.update({"from": "00:00", "to": "24:00"})
                if len(days) < 7 or draw(st.booleans()):
                    window["days"] = days
                if season:
                    window["season"] = [day.strftime("%m-%d") for day in season]
                windows.append(window)
    if draw(st.booleans()):  # one name may stand for several windows
        windows[-1].update(name=windows[0]["name"],
                           centiminor_per_kwh=windows[0]["centiminor_per_kwh"])
    return windows


@st.composite
def spoilt(draw):
    """A tariff in which one thing was changed; it may still be right by chance."""
    windows = draw(tariffs())
    window = draw(st.sampled_from(windows))
    what = draw(st.sampled_from(("from", "to", "days", "season", "gone", "twice")))
    if what in ("from", "to"):
        others = {window["from"], window["to"]}
        window[what] = draw(st.integers(0, 1439).map(_clock).filter(lambda t: t not in others))
    elif what == "days":
        window["days"] = draw(st.lists(st.sampled_from(DAYS), min_size=1, unique=True))
    elif what == "season":
        window["season"] = [draw(st.sampled_from(YEAR)).strftime("%m-%d") for _ in range(2)]
    elif what == "gone" and len(windows) > 1:
        windows.remove(window)
    elif what == "twice":
        windows.append(dict(window))
    return windows


def _accepted(windows):
    try:
        Tariff({"currency": "EUR", "zone": ZONE, "windows": windows})
    except ValueError as error:
        assert "lies in" in str(error), error
        assert "\n" not in str(error)
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(tariffs())
def test_a_tariff_that_covers_every_minute_once_is_taken(windows):
    assert _covers_exactly(windows)
    assert _accepted(windows)


@settings(max_examples=300, deadline=None)
@given(spoilt())
def test_a_tariff_is_taken_exactly_if_it_covers_every_minute_once(windows):
    assert _accepted(windows) == _covers_exactly(windows)


INSTANTS = st.one_of(
    st.integers(1_577_836_800, 2_145_916_800),
    st.sampled_from((1_711_846_800, 1_729_990_800, 1_743_296_400, 1_735_689_600, 1_709_164_800))
    .flatmap(lambda near: st.integers(near - 172800, near + 172800)))


@settings(max_examples=150, deadline=None)
@given(tariffs(), INSTANTS)
def test_window_and_boundary_are_those_of_brute_force(windows, unix_s):
    try:
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("this machine has no time-zone database")
    tariff = Tariff({"currency": "EUR", "zone": ZONE, "windows": windows})
    window = tariff.window_at(unix_s)
    assert window == _window_then(windows, unix_s, zone)
    boundary_s = tariff.next_boundary_s(unix_s)
    assert unix_s < boundary_s <= unix_s + 9 * 86400
    minutes = range(unix_s - unix_s % 60 + 60, boundary_s, 60)
    for minute_s in [*minutes[:200], *minutes[-200:], *minutes[200:-200:31]]:
        assert _window_then(windows, minute_s, zone) == window
    assert tariff.window_at(boundary_s) == _window_then(windows, boundary_s, zone)
    if boundary_s < unix_s + 8 * 86400:
        assert tariff.window_at(boundary_s) != window


@pytest.mark.parametrize("defect", ["sunday", "season", "midnight"])
def test_the_comparison_catches_a_wrong_check(defect, monkeypatch):
    """The three parts of the check, left out one after another, against one tariff each."""
    whole = {"name": "a", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 1}
    windows = {"sunday": [dict(whole, days=list(DAYS[:6]))],
               "season": [dict(whole, season=["03-01", "02-28"])],
               "midnight": [{**whole, "from": "23:00", "to": "22:00"}]}[defect]
    assert not _covers_exactly(windows)
    assert not _accepted(windows)
    if defect == "sunday":
        monkeypatch.setattr(reader, "range", lambda *n: range(*(6 if x == 7 else x for x in n)),
                            raising=False)
    elif defect == "season":
        monkeypatch.setattr(reader, "_month_length",
                            lambda month: 28 if month == 2 else 31)
        windows[0]["season"] = ["03-01", "02-28"]
    else:
        monkeypatch.setattr(module, "_within", lambda value, low, high: low <= value or low > high)
    assert _accepted(windows) != _covers_exactly(windows)
