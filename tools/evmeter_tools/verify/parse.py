"""Take a record apart, strictly: sections, JSON, signature, key. Nothing is put together again."""

import base64
import binascii
import json
import re
from decimal import Decimal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = "ECDSA-secp256r1-SHA256"
_MAX_CHARACTERS = 65536
_CACHED_KEYS = 65536
_SECTIONS = 3
_SIGNATURE_KEYS = ("SA", "SE", "SM", "SD")
_ALLOWED = {"SA": (ALGORITHM,), "SE": ("hex", "base64"), "SM": ("application/x-der",)}
_HEX = re.compile("(?:[0-9A-Fa-f]{2})+")
# a signature section as our devices write it: known without taking it apart
OURS = re.compile('\\{"SA":"%s","SD":"([0-9a-f]+)"\\}' % ALGORITHM)
_ECDSA = ec.ECDSA(hashes.SHA256())
_SEQUENCE, _INTEGER, _SHORTEST_DER, _LONG_FORM = 0x30, 0x02, 8, 0x80
KEY_CHANGE = "key_change"  # event of the audit entry that both keys sign


class RecordError(ValueError):
    """A record that cannot be read: the reason in words."""


class KeyFormatError(ValueError):
    """A public key that is none for these records: the reason in words."""


def _load_key(data):
    """Return the key object of DER, PEM or hex, all as bytes; raise what `cryptography` raises."""
    if data.lstrip().startswith(b"-----"):
        return serialization.load_pem_public_key(data.strip() + b"\n")
    digits = b"".join(data.split())
    if re.fullmatch(rb"[0-9A-Fa-f]+", digits):
        data = bytes.fromhex(digits.decode())
    return serialization.load_der_public_key(data)


_known = {}  # a key as it was given, and its DER -> (DER, key object)


def _key(data):
    """(DER, key object) of a public key in any form of `parse_key`."""
    found = _known.get(data)
    if found is None:
        if len(_known) >= _CACHED_KEYS:
            _known.clear()
        found = _read_key(data)
        _known[data] = _known[found[0]] = found
    return found


def parse_key(data):
    """Return the DER (SubjectPublicKeyInfo) of a P-256 public key.

    `data` is DER or PEM as bytes, or text: hex (white space is ignored) or PEM. Raises
    `KeyFormatError`, for a secret key too.
    """
    return _key(data)[0]


def _read_key(data):
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    if b"PRIVATE KEY" in data:
        raise KeyFormatError("this is a secret key; a public key is needed")
    try:
        key = _load_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFormatError(
            "not a public key: SubjectPublicKeyInfo is needed, as hex, PEM or DER"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise KeyFormatError("not a P-256 (secp256r1) key, which these records are signed with")
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ), key


