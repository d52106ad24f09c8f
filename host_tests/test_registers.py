import struct

from evmeter.metering.registers import decode, float32, scaled
from support import raises


def _words(value):
    bits = struct.unpack(">I", struct.pack(">f", value))[0]
    return bits >> 16, bits & 0xFFFF


def test_float32_bits_become_exact_integers():
    for high, low, exponent, expected in (
        (0x0000, 0x0000, 6, 0),
        (0x8000, 0x0000, 6, 0),
        (0x3F80, 0x0000, 6, 1000000),
        (0xBF80, 0x0000, 3, -1000),
        (0x4366, 0x4CCD, 3, 230300),  # 230.3000031 V
        (0x448E, 0x5540, 6, 1138664063),  # 1138.6640625 kWh, seen on an SDM120: a tie of 0.5
        (0xC48E, 0x5540, 6, -1138664063),  # half away from zero on both sides
        (0x3A83, 0x126F, 6, 1000),  # 0.001 kWh
        (0x3400, 0x0000, 6, 0),  # 2**-23 kWh = 0.119 mWh
        (0x3580, 0x0000, 6, 1),  # 2**-20 kWh = 0.954 mWh
        (0x3500, 0x0000, 6, 0),  # 2**-21 kWh = 0.477 mWh
        (0x0000, 0x0001, 6, 0),  # the smallest denormal
        (0x007F, 0xFFFF, 9, 0),  # the largest denormal
        (0x3080, 0x0000, 9, 1),  # 2**-30
        (0x3000, 0x0000, 9, 0),  # 2**-31
        (0x4B80, 0x0000, 0, 1 << 24),
        (0x4B80, 0x0001, 0, (1 << 24) + 2),
        (0x4B80, 0x0001, 6, ((1 << 24) + 2) * 1000000),
        (0x4600, 0x1FFF, 6, 8199999023),  # 8199.999023 kWh: steps of 0.98 Wh
        (0x4600, 0x2000, 6, 8200000000),  # 8.2 MWh
        (0x4600, 0x2001, 6, 8200000977),
        (0x47FF, 0xDC00, 6, 131000000000),  # 131 MWh
        (0x47FF, 0xDC01, 6, 131000007813),
        (0x4B18, 0x9680, 6, 10000000000000),  # 10,000,000 kWh
        (0x4B18, 0x9681, 6, 10000001000000),
        (0x4FFF, 0xFFFF, 3, 8589934080000),
        (0x3F00, 0x0000, 0, 1),  # 0.5
        (0xBF00, 0x0000, 0, -1),
        (0x3EFF, 0xFFFF, 0, 0),  # just below 0.5
        (0x42C8, 0x0000, -1, 10),
        (0x42CA, 0x0000, -1, 10),  # 101
        (0xC2D2, 0x0000, -1, -11),  # -105: half away from zero
        (0x5000, 0x0000, -3, 8589935),  # 2**33
    ):
        found = float32(high, low, exponent)
        assert found == expected, (hex(high), hex(low), exponent, found)
        assert isinstance(found, int)


def test_what_is_no_number_is_said_to_be_none():
    for high, low in ((0x7F80, 0), (0xFF80, 0), (0x7FC0, 0), (0x7F80, 1), (0xFFFF, 0xFFFF),
                      (0x5380, 0), (0xD380, 0)):  # infinity, NaN, 2**40
        assert float32(high, low, 6) is None, hex(high)
    assert float32(0x537F, 0xFFFF, 0) == (1 << 40) - (1 << 16)


def test_a_float_product_would_have_been_wrong():
    # What a 32-bit float does with kWh * 1e6: the nearest float32 of the product.
    for high, low in ((0x4600, 0x2001), (0x47FF, 0xDC01), (0x4B18, 0x9681), (0x448E, 0x5540)):
        kwh = struct.unpack(">f", bytes((high >> 8, high & 255, low >> 8, low & 255)))[0]
        product = struct.unpack(">f", struct.pack(">f", kwh * 1000000))[0]
        assert int(product) != float32(high, low, 6), hex(high)


def _float32(number):
    return struct.unpack(">f", struct.pack(">f", number))[0]


