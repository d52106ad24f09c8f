"""Commissioning on both stores: what a power cut in it leaves, and what it never touches."""

import json

import pytest

import host_flash
from evmeter.ledger import StoreError, foreign, store
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal
from evmeter.system.provision import provision
from evmeter_tools.faults.ram_flash import BLOCK_BYTES, RamFlash
from fakes.memory_store import MemoryNvs

_BLOCKS = 24


class _Board:
    def __init__(self, kind, image=None):
        self.flash = RamFlash(_BLOCKS, image)
        self.nvs = MemoryNvs()
        self.kind = kind

    def read_config(self):
        return json.dumps({"id": "d", "meter": {"profile": "x", "p_max_w": 1000},
                           "mqtt": {"host": "h"}, "journal": {"store": self.kind}})

    def journal_flash(self):
        return self.flash

    def mount_journal(self):
        return host_flash.mount(self.flash)

    def format_journal(self):
        host_flash.mkfs(self.flash)

    def works(self):
        journal = Journal(store(self.kind, self), self.nvs, lambda kind, payload: {})
        journal.open()
        return not journal.faults and journal.append(frames.EVT, b"x") == journal.next_seq - 1


@pytest.mark.parametrize("kind", ["ring", "littlefs"])
@pytest.mark.parametrize("used", [False, True])
def test_a_power_cut_in_commissioning_is_made_good_by_another_one(kind, used):
    image = b"someone" + bytes(BLOCK_BYTES) * _BLOCKS
    image = image[: _BLOCKS * BLOCK_BYTES] if used else None
    outcomes = set()
    for cut_at in range(200):
        for tear in range(3):
            board = _Board(kind, image)
            board.flash.cut_at, board.flash.tear = cut_at, tear
            try:
                provision(board, erase=used)
                assert not board.flash.dead
            except (StoreError, OSError):
                assert board.flash.dead
            again = _Board(kind, bytes(board.flash.image))
            try:
                provision(again)
                outcomes.add("taken")
            except StoreError as error:
                assert "which was left as it is" in str(error)
                assert again.flash.image == board.flash.image
                outcomes.add("told")
                assert provision(again, erase=True)["formatted"]
            assert again.works(), (cut_at, tear)
            assert provision(again)["formatted"] is False and again.works()
        if not board.flash.dead:
            assert outcomes == {"taken", "told"}
            return
    raise AssertionError("commissioning does not end")


@pytest.mark.parametrize(("kind", "other", "named"), [
    ("ring", "littlefs", "a littlefs"), ("littlefs", "ring", "a ring of sectors")])
def test_the_other_store_is_neither_taken_nor_laid_over(kind, other, named):
    board = _Board(other)
    provision(board)
    assert board.works()
    image = bytes(board.flash.image)
    changed = _Board(kind, image)
    with pytest.raises(StoreError, match=named):
        provision(changed)
    with pytest.raises(StoreError):
        store(kind, changed).open()
    assert changed.flash.image == image
    assert provision(changed, erase=True)["formatted"] and changed.works()
    with pytest.raises(StoreError):  # what is left of the first one is not taken for it
        store(other, changed).open()
    assert foreign.what(changed.journal_flash) != named
    assert store(kind, changed).open() is None
