import asyncio
import json

from evmeter.system.update import Probation, UpdateError, failed
from fakes.clock import FakeClock
from fakes.packages import Device, fields_of, head, image, spki

_OLD = image(5000, 3)
_NEW = image(5000)
_HEAD = head(fields_of(_NEW))


def _refused(function, *arguments):
    try:
        function(*arguments)
    except UpdateError as error:
        return str(error)
    raise AssertionError("not refused")


def _well(device):
    """The new firmware's first minutes, in which all is well."""
    clock = FakeClock(0)
    probation = Probation(device.slots, device.nvs, clock, lambda: True, lambda: True)
    seen = ""
    while not seen:
        clock.advance(1000)
        seen = probation.check()
    return seen, clock.mono_ms()


def test_an_update_runs_on_trial_and_is_trusted_once_it_is_well():
    device = Device(_OLD)
    assert device.begin(_HEAD) == 0
    device.send(_NEW)
    assert device.activate()["version"] == "0.2.0"
    assert device.slots.on_trial  # from the next boot on
    device.boot()
    assert device.runs(_NEW) and device.slots.on_trial
    assert _well(device) == ("confirmed", 61000)
    device.boot()
    assert device.runs(_NEW) and not device.slots.on_trial


def test_while_the_restart_is_due_nothing_is_written_over_what_runs():
    device = Device(_OLD)
    device.begin(_HEAD)
    device.send(_NEW)
    device.activate()
    # the restart may be long in coming: a record is being written
    assert "not whole" in _refused(device.activate)
    assert "no update was begun" in _refused(device.data, 0, _NEW[:1500])
    assert "on trial" in _refused(device.begin, _HEAD)
    assert bytes(device.flash.image[: len(_OLD)]) == _OLD
    device.boot()
    assert device.runs(_NEW)


def test_one_that_is_not_well_is_given_up():
    for well, online, found in (
            (lambda: False, lambda: True, ("failed", 1200000)),
            (lambda: True, lambda: False, ("confirmed", 600000))):
        device = Device(_OLD)
        device.begin(_HEAD)
        device.send(_NEW)
        device.activate()
        device.boot()
        clock = FakeClock(0)
        probation = Probation(device.slots, device.nvs, clock, well, online)
        seen = ""
        while not seen:
            clock.advance(1000)
            seen = probation.check()
        assert (seen, clock.mono_ms()) == found
        device.boot()
        assert device.runs(_NEW if seen == "confirmed" else _OLD)
        assert not device.slots.on_trial


def test_who_may_sign_and_what_is_taken():
    other = 77
    for keys, first, words in (
            (None, head(fields_of(_NEW), other), "not signed by"),
            ([], _HEAD, "update.keys is empty"),
            ([spki(other)], _HEAD, "not signed by"),
            (None, head(fields_of(_NEW, board="esp32_s3_devkit")), "board is esp32_s3_devkit"),
            (None, head(fields_of(_NEW, counter=0)), "counter is 0; allowed: 1 to 1073741823"),
            (None, head(fields_of(_NEW, counter=-5)), "allowed: 1 to 1073741823"),
            (None, head(fields_of(_NEW, size=8193)), "allowed: 1 to 8192"),
            (None, head(fields_of(_NEW, size=0)), "allowed: 1 to 8192"),
            (None, head(fields_of(_NEW, size="5000")), "size is '5000'"),
            (None, head(fields_of(_NEW, version=None)), "version is None"),
            (None, head(fields_of(_NEW, more=1)), "the manifest must have"),
            (None, head(b"[1]"), "the manifest must have"),
            (None, head(json.dumps(sorted(fields_of(_NEW))).encode()), "the manifest must have"),
            (None, head(b"{" * 3000), "the manifest must have"),
            (None, b"", "no package"),
            (None, b"EVU2" + _HEAD[4:], "no package"),
            (None, b"EVU1", "bytes; allowed"),
            (None, _HEAD + b"\x00", "bytes; allowed"),
            (None, _HEAD[:-1], "bytes; allowed")):
        device = Device(_OLD, keys)
        assert words in _refused(device.begin, first), words
        assert _refused(device.data, 0, b"x") == "no update was begun"
        assert "not whole" in _refused(device.activate)
        device.boot()
        assert device.runs(_OLD)


