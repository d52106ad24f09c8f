"""Commissioning on the device: lay the journal, make the key. Run once by the installer's tool."""

import asyncio
import gc
import json
import os

from evmeter.ledger import StoreError, foreign, store
from evmeter.system import config, keys


def _settings(board):
    try:
        text = board.read_config()
    except OSError as error:
        raise config.ConfigError("the configuration cannot be read (error %s); provision the "
                                 "device" % error.args[0]) from None
    return config.parse(text)


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
    """Close the prompt from the next start on; returns whether something could open it again.
    Raises StartError where the firmware cannot start as it is configured: with the prompt closed,
    nothing could be put right any more."""
    if not (settings["operator"]["keys"] or getattr(board, "BUTTON", None) is not None):
        return False
    from evmeter.app import App

    App(board, True)
    board.nvs.set_i32("lock", 1)
    board.nvs.commit()
    return True


def provision(board, erase=False, lock=False):
    """Check the configuration, lay the journal, make the key, close the prompt (drivers/prompt.py)
    where `lock` asks for it; returns the device's public facts as a dict. A journal that opens is
    left as it is; what else the flash may hold is lost where `erase` allows it, and else refused.
    Raises ConfigError, StoreError, StartError, OSError."""
    settings = _settings(board)
    formatted = _lay_journal(board, settings["journal"]["store"], erase)
    signer = keys.make(board.nvs, os.urandom)
    return {"id": settings["id"], "k": signer.key_id, "spki": signer.spki_hex(),
            "formatted": formatted, "locked": lock and _lock(board, settings)}


def _tell(work):
    """Print what `work(board)` returns as one line of JSON; or why it cannot be done, as "error".
    """
    import board
    from evmeter.app import StartError

    asyncio.new_event_loop()  # that of a firmware that was interrupted holds all of it in memory
    gc.collect()
    hardware = board.build()
    why = ""
    try:
        print(json.dumps(work(hardware)))
    except (config.ConfigError, StoreError) as error:
        why = str(error)
    except StartError as error:
        why = "the firmware cannot start, the prompt stays open: %s" % error
    except OSError as error:
        why = str(error)
    if why:
        print(json.dumps({"error": why}))
        hardware.halt("evmeter: %s" % why)


def main(erase=False, lock=False):
    """Tell what `provision` returns."""
    _tell(lambda board: provision(board, erase, lock))


def close_prompt():
    """Close the prompt of a device that was commissioned with it open; tells whether it is
    `locked` from the next start on, which needs something that opens it again."""
    _tell(lambda board: {"locked": _lock(board, _settings(board))})
