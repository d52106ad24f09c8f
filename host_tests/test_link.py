import asyncio

from evmeter.uplink import link as link_module
from evmeter.uplink.link import Link, LinkError
from fakes.net import FakePoller, FakeSockets, RefusedPoller, SilentPoller
from fakes.virtual_time import VirtualTime
from support import raises


class _Peer:
    """The other end: keeps what comes."""

    def __init__(self):
        self.socket = None
        self.got = bytearray()

    def connected(self, sock):
        self.socket = sock

    def received(self, sock, data):
        self.got.extend(data)


def _link(poll=FakePoller, prepare=None, **parts):
    peer = _Peer()
    sockets = FakeSockets(peer, prepare)
    return Link(sockets=sockets, poll=poll, **parts), peer, sockets


def _open(poll=FakePoller, prepare=None, **parts):
    link, peer, _ = _link(poll, prepare, **parts)
    asyncio.run(link.connect("10.0.0.1", 1883, 1000))
    return link, peer


def _fails(link, host="10.0.0.1", timeout_ms=0):
    try:
        asyncio.run(link.connect(host, 1883, timeout_ms))
    except OSError as error:
        return error
    raise AssertionError("connected")


def test_a_connection_fails_with_its_reason_within_its_time():
    link, peer, sockets = _link(RefusedPoller)
    assert "ECONNREFUSED" in str(_fails(link))
    link, peer, sockets = _link(SilentPoller)
    assert "within 20 ms" in str(_fails(link, timeout_ms=20))
    link, peer, sockets = _link()
    assert "resolves names" in str(_fails(link, "no-such-host"))
    assert sockets.last is None and not sockets.asked


async def _resolve(name):
    if name == "192.168.1.999":
        return "10.0.0.8"
    if name != "broker.example":
        raise OSError(-2)
    await asyncio.sleep_ms(0)
    return "10.0.0.7"


def test_names_are_resolved_and_addresses_are_not():
    for host, asked in (("broker.example", "10.0.0.7"), ("192.168.1.20", "192.168.1.20"),
                        ("192.168.1.999", "10.0.0.8")):  # no address: a name to getaddrinfo
        link, _, sockets = _link(resolve=_resolve)
        asyncio.run(link.connect(host, 1883, 1000))
        assert sockets.asked == [asked]
    link, _, sockets = _link(resolve=_resolve)
    assert _fails(link, "other.example").args[0] == -2


def _drain(link):
    for _ in range(10000):
        if link.flush():
            return
    raise AssertionError("never sent")


def test_what_is_queued_arrives_whole_in_whatever_pieces_the_socket_takes():
    for piece in (1, 2, 3, 7, 100, 5000):
        link, peer = _open()
        peer.socket.most_at_once = piece
        for part in (b"a" * 10, b"b" * 300, b""):
            link.queue(part)
        link.queue(b"cdefgh", 3)
        assert link.queued == 313
        _drain(link)
        assert bytes(peer.got) == b"a" * 10 + b"b" * 300 + b"cde"
        assert link.queued == 0


def test_several_parts_leave_in_one_write():
    link, peer = _open()
    peer.socket.most_at_once = 5000
    for part in (b"\x32\x05", b"\x00\x01", b"t", b"\x00\x09", b"x"):
        link.queue(part)
    assert link.flush()
    assert peer.socket.offers == [8]


def test_a_payload_in_place_may_be_queued_where_it_lies_or_one_byte_lower():
    for ahead in (9, 8):
        link, peer = _open()
        area = link.tail(9)
        area[:26] = b"abcdefghijklmnopqrstuvwxyz"
        link.queue(b"-" * ahead)
        link.queue(area[:26])
        _drain(link)
        assert bytes(peer.got) == b"-" * ahead + b"abcdefghijklmnopqrstuvwxyz"


def test_a_peer_that_takes_nothing_is_given_up_after_5_s():
    kept = link_module.time
    try:
        for raises_again in (False, True):
            link_module.time = clock = VirtualTime()
            link, peer = _open()
            peer.socket.raises_again = raises_again
            link.queue(b"0123456789")
            _drain(link)
            peer.socket.stuck = True
            link.queue(b"more")
            for _ in range(10):
                clock.pass_ms(490)
                assert not link.flush()
            clock.pass_ms(200)
            assert "takes no data" in str(raises(LinkError, link.flush))
            link.close()
            link.flush()
    finally:
        link_module.time = kept


