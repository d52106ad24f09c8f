"""A sample of the session campaigns, and the defects that they must notice."""

import pytest

from evmeter_tools.faults import session, world
from evmeter_tools.faults.truth import Truth


def test_sequences():
    result = session.sequences(60, control_trials=0)
    assert result.texts == []
    assert result.trials >= 60 and result.good
    for name in ("resume", "power_fail", "fault", "tariff", "user", "stop", "close"):
        assert result.counts["event: " + name], name
    assert result.counts["billable"] and result.counts["registers re-based"]
    assert result.counts["sessions without a complete record"] == 0


def test_years():
    result = session.years(500)
    assert result.texts == []
    assert result.trials == 500 and result.good
    assert result.counts["sessions"] >= 500
    assert all(result.counts["fault: " + name] for name in session._FAULTS)


@pytest.mark.parametrize("name", sorted(session.DESIGNS))
def test_a_seeded_defect_is_noticed(name):
    assert session.caught(name)


# What happened, in the order in which it did: histories that once were told wrongly.
_B, _C, _E = world.B, world.C, world.E
_HISTORIES = {
    "a jump while a session is closed after a reboot": (
        ("charge", {"pilot": _C, "power_w": 0, "ms": 400}),
        ("fault", {"pilot": _E, "ms": 400}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 0, "quality": "I"}),
        ("exchange", {"other": True, "register_mwh": 0, "ms": 40000})),
    "the duration ends with the edge, not with the reading": (
        ("charge", {"pilot": _C, "power_w": 1400, "ms": 70000}),
        ("meter", {"fault": "silent", "ms": 2000}),
        ("unplug", {"power_w": 0, "ms": 5000}),
        ("wait", {"ms": 200000}),
        ("meter", {"fault": "", "ms": 16000})),
    "a jump while off belongs to the session's split": (
        ("cut", {"operations": 0, "ms": 500, "pilot": _C, "off_ms": 500, "power_w": 0,
                 "quality": "I"}),
        ("backend", {"there": False, "ms": 20000}),
        ("exchange", {"other": False, "register_mwh": 0, "ms": 50}),
        ("cut", {"operations": 0, "ms": 500, "pilot": None, "off_ms": 500, "power_w": 0,
                 "quality": "U"}),
        ("charge", {"pilot": _C, "power_w": 1400, "ms": 70000})),
    "an order while older ones are taken from the journal": (
        ("plug", {"pilot": _B, "ms": 20000}),
        ("order", {"name": "user", "value": 1, "ms": 500}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 0, "quality": "I"}),
        ("plug", {"pilot": _B, "ms": 250}),
        ("order", {"name": "user", "value": 1, "ms": 500})),
    "an edge dated back to before the session was resumed": (
        ("cut", {"operations": 0, "ms": 500, "pilot": _C, "off_ms": 500, "power_w": 0,
                 "quality": "I"}),
        ("wait", {"ms": 900}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 0, "quality": "I"}),
        ("fill", {"left_percent": 24}),
        ("unplug", {"ms": 900, "power_w": 0})),
    "a resumption that dies before its checkpoint": (
        ("cut", {"operations": 1, "ms": 3000, "pilot": _C, "off_ms": 500, "power_w": 7200,
                 "quality": "I"}),
        ("cut", {"operations": 3, "ms": 500, "pilot": None, "off_ms": 500, "power_w": 0,
                 "quality": "I"})),
    "a clock that was set between what the campaign looks at": (
        ("plug", {"pilot": _B, "ms": 100}),
        ("clock", {"quality": "S", "error_ms": -90000}),
        *[("wait", {"ms": 50})] * 6,
        ("clock", {"quality": "I", "error_ms": 0})),
    "an exchange is told once": (
        ("exchange", {"other": True, "register_mwh": 0, "ms": 40000}),
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 400000}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 7200, "quality": "I"}),
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 70000})),
}
for _step in range(20):
    _HISTORIES["a register below that only an edge has seen, %d ms earlier" % (250 * _step)] = (
        ("wait", {"ms": 250 * _step or 50}),
        ("exchange", {"other": False, "register_mwh": 0, "ms": 50}),
        ("plug", {"pilot": _B, "ms": 20000}),
        ("cut", {"operations": 0, "ms": 500, "pilot": None, "off_ms": 500, "power_w": 0,
                 "quality": "I"}))
    _HISTORIES["a closing that dies with its gap in the checkpoint, %d ms" % (50 * _step)] = (
        ("charge", {"pilot": _C, "power_w": 1400, "ms": 950 + 50 * _step}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 1400, "quality": "U"}),
        ("cut", {"operations": 5, "ms": 500, "pilot": None, "off_ms": 500, "power_w": 0,
                 "quality": "I"}),
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 400}),
        ("reset", {"cause": "watchdog", "off_ms": 300, "power_w": 0, "quality": "I"}))
for _step in range(12):
    _HISTORIES["a user while the begin record is signed, after %d ms" % (50 * _step)] = (
        ("plug", {"pilot": _B, "ms": 400}), ("wait", {"ms": 50 * _step or 50}),
        ("order", {"name": "user", "value": 1, "ms": 500}),
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 70000}))
    _HISTORIES["a user while the complete record is signed, after %d ms" % (50 * _step)] = (
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 70000}),
        ("unplug", {"power_w": 0, "ms": 400}), ("wait", {"ms": 50 * _step or 50}),
        ("order", {"name": "user", "value": 1, "ms": 500}),
        ("order", {"name": "target", "value": 1, "ms": 500}))


def _tell(steps, tariff=True):
    class Told(session.Sequence):
        result = session.Result("told")

    told = Told()
    told.begin(start_s=0, quality="I", tariff=tariff)
    for name, given in steps:
        getattr(told, name)(**given)
    told.teardown()
    return told


@pytest.mark.parametrize("name", sorted(_HISTORIES))
def test_histories(name):
    _tell(_HISTORIES[name])


def test_an_exchange_spoils_only_the_session_that_it_fell_into():
    told = _tell(_HISTORIES["an exchange is told once"])
    assert told.truth.counts["registers re-based"] == 1
    assert told.truth.counts["billable"] == 1


def test_a_session_does_not_begin_before_the_last_one_ended():
    told = _tell((
        ("clock", {"quality": "I", "error_ms": 7200000}),
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 70000}),
        ("unplug", {"power_w": 0, "ms": 5000}),
        ("clock", {"quality": "R", "error_ms": 0}),
        *[("reset", {"cause": "software", "off_ms": 300, "power_w": 0, "quality": "R"}),
          ("wait", {"ms": 3000})] * 4,
        ("charge", {"pilot": _C, "power_w": 7200, "ms": 70000})))
    assert told.truth.counts["sessions"] == 2


def test_defects_are_seeded_in_each_part():
    parts = {name.split(":")[0] for name in session.DESIGNS}
    assert parts >= {"keeper", "recovery", "machine", "split", "journal", "ledger", "gate"}


def test_what_is_written_is_held_against_what_was_read():
    charger = world.World()
    charger.boot("S")
    charger.pass_ms(3000)
    charger.plug(world.C, 7200)
    charger.pass_ms(600000)
    charger.plug(world.A)
    charger.pass_ms(20000)
    truth = Truth(charger)
    truth.look()
    assert charger.wrong == [] and truth.counts["billable"] == 1
    charger.meter.served.clear()
    again = Truth(charger)
    again.look()
    assert any("was never read" in text for text in charger.wrong)
