from evmeter.session.thin import Thinned


def test_one_a_minute_of_each_name_and_none_is_left_out_of_the_count():
    thinned = Thinned()
    told = []
    for now_ms in range(0, 301000, 1000):
        name = "a" if now_ms // 1000 % 2 else "b"
        if now_ms < 240000 and not thinned.holds(name, (now_ms, "why %d" % now_ms), now_ms):
            told.append((name, now_ms, 1))
        due = thinned.due(now_ms)
        if due:
            at_ms, fields = thinned.held(due)
            assert fields["why"] == "why %d" % at_ms
            told.append((due, now_ms, fields["n"]))
            thinned.written(due, now_ms)
    for name in "ab":
        assert sum([count for found, _, count in told if found == name]) == 120
        times = [now_ms for found, now_ms, _ in told if found == name]
        assert len(times) == 5
        for before, after in zip(times, times[1:]):
            assert after - before >= 60000


def test_at_the_end_of_a_session_nothing_waits_any_longer():
    thinned = Thinned()
    assert not thinned.holds("a", (1, "x"), 1)
    assert thinned.due(2, True) is None
    assert thinned.holds("a", (3, "y"), 3)
    assert thinned.due(4) is None
    assert thinned.due(4, True) == "a"
    assert thinned.held("a") == (3, {"why": "y", "n": 1})
    thinned.written("a", 4)
    assert thinned.due(5, True) is None
    assert not thinned.holds("b", (5, "z"), 5)
