"""The API for operators, and what anybody may know: where a charger is free."""

from typing import Annotated, Literal

import segno
import sqlalchemy as sql
from fastapi import APIRouter, Cookie, Depends, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from evmeter_tools.backend import notices, orders
from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import chargers, sites
from evmeter_tools.web import answers, driver, feed, fleet, forms, ocpi, receipts
from evmeter_tools.web.access import OPERATOR, Busy, note

COOKIE = "evmeter"
_ERRORS = {401: {"description": "Not logged in"}, 403: {"description": "Not allowed"},
           404: {"description": "Not there"}}
_Token = Annotated[str, Cookie(alias=COOKIE)]
_MOST_NAMED = 200


def _viewer(request: Request, token: _Token = "", x_csrf_token: Annotated[str, Header()] = ""):
    """Whoever is logged in; what changes something needs the token of the log-in as well."""
    who = request.app.state.access.who(token)
    if who is None:
        raise HTTPException(401, "log in first")
    if request.method not in ("GET", "HEAD") and x_csrf_token != who.csrf:
        raise HTTPException(403, "the header X-CSRF-Token is missing or wrong")
    return who


Viewer = Annotated[object, Depends(_viewer)]


def _operator(who: Viewer):
    if who.role != OPERATOR:
        raise HTTPException(403, "only operators may do this")
    return who


Operator = Annotated[object, Depends(_operator)]
open_router = APIRouter()
router = APIRouter(prefix="/api/v1", responses=_ERRORS)


def _store(request: Request):
    return request.app.state.store


def found(value, what):
    """`value`, or 404 where it is None."""
    if value is None:
        raise HTTPException(404, "there is no such %s" % what)
    return value


def _known(store, device):
    if not fleet.exists(store, device):
        raise HTTPException(404, "there is no such charger")


# -- for anybody --

@open_router.get("/api/v1/health")
def health(request: Request):
    """Whether the database answers."""
    with _store(request).engine.connect() as connection:
        connection.execute(sql.select(1))
    return {"ok": True}


@open_router.get("/api/v1/availability")
def availability(request: Request, site: forms.Search = "",
                 limit: forms.Limit = 100) -> answers.Availability:
    """Sites with their free chargers, best first: by free share, then by free power."""
    return fleet.availability(_store(request), request.app.state.forecast, limit, site)


@open_router.get("/ocpi/2.2.1/locations")
def locations(request: Request, limit: forms.Limit = 100):
    """The same as Location objects of OCPI 2.2.1."""
    free = fleet.availability(_store(request), request.app.state.forecast, limit)
    party = request.app.state.settings.party
    return JSONResponse({
        "data": [ocpi.location(place, party) for place in free["sites"]],
        "status_code": 1000, "timestamp": fleet.rfc3339(free["now_ms"])})


@open_router.post("/api/v1/login", responses={401: {}, 429: {}})
def login(request: Request, response: Response, form: forms.LoginForm) -> answers.Account:
    """Log in; the answer sets a cookie."""
    access, settings = request.app.state.access, request.app.state.settings
    address = request.client.host if request.client else ""
    try:
        made = access.login(form.name, form.password, address)
    except Busy as error:
        raise HTTPException(429, str(error)) from None
    if made is None:
        raise HTTPException(401, "name or password is wrong")
    token, name, role, csrf = made
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=settings.secure,
                        max_age=12 * 3600)
    return {"name": name, "role": role, "csrf": csrf}


# -- for viewers --

@router.get("/me")
def me(who: Viewer) -> answers.Account:
    """Who is logged in."""
    return {"name": who.name, "role": who.role, "csrf": who.csrf}


@router.post("/logout")
def logout(request: Request, response: Response, who: Viewer, token: _Token = ""):
    """End the log-in."""
    request.app.state.access.logout(token)
    response.delete_cookie(COOKIE)
    return {"name": who.name}


@router.get("/fleet")
def fleet_page(request: Request, who: Viewer, site: forms.Search = "",
               state: Literal["", "available", "connected", "charging", "suspended_ev",
                              "suspended_evse", "fault", "offline", "unknown"] = "",
               q: forms.Search = "", limit: forms.Limit = 100,
               offset: forms.Offset = 0) -> answers.Fleet:
    """Chargers, those with a fault first, and counts over all."""
    return fleet.listing(_store(request), site, state, q, limit, offset)


@router.get("/feed", response_class=StreamingResponse)
def live_feed(request: Request, who: Viewer, token: _Token = ""):
    """Server-sent events: which chargers, alarms and sessions have changed."""
    access = request.app.state.access

    def message(changed):
        if access.who(token) is None:
            return {"end": True}
        if changed is None or len(changed) > _MOST_NAMED:
            return {"all": True}
        if not changed:
            return None
        named = {}
        for what, device in sorted(changed):
            named.setdefault(what + "s", []).append(device)
        return named

    return StreamingResponse(feed.stream(request.app.state.feed, message),
                             media_type="text/event-stream")


@router.get("/chargers/{device}")
def charger(request: Request, who: Viewer, device: forms.Device) -> answers.ChargerDetail:
    """Everything of one charger."""
    return found(fleet.charger(_store(request), device), "charger")


@router.get("/sessions")
def sessions(request: Request, who: Viewer, device: forms.Search = "",
             limit: forms.Limit = 100,
             before_ms: forms.Instant = None) -> list[answers.SessionRow]:
    """Sessions, newest first; `before_ms` goes on behind a page."""
    return fleet.session_rows(_store(request), device, limit, before_ms)


