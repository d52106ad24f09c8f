"""One user of a thing at a time, given back without allocation."""

import asyncio

from micropython import const

_STEP_MS = const(2)


class _Nothing:
    """To be awaited; there is nothing to wait for. A coroutine would have to be made before it
    gives a thing back: without memory for that, it would stay taken for good."""

    def __await__(self):
        return iter(())

    __iter__ = __await__


_NOTHING = _Nothing()


class Turn:
    """`async with turn:` waits until the thing is free and goes before the regular user, for whom
    a turn takes no memory at all.

    The regular user, which would pay for an asyncio.Lock with each round, does by hand:
    `while turn.taken or turn.waiting: await sleep`, then `turn.taken = True` and, in a `finally`,
    `turn.taken = False`. Nothing can come between the loop's end and the mark.
    """

    def __init__(self, sleep_ms=None):
        self._sleep_ms = sleep_ms or asyncio.sleep_ms
        self.taken = False
        self.waiting = 0

    async def __aenter__(self):
        self.waiting += 1
        try:
            while self.taken:
                await self._sleep_ms(_STEP_MS)
        finally:
            self.waiting -= 1
        self.taken = True

    def __aexit__(self, _kind, _error, _trace):
        self.taken = False
        return _NOTHING
