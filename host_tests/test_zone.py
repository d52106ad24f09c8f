from evmeter.session.zone import Zone, date, day_number
from support import raises

_BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
_2024 = 1_704_067_200  # 2024-01-01 00:00 UTC
_2025 = 1_735_689_600


def test_dates_and_day_numbers_are_each_others_inverse():
    for days, expected in ((0, (1970, 1, 1)), (364, (1970, 12, 31)), (365, (1971, 1, 1)),
                           (19782, (2024, 2, 29)), (19783, (2024, 3, 1)),
                           (20453, (2025, 12, 31)), (47540, (2100, 2, 28)),
                           (47541, (2100, 3, 1)), (49399, (2105, 4, 2))):
        assert date(days) == expected, days
        assert day_number(*expected) == days, expected


def test_offset_and_next_change():
    spring, autumn = 1_711_846_800, 1_729_990_800  # 2024-03-31 and 2024-10-27, 01:00 UTC
    for text, unix_s, offset_s, next_s in (
        ("UTC0", _2024, 0, None),
        ("<+0330>-3:30", _2024, 12600, None),
        ("<-00>5:45:30", _2024, -20730, None),
        (_BERLIN, _2024, 3600, spring),
        (_BERLIN, spring - 1, 3600, spring),
        (_BERLIN, spring, 7200, autumn),
        (_BERLIN, autumn - 1, 7200, autumn),
        (_BERLIN, autumn, 3600, 1_743_296_400),
        # southern summer goes over new year
        ("NZST-12NZDT,M9.5.0,M4.1.0/3", _2024, 46800, 1_712_412_000),
        # Jn does not count 29 February, n counts from 0 and does
        ("AAA0BBB,J60/0,J300/0", _2024, 0, _2024 + 60 * 86400),
        ("AAA0BBB,J60/0,J300/0", _2025, 0, _2025 + 59 * 86400),
        ("AAA0BBB,J59/0,J300/0", _2024, 0, _2024 + 58 * 86400),
        ("AAA0BBB,59/0,300/0", _2024, 0, _2024 + 59 * 86400),
        ("AAA0BBB,59/0,300/0", _2025, 0, _2025 + 59 * 86400),
        # times beyond the day, and an offset of summer time's own
        ("AAA0BBB-0:30,59/-1,300/167", _2024, 0, _2024 + 59 * 86400 - 3600),
        ("AAA0BBB-0:30,59/-1,300/167", _2024 + 100 * 86400, 1800,
         _2024 + 300 * 86400 + 167 * 3600 - 1800),
    ):
        assert Zone(text).at(unix_s) == (offset_s, next_s), (text, unix_s)


def test_summer_time_for_ever():
    zone = Zone("XXX3EDT4,0/0,J365/23")
    for unix_s in range(_2024 - 7200, _2024 + 366 * 86400, 43200):
        assert zone.at(unix_s)[0] == -14400, unix_s
    for unix_s in range(_2024, _2024 + 6 * 3600, 600):
        assert zone.at(unix_s)[0] == -14400, unix_s


def test_a_zone_asked_back_and_forth_answers_the_same():
    zone = Zone(_BERLIN)
    for unix_s in (_2024, _2025, _2024 - 1, _2025 + 15_000_000, _2024):
        assert zone.at(unix_s) == Zone(_BERLIN).at(unix_s)


def test_bad_texts_name_the_part():
    for text, part, allowed in (
        ("", "at ''", "a name"),
        ("CE-1", "at 'CE-1'", "a name"),
        ("CET", "at ''", "a number from 0 to 24"),
        ("CET-25", "at '25'", "a number from 0 to 24"),
        ("CET-1:60", "at '60'", "a number from 0 to 59"),
        ("CET-1000", "at '1000'", "a number from 0 to 24"),
        ("<+0330-3:30", "at ':30'", "'>'"),
        ("<+0330", "at ''", "'>'"),
        ("CET-1CEST", "at ''", "','"),
        ("CET-1CEST,M3.5.0", "at ''", "','"),
        ("CET-1CEST,M13.5.0,M10.5.0", "at '13.5.0,M10.5.0'", "a number from 1 to 12"),
        ("CET-1CEST,M3.6.0,M10.5.0", "at '6.0,M10.5.0'", "a number from 1 to 5"),
        ("CET-1CEST,M3.5.7,M10.5.0", "at '7,M10.5.0'", "a number from 0 to 6"),
        ("CET-1CEST,M3.5,M10.5.0", "at ',M10.5.0'", "'.'"),
        ("CET-1CEST,J0,J365", "at '0,J365'", "a number from 1 to 365"),
        ("CET-1CEST,0,366", "at '366'", "a number from 0 to 365"),
        ("CET-1CEST,M3.5.0,M10.5.0/168", "at '168'", "a number from 0 to 167"),
        ("CET-1CEST,M3.5.0,M10.5.0/3 ", "at ' '", "no more text"),
        ("Europe/Berlin", "at '/Berlin'", "a number"),
    ):
        error = str(raises(ValueError, Zone, text))
        assert part in error and allowed in error, error
        assert "\n" not in error
