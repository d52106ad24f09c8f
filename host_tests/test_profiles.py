"""All meter profiles: every quantity through the bus, and the requests that are made for them."""

import asyncio
import gc
import json
import os

from drivers.meter_profile import load_profile
from drivers.modbus_meter import ModbusMeter
from drivers.modbus_rtu import ModbusRtu
from evmeter.metering.reading import Reading
from evmeter.metering.registers import decode
from fakes.uart import FakeUart, reply, with_crc
from fakes.virtual_time import VirtualTime

_FOLDER = __file__[:-len("host_tests/test_profiles.py")] + "drivers/meter_profiles/"
_NAMES = sorted([name[:-5] for name in os.listdir(_FOLDER) if name[-5:] == ".json"])
_THOUSANDTHS = {"V": 3, "A": 3, "W": 3, "kW": 6, "Hz": 3, "Wh": 3, "kWh": 6, "VA": 3, "kVA": 6,
                "var": 3, "kvar": 6, "": 3, "%": 1}
_ATTRIBUTES = {"power": "power_mw", "frequency": "frequency_mhz", "import": "import_mwh",
               "total": "import_mwh", "export": "export_mwh", "pf": "pf_milli",
               "apparent": "apparent_mva", "reactive": "reactive_mvar"}
_WORDS = {"16": 1, "32": 2, "64": 4, "5": 2, "6": 2}
_CONFIDENCE = {"high": 15, "medium": 6, "low": 2}


def _file(name):
    with open(_FOLDER + name + ".json") as file:
        return json.loads(file.read())


def _row(row):
    return row + ["", 0, None][len(row) - 2:]


def _rounded(number, exponent, shift=0):
    """number * 10**exponent / 2**shift, rounded half away from zero, by one big division."""
    size = abs(number)
    over = 1
    if exponent >= 0:
        size *= 10**exponent
    else:
        over *= 10**-exponent
    if shift >= 0:
        over <<= shift
    else:
        size <<= -shift
    size = (2 * size + over) // (2 * over)
    return -size if number < 0 else size


def _sample(kind, exponent, seed):
    """(register as a whole number of its bits, expected value)."""
    sign = -1 if seed & 1 else 1
    if kind == "f32":
        mantissa = 0x800000 + seed * 2654435 % 0x800000
        shift = 2 + seed % 20  # from 0.4 to 2**22
        bits = (150 - shift) << 23 | mantissa & 0x7FFFFF
        return bits | (1 << 31 if sign < 0 else 0), _rounded(sign * mantissa, exponent, shift)
    if kind[0] == "t":
        own = seed % 7 - 4
        number = seed * 48271 % 0x800000
        if kind == "t6":
            number *= sign
        return (own & 0xFF) << 24 | number & 0xFFFFFF, _rounded(number, exponent + own)
    bits = 16 * _WORDS[kind[1:]]
    number = seed * 0x9E3779B97F4A7C15 % (1 << (bits - 1)) >> seed % 5
    if kind[0] == "i":
        number *= sign
    return number & ((1 << bits) - 1), _rounded(number, exponent)


def _put(words, address, bits, count, little):
    for index in range(count):
        at = index if little else count - 1 - index
        words[address + at] = bits >> 16 * index & 0xFFFF


