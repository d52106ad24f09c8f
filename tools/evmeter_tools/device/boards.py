"""The boards that are chips, and how their flash is divided.

boards/NAME/board.json says chip and flash; boards/partitions-*MiB.csv, in ESP-IDF's format, divide
the flash. `romfs` holds two images, one in each half.
"""

import json
from typing import NamedTuple

from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT

BOARDS = ROOT / "boards"
# chip -> mpy-cross's name of its instruction set, where MicroPython's firmware.bin begins
_CHIPS = {"esp32": ("xtensawin", 0x1000), "esp32s3": ("xtensawin", 0),
          "esp32c3": ("rv32imc", 0)}
_SECTOR = 0x1000
_APP_ALIGNMENT = 0x10000
FIRST = 0x9000  # before it are the bootloader and the table itself
_KIB = 1024


class Partition(NamedTuple):
    """One line of a partition table; offset and size in bytes."""

    label: str
    kind: str
    subtype: str
    offset: int
    size: int

    @property
    def end(self):
        """The first byte behind it."""
        return self.offset + self.size


class Board(NamedTuple):
    """A board: its name, chip, instruction set, where the firmware begins, MiB of flash."""

    name: str
    chip: str
    arch: str
    begin: int
    flash_mib: int

    @property
    def folder(self):
        """Where its Python files are."""
        return BOARDS / self.name

    @property
    def table(self):
        """The file of its partition table."""
        return BOARDS / ("partitions-%dMiB.csv" % self.flash_mib)

    def partitions(self, plain=False):
        """Its partition table. `plain`: for a MicroPython without VfsRom, where the file system
        has the place of `romfs` too, and both images."""
        found = read_partitions(self.table.read_text(), self.flash_mib * _KIB * _KIB)
        if plain:
            at = [one.label for one in found].index("romfs")
            room = found[at].size + found[at + 1].size
            found[at : at + 2] = [found[at + 1]._replace(offset=found[at].offset, size=room)]
        return found

    def slot_bytes(self):
        """Room for one image: half of the partition `romfs`."""
        return next(one.size for one in self.partitions() if one.label == "romfs") // 2


def names():
    """Names of the boards that are chips."""
    return sorted(path.parent.name for path in BOARDS.glob("*/board.json"))


def board(name):
    """The board `name`. Raises UserError; it lists the boards that there are."""
    if name not in names():
        raise UserError("board %s is not known; there is: %s" % (name, ", ".join(names())))
    found = json.loads((BOARDS / name / "board.json").read_text())
    return Board(name, found["chip"], *_CHIPS[found["chip"]], found["flash_mib"])


def _number(text):
    """A size or an offset as ESP-IDF's tool takes it: decimal, 0x.., or with K or M."""
    scale = {"K": _KIB, "M": _KIB * _KIB}.get(text[-1:].upper(), 1)
    return int(text if scale == 1 else text[:-1], 0) * scale


def read_partitions(text, flash_bytes):
    """The partitions of a table. Raises UserError where it cannot be flashed: out of order,
    overlapping, not aligned, beyond the flash."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split("#")[0].split(",")]
        if len(words) < 5:
            continue
        try:
            found.append(Partition(*words[:3], _number(words[3]), _number(words[4])))
        except ValueError:
            raise UserError("partition table: %s has no offset and size" % words[0]) from None
    behind = FIRST
    for one in found:
        alignment = _APP_ALIGNMENT if one.kind == "app" else _SECTOR
        if one.offset % alignment or one.size % _SECTOR or one.size <= 0:
            raise UserError("partition %s: 0x%x and 0x%x are not multiples of 0x%x and 0x%x"
                            % (one.label, one.offset, one.size, alignment, _SECTOR))
        if one.offset < behind or one.end > flash_bytes:
            raise UserError("partition %s: 0x%x to 0x%x; allowed: 0x%x to 0x%x"
                            % (one.label, one.offset, one.end, behind, flash_bytes))
        behind = one.end
    if len({one.label for one in found}) != len(found):
        raise UserError("partition table: a label is there twice")
    return found
