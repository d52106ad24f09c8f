from evmeter.metering.gate import Gate
from evmeter.metering.reading import Reading

_P_MAX_W = 11000  # 3055.6 mWh a second
_STEP_MWH = 1000
_SECOND_MWH = 3056
_BACK = "register stepped back"
_OVER = "register stepped over the power limit"


def _reading(mwh, mono_ms, **values):
    reading = Reading(1)
    reading.voltages_mv[0] = 230000
    reading.frequency_mhz = 50000
    reading.power_mw = 3680000
    reading.import_mwh = mwh
    reading.export_mwh = 0
    reading.mono_ms = mono_ms
    for name, value in values.items():
        setattr(reading, name, value)
    return reading


def _gate(base_mwh=None, rollover_mwh=0):
    return Gate(_P_MAX_W, _STEP_MWH, base_mwh, rollover_mwh)


def test_the_first_reading():
    for base_mwh, mwh, believed in (
        (None, 0, True), (None, 10**13, True), (5000000, 5000000, True), (5000000, 9000000, True),
        (5000000, 10**13, True),  # no power limit: nobody knows how long it was off
        (5000000, 4999500, True),  # the durable register was rounded up to the step
        (5000000, 4999499, False), (5000000, 0, False), (0, 0, True),
    ):
        reading = _reading(mwh, 1000)
        assert _gate(base_mwh).judge(reading) == believed, (base_mwh, mwh)
        assert reading.quality == ("G" if believed else "O")
        assert believed or reading.reason == _BACK
    gate = _gate()
    gate.base(7000000)
    assert not gate.judge(_reading(6000000, 1000))


def test_steps_from_reading_to_reading():
    for start_mwh, step_mwh, passed_ms, reason in (
        (10**9, 0, 1000, ""), (10**9, 1000, 1000, ""),
        (10**9, _SECOND_MWH + _STEP_MWH, 1000, ""),
        (10**9, _SECOND_MWH + _STEP_MWH + 1, 1000, _OVER),
        (10**9, _STEP_MWH, 0, ""), (10**9, _STEP_MWH + 1, 0, _OVER),
        (10**9, -1, 1000, _BACK), (10**9, -10**9, 1000, _BACK),
        (10**9, 11000000, 3600000, ""),
        (10**9, 11000000 + _STEP_MWH + 1, 3600000, _OVER),
        # 131 MWh: a float32 goes in steps of 7.8 Wh, more than the meter's own
        (131000000000, 7813, 0, ""), (131000000000, 2 * 7813 + 1000, 0, _OVER),
    ):
        gate = _gate()
        assert gate.judge(_reading(start_mwh, 5000))
        reading = _reading(start_mwh + step_mwh, 5000 + passed_ms)
        assert gate.judge(reading) == (not reason), (start_mwh, step_mwh, passed_ms)
        assert reading.reason == reason
        assert gate.refused == (1 if reason else 0)


def test_values_that_cannot_be():
    for values, reason in (
        ({"import_mwh": None}, "no import register"), ({"import_mwh": -1}, "negative energy"),
        ({"export_mwh": -1}, "negative energy"),
        ({"voltages_mv": [1000001]}, "voltage out of range"),
        ({"voltages_mv": [-1]}, "voltage out of range"),
        ({"currents_ma": [-1822435200000], "import_mwh": 0}, "current out of range"),
        ({"currents_ma": [10000001]}, "current out of range"),
        ({"frequency_mhz": 100001}, "frequency out of range"),
        ({"frequency_mhz": -1}, "frequency out of range"),
        ({"power_mw": 1000000001}, "power out of range"),
        ({"power_mw": -1000000001}, "power out of range"),
        ({"voltages_mv": [0], "frequency_mhz": 0, "import_mwh": 0}, "all values are zero"),
        ({"voltages_mv": [0], "frequency_mhz": None, "import_mwh": 0}, "all values are zero"),
    ):
        reading = _reading(1000000, 1000, **values)
        assert not _gate().judge(reading)
        assert reading.quality == "O" and reading.reason == reason, values


def test_a_meter_without_voltage_or_a_new_one_is_believed():
    for values in ({"voltages_mv": [None], "frequency_mhz": None, "power_mw": None,
                    "export_mwh": None, "import_mwh": 0},
                   {"import_mwh": 0}, {"voltages_mv": [0]}):
        assert _gate().judge(_reading(1000000, 1000, **values)), values


def test_a_fault_of_the_reply_keeps_its_letter():
    gate = _gate()
    reading = _reading(1000000, 1000, quality="F", reason="import_mwh is no number")
    assert not gate.judge(reading)
    assert reading.quality == "F" and reading.reason == "import_mwh is no number"


