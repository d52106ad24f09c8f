"""ECDSA on NIST P-256 in big-integer Python, cut into slices.

Whatever takes long is a generator: each `yield` is a place where the caller may let other tasks
run, and the result is the generator's return value. On an ESP32 at 160 MHz a slice is about ten
to twenty milliseconds by estimate (13,970 instructions for one multiplication modulo p).

Multiples of the base point use a signed all-bits comb (Lim and Lee, CRYPTO '94; Hedabou, Pinel
and Beneteau for the signed digits): every column has a digit other than zero, so that each
scalar takes the same sequence of doublings and additions. Points are (X, Y, ZZ, ZZZ) with
x = X/ZZ, y = Y/ZZZ and ZZ^3 = ZZZ^2; a = -3; names of formulas as in the Explicit-Formulas
Database. Big-integer arithmetic does not take constant time; the caller randomises Z and blinds
the inverse.

`pow(x, -1, m)` is not used: it returns 0 on MicroPython.
"""

from micropython import const

from evmeter.ledger.p256_comb import TABLE

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

_ALL = (1 << 256) - 1
_INFINITY = (0, 1, 0, 0)
_BITS = const(256)
# The shape of the comb, as in tools/evmeter_tools/comb.py
_TEETH = const(6)
_SPACING = const(43)
_COLUMNS = const(22)  # in the lower sub-table; the upper one has one less
_MASK = const((1 << _TEETH - 1) - 1)
_HALF = const(1 << 15)


def inverse(a, m):
    """Return the inverse of `a` modulo the prime `m`, less than 2**256; 0 for a multiple of `m`.

    Euclid's algorithm, by the leading 30 bits first (Lehmer): a quotient that they get wrong
    costs a step at the end. Its time depends on `a`, so a secret `a` comes multiplied by a random
    blind.
    """
    a %= m
    b, u, v = m, 1, 0  # of a = u * the first a, b = v * the first a, modulo m
    for shift in range(226, 0, -14):
        x = b >> shift
        y = a >> shift
        p, q, r, s = 1, 0, 0, 1
        while y > _HALF:  # two steps a round: nothing is moved from name to name
            quotient = x // y
            x %= y
            p -= quotient * r
            q -= quotient * s
            if x <= _HALF:
                p, q, r, s = r, s, p, q
                break
            quotient = y // x
            y %= x
            r -= quotient * p
            s -= quotient * q
        b, a = p * b + q * a, r * b + s * a
        v, u = p * v + q * u, r * v + s * u
        if b < 0:
            b, v = -b, -v
        if a < 0:
            a, u = -a, -u
    while a:
        q, b = divmod(b, a)
        v -= q * u
        if not b:
            return u % m
        q, a = divmod(a, b)
        u -= q * v
    return v % m


def _double(x, y, zz, zzz):
    """Double a point: dbl-2008-s-1, with a = -3."""
    u = 2 * y
    v = u * u % P
    w = u * v % P
    s = x * v % P
    m = 3 * (x - zz) * (x + zz) % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - w * y) % P, v * zz % P, w * zzz % P


def _add(x1, y1, zz, zzz, x2, y2):
    """Add the affine point (x2, y2) to a point: madd-2008-s.

    The infinite point has ZZ = 0. The branches are met by crafted scalars only.
    """
    h = x2 * zz % P - x1
    r = y2 * zzz % P - y1
    if not h:
        if not zz:
            return x2, y2, 1, 1
        return _INFINITY if r else _double(x1, y1, zz, zzz)
    hh = h * h % P
    hhh = h * hh % P
    v = x1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - y1 * hhh) % P, zz * hh % P, zzz * hhh % P


def _affine(x, y, zz, zzz):
    """Return (x, y). A factor common to all four does not matter."""
    common = inverse(zz * zzz, P)
    # what `%` leaves takes twice the memory that its value needs; what `&` leaves does not
    return x * zzz % P * common % P & _ALL, y * zz % P * common % P & _ALL


def on_curve(x, y):
    """Tell whether (x, y) is a point of the curve, other than the infinite one."""
    return 0 <= x < P and 0 <= y < P and (y * y - x * (x * x - 3) - _B) % P == 0


def _codes(k):
    """Return one byte for each comb column of the scalar k, 0 < k < N: index and sign."""
    negative = ~k & 1
    # Digits of +-1 stand for an odd scalar; N is odd, so that one of k and N - k is.
    k = (k, N - k)[negative]
    k = (k >> 1 | 1 << _TEETH * _SPACING - 1).to_bytes(_TEETH * _SPACING + 7 >> 3, "little")
    codes = bytearray(_SPACING)
    for column in range(_SPACING):
        code = 0
        for bit in range(column + (_TEETH - 1) * _SPACING, -1, -_SPACING):
            code = code << 1 | k[bit >> 3] >> (bit & 7) & 1
        # The top tooth's sign is factored out: where it is clear, the whole point is negated.
        sign = code >> _TEETH - 1
        codes[column] = (code ^ sign - 1) & _MASK | (sign ^ negative) << _TEETH - 1
    return codes


