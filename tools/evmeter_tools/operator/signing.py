"""Commands and wishes as the firmware takes them (uplink/commands.py), signed where need be."""

import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.errors import UserError


def make_key(path):
    """Make an operator's key and write it to a new file that only its owner can read. Raises
    UserError where the file is there already."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except OSError as error:
        raise UserError("%s cannot be written: %s" % (path, error.strerror)) from None
    return key


def load_key(path):
    """The operator's key in a PEM file. Raises UserError."""
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError("%s holds no private key without a password: %s" % (path, error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise UserError("%s: the key must be on the curve P-256" % path)
    return key


def spki(key):
    """The public key as SubjectPublicKeyInfo in hex, as the configuration wants it."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()


def key_id(key):
    """The short name of the key: 8 hex digits."""
    return hashlib.sha256(bytes.fromhex(spki(key))).hexdigest()[:8]


def sign(fields, device, key, counter):
    """The text of a command or wish with its signature as the last field."""
    text = json.dumps({**fields, "dev": device, "ctr": counter, "by": key_id(key)})[:-1]
    signature = key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    return '%s, "sg": "%s"}' % (text, signature.hex())


def command(device, operation, args, valid_s, key=None):
    """(id, text) of a command. The time in ms is its counter: two operators need not agree."""
    now_ms = time.time_ns() // 1_000_000
    name = "%s-%s" % (operation.replace("_", "-")[:12], secrets.token_hex(8))
    fields = {"v": 1, "ts": now_ms // 1000, "tq": "I", "id": name, "op": operation, "args": args,
              "exp": now_ms // 1000 + valid_s}
    return name, sign(fields, device, key, now_ms) if key else json.dumps(fields)
