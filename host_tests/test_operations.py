import asyncio
import json

from evmeter.system import config
from fakes.order_app import NOW_MS, Anything, FakeApp, Reset
from fakes.reported import shown
from support import raises

_BY = "11086649"


def _wish(app, **mqtt):
    wish = shown(app.config)[0]
    wish["mqtt"].update(mqtt)
    return wish


def test_what_is_out_of_range_is_refused_by_name():
    app = FakeApp()
    for op, args, words in (
        ("dance", {}, "allowed: alarm_ack, config, identify"),
        ("identify", {"x": 1}, "argument x"),
        ("identify", {"seconds": 5}, "nothing to show"), ("resend", {}, "from is None"),
        ("identify", {"seconds": 61}, "from 1 to 60"), ("resend", {"from": 39, "to": 41}, "40 to"),
        ("resend", {"from": 41, "to": 40}, "to is 40"),
        ("resend", {"from": 41, "to": 50}, "41 to"),
        ("resend", {"from": True, "to": 50}, "from is True"), ("reboot", {"now": 1}, "argument"),
        ("time", {"unix_ms": 1.5, "n": 3}, "unix_ms is 1.5"), ("time", {"n": 3}, "unix_ms"),
        ("alarm_ack", {"x": "METER"}, "argument x"), ("update", {}, "no other has a place"),
        ("limit", {"ma": 6000}, "does not drive"), ("config", {}, "rev is None"),
        ("config", {"rev": 6}, "cfg must be"), ("config", {"rev": 5, "cfg": {}}, "more than 5"),
    ):
        why = str(raises(ValueError, app.do, op, args))
        assert words in why, (op, args, why)
    assert not app.operations.restart_due and not app.board.log


def test_identify_and_resend():
    app = FakeApp()
    assert app.operations.ANY_TIME == ("identify", "resend", "time")
    for op, args, dangerous, restarts in (
        ("key_change", {}, True, False), ("lock", {"on": False}, True, True),
        ("update", {"head": ""}, True, False),
        ("update", {"at": 0, "data": ""}, False, False),
        ("update", {"activate": True}, True, True),
        ("reboot", {}, False, True), ("config", {}, False, True), ("resend", {}, False, False),
    ):
        assert app.operations.dangerous(op, args) == dangerous, op
        assert app.operations.restarts(op, args) == restarts, op
    assert app.do("identify") == {"id": "demo-0001", "fw": "0.1.0", "board": "fake", "boot": 7,
                                  "k": "a1b2c3d4", "up_s": 0}
    shown = []
    app.board.identify = shown.append
    app.do("identify", {"seconds": 9})
    assert shown == [9]
    assert app.do("resend", {"from": 41, "to": 49}) == {"n": 9}
    assert app.uplink.resent == (41, 49)


def test_time_is_taken_as_the_last_resort_and_only_where_it_is_fresh():
    later_ms = NOW_MS + 86400000
    for quality, n, told_ms, words in (
        ("I", 3, 0, "a better time is known: quality I"), ("S", 3, 0, "better"),
        ("U", 2, 0, "n is 2; allowed"), ("U", None, 0, "n is None"), ("U", 3, -10001, "now 3"),
    ):
        app = FakeApp(quality=quality)
        app.monitor.told_ms = told_ms
        why = str(raises(ValueError, app.do, "time", {"unix_ms": later_ms, "n": n}))
        assert words in why and app.clock.now()[0] == NOW_MS, why
    app = FakeApp(quality="U")
    app.monitor.told_ms = -300
    assert app.do("time", {"unix_ms": later_ms, "n": 3}) == {"step_ms": 86400000}
    assert app.clock.now() == (later_ms, "I")
    assert app.clock.uncertainty_ms == 1300  # the way cannot have taken longer than that


