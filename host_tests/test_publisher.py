from evmeter.uplink.publisher import packet_id
from fakes.uplink_bench import UplinkBench


def test_packet_ids_never_are_zero_and_stay_below_the_live_ones():
    for seq, pid in ((1, 2), (32765, 32766), (32766, 32767), (32767, 1), (32768, 2),
                     (65534, 1), (70000, 4467), (4294967295, 4)):
        assert packet_id(seq) == pid, seq
        assert 1 <= packet_id(seq) <= 32767


def test_the_window_moves_by_the_backends_word_only():
    bench = UplinkBench()
    broker = bench.broker
    seen = []
    bench.play(
        lambda: broker.host(True),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(1),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(1, sel=(3,)),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(4),
        lambda: broker.ack(6),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
    )
    # PUBACKs came for every one of them, and moved nothing
    assert seen == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]], seen
    assert bench.journal.cursor == 6
    streams = [broker.sent(stream) for stream in (b"rec", b"evt", b"ivl", b"log")]
    assert [len(sent) for sent in streams] == [2, 2, 1, 1]
    # all of it lay in the journal at the start and may have been published before
    assert all(dup for _, dup, _ in bench.durable())


def test_a_fresh_frame_is_sent_without_dup_and_again_with_dup_after_10_s():
    bench = UplinkBench(0)
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.journal.append(1, b"frame 1"),
        lambda: bench.clock.advance(9000),
        lambda: bench.clock.advance(2000),
        lambda: bench.clock.advance(15000),
        lambda: bench.clock.advance(6000),
        lambda: bench.broker.ack(1),
        lambda: bench.clock.advance(100000),
    )
    assert bench.durable() == [(1, 0, 2), (1, 1, 2), (1, 1, 2)]
    assert bench.uplink.resends == 2


def test_the_backlog_pauses_while_the_backend_is_off_line():
    bench = UplinkBench()
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.broker.host(False),
        lambda: bench.broker.ack(3),
    )
    assert [number for number, _, _ in bench.durable()] == [1, 2, 3]


def test_the_backends_state_is_asked_for_again_while_it_is_off_line():
    bench = UplinkBench()
    broker = bench.broker
    asked = []

    def ask():
        asked.append(broker.subscribed.count(b"evmeter/v1/_host/state"))

    bench.play(
        ask,
        lambda: broker.say(b"evmeter/v1/_host/state", b"[" * 3000),  # as if memory were short
        lambda: bench.clock.advance(299000),
        ask,
        lambda: bench.clock.advance(2000),
        ask,
        lambda: broker.host(True),
        lambda: bench.clock.advance(301000),
        ask,
    )
    assert asked == [1, 1, 2, 2]
    assert bench.uplink.acks_refused == 1 and bench.durable()


def test_a_damaged_frame_does_not_stop_the_others():
    bench = UplinkBench()
    bench.journal.unreadable.add(2)
    bench.play(lambda: bench.broker.host(True))
    assert [number for number, _, _ in bench.durable()] == [1, 3, 4]


def test_frames_on_the_way_are_sent_again_with_dup_when_the_backend_comes_back():
    bench = UplinkBench(0)
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.journal.append(1, b"frame 1"),
        lambda: bench.journal.append(2, b"frame 2"),
        lambda: bench.broker.host(False),
        lambda: bench.broker.host(True),
        lambda: bench.broker.ack(2),
    )
    assert bench.durable() == [(1, 0, 2), (2, 0, 3), (1, 1, 2), (2, 1, 3)]
    assert bench.journal.cursor == 2


def test_a_frame_that_was_unreadable_for_a_while_is_sent_later():
    bench = UplinkBench(4)
    bench.journal.unreadable.add(2)
    bench.journal.passes_over = False
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.broker.ack(1, sel=(3, 4)),
        lambda: bench.clock.advance(300000),
        bench.journal.unreadable.clear,
        lambda: bench.clock.advance(301000),
        lambda: bench.broker.ack(4),
    )
    numbers = [number for number, _, _ in bench.durable()]
    assert numbers == [1, 3, 4, 2, 3, 4]
    assert bench.journal.cursor == 4


