"""Find the records in an input: OCMF text, a JSON-lines export, or S.A.F.E.'s XML; in an export
the audit entries too."""

import base64
import binascii
import json
import re
import sys
from pathlib import Path

from defusedxml import ElementTree

from evmeter_tools.errors import UserError
from evmeter_tools.verify.parse import KeyFormatError, parse_key

_MAX_BYTES = 256 << 20


def read_input(name):
    """Return the bytes of a file, or of the standard input for "-"; raise `UserError`."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(_MAX_BYTES)
        path = Path(name)
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise UserError("%s: larger than 256 MiB; split it" % name)
        return path.read_bytes()
    except OSError as error:
        raise UserError("%s: cannot be read: %s" % (name, error.strerror or error)) from error


def read_key(text):
    """Return the DER of the key given as hex or as the name of a file; raise `UserError`."""
    if re.fullmatch(r"[0-9A-Fa-f\s]{64,}", text):
        data = text
    else:
        try:
            data = Path(text).read_bytes()
        except (OSError, ValueError) as error:
            raise UserError(
                "--key %.60s: neither a readable file nor a key in hex (182 digits)" % text
            ) from error
    try:
        return parse_key(data)
    except KeyFormatError as error:
        raise UserError("--key: %s" % error) from error


def _item_key(text, where):
    if text is None or text == "":
        return None
    try:
        return parse_key(text)
    except (KeyFormatError, TypeError, AttributeError) as error:
        raise UserError("%s: the key: %s" % (where, error)) from error


def _texts(text, name):
    """Yield (record, key) from OCMF text; a record's key may stand in hex on the line behind it,
    as the QR code of a receipt has it."""
    for part in re.split(r"(?=OCMF\|)", text):
        record, _, last = part.strip().rpartition("\n")
        if record and re.fullmatch("[0-9A-Fa-f]{64,}", last.strip()):
            yield record.strip(), _item_key(last.strip(), name)
        elif part.strip():
            yield part.strip(), None


def _lines(text, name, entries):
    """Yield (record, key) from lines of JSON; append (audit entry, key) to `entries`."""
    for number, line in enumerate(text.splitlines(), 1):
        where = "%s line %d" % (name, number)
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError('%s: not JSON, one {"ocmf": ...} a line' % where) from error
        value = value if isinstance(value, dict) else {}
        record, entry, key = value.get("ocmf"), value.get("log"), value.get("spki")
        if (isinstance(record, str) == isinstance(entry, str)
                or not isinstance(key, (str, type(None)))):
            raise UserError('%s: no {"ocmf": text, "spki": hex}, nor "log"' % where)
        if isinstance(entry, str):
            entries.append((entry, _item_key(key, where)))
        else:
            yield record, _item_key(key, where)


def _decoded(element, where):
    """Return the text of an XML element in its declared encoding: plain, base64 or hex."""
    text = (element.text or "").strip()
    encoding = element.get("encoding", "plain").lower()
    try:
        if encoding == "base64":
            return base64.b64decode("".join(text.split()), validate=True).decode()
        if encoding in ("hex", "base16"):
            return bytes.fromhex(text).decode()
    except (ValueError, binascii.Error) as error:
        raise UserError("%s: not %s" % (where, encoding)) from error
    if encoding != "plain":
        raise UserError("%s: encoding %.20s is none of plain, base64, hex" % (where, encoding))
    return text


def _xml(data, name):
    """Yield (record, key) from S.A.F.E.'s <values>."""
    # Declared entities could expand without bound, and no such file needs them.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise UserError("%s: XML with a document type is not accepted" % name)
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError("%s: not well-formed XML: %s" % (name, error)) from error
    for number, value in enumerate(root.iter("value"), 1):
        where = "%s value %d" % (name, number)
        element = value.find("signedData")
        if element is None:
            element = value.find("encodedData")
        if element is None:
            raise UserError("%s: no <signedData>" % where)
        key = value.find("publicKey")
        # A key in plain is hex; white space inside is allowed.
        text = None if key is None else "".join((key.text or "").split())
        if key is not None and key.get("encoding", "plain").lower() == "base64":
            try:
                text = base64.b64decode(text, validate=True).hex()
            except (ValueError, binascii.Error) as error:
                raise UserError("%s: the key is not base64" % where) from error
        yield _decoded(element, where), _item_key(text, where)


def find_all(data, name):
    """Return two lists of (text, key DER or None): the records, and the audit entries of an
    export; raise `UserError` where there is neither."""
    entries = []
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        found = list(_xml(data.removeprefix(b"\xef\xbb\xbf"), name))
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError("%s: neither OCMF text, JSON lines nor XML" % name) from error
        if text.lstrip().startswith("{"):
            found = list(_lines(text, name, entries))
        else:
            found = list(_texts(text, name)) if "OCMF|" in text else []
    if not found and not entries:
        raise UserError("%s: no OCMF record found" % name)
    return found, entries
