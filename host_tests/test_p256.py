import hashlib
import os

from evmeter.ledger import p256
from evmeter.ledger.p256_comb import TABLE
from vectors.cavp_p256 import SIGGEN

_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_TABLE_SHA256 = "773cd094cac50b844341d03cd057f580212a51b1220fc3ecd679ba94142bd950"


def _run(generator):
    """Return the generator's result and the number of its slices."""
    slices = 1
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value, slices
        slices += 1


def _random(limit):
    return int.from_bytes(os.urandom(40), "big") % (limit - 1) + 1


def _base(k):
    return _run(p256.base_mult(k, _random(p256.P)))[0]


def _add(a, b):
    """Add affine points the plain way, with Fermat's inverse; None is the infinite point."""
    if a is None or b is None:
        return a or b
    p = p256.P
    if a[0] == b[0]:
        if (a[1] + b[1]) % p == 0:
            return None
        slope = 3 * (a[0] * a[0] - 1) * pow(2 * a[1], p - 2, p)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], p - 2, p)
    x = (slope * slope - a[0] - b[0]) % p
    return x, (slope * (a[0] - x) - a[1]) % p


def _reference(k):
    result = None
    for bit in range(255, -1, -1):
        result = _add(result, result)
        if k >> bit & 1:
            result = _add(result, _G)
    return result


def test_the_table_is_the_generated_one():
    assert len(TABLE) == 4096
    digest = hashlib.sha256(TABLE).digest()
    assert "".join(["%02x" % byte for byte in digest]) == _TABLE_SHA256


def test_edge_scalars_agree_with_plain_double_and_add():
    n = p256.N
    scalars = [1, 2, 3, 4, 5, n - 1, n - 2, n - 3, n // 2, n // 2 + 1]
    # Where the comb's columns and teeth begin, and what their digits cannot hold
    scalars += [1 << bit for bit in (1, 21, 22, 23, 42, 43, 44, 85, 86, 87, 128, 129, 172, 214,
                                     215, 216, 254, 255)]
    scalars += [(1 << bit) - 1 for bit in (43, 86, 128, 215, 255)]
    scalars += [0xFFFFFFFF00000000 << 192, 2**256 - 2**224 - 1]
    for k in scalars:
        assert _base(k) == _reference(k), "%x" % k


def test_random_scalars_agree_and_the_blind_does_not_matter():
    for _ in range(4):
        k = _random(p256.N)
        expected = _reference(k)
        assert _base(k) == expected
        for blind in (1, 2, p256.P - 1):
            assert _run(p256.base_mult(k, blind))[0] == expected
        assert p256.on_curve(*expected)
        assert not p256.on_curve(expected[0], (expected[1] + 1) % p256.P)


def test_every_scalar_takes_the_same_number_of_slices():
    counts = [_run(p256.base_mult(k, 7))[1] for k in (1, p256.N - 1, 1 << 255, _random(p256.N))]
    assert min(counts) == max(counts)
    # One slice a comb column and a few more: short enough for the other tasks
    assert counts[0] >= 22


def test_inverses():
    for modulus in (p256.P, p256.N):
        numbers = [1, 2, 3, modulus - 1, modulus - 2, modulus + 5, 3 * modulus - 1]
        # Great quotients, early and late
        for bit in range(1, 256, 5):
            numbers += [1 << bit, (1 << bit) - 1, (1 << bit) + 1, modulus - (1 << bit)]
            numbers += [modulus >> bit, modulus // (bit + 1), modulus // (bit + 1) + 1]
        # None but small ones: the most steps
        numbers.append(modulus * 0x9E3779B97F4A7C15F39CC0605CEDC834 >> 128)
        numbers += [_random(modulus) for _ in range(50)]
        for a in numbers:
            found = p256.inverse(a, modulus)
            assert 0 < found < modulus and found * a % modulus == 1, "%x" % a
        for a in (0, modulus, 7 * modulus):
            assert p256.inverse(a, modulus) == 0


def test_nist_vectors():
    for d, k, digest, r, s in SIGGEN:
        d, k, r, s = (int(text, 16) for text in (d, k, r, s))
        digest = int(digest, 16).to_bytes(32, "big")
        found, _ = _run(p256.sign(d, digest, k, _random(p256.P), _random(p256.N)))
        assert found == (r, s)
        x, y = _base(d)
        assert _run(p256.verify(x, y, digest, r, s))[0] is True


def test_verify_refuses_what_is_not_the_signature():
    n = p256.N
    d = _random(n)
    x, y = _base(d)
    digest = os.urandom(32)
    r, s = _run(p256.sign(d, digest, _random(n), _random(p256.P), _random(n)))[0]
    assert _run(p256.verify(x, y, digest, r, s))[0] is True
    # The other root is a signature too: plain ECDSA takes a high and a low s.
    assert _run(p256.verify(x, y, digest, r, n - s))[0] is True
    other = bytes([digest[0] ^ 1]) + digest[1:]
    for qx, qy, text, a, b in (
        (x, y, other, r, s),
        (x, y, digest, r ^ 1, s),
        (x, y, digest, r, s ^ 1),
        (x, y, digest, r ^ 1 << 255, s),
        (x, y, digest, s, r),
        (x, y, digest, 0, s),
        (x, y, digest, r, 0),
        (x, y, digest, n, s),
        (x, y, digest, r, n),
        (x, y, digest, r + n, s),
        (x, y, digest, r, s + n),
        (x, y, digest, -r, s),
        (x, p256.P - y, digest, r, s),
        (x, y + 1, digest, r, s),
        (0, 0, digest, r, s),
        (x + p256.P, y, digest, r, s),
    ):
        assert _run(p256.verify(qx, qy, text, a, b))[0] is False


def test_crafted_signatures_meet_every_branch_of_the_addition():
    n = p256.N
    # A digest of zero: u1*G is the infinite point.
    d = _random(n)
    x, y = _base(d)
    zero = bytes(32)
    r, s = _run(p256.sign(d, zero, _random(n), _random(p256.P), _random(n)))[0]
    assert _run(p256.verify(x, y, zero, r, s))[0] is True
    # u1*G + u2*Q infinite: e = -r d makes it so for every s.
    digest = ((n - r * d) % n).to_bytes(32, "big")
    assert _run(p256.verify(x, y, digest, r, 5))[0] is False
    # Small public keys: table points and accumulator meet in equal and opposite points.
    for small in (1, 2, 3, 4, 5, 7, 8, n - 1, n - 2, n - 3):
        qx, qy = _base(small)
        for digest in (zero, (1).to_bytes(32, "big"), os.urandom(32)):
            for k in (1, 2, 3, n - 1, _random(n)):
                r, s = _run(p256.sign(small, digest, k, 3, 5))[0]
                if r and s:
                    assert _run(p256.verify(qx, qy, digest, r, s))[0] is True
                    assert _run(p256.verify(qx, qy, digest, r, s % (n - 1) + 1))[0] is False
