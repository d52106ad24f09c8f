"""Open a flash image: its journal's files, or, where there is no journal, why not."""

import base64
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.journal import ring
from evmeter_tools.journal.extract import BLOCK_BYTES

_LIMIT_S = 120
_MOST_BYTES = 64 << 20
_SUPERBLOCK = b"littlefs"  # at byte 8 of block 0 or 1


@dataclass
class Image:
    """A flash image.

    data        its bytes from the journal's first block on
    files       path -> bytes, as littlefs gives them
    unreadable  path -> reason
    faults      what is wrong with image and file system, in words
    mounted     whether a journal is there: segments on littlefs, or a ring of sectors
    unit        frames begin at its multiples in their segment
    tears       whether an append that a power cut interrupted may leave a part of it
    """

    name: str
    data: bytes
    files: dict = field(default_factory=dict)
    unreadable: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    mounted: bool = False
    unit: int = 1
    tears: bool = False


def _read(path, start):
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise UserError("%s: larger than 64 MiB: no flash image of a device" % path)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError("%s: cannot be read: %s"
                        % (path, getattr(error, "strerror", None) or error)) from error
    if not data:
        raise UserError("%s: is empty" % path)
    if not 0 <= start < len(data) or start % BLOCK_BYTES:
        raise UserError("--offset %d: not a multiple of %d inside the image"
                        % (start, BLOCK_BYTES))
    return data[start:]


def _extract(path, start):
    """Run extract.py; a dict with "error" where it did not get through."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "evmeter_tools.journal.extract", str(path), str(start)],
            capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "reading it does not end: its links run in a circle"}
    if done.returncode:
        return {"error": "littlefs gave up on it (damaged metadata)"}
    return json.loads(done.stdout)


def superblocks(data):
    """Byte offsets of blocks that begin as a littlefs does."""
    found = []
    at = data.find(_SUPERBLOCK)
    while at >= 0:
        if at % BLOCK_BYTES == 8:
            found.append(at - 8)
        at = data.find(_SUPERBLOCK, at + 1)
    return found


def _foreign(data, beyond):
    """Why an image that does not mount may not be a journal, in words."""
    if not data.strip(b"\xff"):
        return "it is blank flash"
    if not data.strip(b"\0"):
        return "it is all zeros"
    found = superblocks(data)
    elsewhere = [at for at in found if at // BLOCK_BYTES > 1]
    if found and not elsewhere and beyond:
        return "it names blocks behind the image's end: truncated"
    if found and not elsewhere:
        return "its superblock is there, but damaged"
    if elsewhere:
        return ("a littlefs begins at byte %d: give --offset %d"
                % (elsewhere[0], elsewhere[0]))
    return "it has no littlefs superblock: another layout, or not a journal"


def open_image(path, start=0):
    """Return the `Image` in the file `path`, whose journal begins at byte `start`.

    Raises UserError for what cannot be read as a file; damage becomes `faults`.
    """
    path = Path(path)
    image = Image(str(path), _read(path, start))
    size = len(image.data)
    if size % BLOCK_BYTES:
        image.faults.append("the image is %d bytes long, no whole number of %d-byte blocks: "
                            "truncated" % (size, BLOCK_BYTES))
    if ring.is_ring(image.data):
        ring.fill(image)
        return image
    found = _extract(path, start)
    image.files = {name: base64.b64decode(body)
                   for name, body in found.get("files", {}).items()}
    image.unreadable = found.get("unreadable", {})
    blocks = found.get("blocks")
    if blocks and blocks * BLOCK_BYTES > size:
        image.faults.append("the image ends after %d of %d blocks: truncated"
                            % (size // BLOCK_BYTES, blocks))
    if "error" in found:
        image.faults.append("the file system cannot be read (%s): %s"
                            % (found["error"], _foreign(image.data, found.get("beyond"))))
    for name, reason in sorted(image.unreadable.items()):
        image.faults.append("%s cannot be read: %s" % (name, reason))
    image.mounted = "error" not in found and any(
        name == "/cursor" or name.startswith("/s/") for name in image.files)
    if not image.mounted and "error" not in found:
        image.faults.append("a littlefs, but no journal: it has neither /s nor /cursor%s"
                            % (", but " + ", ".join(sorted(image.files)[:3])
                               if image.files else ""))
    return image