def test_an_offer_not_taken_is_repeated_with_the_same_length_as_tls_wants_it():
    link, peer = _open()
    peer.socket.most_at_once = 5000
    peer.socket.stuck = True
    link.queue(b"0123456789")
    assert not link.flush()
    link.queue(b"more")
    assert not link.flush()
    peer.socket.stuck = False
    _drain(link)
    assert peer.socket.offers == [10, 10, 10, 4]
    assert bytes(peer.got) == b"0123456789more"


def test_a_connection_that_breaks_at_any_byte_is_an_error_and_the_next_one_is_clean():
    data = b"0123456789" * 3
    for cut in range(len(data)):
        link, peer = _open()
        peer.socket.dies_after = cut
        link.queue(data)
        try:
            _drain(link)
        except OSError as error:
            assert "connection lost (" in str(error)
        else:
            raise AssertionError("no error at %d" % cut)
        assert bytes(peer.got) == data[:cut]
        asyncio.run(link.connect("10.0.0.1", 1883, 1000))
        peer.got = bytearray()
        link.queue(b"fresh")
        _drain(link)
        assert bytes(peer.got) == b"fresh"


def test_too_much_to_queue_is_an_error():
    link, peer = _open()
    link.queue(bytes(2688))
    assert "2688" in str(raises(LinkError, link.queue, b"x"))


def _packets(link, rounds):
    """What comes in `rounds` looks, as bytes."""
    found = []
    for _ in range(rounds):
        packet = link.poll()
        if packet is not None:
            found.append(bytes(packet))
            link.consume(len(packet))
    return found


_STREAM = (b"\x40\x02\x12\x34", b"\xd0\x00", b"\x30\x85\x01" + b"x" * 133, b"\x20\x02\x00\x00",
           b"\x32\x03abc")


def test_packets_are_assembled_from_any_pieces():
    whole = b"".join(_STREAM)
    for piece in range(1, len(whole) + 1):
        link, peer = _open()
        peer.socket.most_at_once = piece
        peer.socket.raises_again = bool(piece % 2)
        peer.socket.incoming.extend(whole)
        assert _packets(link, 200) == list(_STREAM), piece


def test_packets_are_assembled_from_any_two_parts_with_a_pause_between():
    whole = b"".join(_STREAM)
    for cut in range(len(whole)):
        link, peer = _open()
        peer.socket.most_at_once = 5000
        peer.socket.incoming.extend(whole[:cut])
        found = _packets(link, 10)
        peer.socket.incoming.extend(whole[cut:])
        assert found + _packets(link, 10) == list(_STREAM), cut


def test_the_end_of_the_stream_never_gives_a_short_packet():
    whole = _STREAM[2]
    for cut in range(len(whole)):
        link, peer = _open()
        peer.socket.most_at_once = 5000
        peer.socket.incoming.extend(whole[:cut])
        peer.socket.eof = True
        if cut:
            assert _packets(link, 1) == []
        assert "closed" in str(raises(LinkError, link.poll))


def test_half_a_packet_is_waited_for_10_s_and_no_longer():
    kept = link_module.time
    try:
        link_module.time = clock = VirtualTime()
        link, peer = _open()
        peer.socket.incoming.extend(_STREAM[1] + _STREAM[2][:5])
        assert _packets(link, 3) == [_STREAM[1]]
        for part in (_STREAM[2][5:], _STREAM[2]):
            for _ in range(9):
                clock.pass_ms(1000)
                assert link.poll() is None
            peer.socket.incoming.extend(part)
            assert _packets(link, 30) == [_STREAM[2]]
            clock.pass_ms(60000)
            assert link.poll() is None  # there is nothing to wait for
        peer.socket.incoming.extend(_STREAM[2][:4])
        for _ in range(10):
            assert link.poll() is None
            clock.pass_ms(1000)
            peer.socket.incoming.extend(b"x")  # one byte a second does not help
            link.poll()
        clock.pass_ms(10)
        assert "half a packet" in str(raises(LinkError, link.poll))
    finally:
        link_module.time = kept


