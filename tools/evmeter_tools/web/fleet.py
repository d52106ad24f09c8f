"""What operators see: chargers, sites, sessions, alarms, gaps; as dicts for the API."""

import json
from datetime import UTC, datetime
from statistics import median

import sqlalchemy as sql

from evmeter_tools.backend.live import AVAILABLE, FAULT, OFFLINE, UNKNOWN, newest
from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import (
    alarms,
    audit,
    chargers,
    commands,
    gaps,
    keys,
    quarantine,
    session_facts,
    sessions,
    sites,
    spans,
    states,
)

# OCPI 2.2.1's status of an EVSE, by the state that is shown
OCPI_STATUS = {AVAILABLE: "AVAILABLE", "connected": "CHARGING", "charging": "CHARGING",
               "suspended_ev": "CHARGING", "suspended_evse": "CHARGING", FAULT: "OUTOFORDER",
               OFFLINE: "UNKNOWN", UNKNOWN: "UNKNOWN"}
_IN_USE = ("connected", "charging", "suspended_ev", "suspended_evse")
SHOWN = (AVAILABLE, *_IN_USE, FAULT, OFFLINE, UNKNOWN)
_PAST_SESSIONS = 300  # of a site, for the time that sessions take
_ENOUGH = 5
_MOST_AT_ONCE = 500  # sessions that began in one ms
_FORECAST_MS = 3_600_000


def rfc3339(ms):
    """Unix ms as OCPI and people's tools want it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _devices():
    """Every enrolled device with its state and what the operator calls it."""
    known = sql.select(keys.c.device).distinct().subquery()
    shown = sql.case((states.c.online.is_(True), states.c.state), else_=OFFLINE)
    shown = sql.case((states.c.device.is_(None), UNKNOWN), else_=shown)
    opened = (sql.select(sql.func.count()).where(
        alarms.c.device == known.c.device, alarms.c.cleared_at.is_(None),
        alarms.c.code != "OFFLINE").scalar_subquery())
    columns = [
        known.c.device, shown.label("state"), states.c.since_at, states.c.cp, states.c.sid,
        states.c.power_mw, states.c.session_mwh, states.c.register_mwh, states.c.progress,
        states.c.unsent, states.c.heard_at, states.c.changed_at, chargers.c.label,
        chargers.c.site, chargers.c.evse_id, chargers.c.rated_w, opened.label("alarms")]
    source = known.outerjoin(states, states.c.device == known.c.device).outerjoin(
        chargers, chargers.c.device == known.c.device)
    return columns, source, shown


def _charger(row):
    found = dict(row._mapping)
    for name in ("cp", "sid", "progress", "label", "evse_id"):
        found[name] = found[name] or ""
    for name in ("unsent", "rated_w"):
        found[name] = found[name] or 0
    if found["state"] == OFFLINE:
        found["power_mw"] = None
    found["site"] = found["site"] or ""
    return found


def listing(store, site="", state="", query="", limit=100, offset=0):
    """A page of chargers and counts of all: alarms first, then by name."""
    columns, source, shown = _devices()
    narrowed = []
    if site:
        narrowed.append(chargers.c.site == site)
    if query:
        like = "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        narrowed.append(sql.or_(columns[0].ilike(like, escape="\\"),
                                chargers.c.label.ilike(like, escape="\\")))
    wanted = [*narrowed]
    if state:
        wanted.append(shown == state)
    with store.engine.connect() as connection:
        page = connection.execute(sql.select(columns[0]).select_from(source).where(
            *wanted).order_by((shown != FAULT), columns[0]).limit(limit).offset(
                offset)).scalars().all()
        rows = connection.execute(sql.select(*columns).select_from(source).where(
            columns[0].in_(page))).all()
        rows.sort(key=lambda row: page.index(row.device))
        every = sql.select(shown.label("state")).select_from(source).where(*narrowed).subquery()
        found = connection.execute(sql.select(every.c.state, sql.func.count()).group_by(
            every.c.state)).all()
        opened = connection.execute(sql.select(
            sql.func.count(), sql.func.count(alarms.c.acked_at)).where(
                alarms.c.cleared_at.is_(None))).one()
        power_mw, unsent = connection.execute(sql.select(
            sql.func.sum(states.c.power_mw), sql.func.sum(states.c.unsent)).where(
                states.c.online.is_(True))).one()
        missing = connection.execute(sql.select(sql.func.sum(gaps.c.missing)).where(
            gaps.c.closed_at.is_(None))).scalar()
    counts = dict.fromkeys(SHOWN, 0) | {row[0]: row[1] for row in found}
    return {"now_ms": now_ms(), "chargers": [_charger(row) for row in rows],
            "total": counts[state] if state else sum(counts.values()), "counts": counts,
            "in_use": sum(counts[name] for name in _IN_USE), "alarms_open": opened[0],
            "alarms_unseen": opened[0] - opened[1], "power_mw": int(power_mw or 0),
            "unsent": int(unsent or 0), "missing": int(missing or 0)}


def charger(store, device):
    """Everything of one charger; None where it was never enrolled."""
    columns, source, _ = _devices()
    with store.engine.connect() as connection:
        row = connection.execute(sql.select(*columns).select_from(source).where(
            columns[0] == device)).first()
        if row is None:
            return None
        history = connection.execute(sql.select(spans).where(
            spans.c.device == device).order_by(spans.c.from_ms.desc()).limit(50)).all()
        orders = connection.execute(sql.select(commands).where(
            commands.c.device == device).order_by(commands.c.id.desc()).limit(20)).all()
        trusted = connection.execute(sql.select(
            keys.c.key_id, keys.c.spki, keys.c.enrolled_at, keys.c.follows).where(
                keys.c.device == device).order_by(keys.c.enrolled_at)).all()
    found = _charger(row)
    found["now_ms"] = now_ms()
    found["info"] = newest(store, device, "info")
    found["status"] = newest(store, device, "status")
    found["telemetry"] = newest(store, device, "tel")
    found["diagnostics"] = newest(store, device, "diag")
    found["configuration"] = newest(store, device, "cfg")
    found["spans"] = [{"state": each.state, "from_ms": each.from_ms, "to_ms": each.to_ms}
                      for each in history]
    found["commands"] = [dict(each._mapping) for each in orders]
    found["keys"] = [dict(each._mapping) for each in trusted]
    return found


def exists(store, device):
    """Whether a device is enrolled."""
    with store.engine.connect() as connection:
        return connection.execute(sql.select(keys.c.device).where(
            keys.c.device == device).limit(1)).first() is not None


def session_rows(store, device="", limit=100, before_ms=None):
    """Sessions, newest first, from their signed records: `limit`, and those that began in the
    same ms as the last of these, which the next page would not have. How long one took, and its
    true begin where its clock was set later, are there once it was worked up."""
    query = sql.select(
        sessions, sql.case((sessions.c.state == "complete", sql.func.coalesce(
            session_facts.c.duration_s, session_facts.c.occupied_ms // 1000))).label("duration_s"),
        sql.case((session_facts.c.start_corrected == 1, session_facts.c.start_ms)).label(
            "true_begin_ms")).outerjoin(session_facts, sql.and_(
                session_facts.c.device == sessions.c.device,
                session_facts.c.sid == sessions.c.sid)).order_by(
                    sessions.c.begin_ms.desc(), sessions.c.device, sessions.c.sid)
    if device:
        query = query.where(sessions.c.device == device)
    page = query if before_ms is None else query.where(sessions.c.begin_ms < before_ms)
    with store.engine.connect() as connection:
        rows = connection.execute(page.limit(limit)).all()
        if len(rows) == limit:
            last_ms = rows[-1].begin_ms
            known = sum(row.begin_ms == last_ms for row in rows)
            rows += connection.execute(query.where(sessions.c.begin_ms == last_ms).offset(
                known).limit(_MOST_AT_ONCE)).all()
    return [dict(row._mapping) for row in rows]


def session_row(store, device, sid):
    """One session's row as a dict, None where there is none."""
    with store.engine.connect() as connection:
        row = connection.execute(sql.select(sessions).where(
            sessions.c.device == device, sessions.c.sid == sid)).first()
    return dict(row._mapping) if row else None


