"""The hash over the legally relevant part of an image, as the device works it out at each start
(firmware/evmeter/system/legal.py)."""

import hashlib
from pathlib import PurePosixPath

from evmeter_tools.errors import UserError

PARTS = ("drivers", "evmeter/ledger", "evmeter/metering", "evmeter/session")
_MAGIC = b"\xd2\xcd\x31"
# kinds of a ROMFS's records: mpremote's romfs.py
_DATA, _FOLDER, _FILE = 2, 4, 5


def _number(data, at):
    """(number, position behind it): seven bits a byte, the highest first."""
    value = 0
    while True:
        value = value << 7 | data[at] & 0x7F
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def _records(data):
    """Yield (kind, payload) of the records in a payload."""
    at = 0
    while at < len(data):
        kind, at = _number(data, at)
        size, at = _number(data, at)
        if at + size > len(data):
            raise IndexError
        yield kind, data[at : at + size]
        at += size


def _files(data, folder=""):
    for kind, payload in _records(data):
        if kind not in (_FOLDER, _FILE):
            continue
        size, at = _number(payload, 0)
        path = folder + payload[at : at + size].decode()
        if kind == _FOLDER:
            yield from _files(payload[at + size :], path + "/")
        else:
            yield path, next(data for one, data in _records(payload[at + size :]) if one == _DATA)


def files(image):
    """{path: bytes} of the files in a ROMFS. Raises UserError."""
    try:
        if image[:3] != _MAGIC:
            raise IndexError
        size, at = _number(image, 3)
        return dict(_files(image[at : at + size]))
    except (IndexError, StopIteration, UnicodeDecodeError):
        raise UserError("this is no ROMFS; 'evmeter image' makes one") from None


def digest(found):
    """The hash in hex over the legally relevant ones of the files {path: bytes}."""
    whole = hashlib.sha256()
    for part in PARTS:
        inside = [path for path in found if path.startswith(part + "/")]
        for path in sorted(inside, key=lambda path: PurePosixPath(path).parts):
            data = found[path]
            whole.update(path.encode() + b"\x00" + len(data).to_bytes(4, "big") + data)
    return whole.hexdigest()
