"""The configuration as it is reported (cfg): without what is secret, and without what is too long.

Loaded for each connection to the broker, when memory is scarcest: it needs nothing of config.py.
"""

import hashlib
import json
from binascii import hexlify

from micropython import const

SECRET = ("mqtt.password", "mqtt.key", "network.password")
_LONG = ("mqtt.ca", "mqtt.certificate")
_FIELD = "tariff"  # may be a dict, and is no section
_MOST_SHOWN = const(2300)  # bytes of a message's 2,560; before them 85, and why in up to 160
_MOST_WHY = const(160)
_WHY_BYTES = const(120)
BAD = "cfg_bad"  # the newest revision that was put back, and why


def fields(settings):
    """Yield (path, section, name, value) of every field."""
    for section, part in settings.items():
        if isinstance(part, dict) and section != _FIELD:
            for name, value in part.items():
                yield section + "." + name, section, name, value
        else:
            yield section, "", section, part


def _digest(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return "sha256:" + hexlify(hashlib.sha256(text.encode()).digest()[:8]).decode()


def show(path, value):
    """What stands for a value that is not shown."""
    return "set" if path in SECRET else _digest(value)


def _length(value):
    text = json.dumps(value)
    return len(text.encode() if isinstance(value, dict) else text)  # the others are ASCII


def _hidden(settings):
    """Paths of the fields that are not shown: where there is too much, the longest of them."""
    for most in (_MOST_SHOWN, 500, 150, 40):
        size, hidden = 16 * len(settings), list(SECRET + _LONG)
        for path, _, name, value in fields(settings):
            length = 0 if path in hidden else _length(value)
            if length > most:
                hidden.append(path)
            size += len(path) + 31 if path in hidden else len(name) + 4 + length
        if size <= _MOST_SHOWN:
            break
    return hidden


def _kept(settings, hidden):
    return {path: show(path, value) for path, _, _, value in fields(settings)
            if value is not None and path in hidden}


def kept(settings):
    """What stands for the hidden fields that are set, by path: "set" or the beginning of the
    SHA-256."""
    return _kept(settings, _hidden(settings))


def members(settings):
    """Yield the text, in parts, of two members of a JSON object: `cfg`, the configuration without
    what is hidden, and `kept`."""
    hidden, inside = _hidden(settings), ""
    comma = '"cfg":{'
    for path, section, name, value in fields(settings):
        if path == "rev" or path in hidden:
            continue
        if section != inside:
            if inside:
                yield "}"
            if section:
                yield '%s"%s":' % (comma, section)
                comma = "{"
            inside = section
        yield '%s"%s":%s' % (comma, name, json.dumps(value))
        comma = ","
    yield '%s},"kept":%s' % ("}" if inside else "", json.dumps(_kept(settings, hidden)))


def refused(nvs):
    """(revision, why) of the newest configuration that was put back, or None."""
    buffer = bytearray(_WHY_BYTES)
    try:
        length = nvs.get_blob(BAD, buffer)
    except OSError:  # there was none
        return None
    rev, _, why = bytes(buffer[:length]).decode().partition(" ")
    return int(rev), why


def report(app, wished=0, why=""):
    """Yield the text of `cfg` in parts. `wished`: the revision of a wish that was refused, and
    why."""
    settings = app.config
    bad = refused(app.board.nvs)
    if bad and not why:
        wished, why = bad
    unix_ms, quality = app.clock.now()
    while len(json.dumps(why).encode()) > _MOST_WHY:
        why = why[:-8]
    yield '{"v":1,"ts":%d,"tq":"%s","rev":%d,"wish":%d,"err":%s,' % (
        unix_ms // 1000, quality, settings["rev"], wished, json.dumps(why))
    yield from members(settings)
    yield "}"
