"""The API and the pages: who may do what, what is shown, what is refused."""

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sql

from evmeter_tools.backend import notices
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.sessions import device_report
from evmeter_tools.backend.store import now_ms
from evmeter_tools.errors import UserError
from evmeter_tools.insight import many
from evmeter_tools.insight.workup import work_up
from evmeter_tools.sample.device import SampleDevice
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.read import find_all
from evmeter_tools.web import access, driver, fleet
from evmeter_tools.web.feed import Feed, stream
from evmeter_tools.web.server import Server
from fakes.postgres import Postgres
from fakes.web import PASSWORD, FakeWeb
from forge import Forge


@pytest.fixture(scope="module", params=("SQLite", "PostgreSQL"))
def new_database(request):
    """Gives a database's URL, or None for SQLite in the test's folder."""
    if request.param == "SQLite":
        yield lambda: None
        return
    server = Postgres()
    yield server.another
    server.stop()


@pytest.fixture(scope="module")
def made(new_database, tmp_path_factory):
    web = FakeWeb(tmp_path_factory.mktemp("web"), new_database())
    yield web
    web.close()


@pytest.fixture
def web(new_database, tmp_path):
    made = FakeWeb(tmp_path, new_database())
    yield made
    made.close()


def _all(store, table):
    with store.engine.connect() as connection:
        return connection.execute(sql.select(table)).all()


def _paths(app, method):
    """(path, needs) of every route of the API with this method."""
    spec = app.openapi()["paths"]
    return [path for path, item in spec.items() if method in item]


def _fill(path, web, token="x" * 22):
    path = path.replace("{name}", "starts")
    for name, value in (("device", "cp-1"), ("sid", web.done), ("number", "1"), ("kind", "xml"),
                        ("site", "s"), ("token", token)):
        path = path.replace("{%s}" % name, value)
    return path


# -- who may do what --

def test_nothing_but_what_is_meant_for_all_is_shown_without_a_login(made):
    client = made.client()
    is_open = {"/api/v1/health", "/api/v1/availability", "/ocpi/2.2.1/locations"}
    for path in _paths(made.app, "get"):
        answer = client.get(_fill(path, made))
        wanted = 200 if path in is_open else 404 if "/driver/" in path else 401
        assert answer.status_code == wanted, (path, answer.text)
    for page in ("/", "/fleet", "/alarms", "/sessions", "/sites", "/chargers/cp-1",
                 "/chargers/cp-1/sessions/" + made.done):
        answer = client.get(page)
        assert answer.status_code == 303, page
    assert client.get("/login").status_code == 200


def test_a_viewer_sees_and_changes_nothing(made):
    client = made.client("vic")
    for method in ("post", "put", "delete"):
        for path in _paths(made.app, method):
            if "/driver/" in path or path.endswith(("/login", "/logout")):
                continue
            answer = client.request(method, _fill(path, made), json={})
            assert answer.status_code == 403, (method, path, answer.text)
    assert client.get("/api/v1/audit").status_code == 403
    assert client.get("/api/v1/fleet").json()["total"] == 3


def test_what_changes_something_needs_the_token_of_its_login(made):
    client = made.client("ann")
    other = made.client("vic").headers["X-CSRF-Token"]
    for token in ("", "wrong", other):
        answer = client.put("/api/v1/sites/x", json={}, headers={"X-CSRF-Token": token})
        assert answer.status_code == 403
    assert "X-CSRF" in answer.json()["detail"]


def test_a_login_ends_and_its_cookie_is_out_of_reach_of_scripts(web):
    client = web.client("ann")
    answer = client.post("/api/v1/login", json={"name": "ann", "password": PASSWORD})
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    token = client.cookies["evmeter"]
    assert token not in str(_all(web.store, t.logins))
    assert client.post("/api/v1/logout", json={}).status_code == 200
    client.cookies.set("evmeter", token)
    assert client.get("/api/v1/me").status_code == 401
    client = web.client("ann")
    access.set_account(web.store, "ann", "viewer", PASSWORD)  # a change ends the log-ins
    assert client.get("/api/v1/me").status_code == 401
    client = web.client("ann")
    with web.store.engine.begin() as connection:
        connection.execute(sql.update(t.logins).values(expires_at=now_ms() - 1))
    assert client.get("/api/v1/me").status_code == 401


