"""Time of the backend's pages with 10,000 chargers and 1,000,000 sessions in the database.

The pages are served by `evmeter backend web` in a process of its own and asked one after the
other over one connection; of a CSV the time until its first bytes counts. The filled database is
kept in build/ for as long as the schema and what fills it stay the same.
"""

import hashlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

from evmeter_tools.backend import migrations
from evmeter_tools.backend.broker import free_port
from evmeter_tools.backend.store import Store
from evmeter_tools.errors import UserError
from evmeter_tools.insight.reports import REPORTS
from evmeter_tools.insight.table import quantile
from evmeter_tools.paths import BUILD
from evmeter_tools.sample import derived, fill
from evmeter_tools.sample.command import Progress
from evmeter_tools.web import access
from evmeter_tools.web.access import Access

DEVICES = 10_000
SESSIONS = 1_000_000
_ROUNDS = 10
_DAY_MS = 86_400_000
_START_S = 120
_FOLDER = BUILD / "pages"
_PLACE = {"id": "yard", "address": "Road 1", "city": "Ulm", "country": "DEU",
          "coordinates": {"latitude": "48.40000", "longitude": "9.98000"},
          "connector_id": "1", "connector_standard": "IEC_62196_T2",
          "connector_format": "SOCKET", "connector_power_type": "AC_3_PHASE"}
_TARIFF = {"id": "flat", "currency": "EUR", "zone": "UTC0", "windows": [
    {"name": "all", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 4000}]}


def database(devices=DEVICES, sessions=SESSIONS, folder=_FOLDER):
    """The filled database, made where there is none of this schema and this filling."""
    made_by = hashlib.sha256(migrations.HEAD.encode())
    for module in (fill, derived):
        made_by.update(Path(module.__file__).read_bytes())
    name = "%d-%d-%s" % (devices, sessions, made_by.hexdigest()[:12])
    path = folder / (name + ".sqlite")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("%d-%d-*" % (devices, sessions)):
            old.unlink()
        new = folder / (name + ".new")
        print("filling %s: %d chargers, %d sessions" % (path.name, devices, sessions), flush=True)
        fill.fill(new, devices, sessions, signed=True, tell=Progress())
        for more in ("-wal", "-shm"):
            new.with_name(new.name + more).unlink(missing_ok=True)
        new.rename(path)
    return path


class Pages:
    """The pages over a database, served by another process; a context."""

    def __init__(self, db, folder=_FOLDER):
        self._db = str(db)
        self._folder = folder
        self.password = secrets.token_urlsafe(12)
        self.metrics_token = secrets.token_urlsafe(12)
        self._operator = folder / "operator.json"
        self.known = {}

    def __enter__(self):
        self._prepare()
        port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.cli", "backend", "web", "--db", self._db,
             "--web-port", str(port), "--operator", str(self._operator)],
            stdout=subprocess.DEVNULL, env=dict(
                os.environ, EVMETER_METRICS_TOKEN=self.metrics_token,
                PYTHONPATH=str(Path(__file__).parents[2])))
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {}
        self._wait()
        return self

    def __exit__(self, *_):
        self._client.close()
        self._process.terminate()
        self._process.wait(30)

    def _prepare(self):
        store = Store(self._db)
        try:
            access.set_account(store, "measure", access.OPERATOR, self.password)
            with store.engine.connect() as connection:
                def first(text):
                    return connection.exec_driver_sql(text).first()

                device, sid, end_ms = first(
                    "SELECT device, sid, end_ms FROM session WHERE state = 'complete' "
                    "ORDER BY begin_ms DESC LIMIT 1")
                now = first("SELECT device, sid FROM state WHERE sid <> '' LIMIT 1") or (
                    device, sid)
            links = Access(store)
            self.known = {"device": device, "sid": sid, "to_ms": end_ms // 3_600_000 * 3_600_000,
                          "now": now[0], "now_sid": now[1],
                          "link": links.make_link(device, sid), "now_link": links.make_link(*now)}
        finally:
            store.close()
        place = {"rated_w": 2_000_000, "tariff": "flat", "location": {
            **_PLACE, "evse_uid": device, "evse_id": "DE*EVM*E1"}}
        self._operator.write_text(json.dumps({
            "country_code": "DE", "party_id": "EVM", "tariffs": [_TARIFF],
            "places": {device: place}}))

    def _wait(self):
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return self.ask("/api/v1/health")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise UserError("the pages did not start") from None
                self._client.close()
                time.sleep(0.1)

    def login(self):
        """Log in, as everybody does once; returns the time it took, ms."""
        body = json.dumps({"name": "measure", "password": self.password})
        self._headers = {}
        begun = time.perf_counter()
        self._client.request("POST", "/api/v1/login", body, {"Content-Type": "application/json"})
        answer = self._client.getresponse()
        cookie = answer.getheader("set-cookie", "").partition(";")[0]
        answer.read()
        took_ms = (time.perf_counter() - begun) * 1000
        if answer.status != 200:
            raise UserError("the pages refuse the log-in: %d" % answer.status)
        self._headers = {"Cookie": cookie}
        return took_ms

    def ask(self, path, first_byte=False):
        """Time of an answer, ms: whole, or (`first_byte`) until it begins to come."""
        headers = ({"Authorization": "Bearer " + self.metrics_token} if path == "/metrics"
                   else self._headers)
        begun = time.perf_counter()
        self._client.request("GET", path, headers=headers)
        answer = self._client.getresponse()
        if first_byte:
            answer.read(1)
            took_ms = (time.perf_counter() - begun) * 1000
            self._client.close()  # the rest of a long file is nobody's to wait for
        else:
            answer.read()
            took_ms = (time.perf_counter() - begun) * 1000
        if answer.status >= 500 or answer.status in (401, 422):
            raise UserError("GET %s: %d" % (path, answer.status))
        return took_ms