@router.get("/chargers/{device}/sessions/{sid}")
def session(request: Request, who: Viewer, device: forms.Device,
            sid: forms.Sid) -> answers.DriverView:
    """A session, as its driver sees it."""
    return found(driver.view(_store(request), device, sid), "session")


@router.get("/chargers/{device}/sessions/{sid}/receipt.{kind}", response_class=Response)
def receipt(request: Request, who: Viewer, device: forms.Device, sid: forms.Sid,
            kind: receipts.Kind):
    """A session's receipt: S.A.F.E. XML, OCMF text or PDF."""
    return receipts.answer(_store(request), device, sid, kind)


@router.get("/alarms")
def alarms(request: Request, who: Viewer, which: Literal["open", "all"] = "open",
           device: forms.Search = "", limit: forms.Limit = 200) -> list[answers.Alarm]:
    """Alarms, those that nobody has seen first."""
    return fleet.alarm_rows(_store(request), which, device, limit)


@router.get("/gaps")
def gaps(request: Request, who: Viewer, which: Literal["open", "all"] = "open",
         limit: forms.Limit = 200) -> list[answers.Gap]:
    """Numbers that devices have passed over."""
    return fleet.gap_rows(_store(request), which, limit)


@router.get("/quarantine")
def quarantine(request: Request, who: Viewer, limit: forms.Limit = 200):
    """What came as another content under a stored number."""
    return fleet.quarantine_rows(_store(request), limit)


@router.get("/sites")
def site_list(request: Request, who: Viewer) -> list[answers.Site]:
    """All sites."""
    return fleet.site_rows(_store(request))


@router.get("/audit")
def audit(request: Request, who: Operator, limit: forms.Limit = 200):
    """What people did."""
    return fleet.audit_rows(_store(request), limit)


# -- for operators --

@router.post("/alarms/{number}/acknowledge")
def acknowledge(request: Request, who: Operator, number: forms.Number, form: forms.NoteForm):
    """Say that an alarm was seen; the charger is told."""
    with _store(request).engine.begin() as connection:
        alarm = notices.acknowledge(connection, number, who.name, form.note, now_ms())
        found(alarm, "alarm that is open and was not acknowledged")
        if alarm.code not in notices.OWN:
            orders.put(connection, alarm.device, "alarm_ack", {"code": alarm.code}, who.name)
        note(connection, who.name, "alarm seen", alarm.device, alarm.code)
    return {"id": number}


@router.put("/chargers/{device}")
def set_charger(request: Request, who: Operator, device: forms.Device, form: forms.ChargerForm):
    """Name a charger and say where it stands."""
    store = _store(request)
    _known(store, device)
    values = {**form.model_dump(), "site": form.site or None}
    with store.engine.begin() as connection:
        if form.site and not connection.execute(sql.select(sites.c.id).where(
                sites.c.id == form.site)).first():
            raise HTTPException(409, "there is no site %s" % form.site)
        connection.execute(store.insert(chargers).values(
            device=device, **values).on_conflict_do_update(
                index_elements=[chargers.c.device], set_=values))
        note(connection, who.name, "charger", device, str(values))
    return {"device": device}


@router.post("/chargers/{device}/commands", status_code=201)
def command(request: Request, who: Operator, device: forms.Device, form: forms.OrderForm):
    """Send a command; its answer stands in the charger's list of commands."""
    store = _store(request)
    _known(store, device)
    with store.engine.begin() as connection:
        args = {"by": "remote"} if form.op == "stop" else {}
        number = orders.put(connection, device, form.op, args, who.name)
        note(connection, who.name, "command", device, form.op)
    return {"id": number}


@router.post("/chargers/{device}/links", status_code=201)
def link(request: Request, who: Operator, device: forms.Device,
         form: forms.LinkForm) -> answers.Link:
    """A new link for a driver, to one session or to the charger's session of then."""
    store = _store(request)
    _known(store, device)
    if form.sid:
        found(driver.view(store, device, form.sid), "session")
    token = request.app.state.access.make_link(device, form.sid)
    with store.engine.begin() as connection:
        note(connection, who.name, "link", device, form.sid)
    base = request.app.state.settings.public_url or str(request.base_url)
    url = "%s/s/%s" % (base.rstrip("/"), token)
    return {"url": url, "qr": segno.make_qr(url).svg_data_uri(scale=5, border=3)}


@router.put("/sites/{site}")
def set_site(request: Request, who: Operator, site: forms.SiteId, form: forms.SiteForm):
    """Make a site or change it."""
    store, values = _store(request), form.model_dump()
    with store.engine.begin() as connection:
        connection.execute(store.insert(sites).values(
            id=site, **values).on_conflict_do_update(index_elements=[sites.c.id], set_=values))
        note(connection, who.name, "site", site, str(values))
    return {"id": site}


@router.delete("/sites/{site}")
def remove_site(request: Request, who: Operator, site: forms.SiteId):
    """Take a site away that has no chargers."""
    with _store(request).engine.begin() as connection:
        if connection.execute(sql.select(chargers.c.device).where(
                chargers.c.site == site)).first():
            raise HTTPException(409, "there are chargers at the site %s" % site)
        if not connection.execute(sql.delete(sites).where(sites.c.id == site)).rowcount:
            raise HTTPException(404, "there is no such site")
        note(connection, who.name, "site removed", site)
    return {"id": site}
