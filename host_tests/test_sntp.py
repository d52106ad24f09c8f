from evmeter.system.clock import Clock
from evmeter.system.sntp import Kiss, SntpClient, SntpError, answer, question
from evmeter.uplink.resolver import ResolveError
from fakes.time_server import FakeTime, Net, reply, run, server
from support import raises

NONCE = b"\x01\x02\x03\x04\x05\x06\x07\x08"
FLOOR = 1_795_478_400_000
NOW = 1_800_000_000_000
DAY = 86400000

FORGED = (  # what is wrong, how the answer differs, what the refusal says
    ("another question's origin", {"origin": b"\x01\x02\x03\x04\x05\x06\x07\x09"}, "another"),
    ("origin zero", {"origin": bytes(8)}, "another"),
    ("a client's packet", {"mode": 3}, "mode 3"),
    ("broadcast", {"mode": 5}, "mode 5"),
    ("mode 0", {"mode": 0}, "mode 0"),
    ("version 0", {"version": 0}, "version 0"),
    ("version 7", {"version": 7}, "version 7"),
    ("stratum 0 without a code", {"stratum": 0, "reference": bytes(4)}, "stratum 0"),
    ("stratum 16", {"stratum": 16}, "stratum 16"),
    ("stratum 255", {"stratum": 255}, "stratum 255"),
    ("not synchronised", {"leap": 3}, "not synchronised"),
    ("transmit zero", {"sent_ms": None}, "zero"),
    ("receive zero", {"received_ms": None}, "zero"),
    ("root delay of an hour", {"delay_ms": 3600000}, "ms wrong"),
    ("root delay negative", {"delay_ms": 65535000}, "ms wrong"),
    ("root dispersion of 16 s", {"dispersion_ms": 16000}, "ms wrong"),
    ("sent before it was received", {"received_ms": NOW + 1}, "held"),
    ("held for longer than it took", {"received_ms": NOW - 60}, "held"),
    ("before the build", {"received_ms": FLOOR - DAY, "sent_ms": FLOOR - DAY}, "before"),
    ("1970", {"received_ms": 1000, "sent_ms": 1000}, "before"),
    ("21 years ahead", {"received_ms": NOW + 7700 * DAY, "sent_ms": NOW + 7700 * DAY}, "20 years"),
)
KISSES = (b"RATE", b"DENY", b"RSTR", b"INIT", b"STEP")


def _answer(packet, trip_ms=40, floor=FLOOR):
    return answer(packet, len(packet), NONCE, trip_ms, floor)


def _refused(packet, trip_ms=40, floor=FLOOR):
    return str(raises(SntpError, _answer, packet, trip_ms, floor))


def _good(**wrong):
    return reply(question(NONCE), NOW, **wrong)


def test_a_question_shows_no_time():
    packet = question(NONCE)
    assert packet[0] == 0x23 and len(packet) == 48
    assert bytes(packet[1:40]) == bytes(39) and bytes(packet[40:]) == NONCE


def test_a_good_answer():
    # half of the round trip, 10 ms of root distance (9.9), 3 for the ticks
    assert _answer(_good()) == (NOW + 20, 32, 40)
    assert _answer(_good(version=3))[0] == NOW + 20
    assert _answer(_good(stratum=15))[0] == NOW + 20
    assert _answer(_good() + b"extension fields and a MAC")[0] == NOW + 20
    # what the server held back is no part of the round trip
    unix_ms, _, wire_ms = _answer(_good(received_ms=NOW - 30))
    assert (unix_ms, wire_ms) == (NOW + 5, 10)


def test_forged_and_damaged_answers_are_refused():
    assert len(FORGED) >= 12
    for name, wrong, why in FORGED:
        text = _refused(_good(**wrong))
        assert why in text, (name, text)


def test_short_answers_and_late_ones_are_refused():
    for length in range(48):
        assert "bytes" in _refused(_good()[:length])
    assert "round trip" in _refused(_good(), 1501)
    assert _answer(_good(), 1500)[2] == 1500


def test_each_flipped_bit_is_refused_or_changes_time_or_uncertainty_only():
    packet = _good()
    for bit in range(8 * 48):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            unix_ms, uncertainty_ms, _ = _answer(damaged)
        except SntpError:
            continue
        byte = bit // 8
        assert not 24 <= byte < 32, bit
        assert abs(unix_ms - NOW) < 100 or byte >= 32, bit
        assert 0 < uncertainty_ms <= 1533 + 1000, bit


def test_kisses_of_death():
    for code in KISSES:
        error = raises(Kiss, _answer, _good(stratum=0, reference=code))
        assert error.code == code.decode()
    # not from the server that was asked
    assert "another" in _refused(_good(stratum=0, reference=b"DENY", origin=bytes(8)))
    assert not isinstance(raises(SntpError, _answer, _good(stratum=0, reference=b"\xff\x00AB")),
                          Kiss)