def test_passwords_are_guessed_slowly_and_names_are_not_given_away(web):
    client = web.client()

    def guess(name, password="wrong"):
        return client.post("/api/v1/login", json={"name": name, "password": password})

    answers = [guess("ann") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
    assert guess("ann", PASSWORD).status_code == 429
    assert guess("nobody").json() == answers[0].json()
    assert guess("vic", PASSWORD).status_code == 200


@pytest.mark.parametrize(("name", "role", "password", "word"), [
    ("", "viewer", PASSWORD, "name"), ("a\nb", "viewer", PASSWORD, "name"),
    ("a" * 65, "viewer", PASSWORD, "name"), (" a", "viewer", PASSWORD, "name"),
    ("a", "king", PASSWORD, "allowed: viewer, operator"), ("a", "viewer", "short", "password"),
    ("a", "viewer", "x" * 201, "password"),
])
def test_an_account_is_made_whole_or_not_at_all(made, name, role, password, word):
    before = access.account_names(made.store)
    with pytest.raises(UserError, match=word):
        access.set_account(made.store, name, role, password)
    assert access.account_names(made.store) == before


# -- what is shown --

def test_the_fleet_has_every_charger_with_its_state(made):
    found = made.client("vic").get("/api/v1/fleet").json()
    states = {each["device"]: each["state"] for each in found["chargers"]}
    assert states == {"cp-1": "charging", "cp-2": "available", "cp-3": "unknown"}
    first = next(each for each in found["chargers"] if each["device"] == "cp-1")
    assert (first["power_mw"], first["session_mwh"], first["alarms"]) == (7_200_000, 250_000, 1)
    assert (found["in_use"], found["alarms_unseen"], found["missing"]) == (1, 1, 0)
    client = made.client("vic")
    assert client.get("/api/v1/fleet?state=available").json()["total"] == 1
    assert client.get("/api/v1/fleet?q=CP-2").json()["total"] == 1
    assert client.get("/api/v1/fleet?q=%25").json()["total"] == 0  # no wildcard of SQL
    assert client.get("/api/v1/fleet?limit=1&offset=1").json()["chargers"][0]["device"] == "cp-2"


def test_a_site_ranks_by_what_is_free_and_ocpi_says_the_same(web):
    ann = web.client("ann")
    for site, limit_w in (("a", 0), ("b", 22000), ("c", 0)):
        assert ann.put("/api/v1/sites/" + site, json={
            "name": "Site " + site, "country": "DEU", "limit_w": limit_w}).status_code == 200
    for device, site in (("cp-1", "a"), ("cp-2", "b"), ("cp-3", "b")):
        assert ann.put("/api/v1/chargers/" + device, json={
            "label": "Bay", "site": site, "evse_id": "DE*EVM*E1", "rated_w": 11000}
        ).status_code == 200
    found = web.client().get("/api/v1/availability").json()["sites"]
    assert [(each["id"], each["rank"], each["free"], each["free_permille"]) for each in found] == [
        ("b", 1, 1, 500), ("a", 2, 0, 0), ("c", 3, 0, 0)]
    assert found[0]["headroom_w"] == 22000
    assert found[1]["next_free_at_ms"] is None  # too little is known
    data = web.client().get("/ocpi/2.2.1/locations").json()
    assert data["status_code"] == 1000
    assert {each["uid"]: each["status"] for place in data["data"] for each in place["evses"]} == {
        "cp-1": "CHARGING", "cp-2": "AVAILABLE", "cp-3": "UNKNOWN"}
    assert ann.delete("/api/v1/sites/a").status_code == 409
    assert ann.delete("/api/v1/sites/c").status_code == 200
    assert ann.put("/api/v1/chargers/cp-1", json={"site": "none"}).status_code == 409


def test_when_a_charger_will_be_free_is_the_median_of_its_hour():
    hour = 3_600_000
    durations = [(8, 3600)] * 3 + [(8, 7200)] * 3 + [(20, 600)] * 5
    assert fleet._expected_s(durations, 20 * hour) == 600
    assert fleet._expected_s(durations, 8 * hour) == 5400
    assert fleet._expected_s(durations, 3 * hour) == 3600  # none of this hour: of all
    assert fleet._expected_s(durations[:4], 8 * hour) is None


def test_an_alarm_is_acknowledged_once_and_the_charger_is_told(web):
    ann = web.client("ann")
    (alarm,) = ann.get("/api/v1/alarms").json()
    path = "/api/v1/alarms/%d/acknowledge" % alarm["id"]
    assert ann.post(path, json={"note": "on my way"}).status_code == 200
    assert ann.post(path, json={}).status_code == 404
    (alarm,) = ann.get("/api/v1/alarms").json()
    assert (alarm["acked_by"], alarm["note"]) == ("ann", "on my way")
    (order,) = _all(web.store, t.commands)
    assert (order.op, json.loads(order.args), order.by) == (
        "alarm_ack", {"code": "METER_LOST"}, "ann")
    web.say("cp-1", **{"alarm/METER_LOST": b""})
    assert ann.get("/api/v1/alarms").json() == []
    (alarm,) = ann.get("/api/v1/alarms?which=all").json()
    assert alarm["cleared_at"]
    assert [row["what"] for row in ann.get("/api/v1/audit").json()][0] == "alarm seen"


def test_an_alarm_of_the_backend_is_over_once_it_was_seen(web):
    with web.store.engine.begin() as connection:
        number = notices.raise_alarm(connection, "cp-2", notices.CONFLICT, "crit", "x", 1, 1)
    assert web.client("ann").post("/api/v1/alarms/%d/acknowledge" % number,
                                  json={}).status_code == 200
    assert _all(web.store, t.commands) == []
    assert all(row.cleared_at for row in _all(web.store, t.alarms) if row.id == number)


def test_a_command_waits_for_the_leader(web):
    ann = web.client("ann")
    assert ann.post("/api/v1/chargers/cp-1/commands", json={"op": "stop"}).status_code == 201
    (order,) = _all(web.store, t.commands)
    assert (order.op, json.loads(order.args), order.sent_at) == ("stop", {"by": "remote"}, None)
    assert ann.post("/api/v1/chargers/no/commands", json={"op": "stop"}).status_code == 404
    for op in ("update", "key_change", "config"):  # these need an operator's signature
        assert ann.post("/api/v1/chargers/cp-1/commands", json={"op": op}).status_code == 422


# -- the driver --

def _link(web, sid, device="cp-1"):
    made = web.client("ann").post("/api/v1/chargers/%s/links" % device, json={"sid": sid})
    assert made.status_code == 201
    url = made.json()["url"]
    assert url.startswith("https://charge.example/s/")
    assert made.json()["qr"].startswith("data:image/svg+xml")
    return url.rsplit("/", 1)[1]


def test_a_driver_sees_the_session_and_no_name(web):
    with web.store.engine.begin() as connection:
        connection.execute(sql.insert(t.samples), [
            {"device": "cp-1", "at_ms": at, "sid": web.sid, "power_mw": at, "session_mwh": at}
            for at in range(1, 2001)])
    token = _link(web, web.sid)
    assert token not in str(_all(web.store, t.links))
    view = web.client().get("/api/v1/driver/" + token).json()
    assert (view["words"], view["power_mw"], view["energy_mwh"]) == ("Charging", 7_200_000,
                                                                     250_000)
    assert (view["cost_minor"], view["tariff"]["now"]["centiminor_per_kwh"]) == (10, 3974)
    assert 200 < len(view["samples"]) <= 402 and view["samples"][0][0] == 1
    web.say("cp-1", tel={"p_mw": 7_200_000, "s_mwh": 1_250_000, "sid": web.sid})
    view = web.client().get("/api/v1/driver/" + token).json()
    assert view["cost_minor"] == 10 + 40  # 1 kWh more at 39.74 cent
    assert view["elapsed_s"] >= 125 and view["receipt"] is None
    assert web.client().get("/api/v1/driver/%s/receipt.xml" % token).status_code == 404
    web.say("cp-1", avail=b"offline")
    view = web.client().get("/api/v1/driver/" + token).json()
    assert (view["online"], view["state"]) == (False, "offline")
    page = web.client().get("/s/" + token)
    assert page.status_code == 200 and "/fleet\"" not in page.text


def test_the_tariff_of_the_configuration_tells_what_comes_next(web):
    tariff = {"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
        {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 3974},
        {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2650}]}
    web.say("cp-1", cfg={"rev": 1, "cfg": {"tariff": tariff}})
    found = driver.tariff_windows(web.store, "cp-1", 1_800_000_000_000)  # 09:00 in Berlin
    assert (found["now"]["name"], found["next"]["name"]) == ("day", "night")
    assert found["until_ms"] == 1_800_046_800_000
    for wrong in ({"tariff": 7}, {"tariff": {"zone": []}}, {"tariff": {**tariff, "windows": 1}}):
        web.say("cp-1", cfg={"cfg": wrong})
        assert driver.tariff_windows(web.store, "cp-1", 1) == {}


