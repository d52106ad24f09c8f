from evmeter.session.tariff import Tariff
from support import raises

_BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
_MON = 1_704_067_200  # Monday 2024-01-01 00:00 UTC
_SPRING = 1_711_846_800  # 2024-03-31 01:00 UTC: 02:00 to 03:00 do not exist
_AUTUMN = 1_729_990_800  # 2024-10-27 01:00 UTC: 02:00 to 03:00 come twice


def _row(name, begin, end, price=1000, days=None, season=None):
    row = {"name": name, "from": begin, "to": end, "centiminor_per_kwh": price}
    if days:
        row["days"] = days.split()
    if season:
        row["season"] = season.split()
    return row


def _config(*rows, **other):
    config = {"currency": "EUR", "zone": _BERLIN, "windows": list(rows)}
    config.update(other)
    return config


def _day_night(**other):
    return Tariff(_config(_row("day", "06:00", "22:00", 3974),
                          _row("night", "22:00", "06:00", 2450), **other))


def _changes(tariff, unix_s, count):
    """The next `count` (seconds from `unix_s`, name of the window that begins)."""
    found = []
    at_s = unix_s
    for _ in range(count):
        at_s = tariff.next_boundary_s(at_s)
        found.append((at_s - unix_s, tariff.name(tariff.window_at(at_s))))
    return found


def test_day_and_night():
    tariff = _day_night(zone="UTC0")
    assert [tariff.window_at(_MON + hour * 3600 + minute * 60)
            for hour, minute in ((0, 0), (5, 59), (6, 0), (21, 59), (22, 0), (24, 0))] == [
        1, 1, 0, 0, 1, 1]
    assert _changes(tariff, _MON, 4) == [(21600, "day"), (79200, "night"), (108000, "day"),
                                         (165600, "night")]
    assert tariff.price(0) == 3974
    assert len(tariff) == 2


def test_the_night_over_which_the_clock_changes():
    tariff = _day_night()
    # from 22:00 local the night lasts 8 hours, but 7 in spring and 9 in autumn
    for change_s, hours in ((_SPRING, 7), (_AUTUMN, 9), (_MON, 8)):
        evening = change_s - change_s % 86400 - (3600 if change_s != _AUTUMN else 7200) - 7200
        assert tariff.window_at(evening - 1) == 0
        assert tariff.window_at(evening) == 1
        assert tariff.next_boundary_s(evening) == evening + hours * 3600


def test_local_times_that_do_not_exist_and_those_that_come_twice():
    tariff = Tariff(_config(_row("a", "00:00", "02:15"), _row("b", "02:15", "02:45"),
                            _row("c", "02:45", "24:00")))
    # 01:59:59 -> 03:00:00: b never comes
    assert _changes(tariff, _SPRING - 3600, 1) == [(3600, "c")]
    assert tariff.window_at(_SPRING - 1) == 0
    # 02:15 b, 02:45 c, 02:00 again a, 02:15 b, 02:45 c
    assert _changes(tariff, _AUTUMN - 3600, 5) == [
        (900, "b"), (2700, "c"), (3600, "a"), (4500, "b"), (6300, "c")]


def test_weekends_and_seasons():
    work, end = "mon tue wed thu fri", "sat sun"
    tariff = Tariff(_config(
        _row("peak", "16:00", "20:00", 5000, work, "10-01 03-31"),
        _row("low", "20:00", "16:00", 2000, work, "10-01 03-31"),
        _row("low", "00:00", "24:00", 2000, end, "10-01 03-31"),
        _row("summer", "00:00", "24:00", 1000, None, "04-01 09-30"), zone="UTC0"))
    # one name is one tariff: nothing changes from Friday 20:00 to Monday 16:00
    friday = _MON + 4 * 86400 + 20 * 3600
    assert _changes(tariff, friday - 3600, 2) == [(3600, "low"), (3600 + 68 * 3600, "peak")]
    assert tariff.window_at(friday + 86400) == 1
    april = _MON + 91 * 86400
    assert _changes(tariff, april - 3600, 1) == [(3600, "summer")]
    # nothing within 8 days: the boundary is where one must look again
    again_s = tariff.next_boundary_s(april + 3600)
    assert april + 3600 + 8 * 86400 <= again_s <= april + 3600 + 9 * 86400
    assert tariff.window_at(again_s) == 3


def test_29_february():
    rows = (_row("w", "00:00", "24:00", 1, None, "11-01 02-29"),
            _row("s", "00:00", "24:00", 2, None, "03-01 10-31"))
    tariff = Tariff(_config(*rows, zone="UTC0"))
    leap = _MON + 59 * 86400
    for day, window in ((-1, 0), (0, 0), (1, 1), (365, 0), (366, 1)):
        assert tariff.window_at(leap + 86400 * day) == window, day
    rows[0]["season"] = ["11-01", "02-28"]
    assert "mon from 02-29 on, 00:00 to 24:00 lies in no window" in str(
        raises(ValueError, Tariff, _config(*rows)))


def test_cost_is_exact_and_rounded_once():
    tariff = _day_night()
    for day_mwh, night_mwh, minor in (
        (0, 0, 0), (1_000_000, 0, 40), (10_000_000, 0, 397), (100_000_000, 0, 3974),
        (0, 10_000_000, 245), (0, 10_020_408, 245), (0, 10_020_409, 246),
        # two halves that would both be rounded up make one
        (125_817, 204_082, 10), (1_258, 0, 0), (12_582, 0, 1), (12_581, 0, 0),
        (4_000_000_000_000, 0, 158_960_000),
    ):
        assert tariff.cost([day_mwh, night_mwh]) == minor, (day_mwh, night_mwh)


