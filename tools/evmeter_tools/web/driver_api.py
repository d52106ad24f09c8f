"""The API behind a driver's link: whoever has it sees that one session, and no name."""

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from evmeter_tools.web import answers, driver, feed, forms, receipts

router = APIRouter(prefix="/api/v1/driver/{token}",
                   responses={404: {"description": "No such link, or nothing to show yet"}})


def session_of(request, token):
    """(device, session id) of a link. Raises HTTPException; the link of a charger leads to no
    session by itself."""
    link = request.app.state.access.link(token)
    if link is None:
        raise HTTPException(404, "this link is not valid, or not any more")
    if not link.sid:
        raise HTTPException(404, "this link leads to the charger; open it while it charges")
    return link.device, link.sid


def _view(request, token):
    device, sid = session_of(request, token)
    found = driver.view(request.app.state.store, device, sid)
    if found is None:
        raise HTTPException(404, "nothing is known of this session yet")
    return found


@router.get("")
def session(request: Request, token: forms.Token) -> answers.DriverView:
    """The session as it is now."""
    return _view(request, token)


@router.get("/feed", response_class=StreamingResponse)
def live_feed(request: Request, token: forms.Token):
    """Server-sent events: the session, each time that it has changed."""
    device, sid = session_of(request, token)
    store = request.app.state.store

    def message(changed):
        if changed is None or any(name == device for _, name in changed):
            return driver.view(store, device, sid)
        return None

    return StreamingResponse(feed.stream(request.app.state.feed, message),
                             media_type="text/event-stream")


@router.get("/receipt.{kind}", response_class=Response)
def receipt(request: Request, token: forms.Token, kind: receipts.Kind):
    """The receipt: S.A.F.E. XML, OCMF text or PDF."""
    device, sid = session_of(request, token)
    return receipts.answer(request.app.state.store, device, sid, kind)


@router.get("/alerts")
def alerts(request: Request, token: forms.Token):
    """Who is told, and by what means somebody can be."""
    device, sid = session_of(request, token)
    return {"channels": request.app.state.settings.channels.usable(),
            "alerts": driver.alert_rows(request.app.state.store, device, sid)}


@router.post("/alerts", status_code=201)
def add_alert(request: Request, token: forms.Token, form: forms.AlertForm):
    """Tell somebody when the vehicle is charged, or charging is interrupted, or the session
    ends."""
    device, sid = session_of(request, token)
    settings = request.app.state.settings
    if form.channel not in settings.channels.usable():
        raise HTTPException(409, "%s is not set up here" % form.channel)
    if (form.channel == "email") != ("@" in form.target):
        raise HTTPException(422, "target: an e-mail address for email, a topic for ntfy")
    address = settings.public_url and "%s/s/%s" % (settings.public_url.rstrip("/"), token)
    driver.add_alert(request.app.state.store, device, sid, form.channel, form.target, address)
    return {"channel": form.channel}


@router.delete("/alerts/{number}")
def remove_alert(request: Request, token: forms.Token, number: forms.Number):
    """Tell that one no more."""
    device, sid = session_of(request, token)
    if not driver.remove_alert(request.app.state.store, device, sid, number):
        raise HTTPException(404, "there is no such alert")
    return {"id": number}