def test_orders_go_to_the_session_alarms_to_the_alarms_limits_to_the_pilot():
    app = FakeApp()
    app.do("stop", {"by": "remote"})
    assert app.keeper.orders == [("stop", {"by": "remote"})]
    acknowledged = []
    app.alarms.acknowledge = acknowledged.append
    app.do("alarm_ack", {"code": "METER"})
    assert acknowledged == ["METER"]
    app.pilot_pwm = Anything(max_ma=32000)
    for ma in (0, 6000, 32000):
        assert app.do("limit", {"ma": ma}) == {"ma": ma}
    for ma in (-1, 1, 5999, 32001, True, False, 6000.0, None, "6000"):
        assert "6000 to 32000" in str(raises(ValueError, app.do, "limit", {"ma": ma})), ma
    assert app.limits == [0, 6000, 32000]


def test_the_prompt_is_closed_and_opened_by_a_restart_and_the_log_tells():
    app = FakeApp()
    for on in (True, False):
        app.operations.restart_due = False
        assert app.do("lock", {"on": on}, _BY) is None
        assert app.board.nvs.get_i32("lock") == int(on) and app.operations.restart_due
        assert app.board.log[-1] == ("lock" if on else "unlock", {"by": _BY})
    for args in ({}, {"on": 1}, {"on": True, "more": 1}):
        raises(ValueError, app.do, "lock", args)


def test_an_update_goes_to_the_updater():
    app = FakeApp()

    async def begin(head):
        return {"have": 0, "counter": 3}

    async def data(at, piece):
        return {"have": at + 3}

    async def check():
        return {"version": "0.2.0", "counter": 4, "sha256": "ab", "size": 9, "board": "x"}

    def activate():
        seen.append(app.board.log[-1][0])

    seen = []
    app.updater = lambda: Anything(begin=begin, data=data, check=check, activate=activate)
    assert app.do("update", {"head": ""}, _BY) == {"have": 0, "counter": 3}
    assert app.do("update", {"at": 6, "data": ""}) == {"have": 9}
    for args in ({}, {"activate": 1}, {"head": "", "at": 0}, {"at": 0, "data": "", "more": 1}):
        raises(ValueError, app.do, "update", args)
    assert not app.operations.restart_due and seen == []
    assert app.do("update", {"activate": True}, _BY) == {"version": "0.2.0", "counter": 4}
    assert app.operations.restart_due and seen == []
    app.keeper.is_engaged = True  # a session begins while the entry is signed
    assert "end of the session" in str(raises(ValueError, app.do, "update", {"head": ""}))
    app.run(app.operations.restart())
    app.run(app.operations.follow())
    assert seen == []
    app.keeper.is_engaged = False
    raises(Reset, app.run, app.operations.follow())
    assert seen == ["update"]  # the entry first


def test_a_reboot_or_another_package_takes_an_update_back_that_waits_for_a_session():
    for args, op in (({"force": True}, "reboot"), ({"head": ""}, "update")):
        app = FakeApp()

        async def begin(head):
            return {"have": 0, "counter": 3}

        async def check():
            return {"version": "0.2.0", "counter": 4, "sha256": "ab", "size": 9, "board": "x"}

        seen = []
        made = Anything(begin=begin, check=check, activate=lambda seen=seen: seen.append(1))
        app.updater = lambda made=made: made
        app.do("update", {"activate": True}, _BY)
        app.keeper.is_engaged = True
        app.run(app.operations.restart())
        app.keeper.is_engaged = op == "reboot"
        app.do(op, args, _BY)
        if op == "reboot":
            raises(Reset, app.run, app.operations.restart())
        else:
            app.run(app.operations.follow())
        assert seen == [], op


