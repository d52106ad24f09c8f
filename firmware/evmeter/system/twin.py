"""The configuration as a twin: what is wished of it (cfg/set), and what differs then.

Where a wish leaves a field out that is not reported (system/report.py), it stays as it is. Any
other field that is left out gets its default.

Only the few fields in `_OPEN` may be changed by anyone who may write to the broker. Everything
else decides what is measured, whose it is, how good its time is or who may give orders: it needs
an operator's signature, and is written into the audit log with its old and its new value.
"""

import json

from micropython import const

from evmeter.system import config
from evmeter.system.report import SECRET, fields, kept, show

_OPEN = ("rev", "mqtt.keepalive_s", "mqtt.window", "mqtt.telemetry_s",
         "session.finished_after_s", "session.checkpoint_s")
_FIXED = ("journal.store",)  # what lies on flash would not be found any more
_MOST_TOLD = const(1800)
_MOST_VALUE = const(48)


def merged(settings, wish, rev):
    """The configuration that a wish (dict) makes of `settings`. Raises ConfigError."""
    if "rev" in wish:
        raise config.ConfigError("rev stands beside cfg, not in it")
    for path in kept(settings):
        section, _, name = path.rpartition(".")
        part = wish.setdefault(section, {}) if section else wish
        if isinstance(part, dict) and name not in part:
            part[name] = (settings[section] if section else settings)[name]
    wish["rev"] = rev
    return config.check(wish)


def changes(old, new):
    """{path: (old value, new value)} of the fields that differ."""
    found = {}
    for path, section, name, value in fields(old):
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
        if value is None or (path not in SECRET and len(json.dumps(value)) <= _MOST_VALUE):
            return value
        return show(path, value)

    result = {path: [tell(path, value) for value in found[path]] for path in paths}
    if len(json.dumps(result)) > _MOST_TOLD:
        raise config.ConfigError("too much is changed at once: %d fields; change some of them, "
                                 "then the others" % len(paths))
    return result