def test_the_receipt_verifies_by_itself_and_by_the_tools(web):
    token = _link(web, web.done)
    client = web.client()
    view = client.get("/api/v1/driver/" + token).json()
    assert view["ended"] and view["receipt"]["ok"], view["receipt"]["findings"]
    assert (view["energy_mwh"], view["billable"]) == (1_000_000, True)
    for kind in ("xml", "ocmf"):
        answer = client.get("/api/v1/driver/%s/receipt.%s" % (token, kind))
        assert "attachment" in answer.headers["content-disposition"]
        key = bytes.fromhex(view["receipt"]["key"])
        report = judge(*find_all(answer.content, kind), key)
        assert report.ok and [each.energy_mwh for each in report.sessions] == [1_000_000]
    assert client.get("/api/v1/driver/%s/receipt.pdf" % token).content.startswith(b"%PDF")
    # a record that does not hold is said to, in the page too
    device = web.devices["cp-1"]
    web.add("cp-1", "rec", device.record(4, "complete", 9_000_000, web.done, broken=True))
    view = client.get("/api/v1/driver/" + token).json()
    assert not view["receipt"]["ok"] and "NOT VERIFIED" in view["receipt"]["verdict"]
    assert not [row for row in _all(web.store, t.sessions) if row.sid == web.done][0].ok


def test_no_session_falls_between_two_pages(web):
    with web.store.engine.begin() as connection:
        connection.execute(sql.insert(t.sessions), [
            {"device": "cp-2", "sid": "cp-2-%06d" % number, "key_id": "a1b2c3d4",
             "state": "complete", "begin_ms": 5000 if number < 5 else 6000, "begin_mwh": 0,
             "ok": True, "changed_at": 1} for number in range(8)])
    client = web.client("vic")
    found, page = [], "/api/v1/sessions?device=cp-2&limit=2"
    while rows := client.get(page).json():
        found += [row["sid"] for row in rows]
        page = "/api/v1/sessions?device=cp-2&limit=2&before_ms=%d" % rows[-1]["begin_ms"]
    assert sorted(found) == ["cp-2-%06d" % number for number in range(8)]


def test_the_link_of_a_charger_leads_to_the_session_of_now(web):
    token = _link(web, "")
    client = web.client()
    first = client.get("/s/" + token)
    assert first.status_code == 303
    assert client.get("/s/" + token).headers["location"] == first.headers["location"]
    mine = first.headers["location"].rsplit("/", 1)[1]
    assert client.get("/api/v1/driver/" + mine).json()["sid"] == web.sid
    assert client.get("/api/v1/driver/" + token).status_code == 404
    web.say("cp-1", status={"n": 2, "st": "idle", "cp": "A", "sid": ""})
    waits = client.get("/s/" + token)
    assert waits.status_code == 200 and "No charging session yet" in waits.text
    assert client.get("/api/v1/driver/" + mine).status_code == 200  # who has it keeps it
    with web.store.engine.begin() as connection:
        connection.execute(sql.update(t.links).values(expires_at=1))
    assert client.get("/s/" + token).status_code == 404