def alarm_rows(store, which="open", device="", limit=200):
    """Alarms: those that nobody has seen first, critical ones before the others. `which`: open
    or all."""
    query = sql.select(alarms, chargers.c.label, chargers.c.site).outerjoin(
        chargers, chargers.c.device == alarms.c.device)
    if which == "open":
        query = query.where(alarms.c.cleared_at.is_(None))
    if device:
        query = query.where(alarms.c.device == device)
    query = query.order_by(
        alarms.c.cleared_at.is_not(None), alarms.c.acked_at.is_not(None),
        alarms.c.severity != "crit", alarms.c.raised_at.desc()).limit(limit)
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [{**dict(row._mapping), "label": row.label or "", "site": row.site or ""}
            for row in rows]


def gap_rows(store, which="open", limit=200):
    """Numbers that are missing, oldest first."""
    query = sql.select(gaps).order_by(gaps.c.seen_at).limit(limit)
    if which == "open":
        query = query.where(gaps.c.closed_at.is_(None))
    with store.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def quarantine_rows(store, limit=200):
    """What was put aside, newest first, without its content."""
    with store.engine.connect() as connection:
        return [{"id": row.id, "device": row.device, "key_id": row.key_id, "seq": row.seq,
                 "sha256": row.sha256, "received_at": row.received_at, "why": row.why}
                for row in connection.execute(sql.select(quarantine).order_by(
                    quarantine.c.id.desc()).limit(limit))]


def audit_rows(store, limit=200):
    """What people did, newest first."""
    with store.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(
            sql.select(audit).order_by(audit.c.id.desc()).limit(limit))]


# -- sites: where is a charger free, and when will one be --

def site_rows(store):
    """All sites."""
    with store.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(
            sql.select(sites).order_by(sites.c.id))]


