"""How the tools put values and foreign text for people."""

import textwrap

WIDTH = 80


def clean(text):
    """Return text that is safe on a terminal: what does not print is shown escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in str(text)
    )


def is_plain(value, longest):
    """Whether it is a text of at most `longest` that can be stored and shown anywhere."""
    return (isinstance(value, str) and len(value) <= longest and value.isascii()
            and (value.isprintable() or not value))


def kwh(mwh):
    """Return an energy in mWh as kWh, six decimals, trailing zeros beyond the third left out."""
    sign = "-" if mwh < 0 else ""
    whole, rest = divmod(abs(mwh), 1_000_000)
    digits = "%06d" % rest
    return "%s%d.%s%s" % (sign, whole, digits[:3], digits[3:].rstrip("0"))


def wrap(text, indent):
    """Return lines of at most 80 columns; the later ones are indented as far as the first."""
    return textwrap.wrap(
        clean(text), WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent)
    )
