"""Lets one call that a task makes fail: CPython tells of each call before it is made.

A point is a task, the place of the call and what is called. A first life tells which there are; in
each later one the call at one of them raises in place of being made.
"""

import sys

from evmeter_tools.paths import FIRMWARE, ROOT

_OWN = (str(FIRMWARE), str(ROOT / "drivers"))
_FIRST = 8  # a frame that begins is at one of its first instructions; else it goes on
_FREE = ("__aexit__", "release")  # they take no memory, and nothing else stands in for them
_AFTER = (1, 2, 3, 5, 8, 13, 21, 34)  # calls after the first failure: the second one
_HIT = "%s in %s, %s; "  # what is called, task, place


def _is_own(name):
    return name.startswith(("evmeter.", "drivers.")) or name in ("evmeter", "drivers")


def _own(code):
    return code.co_filename.startswith(_OWN)


def _place(frame):
    return "%s:%d" % (frame.f_code.co_filename[len(str(ROOT)) + 1:], frame.f_lineno)


class Injector:
    """Counts the calls that tasks make; the `at`-th raises `error`, and so does the `after`-th
    behind it, where that is not 0. `points`: (task, place, callee, whether it leaves the firmware)
    -> the numbers of its calls, where `learn` asks for it. `tasks`: the names of those whose calls
    count; none: all."""

    def __init__(self, at=0, error=MemoryError, after=0, learn=False, tasks=()):
        self.count = 0
        self.points = {}
        self.task = ""
        self.hit = ""  # where it was
        self.armed = bool(at or learn)
        self.tasks = tasks
        self.error = error
        self._at, self._after = at, after
        self._learn = learn

    def seen(self, frame, event, argument):
        """The profile function."""
        if event == "call":
            caller, name = frame.f_back, frame.f_code.co_name
            if (frame.f_lasti > _FIRST or name in _FREE or not caller
                    or not _own(caller.f_code)):
                return
        elif event == "c_call" and _own(frame.f_code):
            caller, name = frame, argument.__name__
        else:
            return
        self.count += 1
        if self._learn:
            leaves = event == "call" and not _own(frame.f_code)
            point = (self.task, _place(caller), name, leaves)
            self.points.setdefault(point, []).append(self.count)
        elif self.count == self._at:
            self.hit += _HIT % (name, self.task, _place(caller))
            self._at, self._after = self._at + self._after, 0
            self.armed = self._at > self.count
            raise self.error(5)


class Watched:
    """A task whose calls are counted."""

    def __init__(self, coroutine, injector, name):
        self._coroutine = coroutine
        self._injector = injector
        self._name = name
        self.close = coroutine.close

    def send(self, value):
        """As a coroutine."""
        injector = self._injector
        injector.task = self._name
        if injector.armed and (not injector.tasks or self._name in injector.tasks):
            sys.setprofile(injector.seen)
        try:
            return self._coroutine.send(value)
        finally:
            sys.setprofile(None)


class Loaded:
    """The firmware's modules as they were loaded at first: what is loaded in a life, or forgotten,
    makes calls of its own, and each life has to make the same."""

    def __init__(self):
        self._modules = {name: module for name, module in sys.modules.items() if _is_own(name)}

    def restore(self):
        """Load and forget until it is so again."""
        for name in [name for name in sys.modules if _is_own(name)]:
            if name not in self._modules:
                del sys.modules[name]
                parent, _, own = name.rpartition(".")
                vars(self._modules[parent]).pop(own, None)
        for name, module in self._modules.items():
            sys.modules[name] = module
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(self._modules[parent], own, module)


def plan(points):
    """[(where, number of the call, error, calls until the next failure)] of every life: each point
    at its first, middle and last turn; `where` is how `hit` must begin."""
    found = []
    for index, (point, numbers) in enumerate(sorted(points.items())):
        where = _HIT % (point[2], point[0], point[1])
        for number in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):
            found += [(where, number, MemoryError, 0), (where, number, RuntimeError, 0)]
            if point[3]:
                found.append((where, number, OSError, 0))
        found.append((where, numbers[0], MemoryError, _AFTER[index % len(_AFTER)]))
    return found
