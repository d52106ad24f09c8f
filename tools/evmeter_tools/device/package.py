"""Packages of a new firmware, as system/update.py of the firmware reads them."""

import hashlib
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from evmeter_tools.device import legal
from evmeter_tools.errors import UserError

MAGIC = b"EVU1"
_FIELDS = {"board": str, "counter": int, "legal": str, "sha256": str, "size": int, "version": str}
_SIGNATURE = 64


def pack(image, key, board, version, counter, relevant=None):
    """The package of `image` (a ROMFS), signed by `key` (an EC private key of `cryptography`).
    `relevant`: the hash of its legally relevant part, where it is not to be worked out. Raises
    UserError."""
    manifest = json.dumps({
        "board": board, "counter": counter,
        "legal": relevant or legal.digest(legal.files(image)),
        "sha256": hashlib.sha256(image).hexdigest(), "size": len(image),
        "version": version}).encode()
    r, s = utils.decode_dss_signature(key.sign(manifest, ec.ECDSA(SHA256())))
    return b"".join((MAGIC, len(manifest).to_bytes(2, "little"), manifest,
                     r.to_bytes(32, "big"), s.to_bytes(32, "big"), image))


def split(package):
    """(head, image, the manifest's fields) of a package. Raises UserError."""
    at = 6 + int.from_bytes(package[4:6], "little")
    head, image = package[: at + _SIGNATURE], package[at + _SIGNATURE :]
    try:
        if package[:4] != MAGIC:
            raise ValueError
        fields = json.loads(package[6:at])
        if {name: type(value) for name, value in dict(fields).items()} != _FIELDS:
            raise ValueError
        size, digest = fields["size"], fields["sha256"]
    except (ValueError, TypeError, RecursionError):
        raise UserError("this is no package of evmeter's; 'evmeter release' makes them") from None
    if len(image) != size or hashlib.sha256(image).hexdigest() != digest:
        raise UserError("the package is damaged: its image is not the one of its manifest")
    return head, image, fields


def signed_by(head, public):
    """Whether the manifest in `head` is signed by `public` (an EC public key)."""
    at = len(head) - _SIGNATURE
    r, s = (int.from_bytes(head[begin : begin + 32], "big") for begin in (at, at + 32))
    try:
        public.verify(utils.encode_dss_signature(r, s), head[6:at], ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
