import json

from evmeter.system import report, trial
from fakes.memory_store import PowerCut
from fakes.order_app import FakeApp, Reset
from fakes.reported import shown
from support import raises

_BY = "11086649"


def _wish(app, host="other.example"):
    wish = shown(app.config)[0]
    wish["mqtt"]["host"] = host
    return wish


def _taken(app=None):
    """The app after a restart with revision 6."""
    app = app or FakeApp()
    app.run(app.operations.wish(app.config["rev"] + 1, _wish(app), _BY))
    raises(Reset, app.run, app.operations.restart())
    return app.boot()


def _settle(app):
    """Boot until the trial is over; returns the app."""
    for _ in range(9):
        try:
            if app.trial is None or app.run(app.trial.check(app)):
                return app
        except Reset:
            app = app.boot()
        app.uplink.online = True
    raise AssertionError("the trial does not end")


def test_the_trial_ends_with_the_broker():
    app = _taken()
    assert not app.run(app.trial.check(app))
    app.uplink.online = True
    assert app.run(app.trial.check(app))
    assert app.boot().trial is None
    assert [name for name, _ in app.board.log] == ["config"]


def test_without_the_broker_the_one_before_comes_back():
    app = _taken()
    app.clock.advance(600000)
    assert not app.run(app.trial.check(app))
    app.clock.advance(1)
    app.keeper.is_engaged = True  # not in a session
    assert not app.run(app.trial.check(app))
    app.keeper.is_engaged = False
    raises(Reset, app.run, app.trial.check(app))
    app = app.boot()
    assert app.config["rev"] == 5
    assert app.run(app.trial.check(app))
    assert app.board.log[-1] == ("config_back", {
        "rev": 6, "why": "broker not reached: no connection"})
    told = json.loads("".join(report.report(app)))
    assert (told["rev"], told["wish"]) == (5, 6) and "not reached" in told["err"]
    # the broker still retains the wish: it is not tried again, the next one is
    app.trial = None
    assert "not reached" in str(raises(ValueError, app.operations.check_wish, 6))
    app.operations.check_wish(7)


def test_after_three_starts_that_came_to_nothing_the_one_before_comes_back():
    app = _taken()
    for _ in range(2):
        app = app.boot()
    raises(Reset, app.boot)
    app = _settle(app.boot())
    assert app.config["rev"] == 5
    assert app.board.log[-1][1]["why"] == "the device did not come up with it"


def test_a_device_that_cannot_start_goes_back_once():
    app = _taken()
    raises(Reset, trial.go_back, app.board, "meter: no such\nprofile \u00e9")
    assert json.loads(app.board.text)["rev"] == 5
    app = app.boot()
    trial.go_back(app.board, "cannot start with this one either")
    assert json.loads(app.board.text)["rev"] == 5
    assert app.run(app.trial.check(app))
    assert app.board.log[-1][1]["why"].startswith("meter: no such?profile ")
    # and one that is not on trial never does
    trial.go_back(app.board, "port missing")
    app.board.old = '{"rev": 1}'
    trial.go_back(app.board, "port missing")
    assert json.loads(app.board.text)["rev"] == 5


def _cut(left):
    """A change that the power ends after so many steps, then boots; None where it was too late."""
    app = FakeApp()
    power = app.board.power
    power.left = left
    try:
        app = _taken(app)
        _settle(app)
    except PowerCut:
        power.restore()
        return _settle(app.boot())
    return None


def _judge(app):
    """What must hold after a change that was cut somewhere."""
    rev = app.config["rev"]
    names = [name for name, _ in app.board.log]
    if rev == 6:
        return names == ["config"] and app.config["mqtt"]["host"] == "other.example"
    return (rev == 5 and app.config["mqtt"]["host"] == "broker.example"
            and (not names or names[-1] == "config_back"))


def test_a_cut_at_any_step_leaves_one_of_the_two_and_the_audit_log_says_which():
    revisions = []
    for left in range(100):
        app = _cut(left)
        if app is None:
            break
        assert app.trial is None or app.boot().trial is None
        assert _judge(app), (left, app.config["rev"], app.board.log)
        revisions.append(app.config["rev"])
    assert 5 in revisions and 6 in revisions and len(revisions) > 8


def test_the_check_notices_an_audit_entry_that_comes_too_late():
    right = trial.announce

    async def late(app, new, by, told):
        await right(app, new, by, None)
        app.board.write_config(json.dumps(new))
        await right(app, new, by, told)

    trial.announce = late
    try:
        assert [left for left in range(20) if not _judge(_cut(left) or FakeApp())]
    finally:
        trial.announce = right
