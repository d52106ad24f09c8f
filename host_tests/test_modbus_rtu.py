import asyncio

from drivers.modbus_rtu import ModbusError, ModbusRtu, build_request, crc16, find_reply
from fakes.uart import FakeUart, reply, with_crc
from fakes.virtual_time import VirtualTime
from support import raises

_CHAR_US = 1042  # 9600 8N1
_WORDS = [0x4366, 0x4CCD, 0x0102, 0x0304]
_GOOD = reply(1, 4, _WORDS)
_DATA = _GOOD[3:-2]
_OTHER = reply(1, 4, [0x1111, 0x2222, 0x3333, 0x4444])


def _bus(answer=None, de=None, gap_ms=0):
    time = VirtualTime()
    uart = FakeUart(time, _CHAR_US, answer)
    bus = ModbusRtu(uart, 9600, 10, de, gap_ms, time, time.sleep_ms)
    return time, uart, bus


async def _read(bus, count=4, address=0):
    return bytes((await bus.read(1, 4, address, count, 50))[:2 * count])


def _outcome(answers, count=4):
    """What one read gives when the n-th request is answered by the n-th of `answers`:
    (bytes or ModbusError, bus, requests sent)."""
    left = list(answers)
    time, uart, bus = _bus(lambda request: left.pop(0) if left else None)
    try:
        found = asyncio.run(_read(bus, count))
    except ModbusError as error:
        found = error
    return found, bus, len(uart.requests)


def test_crc_and_requests_of_the_vendor():
    assert crc16(b"123456789", 0, 9) == 0x4B37
    for count, expected in ((2, "01040000000271cb"), (80, "010400000050f036")):
        frame = bytearray(8)
        build_request(frame, 1, 4, 0, count)
        assert bytes(frame) == bytes.fromhex(expected)
    frame = bytearray(8)
    build_request(frame, 247, 3, 0xFC00, 4)
    assert bytes(frame) == with_crc("f703fc000004")


def test_requests_that_cannot_be_are_refused():
    for unit, function, address, count in (
        (0, 4, 0, 1), (248, 4, 0, 1), (1, 6, 0, 1), (1, 4, 0, 0), (1, 4, 0, 126), (1, 4, -1, 1),
        (1, 4, 0xFFFF, 2),
    ):
        raises(ValueError, build_request, bytearray(8), unit, function, address, count)
    build_request(bytearray(8), 1, 3, 0xFFFF, 1)


def test_the_reply_is_found_among_noise():
    for before, after in ((b"", b""), (b"\x00", b""), (b"\xff\x01\x04", b"\x01"),
                          (b"\x01\x04\x08", b""), (b"\x01\x84\x02\x00\x00", b""),
                          (_GOOD[:7], b"\x00" * 9), (with_crc("010400000004"), b""),
                          (_OTHER[:-1] + b"\x00", b"")):
        data = before + _GOOD + after
        at = find_reply(data, len(data), 1, 4, 4)
        assert bytes(data[at:at + 8]) == _DATA, before


def test_the_bytes_still_missing_are_counted():
    for data, missing in ((b"", 13), (b"\x00", 13), (_GOOD[:1], 13), (_GOOD[:2], 11),
                          (_GOOD[:12], 1), (b"\x00\x00" + _GOOD[:12], 1), (b"\x01\x84", 3),
                          (b"\x01\x84\x02\x01", 1)):
        assert find_reply(data, len(data), 1, 4, 4) == -missing, data


def test_only_the_exact_reply_counts():
    for frame in (reply(2, 4, _WORDS), reply(1, 3, _WORDS), reply(1, 4, _WORDS[:3]),
                  reply(1, 4, _WORDS + [5]), with_crc("0104064366000000000000"),
                  _GOOD[:-1] + bytes((_GOOD[-1] ^ 1,)),
                  with_crc("028402"), with_crc("018302"), bytes(13), b"\xff" * 64):
        assert find_reply(frame, len(frame), 1, 4, 4) < 0, frame
    for index in range(len(_GOOD)):
        for bit in range(8):
            broken = bytearray(_GOOD)
            broken[index] ^= 1 << bit
            assert find_reply(broken, len(broken), 1, 4, 4) < 0, (index, bit)


def test_a_good_reply_late_within_the_limit():
    for delay_ms in (0, 1, 5, 20, 49):
        found, bus, sent = _outcome([[(delay_ms, _GOOD)]])
        assert found == _DATA, delay_ms
        assert sent == 1 and bus.timeouts == 0


