"""P-256 on the native field arithmetic of p256_field: for 32-bit machines with viper.

`install()` puts a kernel's `comb`, `inverse` and `verify` in the place of those of p256.py, which
stays the judge: it checks the kernel first, and takes over where the formulas have no answer
(crafted numbers only). The table (p256_comb_native.py) takes 10 KiB; the native code of an ESP32,
20 KiB, lies outside the heap.
"""

import sys

from micropython import const

from evmeter.ledger import p256
from evmeter.ledger.p256 import N, P
from evmeter.system.forget import forget

_BITS = const(256)

# Registers
_X = const(0)
_Y = const(1)
_ZZ = const(2)
_ZZZ = const(3)
_X2 = const(4)
_Y2 = const(5)
_U = const(6)
_V = const(7)
_W = const(8)
_S = const(9)
_T = const(10)
_SQUARE = const(11)  # 2**520: what makes a number into Montgomery form
_MONT = const(12)  # 2**260
_PRIME = const(13)
_ZERO = const(14)
_Q = const(15)  # multiples of the public key: x, y, -y of Q, 3Q, 5Q, 7Q
# Registers of an inverse (p256_field.invert)
_OF = const(1)
_INVERSE = const(2)
_MODULUS = const(4)  # P, then N
_REGISTER = const(80)
_BYTES = const(33)

# Steps (p256_field.run); the formulas are those of p256.py
_MUL = const(0)
_SUB = const(1)
_LESS_2 = const(3)
_LESS = const(4)
_PLUS = const(6)
_PLUS_2 = const(7)
_LOAD = const(8)
_DOUBLE = bytes((
    _PLUS, _U, _Y, _Y,
    _MUL, _V, _U, _U,
    _MUL, _W, _U, _V,
    _MUL, _S, _X, _V,
    _PLUS, _T, _X, _ZZ,
    _SUB, _U, _X, _ZZ,
    _MUL, _U, _U, _T,
    _PLUS_2, _U, _U, _U,
    _MUL, _T, _U, _U,
    _LESS_2, _X, _T, _S,
    _SUB, _S, _S, _X,
    _MUL, _S, _U, _S,
    _MUL, _T, _W, _Y,
    _LESS, _Y, _S, _T,
    _MUL, _ZZ, _V, _ZZ,
    _MUL, _ZZZ, _W, _ZZZ,
))
_ADD = bytes((
    _MUL, _U, _X2, _ZZ,
    _MUL, _W, _Y2, _ZZZ,
    _SUB, _U, _U, _X,
    _SUB, _W, _W, _Y,
    _MUL, _S, _U, _U,
    _MUL, _U, _U, _S,
    _MUL, _V, _X, _S,
    _MUL, _X, _W, _W,
    _SUB, _X, _X, _U,
    _LESS_2, _X, _X, _V,
    _SUB, _V, _V, _X,
    _MUL, _V, _W, _V,
    _MUL, _T, _Y, _U,
    _LESS, _Y, _V, _T,
    _MUL, _ZZ, _ZZ, _S,
    _MUL, _ZZZ, _ZZZ, _U,
))
_COLUMNS = const(11)  # in each of the four sub-tables; the highest one has one less
_ADD_X2 = const(2)  # where the step's bytes name the point that is added
_ADD_Y2 = const(6)
_MIDDLE = (bytes((_LOAD, _X2, _COLUMNS, 1)) + _ADD
           + bytes((_LOAD, _X2, 2 * _COLUMNS, 2)) + _ADD)
