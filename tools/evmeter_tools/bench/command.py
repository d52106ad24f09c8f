"""`evmeter emulate ...`."""

import asyncio
import os
from typing import Annotated

import typer

from evmeter_tools.bench.meter import BAUDS, PARITIES, EmulatedMeter
from evmeter_tools.bench.misbehaviour import KINDS
from evmeter_tools.errors import UserError


async def _serve(emulated, load_w):
    await emulated.start()
    emulated.set_load(load_w)
    data = emulated.profile.data
    print("the meter answers on %s; %s %s, unit %d; Ctrl-C ends it"
          % (emulated.path, data["make"], data["model"], emulated.unit), flush=True)
    try:
        await emulated.lost.wait()
        raise UserError("the port %s went away" % emulated.path)
    finally:
        await emulated.stop()


def meter(
    profile: Annotated[
        str, typer.Argument(help="Which meter; an unknown name lists them")
    ] = "eastron_sdm120",
    port: Annotated[
        str | None, typer.Option(help="Serial port of a USB-RS485 stick; default: a new pty")
    ] = None,
    baud: Annotated[int, typer.Option(help="Line speed: 1200 to 115200")] = 9600,
    parity: Annotated[str, typer.Option(help="N, E or O")] = "N",
    unit: Annotated[int, typer.Option(min=1, max=247, help="Modbus unit")] = 1,
    latency_ms: Annotated[int, typer.Option(min=0, max=5000, help="Delay of an answer")] = 40,
    load_w: Annotated[int, typer.Option(min=0, max=100000, help="Load from the start")] = 0,
    register_wh: Annotated[int, typer.Option(min=0, help="Energy register at start")] = 1234567,
    serial: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Serial number")] = 21034567,
    fault: Annotated[
        str | None, typer.Option(help="Misbehave: %s" % ", ".join(KINDS))
    ] = None,
    fault_every: Annotated[int, typer.Option(min=1, help="Which replies: every N-th")] = 10,
):
    """Serve an emulated energy meter until Ctrl-C; its energy integrates the load in real time.

    Example: evmeter emulate meter eastron_sdm120 --port /dev/ttyUSB0 --baud 2400 --load-w 7200
    """
    if port and not os.path.exists(port):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % port)
    if baud not in BAUDS:
        raise UserError("--baud %d: allowed: %s" % (baud, ", ".join(map(str, BAUDS))))
    if parity not in PARITIES:
        raise UserError("--parity %s: allowed: %s" % (parity, ", ".join(PARITIES)))
    emulated = EmulatedMeter(profile=profile, unit=unit, baud=baud, parity=parity,
                             latency_ms=latency_ms, register_wh=register_wh, serial=serial,
                             port=port, fault=fault, fault_every=fault_every)
    try:
        asyncio.run(_serve(emulated, load_w))
    except OverflowError as error:
        raise UserError("the register cannot hold it: %s" % error) from None
    except KeyboardInterrupt:
        print("ended")