def test_the_link_of_a_charger_leads_to_no_session_that_has_ended(web):
    """The next driver is not shown the one before, where the charger fell silent at its end."""
    client, token = web.client(), _link(web, "")
    web.add("cp-1", "rec", web.devices["cp-1"].record(4, "complete", 7_000_000, web.sid))
    web.say("cp-1", avail=b"offline")
    waits = client.get("/s/" + token)
    assert waits.status_code == 200 and "No charging session yet" in waits.text


def test_a_driver_is_told_where_he_asks_to_be(web):
    path = "/api/v1/driver/%s/alerts" % _link(web, web.sid)
    client = web.client()
    assert client.get(path).json() == {"channels": ["email", "ntfy"], "alerts": []}
    good = {"channel": "email", "target": "driver@example.org"}
    assert client.post(path, json=good).status_code == 201
    assert client.post(path, json=good).status_code == 201  # twice is once
    for wrong in ({"channel": "webhook", "target": "http://127.0.0.1/"},
                  {"channel": "email", "target": "a@example.org\nBcc: b@example.org"},
                  {"channel": "email", "target": "topic"}, {"channel": "ntfy", "target": "../x"},
                  {"channel": "ntfy", "target": "a@example.org"}, {"channel": "ntfy"}, {}, []):
        assert client.post(path, json=wrong).status_code == 422, wrong
    for number in range(2):
        assert client.post(path, json={"channel": "ntfy", "target": "t%d" % number}
                           ).status_code == 201
    assert client.post(path, json={"channel": "ntfy", "target": "t9"}).status_code == 409
    device = web.devices["cp-1"]
    event = {**json.loads(device.event(4, "finished_estimated")), "sid": web.sid}
    web.add("cp-1", "evt", json.dumps(event).encode())
    notes = _all(web.store, t.outbox)
    assert [note.target for note in notes] == ["driver@example.org", "t0", "t1"]
    assert "https://charge.example/s/" in notes[0].body
    number = client.get(path).json()["alerts"][0]["id"]
    other = "/api/v1/driver/%s/alerts/%d" % (_link(web, web.done), number)
    assert client.delete(other).status_code == 404  # of another session
    assert client.delete("%s/%d" % (path, number)).status_code == 200


def test_the_signed_time_stands_beside_the_true_one(web):
    device = SampleDevice("cp-7", 1_790_000_000_000, secret=7, quality="U")
    device.plug().charge(600).set_clock(40_000).charge(600).unplug()
    device.plug()
    device.store(web.store)
    driver_of, viewer = web.client(), web.client("vic")
    path = "/api/v1/chargers/cp-7/sessions/cp-7-000001"
    found = viewer.get(path).json()
    begin, end = found["times"]
    assert (begin["name"], begin["quality"]) == ("begin", "U")
    assert begin["signed_ms"] == found["begin_ms"] == 1_790_000_000_000
    # messages are dated in whole seconds, and a crystal drifts
    assert abs(begin["true_ms"] - 1_790_000_040_000) <= begin["uncertainty_ms"] < 2000
    assert begin["told_by"] > 1
    assert (end["quality"], end["true_ms"], end["told_by"]) == ("S", None, None)
    mine = driver_of.get("/api/v1/driver/" + _link(web, "cp-7-000001", "cp-7")).json()
    assert mine["times"] == found["times"]
    work_up(web.store)
    (row,) = [row for row in viewer.get("/api/v1/sessions").json() if row["sid"] == "cp-7-000001"]
    assert (row["begin_ms"], row["true_begin_ms"]) == (begin["signed_ms"], begin["true_ms"])
    (now,) = viewer.get("/api/v1/chargers/cp-7/sessions/cp-7-000003").json()["times"]
    assert (now["name"], now["quality"], now["true_ms"]) == ("begin", "S", None)


def test_a_session_lasts_as_long_as_its_ticks_whatever_its_clock_said(web):
    # by its clock, which was set in between, it took 26 years
    device = SampleDevice("cp-7", 946_684_800_000, secret=7, quality="U")
    device.plug().charge(600).set_clock(843_000_000_000).charge(600)
    sid = device.sid
    device.event("close", dur_s=1200, cost=76, cur="EUR", tx="E")
    device.unplug()
    device.messages.pop()  # its own, which has no ticks
    device.store(web.store)
    link = "/api/v1/driver/" + _link(web, sid, "cp-7")
    view = web.client().get(link).json()
    assert view["ended"] and view["end_ms"] - view["begin_ms"] > 843_000_000_000
    assert (view["elapsed_s"], view["cost_minor"], view["tariff"]) == (
        1200, 76, {"currency": "EUR"})
    path = "/api/v1/sessions"

    def row():
        return next(row for row in web.client("vic").get(path).json() if row["sid"] == sid)

    work_up(web.store)
    assert row()["duration_s"] == 1200
    with web.store.engine.begin() as connection:  # no event tells: the true times do
        connection.execute(sql.delete(t.records).where(
            t.records.c.device == "cp-7", t.records.c.kind == "close"))
    view = web.client().get(link).json()
    assert view["elapsed_s"] in (1199, 1200) and view["cost_minor"] is None


# -- reports and bills --

_PERIOD = "from_ms=1780000000000&to_ms=1800000000000"


