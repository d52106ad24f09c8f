import asyncio

from evmeter.uplink import publisher as publisher_module
from fakes.uplink_bench import ROOT, UplinkBench


def test_commands_and_configuration_go_to_their_handlers_where_there_are_any():
    bench = UplinkBench(0)
    got = []
    uplink = bench.uplink

    def command(payload):
        got.append(payload)
        uplink.answer(b"cmd/res", "{}")
        if payload == b"bad":
            raise ValueError("no")

    uplink.on_command = command
    uplink.on_config = got.append
    for number in range(9):
        uplink.answer(b"cmd/res", "%d" % number)  # before there is a connection
    bench.play(lambda: bench.broker.say(ROOT + b"cmd", b"one"),
               lambda: bench.broker.say(ROOT + b"cmd", b"bad"),
               lambda: bench.broker.say(ROOT + b"cfg/set", b"two"))
    assert bench.broker.subscribed == [ROOT + b"ack", ROOT + b"cmd", ROOT + b"cfg/set",
                                       b"evmeter/v1/_host/state"]
    assert got == [b"one", b"bad", b"two"]
    answers = [payload for payload, _, _ in bench.broker.sent(b"cmd/res")]
    assert answers == [b"%d" % number for number in range(1, 9)] + [b"{}", b"{}"]


def test_a_text_goes_out_in_parts_whole_and_as_long_as_it_may_be():
    bench = UplinkBench(0)
    uplink = bench.uplink
    umlauts = "\u00e4" * 127 + "\u20ac" * 200
    for text in (lambda: iter(("a" * 128, "", "b" * 129, umlauts)), "c" * 2560, "d" * 2561,
                 lambda: iter(("e" * 2500, "f" * 61)), "\u00e4" * 1281, "", "g"):
        uplink.answer(b"cfg", text, True)
    bench.play(lambda: None)
    sent = [payload for payload, _, _ in bench.broker.sent(b"cfg")]
    # what is too long is left out, and nothing waits behind it
    assert sent == [("a" * 128 + "b" * 129 + umlauts).encode(), b"c" * 2560, b"", b"g"]


class _Sleeper:
    """asyncio and os for the publisher: pauses are noted and take no time."""

    def __init__(self, clock, chance, limit):
        self.pauses = []
        self._clock = clock
        self._chance = chance
        self._limit = limit

    def urandom(self, count):
        return bytes([self._chance] * count)

    async def sleep_ms(self, ms):
        self.pauses.append(ms)
        self._clock.advance(ms)
        if len(self.pauses) >= self._limit:
            raise KeyError("enough")


def _pauses(chance, connected_ms=0):
    bench = UplinkBench(0)

    class Refusing:
        async def connect(self):
            bench.clock.advance(connected_ms)
            raise OSError(111)

        def close(self):
            return None

    bench.uplink._session = Refusing()
    sleeper = _Sleeper(bench.clock, chance, 12)
    kept = publisher_module.asyncio, publisher_module.os
    publisher_module.asyncio = publisher_module.os = sleeper
    try:
        asyncio.run(bench.uplink.run())
    except KeyError:
        assert bench.uplink.reconnects == 12
    finally:
        publisher_module.asyncio, publisher_module.os = kept
    return sleeper.pauses


def test_pauses_double_from_1_s_to_300_s_half_of_them_by_chance():
    longest = [min(1000 * 2**n, 300000) for n in range(12)]
    assert _pauses(255) == longest
    assert _pauses(0) == [ms // 2 for ms in longest]
    assert _pauses(255, 61000) == [1000] * 12


def test_a_flood_of_refused_messages_is_counted_and_told_once_a_minute():
    bench = UplinkBench(0)
    told = []
    kept = publisher_module.log.warning
    publisher_module.log.warning = lambda text, *args: told.append(text % args)
    try:
        bench.play(*[lambda: bench.broker.ack(99)] * 30, lambda: bench.clock.advance(60000),
                   lambda: bench.broker.say(ROOT + b"ack", b"{"))
    finally:
        publisher_module.log.warning = kept
    assert bench.uplink.acks_refused == 31
    told = [text for text in told if "refused from" in text]
    assert len(told) == 2 and "number 99 was never published" in told[0], told


def test_deeply_nested_and_odd_messages_are_refused():
    bench = UplinkBench(1)
    odd = [b"[" * 3000, b"{" * 3000, b"", b"\x00", b"nul", b'{"k":"a1b2c3d4","cum":1e3}',
           b'{"k":"a1b2c3d4","cum":[1]}', b'{"k":"a1b2c3d4","sel":{"seq":1},"cum":0}']
    bench.play(lambda: bench.broker.host(True),
               *[lambda text=text: bench.broker.say(ROOT + b"ack", text) for text in odd])
    assert bench.uplink.acks_refused == len(odd)
    assert bench.journal.confirmed == [] and bench.broker.connections == 1
    for state in (b"online", b"[]", b'{"online": 1}', b'{"online": "true"}'):
        bench = None
        bench = UplinkBench(1)
        bench.play(lambda: bench.broker.say(b"evmeter/v1/_host/state", state))
        assert not bench.durable(), state
