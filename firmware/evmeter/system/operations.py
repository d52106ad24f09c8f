"""What commands do (uplink/commands.py checks them first). Loaded with the first command.

operation    arguments                             answer
identify     seconds: 1 to 60, may be left out     id, fw, board, k, boot, up_s
resend       from, to: numbers on flash            n
time         unix_ms, n: of the newest status      step_ms
reboot       force: true or false, may be left out
config       rev, cfg: as a wish                   rev, restart
alarm_ack    code
user         IL, IT, ID, may be IF                 (session/orders.py)
target       target_mwh or target_minor
stop         by: "local" or "remote"
limit        ma: 0, or 6000 to what the board can  ma
lock         on: true or false; by a restart       closes the prompt, or opens it
update       head, or at and data, or activate     (system/update.py)
key_change                                         seq

`time` is of last resort. It has to name the newest status message, which bounds how old it can be:
what a broker kept for later is not taken for the time of day.
"""

import asyncio
import json
import os

from micropython import const

from evmeter import VERSION
from evmeter.system import report, trial, twin
from evmeter.system.log import log

_MOST_FRAMES = const(1000)
_STATUS_AGE_MS = const(10000)
_TIME_MS = const(1000)  # what the backend's own clock may be wrong by, beside the way
_LATEST_MS = const(4102444800000)  # 2100
_REST_MS = const(10000)
_RESTART_MS = const(60000)
_DRAIN_MS = const(5000)
_STEP_MS = const(50)
_ORDERS = ("user", "target", "stop")
_AWAY_MS = const(300)  # from the socket to the broker


def _only(args, *names):
    for name in args:
        if name not in names:
            raise ValueError("unknown argument %s; allowed: %s"
                               % (repr(name)[1:-1], ", ".join(names) or "none"))


def _number(args, name, low, high):
    value = args.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ValueError("%s is %r; allowed: a whole number from %d to %d"
                           % (name, value, low, high))
    return value