def mix(known):
    """[(name, path, weight, whether its first byte counts)]: what people and scrapers ask for."""
    charger = "/api/v1/chargers/" + known["device"]
    own = "%s/sessions/%s" % (charger, known["sid"])
    found = [
        ("fleet", "/api/v1/fleet?limit=200", 10), ("fleet search", "/api/v1/fleet?q=0042", 4),
        ("fleet by label", "/api/v1/fleet?q=" + quote("Bay 77"), 2),
        ("fleet by state", "/api/v1/fleet?state=fault&limit=200", 3),
        ("fleet of a site", "/api/v1/fleet?site=site-0007&limit=200", 3),
        ("fleet, last page", "/api/v1/fleet?limit=200&offset=%d" % (DEVICES - 200), 1),
        ("charger", charger, 6), ("charger in use", "/api/v1/chargers/" + known["now"], 4),
        ("session", own, 3), ("session of now", "/api/v1/chargers/%s/sessions/%s" % (
            known["now"], known["now_sid"]), 3),
        ("driver", "/api/v1/driver/" + known["link"], 6),
        ("driver now", "/api/v1/driver/" + known["now_link"], 6),
        ("driver alerts", "/api/v1/driver/%s/alerts" % known["link"], 1),
        ("receipt xml", own + "/receipt.xml", 1), ("receipt pdf", own + "/receipt.pdf", 1),
        ("receipt ocmf", own + "/receipt.ocmf", 1), ("cdr", own + "/cdr", 1),
        ("alarms", "/api/v1/alarms?limit=500", 6), ("all alarms", "/api/v1/alarms?which=all", 2),
        ("alarms of one", "/api/v1/alarms?which=all&device=" + known["device"], 1),
        ("availability", "/api/v1/availability", 5),
        ("availability of one", "/api/v1/availability?site=site-0007", 5),
        ("locations", "/ocpi/2.2.1/locations", 4), ("sites", "/api/v1/sites", 2),
        ("sessions", "/api/v1/sessions", 4),
        ("sessions of one", "/api/v1/sessions?device=" + known["device"], 3),
        ("sessions of old", "/api/v1/sessions?before_ms=%d" % (
            known["to_ms"] - 180 * _DAY_MS), 1),
        ("gaps", "/api/v1/gaps", 2), ("all gaps", "/api/v1/gaps?which=all", 1),
        ("gap energy", "/api/v1/billing/gaps", 2), ("quarantine", "/api/v1/quarantine", 1),
        ("audit", "/api/v1/audit", 1), ("metrics", "/metrics", 2), ("me", "/api/v1/me", 2),
        ("health", "/api/v1/health", 1), ("reports", "/api/v1/insight", 1)]
    found += [("page " + name, "/" + name, 1) for name in (
        "fleet", "alarms", "sessions", "sites", "insight", "login",
        "chargers/" + known["device"], "s/" + known["link"])]
    found = [(*each, False) for each in found]
    for name in REPORTS:
        for period, days in (("30 days", 30), ("12 months", 366)):
            query = "from_ms=%d&to_ms=%d&zone=Europe/Berlin" % (
                known["to_ms"] - days * _DAY_MS, known["to_ms"])
            path = "/api/v1/insight/%s?%s" % (name, query)
            found.append(("%s, %s" % (name, period), path, 1, False))
            found.append(("%s of a site, %s" % (name, period), path + "&site=site-0007", 1,
                          False))
            found.append(("%s as CSV, %s" % (name, period),
                          "/api/v1/insight/%s.csv?%s" % (name, query), 1, True))
    return found


def times(pages, rounds=_ROUNDS):
    """{name: [ms]} of the mix, each round in the same order; the first one warms up and does not
    count."""
    found = {}
    pages.login()
    for number in range(rounds + 1):
        took = [("login", pages.login())]
        for name, path, weight, first_byte in mix(pages.known):
            took += [(name, pages.ask(path, first_byte)) for _ in range(weight)]
        for name, ms in took if number else ():
            found.setdefault(name, []).append(ms)
    return found


def answers():
    """Yield page_ms_p95: over all requests of all pages."""
    path = database()
    with Pages(path) as pages:
        found = times(pages)
    every = [ms for own in found.values() for ms in own]
    by_page = sorted(((quantile(own, 950), name) for name, own in found.items()), reverse=True)
    slow = sum(ms > 200 for ms, _ in by_page)
    yield ("page_ms_p95", round(quantile(every, 950), 1),
           "95th percentile of %d requests of %d pages and files, %d chargers, %d sessions; "
           "median %.0f ms, %d pages with a p95 of their own above 200 ms; slowest: %s"
           % (len(every), len(found), DEVICES, SESSIONS, quantile(every, 500), slow,
              ", ".join("%s %.0f ms" % (name, ms) for ms, name in by_page[:3])))


def main():
    """Print each page's own figures, slowest first."""
    path = database() if len(sys.argv) < 2 else sys.argv[1]
    begun = time.monotonic()
    with Pages(path) as pages:
        print("started in %.1f s" % (time.monotonic() - begun))
        found = times(pages, int(sys.argv[2]) if len(sys.argv) > 2 else _ROUNDS)
    for own, name in sorted(((own, name) for name, own in found.items()),
                            key=lambda each: -quantile(each[0], 950)):
        print("%-36s %4d  median %7.1f  p95 %7.1f ms" % (
            name, len(own), quantile(own, 500), quantile(own, 950)))


if __name__ == "__main__":
    main()
