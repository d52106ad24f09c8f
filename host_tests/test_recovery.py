from evmeter.session import pilot, recovery
from evmeter.session.session import Session, unpack


def _session():
    session = Session()
    session.begin_seq = 7
    session.page = 3
    session.begin_mwh = 1_234_567_000
    session.begin_unix_ms = 1_790_000_000_123
    session.begin_quality = "I"
    session.last_mwh = 10_000_000_000_000  # 10,000,000 kWh
    session.last_unix_ms = 1_790_000_060_000
    session.last_quality = "S"
    session.gap_mwh = 5000
    session.duration_s = 60
    session.meter = 0xFEDCBA98
    session.jump_mwh = -7_000_000
    session.charged = True
    return session


def test_a_checkpoint_comes_back_as_it_was_and_is_small():
    session = _session()
    body = session.pack()
    assert len(body) <= 96
    again = unpack(body)
    for name in ("begin_seq", "page", "begin_mwh", "begin_unix_ms", "begin_quality", "last_mwh",
                 "last_unix_ms", "last_quality", "gap_mwh", "duration_s", "meter", "jump_mwh",
                 "charged", "spoiled"):
        assert getattr(again, name) == getattr(session, name), name
    for cause, exchanged in (("meter exchanged", True), ("register stepped back", False)):
        session.spoiled = cause
        again = unpack(session.pack())
        assert again.spoiled
        assert again.exchanged() == exchanged


def test_what_is_no_checkpoint_gives_none():
    body = _session().pack()
    for bad in (None, b"", body[:-1], body + b"x", b"\x63" + body[1:]):
        assert unpack(bad) is None
    for at in (26, 43):  # qualities of the clock
        assert unpack(body[:at] + b"\xff" + body[at + 1:]) is None


def test_a_session_is_resumed_only_on_proof():
    session = _session()
    for state, register_mwh, same, cause, off_ms, word in (
        (pilot.C, session.last_mwh, True, "power-on", 180000, ""),
        (pilot.B, session.last_mwh + 1000, True, "power-on", 0, ""),
        (pilot.D, session.last_mwh, True, "watchdog", None, ""),
        (pilot.C, session.last_mwh, True, "software", 999999999, ""),
        (pilot.C, session.last_mwh, True, "power-on", 180001, "off for 180 s"),
        (pilot.C, session.last_mwh, True, "power-on", None, "not proven"),
        (pilot.C, session.last_mwh, True, "brown-out", None, "not proven"),
        (pilot.C, session.last_mwh, True, "unknown", None, "not proven"),
        (pilot.A, session.last_mwh, True, "watchdog", 0, "car gone"),
        (pilot.E, session.last_mwh, True, "watchdog", 0, "car gone"),
        (None, session.last_mwh, True, "watchdog", 0, "car gone"),
        (pilot.C, session.last_mwh - 1, True, "watchdog", 0, "below"),
        (pilot.C, session.last_mwh, False, "watchdog", 0, "exchanged"),
    ):
        why = recovery.refusal(session, state, register_mwh, same, cause, off_ms)
        assert (word in why) if word else why == "", (state, cause, off_ms, why)


def test_the_off_time_is_what_the_clock_proves():
    session = _session()
    for now_ms, quality, expected in (
        (session.last_unix_ms + 3000, "I", 3000),
        (session.last_unix_ms, "S", 0),
        (session.last_unix_ms - 1500, "S", 0),
        (session.last_unix_ms - 5000, "S", None),
        (session.last_unix_ms + 3000, "U", None),
    ):
        assert recovery.off_time_ms(session, now_ms, quality) == expected, (now_ms, quality)
    session.last_quality = "U"
    assert recovery.off_time_ms(session, session.last_unix_ms + 1, "S") is None
