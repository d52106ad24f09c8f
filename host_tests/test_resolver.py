import asyncio
import errno

from evmeter.metering.turn import Turn
from evmeter.uplink import resolver as resolver_module
from evmeter.uplink.link import LinkError
from evmeter.uplink.resolver import ResolveError, Resolver, answer, is_address, query, question
from fakes.virtual_time import VirtualTime
from support import raises

_ASKED = query(b"\x12\x34", question("broker.example"))
_POINTER = b"\xc0\x0c"  # to the question's name


def _record(owner, kind, data, group=1):
    return (owner + bytes([0, kind, 0, group, 0, 0, 1, 44, len(data) >> 8, len(data) & 255])
            + data)


def _answer(*records, number=b"\x12\x34", flags=b"\x81\x80", asked=_ASKED, count=None):
    count = len(records) if count is None else count
    return (number + flags + b"\x00\x01" + bytes([0, count]) + b"\x00\x00\x00\x00"
            + asked[12:] + b"".join(records))


_GOOD = _answer(_record(_POINTER, 1, b"\x0a\x00\x00\x07"))


def test_addresses_are_told_from_names():
    for text in ("10.0.0.1", "255.255.255.255", "0.0.0.0", "192.168.001.020"):
        assert is_address(text), text
    for text in ("", "10.0.0", "10.0.0.256", "10.0.0.1.2", "a.b.c.d", "10..0.1", "10.0.0.-1",
                 "10.0.0.0001", "1.2.3.4 ", "broker", "1e1.0.0.1"):
        assert not is_address(text), text


def test_the_query_is_exact():
    assert _ASKED == (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                      b"\x06broker\x07example\x00\x00\x01\x00\x01")
    assert question("Broker.Example.") == question("broker.example")
    for name in ("", ".", "a..b", "a b", "b\u00fccher.example", "x" * 64 + ".example",
                 ".".join(["abcdefg"] * 32), "a.", "-" * 64):
        if name == "a.":
            question(name)
        else:
            assert isinstance(raises(ResolveError, question, name), LinkError), name
    question(".".join(["abcdefg"] * 31))


def test_addresses_come_from_answers_with_aliases_in_any_order():
    other = b"\x04edge\x03net\x00"
    third = b"\x01x\xc0\x13"  # x.example, by a pointer into the question
    for records, addresses in (
        ([_record(_POINTER, 1, b"\x0a\x00\x00\x07")], ["10.0.0.7"]),
        ([_record(_POINTER, 1, b"\x0a\x00\x00\x07"), _record(_POINTER, 1, b"\x0a\x00\x00\x08")],
         ["10.0.0.7", "10.0.0.8"]),
        ([_record(_POINTER, 5, other), _record(other, 1, b"\xc0\xa8\x01\x02")], ["192.168.1.2"]),
        ([_record(other, 1, b"\xc0\xa8\x01\x02"), _record(_POINTER, 5, other)], ["192.168.1.2"]),
        ([_record(_POINTER, 5, other), _record(other, 5, third),
          _record(third, 1, b"\x01\x02\x03\x04")], ["1.2.3.4"]),
        ([_record(b"\x06BROKER\xc0\x13", 1, b"\x01\x02\x03\x04")], ["1.2.3.4"]),
        ([_record(_POINTER, 28, bytes(16)), _record(_POINTER, 1, b"\x01\x02\x03\x04")],
         ["1.2.3.4"]),
        ([_record(_POINTER, 1, bytes([1, 2, 3, n])) for n in range(12)],
         ["1.2.3.%d" % n for n in range(8)]),
    ):
        assert answer(_answer(*records), _ASKED) == addresses