def test_every_bit_of_the_head_counts():
    device = Device(_OLD)
    for at in range(0, len(_HEAD), 9):
        changed = bytearray(_HEAD)
        changed[at] ^= 1 << at % 8
        assert _refused(device.begin, bytes(changed))


def test_pieces_may_come_twice_and_not_with_a_gap():
    device = Device(_OLD)
    device.begin(_HEAD)
    assert device.data(0, _NEW[:1000]) == 1000
    assert device.data(0, _NEW[:1000]) == 1000
    assert device.data(500, _NEW[500:1500]) == 1500
    for at, piece in ((1501, b"x"), (-1, b"x"), (1500, b""), (1500, bytes(2049)),
                      (4999, b"xy"), (5000, b"x")):
        assert "allowed: up to 2048 bytes at 1500" in _refused(device.data, at, piece)
    assert device.begin(_HEAD) == 1500  # the connection was lost: it goes on
    device.send(_NEW)
    device.activate()
    device.boot()
    assert device.runs(_NEW)


def test_an_image_with_another_hash_is_not_tried():
    device = Device(_OLD)
    device.begin(_HEAD)
    device.send(_NEW[:3000] + b"\x00" + _NEW[3001:])
    assert "another hash" in _refused(device.activate)
    device.boot()
    assert device.runs(_OLD) and not device.slots.on_trial
    device.begin(_HEAD)
    device.send(_NEW)
    device.activate()


def test_there_is_no_way_back_and_no_second_trial():
    device = Device(_OLD)
    device.begin(head(fields_of(_NEW, counter=5)))
    device.send(_NEW)
    device.activate()
    device.boot()
    assert "on trial itself" in _refused(device.begin, head(fields_of(_NEW, counter=6)))
    _well(device)
    for counter in (1, 4, 5):
        assert "allowed: 6 to 1073741823" in _refused(
            device.begin, head(fields_of(_NEW, counter=counter)))
    assert device.begin(head(fields_of(_NEW, counter=6))) == 0


def test_what_the_flash_refuses_may_come_again():
    device = Device(_OLD)
    device.begin(_HEAD)
    device.data(0, _NEW[:2000])
    device.data(2000, _NEW[2000:4000])
    device.flash.fail = 0
    try:
        device.data(4000, _NEW[4000:])
    except OSError as error:
        assert error.args[0] == 5
    else:
        raise AssertionError("not told")
    assert device.updater.have == 0
    device.send(_NEW)
    device.activate()
    device.boot()
    assert device.runs(_NEW)


def test_what_is_no_base64_or_no_number_is_told():
    device = Device(_OLD)
    for given in (None, 5, [], "A", "AAAA", "?"):
        text = _refused(lambda given=given: asyncio.run(device.updater.begin(given)))
        assert "base64" in text or "no package" in text
    device.begin(_HEAD)
    for at, piece, words in ((0, 7, "base64"), (0, None, "base64"), ("0", "QQ==", "at is '0'"),
                             (None, "QQ==", "at is None"), (True, "QQ==", "at is True")):
        assert words in _refused(lambda at=at, piece=piece: asyncio.run(
            device.updater.data(at, piece)))


def test_one_that_was_given_up_is_told_once():
    device = Device(_OLD)
    device.begin(_HEAD)
    device.send(_NEW)
    device.activate()
    for _ in range(3):
        device.boot()
        assert device.slots.on_trial
    device.boot()
    assert not device.slots.on_trial
    assert [failed(device.nvs) for _ in range(2)] == [1, 0]
    device.begin(_HEAD)
    device.send(_NEW)
    device.activate()
    device.boot()
    _well(device)
    assert failed(device.nvs) == 0