def test_a_sessions_energy_would_have_been_wrong_in_float32():
    # Begin and end register of a session: the difference of the bits themselves against what a
    # 32-bit float makes of kWh * 1e6, rounded to the nearest float32 at each step.
    for kwh, least_wrong_mwh in ((16.777216, 1), (8200.0, 200), (131000.0, 3000), (1e7, 400000)):
        high, low = _words(kwh)
        begin_mwh = float32(high, low, 6)
        begin = _float32(kwh)
        wrong = worst_mwh = 0
        for steps in range(1, 200, 7):
            bits = (high << 16 | low) + steps
            end_mwh = float32(bits >> 16, bits & 0xFFFF, 6)
            end = struct.unpack(">f", struct.pack(">I", bits))[0]
            exact_mwh = (end - begin) * 1000000  # no error in the 53 bits of the host's floats
            assert abs(end_mwh - begin_mwh - exact_mwh) <= 1, (kwh, steps)
            product_mwh = _float32(end * 1000000) - _float32(begin * 1000000)
            wrong += int(product_mwh) != end_mwh - begin_mwh
            worst_mwh = max(worst_mwh, abs(product_mwh - (end_mwh - begin_mwh)))
        assert wrong > 10 and worst_mwh >= least_wrong_mwh, (kwh, wrong, worst_mwh)


def test_every_type_in_both_word_orders():
    for kind, big, little, exponent, expected in (
        ("u16", "ffff", "ffff", 0, 65535),
        ("i16", "ffff", "ffff", 0, -1),
        ("i16", "8000", "8000", 1, -327680),
        ("i16", "7fff", "7fff", -1, 3277),
        ("u32", "ffff0001", "0001ffff", 0, 0xFFFF0001),
        ("i32", "ffff0001", "0001ffff", 0, -65535),
        ("i32", "80000000", "00008000", 0, -0x80000000),
        ("i32", "7fffffff", "ffff7fff", 0, 0x7FFFFFFF),
        ("u64", "0123456789abcdef", "cdef89ab45670123", 0, 0x0123456789ABCDEF),
        ("u64", "ffffffffffffffff", "ffffffffffffffff", 0, 0xFFFFFFFFFFFFFFFF),
        ("i64", "ffffffffffffffff", "ffffffffffffffff", 3, -1000),
        ("i64", "8000000000000000", "0000000000008000", 0, -0x8000000000000000),
        ("u64", "00000000000f4240", "4240000f00000000", 4, 10000000000),
        ("f32", "43664ccd", "4ccd4366", 3, 230300),
        ("f32", "7fc00000", "00007fc0", 3, None),
        ("t5", "fd00c34f", "c34ffd00", 3, 49999),
        ("t5", "00ffffff", "ffff00ff", 0, 0xFFFFFF),
        ("t5", "02000007", "00070200", -3, 1),  # 0.7
        ("t6", "ffffff20", "ff20ffff", 3, -22400),
        ("t6", "00800000", "00000080", 0, -0x800000),
        ("t6", "007fffff", "ffff007f", 0, 0x7FFFFF),
        ("t5", "80000001", "00018000", 9, 0),  # 10**-119
        ("t5", "13000001", "00011300", 0, 10**19),
        ("t5", "14000001", "00011400", 0, None),
        ("t6", "11000001", "00011100", 3, None),
    ):
        for data, is_little in ((big, False), (little, True)):
            for pad in (b"", b"\xaa\x55"):
                data_bytes = memoryview(pad + bytes.fromhex(data) + b"\x77")
                found = decode(data_bytes, len(pad), kind, exponent, is_little)
                assert found == expected, (kind, data, is_little, found)


def test_the_code_for_not_available_is_none():
    for kind, data, code in (
        ("u16", "ffff", 0xFFFF), ("i16", "8000", -0x8000), ("u32", "ffffffff", 0xFFFFFFFF),
        ("i32", "7fffffff", 0x7FFFFFFF), ("u64", "ff" * 8, (1 << 64) - 1),
        ("i64", "7f" + "ff" * 7, (1 << 63) - 1),
    ):
        assert decode(bytes.fromhex(data), 0, kind, 2, False, code) is None, kind
        assert decode(bytes.fromhex(data), 0, kind, 0, False, code + 1) == code, kind


def test_scaling_rounds_half_away_from_zero():
    for number, exponent, expected in (
        (5, 3, 5000), (-5, 3, -5000), (5, -1, 1), (4, -1, 0), (-4, -1, 0), (-5, -1, -1),
        (15, -1, 2), (-15, -1, -2), (25, -1, 3), (149, -2, 1), (150, -2, 2), (-150, -2, -2),
        (0, -9, 0), (1 << 64, 9, (1 << 64) * 1000000000),
    ):
        assert scaled(number, exponent) == expected, (number, exponent)


def test_an_unknown_type_is_an_error():
    raises(KeyError, decode, bytes(8), 0, "f64")


def test_the_table_is_the_registers_own_bits():
    for kwh in (0.001, 1.5, 1138.664, 8200.0, 131000.0, 10000000.0):
        high, low = _words(kwh)
        exact = struct.unpack(">f", struct.pack(">f", kwh))[0]
        assert abs(float32(high, low, 6) - exact * 1000000) <= 0.5 + exact / 1000000, kwh
