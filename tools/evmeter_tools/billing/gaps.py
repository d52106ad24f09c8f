"""What the operator decided about energy that flowed while a device was off.

Until then it is pending, and in no bill. A decision is given for one amount: where the session
turns out to have another, it is pending again.
"""

import json
from pathlib import Path

import sqlalchemy as sql

from evmeter_tools.backend.tables import gap_decisions
from evmeter_tools.errors import UserError

PENDING = "pending"
CONFIRMED = "confirmed"
WAIVED = "waived"


class GapDecisions:
    """Decisions in memory: {(device, sid): (decision, gap_mwh)}. What keeps them elsewhere offers
    the same `decision`."""

    def __init__(self, decided=None):
        self._decided = dict(decided or {})

    def decision(self, device, sid, gap_mwh):
        """PENDING, CONFIRMED or WAIVED for so much gap energy of a session."""
        decision, amount_mwh = self._decided.get((device, sid), (PENDING, gap_mwh))
        return decision if amount_mwh == gap_mwh else PENDING

    def decide(self, device, sid, gap_mwh, decision):
        """Take the operator's word. Raises UserError for a decision that is none."""
        if decision not in (CONFIRMED, WAIVED):
            raise UserError("%.20r is no decision; allowed: %s, %s"
                            % (decision, CONFIRMED, WAIVED))
        self._decided[device, sid] = (decision, gap_mwh)


class GapFile(GapDecisions):
    """Decisions in a file of JSON lines, each with device, sid, gap_mwh, decision, by and at_s;
    the last line of a session counts. Raises UserError where it cannot be read."""

    def __init__(self, path):
        super().__init__()
        self._path = Path(path)
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
            for line in text.splitlines():
                row = json.loads(line)
                super().decide(row["device"], row["sid"], row["gap_mwh"], row["decision"])
        except OSError as error:
            raise UserError("%s: %s" % (path, error.strerror)) from None
        except (ValueError, KeyError, TypeError):
            raise UserError("%s: not JSON lines with device, sid, gap_mwh and decision"
                            % path) from None

    def write(self, device, sid, gap_mwh, decision, by, at_s):
        """Take the operator's word and make it durable; `by` is who said so."""
        self.decide(device, sid, gap_mwh, decision)
        line = json.dumps({"device": device, "sid": sid, "gap_mwh": gap_mwh,
                           "decision": decision, "by": by, "at_s": at_s})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError("%s: %s" % (self._path, error.strerror)) from None


class StoredGaps(GapDecisions):
    """Decisions as they stand in the database of a Store: those that were given on the pages, and
    those of `evmeter cdr gaps`."""

    def __init__(self, store):
        self._store = store
        with store.engine.connect() as connection:
            super().__init__({(row.device, row.sid): (row.decision, row.gap_mwh)
                              for row in connection.execute(sql.select(gap_decisions))})

    def write(self, device, sid, gap_mwh, decision, by, at_s):
        """Take the operator's word and make it durable; `by` is who said so."""
        self.decide(device, sid, gap_mwh, decision)
        values = {"gap_mwh": gap_mwh, "decision": decision, "by": by[:64], "at": at_s * 1000}
        with self._store.turn, self._store.engine.begin() as connection:
            connection.execute(self._store.insert(gap_decisions).values(
                device=device, sid=sid, **values).on_conflict_do_update(
                    index_elements=[gap_decisions.c.device, gap_decisions.c.sid], set_=values))


def gap_rows(sessions, decisions):
    """[(session, decision)] of every verified session with gap energy, oldest first."""
    found = [session for session in sessions if session.ok and session.gap_mwh]
    return [(session, decisions.decision(session.device, session.sid, session.gap_mwh))
            for session in sorted(found, key=lambda session: (session.start_ms, session.sid))]
