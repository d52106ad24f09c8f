"""zone.py against CPython's zoneinfo, which reads the machine's time-zone database."""

import datetime
import zoneinfo

import pytest

from evmeter.session.zone import Zone, date, day_number

# A zone of the database, its rule, and the first whole year in which that rule holds.
ZONES = (
    ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", 2020),
    ("Europe/London", "GMT0BST,M3.5.0/1,M10.5.0", 2020),
    ("Europe/Dublin", "IST-1GMT0,M10.5.0,M3.5.0/1", 2020),  # winter time is the exception
    ("America/New_York", "EST5EDT,M3.2.0,M11.1.0", 2020),
    ("America/St_Johns", "NST3:30NDT,M3.2.0,M11.1.0", 2020),
    ("America/Santiago", "<-04>4<-03>,M9.1.6/24,M4.1.6/24", 2023),
    ("America/Nuuk", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0", 2025),
    ("Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", 2020),
    ("Pacific/Auckland", "NZST-12NZDT,M9.5.0,M4.1.0/3", 2020),
    ("Pacific/Chatham", "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45", 2020),
    ("Asia/Jerusalem", "IST-2IDT,M3.4.4/26,M10.5.0", 2020),
    ("Asia/Kolkata", "IST-5:30", 2020),
    ("Asia/Tehran", "<+0330>-3:30", 2023),
)


def _offset_s(zone, unix_s):
    return int(datetime.datetime.fromtimestamp(unix_s, zone).utcoffset().total_seconds())


def _differences(name, text, year):
    """Instants at which the two disagree, and how many changes were met."""
    try:
        theirs = zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("this machine has no time-zone database")
    ours = Zone(text)
    begin_s, end_s = day_number(year, 1, 1) * 86400, day_number(2038, 1, 1) * 86400
    wrong = [unix_s for unix_s in range(begin_s, end_s, 86400 + 3601)
             if ours.at(unix_s)[0] != _offset_s(theirs, unix_s)]
    changes = 0
    change_s = ours.at(begin_s)[1]
    while change_s is not None and change_s < end_s:
        changes += 1
        around = [*range(change_s - 172800, change_s + 172800, 3600), change_s - 1, change_s + 1]
        wrong += [unix_s for unix_s in around
                  if ours.at(unix_s)[0] != _offset_s(theirs, unix_s)]
        if _offset_s(theirs, change_s - 1) == _offset_s(theirs, change_s):
            wrong.append(change_s)
        change_s = ours.at(change_s)[1]
    return wrong, changes


@pytest.mark.parametrize(("name", "text", "year"), ZONES)
def test_every_offset_from_2020_to_2037_is_that_of_the_database(name, text, year):
    wrong, changes = _differences(name, text, year)
    assert not wrong
    assert changes == (2 * (2038 - year) if "," in text else 0)


@pytest.mark.parametrize("text", ["CET-1CEST,M3.5.0,M10.5.0", "CET-1CEST,M3.4.0,M10.5.0/3"])
def test_the_comparison_sees_a_rule_that_is_a_little_wrong(text):
    assert _differences("Europe/Berlin", text, 2020)[0]


def test_every_day_of_two_centuries():
    day = datetime.date(1970, 1, 1)
    for number in range(73_000):
        assert date(number) == (day.year, day.month, day.day)
        assert day_number(day.year, day.month, day.day) == number
        day += datetime.timedelta(1)
