"""The API of reports, of gap energy and of bills."""

import hmac
from typing import Annotated, Literal

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from evmeter_tools.billing.cdr import text as cdr_text
from evmeter_tools.insight.reports import REPORTS
from evmeter_tools.insight.workup import session_of
from evmeter_tools.web import fleet, forms, insight, metrics
from evmeter_tools.web.access import note
from evmeter_tools.web.api import COOKIE, Operator, Viewer, found

router = APIRouter()
_V1 = "/api/v1"
_Name = Literal[tuple(REPORTS)]
_From = Annotated[int, Query(ge=0, le=2**53)]
_Zone = Annotated[str, Query(pattern=r"^[A-Za-z0-9_+/,.:<>-]{1,64}$")]


@router.get(_V1 + "/insight")
def names(who: Viewer) -> list[str]:
    """The reports that there are."""
    return list(REPORTS)


@router.get(_V1 + "/insight/{name}.csv", response_class=Response)
def report_csv(request: Request, who: Viewer, name: _Name, from_ms: _From, to_ms: _From,
               zone: _Zone = "UTC", site: forms.Search = "", device: forms.Search = ""):
    """A report as CSV."""
    reports = request.app.state.reports
    wanted = reports.wanted(name, zone, from_ms, to_ms, site, device)
    return StreamingResponse(reports.csv(wanted), media_type="text/csv; charset=utf-8", headers={
        "content-disposition": 'attachment; filename="%s.csv"' % name,
        "x-records-waiting": str(reports.waiting(wanted))})


@router.get(_V1 + "/insight/{name}")
def report(request: Request, who: Viewer, name: _Name, from_ms: _From, to_ms: _From,
           zone: _Zone = "UTC", site: forms.Search = "", device: forms.Search = "",
           limit: forms.Limit | None = None, offset: forms.Offset = 0):
    """A report over a period: title, columns, rows. Energies are mWh, shares thousandths. One
    that goes charger by charger is of `limit` chargers (25; 10 of `list`) of all `chargers`;
    `waiting` tells how many stored records are not in it yet."""
    reports = request.app.state.reports
    wanted = reports.wanted(name, zone, from_ms, to_ms, site, device)
    if name in insight.WHOLE:
        found = reports.whole(wanted, thin=True).json()
    else:
        limit = limit or (10 if name == "list" else 25)
        table, _ = reports.part(wanted, limit, offset)
        found = {**table.json(), "chargers": reports.count(wanted), "limit": limit,
                 "offset": offset}
    return JSONResponse({**found, "waiting": reports.waiting(wanted)})


@router.get(_V1 + "/billing/gaps")
def gap_energy(request: Request, who: Viewer):
    """Energy that flowed while a device was off, with what was decided on it."""
    return insight.gap_rows(request.app.state.store)


@router.post(_V1 + "/billing/gaps/{device}/{sid}")
def decide(request: Request, who: Operator, device: forms.Device, sid: forms.Sid,
           form: forms.DecisionForm):
    """Bill a session's gap energy, or never."""
    store = request.app.state.store
    gap_mwh = found(insight.decide(store, device, sid, form.decision, who.name),
                    "verified session with gap energy")
    with store.engine.begin() as connection:
        note(connection, who.name, "gap energy", sid, "%s: %d mWh" % (form.decision, gap_mwh))
    return {"gap_mwh": gap_mwh}


@router.get(_V1 + "/chargers/{device}/exclusions")
def exclusions(request: Request, who: Viewer, device: forms.Device):
    """Time in which outages of a charger do not count against its up-time, with the reason."""
    return insight.exclusion_rows(request.app.state.store, device)


@router.post(_V1 + "/chargers/{device}/exclusions", status_code=201)
def exclude(request: Request, who: Operator, device: forms.Device, form: forms.ExclusionForm):
    """Give outages in a time one of the reasons that 23 CFR 680.116(b) excludes."""
    store = request.app.state.store
    if form.to_s <= form.from_s:
        raise HTTPException(422, "to_s: must be after from_s")
    if not fleet.exists(store, device):
        raise HTTPException(404, "there is no such charger")
    with store.engine.begin() as connection:
        number = insight.exclude(connection, device, form, who.name)
        note(connection, who.name, "outage excluded", device,
             "%s: %d to %d, %s" % (form.reason, form.from_s, form.to_s, form.note))
    return {"id": number}


@router.delete(_V1 + "/chargers/{device}/exclusions/{number}")
def include(request: Request, who: Operator, device: forms.Device, number: forms.Number):
    """Let outages in that time count again."""
    with request.app.state.store.engine.begin() as connection:
        if not insight.include(connection, device, number):
            raise HTTPException(404, "there is no such exclusion")
        note(connection, who.name, "exclusion removed", device, str(number))
    return {"id": number}


@router.get(_V1 + "/chargers/{device}/sessions/{sid}/cdr", response_class=Response)
def cdr(request: Request, who: Viewer, device: forms.Device, sid: forms.Sid):
    """The OCPI 2.2.1 CDR that the session would get now; `evmeter cdr make` keeps them."""
    state = request.app.state
    session = found(session_of(state.store, device, sid), "session")
    made = insight.cdr(state.store, session, state.settings.operator)
    return Response(cdr_text(made), media_type="application/json")


@router.get("/metrics", response_class=Response)
def prometheus(request: Request, authorization: Annotated[str, Header()] = ""):
    """Prometheus metrics, for a log-in or the token in EVMETER_METRICS_TOKEN as bearer."""
    token = request.app.state.settings.metrics_token
    given = authorization.removeprefix("Bearer ").encode()
    if not (token and hmac.compare_digest(given, token.encode())) and not (
            request.app.state.access.who(request.cookies.get(COOKIE, ""))):
        raise HTTPException(401, "log in, or send the metrics token as bearer")
    return Response(metrics.text(request.app.state.store),
                    media_type="text/plain; version=0.0.4; charset=utf-8")