def test_a_reboot_waits_for_the_record_in_the_making():
    app = FakeApp()
    app.keeper.session = True
    app.do("reboot")
    app.restful = False

    async def ends():
        await app.sleep_ms(3000)
        assert app.board.resets == 0
        app.restful = True

    async def both():
        asyncio.create_task(ends())
        await app.operations.restart()

    raises(Reset, app.run, both())
    assert app.keeper.followed
    app = FakeApp()
    app.restful = False
    assert "a record is being written" in str(raises(ValueError, app.do, "reboot"))
    assert not app.operations.restart_due
    # by force even where the session's events cannot be written, but not inside a record
    app.do("reboot", {"force": True})
    app.is_busy = True
    app.run(app.operations.restart())  # gives up after a minute
    app.is_busy = False
    app.do("reboot", {"force": True})
    raises(Reset, app.run, app.operations.restart())


def test_a_wish_is_taken_by_a_restart():
    app = FakeApp()
    assert app.do("config", {"rev": 6, "cfg": _wish(app, window=2)}) == {
        "rev": 6, "restart": True}
    assert app.board.log == []  # an open field needs no signature, and no audit entry
    raises(Reset, app.run, app.operations.restart())
    new = app.boot().config
    assert (new["rev"], new["mqtt"]["window"], new["mqtt"]["password"]) == (6, 2, "geheim-17")


def test_a_relevant_change_needs_a_signature_and_is_in_the_audit_log():
    app = FakeApp()
    wish = {"rev": 6, "cfg": _wish(app, host="other.example")}
    assert "mqtt.host needs the signature" in str(raises(ValueError, app.do, "config", wish))
    wish = {"rev": 6, "cfg": _wish(app)}
    wish["cfg"]["meter"]["p_max_w"] = 1
    assert "meter.p_max_w is 1" in str(raises(config.ConfigError, app.do, "config", wish, _BY))
    assert not app.operations.restart_due and app.board.log == []
    app.do("config", {"rev": 6, "cfg": _wish(app, host="other.example")}, _BY)
    assert app.board.log == [("config", {"rev": 6, "old_rev": 5, "by": _BY, "chg": {
        "mqtt.host": ["broker.example", "other.example"]}})]
    raises(Reset, app.run, app.operations.restart())
    assert app.boot().config["mqtt"]["host"] == "other.example"


def test_nothing_is_taken_in_a_session():
    app = FakeApp()
    app.keeper.is_engaged = True
    wish = _wish(app, window=2)
    assert "end of the session" in str(raises(ValueError, app.operations.check_wish, 6))
    app.run(app.operations.follow())
    assert app.uplink.wishes_asked == 0
    app.keeper.is_engaged = False
    app.run(app.operations.follow())
    app.run(app.operations.follow())
    assert app.uplink.wishes_asked == 1
    # a session begins while the audit entry is signed
    app.run(app.operations.wish(6, _wish(app, host="other.example"), _BY))
    app.keeper.is_engaged = True
    app.run(app.operations.restart())
    assert json.loads(app.board.text)["rev"] == 5
    assert [name for name, _ in app.board.log] == ["config", "config_back"]
    topic, told, retain = app.uplink.answers[-1]
    assert (topic, told["rev"], told["wish"], retain) == (b"cfg", 5, 6, True)
    assert told["err"] == "a session has begun" and "geheim" not in json.dumps(told)
    assert wish
    app.keeper.is_engaged = False
    app.run(app.operations.follow())
    assert app.uplink.wishes_asked == 2


def test_the_last_key_that_could_open_a_closed_prompt_stays():
    """A wish that leaves `operator` out takes all keys away."""
    for closed, button, refused in ((1, None, True), (0, None, False), (1, 0, False)):
        app = FakeApp()
        app.board.nvs.set_i32("lock", closed)
        app.board.BUTTON = button
        args = {"rev": 6, "cfg": _wish(app, host="other.example")}
        args["cfg"].pop("operator", None)
        if refused:
            why = str(raises(ValueError, app.do, "config", args, _BY))
            assert "operator.keys is empty; allowed: at least one key" in why
            assert not app.operations.restart_due and app.board.log == []
        else:
            assert app.do("config", args, _BY) == {"rev": 6, "restart": True}
