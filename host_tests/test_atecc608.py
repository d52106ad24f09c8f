import asyncio
import hashlib

from drivers import atecc608
from evmeter.ledger import p256, signer
from fakes import atecc
from fakes.virtual_time import VirtualTime
from support import raises


def _run(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


class _Key:
    """Arithmetic by p256.py, for both interpreters."""

    def __init__(self, secret=0xC0FFEE):
        self._secret = secret

    def new(self):
        self._secret += 1

    def public(self):
        x, y = _run(p256.base_mult(self._secret, 3))
        return x.to_bytes(32, "big") + y.to_bytes(32, "big")

    def sign(self, digest):
        k = signer.nonce(self._secret, digest)
        r, s = _run(p256.sign(self._secret, digest, k, 3, 5))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class _Asyncio:
    """asyncio with virtual sleep."""

    Lock = asyncio.Lock

    def __init__(self, time):
        self.sleep_ms = time.sleep_ms


def _bench(slot=0):
    time = VirtualTime()
    chip = atecc.Chip(_Key(), time)
    atecc608.time = time
    atecc608.asyncio = _Asyncio(time)
    return chip, atecc608.Atecc608(chip, slot), time


def _opened(**faults):
    chip, element, time = _bench()
    asyncio.run(element.open())
    for name in faults:
        setattr(chip, name, faults[name])
    chip.commands.clear()
    return chip, element, time


_DIGEST = hashlib.sha256(b"a record").digest()


def _numbers(text):
    first = text[3]
    return (int.from_bytes(text[4:4 + first], "big"),
            int.from_bytes(text[6 + first:], "big"))


def _right(element, text):
    public = _Key().public()
    x, y = int.from_bytes(public[:32], "big"), int.from_bytes(public[32:], "big")
    r, s = _numbers(text)
    return _run(p256.verify(x, y, _DIGEST, r, s))


def test_crc_of_the_data_sheets_wake_answer():
    assert atecc608.crc16(b"\x04\x11", 0, 2) == 0x4333
    assert atecc.crc(b"\x04\x11") == b"\x33\x43"
    for size in (1, 5, 38, 65):
        data = hashlib.sha256(bytes(size)).digest() * 3
        assert atecc608.crc16(data, 0, size).to_bytes(2, "little") == atecc.crc(data[:size])


def test_facts_of_a_commissioned_chip():
    _, element, _ = _opened()
    assert element.serial == "0123456789abcdefee"
    assert element.revision == "00006002"
    assert element.spki_hex()[:54].endswith("03420004")
    assert bytes.fromhex(element.spki_hex()[54:]) == _Key().public()
    assert len(element.key_id) == 8


def test_it_signs_and_the_nonce_comes_before():
    chip, element, _ = _opened()
    assert _right(element, asyncio.run(element.sign(_DIGEST))) is True
    assert [command[0] for command in chip.commands] == [0x16, 0x41]
    assert element.failures == element.retries == 0
    assert chip._awake_at is None  # asleep again


def test_the_slot_is_the_one_asked_for():
    chip, element, _ = _bench(slot=3)
    asyncio.run(element.open())
    asyncio.run(element.sign(_DIGEST))
    assert chip.commands[-1] == (0x41, 0xA0, 3)


def test_lost_and_damaged_answers_are_asked_for_again():
    for faults in ({"damage": 1}, {"damage": 2}, {"deaf": 1}, {"deaf": 2}, {"flip_command": 1}):
        chip, element, _ = _opened(**faults)
        assert _right(element, asyncio.run(element.sign(_DIGEST))) is True
        assert element.retries


def test_a_slow_chip_is_waited_for():
    _, element, _ = _opened(busy=5)
    assert _right(element, asyncio.run(element.sign(_DIGEST))) is True
    assert element.retries == 0


def test_what_does_not_answer_is_an_error_within_its_deadlines():
    for faults, words, limit_ms in (({"absent": True}, "no answer within", 700),
                                    ({"damage": 99}, "wrong CRC", 700),
                                    ({"deaf": 99}, "no answer within", 1000),
                                    ({"flip_command": 99}, "status 0xff", 1000),
                                    ({"busy": 100}, "no answer within", 4000)):
        _, element, time = _opened(**faults)
        begun = time.mono_ms()
        error = raises(atecc608.Atecc608Error, asyncio.run, element.sign(_DIGEST))
        assert words in str(error), str(error)
        assert time.mono_ms() - begun < limit_ms, (faults, time.mono_ms() - begun)


def test_a_chip_that_came_back_signs():
    chip, element, _ = _opened(absent=True)
    raises(atecc608.Atecc608Error, asyncio.run, element.sign(_DIGEST))
    chip.absent = False
    assert _right(element, asyncio.run(element.sign(_DIGEST))) is True


def test_a_chip_left_awake_by_a_reset_is_taken():
    chip, element, time = _bench()
    raises(OSError, chip.writeto, 0, b"\0")
    time.pass_ms(3)
    buffer = bytearray(4)
    chip.readfrom_into(0x60, buffer)
    assert buffer == b"\x04\x11\x33\x43"
    chip._put(b"an answer to an earlier question", 0)
    asyncio.run(element.open())
    assert element.key_id
    assert element.retries == 1


def test_the_watchdogs_sleep_between_two_commands_is_survived():
    chip, element, time = _opened()
    take = chip._take
    slept = []

    def slow(frame):
        take(frame)
        if frame[1] == 0x16 and not slept:
            slept.append(1)
            time.pass_ms(800)

    chip._take = slow
    assert _right(element, asyncio.run(element.sign(_DIGEST))) is True
    assert element.retries == 1


def test_a_wrong_signature_is_made_again_and_counted():
    _, element, _ = _opened(wrong=1)
    assert _right(element, asyncio.run(element.sign(_DIGEST))) is True
    assert element.failures == 1
    _, element, _ = _opened(wrong=2)
    assert "twice" in str(raises(signer.SignerError, asyncio.run, element.sign(_DIGEST)))
    assert element.failures == 2


def test_a_chip_that_is_not_commissioned_is_refused():
    for at, value, words in ((87, 0x55, "configuration is not locked"),
                             (86, 0x55, "data zone is not locked"),
                             (96, 0x32, "does not sign"), (96, 0x3C, "does not sign"),
                             (20, 0x8E, "does not sign")):
        chip, element, _ = _bench()
        chip.config[at] = value
        error = raises(atecc608.Atecc608Error, asyncio.run, element.open())
        assert words in str(error), str(error)
    chip, element, _ = _bench()
    chip.revision = b"\x00\x00\x50\x00"
    assert "not an ATECC608" in str(raises(atecc608.Atecc608Error, asyncio.run, element.open()))
    assert "not opened" in str(raises(atecc608.Atecc608Error, asyncio.run,
                                      element.sign(_DIGEST)))
    assert "not 31" in str(raises(signer.SignerError, asyncio.run, element.sign(bytes(31))))


def test_a_new_key_is_another_one():
    _, element, _ = _opened()
    before = element.key_id
    asyncio.run(element.make_key())
    assert element.key_id != before


def test_other_tasks_run_while_it_signs_and_two_signatures_take_turns():
    chip, element, time = _opened()
    gaps = []

    async def other():
        while True:
            begun = time.mono_ms()
            await time.sleep_ms(1)
            gaps.append(time.mono_ms() - begun)

    async def main():
        task = asyncio.create_task(other())
        both = await asyncio.gather(element.sign(_DIGEST), element.sign(_DIGEST))
        task.cancel()
        return both

    for text in asyncio.run(main()):
        assert _right(element, text) is True
    assert [command[0] for command in chip.commands] == [0x16, 0x41] * 2
    assert len(gaps) > 100