def _durations(connection, devices):
    """[(hour of the day in UTC, s)] that the newest sessions of these chargers took."""
    rows = connection.execute(
        sql.select(sessions.c.begin_ms, sessions.c.end_ms)
        .where(sessions.c.device.in_(devices), sessions.c.end_ms.is_not(None))
        .order_by(sessions.c.begin_ms.desc()).limit(_PAST_SESSIONS)).all()
    return [(row.begin_ms // 3_600_000 % 24, (row.end_ms - row.begin_ms) // 1000)
            for row in rows]


class Forecast:
    """How long sessions take at each site, looked at again after an hour."""

    def __init__(self):
        self._known = {}  # site -> (Unix ms, durations)

    def durations(self, connection, site, own, at):
        """Those of a site with the chargers `own`; nothing is asked where one is free."""
        if not own or any(each["state"] == AVAILABLE for each in own):
            return []
        known = self._known.get(site)
        if known is None or at - known[0] > _FORECAST_MS:
            known = self._known[site] = at, _durations(
                connection, [each["device"] for each in own])
        return known[1]


def _expected_s(durations, begin_ms):
    """How long a session takes that began then: the median of those of its hour, or of all;
    None where too few are known."""
    hour = begin_ms // 3_600_000 % 24
    same = [seconds for begun, seconds in durations if begun == hour]
    chosen = same if len(same) >= _ENOUGH else [seconds for _, seconds in durations]
    return int(median(chosen)) if len(chosen) >= _ENOUGH else None


def availability(store, forecast, limit=100, site=""):
    """The best sites (or one) with their chargers' states and their rank among all: by the share
    that is free, then by the power that their limit leaves. `free_at_ms` is when a charger is
    expected to be free; of an occupied one it is told where none is free (None: too little is
    known)."""
    columns, source, shown = _devices()
    at = now_ms()
    with store.engine.connect() as connection:
        places = [dict(row._mapping) for row in connection.execute(sql.select(sites))]
        sums = {row[0]: row[1:] for row in connection.execute(sql.select(
            chargers.c.site, sql.func.count(),
            sql.func.sum(sql.case((shown == AVAILABLE, 1), else_=0)),
            sql.func.sum(sql.case((states.c.online.is_(True), states.c.power_mw), else_=0))
        ).select_from(source).where(chargers.c.site.is_not(None)).group_by(chargers.c.site))}
        for place in places:
            _rank_by(place, *sums.get(place["id"], (0, 0, 0)))
        places.sort(key=lambda place: (-place["free_permille"], -(place["headroom_w"] or 0),
                                       place["id"]))
        for rank, place in enumerate(places, 1):
            place["rank"] = rank
        places = [place for place in places if site in ("", place["id"])][:limit]
        rows = connection.execute(sql.select(*columns).select_from(source).where(
            chargers.c.site.in_([place["id"] for place in places])).order_by(columns[0])).all()
        begun = dict(connection.execute(sql.select(
            sessions.c.device, sessions.c.begin_ms).join(states, sql.and_(
                states.c.device == sessions.c.device, states.c.sid == sessions.c.sid)).join(
                    chargers, chargers.c.device == states.c.device).where(
                        chargers.c.site.in_([place["id"] for place in places]))).all())
        by_site = {}
        for row in rows:
            by_site.setdefault(row.site, []).append(_charger(row))
        for place in places:
            own = by_site.get(place["id"], [])
            _judge(place, own, begun, forecast.durations(connection, place["id"], own, at), at)
    return {"now_ms": at, "sites": places}


def _rank_by(place, number, free, power_mw):
    used_w = int(power_mw or 0) // 1000
    place.update(
        chargers=number, free=free, free_permille=1000 * free // number if number else 0,
        power_w=used_w,
        headroom_w=max(0, place["limit_w"] - used_w) if place["limit_w"] else None)


def _judge(place, own, begun, durations, at):
    """Tell of each charger of a place when it is free; `begun`: {device: begin of its session}."""
    place["evses"] = []
    for each in own:
        free_at = at if each["state"] == AVAILABLE else None
        if each["state"] in _IN_USE:
            begin_ms = begun.get(each["device"], each["since_at"])
            expected_s = _expected_s(durations, begin_ms)
            if expected_s is not None:
                free_at = max(at, begin_ms + expected_s * 1000)
        place["evses"].append({
            "device": each["device"], "evse_id": each["evse_id"], "label": each["label"],
            "state": each["state"], "status": OCPI_STATUS[each["state"]],
            "free_at_ms": free_at, "rated_w": each["rated_w"],
            "changed_at": each["changed_at"] or 0})
    waits = [each["free_at_ms"] for each in place["evses"] if each["free_at_ms"]]
    place["next_free_at_ms"] = min(waits, default=None)


def answer(row):
    """What a device answered to a command, for people."""
    try:
        found = json.loads(row["answer"] or "{}")
    except ValueError:
        return row["answer"]
    if not isinstance(found, dict) or not found:
        return ""
    return "done" if found.get("ok") else str(found.get("err", "refused"))
