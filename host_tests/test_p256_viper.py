import os

from evmeter.ledger import p256, p256_viper
from vectors.cavp_p256 import SIGGEN

_PYTHON = (p256._comb, p256.verify, p256.inverse)
_WHY = p256_viper.install(os.urandom)
_KERNEL = (p256._comb, p256.verify, p256.inverse)
# what runs after this in the same process is Python's own
p256._comb, p256.verify, p256.inverse = _PYTHON


def _run(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def _random(limit):
    return int.from_bytes(os.urandom(40), "big") % (limit - 1) + 1


def _base(comb, k, blind):
    return p256._affine(*_run(comb(k, blind)))


def test_either_the_kernel_is_in_place_or_it_says_why_not():
    for kernel, python in zip(_KERNEL, _PYTHON):
        assert (_WHY == "") == (kernel != python)


def test_edge_scalars_agree_with_python():
    if _WHY:
        return
    n = p256.N
    scalars = [1, 2, 3, 4, 5, n - 1, n - 2, n // 2, 0xFFFFFFFF00000000 << 192, n - (1 << 200)]
    scalars += [1 << bit for bit in (1, 21, 22, 42, 43, 44, 85, 86, 128, 215, 255)]
    scalars += [(1 << bit) - 1 for bit in (43, 86, 128, 255)]
    scalars += [_random(n) for _ in range(4)]
    for k in scalars:
        for blind in (1, p256.P - 1, _random(p256.P)):
            assert _base(_KERNEL[0], k, blind) == _base(_PYTHON[0], k, 7), "%x" % k


def test_inverses_agree_with_python():
    if _WHY:
        return
    for m in (p256.P, p256.N):
        numbers = [1, 2, 3, 4, 5, m - 1, m - 2, m // 2, m // 2 + 1, m + 5, 3 * m - 1]
        for bit in range(1, 256, 13):
            numbers += [1 << bit, (1 << bit) - 1, (1 << bit) + 1, m - (1 << bit), m >> bit]
        numbers += [_random(m) for _ in range(40)]
        for a in numbers:
            assert _KERNEL[2](a, m) == _PYTHON[2](a, m), "%x" % a
        assert _KERNEL[2](0, m) == _KERNEL[2](m, m) == _KERNEL[2](7 * m, m) == 0


def _vectors():
    for vector in SIGGEN:
        d, k, digest, r, s = [int(text, 16) for text in vector]
        yield d, k, digest.to_bytes(32, "big"), r, s


def test_nist_vectors():
    if _WHY:
        return
    for d, k, digest, r, s in _vectors():
        x, _ = _base(_KERNEL[0], k, _random(p256.P))
        assert x % p256.N == r
        qx, qy = _base(_KERNEL[0], d, 5)
        assert _run(_KERNEL[1](qx, qy, digest, r, s)) is True
        assert _run(_KERNEL[1](qx, qy, digest, r, s ^ 2)) is False
        assert _run(_KERNEL[1](qx, qy, digest, r ^ 2, s)) is False


def test_two_signatures_under_way_do_not_disturb_each_other():
    if _WHY:
        return
    k = [_random(p256.N) for _ in range(2)]
    both = [_KERNEL[0](one, 3) for one in k]
    found = [None, None]
    while None in found:
        for i in range(2):
            try:
                if found[i] is None:
                    next(both[i])
            except StopIteration as end:
                found[i] = end.value
    for i in range(2):
        assert p256._affine(*found[i]) == _base(_PYTHON[0], k[i], 1)


def test_crafted_signatures_get_the_same_answer():
    if _WHY:
        return
    n = p256.N
    zero = bytes(32)
    for small in (1, 2, 3, 8, n - 1, n - 3):
        qx, qy = _base(_PYTHON[0], small, 1)
        for digest in (zero, (1).to_bytes(32, "big"), os.urandom(32)):
            for k in (1, 3, _random(n)):
                r, s = _run(p256.sign(small, digest, k, 3, 5))
                if r and s:
                    assert _run(_KERNEL[1](qx, qy, digest, r, s)) is True
                    assert _run(_KERNEL[1](qx, qy, digest, r, s % (n - 1) + 1)) is False
        digest = ((n - 77 * small) % n).to_bytes(32, "big")  # u1*G + u2*Q is infinite
        assert _run(_KERNEL[1](qx, qy, digest, 77, 5)) is False
    assert _run(_KERNEL[1](qx, qy + 1, zero, 1, 1)) is False
    assert _run(_KERNEL[1](qx, qy, zero, 0, 1)) is False


class _Python:
    def inverse(self, a, m):
        return _PYTHON[2](a, m)

    def comb(self, k, blind):
        return (yield from _PYTHON[0](k, blind))

    def verify(self, qx, qy, digest, r, s):
        return (yield from _PYTHON[1](qx, qy, digest, r, s))


class _Wrong(_Python):
    def comb(self, k, blind):
        x, y, zz, zzz = yield from _PYTHON[0](k, blind)
        return x ^ 1, y, zz, zzz


class _Credulous(_Python):
    def verify(self, qx, qy, digest, r, s):
        yield
        return True


class _Suspicious(_Python):
    def verify(self, qx, qy, digest, r, s):
        yield
        return False


class _Halved(_Python):
    def __init__(self, modulus):
        self._modulus = modulus

    def inverse(self, a, m):
        return _PYTHON[2](2 * a if m == self._modulus else a, m)


def test_a_kernel_that_computes_wrong_is_not_taken():
    assert p256_viper._right(_Python(), os.urandom) is True
    for wrong in (_Wrong(), _Credulous(), _Suspicious(), _Halved(p256.P), _Halved(p256.N)):
        assert p256_viper._right(wrong, os.urandom) is False
