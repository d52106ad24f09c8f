"""The pages: a frame from the server, filled from the API by the scripts in static/."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Cookie, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from evmeter_tools.web import api, driver, forms

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
_Token = Annotated[str, Cookie(alias=api.COOKIE)]
_PAGES = {"fleet": "Fleet", "alarms": "Alarms", "sessions": "Sessions", "sites": "Sites",
          "insight": "Insight"}


def templates(settings):
    """The templates, with what all of them show."""
    made = Jinja2Templates(directory=Path(__file__).parent / "templates")
    made.env.globals.update(title=settings.title, pages=_PAGES)
    return made


def _page(request, name, who=None, **more):
    return request.app.state.templates.TemplateResponse(
        request, name + ".html", {"who": who, "here": name, **more})


def error_page(request, status, text):
    """A page that says what is wrong."""
    answer = _page(request, "error", status=status, text=text)
    answer.status_code = status
    return answer


def _who(request, token):
    who = request.app.state.access.who(token)
    if who is None:
        raise HTTPException(401, "log in first")
    return who


@router.get("/")
def root():
    """The fleet is what operators look at first."""
    return RedirectResponse("/fleet", 303)


@router.get("/login")
def login(request: Request):
    """The log-in."""
    return _page(request, "login")


@router.get("/fleet")
@router.get("/alarms")
@router.get("/sessions")
@router.get("/sites")
@router.get("/insight")
def listing(request: Request, token: _Token = ""):
    """One of the lists."""
    return _page(request, request.url.path.strip("/"), _who(request, token))


@router.get("/chargers/{device}")
def charger(request: Request, device: forms.Device, token: _Token = ""):
    """One charger."""
    return _page(request, "charger", _who(request, token), device=device)


@router.get("/chargers/{device}/sessions/{sid}")
def session(request: Request, device: forms.Device, sid: forms.Sid, token: _Token = ""):
    """One session, for the operator."""
    return _page(request, "session", _who(request, token), device=device, sid=sid,
                 source="/api/v1/chargers/%s/sessions/%s" % (device, sid))


@router.get("/s/{token}")
def driver_page(request: Request, token: forms.Token):
    """One session, for its driver. A charger's own link makes one to the session of now."""
    access, store = request.app.state.access, request.app.state.store
    link = access.link(token)
    if link is None:
        raise HTTPException(404, "This link is not valid, or not any more.")
    if not link.sid:
        sid = driver.current_session(store, link.device)
        if not sid:
            return _page(request, "wait", device=link.device)
        return RedirectResponse("/s/" + access.follow(token, link.device, sid), 303)
    return _page(request, "session", source="/api/v1/driver/" + token, sid=link.sid, driver=True)