def test_lengths_are_limited():
    for head, word in ((b"\x30\x80\x20", None), (b"\x20\x81\x20", "4097 bytes; allowed: 4096"),
                       (b"\x30\xff\xff\xff\x7f", "allowed"), (b"\x90\xff\x7f", "allowed"),
                       (b"\x30\x81\x80\x40", "1048577 bytes; allowed: 4096"),
                       (b"\x30\x80\x80\x80\x80", "length"),
                       (b"\x30\x80\x80\x80\x00", None)):
        link, peer = _open()
        peer.socket.most_at_once = 5000
        peer.socket.incoming.extend(head + bytes(4096))
        if word:
            assert word in str(raises(LinkError, link.poll)), head
        else:
            packet = link.poll() or link.poll()  # of the large one 512 bytes come first
            assert packet is not None, head


def test_a_large_packet_has_its_own_buffer_while_it_is_here():
    large = b"\x30\x80\x20" + bytes(range(256)) * 16
    link, peer = _open()
    usual = link._in
    peer.socket.most_at_once = 5000
    peer.socket.incoming.extend(_STREAM[1] + large + _STREAM[2])
    assert _packets(link, 9) == [_STREAM[1], large, _STREAM[2]]
    assert link._in is usual and len(usual) <= 512
    peer.socket.incoming.extend(large[:2000])
    for _ in range(4):
        assert link.poll() is None
    assert len(link._in) == len(large)
    link.close()
    assert link._in is usual


def test_a_message_for_which_there_is_no_memory_is_passed_over_too():
    def full(size):
        raise MemoryError("memory allocation failed")

    for head, word in ((b"\x30\x80\x20", None), (b"\x90\x80\x20", "4096 bytes; allowed")):
        link, peer = _open()
        peer.socket.most_at_once = 5000
        peer.socket.incoming.extend(head + bytes(509))
        link_module.bytearray = full
        try:
            if word:
                assert word in str(raises(LinkError, link.poll))
            else:
                assert (len(link.poll()), link.over) == (512, 4099 - 512)
        finally:
            del link_module.bytearray
        link.close()


def test_a_message_that_is_too_large_is_passed_over_in_whatever_pieces_it_comes():
    for length in (4097, 4098, 4101, 5000):
        for piece in (100, 4096, 5000):
            link, peer = _open()
            peer.socket.most_at_once = piece
            large = b"\x32" + bytes([length & 0x7F | 0x80, length >> 7]) + b"x" * length
            peer.socket.incoming.extend(_STREAM[0] + large)
            large = None
            peer.socket.incoming.extend(_STREAM[1])
            found = []
            for _ in range(5200 // min(piece, 512) + 9):
                packet = link.poll()
                if packet is not None:
                    over = link.over
                    found.append(bytes(packet) if not over else (len(packet), over))
                    link.consume(len(packet) + over)
            assert found == [_STREAM[0], (512, 3 + length - 512), _STREAM[1]], (length, piece)


def test_the_rest_of_a_large_message_is_waited_for_as_long_as_it_comes():
    kept = link_module.time
    try:
        link_module.time = clock = VirtualTime()
        link, peer = _open()
        peer.socket.most_at_once = 5000
        peer.socket.incoming.extend(b"\x30\x80\x80\x02" + bytes(508))
        packet = link.poll()
        assert (len(packet), link.over) == (512, 32260)
        link.consume(len(packet) + link.over)
        for _ in range(20):
            clock.pass_ms(9000)
            peer.socket.incoming.extend(bytes(500))
            assert link.poll() is None
        clock.pass_ms(10001)
        assert "half a packet" in str(raises(LinkError, link.poll))
    finally:
        link_module.time = kept


def test_a_close_that_fails_is_no_error_and_forgets_the_rest():
    link, peer = _open()
    link.queue(b"x")
    peer.socket.incoming.extend(b"\x40")
    link.poll()

    def close():
        raise OSError(5)

    peer.socket.close = close
    link.close()
    link.close()
    asyncio.run(link.connect("10.0.0.1", 1883, 1000))
    peer.socket.incoming.extend(b"\xd0\x00")
    assert bytes(link.poll()) == b"\xd0\x00"
    assert link.flush() and not peer.got