def key_id(der):
    """Return the key's short name: the first 4 bytes of the SHA-256 of its DER, in hex."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize()[:4].hex()


def signed_part(text, name):
    """(the bytes that the signature `name` is over, what follows its opening quote) of an entry
    that ends in one or two signatures; the latter is empty where there is no such signature."""
    begins = list(re.finditer(rb', ?"%s": ?"' % name.encode(), text))
    return (text[: begins[-1].start()], text[begins[-1].end() :]) if begins else (text, b"")


def key_change(message, text):
    """The new key (hex, SubjectPublicKeyInfo) that the audit entry "key_change" announces; `text`
    is what its old key has signed. Raises RecordError where the new key has not signed it too,
    `KeyFormatError`.
    """
    new = message.get("new_spki")
    signed, rest = signed_part(text, "sn")
    if not isinstance(new, str) or not rest.endswith(b'"'):
        raise RecordError("key change: not signed by the new key")
    der = parse_key(new)
    if key_id(der) != message.get("new_k"):
        raise RecordError("key change: new_k is not the new key's name")
    check_signature(signed, {"SD": rest[:-1].decode("ascii", "replace")}, der)
    return der.hex()


def _no_doubles(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise RecordError("the key %s stands twice in one object" % double[:20])
    return result


def _no_constant(name):
    raise RecordError("%s is no JSON number" % name)


_STRICT = json.JSONDecoder(
    object_pairs_hook=_no_doubles, parse_constant=_no_constant, parse_float=Decimal)


def strict_json(text, what):
    """Parse a JSON object; refuse double keys, NaN, trailing data. Fractions become Decimals."""
    try:
        value = _STRICT.decode(text)
    except RecordError as error:
        raise RecordError("%s: %s" % (what, error)) from None
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise RecordError("%s: not JSON (%s)" % (what, str(error)[:60])) from None
    if not isinstance(value, dict):
        raise RecordError("%s: not a JSON object" % what)
    return value


def split(text):
    """Split a record into (signed bytes, payload, signature section), the latter two parsed."""
    if len(text) > _MAX_CHARACTERS:
        raise RecordError("longer than %d characters" % _MAX_CHARACTERS)
    parts = text.split("|")
    if parts[0] != "OCMF":
        raise RecordError("does not begin with OCMF|")
    if len(parts) != _SECTIONS:
        raise RecordError("%d sections in place of OCMF|payload|signature" % len(parts))
    try:
        signed = parts[1].encode("utf-8")
    except UnicodeEncodeError:
        raise RecordError("the payload is not Unicode text") from None
    ours = OURS.fullmatch(parts[2])
    section = ({"SA": ALGORITHM, "SD": ours[1]} if ours
               else strict_json(parts[2], "signature section"))
    return signed, strict_json(parts[1], "payload"), section


def _signature_bytes(section):
    """Return the DER of the signature from its section; refuse what would change its meaning."""
    for name in section:
        if name not in _SIGNATURE_KEYS and name[:1] not in "UVWXYZ":
            raise RecordError("signature section: unknown key %s" % name[:20])
    for name, values in _ALLOWED.items():
        if name in section and section[name] not in values:
            raise RecordError(
                "signature section: %s is %.40r, not %s"
                % (name, section[name], " or ".join(values))
            )
    text = section.get("SD")
    if not isinstance(text, str):
        raise RecordError("signature section: SD is missing or no text")
    if section.get("SE") == "base64":
        try:
            return base64.b64decode(text.encode(), validate=True)
        except (binascii.Error, ValueError):
            raise RecordError("signature section: SD is not base64") from None
    if not _HEX.fullmatch(text):
        raise RecordError("signature section: SD is not hex")
    return bytes.fromhex(text)


def check_signature(signed, section, key):
    """Raise `RecordError` unless the section signs these bytes under the key (DER)."""
    check_der(signed, _signature_bytes(section), key)


def _is_number(der, at, end):
    """Whether these bytes are an INTEGER of DER, 0 or above, in the one right encoding."""
    return (end - at > 2 and der[at] == _INTEGER and der[at + 1] == end - at - 2
            and der[at + 2] < 0x80 and (der[at + 2] > 0 or end - at == 3 or der[at + 3] > 0x7F))


def is_der(der):
    """Whether `der` is two numbers in DER, and in no other encoding than the one right one: no
    padding, no negative numbers, nothing behind it. Of P-256 its length takes one byte."""
    if not _SHORTEST_DER <= len(der) < _LONG_FORM or der[0] != _SEQUENCE or (
            der[1] != len(der) - 2):
        return False
    middle = 4 + der[3]
    return middle < len(der) and _is_number(der, 2, middle) and _is_number(der, middle, len(der))


def check_der(signed, der, key):
    """Raise `RecordError` unless `der` is the signature of these bytes under the key, which is
    what `parse_key` takes."""
    if not is_der(der):
        raise RecordError("signature: SD is not the DER of two numbers")
    try:
        _key(key)[1].verify(der, signed, _ECDSA)
    except InvalidSignature:
        raise RecordError(
            "signature: does not belong to this text and key (changed, or another key)"
        ) from None
