# Each transition of the pilot, and the sequences that chargers and cars were seen to make, from
# the levels on the wire to what the session does. Rows: (what the pilot shows, ms).

from evmeter.session.machine import SessionMachine
from evmeter.session.pilot import B, PilotFilter

_LEVELS = {
    "A": (12000, 12000, False), "A2": (12000, -12000, True),
    "B1": (9000, 9000, False), "B2": (9000, -12000, True),
    "C1": (6000, 6000, False), "C2": (6000, -12000, True),
    "D1": (3000, 3000, False), "D2": (3000, -12000, True),
    "E": (0, 0, False), "F": (-12000, -12000, False), "F weak": (-10700, -10700, False),
    "no diode": (9000, -9000, True),
}
_FIRST_MS = 1000  # of A before each row

_TABLE = (
    ("A > B", "B1 2000", "open@0 connected@0"),
    ("A > C", "C2 2000", "open@0 charging@0"),
    ("A > D", "D2 2000", "open@0 charging@0"),
    ("B1 > B2", "B1 2000 B2 2000", "open@0 connected@0"),
    ("B2 > C2", "B2 2000 C2 2000", "open@0 connected@0 charging@2000"),
    ("C2 > B2", "C2 2000 B2 2000", "open@0 charging@0 suspended_ev@2000"),
    ("C2 > B2, for good", "C2 2000 B2 8000",
     "open@0 charging@0 suspended_ev@2000 finished_estimated@2000"),
    ("C2 > C1", "C2 2000 C1 2000", "open@0 charging@0 suspended_evse@2000"),
    ("C1 > B1", "C2 2000 C1 2000 B1 2000", "open@0 charging@0 suspended_evse@2000"),
    ("resume", "C2 2000 C1 2000 B1 2000 B2 1000 C2 1000",
     "open@0 charging@0 suspended_evse@2000 suspended_ev@6000 charging@7000"),
    ("C > A", "C2 2000 A 2000", "open@0 charging@0 close@2000"),
    ("B > A", "B2 2000 A 2000", "open@0 connected@0 close@2000"),
    ("C > D > C", "C2 2000 D2 2000 C2 2000", "open@0 charging@0"),
    ("D1", "C2 2000 D1 2000", "open@0 charging@0 suspended_evse@2000"),
    ("E short", "C2 2000 E 2900 C2 2000", "open@0 charging@0"),
    ("F short", "C2 2000 F 2900 C2 2000", "open@0 charging@0"),
    ("F at -10.7 V", "C2 2000 F%weak 5000 C2 2000",
     "open@0 charging@0 fault@2000 charging@7000"),
    ("F > A", "C2 2000 F 20000 A 1000", "open@0 charging@0 fault@2000 close@22000"),
    ("E, nobody comes", "C2 2000 E 901000", "open@0 charging@0 fault@2000 abort@902000"),
    ("E from A", "E 60000 A 1000", ""),
    ("F from A", "F 60000 A 1000", ""),
    # the messy ones
    ("B-C-B-C at the start, within 500 ms", "B2 150 C2 100 B2 100 C2 5000",
     "open@0 charging@350"),
    ("C-B-C-B in 500 ms", "B2 2000 C2 150 B2 100 C2 100 B2 150 C2 3000",
     "open@0 connected@0 charging@2500"),
    ("A-B1-A without a cable", "B1 100 A 100 " * 20 + "A 2000", ""),
    ("A-B1-A without a cable, slower", "B1 250 A 300 " * 20 + "A 2000", ""),
    ("C1-B1-B in 1.4 s", "C2 3000 C1 700 B1 700 B2 2000",
     "open@0 charging@0 suspended_evse@3000 suspended_ev@4400"),
    ("wake-up, E for 4 s", "C2 2000 B2 2000 E 4000 B2 1000 C2 2000",
     "open@0 charging@0 suspended_ev@2000 fault@4000 suspended_ev@8000 charging@9000"),
    ("wake-up, E for 30 s", "B2 2000 E 30000 B2 1000 C2 2000",
     "open@0 connected@0 fault@2000 connected@32000 charging@33000"),
    ("A missed while the pilot was held off", "C2 2000 E 30000 C2 2000",
     "open@0 charging@0 fault@2000 charging@32000"),
    ("A too short to be one", "C2 2000 A 400 C2 2000 A 450 B2 2000",
     "open@0 charging@0 suspended_ev@4850"),
    ("direct C to A and back", "C2 2000 A 1000 C2 2000",
     "open@0 charging@0 close@2000 open@3000 charging@3000"),
    ("A2: current offered to nobody", "A2 60000", ""),
)


def _windows(text, window_ms):
    for part in text.split("  ") if "  " in text else (text,):
        words = part.split()
        for at in range(0, len(words), 2):
            for _ in range(int(words[at + 1]) // window_ms):
                yield _LEVELS[words[at].replace("%", " ")]


def _play(text, first="A %d " % _FIRST_MS, window_ms=50):
    pilot = PilotFilter()
    rules = SessionMachine(5000)
    happened = []
    now_ms = 0
    for high_mv, low_mv, pwm in _windows(first + text, window_ms):
        pilot.window(high_mv, low_mv, pwm, now_ms)
        new = []
        rules.step(pilot.state, pilot.pwm, pilot.since_ms, pilot.seen_ms, new)
        for what, at_ms in new:
            happened.append((what, at_ms - (_FIRST_MS if first else 0)))
        now_ms += window_ms
    return happened, rules


def _expected(text):
    pairs = []
    for word in text.split():
        what, at_ms = word.split("@")
        pairs.append((what, int(at_ms)))
    return pairs


def test_each_transition():
    for name, text, expected in _TABLE:
        happened = _play(text)[0]
        expected = _expected(expected)
        assert [what for what, _ in happened] == [what for what, _ in expected], (name, happened)
        for (what, at_ms), (_, expected_ms) in zip(happened, expected):
            # what a window showed first counts from there: one window apart at most
            assert abs(at_ms - expected_ms) <= 50, (name, what, at_ms, expected_ms)


def test_a_boot_straight_into_each_state():
    for state, names in (("B1", "open connected"), ("B2", "open connected"),
                         ("C2", "open charging"), ("C1", "open suspended_evse"),
                         ("D2", "open charging"), ("A", ""), ("E", ""), ("F", "")):
        happened = _play("%s 2000" % state, first="")[0]
        assert [what for what, _ in happened] == names.split(), (state, happened)


def test_a_charger_without_a_cable_opens_nothing_at_any_pace():
    for plugged_ms in (100, 150, 250):
        for away_ms in (100, 300, 450):
            text = ("B1 %d A %d " % (plugged_ms, away_ms)) * 30
            assert _play(text)[0] == [], (plugged_ms, away_ms)


def test_c_without_current_is_no_end():
    rules = _play("C2 2000")[1]
    for second in range(1800):  # nothing was drawn yet: the car has not been filled
        assert not rules.power(0, second * 1000)


def test_a_missing_diode_is_seen_and_its_level_still_read():
    pilot = PilotFilter()
    for now_ms in (0, 50, 100):
        pilot.window(9000, -9000, True, now_ms)
    assert pilot.diode_fault
    for now_ms in (150, 200):
        pilot.window(9000, -12000, True, now_ms)
    assert not pilot.diode_fault and pilot.state == B
