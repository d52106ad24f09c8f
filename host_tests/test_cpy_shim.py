"""The shim gives CPython MicroPython's ticks and events, with MicroPython's wrap."""

import asyncio
import sys
import time

import pytest

import cpython_shim

_PERIOD = 2**30


@pytest.mark.parametrize(("end", "start", "difference"), [
    (5, 3, 2), (3, 5, -2), (1, _PERIOD - 1, 2), (_PERIOD - 1, 1, -2), (0, 0, 0),
    (_PERIOD // 2 - 1, 0, _PERIOD // 2 - 1), (_PERIOD // 2, 0, -_PERIOD // 2),
])
def test_differences_hold_across_the_wrap(end, start, difference):
    assert time.ticks_diff(end, start) == difference


def test_ticks_wrap_where_those_of_a_chip_do(monkeypatch):
    assert time.ticks_add(_PERIOD - 1, 3) == 2
    assert time.ticks_add(1, -2) == _PERIOD - 1
    monkeypatch.setattr(time, "monotonic_ns", lambda: (_PERIOD + 7) * 1_000_000)
    assert time.ticks_ms() == 7
    monkeypatch.setattr(time, "monotonic_ns", lambda: (_PERIOD + 9) * 1_000)
    assert time.ticks_us() == 9


def test_a_second_install_changes_nothing():
    before = time.ticks_ms, asyncio.ThreadSafeFlag, sys.modules["micropython"]
    cpython_shim.install()
    assert (time.ticks_ms, asyncio.ThreadSafeFlag, sys.modules["micropython"]) == before


def test_a_flag_wakes_one_wait_for_each_set():
    async def run():
        flag = asyncio.ThreadSafeFlag()
        flag.set()
        await asyncio.wait_for_ms(flag.wait(), 1000)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for_ms(flag.wait(), 1)
        flag.set()
        flag.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for_ms(flag.wait(), 1)

    asyncio.run(run())