_HIGHEST = bytes((_LOAD, _X2, 0, 0)) + _ADD + _MIDDLE
_ALL = bytes((_LOAD, _X2, 3 * _COLUMNS, 3)) + _ADD + _HIGHEST
_COLUMN = _DOUBLE + _ALL
# The point of a column with Z scaled: the blind is in U
_FIRST = bytes((
    _LOAD, _X, 0, 0,
    _MUL, _ZZ, _U, _U,
    _MUL, _ZZZ, _ZZ, _U,
    _MUL, _X, _X, _ZZ,
    _MUL, _Y, _Y, _ZZZ,
))
# T is 1 / ZZZ, less twice the factor 2**260: x = X (ZZ / ZZZ)**2 and y = Y / ZZZ
_AFFINE = bytes((
    _MUL, _T, _T, _SQUARE,
    _MUL, _T, _T, _SQUARE,
    _MUL, _U, _ZZ, _T,
    _MUL, _U, _U, _U,
    _MUL, _X, _X, _U,
    _MUL, _Y, _Y, _T,
))
_FORM = bytes((_MUL, _X, _X, _SQUARE, _MUL, _Y, _Y, _SQUARE))
_AT_ONE = bytes((_SUB, _ZZ, _MONT, _ZERO, _SUB, _ZZZ, _MONT, _ZERO))


def _copy(to, x, y):
    """Steps that copy a point to registers `to` and the next."""
    return bytes((_SUB, to, x, _ZERO, _SUB, to + 1, y, _ZERO))


