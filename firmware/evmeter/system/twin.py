"""The configuration as a twin: what is reported (cfg), what is wished (cfg/set), what differs.

What is secret is never reported, and neither is what is too long; where a wish leaves such a field
out, it stays as it is. Any other field that is left out gets its default.

Only the few fields in `_OPEN` may be changed by anyone who may write to the broker. Everything
else decides what is measured, whose it is, how good its time is or who may give orders: it needs
an operator's signature, and is written into the audit log with its old and its new value.
"""

import hashlib
import json
from binascii import hexlify

from micropython import const

from evmeter.system import config, trial

_SECRET = ("mqtt.password", "mqtt.key", "network.password")
_LONG = ("mqtt.ca", "mqtt.certificate")
# hidden, in this order, where need be
_LARGE = ("tariff", "meter.profile", "operator.keys", "update.keys")
_OPEN = ("rev", "mqtt.keepalive_s", "mqtt.window", "mqtt.telemetry_s",
         "session.finished_after_s", "session.checkpoint_s")
_FIXED = ("journal.store",)  # what lies on flash would not be found any more
_MOST_SHOWN = const(1900)  # bytes of a message's 2,560
_MOST_WHY = const(120)
_MOST_TOLD = const(1800)
_MOST_VALUE = const(48)


def _fields(settings):
    """Yield (path, section, name, value) of every field."""
    for section in config.FIELDS:
        part = settings[section] if section else settings
        for name in config.FIELDS[section]:
            yield (section + "." + name if section else name), section, name, part[name]


def _digest(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return "sha256:" + hexlify(hashlib.sha256(text.encode()).digest()[:8]).decode()


def _show(path, value):
    """What stands for a value that is not shown."""
    return "set" if path in _SECRET else _digest(value)


def shown(settings):
    """(the configuration without what is hidden, {path of a hidden field that is set: "set" or
    the beginning of its SHA-256})."""
    hidden = _SECRET + _LONG
    for more in range(len(_LARGE) + 1):
        result, kept = {}, {}
        for path, section, name, value in _fields(settings):
            if path in hidden or (path in _LARGE[:more] and isinstance(value, (dict, list))):
                if value is not None:
                    kept[path] = _show(path, value)
            elif path != "rev":
                (result.setdefault(section, {}) if section else result)[name] = value
        if len(json.dumps(result)) <= _MOST_SHOWN:
            break
    return result, kept


def merged(settings, wish, rev):
    """The configuration that a wish (dict) makes of `settings`. Raises ConfigError."""
    if "rev" in wish:
        raise config.ConfigError("rev stands beside cfg, not in it")
    for path in shown(settings)[1]:
        section, _, name = path.rpartition(".")
        part = wish.setdefault(section, {}) if section else wish
        if isinstance(part, dict) and name not in part:
            part[name] = (settings[section] if section else settings)[name]
    wish["rev"] = rev
    return config.check(wish)


def changes(old, new):
    """{path: (old value, new value)} of the fields that differ."""
    found = {}
    for path, section, name, value in _fields(old):
        other = (new[section] if section else new)[name]
        if value != other and (value or other):  # an empty list is an empty tuple
            found[path] = (value, other)
    return found


def to_sign(found):
    """Which of the changes need a signature and an entry in the log. Raises ConfigError where one
    can only be made beside the device."""
    for path in _FIXED:
        if path in found:
            raise config.ConfigError("%s can only be changed beside the device" % path)
    return [path for path in sorted(found) if path not in _OPEN]


def told(found, paths):
    """The changes for the audit log: {path: [old, new]}. Raises ConfigError where they are too
    many for one entry."""

    def tell(path, value):
        if value is None or (path not in _SECRET and len(json.dumps(value)) <= _MOST_VALUE):
            return value
        return _show(path, value)

    result = {path: [tell(path, value) for value in found[path]] for path in paths}
    if len(json.dumps(result)) > _MOST_TOLD:
        raise config.ConfigError("too much is changed at once: %d fields; change some of them, "
                                 "then the others" % len(paths))
    return result


def report(app, wished=0, why=""):
    """The text of `cfg`. `wished`: the revision of a wish that was refused, and why."""
    settings = app.config
    bad = trial.refused(app.board.nvs)
    if bad and not why:
        wished, why = bad
    unix_ms, quality = app.clock.now()
    result, kept = shown(settings)
    return json.dumps({"v": 1, "ts": unix_ms // 1000, "tq": quality, "rev": settings["rev"],
                       "cfg": result, "kept": kept, "wish": wished, "err": why[:_MOST_WHY]})