def _meter(words, function, name, total_is_import=True, baud=9600):
    """A meter over address -> word, and what it was asked: [(address, count)]. Registers between
    those that it has are zero; elsewhere there are none."""
    time = VirtualTime()
    asked = []

    def answer(request):
        start, count = request[2] << 8 | request[3], request[5]
        asked.append((start, count))
        if request[1] != function or start not in words:
            return [(20, with_crc("%02x%02x02" % (request[0], request[1] | 0x80)))]
        found = [words.get(start + index, 0) for index in range(count)]
        return [(20, reply(request[0], request[1], found))]

    bus = ModbusRtu(FakeUart(time, 10000000 // baud, answer), baud, 10, None, 0, time,
                    time.sleep_ms)
    return ModbusMeter(bus, name, 1, None, total_is_import), asked


def _of(reading, name):
    if name[-3:-1] == "_l":
        values = reading.voltages_mv if name[0] == "v" else reading.currents_ma
        return values[int(name[-1]) - 1]
    return getattr(reading, _ATTRIBUTES[name])


def test_there_are_all_of_them():
    assert len(_NAMES) == 23
    found = {}
    for name in _NAMES:
        confidence = load_profile(name)["confidence"]
        found[confidence] = found.get(confidence, 0) + 1
    assert found == _CONFIDENCE, found


def test_every_quantity_of_every_profile_is_exact():
    quantities = 0
    for name in _NAMES:
        gc.collect()
        profile = _file(name)
        little = profile["order"] == "little"
        for seed in (3, 4, 11):
            words = {}
            expected = {}
            scales = {}
            for section in ("billing", "slow"):
                for index, key in enumerate(profile.get(section, {})):
                    address, kind, unit, exponent, scale_at = _row(profile[section][key])
                    exponent += _THOUSANDTHS[unit]
                    if scale_at is not None:
                        scale_at = int(scale_at, 16)
                        scale = scales[scale_at] = scales.get(scale_at, (seed + index) % 5 - 3)
                        words[scale_at] = scale & 0xFFFF
                        exponent += scale
                    bits, expected[key] = _sample(kind, exponent, seed * 100 + index)
                    _put(words, int(address, 16), bits, _WORDS[kind[1:]], little)
            meter, asked = _meter(words, profile["function"], name)
            reading = Reading(meter.phases)
            asyncio.run(meter.read_billing(reading))
            assert reading.quality == "G", (name, reading.reason)
            asyncio.run(meter.read_slow(reading))
            for key in expected:
                assert _of(reading, key) == expected[key], (name, key, seed)
                quantities += 1
            assert meter.bus.exceptions == 0, (name, asked)
    assert quantities == 3 * 247, quantities


def test_requests_within_the_meters_limits():
    # Billing set at 2400, 9600 and 19200 baud, slow set, identity.
    expected = {
        "abb_b2x": (3, 2, 2, 1, 3), "bauer_bsm_ws36a": (2, 1, 1, 1, 1),
        "cg_em111_em112": (2, 1, 1, 1, 0), "cg_em24_din": (5, 5, 5, 2, 0),
        "cg_em340": (3, 2, 2, 1, 0), "chint_ddsu666": (2, 2, 2, 1, 0),
        "chint_dtsu666": (3, 3, 3, 1, 0), "eastron_sdm120": (2, 2, 1, 1, 1),
        "eastron_sdm220": (2, 2, 2, 1, 0), "eastron_sdm230": (2, 2, 2, 1, 1),
        "eastron_sdm54": (2, 2, 2, 1, 0), "eastron_sdm630": (2, 1, 1, 1, 1),
        "eastron_sdm72d_v1": (1, 1, 1, 0, 1), "eastron_sdm72d_v2": (2, 2, 2, 1, 1),
        "finder_7e": (3, 2, 2, 0, 0), "finder_7m": (4, 3, 3, 1, 0),
        "inepro_pro1_pro380": (2, 2, 2, 1, 0), "iskra_wm3m4c": (3, 2, 2, 0, 1),
        "janitza": (3, 2, 2, 0, 0), "orno_we514": (2, 2, 2, 1, 0),
        "orno_we516": (2, 2, 2, 1, 1), "schneider_iem3155": (5, 4, 4, 1, 0),
        "socomec_countis_diris": (2, 2, 2, 1, 0)}
    for name in _NAMES:
        gc.collect()
        profile = _file(name)
        found = []
        for baud in (2400, 9600, 19200):
            meter, _ = _meter({}, 4, name, baud=baud)
            found.append(len(meter._requests))
            rows = []
            for address, count, inside in meter._requests + meter._slow + meter._identity:
                assert 0 < count <= profile["max_registers"], (name, address, count)
                if profile["make"] == "Eastron":
                    assert not address & 1 and not count & 1, (name, address, count)
                for row in inside:
                    assert address <= row[0] and row[0] + row[1] <= address + count, (name, row)
                    rows.append(row)
            wanted = [len(profile.get(one, ())) for one in ("billing", "slow", "identity")]
            assert len(rows) == sum(wanted), name
            assert any(row[2] == "import_mwh" for row in meter._requests[-1][2]), name
        found += [len(_meter({}, 4, name)[0]._slow), len(meter._identity)]
        assert tuple(found) == expected[name], (name, found)
        assert meter.bus.gap_ms == profile.get("gap_ms", 0), name


def test_the_pause_that_keeps_an_sdm72_from_restarting():
    assert _meter({}, 4, "eastron_sdm72d_v1")[0].bus.gap_ms == 500


def _asked(request_hex, reply_hex, unit, function, address, count):
    """Data of a reply in the vendor's own bytes to a request that must be the vendor's own."""
    time = VirtualTime()
    uart = FakeUart(time, 1042, lambda request: [(40, bytes.fromhex(reply_hex))])
    bus = ModbusRtu(uart, 9600, 10, None, 0, time, time.sleep_ms)
    data = bytes(asyncio.run(bus.read(unit, function, address, count)))[:2 * count]
    assert [frame for _, frame in uart.requests] == [bytes.fromhex(request_hex)]
    return data


def test_the_vendors_example_frames():
    # Eastron, SDM120M V2.5 and SDM630 V2.0: phase 1 voltage, 230.2 V
    data = _asked("01040000000271cb", "010404436633341b38", 1, 4, 0, 2)
    for name in ("eastron_sdm120", "eastron_sdm630"):
        address, kind, _, exponent = _row(_file(name)["billing"]["voltage_l1"])[:4]
        assert int(address, 16) == 0
        assert decode(data, 0, kind, exponent + 3) == 230200
    # and a holding register, pulse width 100 ms
    data = _asked("0103000c00020408", "01030442c800006fb5", 1, 3, 0x0C, 2)
    assert decode(data, 0, "f32") == 100
    for body, crc in (("010400000002", "71cb"), ("010400000050", "f036")):
        assert with_crc(body)[-2:] == bytes.fromhex(crc)


def test_registers_as_meters_in_the_field_sent_them():
    # An SDM230 (esphome issue 3912): 0x0000 to 0x0047 of a reply with 80 registers.
    words = dict.fromkeys(range(0x4C), 0)
    for address, bits in ((0x00, 0x436C7E6E), (0x06, 0x3DFFA634), (0x0C, 0x41A718C3),
                          (0x12, 0x41B635EA), (0x18, 0xC1114E2F), (0x1E, 0x3F6AC3F9),
                          (0x46, 0x42480000), (0x48, 0x448E5540)):
        _put(words, address, bits, 2, False)
    meter, _ = _meter(words, 4, "eastron_sdm230")
    reading = Reading(1)
    asyncio.run(meter.read_billing(reading))
    asyncio.run(meter.read_slow(reading))
    assert (reading.voltages_mv, reading.currents_ma) == ([236494], [125])
    assert (reading.power_mw, reading.frequency_mhz) == (20887, 50000)
    assert (reading.pf_milli, reading.apparent_mva, reading.reactive_mvar) == (917, 22776, -9082)
    assert reading.import_mwh == 1138664063


def test_values_checked_by_hand():
    for name, registers, attribute, expected in (
        # 12345.6 kWh in steps of 0.1, low word first: 123456 = 0x0001E240
        ("cg_em340", ((0x34, 0xE240), (0x35, 0x0001)), "import_mwh", 12345600000),
        ("cg_em340", ((0x28, 0xFC18), (0x29, 0xFFFF)), "power_mw", -100000),  # -1000 of 0.1 W
        ("cg_em340", ((0x28, 0xFFFF), (0x29, 0x7FFF)), "power_mw", None),  # overflow
        # 0.01 kWh, 64 bits: 1234567.89
        ("abb_b2x", ((0x5002, 0x075B), (0x5003, 0xCD15)), "import_mwh", 1234567890000),
        ("abb_b2x", ((0x5B14, 0x7FFF), (0x5B15, 0xFFFF)), "power_mw", None),
        # Wh, 64 bits: 8200001 Wh
        ("schneider_iem3155", ((0xC85, 0x007D), (0xC86, 0x1F41)), "import_mwh", 8200001000),
        # float32 in kW: 7.25; float32 in Wh: 123456.0
        ("schneider_iem3155", ((0xBF3, 0x40E8), (0xBF4, 0)), "power_mw", 7250000),
        ("janitza", ((0x4A7C, 0x47F1), (0x4A7D, 0x2000)), "import_mwh", 123456000),
        # float32 that is an integer of 0.1 W: 36800.0
        ("chint_dtsu666", ((0x2012, 0x470F), (0x2013, 0xC000)), "power_mw", 3680000),
        # 10 Wh: 1234567; 10 W, negative
        ("socomec_countis_diris", ((0xC702, 0x0012), (0xC703, 0xD687)), "import_mwh", 12345670000),
        ("socomec_countis_diris", ((0xC568, 0xFFFF), (0xC569, 0xFFFE)), "power_mw", -20000),
        # 22.4 W: 224 * 10**-1, negative: -224 in 24 bits
        ("iskra_wm3m4c", ((0x8C, 0xFF00), (0x8D, 0x00E0)), "power_mw", 22400),
        ("iskra_wm3m4c", ((0x8C, 0xFFFF), (0x8D, 0xFF20)), "power_mw", -22400),
        ("iskra_wm3m4c", ((0x69, 0xFD00), (0x6A, 0xC34F)), "frequency_mhz", 49999),
        ("iskra_wm3m4c", ((0x69, 0x7F00), (0x6A, 0x0001)), "frequency_mhz", None),
        # exponent register 1: 12345 * 10 Wh
        ("iskra_wm3m4c", ((0x19E, 1), (0x1A2, 0), (0x1A3, 12345)), "import_mwh", 123450000),
        # SunSpec: 7360 W as 736 with scale factor 1; Wh with 0; a scale factor that is missing
        ("bauer_bsm_ws36a", ((0x9CAC, 736), (0x9CB0, 1)), "power_mw", 7360000),
        ("bauer_bsm_ws36a", ((0x9CAA, 4999), (0x9CAB, 0xFFFE)), "frequency_mhz", 49990),
        ("bauer_bsm_ws36a", ((0x9CC8, 1), (0x9CC9, 2), (0x9CD0, 0)), "import_mwh", 65538000),
        ("bauer_bsm_ws36a", ((0x9CAC, 736), (0x9CB0, 0x8000)), "power_mw", None),
        ("bauer_bsm_ws36a", ((0x9CAC, 0x8000), (0x9CB0, 1)), "power_mw", None),
        ("bauer_bsm_ws36a", ((0x9CAC, 1), (0x9CB0, 11)), "power_mw", None),
        ("bauer_bsm_ws36a", ((0x9CC8, 0), (0x9CC9, 2), (0x9CD0, 0x8000)), "import_mwh", None),
        # total only, 0.01 kWh
        ("orno_we514", ((0xA000, 0), (0xA001, 1234)), "import_mwh", 12340000),
    ):
        gc.collect()
        profile = _file(name)
        words = {row: 0 for request in _meter({}, 4, name)[0]._requests
                 for row in range(request[0], request[0] + request[1])}
        for address, word in registers:
            assert address in words, (name, hex(address))
            words[address] = word
        meter, _ = _meter(words, profile["function"], name)
        reading = Reading(meter.phases)
        asyncio.run(meter.read_billing(reading))
        assert getattr(reading, attribute) == expected, (name, attribute,
                                                         getattr(reading, attribute))
        fault = expected is None and (attribute == "import_mwh" or name == "iskra_wm3m4c")
        assert reading.quality == ("F" if fault else "G"), (name, reading.reason)