def test_faults_are_overcome_by_the_next_try():
    good = [(3, _GOOD)]
    for name, fault in (
        ("silence", None), ("too late", [(120, _GOOD)]), ("bad CRC", [(3, _GOOD[:-1] + b"\x00")]),
        ("other unit", [(3, reply(2, 4, [9, 9, 9, 9]))]),
        ("other function", [(3, reply(1, 3, [9] * 4))]),
        ("short", [(3, reply(1, 4, [9, 9, 9]))]), ("long", [(3, reply(1, 4, [9] * 5))]),
        ("exception 4", [(3, with_crc("018404"))]), ("exception 5", [(3, with_crc("018405"))]),
        ("exception 6", [(3, with_crc("018406"))]), ("exception 11", [(3, with_crc("01840b"))]),
        ("exception of another", [(3, with_crc("028402"))]), ("noise", [(0, b"\x55" * 40)]),
        ("noise inside", [(3, _GOOD[:6] + b"\x00" + _GOOD[6:])]),
        ("a gap lost", [(3, _GOOD[:6] + _GOOD[7:])]),
    ):
        found, bus, sent = _outcome([fault, good])
        assert found == _DATA, (name, found)
        assert sent == 2, name
        assert bus.timeouts + bus.damaged + bus.exceptions == 1, name


def test_truncation_at_each_byte():
    for length in range(len(_GOOD)):
        found, bus, sent = _outcome([[(3, _GOOD[:length])], [(3, _GOOD)]])
        assert found == _DATA and sent == 2, length
        assert (bus.timeouts, bus.damaged) == ((0, 1) if length else (1, 0))


def test_noise_around_a_good_reply_costs_no_try():
    for before, after in ((b"\x00", b""), (b"\xff\x00\x01", b""), (b"", b"\x00\x00"),
                          (_GOOD[:5], b"\xff"), (b"\x01\x04\x00\x00", b"")):
        found, _, sent = _outcome([[(1, before + _GOOD + after)]])
        assert found == _DATA and sent == 1, before


def test_a_transceiver_that_echoes():
    def answer(request):
        return [(-9, request), (20, _GOOD)]
    _, uart, bus = _bus(answer)
    assert asyncio.run(_read(bus)) == _DATA
    assert len(uart.requests) == 1
    found, bus, sent = _outcome([[(-9, with_crc("010400000004"))]] * 3)  # echo, no meter
    assert found.letter == "F" and sent == 3


def test_after_three_tries_a_status_and_no_value():
    for answer, letter in ((None, "T"), ([(3, _GOOD[:-1])], "F"),
                           ([(3, with_crc("018406"))], "F")):
        found, _, sent = _outcome([answer] * 9)
        assert isinstance(found, ModbusError) and found.letter == letter
        assert sent == 3


def test_exceptions_that_are_final():
    for code in (1, 2, 3):
        found, bus, sent = _outcome([[(3, with_crc("01840%d" % code))], [(3, _GOOD)]])
        assert found.code == code and sent == 1 and bus.exceptions == 1
    assert str(found) == "exception 3 from unit 1"


