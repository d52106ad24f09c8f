"""Copy the journal's partition out of a device over its serial port, with mpremote.

mpremote interrupts the firmware: the device does not meter until it is started again, which
happens in any case at the end. What is read is the partition as it is, so that the copy shows
what a flash image shows.
"""

import base64
import binascii
import subprocess
import sys
import tempfile
from pathlib import Path

from evmeter_tools.device import run
from evmeter_tools.errors import UserError
from evmeter_tools.journal.extract import BLOCK_BYTES
from evmeter_tools.journal.image import open_image

_SILENCE_S = 20
_MOST_BLOCKS = 4096
# Lines: S blocks bytes | D offset crc base64 | P offset | Q at the end | E reason. Blank flash is
# not sent. A watchdog that the firmware has started would bite while it stands still.
_PROGRAM = """
import binascii
from esp32 import Partition
from machine import WDT
w = WDT(timeout=60000)
def copy():
    found = Partition.find(Partition.TYPE_DATA, label='journal')
    if not found:
        print('E it has no partition named journal')
        return
    part = found[0]
    blocks, size = part.ioctl(4, 0), part.ioctl(5, 0)
    print('S', blocks, size)
    piece = bytearray(512)
    blank = b'\\xff' * 512
    for block in range(blocks):
        w.feed()
        for at in range(0, size, 512):
            part.readblocks(block, piece, at)
            if piece != blank:
                text = binascii.b2a_base64(piece).decode().strip()
                print('D', block * size + at, binascii.crc32(piece), text)
        if not block % 32:
            print('P', block * size)
    print('Q')
copy()
"""


class _Copy:
    """The image as it comes in, line by line."""

    def __init__(self, port):
        self._port = port
        self.data = None
        self.whole = False

    def take(self, line):
        """Take one line of the program's. Raises UserError for what it cannot have sent."""
        kind, _, rest = line.partition(" ")
        if kind == "E":
            raise UserError("%s: %s" % (self._port, rest))
        try:
            self._take(kind, rest.split())
        except (ValueError, binascii.Error) as error:
            raise UserError("%s: a line was garbled on its way (%.20s...); try again"
                            % (self._port, line)) from error

    def _take(self, kind, fields):
        if kind == "S":
            blocks, size = map(int, fields)
            if size != BLOCK_BYTES or not 0 < blocks <= _MOST_BLOCKS:
                raise ValueError
            self.data = bytearray(b"\xff" * (blocks * size))
        elif kind == "D" and self.data is not None:
            at, crc = int(fields[0]), int(fields[1])
            piece = base64.b64decode(fields[2], validate=True)
            if binascii.crc32(piece) != crc & 0xFFFFFFFF or at + len(piece) > len(self.data):
                raise ValueError
            self.data[at : at + len(piece)] = piece
            self._progress(at)
        elif kind == "P" and self.data is not None:
            self._progress(int(fields[0]))
        elif kind == "Q":
            self.whole = True

    def _progress(self, at):
        if sys.stderr.isatty():
            print("\rreading %s: %3d %%" % (self._port, 100 * at // len(self.data)), end="",
                  file=sys.stderr)


def _fetch(port):
    """The bytes of the partition."""
    copy = _Copy(port)
    with subprocess.Popen(run.mpremote(port, "exec", _PROGRAM), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        for line in run.lines_of(process, _SILENCE_S):
            copy.take(line)
        error = run.last_error(process)
    if not copy.whole:
        raise UserError("%s: the copy is not whole: %s" % (port, error or "it broke off"))
    return bytes(copy.data)


def copy_flash(port, keep=None):
    """Return the `Image` of a device's journal; `keep` is a file for the copy.

    Raises UserError where the device does not give it. The device is started again in any case.
    """
    if keep and not Path(keep).absolute().parent.is_dir():  # not after minutes of reading
        raise UserError("%s: there is no such folder" % keep)
    run.check(port)
    print("%s: the firmware stops while its journal is read, and is started again afterwards"
          % port, file=sys.stderr)
    try:
        data = _fetch(port)
    finally:
        run.reset(port)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(keep or Path(folder) / "journal.img")
        try:
            path.write_bytes(data)
        except OSError as error:
            raise UserError("%s: cannot be written: %s" % (path, error.strerror)) from error
        image = open_image(path)
    image.name = port
    return image
