import gc
import json

from evmeter.uplink.commands import _DEFECT, LONGEST
from fakes.command_desk import NOW_S, Desk, command
from support import raises


def test_a_command_is_done_and_answered():
    desk = Desk()
    (answer,) = desk.send(command("resend", args={"from": 5, "to": 9}))
    assert desk.done == [("resend", {"from": 5, "to": 9}, "")]
    assert answer == {"v": 1, "ts": NOW_S, "tq": "I", "id": "c-1", "op": "resend", "ok": True,
                      "res": {}}
    desk = Desk()
    desk.operations.error = ValueError("x" * 999)
    (answer,) = desk.send(command())
    assert (answer["ok"], answer["err"]) == (False, "x" * 300)
    # the sender is told which of his commands it was, where that can be told
    for changes, name in (({"v": 2}, "c-1"), ({"id": "x" * 99}, "x" * 36), ({"id": 7}, "")):
        (answer,) = desk.send(dict(command(), **changes))
        assert (answer["ok"], answer["id"]) == (False, name)


def test_whoever_asked_is_told_of_a_defect_too_before_the_task_dies_of_it():
    for error in (KeyError("end_ms"), TypeError("x" * 999), AttributeError()):
        desk = Desk()
        desk.operations.error = error
        raises(type(error), desk.send, command("resend"))
        (answer,) = desk.answers
        assert (answer["id"], answer["op"], answer["ok"]) == ("c-1", "resend", False)
        assert answer["err"] == _DEFECT, answer
        desk.operations.error = None
        assert "repeated" in desk.refused(command("resend"))
        assert desk.send(command("resend", "c-2"))[0]["ok"]
        desk.operations.error = error
        wish = {"v": 1, "rev": 3, "cfg": {}}
        raises(type(error), lambda desk=desk, wish=wish: desk.send(wish, wish=True))
        assert desk.operations.reports == [(3, _DEFECT)]


def test_what_is_malformed_is_refused_by_name():
    desk = Desk()
    for changes, words in (
        ({"v": 2}, "v is 2"), ({"v": True}, "v is True"), ({"id": ""}, "id is ''"),
        ({"id": "x" * 37}, "1 to 36"), ({"id": "a b"}, "without spaces"), ({"id": 7}, "id is 7"),
        ({"op": None}, "op is None"), ({"op": "x" * 17}, "1 to 16"),
        ({"args": []}, "args must be a JSON object"), ({"exp": "soon"}, "exp is 'soon'"),
        ({"exp": 1790000060.0}, "a whole number"), ({"exp": True}, "exp is True"),
        ({"exp": -1}, "exp is -1"), ({"force": True}, "unknown field force"),
        ({"a\nb": True}, "unknown field a\\nb"), ({"dev": "demo-0002"}, "for another device"),
        ({"ctr": 5}, "for another device: dev is None"),
        ({"dev": "demo-0001", "by": "a1b2c3d4"}, "ctr is None"),
        ({"dev": "demo-0001", "by": "a1b2c3d4", "ctr": 0}, "ctr is 0"),
        ({"dev": "demo-0001", "by": "a1b2c3d4", "ctr": 1 << 54}, "ctr is"),
        ({"dev": "demo-0001", "ctr": 1}, "by is None"),
        ({"dev": "demo-0001", "by": "a1b2c3d4", "ctr": 1}, "sg must come last"),
    ):
        why = desk.refused(dict(command(name="c-%s" % words[:9].replace(" ", "")), **changes))
        assert words in why, (changes, why)
    for text, words in (
        (b"", "JSON"), (b"null", "object"), (b"[]", "object"), (b"{}", "v is None"),
        (b'{"v": 1, "id": "\\u00e9"}', "id is"), (b'{"v": 1},{"v": 1}', "JSON"),
        (b"\xff\xfe", "ASCII"), (b"[" * 3000, "JSON"),
        (json.dumps(command()).encode() + b"x", "JSON"),
        (json.dumps(command()).encode() + b",0", "JSON"), (b"{" * 100, "JSON"),
        (json.dumps(command()).encode() + b" " * LONGEST, "longer than 3584"),
    ):
        why = desk.refused(text)
        assert words in why, (text[:40], why)
    assert desk.commands.refused > 30


