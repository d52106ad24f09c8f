"""Holds what a device has written against what was true: the rules of DESIGN.md, section 1.

Reads the journal's bytes itself, each frame once, in the order in which they came to lie there.
"""

import binascii
import hashlib
import json
import re
import struct
from collections import Counter

from evmeter_tools.faults.world import STEP_MWH

_HEADER = "<HHIB16s"  # of a frame, ledger/journal.py
_MAGIC = 0x5AA5
_AROUND = 29
_REC, _EVT, _IVL, _LOG = 1, 2, 3, 4
_READING = re.compile(r'"TM":"([^ "]+) (.)","TX":"(.)","RV":([0-9.]+),.*?"ST":"(.)"')
_LONGEST_OFF_MS = 180000
_SLACK_S = 4  # whole seconds at both ends, and the windows' own time


class _Open:
    """A session as the journal tells it until its complete record."""

    def __init__(self, message, lies):
        self.begin = message
        self.jump_mwh = self.off_mwh = 0
        self.rebased = False
        self.open_ms = None  # true time of the pilot's edge, where it is known
        self.lies = lies
        self.tariff_changes = 0
        self.users = {_name(message)}
        self.user_seq = message["seq"]  # of the newest frame that names the user


def _name(message):
    return message["user"]["ID"] if "user" in message else None


def _mwh(text):
    whole, _, part = text.partition(".")
    return int(whole) * 10**6 + int((part + "000000")[:6])