def test_what_is_no_answer_to_this_query_is_passed_over():
    for data in (b"", _GOOD[:12], _GOOD[: len(_ASKED) - 1],
                 b"\x12\x35" + _GOOD[2:],                       # another number
                 _ASKED,                                        # our own query come back
                 _answer(flags=b"\xa9\x80"),                    # not a standard query
                 _GOOD[:5] + b"\x02" + _GOOD[6:],               # two questions
                 _GOOD.replace(b"broker", b"brokes"),
                 _answer(asked=_ASKED[:-3] + b"\x1c\x00\x01")):  # of another type
        assert answer(data, _ASKED) is None, data
    assert answer(_GOOD.replace(b"broker", b"bRoKeR"), _ASKED) == ["10.0.0.7"]


def test_an_answer_without_an_address_says_why():
    other = b"\x04edge\x03net\x00"
    address = _record(other, 1, b"\x01\x02\x03\x04")
    long_name = b"".join([b"\x3f" + b"a" * 63] * 4) + b"\x00"
    cases = [
        (_answer(flags=b"\x81\x83"), "no such name"),
        (_answer(flags=b"\x81\x82"), "server failure"),
        (_answer(flags=b"\x81\x85"), "refused"),
        (_answer(flags=b"\x81\x8f"), "code 15"),
        (_answer(_record(_POINTER, 1, b"\x01\x02\x03\x04"), flags=b"\x83\x80"), "cut short"),
        (_answer(), "no address"),
        (_answer(address), "no address"),                                # of somebody else
        (_answer(_record(_POINTER, 1, b"\x01\x02\x03\x04", 3)), "no address"),  # CHAOS
        (_answer(_record(_POINTER, 1, b"\x01\x02\x03")), "no address"),
        (_answer(_record(_POINTER, 1, b"\x00\x00\x00\x00")), "no address"),
        (_answer(_record(_POINTER, 1, b"\xe0\x00\x00\x01")), "no address"),
        (_answer(_record(_POINTER, 5, other), _record(other, 5, _POINTER)), "no address"),
        (_answer(_record(_POINTER, 5, _POINTER)), "no address"),
        (_answer(_record(b"\xc0\x21", 1, b"\x01\x02\x03\x04")), "circle"),   # to itself
        (_answer(_record(b"\xc0\xff", 1, b"\x01\x02\x03\x04")), "circle"),   # beyond the end
        (_answer(_record(long_name, 1, b"\x01\x02\x03\x04")), "too long"),
        (_answer(_record(b"\x40" + b"a" * 64 + b"\x00", 1, b"\x01\x02\x03\x04")), "label"),
        (_answer(_record(_POINTER, 5, other + b"\x00")), "another length"),
        (_answer(_record(_POINTER, 1, b"\x01\x02\x03\x04"), count=2), "beyond"),
    ]
    for data, word in cases:
        assert word in str(raises(ResolveError, answer, data, _ASKED)), word
    for cut in range(len(_ASKED), len(_GOOD)):
        assert "malformed" in str(raises(ResolveError, answer, _GOOD[:cut], _ASKED)), cut


def test_no_change_of_a_byte_does_more_than_refuse_or_change_the_address():
    other = b"\x04edge\x03net\x00"
    whole = _answer(_record(_POINTER, 5, other), _record(b"\xc0\x2c", 1, b"\x0a\x00\x00\x07"))
    assert answer(whole, _ASKED) == ["10.0.0.7"]
    found = 0
    for at in range(len(whole)):
        for value in (0, 1, 2, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF, whole[at] ^ 1):
            data = whole[:at] + bytes([value]) + whole[at + 1 :]
            try:
                found += answer(data, _ASKED) is not None
            except ResolveError:
                continue
    assert 100 < found < 10 * len(whole)


