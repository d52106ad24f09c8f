import asyncio

from evmeter.ledger.journal import JournalError
from evmeter.metering.pass_through import PassThrough
from evmeter.metering.reading import MeterError
from fakes.keeper_device import PILOT_A, PILOT_C, Device
from fakes.world import FakeBoard

_TEXT = 'OCMF|{"FV":"1.0","PG":"T%d","RD":[{"TX":"%s"}]}|{"SD":"00"}'
_USER = {"IL": "VERIFIED", "IT": "ISO14443", "ID": "1F2D3A4F5506C7"}


class _Signing:
    def __init__(self, fail=0, text=""):
        self.calls = []
        self.times = []
        self.fail = fail
        self.text = text

    async def record(self, letter, called):
        await asyncio.sleep_ms(0)
        self.calls.append((letter, called))
        if self.fail:
            self.fail -= 1
            raise MeterError("the meter made no record: status 3", "E")
        return self.text or _TEXT % (len(self.calls), letter), "3059"

    async def keep_time(self, unix_s, mono_s):
        self.times.append(unix_s)


def _no_wait(_ms):
    return asyncio.sleep_ms(0)


def _device(signing, quality="S"):
    device = Device(FakeBoard(), quality=quality)
    passing = PassThrough(signing, device.keeper.ledger, device.clock, device.alarms)
    device.keeper.on_edge = passing.edge
    passing.pause = _no_wait
    return device, passing


def _play(device, passing, steps):
    async def both():
        task = asyncio.create_task(passing.run())
        await device._live(steps)
        for _ in range(200):
            await asyncio.sleep_ms(0)
        task.cancel()

    asyncio.run(both())


def _entries(device):
    return [message for name, message in device.each() if name == "meter_record"]


_SESSION = ((3000, PILOT_A, 0, None), (4000, PILOT_C, 7200, None), (3000, PILOT_A, 0, None))


def test_begin_and_end_are_kept_word_for_word_behind_our_own_records():
    signing = _Signing()
    device, passing = _device(signing)
    _play(device, passing, _SESSION)
    begin, end = _entries(device)
    sid = "demo-0001-000001"
    assert signing.calls == [("B", sid), ("E", sid)]
    assert (begin["tx"], begin["meter_ocmf"]) == ("B", _TEXT % (1, "B"))
    assert (end["tx"], end["meter_ocmf"]) == ("E", _TEXT % (2, "E"))
    assert begin["sid"] == end["sid"] == sid and begin["meter_spki"] == "3059"
    assert len(signing.times) == 2 and begin["sg"]
    names = device.names()
    assert names.index("begin") < names.index("meter_record")
    assert device.alarms.codes() == []


def test_a_user_who_is_known_goes_along_and_an_unproven_clock_is_not_passed_on():
    signing = _Signing()
    device, passing = _device(signing, quality="I")
    order = device.keeper.order
    told = (100, None, 0, lambda device: device.also(order("user", dict(_USER))))
    _play(device, passing, _SESSION[:1] + (told,) + _SESSION[1:])
    assert [called for _, called in signing.calls] == ["demo-0001-000001 1F2D3A4F5506C7"] * 2
    assert signing.times == []


def test_a_record_that_is_not_to_be_had_is_an_entry_that_says_why():
    signing = _Signing(fail=4)
    device, passing = _device(signing)
    _play(device, passing, _SESSION)
    begin, end = _entries(device)
    assert begin["why"] == "the meter made no record: status 3" and "meter_ocmf" not in begin
    assert end["meter_ocmf"] == _TEXT % (5, "E")  # the first try failed
    assert device.alarms.codes() == []  # it works again
    signing = _Signing(text="OCMF|" + '"' * 900)
    device, passing = _device(signing)
    _play(device, passing, _SESSION[:2])
    assert "too long" in _entries(device)[0]["why"]
    assert device.alarms.codes() == ["METER_RECORD"]


def test_a_flash_that_fails_loses_no_record():
    signing = _Signing()
    device, passing = _device(signing)
    log = device.keeper.ledger.log
    failures = [1, 2]

    async def fails(*given, **more):
        if given[0] == "meter_record" and failures:
            failures.pop()
            raise JournalError("no")
        return await log(*given, **more)

    device.keeper.ledger.log = fails
    _play(device, passing, _SESSION)
    assert [entry["tx"] for entry in _entries(device)] == ["B", "E"] and not failures
