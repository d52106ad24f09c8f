"""`evmeter release ...`: the key that signs firmware, packages, and what is in one."""

import json
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.device import boards, image, package
from evmeter_tools.errors import UserError
from evmeter_tools.operator import signing
from evmeter_tools.paths import BUILD, FIRMWARE

release = typer.Typer(help="Firmware that devices take over the air: keys, packages.",
                      no_args_is_help=True)

_Key = Annotated[Path, typer.Option(help="The release key, PEM")]


def version():
    """The firmware's version, as it says itself."""
    for line in (FIRMWARE / "evmeter" / "__init__.py").read_text().splitlines():
        if line.startswith("VERSION"):
            return line.split('"')[1]
    raise UserError("firmware/evmeter/__init__.py has no VERSION")


@release.command()
def key(out: Annotated[Path, typer.Option(help="File for the key, readable by its owner")]):
    """Make a release key. Its public half goes into each device's configuration (update.keys).

    Example: evmeter release key --out release.pem
    """
    print(signing.spki(signing.make_key(out)))


@release.command()
def pack(
    board: Annotated[str, typer.Option(help="The board, a folder of boards/")],
    key: _Key,
    counter: Annotated[int, typer.Option(
        min=1, max=(1 << 30) - 1, help="Higher than in every package before")],
    out: Annotated[
        Path | None, typer.Option(help="The package [build/image/BOARD-VERSION.evu]")] = None,
):
    """Compile the firmware for a board and sign it as a package.

    Example: evmeter release pack --board esp32_devkit --key release.pem --counter 7
    """
    secret = signing.load_key(key)
    data, _ = image.build(boards.board(board))
    out = out or BUILD / "image" / ("%s-%s.evu" % (board, version()))
    image.write(out, package.pack(data, secret, board, version(), counter))
    print("%s: version %s, counter %d, %d bytes" % (out, version(), counter, len(data)))


@release.command()
def check(
    file: Annotated[Path, typer.Argument(help="A package")],
    key: Annotated[str | None, typer.Option(
        help="The public release key, SubjectPublicKeyInfo in hex")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON")] = False,
):
    """Tell what is in a package, and whether a key has signed it.

    Exit code 0: sound. 2: it is none, damaged, or not signed by the key.

    Example: evmeter release check build/image/esp32_devkit-0.1.0.evu --key 3059...
    """
    try:
        head, _, fields = package.split(file.read_bytes())
    except OSError as error:
        raise UserError("%s: cannot be read: %s" % (file, error.strerror)) from None
    if key:
        try:
            public = serialization.load_der_public_key(bytes.fromhex(key))
        except (ValueError, TypeError):
            raise UserError("--key is no public key, SubjectPublicKeyInfo in hex") from None
        if not isinstance(public, ec.EllipticCurvePublicKey) \
                or not package.signed_by(head, public):
            raise UserError("%s is not signed by that key" % file)
    if as_json:
        print(json.dumps(fields))
    else:
        print("%s: version %s for %s, counter %d, %d bytes%s" % (
            file, fields["version"], fields["board"], fields["counter"], fields["size"],
            ", signed by the key" if key else ", signature not looked at: give --key"))
        print("legally relevant part: SHA-256\n%s" % fields.get("legal"))