def test_words_swapped_are_refused():
    # 230.3 V, 50 Hz and 1138.664 kWh with their words swapped
    for values in ({"voltages_mv": [107617201]}, {"frequency_mhz": 0, "voltages_mv": [0],
                                                  "import_mwh": 0}):
        assert not _gate(1138664000).judge(_reading(1138664000, 1000, **values)), values


def _feed(gate, line, mwh, start_ms, period_ms=1000, limit=60):
    """Readings of `line(index)` until one is believed: how many were refused."""
    for index in range(limit):
        if gate.judge(_reading(mwh + line(index), start_ms + index * period_ms)):
            return index
    return None


def test_five_agreeing_replies_over_ten_seconds_re_base():
    for name, base_mwh, new_mwh, period_ms, refused in (
        ("reset", 10**9, 0, 1000, 10), ("exchange forward", 10**9, 10**10, 1000, 10),
        ("a little below", 10**9, 10**9 - 5000, 1000, 10),
        ("slow polls", 10**9, 5, 4000, 4), ("fast polls", 10**9, 5, 200, 50),
    ):
        gate = _gate()
        assert gate.judge(_reading(base_mwh, 1000))
        found = _feed(gate, lambda index: index * 100, new_mwh, 2000, period_ms)
        assert found == refused, (name, found)
        event = gate.event
        new_mwh += found * 100
        assert event["old_mwh"] == base_mwh and event["new_mwh"] == new_mwh
        assert event["modulus_mwh"] == 0 and event["diff_mwh"] is None and event["cause"]
        assert gate.judge(_reading(new_mwh + 1000, 2000 + (found + 1) * period_ms))
        assert gate.event is None
        assert not gate.judge(_reading(new_mwh, 2000 + (found + 2) * period_ms))


def test_after_a_boot_an_exchanged_meter_is_re_based_too():
    gate = _gate(10**9)
    assert _feed(gate, lambda index: 0, 5000000, 1000) == 10
    assert gate.event["old_mwh"] == 10**9 and gate.event["diff_mwh"] is None


def test_replies_that_do_not_agree_never_re_base():
    for line in (lambda index: -index * 10, lambda index: index * 10000,
                 lambda index: (index % 2) * 10**8, lambda index: (index * 7919) % 100003):
        gate = _gate()
        assert gate.judge(_reading(10**9, 1000))
        assert _feed(gate, line, 10**8, 2000, 1000, 40) is None
        assert gate.event is None
        assert gate.judge(_reading(10**9 + 5, 60000)), "the old line is still believed"


def test_a_believed_reading_ends_the_other_line():
    gate = _gate()
    assert gate.judge(_reading(10**9, 0))
    for index in range(1, 40):  # 9 s of another line, then one good reading, again and again
        mwh = 10**9 if index % 10 == 0 else 5
        assert gate.judge(_reading(mwh, index * 1000)) == (index % 10 == 0), index
    assert gate.event is None


def test_a_rollover_with_known_modulus_adds_it():
    modulus_mwh = 10**11
    for old_mwh, new_mwh, known in (
        (modulus_mwh - 5000, 1000, True), (modulus_mwh - 1, 0, True),
        (modulus_mwh // 2, 1000, False),  # a reset, not a rollover
        (modulus_mwh - 5000, 10**9, False),
    ):
        gate = _gate(None, modulus_mwh)
        assert gate.judge(_reading(old_mwh, 1000))
        assert _feed(gate, lambda index: 0, new_mwh, 2000) == 10
        event = gate.event
        assert event["modulus_mwh"] == (modulus_mwh if known else 0)
        assert event["diff_mwh"] == (new_mwh + modulus_mwh - old_mwh if known else None)
    gate = _gate(modulus_mwh - 5000, modulus_mwh)  # off for an unknown time: not told apart
    assert _feed(gate, lambda index: 0, 1000, 2000) == 10
    assert gate.event["diff_mwh"] is None


def test_distrust_until_the_meter_agrees_with_itself():
    gate = _gate(None, 10**11)
    assert gate.judge(_reading(10**9, 0))
    gate.distrust("X", "meter exchanged")
    for index in range(10):
        reading = _reading(10**9, 1000 + index * 1000)  # even on the old line
        assert not gate.judge(reading)
        assert reading.quality == "X" and reading.reason == "meter exchanged"
    reading = _reading(10**9, 11000)
    assert gate.judge(reading) and reading.quality == "G"
    assert gate.refused == 10
    assert gate.event["cause"] == "meter exchanged" and gate.event["diff_mwh"] is None
    reading = _reading(5, 12000)
    assert not gate.judge(reading) and reading.quality == "O"


def test_an_exchanged_meter_is_no_rollover():
    gate = _gate(None, 10**11)
    assert gate.judge(_reading(10**11 - 1000, 0))
    gate.distrust("X", "meter exchanged")
    assert _feed(gate, lambda index: 0, 1000, 1000) == 10
    assert gate.event["modulus_mwh"] == 0 and gate.event["diff_mwh"] is None