def test_reports_are_those_of_the_command_line(made):
    vic = made.client("vic")
    for name in vic.get("/api/v1/insight").json():
        table = vic.get("/api/v1/insight/%s?%s&zone=Europe/Berlin" % (name, _PERIOD))
        assert table.status_code == 200 and table.json()["name"] == name, name
        text = vic.get("/api/v1/insight/%s.csv?%s" % (name, _PERIOD)).text
        assert text.splitlines()[0].split(",") == [
            column["key"] for column in table.json()["columns"]]
    (row,) = [row for row in vic.get("/api/v1/insight/list?" + _PERIOD).json()["rows"]
              if row["sid"] == made.done]
    assert (row["energy_mwh"], row["ok"]) == (1_000_000, True)
    for query, status in (("from_ms=5&to_ms=4", 409), (_PERIOD + "&zone=Mars/Base", 409),
                          ("from_ms=0&to_ms=9000000000000000", 409), ("from_ms=x&to_ms=1", 422),
                          (_PERIOD + "&zone=..%2F..%2Fetc%2Fpasswd", 409)):
        assert vic.get("/api/v1/insight/starts?" + query).status_code == status, query
    assert vic.get("/api/v1/insight/none?" + _PERIOD).status_code == 422


def test_reports_follow_what_is_stored(web):
    vic = web.client("vic")

    def stored():
        rows = vic.get("/api/v1/insight/records?%s&device=cp-1" % _PERIOD).json()["rows"]
        return [row["stored"] for row in rows]

    assert stored() == [3]
    web.add("cp-1", "evt", web.devices["cp-1"].event(4))
    assert stored() == [4]


def test_outages_of_the_device_status_count_unless_an_operator_says_why_not(web):
    at = 1_790_000_000_000
    web.live.take([("cp-2", "avail", b"offline", at)])
    web.live.take([("cp-2", "avail", b"online", at + 3_600_000)])
    web.live.take([("cp-2", "status", b'{"n": 9, "cp": "F"}', at + 7_200_000)])
    web.live.take([("cp-2", "status", b'{"n": 10, "st": "idle", "cp": "A"}', at + 9_000_000)])
    ann, vic = web.client("ann"), web.client("vic")
    query = "?from_ms=%d&to_ms=%d&device=cp-2" % (at, at + 10_800_000)

    def minutes():
        rows = vic.get("/api/v1/insight/outages" + query).json()["rows"]
        return {row["reason"]: row["outage_min"] for row in rows}

    assert minutes() == {"": 60 + 30}
    ann.put("/api/v1/chargers/cp-2", json={"label": "", "site": "", "evse_id": "",
                                           "rated_w": 11000})
    whole, _, energy = vic.get("/api/v1/insight/utilisation" + query).json()["rows"]
    assert whole["whole"] == 10_800
    assert energy["whole"] == 33_000_000
    path = "/api/v1/chargers/cp-2/exclusions"
    form = {"from_s": at // 1000 + 900, "to_s": at // 1000 + 7_200 + 600, "reason": "internet",
            "note": "provider"}
    assert vic.post(path, json=form).status_code == 403
    for wrong in ({**form, "reason": "weather"}, {**form, "to_s": form["from_s"]}):
        assert ann.post(path, json=wrong).status_code == 422
    number = ann.post(path, json=form).json()["id"]
    assert minutes() == {"": 15 + 20, "internet": 45 + 10}
    assert [row["reason"] for row in vic.get(path).json()] == ["internet"]
    assert ann.delete("%s/%d" % (path.replace("cp-2", "cp-1"), number)).status_code == 404
    assert ann.delete("%s/%d" % (path, number)).status_code == 200
    assert minutes() == {"": 90}


def test_a_charger_without_a_rated_power_counts_by_its_time(web):
    at = 1_790_000_000_000
    ann = web.client("ann")
    query = "/api/v1/insight/utilisation?from_ms=%d&to_ms=%d" % (at, at + 3_600_000)

    def found():
        answer = ann.get(query).json()
        return [row["whole"] for row in answer["rows"]], answer["notes"]

    count = len(web.devices)
    note = "%d of %d stations have no rated power: their time counts, their energy does not"
    assert found() == ([count * 3600, count * 3600, 0], [note % (count, count)])
    ann.put("/api/v1/chargers/cp-2", json={"label": "", "site": "", "evse_id": "",
                                           "rated_w": 11000})
    assert found() == ([count * 3600, count * 3600, 11_000_000], [note % (count - 1, count)])


def test_an_outage_that_goes_on_does_not_reach_into_the_future(web):
    at = now_ms()
    web.live.take([("cp-3", "avail", b"online", at - 7_200_000),
                   ("cp-3", "avail", b"offline", at - 3_600_000)])
    ann = web.client("ann")
    # a whole day and the week that comes
    period = "from_ms=%d&to_ms=%d&device=cp-3" % (at - 86_400_000, at + 7 * 86_400_000)

    def rows(name):
        return ann.get("/api/v1/insight/%s?%s" % (name, period)).json()["rows"]

    assert [row["outage_min"] for row in rows("outages")] in ([60], [61])
    # two months round it by themselves
    assert sum(row["month_outage_min"] for row in rows("uptime")) in (60, 61)
    assert rows("reliability")[0]["mttr_s"] in range(3600, 3660)
    down_s = many.down_s(web.store, ["cp-3"], at // 1000 - 3600, at // 1000 + 3600)
    assert down_s.keys() == {"cp-3"} and down_s["cp-3"] in range(3599, 3660)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "<-12>12", "CET-1CEST,0,365/167"])