def _finish(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def _codes(field, k):
    """As p256._codes."""
    negative = ~k & 1
    k = (k, N - k)[negative] >> 1 | 1 << 257
    codes = bytearray(43)
    field.recode(k.to_bytes(_BYTES, "little"), negative, codes)
    return codes


class Kernel:
    """`field` is the module p256_field, or one that offers the same."""

    def __init__(self, field):
        self._field = field
        # p256.py may be about to use another kernel: these are Python's own
        self._plain_comb = p256._comb
        self._plain_verify = p256.verify
        from evmeter.ledger.p256_comb_native import TABLE

        self._table = bytearray(TABLE)  # half-words: a constant may lie at an odd address
        forget("evmeter.ledger", "p256_comb_native")
        regs = bytearray(_Q * _REGISTER)
        for register, number in ((_SQUARE, (1 << 520) % P), (_MONT, (1 << 260) % P), (_PRIME, P)):
            self._put(regs, register, number)
        self._initial = bytes(regs)
        self._inverse = bytearray((_MODULUS + 2) * _REGISTER)
        self._put(self._inverse, _MODULUS, P)
        self._put(self._inverse, _MODULUS + 1, N)

    def _put(self, regs, register, number):
        self._field.unpack(number.to_bytes(_BYTES, "little"), regs, register)

    def _run(self, regs, program, codes=b"", column=0):
        self._field.run(regs, regs, 0, regs, program, len(program), codes, column, self._table)

    def _number(self, regs, register, add=_PRIME, m=P):
        """A register modulo `m`; register `add` holds `m`."""
        data = bytearray(_BYTES)
        self._field.pack(regs, register, add, data)
        return int.from_bytes(data, "little") % m

    def inverse(self, a, m):
        """As p256.inverse, in the same time for every `a`; 0 for a multiple of `m`."""
        regs = self._inverse
        modulus = _MODULUS + (m == N)
        self._put(regs, _OF, a % m)
        self._field.invert(0, 0, 0, regs, modulus)
        return self._number(regs, _INVERSE, modulus, m)

    def _affine(self, regs):
        """Make X and Y affine."""
        self._put(regs, _T, self.inverse(self._number(regs, _ZZZ), P))
        self._run(regs, _AFFINE)

    def comb(self, k, blind):
        """As p256._comb: a generator that returns k*G, all four times 2**260."""
        codes = _codes(self._field, k)
        regs = bytearray(self._initial)  # its own: two signatures may be under way
        self._put(regs, _U, blind)
        yield
        self._run(regs, _FIRST + _MIDDLE, codes, _COLUMNS - 1)
        for column in range(_COLUMNS - 2, -1, -1):
            self._run(regs, _COLUMN, codes, column)
            if not column & 1:
                yield
        point = [self._number(regs, register) for register in (_X, _Y, _ZZ, _ZZZ)]
        if point[2]:
            return point
        # An addition met equal or opposite points, which it cannot tell: a crafted k
        return (yield from self._plain_comb(k, blind))

    def _multiples(self, regs, qx, qy):
        """Put Q, 3Q, 5Q and 7Q into their registers."""
        self._put(regs, _X, qx)
        self._put(regs, _Y, qy)
        self._run(regs, _FORM + _copy(_Q, _X, _Y) + _AT_ONE + _DOUBLE)
        self._affine(regs)
        self._run(regs, _copy(_X2, _X, _Y))
        yield
        for at in range(_Q, _Q + 9, 3):
            self._run(regs, _copy(_X, at, at + 1) + _AT_ONE + _ADD)
            self._affine(regs)
            self._run(regs, _copy(at + 3, _X, _Y))
            yield
        for at in range(_Q, _Q + 12, 3):
            self._run(regs, bytes((_SUB, at + 2, _ZERO, at + 1)))

    def verify(self, qx, qy, digest, r, s):
        """As p256.verify."""
        if not (0 < r < N and 0 < s < N and p256.on_curve(qx, qy)):
            return False
        w = self.inverse(s, N)
        yield
        u1 = int.from_bytes(digest, "big") * w % N
        codes = _codes(self._field, u1) if u1 else None
        digits = p256._wnaf(r * w % N)
        yield
        regs = bytearray((_Q + 12) * _REGISTER)
        regs[:len(self._initial)] = self._initial
        yield from self._multiples(regs, qx, qy)
        add = bytearray(_ADD)
        started = False
        for i in range(_BITS, -1, -1):
            if started:
                self._run(regs, _DOUBLE)
            digit = digits[i >> 2]
            if digit and digit >> 4 == i & 3:
                digit = (digit & 15) - 8
                at = _Q + 3 * (abs(digit) >> 1)
                y_at = at + 1 if digit > 0 else at + 2
                if started:
                    add[_ADD_X2], add[_ADD_Y2] = at, y_at
                    self._run(regs, add)
                else:
                    self._run(regs, _copy(_X, at, y_at) + _AT_ONE)
                    started = True
            if codes and i < _COLUMNS:
                # The comb's columns share the last doublings; the highest has a point less.
                self._run(regs, _HIGHEST if i == _COLUMNS - 1 else _ALL, codes, i)
            if not i & 7:
                yield
        zz = self._number(regs, _ZZ)
        if zz:
            return self._number(regs, _X) * self.inverse(zz, P) % P % N == r
        return (yield from self._plain_verify(qx, qy, digest, r, s))


def _right(kernel, urandom):
    """Whether the kernel agrees with p256.py: a random multiple and inverses, a signature, a wrong
    one."""
    d, k, blind, e = [int.from_bytes(urandom(32), "big") % (N - 1) + 1 for _ in range(4)]
    point = p256._affine(*_finish(p256._comb(k, blind)))
    if p256._affine(*_finish(kernel.comb(k, blind))) != point:
        return False
    for m in (P, N):
        if kernel.inverse(k, m) != p256.inverse(k, m):
            return False
    r = point[0] % N
    s = (e + r * d) * p256.inverse(k, N) % N
    qx, qy = p256._affine(*_finish(kernel.comb(d, k)))
    digest = e.to_bytes(32, "big")
    return (_finish(kernel.verify(qx, qy, digest, r, s)) is True
            and _finish(kernel.verify(qx, qy, digest, r, s ^ 1)) is False)


def install(urandom):
    """Let p256.py use a kernel where one can run and computes what p256.py does.

    Returns "", or why p256.py goes on as it was. Takes as long as two signatures in Python,
    without giving way: it belongs to the start, before the signer is made.
    """
    if sys.maxsize >> 32:
        return "a machine of more than 32 bits"
    try:
        from evmeter.ledger import p256_field

        kernel = Kernel(p256_field)
    except (ImportError, SyntaxError, ValueError, NameError, TypeError, MemoryError) as error:
        # No native code in this image, an .mpy for another chip, no room
        return "it does not load: %r" % error
    if not _right(kernel, urandom):
        return "its results are wrong"
    p256._comb = kernel.comb
    p256.inverse = kernel.inverse
    p256.verify = kernel.verify
    return ""
