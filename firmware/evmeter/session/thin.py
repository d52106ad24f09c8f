"""Events while the journal's room runs out: one a minute of each name, which then tells by `n` how
many it stands for. Loaded only then; what money depends on does not come through here."""

from micropython import const

_PAUSE_MS = const(60000)


class Thinned:
    """What waits for its turn, by name: [ms of the event before, how many wait, the newest of them
    as (ms, reason)]."""

    def __init__(self):
        self._names = {}

    def holds(self, name, happened, now_ms):
        """Whether the event waits, `happened` (ms, reason); if not, it is to be written now."""
        entry = self._names.get(name)
        if not entry or (not entry[1] and now_ms - entry[0] >= _PAUSE_MS):
            self._names[name] = [now_ms, 0, None]
            return False
        entry[1] += 1
        entry[2] = happened
        return True

    def due(self, now_ms, last=False):
        """The name of one whose turn it is (with `last`, of any that waits), or None."""
        for name, entry in self._names.items():
            if entry[1] and (last or now_ms - entry[0] >= _PAUSE_MS):
                return name
        return None

    def held(self, name):
        """(ms, event fields) of what waits under `name`."""
        _, count, (at_ms, reason) = self._names[name]
        return at_ms, {"why": reason, "n": count}

    def written(self, name, now_ms):
        """It is durable."""
        self._names[name] = [now_ms, 0, None]