def test_a_period_is_within_the_times_that_there_are(made, zone):
    client = made.client("vic")
    for from_ms, to_ms, status in (
            (0, 86_400_000, 200), (2**32 * 1000 - 86_400_000, 2**32 * 1000, 200),
            (2**32 * 1000 - 5, 2**32 * 1000 + 1, 409), (2**53 - 10, 2**53, 409), (5, 5, 409),
            (253_402_300_000_000, 253_402_300_799_999, 409)):  # the end of year 9999
        for name in ("starts", "uptime", "demand", "concurrency", "utilisation", "stations"):
            answer = client.get("/api/v1/insight/" + name, params={
                "from_ms": from_ms, "to_ms": to_ms, "zone": zone})
            assert answer.status_code == status, (name, from_ms)


def test_a_charger_that_has_never_spoken_has_no_up_time(made):
    period = "from_ms=%d&to_ms=%d" % (now_ms() - 86_400_000, now_ms() + 1000)
    rows = made.client("vic").get("/api/v1/insight/uptime?" + period).json()["rows"]
    assert {row["device"] for row in rows} == {"cp-1", "cp-2"}


def test_gap_energy_waits_for_an_operator(web):
    with web.store.engine.begin() as connection:
        connection.execute(sql.update(t.sessions).where(t.sessions.c.sid == web.done).values(
            gap_mwh=123_000))
    ann, vic = web.client("ann"), web.client("vic")
    path = "/api/v1/billing/gaps/cp-1/" + web.done
    assert [row["decision"] for row in vic.get("/api/v1/billing/gaps").json()] == ["pending"]
    assert vic.post(path, json={"decision": "confirmed"}).status_code == 403
    assert ann.post(path, json={"decision": "pending"}).status_code == 422
    assert ann.post(path, json={"decision": "confirmed"}).json() == {"gap_mwh": 123_000}
    assert ann.post("/api/v1/billing/gaps/cp-1/" + web.sid, json={"decision": "waived"}
                    ).status_code == 404
    assert [row["decision"] for row in vic.get("/api/v1/billing/gaps").json()] == ["confirmed"]
    with web.store.engine.begin() as connection:  # another amount is another question
        connection.execute(sql.update(t.sessions).values(gap_mwh=124_000))
    found = vic.get("/api/v1/billing/gaps").json()
    assert {row["decision"] for row in found} == {"pending"}


def test_a_cdr_is_made_by_the_operators_file_or_says_why_not(web, tmp_path):
    path = "/api/v1/chargers/cp-1/sessions/%s/cdr" % web.done
    vic = web.client("vic")
    assert "--operator" in vic.get(path).json()["detail"]
    location = {"id": "yard", "address": "Road 1", "city": "Ulm", "country": "DEU",
                "coordinates": {"latitude": "48.40000", "longitude": "9.98000"},
                "evse_uid": "cp-1", "evse_id": "DE*EVM*E1", "connector_id": "1",
                "connector_standard": "IEC_62196_T2", "connector_format": "SOCKET",
                "connector_power_type": "AC_3_PHASE"}
    tariff = {"id": "flat", "currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
        {"name": "all", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 4000}]}
    operator = tmp_path / "operator.json"
    operator.write_text(json.dumps({
        "country_code": "DE", "party_id": "EVM", "tariffs": [tariff],
        "places": {"cp-1": {"rated_w": 2_000_000_000, "tariff": "flat", "location": location}}}))
    object.__setattr__(web.settings, "operator", str(operator))
    answer = vic.get(path)
    assert answer.status_code == 409, answer.text  # two seconds are too short to be believed
    assert answer.json()["detail"].startswith("held: suspicious"), answer.text
    assert vic.get("/api/v1/chargers/cp-1/sessions/none/cdr").status_code == 404


def test_metrics_are_for_who_has_the_token(web):
    assert web.client().get("/metrics").status_code == 401
    object.__setattr__(web.settings, "metrics_token", "secret-token")
    for given, status in (("Bearer wrong", 401), ("", 401), ("Bearer secret-token", 200)):
        answer = web.client().get("/metrics", headers={"Authorization": given})
        assert answer.status_code == status, given
    assert 'evmeter_online{device="cp-1"} 1.0' in answer.text
    assert 'evmeter_alarms{device="cp-1",severity="crit"} 1.0' in answer.text
    assert "evmeter_devices 3.0" in answer.text
    assert web.client("vic").get("/metrics").status_code == 200


# -- live --

def test_the_feed_tells_what_changed_and_ends(web):
    feed = Feed(web.store)
    feed.start()
    came = []

    async def read():
        async for text in stream(feed, lambda changed: {"changed": sorted(changed or [])}):
            came.append(text)
            if "alarm" in text:
                return

    reader = threading.Thread(target=asyncio.run, args=(read(),))
    reader.start()
    while not came:
        time.sleep(0.01)
    web.alarm("cp-2", "PILOT_FAULT")
    reader.join(15)
    feed.stop()
    assert '["alarm", "cp-2"]' in came[-1]

    async def late():
        return [text async for text in stream(feed, lambda changed: {})]

    assert asyncio.run(late()) == ["event: full\ndata: {}\n\n"]


def test_a_server_answers_and_names_a_port_that_is_taken(web):
    server = Server(web.store, web.settings, "127.0.0.1", 0)
    server.start()
    port = server._server.servers[0].sockets[0].getsockname()[1]
    other = Server(web.store, web.settings, "127.0.0.1", port)
    with pytest.raises(UserError, match="--web-port"):
        other.start()
    server.stop()


# -- what is refused --

_TRICKS = ("..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "a b", "a" * 21, "_host", "%F0%9F%98%80",
           "'; DROP TABLE record; --", "<script>", "cp-1%0d%0aSet-Cookie:x", "+", "#", "*")