class Operations:
    """`app` is the composition root. `restart_due`: the answer is to go out, then `restart`.

    ANY_TIME  do no harm where they come late: allowed while the time is not known
    """

    ANY_TIME = ("identify", "resend", "time")
    UNSIGNED = "%s needs the signature of an enrolled operator key"

    def __init__(self, app):
        self._app = app
        self._new = None  # the configuration that the restart is to put in force
        self._told = None  # what the audit log holds of it
        self._updater = None  # that has what the restart is to try
        self._wish_waits = self._update_waits = self._force = False
        self.restart_due = False
        self._all = {
            "identify": self._identify, "resend": self._resend, "time": self._time,
            "reboot": self._reboot, "config": self._config, "alarm_ack": self._alarm_ack,
            "limit": self._limit, "lock": self._lock, "update": self._update,
            "key_change": self._key_change}

    def dangerous(self, op, args):
        """Whether it needs an operator's signature, whatever it says. The pieces of an image do
        not: what is signed tells their hash."""
        return op in ("key_change", "lock") or (op == "update" and "data" not in args)

    def restarts(self, op, args):
        """Whether it may end in a restart, which must not forget that it was there."""
        return op in ("reboot", "config", "lock") or (op == "update" and "activate" in args)

    async def do(self, op, args, by):
        """Do it; returns what the answer is to tell (dict or None). `by`: the id of the operator
        key that signed, or "". Raises ValueError, ConfigError, JournalError, SignerError, OSError.
        """
        if op in _ORDERS:
            return await self._app.keeper.order(op, args)
        if op not in self._all:
            raise ValueError("op is %r; allowed: %s"
                               % (op, ", ".join(sorted(list(self._all) + list(_ORDERS)))))
        return await self._all[op](args, by)

    async def _identify(self, args, by):
        _only(args, "seconds")
        app, seconds = self._app, 0
        if args:
            seconds = _number(args, "seconds", 1, 60)
        show = getattr(app.board, "identify", None)  # not every board has a lamp
        if seconds and show is None:
            raise ValueError("seconds; this board has nothing to show itself by")
        if seconds:
            show(seconds)
        return {"id": app.config["id"], "fw": VERSION, "board": app.board.name, "boot": app.boots,
                "k": app.signer.key_id if app.signer else "",
                "up_s": app.clock.mono_ms() // 1000}

    async def _resend(self, args, by):
        _only(args, "from", "to")
        journal = self._app.journal
        first = _number(args, "from", journal.oldest(), journal.next_seq - 1)
        last = _number(args, "to", first, min(journal.next_seq, first + _MOST_FRAMES) - 1)
        self._app.uplink.resend(first, last)
        return {"n": last - first + 1}

    async def _time(self, args, by):
        _only(args, "unix_ms", "n")
        clock, monitor = self._app.clock, self._app.monitor
        unix_ms = _number(args, "unix_ms", 0, _LATEST_MS)
        age_ms = clock.mono_ms() - monitor.told_ms
        if args.get("n") != monitor.number or age_ms > _STATUS_AGE_MS:
            raise ValueError("n is %r; allowed: that of a status message of the last 10 s, now "
                               "%d" % (args.get("n"), monitor.number))
        was_ms = clock.now()[0]
        if not clock.offer(unix_ms, age_ms + _TIME_MS, "backend"):
            raise ValueError("a better time is known: quality %s" % clock.quality)
        self._app.uplink.status_changed()
        return {"step_ms": clock.now()[0] - was_ms}

    async def _reboot(self, args, by):
        _only(args, "force")
        self._updater = None
        self._force = args.get("force", False) is True
        if not self._force:
            await self._rest(_REST_MS)
        self.restart_due = True

    async def _config(self, args, by):
        _only(args, "rev", "cfg")
        rev = _number(args, "rev", 1, 0x7FFFFFFF)
        if not isinstance(args.get("cfg"), dict):
            raise ValueError("cfg must be a JSON object")
        self.check_wish(rev)
        return await self.wish(rev, args["cfg"], by)

    async def _alarm_ack(self, args, by):
        _only(args, "code")
        self._app.alarms.acknowledge(args.get("code"))

    async def _limit(self, args, by):
        _only(args, "ma")
        app = self._app
        if app.pilot_pwm is None:
            raise ValueError("this board does not drive the pilot")
        most_ma = app.pilot_pwm.max_ma
        ma = args.get("ma")
        if ma != 0 or type(ma) is not int:
            if type(ma) is not int or not 6000 <= ma <= most_ma:
                raise ValueError("ma is %r; allowed: 0, or a whole number from 6000 to %d"
                                   % (ma, most_ma))
        async with app.poll.bus_idle:
            app.limit(ma)
        return {"ma": ma}

    async def _lock(self, args, by):
        _only(args, "on")
        on = args.get("on")
        if type(on) is not bool:
            raise ValueError("on is %r; allowed: true, false" % (on,))
        app = self._app
        await self._rest(_REST_MS)
        await app.ledger.log("lock" if on else "unlock", "", app.clock.mono_ms(), {"by": by})
        async with app.poll.bus_idle:
            app.board.nvs.set_i32("lock", int(on))
            app.board.nvs.commit()
        self.restart_due = True

    async def _update(self, args, by):
        app = self._app
        if app.keeper.engaged():
            raise ValueError("an update waits for the end of the session")
        updater = app.updater()
        self._updater = None
        if "head" in args:
            _only(args, "head")
            return await updater.begin(args["head"])
        if "data" in args:
            _only(args, "at", "data")
            return await updater.data(args.get("at"), args["data"])
        _only(args, "activate")
        if args.get("activate") is not True:
            raise ValueError("allowed: head, or at and data, or activate: true")
        fields = await updater.check()
        await self._rest(_REST_MS)
        told = {"version": fields["version"], "counter": fields["counter"]}
        entry = {"old": VERSION, "by": by, "sha256": fields["sha256"]}
        entry.update(told)
        await app.ledger.log("update", "", app.clock.mono_ms(), entry)
        self._updater = updater
        self.restart_due = True
        return told

    async def _key_change(self, args, by):
        from evmeter.system import key_change

        _only(args)
        app = self._app
        seq = await key_change.propose(app.board.nvs, os.urandom, app.ledger,
                                       app.clock.mono_ms())
        log.info("key change announced in entry %d, ordered by %s", seq, by)
        return {"seq": seq}

    # -- the configuration --

    def check_wish(self, rev):
        """Whether a wish of this revision can be worked on now. Raises ValueError."""
        app = self._app
        active = app.config["rev"]
        if rev <= active:
            raise ValueError("rev is %d; allowed: more than %d" % (rev, active))
        bad = report.refused(app.board.nvs)
        if bad and rev == bad[0]:
            raise ValueError(bad[1])
        self._wish_waits = True
        if app.trial:
            raise ValueError("it waits for the end of the trial of rev %d" % active)
        if app.keeper.engaged():
            raise ValueError("it waits for the end of the session")
        self._wish_waits = False

    async def wish(self, rev, wished, by):
        """Take the wished configuration (a dict): the restart puts it in force. Raises as `do`."""
        app = self._app
        new = twin.merged(app.config, wished, rev)
        found = twin.changes(app.config, new)
        paths = twin.to_sign(found)
        if paths and not by:
            raise ValueError(self.UNSIGNED % paths[0])
        if (not new["operator"]["keys"] and trial.stored(app.board.nvs, "lock")
                and getattr(app.board, "BUTTON", None) is None):
            raise ValueError("operator.keys is empty; allowed: at least one key, as nothing else "
                             "could open the prompt, which is closed")
        self._told = twin.told(found, paths) if paths else None
        await self._rest(_REST_MS)
        await trial.announce(app, new, by, self._told)
        self._new = new
        self.restart_due = True
        return {"rev": rev, "restart": True}

    def report(self, rev=0, why=""):
        """Send the configuration as it is in force; `why` the wish `rev` was refused."""
        self._app.uplink.answer(b"cfg", lambda: report.report(self._app, rev, why), True)

    async def follow(self):
        """Once a second: what waits for the right moment. Raises JournalError, SignerError."""
        app = self._app
        if self._wish_waits and not app.trial and not app.keeper.engaged():
            self._wish_waits = False
            app.uplink.ask_wish()
        if self._update_waits and not app.keeper.engaged():
            self._update_waits = False
            if self._updater:
                await self.restart()
        if (trial.stored(app.board.nvs, "key_new_seq") and not app.keeper.engaged()
                and app.at_rest() and not app.journal.unconfirmed()):
            from evmeter.system import key_change

            # What the old key has signed must not be sent once more: its acknowledgement would
            # name the old key.
            await app.ledger.save_cursor()
            async with app.poll.bus_idle:
                adopted = key_change.adopt(app.board.nvs, app.journal)
            if adopted:
                log.info("the new key takes over: restart")
                await self.restart()

    # -- the restart --

    async def _rest(self, longest_ms):
        """Await that no record is in the making. Raises ValueError."""
        app = self._app
        until_ms = app.clock.mono_ms() + longest_ms
        while not app.at_rest():
            if app.clock.mono_ms() > until_ms:
                raise ValueError("a record is being written; try again")
            await asyncio.sleep_ms(_STEP_MS)

    async def restart(self):
        """Restart the device, once the answer is out and no record is in the making. Raises
        JournalError, SignerError."""
        app = self._app
        self.restart_due = False
        until_ms = app.clock.mono_ms() + _DRAIN_MS
        while not app.uplink.drained() and app.clock.mono_ms() < until_ms:
            await asyncio.sleep_ms(_STEP_MS)
        await asyncio.sleep_ms(_AWAY_MS)
        until_ms = app.clock.mono_ms() + _RESTART_MS
        why = "records were being written for too long"
        while app.clock.mono_ms() < until_ms:
            if self._new and app.keeper.engaged():
                why = "a session has begun"
                break
            if self._updater and app.keeper.engaged():
                self._update_waits = True
                log.info("the update waits for the end of the session")
                return
            async with app.poll.bus_idle:
                app.keeper.follow()  # the session as it is now, for the boot that resumes it
                if app.at_rest() or (self._force and not app.ledger.busy()):
                    if not (self._updater and app.keeper.engaged()):
                        self._reset()
            await asyncio.sleep_ms(_STEP_MS)
        log.error("no restart: %s", why)
        if self._new:
            rev = self._new["rev"]
            self._new = None
            self._wish_waits = True
            self.report(rev, why)
            await trial.withdraw(app, rev, why if self._told else "")
        self._update_waits = self._updater is not None

    def _reset(self):
        """From here on nothing else runs."""
        app = self._app
        if self._new:
            try:
                app.board.write_config(json.dumps(self._new))
            except OSError as error:  # the mark tells after the restart that it was not taken
                log.error("configuration not written: error %s", error.args[0])
        elif self._updater:
            try:
                self._updater.activate()
            except OSError as error:
                log.error("the update is not tried: error %s", error.args[0])
        app.restart()
