import json

from evmeter.uplink import commands
from fakes.command_desk import NOW_S, Desk, Operator, command
from support import raises

_OPERATOR = Operator()
_OTHER = Operator(b"\x08")
_UPDATE = command("update", args={"url": "x"})
_SIGNED = _OPERATOR.sign(_UPDATE, 7)
_DONE = [("update", {"url": "x"}, _OPERATOR.by)]


def test_a_dangerous_command_needs_the_signature_of_an_enrolled_key():
    assert "needs the signature" in Desk(_OPERATOR).refused(_UPDATE)
    assert "is not enrolled" in Desk().refused(_SIGNED)
    assert "is not enrolled" in Desk(_OTHER).refused(_SIGNED)
    desk = Desk(_OPERATOR)
    assert desk.send(_SIGNED)[0]["ok"]
    assert desk.done == _DONE
    desk = Desk(_OPERATOR, all_signed=True)
    assert "needs the signature" in desk.refused(command("identify"))
    assert "needs the signature" in desk.refused({"v": 1, "rev": 3, "cfg": {}}, True)
    assert desk.send(_OPERATOR.sign(command("identify"), 8))[0]["ok"]


def test_no_counter_counts_twice_not_even_after_a_reboot():
    desk = Desk(_OPERATOR)
    assert desk.send(_SIGNED)[0]["ok"]
    assert "repeated" in desk.refused(_SIGNED)
    for nvs_of in (desk, Desk(_OPERATOR, desk.nvs)):
        again = Desk(_OPERATOR, nvs_of.nvs)
        again.commands._done = []  # as after many other commands
        assert "ctr is 7; allowed: more than 7" in again.refused(_SIGNED)
        for counter in (1, 6, 7):
            text = _OPERATOR.sign(command("update", "n-%d" % counter), counter)
            assert "allowed: more than 7" in again.refused(text)
    assert again.send(_OPERATOR.sign(command("update", "c-2"), 1 << 53))[0]["ok"]
    assert again.refused(_OPERATOR.sign(command("update", "c-3"), 8))


def test_the_counter_is_used_up_before_anything_is_done():
    desk = Desk(_OPERATOR)
    desk.operations.error = ValueError("fails")
    assert desk.refused(_SIGNED) == "fails"
    desk.operations.error = None
    again = Desk(_OPERATOR, desk.nvs)
    again.commands._done = []
    assert "allowed: more than 7" in again.refused(_SIGNED)
    # and where it cannot be kept, nothing is done
    desk = Desk(_OPERATOR)

    def fails(key, value):
        raise OSError(28)

    desk.nvs.set_blob = fails
    assert "28" in desk.refused(_SIGNED)
    assert desk.done == []


def test_a_signature_holds_for_one_device_and_one_time():
    desk = Desk(_OPERATOR)
    assert "another device" in desk.refused(_OPERATOR.sign(_UPDATE, 8, "demo-0002"))
    for exp, words in ((NOW_S - 1, "expired"), (NOW_S + 601, "601 s ahead")):
        text = _OPERATOR.sign(command("update", exp=exp), 9)
        assert words in desk.refused(text)
    desk = Desk(_OPERATOR, quality="U")
    assert "time is not known" in desk.refused(_SIGNED)
    wish = {"v": 1, "rev": 3, "cfg": {}, "exp": NOW_S + 31 * 86400}
    desk = Desk(_OPERATOR)
    desk.send(_OPERATOR.sign(wish, 10), wish=True)
    assert desk.done == [(3, {}, _OPERATOR.by)]
    wish["exp"] += 1
    assert "ahead" in desk.refused(_OPERATOR.sign(wish, 11), True)


def test_a_signed_command_with_any_byte_changed_or_left_out_is_not_done():
    desk = Desk(_OPERATOR)
    for at in range(0, len(_SIGNED) * 8, 37):
        data = bytearray(_SIGNED)
        data[at >> 3] ^= 1 << (at & 7)
        assert desk.refused(bytes(data)), at
    for length in range(0, len(_SIGNED), 3):
        assert desk.refused(_SIGNED[:length]), length
    assert desk.send(_SIGNED)[0]["ok"]
    assert desk.done == _DONE


def test_what_is_signed_is_all_that_counts():
    desk = Desk(_OPERATOR)
    text = _SIGNED.decode()
    signature = json.loads(text)["sg"]
    for changed in (
        text[:-1] + ', "op": "reboot"}',  # behind the signature
        text.replace(', "sg"', ',  "sg"'), text.replace('"sg": ', '"sg":'),
        text[:-1] + ', "sg": "%s"}' % signature,
        text.replace(signature, signature[:-2] + "zz"), text.replace(signature, signature.upper()),
        text.replace(signature, ""), text.replace(signature, signature + "00"),
        text.replace(signature, "30" + signature), text.replace(signature, signature[:-2]),
    ):
        assert desk.refused(changed.encode()), changed
    # signed by another enrolled key than it says
    both = Desk(_OPERATOR)
    both.commands._keys.append(_OTHER.spki)
    wrong = _OTHER.sign(dict(_UPDATE), 7).replace(_OTHER.by.encode(), _OPERATOR.by.encode())
    assert "does not belong" in both.refused(wrong)


def test_a_signature_is_der_and_nothing_else():
    from evmeter.ledger.signer import der

    for r, s in ((1, 1), (127, 128), (1 << 255, (1 << 256) - 1)):
        assert commands.numbers(der(r, s).hex()) == (r, s)
    good = der(5, 1 << 255).hex()
    for wrong in ("", "30", "3000", good[:-2], good + "00", "31" + good[2:], good[:6] + "00",
                  "300602020001020101", "3006020181020101", "30ff" + good[4:], "zz",
                  good[:6] + "ff" + good[8:], "3006020100020100" * 9):
        raises(commands.CommandError, commands.numbers, wrong)
