"""Reports for the pages, and what is decided for bills: the figures are those of insight/ and
billing/."""

from dataclasses import dataclass, replace

import sqlalchemy as sql

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import chargers, exclusions, gap_decisions, keys, sessions
from evmeter_tools.billing.cdr import Billing
from evmeter_tools.billing.gaps import PENDING, GapDecisions, StoredGaps
from evmeter_tools.billing.party import read_operator
from evmeter_tools.billing.price import Held
from evmeter_tools.errors import UserError
from evmeter_tools.insight import many
from evmeter_tools.insight.columns import Columns
from evmeter_tools.insight.facts import LAST_S
from evmeter_tools.insight.held import held_facts
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import View, off_peak_table, report
from evmeter_tools.insight.workup import waiting, work_up

_LONGEST_MS = 5 * 366 * 86_400_000
_CATCH_UP_S = 0.05  # so long a report works on what came in since; beyond it says how much waits
_CHUNK = 10  # chargers at once in a file: its first bytes come soon
_PIECE_MS = 30 * 86_400_000  # of a load profile at once in a file
_NO_SESSIONS = ("voltage", "delivered", "uptime", "outages", "records")
_FEW = 400  # chargers, of which what waits is counted alone
_STEPS = (1, 4, 16, 96)  # quarters of an hour in a point of a long load profile


@dataclass
class Wanted:
    """What a report is asked about: a View without stations, and which chargers; `devices` is
    None for all."""

    name: str
    view: View
    devices: list | None


