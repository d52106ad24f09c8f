"""Meter registers to whole numbers, by integer arithmetic alone.

The ESP32's floats have 32 bits: a float32 register in kWh multiplied by a million as a float would
lose watt-hours. Here the register's bits are taken apart and scaled exactly.
"""

from micropython import const

WORDS = {"u16": 1, "i16": 1, "u32": 2, "i32": 2, "f32": 2, "t5": 2, "t6": 2, "u64": 4, "i64": 4}

_HUGE = const(167)  # biased exponent of 2**40: no quantity of a meter is as large in its unit
_TINY = const(60)  # mantissa * 10**9 >> 60 is below one half
_MOST = const(19)  # decimal exponents beyond: no quantity of a meter


def scaled(number, exponent):
    """`number` times 10**exponent, rounded half away from zero."""
    if exponent >= 0:
        return number * 10**exponent
    divisor = 10**-exponent
    if number < 0:
        return -((divisor // 2 - number) // divisor)
    return (number + divisor // 2) // divisor


def float32(high, low, exponent):
    """The IEEE 754 float32 with the 16-bit words `high`, `low` times 10**exponent (at most 9),
    rounded half away from zero; None for NaN, infinity and magnitudes from 2**40.

    On a 32-bit MicroPython no big integer is made unless the result is one.
    """
    biased = (high >> 7) & 0xFF
    if biased >= _HUGE:
        return None
    shift = 150 - biased  # the magnitude is mantissa / 2**shift
    if shift > _TINY:
        return 0
    mantissa = 0x800000 | (high & 0x7F) << 16 | low
    if exponent < 0:
        divisor = 10**-exponent << max(shift, 0)
        whole = ((mantissa << max(-shift, 0)) + divisor // 2) // divisor
    elif shift <= 0:
        whole = (mantissa << -shift) * 10**exponent
    else:
        whole = mantissa >> shift
        rest = mantissa - (whole << shift)
        fraction = 0
        for _ in range(exponent):  # one decimal digit at a time: the rest stays small
            rest *= 10
            digit = rest >> shift
            rest -= digit << shift
            fraction = fraction * 10 + digit
        if rest >> (shift - 1):
            fraction += 1
        whole = whole * 10**exponent + fraction
    return -whole if high & 0x8000 else whole


def decode(data, at, kind, exponent=0, little=False, missing=None):
    """The value of the register at byte `at` of `data` times 10**exponent (at most 9).

    `kind` is a key of WORDS; bytes come high first, words low first if `little`. t5 and t6 are
    Iskra's: a signed decimal exponent in the top byte, then a mantissa of 24 bits, unsigned or
    signed. Returns None for the meter's own "not available" code `missing` and for what is no
    number or none that a meter can mean.
    """
    step = 2
    words = WORDS[kind]
    if little:
        at += 2 * words - 2
        step = -2
    number = data[at] << 8 | data[at + 1]
    if kind == "f32":
        at += step
        return float32(number, data[at] << 8 | data[at + 1], exponent)
    if number & 0x8000 and kind < "j":  # i16, i32, i64
        number -= 0x10000
    while words > 1:
        at += step
        number = number << 16 | data[at] << 8 | data[at + 1]
        words -= 1
    if number == missing:
        return None
    if kind[0] == "t":
        own = number >> 24
        number &= 0xFFFFFF
        exponent += own - 0x100 if own & 0x80 else own
        if exponent > _MOST:
            return None
        if number & 0x800000 and kind == "t6":
            number -= 0x1000000
    return scaled(number, exponent)