def test_path_tricks_lead_nowhere(made):
    client = made.client("ann")
    for trick in _TRICKS:
        for path in ("/api/v1/chargers/%s", "/api/v1/chargers/cp-1/sessions/%s", "/chargers/%s",
                     "/api/v1/driver/%s", "/s/%s", "/static/%s", "/api/v1/sites/%s"):
            answer = client.get(path % trick)
            # what stands before "#" or falls away with "." is an address of its own
            assert answer.status_code in (404, 422, 405) or trick in ("#", "%2e%2e"), (
                path, trick, answer.status_code)
            assert "root:" not in answer.text
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py",
                 "/static//etc/passwd", "/static/"):
        assert made.client().get(path).status_code in (404, 405), path


def test_injection_into_every_form_is_refused_or_shown_as_text(web):
    ann = web.client("ann")
    script = "<script>alert(1)</script>"
    sqli = "x'; DROP TABLE record; --"
    for text in (script, sqli, "{{ 7*7 }}", "${7*7}", "=cmd|' /C calc'!A0"):
        assert ann.put("/api/v1/chargers/cp-1", json={"label": text[:64]}).status_code == 200
        assert ann.get("/api/v1/chargers/cp-1").json()["label"] == text[:64]
        assert ann.put("/api/v1/sites/x", json={"name": text}).status_code == 200
        (alarm,) = ann.get("/api/v1/alarms").json()
        for page in ("/fleet", "/alarms", "/sites", "/chargers/cp-1"):
            answer = ann.get(page)
            assert answer.status_code == 200 and text not in answer.text
            assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert len(web.store.rows("cp-1")) == 3
    for body in ({"label": "a\x00b"}, {"label": "a\nb"}, {"label": "\u202eabc"},
                 {"label": "x" * 65}, {"rated_w": -1}, {"rated_w": 2**70}, {"rated_w": "11000"},
                 {"rated_w": 1.5}, {"rated_w": True}, {"evse_id": "<b>"}, {"site": "a/b"},
                 {"unknown": 1}, {"label": None}, {"label": ["x"]}, [], "x", 7, None):
        assert ann.put("/api/v1/chargers/cp-1", json=body).status_code == 422, body
    for raw in (b'{"label": "\\ud800"}', b"{", b"\xff", b'{"label": NaN}', b"[" * 60000):
        answer = ann.put("/api/v1/chargers/cp-1", content=raw,
                         headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), raw[:20]
    for query in ("limit=0", "limit=501", "limit=x", "offset=-1", "q=%00", "q=" + "x" * 41,
                  "state=none", "offset=99999999999999999999"):
        assert ann.get("/api/v1/fleet?" + query).status_code == 422, query
    for number in (0, -1, 2**63, 2**64, "x", "1.5"):
        assert ann.post("/api/v1/alarms/%s/acknowledge" % number, json={}
                        ).status_code in (404, 422)
    assert ann.get("/api/v1/alarms").json() == [alarm]


_ODD = [b'{"boot": 9, "a": %s}' % value for value in (
    b'1e400, "b": NaN', b'"\\ud800", "\\udfff": 1', b"[" * 900 + b"]" * 900, b"9" * 4000,
    b'{"a":' * 300 + b"7" + b"}" * 300)]
_ODD_TARIFF = {"windows": [{"name": "\ud800", "from": "00:00", "to": "24:00",
                            "centiminor_per_kwh": 5}], "currency": "\ud800", "zone": "UTC0"}


@pytest.mark.parametrize("topic", ["info", "diag", "cfg"])
def test_whatever_a_charger_says_of_itself_its_page_answers(web, topic):
    client = web.client("vic")
    for odd in (*_ODD, json.dumps({"cfg": {"tariff": _ODD_TARIFF}}).encode()):
        web.say("cp-1", **{topic: odd})
        for path in ("/api/v1/chargers/cp-1", "/api/v1/chargers/cp-1/sessions/" + web.sid):
            assert client.get(path).status_code == 200, (path, odd[:40])


@pytest.mark.parametrize("ocmf", [
    5, None, ["x"], {}, "", "OCMF|{}|{}", 'OCMF|{"ZS":"%s","PG":"T9"}|{"SD":"\ud800"}'])
def test_a_session_is_shown_whatever_came_under_its_name(web, ocmf):
    device, client = web.devices["cp-1"], web.client("vic")
    if isinstance(ocmf, str):
        ocmf = ocmf.replace("%s", web.done)
    text = json.dumps({**json.loads(device.record(4, sid=web.done)), "ocmf": ocmf})
    web.add("cp-1", "rec", text.encode())
    path = "/api/v1/chargers/cp-1/sessions/" + web.done
    assert client.get(path).json()["ended"] is True
    for kind in ("xml", "ocmf", "pdf"):
        assert client.get("%s/receipt.%s" % (path, kind)).status_code == 200
    assert device_report(web.store, "cp-1").sessions
    row = next(row for row in client.get("/api/v1/sessions").json() if row["sid"] == web.done)
    assert row["ok"] is False


@pytest.mark.parametrize("quality", ["\ud800", "Ux", 7, None, ["S"]])
def test_the_clock_of_a_message_is_one_of_four(web, quality):
    device, client = web.devices["cp-2"], web.client("vic")
    for seq, kind in ((1, "begin"), (2, "complete")):
        message = json.loads(device.record(seq, kind, 10**6 + seq, "cp-2-000001"))
        web.add("cp-2", "rec", json.dumps({**message, "tq": quality}).encode())
    answer = client.get("/api/v1/chargers/cp-2/sessions/cp-2-000001")
    assert answer.status_code == 200
    assert [edge["quality"] for edge in answer.json()["times"]] == ["U", "U"]