class Truth:
    """Call `look` after each step and `settled` at the end; `wrong` is the world's list."""

    def __init__(self, world):
        self._world = world
        self.wrong = world.wrong
        self.counts = Counter()
        self.next_seq = 1
        self.session = None  # _Open
        self.mark_mwh = None
        self.told = set()  # users in events
        self.pending = {None}  # users that the next session may have
        self.owed = None  # a user that was taken while a record was signed
        self._interval_mwh = None
        self._interval_jump_mwh = 0
        self._segment = self._offset = 0
        self._hash = bytes(16)
        self._record_hash = bytes(16)
        self._page = 0
        self._first_mwh = None
        self._first_gone_mwh = 0
        self._accounted_mwh = self._jumps_mwh = 0
        self._end_ms = 0
        self.ended = set()
        self._closing = None

    def _say(self, text, *values):
        self.wrong.append("frame %d: %s" % (self.next_seq, text % values))

    def look(self):
        """Check each frame that has come since."""
        store = self._world.board.store
        self.wrong += store.wrong
        store.wrong.clear()
        body = store.small.get("session")
        if body and len(body) > 96:
            self.wrong.append("a checkpoint of %d bytes" % (len(body) + 4))
        if not self._segment and store.segments:
            self._segment = store.segments[0]
        while self._segment:
            data = store.data[self._segment]
            if self._offset >= len(data):
                following = [first for first in store.segments if first > self._segment]
                if not following:
                    return
                self._segment, self._offset = following[0], 0
                continue
            magic, size, seq, kind, before = struct.unpack_from(_HEADER, data, self._offset)
            frame = bytes(data[self._offset:self._offset + size + _AROUND])
            self._offset += len(frame)
            if magic != _MAGIC or binascii.crc32(frame[:-4]).to_bytes(4, "little") != frame[-4:]:
                self._say("damaged")
            if seq != self.next_seq or before != self._hash:
                self._say("number %d, or it does not follow the one before", seq)
            self._hash = hashlib.sha256(frame).digest()[:16]
            self._take(kind, json.loads(frame[25:-4]))
            self.next_seq = seq + 1

    def _take(self, kind, message):
        self.counts["frames"] += 1
        if kind == _REC:
            self._record(message)
        elif kind == _IVL:
            self._interval(message)
        elif kind == _LOG:
            self.counts["log: " + message["ev"]] += 1
            self._jump(message)
        else:
            self._event(message)
        if "reg_mwh" in message:
            self.mark_mwh = message["reg_mwh"]

    # -- energy --

    def _account(self, message):
        """Energy outside of sessions up to the message's register."""
        register_mwh, out_mwh = message["reg_mwh"], message["out_mwh"]
        if self.mark_mwh is None:
            self._first_mwh = register_mwh
            self._first_gone_mwh = register_mwh - self._world.meter.epochs[0][0]
            expected_mwh = 0
        else:
            expected_mwh = register_mwh - self.mark_mwh
        if out_mwh != expected_mwh or out_mwh < 0:
            self._say("out of session %d, not %d", out_mwh, expected_mwh)
        self._accounted_mwh += out_mwh
        self.counts["out of session, mWh"] += out_mwh

    def _known(self, register_mwh):
        """Epochs in which the meter has told that register."""
        found = self._world.meter.served.get(register_mwh)
        if not found:
            self._say("register %d was never read", register_mwh)
        return found or {0}

    def _jump(self, message):
        if message["ev"] != "meter_rebase":
            return
        self.counts["registers re-based"] += 1
        jump_mwh = message["jump_mwh"]
        world = self._world
        if len(world.meter.epochs) == 1:
            self._say("a jump of %d that never was", jump_mwh)
        self._known(message["new_mwh"])
        if self.mark_mwh is not None and message["reg_mwh"] != self.mark_mwh + jump_mwh:
            self._say("mark %d after a jump of %d", message["reg_mwh"], jump_mwh)
        if "reg_mwh" in message:
            self._accounted_mwh += jump_mwh
            self._jumps_mwh += jump_mwh
        self._interval_jump_mwh += jump_mwh
        if self.session:
            self.session.jump_mwh += jump_mwh
            self.session.rebased = True

    def _interval(self, message):
        start_mwh = message["e_mwh"]
        if self._interval_mwh is not None:
            missing = start_mwh - self._interval_mwh - self._interval_jump_mwh
            if missing:
                self.counts["intervals that do not follow each other"] += 1
        self._interval_mwh = start_mwh + message["d_mwh"]
        self._interval_jump_mwh = 0
        self.counts["intervals"] += 1

    # -- records --

    def _record(self, message):
        text = message["ocmf"]
        signed = text.split("|")[1]
        fields = json.loads(signed)
        self._page += 1
        if fields["PG"] != "T%d" % self._page:
            self._say("page %s, not T%d", fields["PG"], self._page)
        if fields["ZP"] != self._record_hash.hex():
            self._say("the record chain is broken")
        self._record_hash = hashlib.sha256(signed.encode()).digest()[:16]
        kind = message["kind"]
        if kind == "begin":
            self._begin(message)
        elif not self.session or self.session.begin["sid"] != message["sid"]:
            self._say("%s record of %s, which is not open", kind, message["sid"])
        elif kind == "tariff":
            self.session.tariff_changes += message["n"]
        else:
            self._complete(message, fields, _READING.findall(signed))
        if kind != "tariff" and fields.get("ID", "") != (self._who(message, fields) or ""):
            self._say("the record names %s", fields["ID"])

    def _who(self, message, fields):
        """The user that the record must name."""
        if message["kind"] == "begin":
            return _name(message)
        return fields["ID"] if (fields["ID"] or None) in self._closing.users else "another"

    def _begin(self, message):
        self.counts["sessions"] += 1
        if self.session:
            self._say("%s begins while one is open", message["sid"])
        if message["sid"] in self.ended:
            self._say("%s begins again", message["sid"])
        if message["begin_ms"] < self._end_ms:
            self._say("%s begins %d ms before the end of the one before", message["sid"],
                      self._end_ms - message["begin_ms"])
        if _name(message) not in self.pending:
            self._say("user %s, ordered was one of %s", _name(message), self.pending)
        self.pending = {None}
        if _name(message) == self.owed:
            self.owed = None
        self._account(message)
        self._known(message["begin_mwh"])
        self.session = _Open(message, self._world.lies)

    def _complete(self, message, fields, readings):
        session, sid = self.session, message["sid"]
        begin = session.begin
        register_mwh = message["reg_mwh"]
        energy_mwh = register_mwh - message["begin_mwh"] - message["jump_mwh"]
        if message["begin_mwh"] != begin["begin_mwh"] or message["begin_ms"] != begin["begin_ms"]:
            self._say("%s begins elsewhere than its begin record", sid)
        if message["jump_mwh"] != session.jump_mwh:
            self._say("%s jumped by %d, not %d", sid, message["jump_mwh"], session.jump_mwh)
        if not 0 <= message["gap_mwh"] <= energy_mwh:
            self._say("%s: energy %d, gap %d", sid, energy_mwh, message["gap_mwh"])
        if not session.rebased and message["gap_mwh"] < session.off_mwh:
            self._say("%s: gap %d, off %d", sid, message["gap_mwh"], session.off_mwh)
        times = [row[0] for row in readings]
        if times != sorted(times):
            self._say("%s: time goes back: %s", sid, times)
        registers = [_mwh(row[3]) for row in readings]
        if registers[0] != message["begin_mwh"] or registers[-1] != register_mwh:
            self._say("%s: the record shows %s", sid, registers)
        if self.owed:
            self._say("%s does not know %s", sid, self.owed)
        epochs = self._known(message["begin_mwh"]) & self._known(register_mwh)
        if fields["ZB"]:
            self.counts["billable"] += 1
            good = all(row[4] == "G" for row in readings)
            if session.rebased or not epochs or not good or registers != sorted(registers):
                self._say("%s is billable: %s", sid, registers)
            if energy_mwh < 100 * STEP_MWH:
                self._say("%s is billable with %d mWh", sid, energy_mwh)
        if fields.get("ZW") and (session.rebased or {row[1] for row in readings} - {"S", "R"}):
            self._say("%s: its split is billable: %s", sid, readings)
        changes = fields.get("ZT", 0)
        if changes != session.tariff_changes or (changes and len(readings) > 2):
            self._say("%s: %d changes told, %d written", sid, changes, session.tariff_changes)
        self._accounted_mwh += energy_mwh
        self._end_ms = message["ts"] * 1000
        self.ended.add(sid)
        self._closing, self.session = session, None

    # -- events --

    def _event(self, message):
        name = message["ev"]
        self.counts["event: " + name] += 1
        if name == "boot":
            # what was acknowledged may give way; then nobody knows the user any more
            if self.session and self._world.board.store.segments[0] > self.session.user_seq:
                self.session.users.add(None)
            if "out_mwh" in message:
                self._account(message)
        elif name == "open":
            if self.session:
                self.session.open_ms = self._true_ms(message)
        elif name == "resume":
            self._resume(message)
        elif name == "close":
            self._close(message)
        elif name == "user" and self.session and message["sid"] == self.session.begin["sid"]:
            self.session.users = {_name(message)}
            self.session.user_seq = message["seq"]
            self.told.add(_name(message))
            if _name(message) == self.owed:
                self.owed = None

    def _true_ms(self, message):
        """When something happened, where the device's clock can be turned into the truth."""
        world = self._world
        if message["tq"] == "U" or world.clock_error_ms:
            return None
        return message["ts"] * 1000

    def _resume(self, message):
        world = self._world
        if (world.board.reset_cause == "power-on" and not world.lies
                and world.off_ms > _LONGEST_OFF_MS + 1000):
            self._say("resumed after %d s", world.off_ms // 1000)

    def _close(self, message):
        session, sid = self._closing, message["sid"]
        if not session or session.begin["sid"] != sid:
            self._say("close of %s, which has not ended", sid)
            return
        self._closing = None
        if message.get("by") and sum(message["by"].values()) != (
                message["energy_mwh"] - message["gap_mwh"]):
            self._say("%s: split %s of %d, gap %d", sid, message["by"], message["energy_mwh"],
                      message["gap_mwh"])
        end_ms = self._true_ms(message)
        if session.open_ms is None or end_ms is None or session.lies != self._world.lies:
            return
        passed_s, said_s, off_s = ((end_ms - session.open_ms) // 1000, message["dur_s"],
                                   message["dur_pm_s"])
        if said_s > passed_s + _SLACK_S + max(0, off_s):
            self._say("%s lasted %d s, said are %d", sid, passed_s, said_s)
        if off_s >= 0 and said_s < passed_s - _SLACK_S - off_s:
            self._say("%s lasted %d s, said are %d", sid, passed_s, said_s)

    def off(self, mwh):
        """So much went through while the device was off."""
        if self.session:
            self.session.off_mwh += mwh

    # -- the end --

    def settled(self):
        """The car is gone, everything is read and acknowledged, and nothing flows."""
        self.look()
        if self.session:
            self.wrong.append("%s is open for ever" % self.session.begin["sid"])
        if self.mark_mwh != self._world.meter.register_mwh():
            self.wrong.append("accounted is up to %s, the meter shows %d"
                              % (self.mark_mwh, self._world.meter.register_mwh()))
        if self._accounted_mwh != self.mark_mwh - self._first_mwh:
            self.wrong.append("accounted %d of %d mWh"
                              % (self._accounted_mwh, self.mark_mwh - self._first_mwh))
        told_mwh = self._accounted_mwh - self._jumps_mwh
        epochs = len(self._world.meter.epochs) - 1
        lost_mwh = self._world.meter.gone_mwh() - self._first_gone_mwh - told_mwh
        if lost_mwh < -STEP_MWH * epochs or (not epochs and lost_mwh >= STEP_MWH):
            self.wrong.append("accounted %d mWh, gone through %d" % (told_mwh, lost_mwh))
        self.counts["sessions without a complete record"] += self.counts["sessions"] - len(
            self.ended)
        self.counts["sessions without a close event"] += (
            len(self.ended) - self.counts["event: close"])
