"""Reports for the pages, and what is decided for bills: the figures are those of insight/ and
billing/."""

import threading
from collections import OrderedDict

import sqlalchemy as sql

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import chargers, gap_decisions, keys, records, sessions
from evmeter_tools.billing.cdr import Billing
from evmeter_tools.billing.gaps import PENDING, GapDecisions
from evmeter_tools.billing.party import read_operator
from evmeter_tools.billing.price import Held
from evmeter_tools.errors import UserError
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import View, report

_MOST_DEVICES = 200  # in one report: each is read whole
_MOST_KEPT = 500
_LONGEST_MS = 5 * 366 * 86_400_000


class Reports:
    """Makes reports, and remembers what was read of each device until it has sent more."""

    def __init__(self, store):
        self._store = store
        self._kept = OrderedDict()  # device -> (its newest record's time and number, facts)
        self._lock = threading.Lock()

    def _devices(self, site, device):
        query = sql.select(keys.c.device).distinct()
        if device:
            query = query.where(keys.c.device == device)
        elif site:
            query = query.join(chargers, chargers.c.device == keys.c.device).where(
                chargers.c.site == site)
        with self._store.engine.connect() as connection:
            found = sorted(connection.execute(query.limit(_MOST_DEVICES + 1)).scalars())
            if len(found) > _MOST_DEVICES:
                raise UserError("more than %d chargers: choose a site or a charger"
                                % _MOST_DEVICES)
            rated = dict(connection.execute(sql.select(
                chargers.c.device, chargers.c.rated_w).where(
                    chargers.c.device.in_(found), chargers.c.rated_w > 0)).all())
            stamps = {row[0]: (row[1], row[2]) for row in connection.execute(sql.select(
                records.c.device, sql.func.max(records.c.received_at),
                sql.func.count()).where(records.c.device.in_(found)).group_by(
                    records.c.device))}
        return found, rated, stamps

    def facts(self, site="", device=""):
        """({device: DeviceFacts}, {device: rated power in mW}). Raises UserError where that would
        be too many."""
        found, rated, stamps = self._devices(site, device)
        with self._lock:
            stale = [name for name in found
                     if name not in self._kept or self._kept[name][0] != stamps.get(name)]
            for name, facts in load(self._store, stale).items():
                self._kept[name] = stamps.get(name), facts
            for name in found:
                self._kept.move_to_end(name)
            facts = {name: self._kept[name][1] for name in found}
            while len(self._kept) > max(_MOST_KEPT, len(found)):
                self._kept.popitem(last=False)
        return facts, {name: watts * 1000 for name, watts in rated.items()}

    def table(self, name, zone, from_ms, to_ms, site="", device=""):
        """The Table of a report over a period in Unix ms. Raises UserError."""
        if not 0 <= from_ms < to_ms <= from_ms + _LONGEST_MS:
            raise UserError("the period must end after it begins and be at most 5 years long")
        local = LocalTime(zone)
        facts, rated_mw = self.facts(site, device)
        return report(name, facts, View(local, from_ms, to_ms, rated_mw))

    def session(self, device, sid):
        """The ChargingSession of insight/, None where there is none."""
        facts, _ = self.facts(device=device)
        own = facts.get(device)
        return next((each for each in own.sessions if each.sid == sid), None) if own else None


class Decisions(GapDecisions):
    """The operators' decisions on gap energy, as they stand in the database."""

    def __init__(self, store):
        with store.engine.connect() as connection:
            super().__init__({(row.device, row.sid): (row.decision, row.gap_mwh)
                              for row in connection.execute(sql.select(gap_decisions))})


def gap_rows(store):
    """Sessions with energy that flowed while the device was off, those without a decision first;
    it is in no bill before it was confirmed."""
    decisions = Decisions(store)
    with store.engine.connect() as connection:
        rows = connection.execute(sql.select(sessions).where(
            sessions.c.gap_mwh > 0, sessions.c.ok.is_(True)).order_by(
                sessions.c.begin_ms)).all()
    found = [{"device": row.device, "sid": row.sid, "begin_ms": row.begin_ms,
              "gap_mwh": row.gap_mwh, "energy_mwh": row.energy_mwh,
              "decision": decisions.decision(row.device, row.sid, row.gap_mwh)} for row in rows]
    return sorted(found, key=lambda row: row["decision"] != PENDING)


def decide(store, device, sid, decision, who):
    """Take an operator's word on a session's gap energy; returns the amount, None where it has
    none. Raises UserError for a decision that is none."""
    with store.engine.begin() as connection:
        gap_mwh = connection.execute(sql.select(sessions.c.gap_mwh).where(
            sessions.c.device == device, sessions.c.sid == sid, sessions.c.ok.is_(True))).scalar()
        if not gap_mwh:
            return None
        GapDecisions().decide(device, sid, gap_mwh, decision)
        values = {"gap_mwh": gap_mwh, "decision": decision, "by": who, "at": now_ms()}
        connection.execute(store.insert(gap_decisions).values(
            device=device, sid=sid, **values).on_conflict_do_update(
                index_elements=[gap_decisions.c.device, gap_decisions.c.sid], set_=values))
    return gap_mwh


def cdr(store, session, operator):
    """The OCPI CDR that a session would get now, by the operator's file. Raises UserError with
    the reason where it gets none."""
    if not operator:
        raise UserError("there is no operator's file; give one with --operator")
    try:
        return Billing(read_operator(operator), Decisions(store)).cdr(session, now_ms())
    except Held as why:
        raise UserError("held: %s" % why) from None
