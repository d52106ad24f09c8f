"""`evmeter lock`, `evmeter unlock`: nobody's, or somebody's, MicroPython prompt on a device."""

from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device import run
from evmeter_tools.errors import UserError
from evmeter_tools.operator import signing
from evmeter_tools.operator.line import LOGIN_FROM, Line
from evmeter_tools.words import clean

_VALID_S = 300
# main.py's names hold the firmware that was interrupted: two do not fit
_CLOSE = """
app = hardware = None
from evmeter.system import provision
provision.close_prompt()
"""
_Device = Annotated[str, typer.Argument(help="The device's id")]
_Key = Annotated[Path, typer.Option(help="Operator key (PEM)")]
_Broker = Annotated[str, typer.Option(help="host:port")]
_User = Annotated[str | None, typer.Option(
    help="Login at the broker; password in " + LOGIN_FROM)]
_Ca = Annotated[str | None, typer.Option(help="CA (PEM) that the broker's TLS is of")]
_Wait = Annotated[int, typer.Option(min=1, max=600, help="Seconds for the answer")]


def _order(on, device, key, broker, user, ca, wait):
    signer = signing.load_key(key)
    with Line(device, broker, user, ca) as line:
        name, text = signing.command(device, "lock", {"on": on}, _VALID_S, signer)
        line.send("cmd", text)
        answer = line.answer(name, wait)
    if answer is None:
        raise UserError("%s did not answer within %d s; is it on-line?" % (device, wait))
    if not answer.get("ok"):
        raise UserError(clean("%s refuses: %s" % (device, answer.get("err", "no reason given"))))
    print("%s restarts with its prompt %s" % (device, "closed" if on else "open"))


def _close(port):
    """Close the prompt of the device on `port`. Raises UserError."""
    run.check(port)
    try:
        told = next((one for one in run.objects(_CLOSE, port=port)
                     if {"locked", "error"} & set(one)), {"error": "the prompt was not closed"})
    finally:
        run.reset(port)
    if "error" in told:
        raise UserError("%s: %s" % (port, told["error"]))
    if not told["locked"]:
        raise UserError("%s: the prompt stays open: without operator.keys in the configuration, "
                        "or a button, nothing could open it again" % port)
    print("%s: the prompt is closed" % port)


def lock(
    device: Annotated[str | None, typer.Argument(help="The device's id")] = None,
    port: Annotated[
        str | None, typer.Option(help="Serial port of the device, in place of its id")] = None,
    key: Annotated[Path | None, typer.Option(help="Operator key (PEM)")] = None,
    broker: _Broker = "127.0.0.1:1883",
    user: _User = None,
    ca: _Ca = None,
    wait: _Wait = 30,
):
    """Close a device's prompt: no byte on a serial port stops it or gets an answer, and it
    restarts where it would end. By a signed command, or beside the device with --port; not where
    nothing could open it again.

    Example: evmeter lock demo-0001 --key operator.pem
    """
    if (not device) == (not port):
        raise UserError("give the device's id, or its --port")
    if port:
        _close(port)
    elif key is None:
        raise UserError("give the operator's key as --key")
    else:
        _order(True, device, key, broker, user, ca, wait)


def unlock(
    device: _Device,
    key: _Key,
    broker: _Broker = "127.0.0.1:1883",
    user: _User = None,
    ca: _Ca = None,
    wait: _Wait = 30,
):
    """Open a device's prompt again, by a signed command; it stands in the signed audit log.

    Example: evmeter unlock demo-0001 --key operator.pem
    """
    _order(False, device, key, broker, user, ca, wait)