class _Udp:
    """One UDP socket; `servers` maps an address to what it answers: bytes are given with the
    query's number, None is silence, an int is an errno."""

    def __init__(self, net):
        self._net = net
        self._waiting = []
        self.peer = None
        net.open += 1

    def setblocking(self, flag):
        if flag:
            raise AssertionError("setblocking(True) waits for ever on an ESP32")

    def bind(self, address):
        self._net.ports.append(address[1])
        if self._net.taken:
            raise OSError(errno.EADDRINUSE)

    def connect(self, address):
        if address[1] != 53:
            raise AssertionError("not the name server's port")
        self.peer = address[0]
        self._net.asked.append(self.peer)

    def send(self, data):
        self._net.queries.append(bytes(data))
        for reply in self._net.servers.get(self.peer, ()):
            self._waiting.append(bytes(data[:2]) + reply[2:] if isinstance(reply, bytes)
                                 else reply)
        return len(data)

    def readinto(self, buffer):
        if not self._waiting:
            return None
        reply = self._waiting.pop(0)
        if isinstance(reply, int):
            raise OSError(reply)
        reply = reply[: len(buffer)]
        buffer[: len(reply)] = reply
        return len(reply)

    def close(self):
        self._net.open -= 1


class _Net:
    AF_INET = 2
    SOCK_DGRAM = 2

    def __init__(self, servers):
        self.servers = servers
        self.taken = False
        self.asked = []
        self.queries = []
        self.ports = []
        self.open = 0

    def socket(self, family, kind):
        return _Udp(self)

    def getaddrinfo(self, host, port, family, kind):
        if not is_address(host):
            raise AssertionError("getaddrinfo waits for ever for a name")
        return [(2, 2, 0, "", (host, port))]


class _Nvs:
    def __init__(self):
        self.blobs = {}
        self.commits = 0

    def get_blob(self, key, buffer):
        if key not in self.blobs:
            raise OSError(-4354)
        buffer[: len(self.blobs[key])] = self.blobs[key]
        return len(self.blobs[key])

    def set_blob(self, key, data):
        self.blobs[key] = bytes(data)

    def commit(self):
        self.commits += 1


def _play(net, names, servers=("10.0.0.53", "10.0.0.54"), nvs=None, after=None, clock=None):
    """What each of `names` resolves to, or the error's text; and the time it took in ms.
    `after` is called after the first."""
    kept = resolver_module.time, resolver_module.asyncio
    clock = clock or VirtualTime()
    resolver_module.time = resolver_module.asyncio = clock
    number = [0]

    def urandom(count):
        number[0] += 1
        return bytes([number[0] * 7 & 255] * count)

    results = []
    try:
        resolver = Resolver(lambda: servers, nvs, Turn(), net, urandom)
        for name in names:
            begun = clock.mono_ms()
            try:
                text = asyncio.run(resolver(name))
            except ResolveError as error:
                text = str(error)
            results.append((text, clock.mono_ms() - begun))
            if after:
                after()
                after = None
    finally:
        resolver_module.time, resolver_module.asyncio = kept
    assert net.open == 0
    return results


def test_addresses_pass_through_and_ask_nobody():
    net = _Net({})
    assert _play(net, ["10.1.2.3", "localhost"]) == [("10.1.2.3", 0), ("127.0.0.1", 0)]
    assert net.asked == []


def test_the_second_server_is_asked_when_the_first_is_silent_or_fails():
    for first in ((), (_answer(flags=b"\x81\x82"),), (errno.ECONNREFUSED,), (b"\x00\x00",),
                  (_answer(flags=b"\x81\x83"),)):
        net = _Net({"10.0.0.53": first, "10.0.0.54": (_GOOD,)})
        (text, took_ms), = _play(net, ["broker.example"])
        assert text == "10.0.0.7" and took_ms < 1100, first
        assert net.asked == ["10.0.0.53", "10.0.0.54"]


def test_nobody_answers_within_6_s_and_the_reason_is_said():
    for servers, replies, word in (
        (("10.0.0.53", "10.0.0.54"), {}, "name server 10.0.0.54 does not answer"),
        (("10.0.0.53",), {}, "does not answer"),
        ((), {}, "no name server is known"),
        (("0.0.0.0", ""), {}, "no name server is known"),
        (("a.name",), {}, "no name server's address"),
        (("10.0.0.53",), {"10.0.0.53": (errno.ECONNREFUSED,)}, "error %d" % errno.ECONNREFUSED),
        (("10.0.0.53",), {"10.0.0.53": (_answer(flags=b"\x81\x83"),)}, "no such name"),
    ):
        (text, took_ms), = _play(_Net(replies), ["broker.example"], servers)
        assert text.startswith("broker.example: ") and word in text, text
        assert took_ms <= 6200