def test_a_record_that_names_no_session_is_of_none(web):
    device = web.devices["cp-2"]
    forge = Forge(gateway="cp-2")
    key = hashlib.sha256(forge.spki).hexdigest()[:8]
    web.store.enrol("cp-2", key, forge.spki.hex())
    begin = (0, "B", 10**8, {})
    text = forge.record([begin, (1, "E", 10**8 + 10**6, {})], None)
    message = {**json.loads(device.record(1, "complete")), "k": key, "ocmf": text}
    web.add("cp-2", "rec", json.dumps(message).encode())
    (row,) = web.store.rows("cp-2")
    assert (row.verdict, row.why) == ("bad", "the record names no session")
    client = web.client("vic")
    assert client.get("/api/v1/sessions?device=cp-2").json() == []
    # as a backend that took it has left it
    with web.store.engine.begin() as connection:
        connection.execute(sql.insert(t.sessions).values(
            device="cp-2", sid=message["sid"], key_id=key, state="complete", begin_ms=1,
            begin_mwh=0, end_ms=2, energy_mwh=5, ok=True, billable=True, changed_at=1))
    found = client.get("/api/v1/chargers/cp-2/sessions/" + message["sid"]).json()
    assert (found["ended"], found["billable"], found["receipt"]) == (True, False, None)


def test_a_charger_without_a_rated_power_is_a_place_too(web):
    ann = web.client("ann")
    ann.put("/api/v1/chargers/cp-1", json={"rated_w": 11000})
    # the session of cp-1 that ended, of one second
    period = "from_ms=1790000000000&to_ms=1790000002000"
    for scope, full_s in (("", 0), ("&device=cp-1", 1)):
        found = ann.get("/api/v1/insight/concurrency?" + period + scope).json()["rows"][0]
        assert (found["cars"], found["full_s"]) == (1, full_s), scope


def test_a_database_that_is_busy_is_said_so(tmp_path):
    web = FakeWeb(tmp_path)
    ann = web.client("ann")
    sql.event.listen(web.store.engine, "connect", lambda connection, _: connection.execute(
        "PRAGMA busy_timeout=50"))
    web.store.engine.dispose()
    path = tmp_path / "web.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for answer in (ann.put("/api/v1/sites/yard", json={"name": "Yard"}),
                       ann.post("/api/v1/login", json={"name": "vic", "password": PASSWORD})):
            assert answer.status_code == 503, answer.text
            assert "does not answer" in answer.json()["detail"]
        assert ann.get("/api/v1/fleet").status_code == 200  # who only reads does not wait
        other.execute("COMMIT")
    assert ann.put("/api/v1/sites/yard", json={"name": "Yard"}).status_code == 200
    with web.store.engine.begin() as connection:
        connection.execute(sql.text("ALTER TABLE login RENAME TO away"))
    with pytest.raises(sql.exc.OperationalError):  # a defect stays one
        ann.get("/api/v1/me")
    web.close()


def test_sums_over_all_chargers_stand_what_a_few_of_them_claim(web):
    client = web.client("vic")
    for n, (claimed, told) in enumerate(((2**53 - 1, 3 * (2**53 - 1)), (2**62 - 1, 0))):
        for name in web.devices:
            web.say(name, avail=b"online", status={"n": n, "boot": 9, "pend": claimed},
                    tel={"p_mw": claimed})
        found = client.get("/api/v1/fleet").json()
        assert found["power_mw"] == found["unsent"] == told


def test_too_much_is_refused_before_it_is_read(made):
    client = made.client("ann")
    answer = client.put("/api/v1/sites/x", content=b"x" * 70_000,
                        headers={"Content-Type": "application/json"})
    assert answer.status_code == 413

    def endless():
        for _ in range(100):
            yield b"x" * 10_000

    answer = client.put("/api/v1/sites/x", content=endless(),
                        headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_every_answer_tells_the_browser_what_it_may_do(made):
    client = made.client()
    for path in ("/login", "/api/v1/health", "/nothing", "/static/style.css", "/s/" + "x" * 22):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "script-src 'self'" in headers["content-security-policy"], path
    assert client.get("/login").headers["cache-control"] == "no-store"


def test_a_device_cannot_write_what_is_anothers_by_its_record(web):
    """A record that is signed by one device, sent as another's or under another's session."""
    one, two = web.devices["cp-1"], web.devices["cp-2"]
    trusted = web.store.trusted()
    from evmeter_tools.backend import messages

    forged = one.record(9, "complete", 6_000_000, web.sid)
    with pytest.raises(messages.Untrusted):
        messages.read("cp-2", "rec", forged, trusted)
    renamed = forged.replace(one.key_id.encode(), two.key_id.encode())
    entry = messages.read("cp-2", "rec", renamed, trusted)
    assert entry.verdict == "bad" and not entry.facts
    web.store.add([entry])
    sessions = {(row.device, row.sid): row.state for row in _all(web.store, t.sessions)}
    assert sessions == {("cp-1", web.done): "complete", ("cp-1", web.sid): "open"}


def test_the_pages_load_nothing_from_elsewhere(made):
    from evmeter_tools.web import server

    for path in sorted(server._HERE.glob("static/*")) + sorted(server._HERE.glob("templates/*")):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, path
        assert path.suffix != ".html" or "<script>" not in text, path
        assert "innerHTML" not in text and "eval(" not in text, path