class Reports:
    """Makes reports from what insight/workup.py has written of the records."""

    def __init__(self, store):
        self._store = store
        self._columns = Columns(store)
        self._zones = {}

    def warm(self):
        """Read what is kept in memory."""
        self._columns.use()

    def _zone(self, name):
        if name not in self._zones:
            if len(self._zones) > 20:
                self._zones.clear()
            self._zones[name] = LocalTime(name)
        return self._zones[name]

    def wanted(self, name, zone, from_ms, to_ms, site="", device=""):
        """A Wanted. Raises UserError for a period or a zone that is none."""
        if not 0 <= from_ms < to_ms <= min(from_ms + _LONGEST_MS, LAST_S * 1000):
            raise UserError("the period must end after it begins, be at most 5 years long and "
                            "end before 2106")
        view = View(self._zone(zone), from_ms, to_ms)
        query = None
        if device:
            query = sql.select(keys.c.device).distinct().where(keys.c.device == device)
        elif site:
            query = sql.select(chargers.c.device).where(
                chargers.c.site == site, chargers.c.device.in_(sql.select(keys.c.device)))
        found = None if query is None else sorted(self._scalars(query))
        work_up(self._store, _CATCH_UP_S, found if found and len(found) <= _FEW else None)
        return Wanted(name, view, found)

    def waiting(self, wanted):
        """How many records are stored that the report does not have yet."""
        few = wanted.devices if wanted.devices and len(wanted.devices) <= _FEW else None
        return waiting(self._store, few)

    def _scalars(self, query):
        with self._store.engine.connect() as connection:
            return connection.execute(query).scalars().all()

    def _rated_mw(self, devices):
        query = sql.select(chargers.c.device, chargers.c.rated_w).where(chargers.c.rated_w > 0)
        if devices is not None and len(devices) <= _FEW:
            query = query.where(chargers.c.device.in_(devices))
        with self._store.engine.connect() as connection:
            found = {device: watts * 1000 for device, watts in connection.execute(query)}
        if devices is None:
            return found
        chosen = set(devices)
        return {device: mw for device, mw in found.items() if device in chosen}

    # -- over all chargers at once --

    def whole(self, wanted, thin=False):
        """The Table of one of WHOLE. `thin`: a long load profile has fewer points."""
        return WHOLE[wanted.name](self, wanted, thin)

    def _chosen(self, wanted):
        chosen = self._columns.use()
        return chosen if wanted.devices is None else chosen.of(wanted.devices)

    def _period(self, wanted):
        return wanted.view.from_ms, wanted.view.to_ms

    def _utilisation(self, wanted, _thin):
        rated_mw = {**dict.fromkeys(self._names(wanted), 0), **self._rated_mw(wanted.devices)}
        from_ms, to_ms = self._period(wanted)
        down_ms = {device: 1000 * down_s for device, down_s in many.down_s(
            self._store, wanted.devices, from_ms // 1000, to_ms // 1000).items()
            if device in rated_mw}
        return many.utilisation(self._store, self._chosen(wanted), from_ms, to_ms, rated_mw,
                                down_ms)

    def _starts(self, wanted, _thin):
        return many.starts(self._chosen(wanted), wanted.view.zone, *self._period(wanted))

    def _concurrency(self, wanted, _thin):
        return many.concurrency(self._chosen(wanted), wanted.view.zone, *self._period(wanted),
                                self.count(wanted))

    def _sessions(self, wanted, _thin):
        return many.distribution(self._chosen(wanted), *self._period(wanted))

    def _tariffs(self, wanted, _thin):
        return many.tariff_split(self._chosen(wanted), *self._period(wanted))

    def _outcomes(self, wanted, _thin):
        refused = many.refused(self._store, wanted.devices, *self._period(wanted))
        return many.outcomes(self._chosen(wanted), *self._period(wanted), refused)

    def _load(self, wanted):
        from_ms, to_ms = self._period(wanted)
        return many.Profile(self._store, wanted.devices, -(-from_ms // 1000), -(-to_ms // 1000))

    def _demand(self, wanted, _thin):
        return many.load_demand(self._load(wanted), wanted.view.zone)

    def _profile(self, wanted, thin):
        return many.load_profile(self._load(wanted), wanted.view.zone,
                                 _STEPS if thin else _STEPS[:1])

    def _off_peak(self, wanted, thin):
        view = wanted.view
        return off_peak_table(view, self._tariffs(wanted, thin), many.off_peak(
            self._load(wanted), view.zone, *view.off_peak_minutes))

    # -- charger by charger --

    def _names(self, wanted):
        if wanted.devices is not None:
            return wanted.devices
        return self._scalars(sql.select(keys.c.device).distinct())

    def count(self, wanted):
        """How many chargers it is about."""
        if wanted.devices is not None:
            return len(wanted.devices)
        return self._scalars(sql.select(sql.func.count(keys.c.device.distinct())))[0]

    def part(self, wanted, limit, offset=0, after=None):
        """(Table, the last charger in it) of `limit` chargers in the order of their names; the
        charger is None where there are no more."""
        if wanted.devices is not None:
            found = wanted.devices[offset:] if after is None else [
                name for name in wanted.devices if name > after]
            found = found[:limit]
        else:
            query = sql.select(keys.c.device).distinct().order_by(keys.c.device).limit(limit)
            found = self._scalars(query.offset(offset) if after is None
                                  else query.where(keys.c.device > after))
        from_ms, to_ms = self._period(wanted)
        facts = held_facts(self._store, found, from_ms, to_ms, wanted.name not in _NO_SESSIONS)
        view = replace(wanted.view, rated_mw=self._rated_mw(found) if found else {})
        return report(wanted.name, facts, view), found[-1] if len(found) == limit else None

    def csv(self, wanted):
        """A report as CSV, piece by piece."""
        if wanted.name == "profile":
            view = wanted.view
            for from_ms in range(view.from_ms, view.to_ms, _PIECE_MS):
                part = replace(view, from_ms=from_ms, to_ms=min(from_ms + _PIECE_MS, view.to_ms))
                yield self.whole(replace(wanted, view=part)).csv(head=from_ms == view.from_ms)
            return
        if wanted.name in WHOLE:
            yield self.whole(wanted).csv()
            return
        table, after = self.part(wanted, _CHUNK)
        yield table.csv()
        while after is not None:
            table, after = self.part(wanted, _CHUNK, after=after)
            yield table.csv(head=False)


WHOLE = {
    "utilisation": Reports._utilisation, "starts": Reports._starts, "demand": Reports._demand,
    "profile": Reports._profile, "concurrency": Reports._concurrency,
    "sessions": Reports._sessions, "tariffs": Reports._tariffs, "off_peak": Reports._off_peak,
    "outcomes": Reports._outcomes}


def exclusion_rows(store, device):
    """What operators exclude from the outages of a charger, oldest first."""
    with store.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sql.select(exclusions).where(
            exclusions.c.device == device).order_by(exclusions.c.from_s))]


def exclude(connection, device, form, who):
    """Note an exclusion (forms.ExclusionForm); returns its number."""
    return connection.execute(sql.insert(exclusions).values(
        device=device, **form.model_dump(), by=who, at=now_ms())).inserted_primary_key[0]


def include(connection, device, number):
    """Take an exclusion back; returns whether there was one."""
    return connection.execute(sql.delete(exclusions).where(
        exclusions.c.device == device, exclusions.c.id == number)).rowcount > 0


def gap_rows(store):
    """Sessions with energy that flowed while the device was off, those without a decision first;
    it is in no bill before it was confirmed."""
    decisions = StoredGaps(store)
    with store.engine.connect() as connection:
        # ordered below: in SQL that order leads past the index on gap_mwh
        rows = connection.execute(sql.select(sessions).where(
            sessions.c.gap_mwh > 0, sessions.c.ok.is_(True))).all()
    rows.sort(key=lambda row: row.begin_ms)
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
        return Billing(read_operator(operator), StoredGaps(store)).cdr(session, now_ms())
    except Held as why:
        raise UserError("held: %s" % why) from None