def test_an_old_acknowledgement_takes_nothing_back():
    bench = UplinkBench()
    bench.play(lambda: bench.broker.host(True), lambda: bench.broker.ack(5),
               lambda: bench.broker.ack(2), lambda: bench.broker.ack(2, sel=(3,)))
    assert bench.journal.cursor == 5
    assert bench.uplink.acks_refused == 0
    assert [number for number, _, _ in bench.durable()] == [1, 2, 3, 6]


def test_frames_that_an_earlier_key_signed_are_acknowledged_under_it():
    bench = UplinkBench(0)
    for number in range(1, 7):  # the cursor that had gone past them was lost
        bench.journal.append(1, b'frame %d {"seq":%d,"k":"%s","sid":""}' % (
            number, number, b"a1b2c3d4" if number > 4 else b"00000bad"))
    refused = []

    def ack(*args, key):
        bench.broker.ack(*args, key=key)

    def note():
        refused.append((bench.journal.cursor, bench.uplink.acks_refused))

    bench.play(
        lambda: ack(1, key="00000bad"), note,  # nothing is on its way yet
        lambda: bench.broker.host(True),
        lambda: ack(2, key="11111111"), note,
        lambda: ack(2, key=None), note,
        lambda: ack(2, key='00000bad", "sid'), note,
        lambda: ack(2, key="00000bad"), note,
        lambda: ack(9, key="00000bad"), note,
        lambda: ack(4, key="00000bad"), note,
        lambda: ack(5, key="00000bad"), note,
        lambda: ack(6, key="a1b2c3d4"), note)
    assert refused == [(0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (2, 5), (4, 5), (4, 6), (6, 6)]
    assert not bench.uplink._sent


def test_frames_that_were_made_without_a_key_stop_nothing():
    bench = UplinkBench(0)
    for number in range(1, 8):
        bench.journal.append(1, b'frame %d {"seq": %d, "k": "%s", "sid": "\\"k\\": \\"\\""}' % (
            number, number, b"a1b2c3d4" if number in (1, 7) else b""))
    damage = []
    bench.uplink.on_damage = damage.append
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.broker.ack(1),
        *[lambda: bench.clock.advance(11000)] * 3,
        lambda: bench.broker.ack(0, sel=(7,)))
    assert bench.journal.cursor == 7
    assert [number for number, _, _ in bench.durable()] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert damage == ["frame %d was made without a key: passed over" % seq
                      for seq in range(2, 7)]
    # one with a key waits for its acknowledgement, however long
    bench = UplinkBench(0)
    bench.journal.append(1, b'frame 1 {"seq": 1, "k": "a1b2c3d4", "sid": ""}')
    bench.play(lambda: bench.broker.host(True),
               *[lambda: bench.clock.advance(61000)] * 5)
    assert bench.journal.cursor == 0 and len(bench.durable()) == 6


def test_bad_frames_count_as_confirmed():
    bench = UplinkBench(3)
    bench.play(lambda: bench.broker.host(True), lambda: bench.broker.ack(1, sel=(3,), bad=(2,)),
               lambda: bench.clock.advance(60000))
    assert bench.journal.cursor == 3
    assert len(bench.durable()) == 3


def test_packet_ids_wrap_with_the_sequence():
    bench = UplinkBench(0)
    bench.journal.first = 32765
    bench.journal.cursor = bench.uplink._published = 32765
    bench.play(
        lambda: bench.broker.host(True),
        lambda: [bench.journal.append(1, b"frame %d" % seq) for seq in range(32766, 32769)],
        lambda: bench.broker.ack(32768),
    )
    assert bench.durable() == [(32766, 0, 32767), (32767, 0, 1), (32768, 0, 2)]
    assert bench.journal.cursor == 32768


def test_pauses_between_resends_double_up_to_a_minute():
    bench = UplinkBench(0)
    sent_s = []

    def second():
        bench.clock.advance(1000)

    def note():
        while len(sent_s) < len(bench.durable()):
            sent_s.append(bench.clock.mono_ms() // 1000)

    steps = []
    for _ in range(200):
        steps += [second, note]
    bench.play(lambda: bench.broker.host(True), lambda: bench.journal.append(1, b"frame 1"), note,
               *steps)
    assert sent_s == [0, 10, 30, 70, 130, 190], sent_s
