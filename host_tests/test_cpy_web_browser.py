"""Chromium on the demo's bench: the whole way from the meter to what people see.

Screenshots at 1280 and 390 pixels go into build/screenshots/.
"""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect, sync_playwright

from evmeter_tools.backend.broker import free_port
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
from evmeter_tools.paths import BUILD
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.read import find_all
from evmeter_tools.web import access

_CHROMIUM = BUILD / "bin" / "chromium"
_SHOTS = BUILD / "screenshots"
_PASSWORD = "a long password"
_WIDE = {"width": 1280, "height": 860}
_PHONE = {"width": 390, "height": 844}
_WAIT_MS = 30_000


class _Inbox:
    """An ntfy server of the test's own: keeps what is posted to it."""

    def __init__(self):
        came = self.came = []
        self.there = threading.Event()
        there = self.there

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                came.append((self.path, self.headers["Title"], body))
                self.send_response(200)
                self.end_headers()
                there.set()

            def log_message(self, *_):
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Stage:
    """The bench with its backend, and a browser."""

    def __init__(self, folder):
        self.inbox = _Inbox()
        port = free_port()
        self.url = "http://127.0.0.1:%d" % port
        self.bench = Bench(folder, "demo-0001", finished_after_s=5, checkpoint_s=5, web_port=port,
                           backend_options=("--ntfy", self.inbox.url, "--public-url", self.url))
        self.faults = []

    def __enter__(self):
        self.bench.__enter__()
        store = Store(self.bench.database)
        access.set_account(store, "ann", access.OPERATOR, _PASSWORD)
        store.close()
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=str(_CHROMIUM), args=["--no-sandbox"])
        _SHOTS.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_):
        self._browser.close()
        self._playwright.stop()
        self.bench.__exit__()
        self.inbox.close()

    def page(self, size):
        """A page of its own; whatever goes wrong in it is a fault."""
        page = self._browser.new_context(viewport=size, locale="en-GB",
                                         timezone_id="Europe/Berlin").new_page()
        page.set_default_timeout(_WAIT_MS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: self.faults.append(line.text)
                if line.type == "error" else None)
        return page

    def login(self, size):
        page = self.page(size)
        for _ in range(100):  # until the backend listens
            try:
                page.goto(self.url + "/login")
                break
            except Exception:
                time.sleep(0.2)
        page.fill("[name=name]", "ann")
        page.fill("[name=password]", _PASSWORD)
        page.click("button")
        page.wait_for_url("**/fleet")
        return page

    @staticmethod
    def shot(page, name):
        """A picture of the whole page."""
        page.wait_for_timeout(300)
        page.screenshot(path=_SHOTS / ("%s-%d.png" % (name, page.viewport_size["width"])),
                        full_page=True)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    assert _CHROMIUM.exists(), "Chromium is missing; run 'make setup'"
    expect.set_options(timeout=_WAIT_MS)
    with _Stage(tmp_path_factory.mktemp("bench")) as made:
        yield made


def _energy(page):
    return float(page.inner_text("#energy"))


