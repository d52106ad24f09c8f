"""What several targets share: a JSON value changed as the fuzzer's bytes say."""

import json

_VALUES = (None, True, False, 0, 1, 2, -1, 9600, 70001, 1.0, 9600.0, 1.5, float("nan"), 2 ** 70,
           "", "N", "x", "_x", "a b", "a\nb", "\u00e9", "\ud800", "x" * 400, [], [1, 2], [None],
           {}, {"seq": 3}, {"seq": 1.0}, [{"seq": 5}], [1] * 65)
_NAMES = ("", "k", "cum", "sel", "bad", "seq", "id", "meter", "unit", "baud", "stop", "a\nb", "x")
_DEEP = "[" * 6000 + "]" * 6000
_MOST = 8  # changes
_DEPTH = 4


def changed(whole, data, values=(), names=()):
    """`whole`, a JSON value, as text with some of it replaced as `data` says: what mutation of
    bytes hardly reaches. Three bytes are one change; `values` and `names` are put in beside the
    common ones."""
    text = json.dumps(whole)
    whole = json.loads(text)
    values = _VALUES + tuple(values)
    names = _NAMES + tuple(names)
    for at in range(0, min(len(data) - 2, 3 * _MOST), 3):
        where, deeper, what = data[at:at + 3]
        place = whole
        for _ in range(_DEPTH):
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            if where >= 0xE0 and isinstance(place, dict):
                key = names[deeper % len(names)]
            elif keys:
                key = keys[where % len(keys)]
            else:
                break
            inner = place.get(key) if isinstance(place, dict) else place[key]
            if not deeper & 3 or not isinstance(inner, (dict, list)):
                if what == 0xFF and key in keys:
                    del place[key]
                else:
                    place[key] = json.loads(json.dumps(values[what % len(values)]))
                break
            place = inner
            where, deeper = deeper >> 2, where
    text = json.dumps(whole)
    if data and data[-1] > 0xF8:  # nested deep
        text = text.replace("null", _DEEP)
    return text
