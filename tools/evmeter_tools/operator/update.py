"""`evmeter update`: bring a new firmware onto a device, over the broker."""

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device import package
from evmeter_tools.errors import UserError
from evmeter_tools.operator import signing
from evmeter_tools.operator.line import LOGIN_FROM, Line
from evmeter_tools.words import clean

_PIECE = 2048
_VALID_S = 300
_TRIES = 3


def _do(line, device, args, key, wait):
    """What the device answers to an update command. Raises UserError where it refuses."""
    for _ in range(_TRIES):
        name, text = signing.command(device, "update", args, _VALID_S, key)
        line.send("cmd", text)
        answer = line.answer(name, wait)
        if answer is not None:
            break
    else:
        raise UserError("%s does not answer; give the command again, it goes on from where it is"
                        % device)
    if not answer.get("ok"):
        raise UserError(clean("%s refuses: %s" % (device, answer.get("err", "no reason given"))))
    return answer.get("res") or {}


def send(line, device, content, key, wait=30, progress=lambda done, size: None):
    """Bring a package onto a device and have it tried; returns what the device says of it. Raises
    UserError."""
    head, image, _ = package.split(content)
    have = _do(line, device, {"head": base64.b64encode(head).decode()}, key, wait)["have"]
    while have < len(image):
        progress(have, len(image))
        piece = base64.b64encode(image[have : have + _PIECE]).decode()
        have = _do(line, device, {"at": have, "data": piece}, None, wait)["have"]
    progress(have, len(image))
    return _do(line, device, {"activate": True}, key, wait)


def update(
    device: Annotated[str, typer.Argument(help="The device's id")],
    file: Annotated[Path, typer.Argument(help="The package, of 'evmeter release pack'")],
    key: Annotated[Path, typer.Option(help="Operator key (PEM)")],
    broker: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:1883",
    user: Annotated[str | None, typer.Option(
        help="Login at the broker; password in " + LOGIN_FROM)] = None,
    ca: Annotated[str | None, typer.Option(help="CA (PEM) that the broker's TLS is of")] = None,
    wait: Annotated[int, typer.Option(min=1, max=600, help="Seconds for each answer")] = 30,
):
    """Bring a new firmware onto a device: 2 KiB a second, between sessions. The device tries it,
    and goes back by itself where it is not well within 20 minutes.

    Example: evmeter update demo-0001 build/image/esp32_devkit-0.2.0.evu --key operator.pem
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError("%s: cannot be read: %s" % (file, error.strerror)) from None
    package.split(content)  # before a broker is looked for
    secret = signing.load_key(key)
    live = sys.stdout.isatty()

    def progress(done, size):
        if live or done == size:
            print("%s%s: %d of %d bytes" % ("\r" if live else "", device, done, size),
                  end="" if live and done < size else "\n", flush=True)

    with Line(device, broker, user, ca) as line:
        told = send(line, device, content, secret, wait, progress)
    print("%s restarts with version %s, counter %d, on trial"
          % (device, told.get("version"), told.get("counter", 0)))