def test_from_the_meter_to_the_screens(stage, capsys):
    rig = stage.bench.rig
    fleet = stage.login(_WIDE)
    row = fleet.locator("tr[data-device=demo-0001]")
    expect(row).to_contain_text("Unknown")
    stage.bench.device.start()
    expect(row).to_contain_text("Free")  # by itself: nobody reloads
    rig.tell(pilot="B")
    expect(row).to_contain_text("Connected")
    rig.tell(pilot="C", load_w=10200)
    expect(row).to_contain_text("Charging")
    expect(row).to_contain_text(re.compile(r"10\.[0-9] kW"))
    stage.shot(fleet, "fleet")

    # the operator hands out a link; the driver opens it on a phone
    charger = stage.login(_WIDE)
    charger.goto(stage.url + "/chargers/demo-0001")
    charger.click("#link-session")
    link = charger.locator("#link a")
    expect(link).to_contain_text("/s/")
    stage.shot(charger, "charger")
    driver = stage.page(_PHONE)
    driver.goto(link.inner_text())
    expect(driver.locator("#words")).to_have_text("Charging")
    expect(driver.locator("#energy")).not_to_have_text("–")
    before = _energy(driver)
    driver.wait_for_function("before => Number(document.querySelector('#energy').textContent)"
                             " > before + 0.004", arg=before)
    # a steady power is a level line, which has no height to be visible by
    expect(driver.locator("#plot polyline")).to_have_attribute("points", re.compile(r"\d \d"))
    driver.select_option("#alerts select", "ntfy")
    driver.fill("#alerts input", "my-car")
    driver.click("#alerts form button")
    expect(driver.locator("#alerts li")).to_contain_text("my-car")
    stage.shot(driver, "session")
    wide = stage.page(_WIDE)
    wide.goto(link.inner_text())
    expect(wide.locator("#words")).to_have_text("Charging")
    stage.shot(wide, "session")

    # full, told, unplugged, receipt
    rig.tell(pilot="B")
    expect(driver.locator("#words")).to_have_text("Fully charged (estimated)")
    assert stage.inbox.there.wait(15)
    assert stage.inbox.came[0][:2] == ("/my-car", "Fully charged (estimated)")
    rig.tell(pilot="A")
    expect(driver.locator("#words")).to_have_text("Session ended")
    expect(driver.locator("#verdict")).to_have_text("Verified")
    expect(driver.locator("#judged")).to_contain_text("signature and rules hold")
    stage.shot(driver, "receipt")
    wide.reload()
    expect(wide.locator("#verdict")).to_have_text("Verified")
    stage.shot(wide, "receipt")
    with driver.expect_download() as download:
        driver.click("text=S.A.F.E. XML")
    found = find_all(download.value.path().read_bytes(), "xml")
    report = judge(*found, bytes.fromhex(stage.bench.spki))
    assert report.ok and report.sessions[0].energy_mwh == int(
        round(_energy(driver) * 1_000_000))

    # an alarm comes up and is acknowledged; the device is told
    alarms = stage.login(_PHONE)
    alarms.goto(stage.url + "/alarms")
    expect(alarms.locator("#alarms")).to_be_visible()
    rig.tell(pilot="B", diode=False)
    began = time.monotonic()
    card = alarms.locator("article", has_text="iode")
    expect(card).to_be_visible()
    seconds = time.monotonic() - began
    stage.shot(alarms, "alarms")
    card.locator("button").click()
    expect(card).to_contain_text("seen by ann")
    for name in ("fleet", "sessions", "sites", "alarms", "chargers/demo-0001"):
        for page in (alarms, fleet):
            page.goto("%s/%s" % (stage.url, name))
            page.wait_for_load_state("load")
            page.wait_for_timeout(400)
            stage.shot(page, name.partition("/")[0].replace("chargers", "charger"))
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                "%s is wider than the screen" % name)

    # an outage that does not count is noted and taken back; a note is text, whatever it says
    fleet.goto(stage.url + "/chargers/demo-0001")
    fleet.fill("#exclude [name=from]", "2026-01-02T03:00")
    fleet.fill("#exclude [name=to]", "2026-01-02T05:30")
    fleet.select_option("#exclude [name=reason]", "utility")
    fleet.fill("#exclude [name=note]", "<img src=x onerror=alert(1)>")
    fleet.click("#exclude button")
    noted = fleet.locator("#exclusions tr")
    expect(noted).to_contain_text("utility")
    expect(noted.locator("[title]")).to_have_attribute("title", "<img src=x onerror=alert(1)>")
    noted.locator("button").click()
    expect(noted).to_have_count(0)
    for page in (alarms, fleet):  # the one session is in the heat map
        page.goto(stage.url + "/insight")
        cells = page.locator("#report-starts .heat.h8")
        expect(cells).to_have_text(re.compile("^[12]$"))
        expect(page.locator("#report-records")).to_contain_text("demo-0001")
        stage.shot(page, "insight")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert stage.faults == []
    with capsys.disabled():
        print("\n  alarm from the pilot to the screen: %.1f s" % seconds)