def _point(code, table):
    """Return the affine point of a column's code in one of the sub-tables."""
    at = (table << _TEETH - 1 | code & _MASK) << 6
    y = int.from_bytes(TABLE[at + 32 : at + 64], "little")
    return int.from_bytes(TABLE[at : at + 32], "little"), (P - y, y)[code >> _TEETH - 1]


def _comb(k, blind):
    """The comb: a generator that returns k*G with ZZ scaled by `blind`, as (x, y, zz, zzz)."""
    codes = _codes(k)
    yield
    x, y = _point(codes[_COLUMNS - 1], 0)
    zz = blind * blind % P
    zzz = zz * blind % P
    x, y = x * zz % P, y * zzz % P
    for column in range(_COLUMNS - 2, -1, -1):
        x, y, zz, zzz = _double(x, y, zz, zzz)
        x2, y2 = _point(codes[column + _COLUMNS], 1)
        x, y, zz, zzz = _add(x, y, zz, zzz, x2, y2)
        x2, y2 = _point(codes[column], 0)
        x, y, zz, zzz = _add(x, y, zz, zzz, x2, y2)
        yield
    return x, y, zz, zzz


def base_mult(k, blind):
    """Multiply the base point: a generator that returns the affine (x, y) of k*G.

    `k` is 1..N-1; `blind`, 1..P-1, scales Z and is to be drawn afresh for a secret `k`.
    """
    point = yield from _comb(k, blind)
    return _affine(*point)


def sign(d, digest, k, z_blind, k_blind):
    """Sign: a generator that returns (r, s).

    `d` is the secret key and `k` the nonce, 1..N-1; `digest` has 32 bytes; `z_blind` (1..P-1) and
    `k_blind` (1..N-1) are random. An r or s of zero, which the standard refuses, is returned as
    it is and fails in `verify`.
    """
    x, _, zz, _ = yield from _comb(k, z_blind)
    yield
    r = x * inverse(zz, P) % P % N
    yield
    e = int.from_bytes(digest, "big")
    # (k b)^-1 (e b + r (d b)): neither k nor d meets a variable-time step without the blind b
    s = (e * k_blind + r * (d * k_blind % N)) % N
    s = s * inverse(k * k_blind % N, N) % N
    return r, s


def _wnaf(k):
    """Return the digits of k in non-adjacent form of width 4, lowest first. Of four digits one at
    most is not zero: four share a byte, (place << 4 | digit + 8), or 0 where all are zero."""
    digits = bytearray((_BITS >> 2) + 1)
    for i in range(_BITS + 1):
        if k & 1:
            digit = (k & 15 ^ 8) - 8
            k -= digit
            digits[i >> 2] = (i & 3) << 4 | digit + 8
        k >>= 1
    return digits


def verify(qx, qy, digest, r, s):
    """Check a signature: a generator that returns True or False.

    (qx, qy) is the public key, checked to be on the curve. Not for secrets: the time depends on
    the values.
    """
    if not (0 < r < N and 0 < s < N and on_curve(qx, qy)):
        return False
    w = inverse(s, N)
    yield
    u1 = int.from_bytes(digest, "big") * w % N
    # A digest of zero has no comb digits and adds nothing.
    codes = _codes(u1) if u1 else None
    digits = _wnaf(r * w % N)
    s = w = u1 = None  # what is to come needs the memory
    # Q, 3Q, 5Q, 7Q
    x2, y2 = _affine(*_double(qx, qy, 1, 1))
    yield
    multiples = [(qx, qy)]
    for _ in range(3):
        x, y = multiples[-1]
        multiples.append(_affine(*_add(x, y, 1, 1, x2, y2)))
        yield
    x, y, zz, zzz = _INFINITY
    for i in range(_BITS, -1, -1):
        x, y, zz, zzz = _double(x, y, zz, zzz)
        digit = digits[i >> 2]
        if digit and digit >> 4 == i & 3:
            digit = (digit & 15) - 8
            x2, y2 = multiples[abs(digit) >> 1]
            x, y, zz, zzz = _add(x, y, zz, zzz, x2, y2 if digit > 0 else P - y2)
        if codes and i < _COLUMNS:
            # The comb's columns share the last doublings.
            x2, y2 = _point(codes[i], 0)
            x, y, zz, zzz = _add(x, y, zz, zzz, x2, y2)
            if i < _COLUMNS - 1:
                x2, y2 = _point(codes[i + _COLUMNS], 1)
                x, y, zz, zzz = _add(x, y, zz, zzz, x2, y2)
        if not i & 3:
            yield
    if not zz:
        return False
    # x / zz is r modulo N; P is less than 2 N
    return r * zz % P == x or (r + N < P and (r + N) * zz % P == x)
