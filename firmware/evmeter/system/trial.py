"""A new configuration on trial: the one before comes back where the device cannot live with it.

Loaded while a change is under way. The order: mark -> audit entry -> file -> restart. The mark
goes once the broker was reached. After three starts that did not come so far, or 10 minutes
without the broker, the configuration before it is put back; so it is where the power went between
mark and file. The audit entry "config_back" says that the change did not take place.
"""

from micropython import const

from evmeter.system.config import ConfigError, load
from evmeter.system.log import log
from evmeter.system.report import BAD, refused

MARK = "cfg_try"  # revision on trial
_STARTS = "cfg_starts"
_MOST_STARTS = const(3)
_LONGEST_MS = const(600000)
_WHY_BYTES = const(120)


def stored(nvs, key):
    """A whole number from the second store, 0 where it is not there."""
    try:
        return nvs.get_i32(key)
    except OSError:  # it is not there
        return 0


def mark(nvs, rev):
    """Revision `rev` is going to be tried; 0: no more."""
    nvs.set_i32(_STARTS, 0)
    nvs.set_i32(MARK, rev)
    nvs.commit()


def go_back(board, why):
    """Put the configuration before the one on trial back, and restart; returns where there is
    none on trial or none before it."""
    nvs = board.nvs
    rev = stored(nvs, MARK)
    try:
        active = load(board.read_config()).get("rev", 0)
    except (OSError, ConfigError):
        active = 0
    if not rev or active != rev:
        return
    bad = refused(nvs)
    if not bad or bad[0] != rev:
        why = bytes([one if 32 <= one < 127 else 63 for one in why.encode()]).decode()
        nvs.set_blob(BAD, ("%d %s" % (rev, why))[:_WHY_BYTES].encode())
        nvs.commit()
    try:
        board.restore_config()
    except OSError as error:
        log.error("no configuration before this one: error %s", error.args[0])
        return
    board.reset()


class Trial:
    """Follows the trial of the configuration with the revision `rev` through a boot."""

    def __init__(self, board, rev):
        self._board = board
        self._rev = rev
        self._tried = stored(board.nvs, MARK)
        if self._tried != rev:
            return
        starts = stored(board.nvs, _STARTS) + 1
        bad = refused(board.nvs)
        if starts > _MOST_STARTS or (bad and bad[0] == rev):
            go_back(board, "the device did not come up with it")
        board.nvs.set_i32(_STARTS, starts)
        board.nvs.commit()

    async def check(self, app):
        """Once a second; returns whether the trial is over. Raises JournalError, SignerError."""
        nvs = self._board.nvs
        if self._tried != self._rev:
            if not (app.journal.ready and app.keeper.booted):
                return False
            bad = refused(nvs)
            why = bad[1] if bad and bad[0] == self._tried else "the power went before it was taken"
            await withdraw(app, self._tried, why)
            return True
        if not app.uplink.online:
            if app.clock.mono_ms() > _LONGEST_MS and not app.keeper.engaged():
                go_back(self._board, "broker not reached: %s" % app.uplink.reason)
            return False
        async with app.poll.bus_idle:
            mark(nvs, 0)
        return True


async def announce(app, new, by, told):
    """Mark the configuration `new` and write the audit entry, `told`, where there is one. Then it
    is to be put on flash and the device restarted at once, or `withdraw` called. Raises
    JournalError, SignerError, OSError."""
    async with app.poll.bus_idle:
        mark(app.board.nvs, new["rev"])
    if told:
        await app.ledger.log("config", "", app.clock.mono_ms(), {
            "rev": new["rev"], "old_rev": app.config["rev"], "by": by, "chg": told})


async def withdraw(app, rev, why):
    """What was announced does not take place; `why` is for the audit log, "" where that was not
    told of it either. Raises JournalError, SignerError."""
    if why:
        await app.ledger.log("config_back", "", app.clock.mono_ms(), {"rev": rev, "why": why})
    async with app.poll.bus_idle:
        mark(app.board.nvs, 0)
