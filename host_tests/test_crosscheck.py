from evmeter.metering.crosscheck import CrossCheck


class _Counter:
    pulses = 0
    missed = False

    def value(self):
        return self.pulses


def _over(rows, imp_per_kwh=1000, step_mwh=1000):
    """What the check says after each row (pulses more, mWh more)."""
    counter = _Counter()
    check = CrossCheck(counter, imp_per_kwh, step_mwh)
    register_mwh = 7000000
    said = [check.reading(register_mwh)]
    for pulses, more_mwh in rows:
        counter.pulses += pulses
        register_mwh += more_mwh
        said.append(check.reading(register_mwh))
    return [bool(one) for one in said]


def test_the_two_agree_within_one_of_the_coarser_steps():
    for pulses, more_mwh, imp_per_kwh, step_mwh, differs in (
        (100, 100000, 1000, 1000, False),
        (100, 101999, 1000, 1000, False),
        (100, 98001, 1000, 1000, False),
        (100, 103000, 1000, 1000, True),
        (100, 97000, 1000, 1000, True),
        (100, 110000, 1000, 10000, False),
        (100, 130000, 1000, 10000, True),
        (400, 400 * 2500, 400, 1000, False),
        (400, 400 * 2500 - 6000, 400, 1000, True),
        (0, 200000, 1000, 1000, True),  # a broken wire
        (300, 0, 1000, 1000, True),  # bounce, or a register that stands
    ):
        assert _over([(pulses, more_mwh)], imp_per_kwh, step_mwh) == [False, differs], (
            pulses, more_mwh)


def test_few_pulses_are_compared_together():
    assert _over([(9, 9000)] * 30) == [False] * 31
    # one pulse in ten lost: seen once a hundred are together
    assert _over([(9, 10000)] * 10) == [False] * 10 + [True]
    # a difference is told of once, not carried on
    assert _over([(50, 100000), (100, 100000)]) == [False, True, False]


def test_after_a_restart_the_register_may_be_elsewhere():
    counter = _Counter()
    check = CrossCheck(counter, 1000, 1000)
    check.reading(10**9)
    check.restart()
    assert check.reading(5) == ""
    counter.pulses += 100
    assert check.reading(100005) == ""
    counter.pulses += 100
    assert "100 pulses are 100000 mWh" in check.reading(100005)


def test_edges_that_were_missed_are_no_difference():
    counter = _Counter()
    check = CrossCheck(counter, 1000, 1000)
    check.reading(10**9)
    counter.missed = True
    counter.pulses += 20
    assert check.reading(10**9 + 200000) == "" and not counter.missed
    counter.pulses += 100
    assert check.reading(10**9 + 300000) == ""
    counter.pulses += 100
    assert check.reading(10**9 + 600000) != ""
