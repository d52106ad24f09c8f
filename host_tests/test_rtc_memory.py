from drivers.rtc_memory import RtcMemory
from fakes.pulses import RtcMemory as Memory
from support import raises


def test_each_part_keeps_its_own():
    memory = Memory()
    rtc = RtcMemory(memory)
    assert (rtc.session(), rtc.pulses()) == (b"", b"")
    for session, pulses in ((b"s" * 250, b"p" * 58), (b"\x00", b""), (b"", b"\xff" * 20),
                            (bytes(69), bytes(58))):
        assert rtc.session(session) is None
        assert rtc.pulses(bytearray(pulses)) is None
        assert (rtc.session(), rtc.pulses()) == (session, pulses)
        again = RtcMemory(memory)  # a reset
        assert (again.session(), again.pulses()) == (session, pulses)
        rtc.session(session)
        assert rtc.pulses() == pulses
    assert len(memory.data) <= 2048


def test_what_is_too_long_changes_nothing():
    memory = Memory()
    rtc = RtcMemory(memory)
    rtc.session(b"session")
    rtc.pulses(b"pulses")
    before = memory.data
    assert "250" in str(raises(ValueError, rtc.session, bytes(251)))
    assert "58" in str(raises(ValueError, rtc.pulses, bytes(59)))
    assert (rtc.session(), rtc.pulses(), memory.data) == (b"session", b"pulses", before)


def test_memory_that_is_none_of_ours_reads_as_empty():
    for kept in (b"", b"\xff" * 320, bytes(range(100)), b"\xff" * 2048, b"\x00\x01" * 160):
        memory = Memory()
        memory(kept)
        rtc = RtcMemory(memory)
        assert (rtc.session(), rtc.pulses()) == (b"", b"")


def test_no_flipped_bit_is_believed_and_the_other_part_stays():
    memory = Memory()
    rtc = RtcMemory(memory)
    rtc.session(b"the session")
    rtc.pulses(b"the pulses")
    good = memory.data
    kept = 0
    for at in range(len(good)):
        for bit in (0, 7):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            memory(damaged)
            rtc = RtcMemory(memory)
            parts = rtc.session(), rtc.pulses()
            assert parts in ((b"the session", b"the pulses"), (b"", b"the pulses"),
                             (b"the session", b"")), at
            kept += parts == (b"the session", b"the pulses")
    assert kept == 2 * (len(good) - 2 * 6 - 11 - 10)  # only where nothing is stored
