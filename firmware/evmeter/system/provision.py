"""Commissioning on the device: lay the journal, make the key. Run once by the installer's tool."""

import json
import os

from evmeter.ledger import StoreError, foreign, store
from evmeter.system import config, keys


def _lay_journal(board, kind, erase):
    """Lay the empty store on a blank flash; returns whether that was done."""
    try:
        store(kind, board).open()
        return False
    except StoreError as error:
        found = foreign.what(board.journal_flash)
        if found != foreign.BLANK and not erase:
            raise StoreError("%s; the flash holds %s, which was left as it is: read it out, then "
                             "choose another journal.store, or let it be erased"
                             % (error, found)) from None
    if kind == "ring":
        from evmeter.ledger import ring_scan

        ring_scan.lay(board.journal_flash())
    else:
        from evmeter.ledger.segments import SegmentStore

        board.format_journal()
        SegmentStore.format(board.mount_journal())
    return True


def _lock(board, settings):
    """Close the prompt from the next start on; returns whether something could open it again."""
    if not (settings["operator"]["keys"] or getattr(board, "BUTTON", None) is not None):
        return False
    board.nvs.set_i32("lock", 1)
    board.nvs.commit()
    return True


def provision(board, erase=False, lock=False):
    """Check the configuration, lay the journal, make the key, close the prompt (drivers/prompt.py)
    where `lock` asks for it; returns the device's public facts as a dict. A journal that opens is
    left as it is; what else the flash may hold is lost where `erase` allows it, and else refused.
    Raises ConfigError, StoreError, OSError."""
    settings = config.parse(board.read_config())
    formatted = _lay_journal(board, settings["journal"]["store"], erase)
    signer = keys.make(board.nvs, os.urandom)
    return {"id": settings["id"], "k": signer.key_id, "spki": signer.spki_hex(),
            "formatted": formatted, "locked": lock and _lock(board, settings)}


def main(erase=False, lock=False):
    """Print what `provision` returns as one line of JSON; or why it cannot be done, as "error"."""
    import board

    hardware = board.build()
    try:
        print(json.dumps(provision(hardware, erase, lock)))
    except (config.ConfigError, StoreError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        hardware.halt("evmeter: %s" % error)


def close_prompt():
    """Close the prompt of a device that was commissioned with it open; prints a line of JSON:
    whether it is `locked` from the next start on, which needs something that opens it again, or
    the "error"."""
    import board

    hardware = board.build()
    try:
        print(json.dumps({"locked": _lock(hardware, config.parse(hardware.read_config()))}))
    except config.ConfigError as error:
        print(json.dumps({"error": "configuration: %s" % error}))
    except OSError as error:
        print(json.dumps({"error": "error %s; was the device provisioned?" % error.args[0]}))