def test_eras_and_the_year_2038():
    for unix_s in (2085978495, 2085978496, 2147483647, 2147483648, 2**32, 4102444800):
        now_ms = unix_s * 1000 + 250
        packet = reply(question(NONCE), now_ms)
        floor = now_ms - 400 * DAY
        if packet[40:48] != bytes(8):
            assert abs(_answer(packet, 40, floor)[0] - now_ms - 20) <= 1, unix_s
    # the very second of the new era: zero seconds, but not a zero timestamp
    packet = reply(question(NONCE), 2085978496_001)
    assert packet[40:44] == bytes(4)
    assert abs(_answer(packet)[0] - 2085978496_021) <= 1


def test_an_announced_leap_second_adds_to_the_uncertainty():
    plain = _answer(_good())[1]
    for leap in (1, 2):
        assert _answer(_good(leap=leap))[1] == plain + 1000


def _rig(ticks=0):
    time = FakeTime(NOW, ticks)
    net = Net(time)
    clock = Clock(FLOOR, time)
    nonces = [0]

    def random(count):
        nonces[0] += 1
        return bytes([nonces[0]] * count)

    return time, net, clock, SntpClient(clock, None, net, random, time.sleep_ms)


def test_the_client_asks_and_measures():
    time, net, clock, client = _rig(2**30 - 15)  # the ticks wrap while it waits
    for again in (False, True):
        net.raises_again = again
        net.servers["10.0.0.1"] = server(trip_ms=40)
        sample = run(client.ask("10.0.0.1:1123", FLOOR))
        assert sample.address == ("10.0.0.1", 1123)
        assert sample.unix_ms == time.unix_ms and sample.mono_ms == clock.mono_ms()
        assert sample.round_trip_ms == 40 and sample.uncertainty_ms < 40
    assert all(sock.closed for sock in net.sockets)


def test_a_name_is_resolved_with_the_given_resolver():
    time, net, clock, _ = _rig()
    names = []

    async def resolve(name):
        names.append(name)
        return "10.0.0.9"

    client = SntpClient(clock, resolve, net, lambda count: NONCE, time.sleep_ms)
    net.servers["10.0.0.9"] = server()
    for name, port in (("time.example", 123), ("10.0.0.999:124", 124), ("10.0.1", 123)):
        assert run(client.ask(name, FLOOR)).address == ("10.0.0.9", port)
    assert names == ["time.example", "10.0.0.999", "10.0.1"]
    assert run(client.ask("10.0.0.9", FLOOR)) and len(names) == 3


def test_getaddrinfo_never_gets_a_name():
    time, net, clock, client = _rig()

    def getaddrinfo(*_):
        raise AssertionError("a name for getaddrinfo")

    net.getaddrinfo = getaddrinfo
    for name in ("time.example", "localhost:1123", "1.2.3", "10.0.0.999"):
        assert "resolves names" in str(raises(SntpError, run, client.ask(name, FLOOR))), name


def test_a_name_that_has_no_address_is_an_error_like_any_other():
    time, net, clock, _ = _rig()

    async def resolve(name):
        raise ResolveError(name + ": no such name")

    client = SntpClient(clock, resolve, net, lambda count: NONCE, time.sleep_ms)
    assert "no such name" in str(raises(OSError, run, client.ask("time.example", FLOOR)))
    assert net.sockets == []


def test_a_false_answer_does_not_end_the_wait_for_the_right_one():
    time, net, clock, client = _rig()

    def answers(asked, unix_ms):
        wrong = [reply(asked, unix_ms + DAY, origin=bytes(8)), b"", b"x", bytes(48),
                 reply(asked, unix_ms + DAY, mode=1)]
        return [(10, packet) for packet in wrong] + [(60, reply(asked, unix_ms + 30))]

    net.servers["10.0.0.1"] = answers
    assert run(client.ask("10.0.0.1", FLOOR)).unix_ms == time.unix_ms
    assert client.refused == 5


def test_an_old_answer_again_is_refused():
    time, net, clock, client = _rig()
    heard = []

    def answers(asked, unix_ms):
        heard.append(reply(asked, unix_ms + 10))
        return [(20, heard[0])]

    net.servers["10.0.0.1"] = answers
    run(client.ask("10.0.0.1", FLOOR))
    time.pass_ms(DAY)
    assert "another question" in str(raises(SntpError, run, client.ask("10.0.0.1", FLOOR)))


def test_silence_a_refused_port_and_a_flood_end():
    time, net, clock, client = _rig()

    def flood(asked, unix_ms):
        return [(0, bytes(48))] * 100 + [(20 * at, bytes(48)) for at in range(200)]

    begun = clock.mono_ms()
    for answers, error, why in ((lambda asked, at: [], SntpError, "no answer"),
                                (lambda asked, at: [(5, None)], OSError, "111"),
                                (flood, SntpError, "another question")):
        net.servers["10.0.0.1"] = answers
        assert why in str(raises(error, run, client.ask("10.0.0.1", FLOOR)))
    assert clock.mono_ms() - begun < 3 * 1600
    assert all(sock.closed for sock in net.sockets)
