import json

from evmeter.session.split import EVENT, Split
from evmeter.session.tariff import Tariff

_MIDNIGHT = 1_704_067_200  # Monday 2024-01-01 00:00 UTC
_MORNING = _MIDNIGHT + 6 * 3600
_EVENING = _MIDNIGHT + 22 * 3600


def _tariff(zone="UTC0", day=4000):
    return Tariff({"currency": "EUR", "zone": zone, "windows": [
        {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": day},
        {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]})


class _Session:
    """A session that draws 3.6 kW, 1000 mWh a second, with its journal of events."""

    def __init__(self, unix_s, quality="S", tariff=None):
        self.tariff = tariff or _tariff()
        self.unix_s = unix_s
        self.begin = (unix_s * 1000, quality, 5_000_000)
        self.mwh = 5_000_000
        self.mono_ms = 77_000
        self.quality = quality
        self.journal = []
        self.split = Split(self.tariff, *self.begin)
        self._note("open", self.split.label())

    def _note(self, name, fields):
        fields["ev"] = name
        self.journal.append(json.loads(json.dumps(fields)))

    def run(self, seconds, power=1000, every=1, writes=True):
        for _ in range(seconds // every):
            self.unix_s += every
            self.mono_ms += every * 1000
            self.mwh += power * every
            self.split.reading(self.unix_s * 1000, self.quality, self.mwh, self.mono_ms)
            while writes and self.split.unwritten:
                self._note(EVENT, self.split.unwritten.pop(0))
        return self

    def to(self, unix_s):
        """Go on to an instant, with a reading each second around a change."""
        while self.unix_s < unix_s:
            near_s = min(unix_s, self.tariff.next_boundary_s(self.unix_s)) - self.unix_s
            self.run(min(600, near_s - 30) if near_s > 60 else near_s, 1000,
                     near_s - 30 if 60 < near_s < 630 else 600 if near_s > 60 else 1)
        return self

    def silence(self, seconds, power=1000):
        """No readings for a while."""
        self.unix_s += seconds
        self.mono_ms += seconds * 1000
        self.mwh += power * seconds
        return self

    def cut(self, seconds, power=1000, tariff=None, checkpoint_s=0):
        """Power off and on again; the checkpoint is `checkpoint_s` older."""
        known = ((self.unix_s - checkpoint_s) * 1000, self.quality,
                 self.mwh - power * checkpoint_s)
        last_mwh = self.mwh
        self.silence(seconds, power)
        self.mono_ms = 500
        self.split = Split(tariff or self.tariff, *self.begin)
        for message in self.journal:
            self.split.replay(message)
        self.split.known(*known)
        self.split.skip(self.mwh - last_mwh)
        self._note("resume", {"gap_mwh": self.mwh - last_mwh})
        return self

    def end(self):
        return self.split.finish(self.unix_s * 1000, self.quality, self.mwh, self.mono_ms)

    def registers(self):
        """(seconds since midnight, register less that of the begin) of the T readings."""
        return [(row[0] // 1000 - _MIDNIGHT, row[3] - 5_000_000) for row in self.split.readings]


def test_energy_is_split_where_the_window_changes():
    session = _Session(_MORNING - 1000)
    session.to(_EVENING + 500)
    assert session.registers() == [(21600, 1_000_000), (79200, 58_600_000)]
    assert session.split.readings[0][1:3] == ("S", "T")
    assert session.end() == {
        "cur": "EUR", "cost": 30 + 2304, "split": 1,
        "why": "", "by": {"night": 1_500_000, "day": 57_600_000}}
    events = [row for row in session.journal if row["ev"] == EVENT]
    assert [(row["wname"], row["price"], row["t_ms"] // 1000, row["t_q"], row["t_mwh"])
            for row in events] == [("day", 4000, _MORNING, "S", 6_000_000),
                                   ("night", 2000, _EVENING, "S", 63_600_000)]


def test_live_cost():
    session = _Session(_MORNING - 1000).run(500)
    assert session.split.cost(session.mwh) == 10
    # 10 cent are gone; 40 cent at 20 cent/kWh are 2 kWh more
    assert session.split.missing_mwh(50, session.mwh) == 2_000_000
    assert session.split.missing_mwh(10, session.mwh) == 0
    assert session.split.missing_mwh(9, session.mwh) == 0
    assert Split(session.tariff, 0, "U", 0).missing_mwh(10, 0) is None
    assert session.split.label() == {"tc": session.tariff.code, "cur": "EUR", "win": 1,
                                     "wname": "night", "price": 2000}


def test_both_ways_through_summer_time():
    for change_s, hours in ((1_711_846_800, 7), (1_729_990_800, 9)):  # 01:00 UTC
        tariff = _tariff("CET-1CEST,M3.5.0,M10.5.0/3")
        evening = change_s - change_s % 86400 - (10800 if hours == 7 else 14400)
        session = _Session(evening - 1800, "S", tariff).to(evening + 12 * 3600)
        result = session.end()
        assert result["split"] == 1
        assert result["by"] == {"day": (12 - hours) * 3_600_000 + 1_800_000,
                                "night": hours * 3_600_000}


def test_without_a_good_clock_the_split_cannot_be_billed():
    for begin, later, why in (("I", "I", "clock quality I"), ("U", "U", "clock quality U"),
                              ("U", "S", "clock quality U"), ("I", "S", "clock quality I"),
                              ("S", "I", "clock quality I"), ("R", "R", ""), ("R", "S", "")):
        session = _Session(_MORNING - 100, begin)
        session.quality = later
        session.run(200)
        result = session.end()
        assert (result["split"], result["why"]) == (0 if why else 1, why), (begin, later)
        if later == "U":
            assert result["cost"] is None
            assert result["by"] == {}
            assert session.split.readings == []
        else:
            # what was before the clock was known counts in the window that it then showed
            assert sum(result["by"].values()) == 200_000


def test_one_tariff_needs_no_clock():
    tariff = Tariff({"currency": "EUR", "zone": "UTC0", "windows": [
        {"name": "flat", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 4000}]})
    session = _Session(_MORNING, "U", tariff).run(100)
    assert session.end() == {"cur": "EUR", "cost": 4, "split": 1, "why": "",
                             "by": {"flat": 100_000}}


def test_a_change_without_readings():
    for before, silence, power, why in (
        (5, 14, 1000, ""),  # read 10 s after the change
        (5, 15, 1000, "change not read in time"),
        (5, 3600, 0, ""),  # nothing was drawn: nothing to split
        (3600, 1800, 1000, ""),  # no change in it
        (3600, 20 * 3600, 1000, "change not read in time"),  # two, and the same window after it
    ):
        session = _Session(_MORNING - 7200).to(_MORNING - before)
        session.silence(silence, power).run(1, power).run(20)
        result = session.end()
        assert result["why"] == why, (before, silence, power)
        assert sum(result["by"].values()) == session.mwh - 5_000_000
    session = _Session(_MORNING - 100).run(95).silence(30)
    assert session.end()["why"] == "change not read in time"  # nor was the end reading in time


def test_a_clock_that_is_set():
    for step_s, why in ((2, ""), (-2, ""), (3, "clock set"), (-3, "clock set"),
                        (86400, "clock set")):
        session = _Session(_MORNING - 3600).run(1000)
        session.unix_s += step_s
        session.run(10)
        assert session.end()["why"] == why, step_s
        # what was seen before a cut is known after it
        assert session.cut(5).run(5).end()["why"] == why, step_s
    # after the last reading too
    session = _Session(_MORNING - 3600).run(1000)
    session.unix_s += 5
    assert session.end()["why"] == "clock set"
    # back over a change: the windows follow the clock, times in the record never go back
    session = _Session(_MORNING - 100).run(110)
    session.unix_s -= 60
    session.run(100)
    times = [row[0] for row in session.split.readings]
    assert len(times) == 3
    assert times == sorted(times)
    assert sum(session.end()["by"].values()) == 210_000
    # a small correction just after the change does not change the window back
    session = _Session(_MORNING - 100).run(100)
    session.unix_s -= 2
    session.run(100)
    assert len(session.split.readings) == 1


def test_a_cut_away_from_a_change():
    session = _Session(_MORNING - 100).run(200).cut(60).run(100)
    result = session.end()
    assert result["split"] == 1
    assert session.registers() == [(21600, 100_000)]
    assert result["by"] == {"night": 100_000, "day": 200_000}  # the gap's 60,000 in neither
    # and a second one, after the evening's change
    session.to(_EVENING + 100).cut(30).run(10)
    result = session.end()
    assert result["split"] == 1
    assert sum(result["by"].values()) == session.mwh - 5_000_000 - 90_000
    assert result["by"]["night"] == 210_000


def test_a_change_while_off():
    for power, why in ((1000, "change not read in time"), (0, "")):
        session = _Session(_MORNING - 100).run(60, power).cut(60, power).run(1, power).run(100)
        result = session.end()
        assert result["why"] == why
        assert [row[0] // 1000 for row in session.split.readings] == [_MORNING + 21]
        assert session.cut(5, 0).end()["why"] == why  # the event keeps the reason


def test_a_clock_that_is_only_known_some_time_after_a_cut():
    for wait_s, why in ((20, ""), (100, "change not read in time")):
        session = _Session(_MORNING - 200).run(100).cut(10)
        session.quality = "U"
        session.run(wait_s)
        session.quality = "S"
        session.run(200)
        assert session.end()["why"] == why, wait_s
    # nor does a checkpoint dated by an unset clock tell where a register belongs
    session = _Session(_MORNING - 200).run(100).cut(10)
    session.quality = "U"
    session.run(150).cut(5)
    session.quality = "S"
    session.run(1, 0)
    assert session.end()["why"] == "change not read in time"


def test_a_change_that_was_read_but_not_written_before_a_cut():
    session = _Session(_MORNING - 100).run(99).run(1, 1000, 1, False).cut(0).run(5)
    assert session.end()["split"] == 1
    assert session.registers() == [(21601, 101_000)]
    session = _Session(_MORNING - 100).run(99).run(500, 1000, 1, False).cut(0).run(5)
    assert session.end()["why"] == "change not read in time"


def test_another_tariff_after_a_cut():
    session = _Session(_MORNING - 100).run(200).cut(5, 1000, _tariff("UTC0", 5000)).run(10)
    result = session.end()
    assert result["why"] == "tariff changed"
    assert session.registers() == [(21600, 100_000)]
    assert sum(result["by"].values()) == 210_000


def test_a_jump_of_the_register_is_no_energy():
    for jump_mwh in (-3_000_000, 9_000_000):
        session = _Session(_MORNING - 100).run(50)
        session.mwh += jump_mwh
        session.split.skip(jump_mwh, "register not continuous")
        session.journal.append({"ev": "meter_rebase", "jump_mwh": jump_mwh})
        session.run(100)
        for _ in range(2):
            result = session.end()
            assert result["by"] == {"night": 100_000, "day": 50_000}
            assert result["why"] == "register not continuous"
            session.cut(0).run(0)


def test_a_car_that_is_parked_for_weeks_leaves_the_record_short():
    session = _Session(_MORNING - 100).run(200)
    session.run(20 * 86400, 0, 10 * 3600)
    assert len([row for row in session.journal if row["ev"] == EVENT]) > 30
    assert len(session.split.readings) <= 2
    session.run(100)
    assert sum(session.end()["by"].values()) == 300_000
    # while one that draws all the time runs out of room, says so and loses nothing
    session = _Session(_MORNING - 100).run(200)
    session.run(20 * 86400, 1, 10 * 3600)
    assert len(session.split.readings) == 32
    result = session.end()
    assert result["split"] == 0
    assert sum(result["by"].values()) == 200_000 + 20 * 86400 // 36000 * 36000
