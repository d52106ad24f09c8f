"""What the firmware uses of MicroPython and CPython lacks. Does nothing under MicroPython."""

import asyncio
import gc
import sys
import time

_TICKS_PERIOD = 2**30  # as on a 32-bit port, so that wraps show up


class _ThreadSafeFlag:
    """asyncio.ThreadSafeFlag over an event of the running loop."""

    def __init__(self):
        self._event = asyncio.Event()

    def set(self):
        self._event.set()

    def clear(self):
        self._event.clear()

    async def wait(self):
        await self._event.wait()
        self._event.clear()


def _print_exception(error, file=None):
    import traceback

    traceback.print_exception(error, file=file or sys.stdout)


def install():
    """Add the missing names to CPython's modules; calling it again changes nothing."""
    if sys.implementation.name == "micropython" or hasattr(time, "ticks_ms"):
        return
    module = type(sys)("micropython")
    module.const = lambda value: value
    module.kbd_intr = lambda code: None
    module.alloc_emergency_exception_buf = lambda size: None
    module.native = module.viper = lambda function: function
    sys.modules.setdefault("micropython", module)

    # umqtt.simple asks for these by their MicroPython names
    for name in ("socket", "struct", "binascii"):
        sys.modules["u" + name] = __import__(name)

    sys.modules.setdefault("tls", __import__("host_tls"))

    time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000 % _TICKS_PERIOD
    time.ticks_us = lambda: time.monotonic_ns() // 1_000 % _TICKS_PERIOD
    time.ticks_add = lambda ticks, delta: (ticks + delta) % _TICKS_PERIOD
    half = _TICKS_PERIOD // 2
    time.ticks_diff = lambda end, start: (end - start + half) % _TICKS_PERIOD - half
    time.sleep_ms = lambda ms: time.sleep(ms / 1000)
    time.sleep_us = lambda us: time.sleep(us / 1_000_000)

    asyncio.sleep_ms = lambda ms: asyncio.sleep(ms / 1000)
    asyncio.wait_for_ms = lambda awaitable, ms: asyncio.wait_for(awaitable, ms / 1000)
    asyncio.ThreadSafeFlag = _ThreadSafeFlag

    gc.mem_alloc = lambda: 0
    gc.mem_free = lambda: 0
    gc.threshold = lambda *amount: -1
    sys.print_exception = _print_exception
