"""What a flash holds on which the journal does not open. Loaded only then; writes nothing."""

BLANK = "nothing: it is blank"
STORES = ("a littlefs", "a ring of sectors")
_WORK_BYTES = 256


def what(device):
    """In words, what lies on the block device that `device()` gives."""
    try:
        return _what(device())
    except OSError as error:
        return "what cannot be read (error %s)" % error.args[0]


def _what(flash):
    piece = bytearray(_WORK_BYTES)
    blank = b"\xff" * _WORK_BYTES
    is_blank = True
    ring = False
    for block in range(flash.ioctl(4, 0)):
        for at in range(0, flash.ioctl(5, 0), _WORK_BYTES):
            if at and not is_blank:
                break
            flash.readblocks(block, piece, at)
            if not at and block < 2 and piece[8:16] == b"littlefs":
                return STORES[0]
            ring = ring or (not at and piece[:4] in (b"EVJ1", b"EVS1"))
            is_blank = is_blank and piece == blank
    return BLANK if is_blank else STORES[1] if ring else "something else"