def test_the_last_address_is_used_when_nobody_answers():
    net = _Net({"10.0.0.53": (_GOOD,)})
    results = _play(net, ["broker.example", "broker.example", "other.example"],
                    after=net.servers.clear)
    assert [text for text, _ in results[:2]] == ["10.0.0.7"] * 2
    assert "does not answer" in results[2][0]


def test_each_of_several_names_has_its_last_address():
    other = _answer(_record(_POINTER, 1, b"\x0a\x00\x00\x08"),
                    asked=query(b"\x12\x34", question("other.example")))
    net = _Net({"10.0.0.53": (_GOOD, other)})

    def names():
        yield from ("broker.example", "other.example")
        net.servers.clear()
        yield from ("broker.example", "other.example", "third.example")

    texts = [text for text, _ in _play(net, names())]
    assert texts[:4] == ["10.0.0.7", "10.0.0.8"] * 2 and "does not answer" in texts[4]


def test_the_last_address_survives_a_reboot_and_is_written_when_it_changes_only():
    nvs = _Nvs()
    _play(_Net({"10.0.0.53": (_GOOD,)}), ["broker.example"] * 5, nvs=nvs)
    assert nvs.commits == 1
    (text, _), (other, _) = _play(_Net({}), ["broker.example", "other.example"], nvs=nvs)
    assert text == "10.0.0.7" and "does not answer" in other
    for damaged in (b"", b"10.0.0.7", b"\xff\xfe broker.example", b"nonsense broker.example",
                    b"10.0.0.7 broker.exampl"):
        nvs.blobs["dns"] = damaged
        assert "does not answer" in _play(_Net({}), ["broker.example"], nvs=nvs)[0][0], damaged


def test_forged_answers_before_the_true_one_are_passed_over():
    other = _answer(_record(_POINTER, 1, b"\x06\x06\x06\x06"),
                    asked=_ASKED[:-3] + b"\x10\x00\x01")
    forged = (other, b"\x00" * 600, _GOOD[:20], _GOOD)
    assert _play(_Net({"10.0.0.53": forged}), ["broker.example"])[0][0] == "10.0.0.7"


class _Turns(VirtualTime):
    """Counts how often the others had their turn."""

    count = 0

    async def sleep_ms(self, ms):
        self.count += 1
        await super().sleep_ms(ms)


def test_a_flood_of_forged_answers_leaves_the_others_their_turn():
    clock = _Turns()
    net = _Net({"10.0.0.53": (b"\x00" * 30,) * 200 + (_GOOD,)})
    assert _play(net, ["broker.example"], clock=clock) == [("10.0.0.7", 0)]
    assert clock.count >= 200


def test_each_query_has_its_own_number_and_port():
    net = _Net({})
    net.taken = True  # then the stack's own port will do
    _play(net, ["broker.example"])
    assert len({query[:2] for query in net.queries}) == len(net.queries) == 4
    assert len(set(net.ports)) == 4 and all(49152 <= port < 65536 for port in net.ports)


def test_several_addresses_are_tried_in_turn():
    both = _answer(_record(_POINTER, 1, b"\x0a\x00\x00\x07"),
                   _record(_POINTER, 1, b"\x0a\x00\x00\x08"))
    nvs = _Nvs()
    texts = [text for text, _ in _play(_Net({"10.0.0.53": (both,)}), ["broker.example"] * 4,
                                       nvs=nvs)]
    assert texts == ["10.0.0.7", "10.0.0.8"] * 2
    assert nvs.commits == 1