def test_the_code_tells_tariffs_apart():
    assert _day_night().code == _day_night().code
    assert _day_night().code != _day_night(currency="CHF").code
    assert _day_night().code != _day_night(zone="UTC0").code


_ALL = _row("all", "00:00", "24:00")


def _with(**fields):
    row = dict(_ALL)
    row.update(fields)
    return _config(row)


def test_bad_fields_are_named_with_what_is_allowed():
    for config, text in (
        (None, "tariff is None; allowed: an object"),
        ({"currency": "EUR", "zone": "UTC0"}, "tariff.windows is missing"),
        (_config(_ALL, vat=19), "unknown field tariff.vat"),
        (_config(_ALL, currency="euro"), "tariff.currency is 'euro'; allowed: three capital"),
        (_config(_ALL, zone="Europe/Berlin"), "tariff.zone is 'Europe/Berlin' at '/Berlin'; "),
        (_config(_ALL, zone=1), "tariff.zone is 1; allowed: 1 to 64 char"),
        (_config(), "tariff.windows; allowed: a list of 1 to 16"),
        (_config(*[_ALL] * 17), "tariff.windows; allowed: a list of 1 to 16"),
        (_config(1), "tariff.windows[0] is 1; allowed: an object"),
        (_config({"name": "x"}), "tariff.windows[0].from is missing"),
        (_with(price=3), "unknown field tariff.windows[0].price"),
        (_with(name=""), "tariff.windows[0].name is ''; allowed: 1 to 16 printable"),
        (_with(name="x" * 17), "tariff.windows[0].name is"),
        (_with(name="na\xefve"), "tariff.windows[0].name is"),
        (_with(to="24:01"), "tariff.windows[0].to is '24:01'; allowed: HH:MM from 00:00 to 24:00"),
        (_with(to="12:60"), "tariff.windows[0].to is '12:60'"),
        (_with(to="9:00"), "tariff.windows[0].to is '9:00'"),
        (_with(to=" 9:00"), "tariff.windows[0].to is ' 9:00'"),
        (_with(to="+9:00"), "tariff.windows[0].to is '+9:00'"),
        (_with(to=9), "tariff.windows[0].to is 9"),
        (_with(to="00:00"), "tariff.windows[0].to is '00:00'; allowed: a time other than from"),
        ({"currency": "EUR", "zone": "UTC0", "windows": [dict(_ALL, **{"from": "24:00"})]},
         "tariff.windows[0].from is '24:00'; allowed: HH:MM from 00:00 to 23:59"),
        (_with(centiminor_per_kwh=-1), "centiminor_per_kwh is -1; allowed: a whole number"),
        (_with(centiminor_per_kwh=True), "centiminor_per_kwh is True; allowed"),
        (_with(centiminor_per_kwh="3"), "centiminor_per_kwh is '3'; allowed"),
        (_with(days=["mo"]), "tariff.windows[0].days is ['mo']; allowed: a list of mon tue"),
        (_with(days="mon"), "tariff.windows[0].days is 'mon'; allowed: a list of mon tue"),
        (_with(days=[]), "tariff.windows[0].days is []; allowed"),
        (_with(season="01-01"), "tariff.windows[0].season is '01-01'; allowed: a list"),
        (_with(season=["01-01"]), "tariff.windows[0].season is ['01-01']; allowed: a list"),
        (_with(season=["02-30", "12-31"]), "tariff.windows[0].season is '02-30'; allowed: MM-DD"),
        (_with(season=["00-10", "12-31"]), "tariff.windows[0].season is '00-10'; allowed: MM-DD"),
        (_with(season=["01-01", "13-01"]), "tariff.windows[0].season is '13-01'; allowed: MM-DD"),
        (_with(season=["01-01", 5]), "tariff.windows[0].season is 5; allowed: MM-DD"),
        (_config(_row("a", "00:00", "12:00", 5), _row("a", "12:00", "24:00", 6)),
         "windows[1].centiminor_per_kwh is 6; allowed: 5, the price of windows[0] of the same"),
    ):
        error = str(raises(ValueError, Tariff, config))
        assert text in error, (text, error)
        assert "\n" not in error


def test_gaps_and_overlaps_name_day_time_and_windows():
    for rows, text in (
        ((_row("a", "00:00", "12:00"), _row("b", "12:30", "24:00")),
         "mon from 01-01 on, 12:00 to 12:30 lies in no window of 0 a, 1 b"),
        ((_row("a", "00:00", "12:01"), _row("b", "12:00", "24:00")),
         "mon from 01-01 on, 12:00 to 12:01 lies in 0 a, 1 b"),
        ((_row("a", "00:00", "24:00", 1, "mon tue wed thu fri sat"),),
         "sun from 01-01 on, 00:00 to 24:00 lies in no window of "),
        ((_row("a", "00:00", "24:00", 1, None, "04-01 02-29"),),
         "mon from 03-01 on, 00:00 to 24:00 lies in no window"),
        ((_row("a", "00:00", "24:00"), _row("b", "23:59", "24:00", 1, "sun", "12-24 12-24")),
         "sun from 12-24 on, 23:59 to 24:00 lies in 0 a, 1 b"),
        ((_row("a", "22:00", "06:00"), _row("b", "06:00", "22:01")),
         "mon from 01-01 on, 22:00 to 22:01 lies in 0 a, 1 b"),
    ):
        error = str(raises(ValueError, Tariff, _config(*rows)))
        assert error.startswith("tariff.windows: " + text), error
        assert error.endswith("; allowed: every time in exactly one window"), error
