"""Commissioning on the device: lay the journal, make the key. Run once by the installer's tool."""

import json
import os

from evmeter.ledger.segments import SegmentStore
from evmeter.system import config, keys


def provision(board):
    """Check the configuration, format a blank journal, make the key; returns the device's public
    facts as a dict. A journal that mounts is left as it is. Raises ConfigError, OSError."""
    settings = config.parse(board.read_config())
    try:
        fs = board.mount_journal()
        fs.stat("/s")
        formatted = False
    except OSError:
        board.format_journal()
        SegmentStore.format(board.mount_journal())
        formatted = True
    signer = keys.make(board.nvs, os.urandom)
    return {"id": settings["id"], "k": signer.key_id, "spki": signer.spki_hex(),
            "formatted": formatted}


def main():
    """Print what `provision` returns as one line of JSON."""
    import board

    hardware = board.build()
    try:
        print(json.dumps(provision(hardware)))
    except (config.ConfigError, OSError) as error:
        hardware.halt("evmeter: %s" % error)
