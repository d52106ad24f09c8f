"""Modbus: time on the wire against its own minimum, requests, bytes allocated for a poll."""

import asyncio
import statistics

from evmeter_tools.bench.meter import EmulatedMeter
from evmeter_tools.measure import vm

_SETS = {2400: 12, 9600: 20}
_LATENCY_MS = 40
_PAUSE_MS = 60  # silence before a request, as the SDM120's profile asks for
_REQUESTS = (14, 6)  # registers of the two requests of the billing set
_POLLS = 20


def least_ms(baud):
    """What the wire itself needs for one billing set, in ms: each request's and reply's bytes, the
    3.5 characters of silence that end the request, the meter's latency and its pause."""
    char_ms = 10000 / baud
    chars = sum(8 + 3.5 + 5 + 2 * registers for registers in _REQUESTS)
    return chars * char_ms + len(_REQUESTS) * (_LATENCY_MS + _PAUSE_MS)


async def _read(machine, baud):
    meter = EmulatedMeter(baud=baud, latency_ms=_LATENCY_MS)
    await meter.start()
    meter.set_load(3680)
    command, env = machine.command("wire.py", meter.path, str(baud), str(_SETS[baud]), heap="256k")
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        output, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        await meter.stop()
    return vm.result("wire.py", process.returncode, output.decode(), errors.decode())


def wire_ratio(baud):
    """modbus_wire_ratio_...: the firmware's stack under MicroPython against the emulated meter,
    which delivers bytes at line speed."""
    found = asyncio.run(_read(vm.host(), baud))
    took_ms = statistics.median(found["us"]) / 1000
    yield ("modbus_wire_ratio_%d" % baud, round(took_ms / least_ms(baud), 4),
           "median of %d sets: %.1f ms, least %.1f ms; %d lost"
           % (_SETS[baud], took_ms, least_ms(baud), found["lost"]))
    if baud == 9600:
        yield ("modbus_requests_sdm120", found["requests"] / _SETS[baud],
               "transactions of one billing set")


def poll_alloc():
    """poll_alloc_bytes: a poll of the billing set in steady state, beside micropython-modbus."""
    machine, reason = vm.small()
    other = vm.host()
    peer = vm.peer()
    scripts = vm.SCRIPTS
    theirs = (machine or other).run("peer_alloc.py", str(_POLLS), path=(scripts, peer))["bytes"]
    text = "micropython-modbus %d; on %s" % (theirs, machine or other)
    wide = other.run("poll_alloc.py", str(_POLLS))["bytes"]
    if machine:
        text += "; on 64 bits %d" % wide
        yield "poll_alloc_bytes", machine.run("poll_alloc.py", str(_POLLS))["bytes"], text
    else:
        yield "poll_alloc_bytes", wide, "%s, no 32-bit one: %s" % (text, reason)
