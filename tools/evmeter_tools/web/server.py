"""The web server: FastAPI on uvicorn, in a thread beside the collector or by itself."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from evmeter_tools.backend.outbox import Channels
from evmeter_tools.backend.store import is_away
from evmeter_tools.errors import UserError
from evmeter_tools.web import api, driver_api, fleet, pages, reports_api
from evmeter_tools.web.access import Access
from evmeter_tools.web.feed import Feed
from evmeter_tools.web.insight import Reports

log = logging.getLogger("evmeter.web")

_HERE = Path(__file__).parent
_START_S = 20
_MOST_BYTES = 65536  # of a request's body
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
           "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
_HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "x-robots-tag": "noindex", "cross-origin-opener-policy": "same-origin"}


@dataclass(frozen=True)
class Settings:
    """`public_url` is what drivers reach the pages by ("" where they do not); `secure`: people
    come by TLS; `party` is OCPI's (country_code, party_id)."""

    channels: Channels = field(default_factory=Channels)
    public_url: str = ""
    secure: bool = False
    title: str = "evmeter"
    party: tuple = ("DE", "EVM")
    operator: str = ""
    metrics_token: str = ""


class _Guard:
    """Bounds what a request may send, and says in each answer what a browser may do with it."""

    def __init__(self, app, secure):
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        if secure:
            self._headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope, receive, send):
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0
        begun = False

        async def bounded():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > _MOST_BYTES:
                raise HTTPException(413, "at most %d bytes" % _MOST_BYTES)
            return message

        async def guarded(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = list(message.get("headers", []))
                known = {name for name, _ in headers}
                headers += [each for each in self._headers if each[0] not in known]
                if b"cache-control" not in known:
                    kept = scope["path"].startswith("/static/")
                    headers.append((b"cache-control", b"no-cache" if kept else b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, bounded, guarded)
        except HTTPException as error:
            if not begun:
                await JSONResponse({"detail": error.detail}, error.status_code)(
                    scope, receive, guarded)


def create_app(store, settings=None):
    """The application over a Store; its feed runs while it is served."""
    settings = settings or Settings()
    feed = Feed(store)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        feed.start()
        threading.Thread(target=_warm, args=(app.state.reports,), name="warm", daemon=True).start()
        yield
        feed.stop()

    app = FastAPI(title=settings.title, version="1", lifespan=lifespan, docs_url=None,
                  redoc_url=None, openapi_url="/api/openapi.json",
                  description="Chargers, sessions, alarms. The pages use the same API.")
    app.state.store, app.state.settings, app.state.feed = store, settings, feed
    app.state.access, app.state.reports = Access(store), Reports(store)
    app.state.forecast = fleet.Forecast()
    app.state.templates = pages.templates(settings)
    app.include_router(api.open_router)
    app.include_router(api.router)
    app.include_router(reports_api.router)
    app.include_router(driver_api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.add_middleware(_Guard, secure=settings.secure)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    return app


def _warm(reports):
    """Read what reports keep in memory: who asks before waits for it."""
    try:
        reports.warm()
    except SQLAlchemyError as error:  # the database is away: the first report says so
        log.error("%s", str(error).splitlines()[0])


def _is_page(request):
    return not request.url.path.startswith(("/api/", "/ocpi/", "/metrics"))


def _user_error(_request: Request, error):
    return JSONResponse({"detail": str(error)}, 409)


def _database_error(request: Request, error):
    """What is away or busy will be back: then the same request may do."""
    if not is_away(error):
        raise error
    log.error("%s", str(error).splitlines()[0])
    words = "the database does not answer at the moment; try again"
    if _is_page(request):
        return pages.error_page(request, 503, words)
    return JSONResponse({"detail": words}, 503, {"retry-after": "5"})


def _http_error(request: Request, error):
    if _is_page(request):
        if error.status_code == 401:
            return RedirectResponse("/login", 303)
        return pages.error_page(request, error.status_code, str(error.detail))
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _wrong_request(request: Request, error):
    """One line: where, and what is allowed; what was sent is not repeated."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if _is_page(request):
        return pages.error_page(request, 404, "there is no such page")
    return JSONResponse({"detail": "%s: %s" % (where, first["msg"])}, 422)


class Server:
    """Serves `create_app` at host:port until `stop`. Raises UserError where it cannot listen."""

    def __init__(self, store, settings, host, port, tls=None):
        files = {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]} if tls else {}
        self._server = uvicorn.Server(uvicorn.Config(
            create_app(store, settings), host=host, port=port, log_level="warning",
            access_log=False, server_header=False, timeout_graceful_shutdown=2,
            proxy_headers=False, **files))
        self._server.install_signal_handlers = lambda: None
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._where = host, port
        self.url = "%s://%s:%d/" % ("https" if tls else "http", host, port)

    def _run(self):
        with contextlib.suppress(SystemExit):  # uvicorn's way to say that the port is taken
            self._server.run()

    def start(self):
        """Listen; returns when it does."""
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise UserError("the pages cannot listen at %s:%d; choose another --web-port"
                                % self._where)
            time.sleep(0.02)

    def stop(self):
        """End it."""
        self._server.should_exit = True
        self._server.config.app.state.feed.stop()
        self._thread.join()
