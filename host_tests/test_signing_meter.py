import asyncio

from drivers.modbus_rtu import ModbusError, ModbusRtu, crc16
from drivers.signing_meter import SigningMeter, write
from fakes.uart import FakeUart, reply, with_crc
from fakes.virtual_time import VirtualTime
from support import raises

_UNIT = 42
_KEY = bytes([0x30, 0x59]) + bytes(range(89))
_TEXT = 'OCMF|{"FV":"1.0","PG":"T%d","RD":[%s]}|{"SD":"00"}'


class _Bsm:
    """The signing part's registers; `status` is what St reads once the snapshot is made."""

    def __init__(self, **more):
        self.time = VirtualTime()
        self.words = {}
        self.writes = []
        self.page = 4275
        self.status = 0
        self.updating = 0  # so many reads of the status still say 2
        self.silent = 0
        self.deaf = False
        self.refuse = 0
        self.filler = "x" * 60
        self.latency_ms = 20
        for address, number, count in ((41283, 64901, 252), (41537, 64901, 252),
                                       (43291, 64903, 498), (43791, 64903, 498)):
            self.words[address], self.words[address + 1] = number, count
        self.put(40260, b"\xff\xff\xff\xff\x80\x00")
        self.put(40449, b"\0\x30\0\x5b" + _KEY)
        for name, value in more.items():
            setattr(self, name, value)
        self.uart = FakeUart(self.time, 10000000 // 19200, self._answer)
        self.bus = ModbusRtu(self.uart, 19200, 11, None, 0, self.time, self.time.sleep_ms)
        self.meter = SigningMeter(self.bus, _UNIT)

    def put(self, address, data):
        data += bytes(len(data) & 1)
        for at in range(0, len(data), 2):
            self.words[address + at // 2] = data[at] << 8 | data[at + 1]

    def _answer(self, request):
        assert crc16(request, 0, len(request) - 2) == request[-2] | request[-1] << 8
        unit, function, high, low, _, count = request[:6]
        address = high << 8 | low
        if unit != _UNIT:
            return None
        if function == 16:
            return self._write(address, count, request)
        if self.updating and address in (41286, 41540):
            if self.deaf:
                return None
            self.updating -= 1
            return [(3000, reply(unit, 3, [2]))]
        return [(self.latency_ms, reply(unit, 3, [self.words.get(address + index, 0)
                                                  for index in range(count)]))]

    def _write(self, address, count, request):
        data = request[7:-2]
        assert len(data) == 2 * count == request[6]
        if self.silent:
            self.silent -= 1
            return None
        if self.refuse:
            return [(20, with_crc("2a90%02x" % self.refuse))]
        self.writes.append((address, data))
        for snapshot, ocmf in ((41283, 43291), (41537, 43791)):
            if address == snapshot + 3 and data == b"\0\2":
                self.page += 1
                self.words[snapshot + 3] = self.words[ocmf + 3] = self.status
                text = self.text(self.page)
                self.put(ocmf + 4, text.encode() + b"\0\0"[:992 - len(text)])
        # noise and the request's own echo before the answer
        return [(0, b"\x00\x2a" + request), (90, with_crc("2a10%04x%04x" % (address, count)))]

    def text(self, page):
        return _TEXT % (page, self.filler)

    def run(self, coroutine):
        return asyncio.run(coroutine)


def test_a_record_is_made_and_read_as_it_is():
    for letter, snapshot in (("B", 41283), ("E", 41537)):
        for filler in ("", "y" * 300, "z" * (992 - len(_TEXT % (4276, "")))):
            bsm = _Bsm(filler=filler)
            text, key = bsm.run(bsm.meter.record(letter, "demo-0001-000007 1F2D"))
            assert text == bsm.text(4276)
            assert key == "".join(["%02x" % byte for byte in _KEY])
            assert bsm.writes == [(40279, b"demo-0001-000007 1F2D" + bytes(119)),
                                  (snapshot + 3, b"\0\2")]


def test_a_meter_that_needs_seconds_to_sign_is_waited_for():
    bsm = _Bsm(updating=2)
    assert bsm.run(bsm.meter.record("E", "x"))[0] == bsm.text(4276)
    assert 6000 <= bsm.time.mono_ms() < 12000


def test_the_others_have_the_bus_between_two_looks_at_a_meter_that_does_not_answer():
    bsm = _Bsm(updating=99, deaf=True)
    held_ms = []

    async def poll():
        while len(held_ms) < 20:
            before_ms = bsm.time.mono_ms()
            turn = bsm.bus.quiet
            while turn.taken or turn.waiting:
                await bsm.time.sleep_ms(2)
            held_ms.append(bsm.time.mono_ms() - before_ms)
            await bsm.time.sleep_ms(1000)

    async def both():
        task = asyncio.create_task(poll())
        try:
            await bsm.meter.record("B", "x")
        finally:
            task.cancel()

    error = raises(ModbusError, bsm.run, both())
    assert "while it signs" in str(error) and error.letter == "T"
    assert max(held_ms) < 16000 and bsm.time.mono_ms() > 45000


def test_what_the_meter_does_not_give_is_told():
    old = _Bsm()
    old.words[41283] = 64903
    for bsm, words, letter in (
        (old, "firmware 1.8 is needed", "F"),
        (_Bsm(status=3), "made no record: status 3", "E"),
        (_Bsm(updating=99), "made no record: status 2", "E"),
        (_Bsm(silent=99), "no reply from unit 42 to a write", "T"),
        (_Bsm(refuse=2), "exception 2 from unit 42", "F"),
        (_Bsm(filler="\n"), "no OCMF in ASCII", "F"),
    ):
        error = raises(ModbusError, bsm.run, bsm.meter.record("B", "x"))
        assert words in str(error) and error.letter == letter, error
    bsm = _Bsm()
    bsm.text = lambda page: "{}"
    assert "no OCMF" in str(raises(ModbusError, bsm.run, bsm.meter.record("B", "x")))
    bsm = _Bsm()
    bsm.put(40449, b"\0\x30\0\0")
    assert "public key" in str(raises(ModbusError, bsm.run, bsm.meter.record("B", "x")))


def test_a_write_without_reply_is_tried_again():
    bsm = _Bsm(silent=2)
    bsm.run(write(bsm.bus, _UNIT, 40260, b"\1\2\3\4", 100))
    assert bsm.writes == [(40260, b"\1\2\3\4")] and len(bsm.uart.requests) == 3


def test_a_line_that_fails_is_told():
    bsm = _Bsm()
    bsm.uart.fail = OSError(5)
    assert raises(ModbusError, bsm.run, write(bsm.bus, _UNIT, 1, b"\0\0", 100)).letter == "D"
    assert not bsm.bus.quiet.taken


def test_the_transceiver_sends_for_as_long_as_the_frame_lasts():
    levels = []
    bsm = _Bsm()
    bsm.bus._de = lambda level: levels.append((level, bsm.time.now_us, bsm.uart.sent_until_us))
    bsm.run(write(bsm.bus, _UNIT, 40279, bytes(140), 100))
    (on, _, _), (off, at_us, sent_us) = levels
    assert (on, off) == (1, 0) and at_us >= sent_us


def test_its_clock_is_set_where_it_lost_it_and_once_a_day():
    bsm = _Bsm()
    for unix_s, mono_s, lost, expected in (
        (1800000000, 100, True, True), (1800003600, 3700, False, False),
        (1800007200, 7300, True, True), (1800090000, 90000, False, False),
        (1800100000, 93800, False, True), (1800100060, 93860, False, False),
    ):
        before = len(bsm.writes)
        bsm.put(40260, b"\xff\xff\xff\xff" if lost else b"\1\1\1\1")
        bsm.run(bsm.meter.keep_time(unix_s, mono_s))
        data = unix_s.to_bytes(4, "big") + b"\0\0"
        assert bsm.writes[before:] == ([(40260, data)] if expected else []), unix_s
    fresh = _Bsm()  # after a reboot: a clock that runs is left alone for a day
    fresh.put(40260, b"\1\1\1\1")
    fresh.run(fresh.meter.keep_time(1800000000, 5))
    assert fresh.writes == []