def test_a_command_cut_short_at_any_byte_is_not_done():
    desk = Desk()
    text = json.dumps(command("resend", args={"from": 5, "to": [{"x": "}]"}]})).encode()
    for length in range(len(text)):
        assert desk.refused(text[:length]), length
    assert desk.send(text)[0]["ok"]


def test_no_command_is_done_too_late_or_twice():
    desk = Desk()
    for exp, words in ((NOW_S - 1, "expired 1 s ago"), (0, "expired"), (NOW_S + 601, "601 s")):
        assert words in desk.refused(command(name="e-%d" % exp, exp=exp)), exp
    assert desk.send(command(exp=NOW_S))[0]["ok"]
    assert "repeated" in desk.refused(command(exp=NOW_S + 60))
    for number in range(2, 17):
        assert desk.send(command(name="c-%d" % number, exp=NOW_S + 300))[0]["ok"]
    assert "repeated" in desk.refused(command(exp=NOW_S + 300))
    # a refused one keeps its id: the sender may put it right
    desk = Desk()
    assert desk.refused(command(exp=0))
    assert desk.send(command())[0]["ok"]


def test_while_the_time_is_not_known_only_what_does_no_harm_late_is_done():
    for name, done in (("identify", True), ("resend", True), ("time", True), ("reboot", False),
                       ("user", False), ("stop", False), ("limit", False), ("config", False)):
        desk = Desk(quality="U")
        (answer,) = desk.send(command(name, exp=5))
        assert answer["ok"] == done, name
        if not done:
            assert "allowed: identify, resend, time" in answer["err"]
    desk = Desk(quality="U")
    desk.send({"v": 1, "rev": 3, "cfg": {"id": "x"}}, wish=True)
    assert desk.done == [(3, {"id": "x"}, "")]


def test_one_a_second_is_worked_on_and_what_is_too_much_is_refused():
    desk = Desk()
    answers = desk.send(*[command(name="c-%d" % number) for number in range(50)])
    assert [one["id"] for one in answers if one["ok"]] == ["c-0", "c-1", "c-2", "c-3"]
    (more,) = [one for one in answers if not one["ok"]]
    assert more["err"].startswith("46 more were refused")
    assert desk.clock.mono_ms() >= 4000


def test_what_waits_is_bounded_in_bytes_too():
    gc.collect()
    desk = Desk()
    large = [json.dumps(command(name="c-%d" % number, args={"x": "x" * 1500})).encode()
             for number in range(3)]
    answers = desk.send(*large)
    assert [one["ok"] for one in answers] == [True, False, True], answers


def test_a_restart_is_not_repeated_by_the_same_command():
    desk = Desk()
    assert desk.send(command("reboot"))[0]["ok"]
    assert desk.operations.restart_count == 1
    again = Desk(nvs=desk.nvs)  # the broker delivers it once more
    assert "repeated" in again.refused(command("reboot"))
    assert again.send(command("reboot", "c-2"))[0]["ok"]


def test_a_wish_waits_for_the_device_and_is_answered_by_the_report():
    desk = Desk()
    assert desk.send({"v": 1, "ts": 1, "tq": "I", "rev": 3, "cfg": {"id": "x"}}, wish=True) == []
    assert desk.done == [(3, {"id": "x"}, "")]
    assert desk.operations.reports == [(3, "")]
    for text, words in (({"v": 1, "rev": 0, "cfg": {}}, "rev is 0"),
                        ({"v": 1, "rev": 1 << 31, "cfg": {}}, "rev is"),
                        ({"v": 1, "rev": 4, "cfg": []}, "cfg must be"),
                        ({"v": 1, "rev": 4, "args": {}}, "unknown field args"),
                        (b"{", "JSON")):
        assert words in desk.refused(text, True), text
    desk.operations.refuse = "not now"
    assert desk.refused({"v": 1, "rev": 5, "cfg": {}}, True) == "not now"