def test_the_poll_never_lasts_longer_than_its_deadlines():
    for answer in (None, [(0, b"\x55" * 250)], [(3, _GOOD[:-1])], [(0, b"\x01\x04" * 300)]):
        time, _, bus = _bus(lambda request, answer=answer: answer, gap_ms=60)
        try:
            asyncio.run(_read(bus))
            raise AssertionError("a value was invented")
        except ModbusError:
            pass
        # three times: silence (four of them on a line that is never silent), deadline
        silences = 4 if answer and len(answer[0][1]) > 100 else 1
        most_ms = 3 * (silences * 62 + (8 + 13) * _CHAR_US // 1000 + 50 + 4)
        assert time.mono_ms() <= most_ms, (answer, time.mono_ms(), most_ms)


def test_a_late_reply_never_passes_for_another_request():
    # The reply to the first address comes once the second one (same length) is being asked for.
    for delay_ms in range(40, 100):
        silent = [True]  # the second one's own first reply never comes

        def answer(request, delay_ms=delay_ms, silent=silent):
            if request[3] == 0:
                return [(delay_ms, _OTHER)]
            return None if silent and silent.pop() else [(30, _GOOD)]
        _, _, bus = _bus(answer)

        async def scenario(bus=bus):
            try:
                await _read(bus, 4, 0)
            except ModbusError:
                pass
            return await _read(bus, 4, 8)
        found = asyncio.run(scenario())
        assert found == _DATA, delay_ms


def test_the_silence_before_a_request():
    for gap_ms, least_us in ((0, 3646), (60, 60000)):
        _, uart, bus = _bus(lambda request: [(10, _GOOD)], gap_ms=gap_ms)

        async def scenario(bus=bus, uart=uart, least_us=least_us):
            for _ in range(5):
                heard_us = uart.heard_until_us
                await _read(bus)
                silence_us = uart.requests[-1][0] - heard_us
                assert not heard_us or silence_us >= least_us, silence_us
                assert silence_us <= least_us + 8000 or not heard_us, silence_us
        asyncio.run(scenario())


def test_bytes_that_came_unasked_are_thrown_away():
    time, uart, bus = _bus(lambda request: [(10, _GOOD)])

    async def scenario():
        uart.deliver(time.now_us, _OTHER)
        await time.sleep_ms(50)
        return await _read(bus)
    assert asyncio.run(scenario()) == _DATA


def test_an_overflown_buffer_does_not_spoil_the_next_reply():
    time, uart, bus = _bus(lambda request: [(10, _GOOD)])
    uart.deliver(time.now_us, b"\x01\x04\x08" * 150)
    time.pass_ms(600)
    assert uart.any() == 256
    assert asyncio.run(_read(bus)) == _DATA
    assert len(uart.requests) == 1


def test_a_reply_behind_more_noise_than_there_is_room_for():
    _, uart, bus = _bus(lambda request: [(0, b"\x55" * 320 + _GOOD)])

    async def scenario():
        return bytes((await bus.read(1, 4, 0, 4, 600))[:8])
    assert asyncio.run(scenario()) == _DATA and len(uart.requests) == 1


def test_direction_pin_is_high_for_the_frame_and_no_longer():
    seen = []

    def de(level):
        seen.append((level, time.now_us))
    time, uart, bus = _bus(lambda request: [(4, _GOOD)], de)
    assert asyncio.run(_read(bus)) == _DATA
    start_us = uart.requests[0][0]
    assert seen == [(1, start_us), (0, start_us + 8 * _CHAR_US)]


def test_a_dead_uart_is_said_and_the_pin_goes_low():
    seen = []
    _, uart, bus = _bus(None, seen.append)
    uart.fail = OSError(19)
    for _ in range(2):
        try:
            asyncio.run(_read(bus))
            raise AssertionError("nothing was raised")
        except ModbusError as error:
            assert error.letter == "D"
    assert not bus.quiet.taken
    assert 1 not in seen or seen[-1] == 0


def test_the_bus_is_quiet_for_whom_asks():
    time, uart, bus = _bus(lambda request: [(10, _GOOD)], gap_ms=20)
    inside = []

    async def writer():
        for _ in range(5):
            async with bus.quiet:
                busy_us = uart.heard_until_us
                assert time.now_us >= busy_us, "a reply is on its way"
                requests = len(uart.requests)
                time.pass_ms(400)  # a flash erase
                assert len(uart.requests) == requests
                inside.append(requests)
            await time.sleep_ms(30)

    async def scenario():
        task = asyncio.create_task(writer())
        for _ in range(20):
            assert await _read(bus) == _DATA
        await task
    asyncio.run(scenario())
    assert len(inside) == 5 and inside[0] < inside[-1], inside


def test_two_users_of_one_bus_get_their_own_replies():
    def answer(request):
        return [(10, reply(request[0], 4, [request[3]] * request[5]))]
    _, uart, bus = _bus(answer)

    async def user(unit, address):
        for _ in range(10):
            data = bytes((await bus.read(unit, 4, address, 2, 50))[:4])
            assert data == bytes((0, address)) * 2

    async def scenario():
        task = asyncio.create_task(user(1, 7))
        await user(2, 9)
        await task
    asyncio.run(scenario())
    assert len(uart.requests) == 20


def test_wire_time_of_the_billing_set():
    for baud, char_us in ((2400, 4167), (9600, 1042), (19200, 521)):
        time = VirtualTime()
        uart = FakeUart(time, char_us, lambda request: [(45, reply(1, 4, [0] * request[5]))])
        bus = ModbusRtu(uart, baud, 10, None, 60, time, time.sleep_ms)

        async def scenario(bus=bus, time=time):
            await bus.read(1, 4, 0, 14)
            start_us = time.now_us
            for _ in range(10):
                await bus.read(1, 4, 70, 6)
                await bus.read(1, 4, 0, 14)
            return (time.now_us - start_us) // 10
        took_us = asyncio.run(scenario())
        least_us = (8 + 17 + 8 + 33) * char_us + 2 * 45000 + 2 * 60000
        assert least_us <= took_us <= least_us * 110 // 100, (baud, took_us, least_us)
