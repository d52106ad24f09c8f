"""From sessions to CDRs: exact money, gap energy, corrections; other people's models and
verifiers have the last word."""

import base64
import errno
import json
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from evmeter_tools.backend import messages
from evmeter_tools.backend.store import Store
from evmeter_tools.billing import cdr as cdrs
from evmeter_tools.billing import folder as cdr_folder
from evmeter_tools.billing import ocpi
from evmeter_tools.billing.cdr import Billing
from evmeter_tools.billing.folder import CdrFolder
from evmeter_tools.billing.gaps import CONFIRMED, PENDING, WAIVED, GapDecisions, GapFile, gap_rows
from evmeter_tools.billing.party import Operator, read_operator
from evmeter_tools.billing.price import Cost, Held, OperatorTariff
from evmeter_tools.cli import main
from evmeter_tools.errors import UserError
from evmeter_tools.sample.device import SampleDevice
from evmeter_tools.web import insight
from test_cpy_sessions import BEGIN_MS, HOUR_S, USER, facts_of
from verifiers import pyocmf_accepts

ROOT = Path(__file__).resolve().parents[1]
NOW_MS = BEGIN_MS + 10**9
WINDOWS = [{"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 3974},
           {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2650}]
TARIFF = {"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": WINDOWS}
LOCATION = {
    "id": "yard", "address": "Lane 1", "city": "Town", "postal_code": "12345", "country": "DEU",
    "coordinates": {"latitude": "51.04759", "longitude": "13.72994"}, "evse_uid": "1",
    "evse_id": "DE*EVM*E1", "connector_id": "1", "connector_standard": "IEC_62196_T2",
    "connector_format": "SOCKET", "connector_power_type": "AC_3_PHASE"}


def operator(tariff=TARIFF, **more):
    return Operator({
        "country_code": "DE", "party_id": "EVM", "tariffs": [{"id": "dn", **tariff, **more}],
        "places": {"d-1": {"rated_w": 22000, "tariff": "dn", "location": LOCATION}},
        "tokens": {"04AABBCC": {"country_code": "NL", "party_id": "TNM",
                                "contract_id": "NL-TNM-C00000012-X"}}})


def device(**more):
    return SampleDevice("d-1", BEGIN_MS, tariff=TARIFF, evse_id="DE*EVM*E1", **more)


def session_of(sample):
    return facts_of(sample).sessions[-1]


def evening():
    """21:00 to 01:00 in Berlin: an hour by day, three by night, at 11 kW."""
    return device().run(13 * HOUR_S).plug(USER).charge(4 * HOUR_S, 11000).phase(
        "finished_estimated", 1800).unplug()


def gap(session_gap=True):
    """An hour at 4 kW with 100 s in between without power, in which 100 Wh flowed."""
    sample = device().plug(USER).charge(1800, 4000)
    if session_gap:
        sample.cut(100, 3600)
    return sample.charge(1800, 4000).unplug()


def euro(cdr, name="total_cost"):
    return cdr[name]["excl_vat"], cdr[name].get("incl_vat")


# -- money --

@pytest.mark.parametrize(("vat", "minor", "cost"), [
    ({}, 101, Cost(101, None)),
    ({"vat_permille": 190}, 100, Cost(100, 119)), ({"vat_permille": 190}, 50, Cost(50, 60)),
    ({"vat_permille": 190}, 0, Cost(0, 0)), ({"vat_permille": 0}, 7, Cost(7, 7)),
    ({"vat_permille": 190, "vat_included": True}, 119, Cost(100, 119)),
    ({"vat_permille": 190, "vat_included": True}, 100, Cost(84, 100)),
])
def test_vat_is_rounded_half_up_to_the_minor_unit(vat, minor, cost):
    assert OperatorTariff({"id": "t", **TARIFF, **vat}).with_vat(minor) == cost


def test_the_price_is_exact_and_the_devices_own():
    session = session_of(evening())
    tariff = operator().tariffs["dn"]
    parts = tariff.parts(session, with_gap=True)
    assert [(part.name, part.energy_wh, part.centiminor_per_kwh) for part in parts] == [
        ("day", 11_000, 3974), ("night", 33_000, 2650)]
    # 11 kWh x 39.74 ct + 33 kWh x 26.50 ct = 437.14 + 874.50 = 1311.64 ct
    assert tariff.energy_cost(parts) == 1312 == session.cost_info
    # as a sum rounded once: 0.4 ct twice would be nothing
    flat = OperatorTariff({"id": "t", "currency": "EUR", "zone": "UTC0", "windows": [
        {"name": "a", "from": "00:00", "to": "12:00", "centiminor_per_kwh": 40},
        {"name": "b", "from": "12:00", "to": "24:00", "centiminor_per_kwh": 60}]})
    session.segments = [(BEGIN_MS, 10**6), (BEGIN_MS + 12 * HOUR_S * 1000, 10**6)]
    session.split_ok, session.tariff_code = True, None
    assert flat.energy_cost(flat.parts(session, True)) == 1


def test_random_sessions_cost_what_their_drivers_were_shown():
    """Through changes of the clock, nights and power cuts: gap energy left out, the bill is the
    device's own sum, and so is the energy of each tariff."""
    choose = random.Random(7)
    tariff = operator().tariffs["dn"]
    split = gaps = 0
    for _ in range(120):
        begin_ms = BEGIN_MS + choose.choice((0, 33, 186)) * 86_400_000 + choose.randrange(10**8)
        sample = SampleDevice("d-1", begin_ms, tariff=TARIFF).plug()
        for _ in range(choose.randrange(1, 6)):
            sample.charge(choose.randrange(1, 12_000), choose.randrange(0, 22_000))
            if choose.random() < 0.4:
                sample.cut(choose.randrange(1, 181), choose.choice((0, 5000)))
        session = session_of(sample.unplug())
        assert session.ok and session.split_ok in (True, False)
        if not session.split_ok:  # the clock's change fell into a power cut
            continue
        parts = tariff.parts(session, with_gap=False)
        by = {}
        for part in parts:
            by[part.name] = by.get(part.name, 0) + part.energy_wh * 1000
        assert {name: mwh for name, mwh in by.items() if mwh} == session.by_tariff
        assert tariff.energy_cost(parts) == session.cost_info
        whole = sum(part.energy_wh for part in tariff.parts(session, with_gap=True))
        assert whole * 1000 == session.energy_mwh == sum(by.values()) + session.gap_mwh
        split += len(parts) > 1
        gaps += session.gap_mwh > 0
    assert split > 20 and gaps > 20


@pytest.mark.parametrize(("currency", "amount"), [
    ("EUR", "12.34"), ("JPY", "1234"), ("KWD", "1.234"), ("HUF", "12.34"),
    ("RWF", "1234"), ("XPF", "1234"), ("LYD", "1.234"), ("CLF", "0.1234")])
def test_minor_units_follow_the_currency(currency, amount):
    tariff = OperatorTariff({"id": "t", **TARIFF, "currency": currency})
    assert str(tariff.money(1234)) == amount


def test_a_meter_finer_than_a_watt_hour_is_billed_in_whole_ones():
    session = session_of(evening())
    session.segments = [(session.start_ms, 1_000_900), (session.start_ms + HOUR_S * 1000, 999)]
    parts = operator().tariffs["dn"].parts(session, True)
    assert [part.energy_wh for part in parts] == [1000, 1]  # 1001.899 Wh


# -- the CDR --

def test_a_cdr_says_what_was_signed():
    session = session_of(evening())
    cdr = Billing(operator(vat_permille=190, session_minor=50)).cdr(session, NOW_MS)
    assert euro(cdr) == (Decimal("13.62"), Decimal("16.21"))
    assert euro(cdr, "total_energy_cost") == (Decimal("13.12"), Decimal("15.61"))
    assert euro(cdr, "total_fixed_cost") == (Decimal("0.50"), Decimal("0.60"))
    assert cdr["total_energy"] == 44 and cdr["total_time"] == Decimal("4.5")
    assert cdr["total_parking_time"] == Decimal("0.5")
    assert cdr["id"] == cdr["session_id"] == session.sid
    assert (cdr["start_date_time"], cdr["end_date_time"]) == (
        "2026-09-22T19:00:00.000Z", "2026-09-22T23:30:00.000Z")
    day, night = cdr["charging_periods"]
    assert night["start_date_time"] == "2026-09-22T20:00:00.000Z"  # 22:00 in Berlin
    assert [dimension["volume"] for dimension in day["dimensions"]] == [11, 1, 0]
    assert [dimension["volume"] for dimension in night["dimensions"]] == [33, 3, Decimal("0.5")]
    assert cdr["cdr_token"] == {
        "country_code": "NL", "party_id": "TNM", "uid": "04AABBCC", "type": "RFID",
        "contract_id": "NL-TNM-C00000012-X"}
    assert [value["nature"] for value in cdr["signed_data"]["signed_values"]] == ["Start", "End"]
    assert "remark" not in cdr and cdr["meter_id"] == "S-d-1"


def test_text_and_back_changes_no_digit():
    cdr = Billing(operator(vat_permille=190)).cdr(session_of(evening()), NOW_MS)
    text = cdrs.text(cdr)
    assert cdrs.read(text) == cdr
    found = json.loads(text, parse_float=str, parse_int=str)
    assert found["total_cost"]["excl_vat"] == "13.12"
    with pytest.raises(UserError, match="no CDR"):
        cdrs.read(text.replace('"total_energy": 44', '"total_energy": 45'))


def test_after_a_change_of_the_key_only_records_of_the_new_one_go_out():
    sample = device().plug(USER).charge(HOUR_S).change_key(2).charge(HOUR_S).unplug()
    session = session_of(sample)
    data = Billing(operator()).cdr(session, NOW_MS)["signed_data"]
    assert [value["nature"] for value in data["signed_values"]] == ["End"]
    key = base64.b64decode(data["public_key"]).hex()
    assert key == sample.spki and pyocmf_accepts(key, data["signed_values"][0]["plain_data"])


def test_nobody_identified_is_an_ad_hoc_user():
    sample = device().plug().charge(HOUR_S, 4000).unplug()
    cdr = Billing(operator()).cdr(session_of(sample), NOW_MS)
    assert cdr["cdr_token"]["type"] == "AD_HOC_USER"
    assert cdr["cdr_token"]["uid"] == "d-1-000001" and euro(cdr)[1] is None


@pytest.mark.parametrize(("flags", "method"), [
    (["RFID_PLAIN"], "WHITELIST"), (["OCPP_AUTH"], "AUTH_REQUEST"), (["OCPP_RS_TLS"], "COMMAND"),
    ([], "WHITELIST")])
def test_how_the_user_was_authorised(flags, method):
    sample = device().plug({**USER, "IF": flags}).charge(HOUR_S, 4000).unplug()
    assert Billing(operator()).cdr(session_of(sample), NOW_MS)["auth_method"] == method


def _forge(session):
    session.billable, session.why_not = False, ("signature: does not belong to this text",)


def _times(**stamps):
    def change(session):
        for name, add_ms in stamps.items():
            stamp = getattr(session, name)
            object.__setattr__(stamp, "unix_ms", stamp.unix_ms + add_ms)
    return change


def _unknown_clock(session):
    object.__setattr__(session.start, "quality", "U")


@pytest.mark.parametrize(("change", "word"), [
    (_forge, "signature"), (_unknown_clock, "time is not known"),
    (_times(stop=10**10), "future"), (_times(start=14_370_000 + 1_800_000), "30 s long"),
    (_times(start=3 * HOUR_S * 1000), "faster"),
    (lambda session: setattr(session, "split_ok", False), "split"),
    (lambda session: setattr(session, "tariff_code", 1), "another tariff"),
    (lambda session: vars(session).update(device="d-2", sid="d-2-000001"), "no place"),
    (lambda session: session.user.update(ID="x" * 40), "longer than 36"),
    (lambda session: setattr(session, "sid", "../../d-1-000001"), "none that d-1 gives"),
    (lambda session: setattr(session, "sid", "d-2-000001"), "none that d-1 gives"),
])
def test_what_has_no_cdr_says_why(change, word):
    session = session_of(evening())
    Billing(operator()).cdr(session, NOW_MS)
    change(session)
    with pytest.raises(Held, match=word):
        Billing(operator()).cdr(session, NOW_MS)


@pytest.mark.parametrize(("file", "word"), [
    ({"location": None}, "no location"), ({"location": {**LOCATION, "city": ""}}, None),
    ({"location": {**LOCATION, "country": "DE"}}, "country"),
    ({"token": {"country_code": "NLD"}}, "country_code"), ({"token": {"type": "X"}}, "type"),
    ({"user": "J\u00fcrgen"}, "ASCII"), ({"user": "x\x7f"}, "ASCII")])
def test_what_is_wrong_with_one_session_keeps_no_other_from_its_cdr(file, word, tmp_path):
    config = {
        "country_code": "DE", "party_id": "EVM", "tariffs": [{"id": "dn", **TARIFF}],
        "places": {"d-1": {"rated_w": 22000, "tariff": "dn",
                           "location": file.get("location", LOCATION)}},
        "tokens": {"04AABBCC": file.get("token", {})}}
    session = session_of(evening())
    session.user["ID"] = file.get("user", "04AABBCC")
    put = CdrFolder(tmp_path).put
    if word is None:
        assert put(Billing(Operator(config)), session, NOW_MS) == "made"
        return
    with pytest.raises(Held, match=word):
        put(Billing(Operator(config)), session, NOW_MS)


def test_a_suspicious_session_is_billed_once_somebody_looked_at_it():
    session = session_of(device().plug().charge(50, 11000).unplug())
    with pytest.raises(Held, match="50 s long"):
        Billing(operator()).cdr(session, NOW_MS)
    for billing in (Billing(operator(), accepted=[session.sid]), Billing(operator(), least_s=50)):
        assert billing.cdr(session, NOW_MS)["total_energy"] == Decimal("0.152")


def test_no_id_leads_out_of_the_folder(tmp_path):
    session = session_of(evening())
    session.sid = "../../x"
    folder = CdrFolder(tmp_path / "a" / "cdrs")
    for call in (folder.put, folder.correct):
        with pytest.raises(Held, match="no name for a file"):
            call(Billing(operator()), session, NOW_MS)


def test_records_of_another_evse_are_held():
    sample = SampleDevice("d-1", BEGIN_MS, tariff=TARIFF, evse_id="DE*EVM*E2")
    with pytest.raises(Held, match=r"DE\*EVM\*E2"):
        Billing(operator()).cdr(session_of(sample.plug().charge(HOUR_S).unplug()), NOW_MS)


def test_an_open_or_small_session_is_held():
    for sample in (device().plug().charge(HOUR_S), device().plug().charge(30, 4000).unplug()):
        with pytest.raises(Held, match=r"not ended|not billable"):
            Billing(operator()).cdr(session_of(sample), NOW_MS)


@pytest.mark.parametrize("unsplit", ["hold", "cheapest"])
def test_energy_without_a_split(unsplit):
    """A device without the tariff that the operator bills by: the signed registers tell the split
    only where the whole session lies in one window."""
    plain = SampleDevice("d-1", BEGIN_MS, evse_id="DE*EVM*E1")
    inside = session_of(plain.plug().charge(HOUR_S, 4000).unplug())
    billing = Billing(operator(), unsplit=unsplit)
    assert euro(billing.cdr(inside, NOW_MS))[0] == Decimal("1.59")  # 4 kWh by day
    across = session_of(plain.run(12 * HOUR_S + 1800).plug().charge(2 * HOUR_S, 4000).unplug())
    if unsplit == "hold":
        with pytest.raises(Held, match="has not measured"):
            billing.cdr(across, NOW_MS)
    else:
        cdr = billing.cdr(across, NOW_MS)
        assert euro(cdr)[0] == Decimal("2.12") and "lowest price" in cdr["remark"]


def test_corrected_times_are_used_and_said():
    sample = SampleDevice("d-1", BEGIN_MS - 10**9, quality="U", evse_id="DE*EVM*E1")
    sample.plug().charge(600, 6000).set_clock(10**9).charge(HOUR_S, 6000).unplug()
    flat = [{"name": "all", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 4000}]
    cdr = Billing(operator({**TARIFF, "windows": flat})).cdr(session_of(sample), NOW_MS)
    assert cdr["start_date_time"].startswith("2026-09-22T06:00:00")
    assert "times corrected" in cdr["remark"]


# -- gap energy --

def test_gap_energy_is_in_no_cdr_before_the_operator_says_so():
    session = session_of(gap())
    assert (session.energy_mwh, session.gap_mwh) == (4_100_000, 100_000)
    decisions = GapDecisions()
    assert gap_rows([session], decisions) == [(session, PENDING)]
    before = Billing(operator(), decisions).cdr(session, NOW_MS)
    assert before["total_energy"] == 4 and "not billed" in before["remark"]
    with pytest.raises(Held, match="100000 mWh"):
        Billing(operator(), decisions, gap="hold").cdr(session, NOW_MS)
    decisions.decide("d-1", session.sid, 99_999, CONFIRMED)  # of another amount
    assert Billing(operator(), decisions).cdr(session, NOW_MS) == before
    decisions.decide("d-1", session.sid, 100_000, WAIVED)
    assert Billing(operator(), decisions, gap="hold").cdr(session, NOW_MS) == before
    decisions.decide("d-1", session.sid, 100_000, CONFIRMED)
    after = Billing(operator(), decisions).cdr(session, NOW_MS)
    assert after["total_energy"] == Decimal("4.1") and "confirmed" in after["remark"]
    assert euro(after)[0] > euro(before)[0]


def test_a_session_of_nothing_but_gap_energy_costs_no_fee_before_it_is_confirmed():
    session = session_of(gap())
    session.gap_mwh = session.energy_mwh
    session.gaps = []
    decisions = GapDecisions()
    for decision in (PENDING, WAIVED):
        if decision != PENDING:
            decisions.decide("d-1", session.sid, session.gap_mwh, decision)
        with pytest.raises(Held, match="all of its energy is gap energy"):
            Billing(operator(), decisions).cdr(session, NOW_MS)
    decisions.decide("d-1", session.sid, session.gap_mwh, CONFIRMED)
    assert Billing(operator(), decisions).cdr(session, NOW_MS)["total_energy"] == Decimal("4.1")


@pytest.mark.parametrize(("gaps", "ended_by", "day_wh", "night_wh"), [
    ([(10, 100_000)], "E", 10_900, 33_000), ([(2 * HOUR_S, 100_000)], "E", 11_000, 32_900),
    ([(10, 60_000), (2 * HOUR_S, 40_000)], "E", 10_940, 32_960),
    ([(10, 60_000)], "P", 10_940, 32_960),  # the rest flowed before the end
    ([(10, 60_000)], "E", 10_900, 33_000),  # the events do not add up: the dearest first
    ([], "E", 10_900, 33_000), ([(10, 10**9)], "E", 10_900, 33_000),
])
def test_gap_energy_comes_out_of_the_window_it_flowed_in(gaps, ended_by, day_wh, night_wh):
    session = session_of(evening())
    session.gap_mwh, session.ended_by = 100_000, ended_by
    session.gaps = [(session.start_ms + at_s * 1000, mwh) for at_s, mwh in gaps]
    parts = operator().tariffs["dn"].parts(session, with_gap=False)
    assert [part.energy_wh for part in parts] == [day_wh, night_wh]


def test_decisions_last_in_their_file(tmp_path):
    path = tmp_path / "gaps.jsonl"
    GapFile(path).write("d-1", "s", 5, CONFIRMED, "me", 1)
    GapFile(path).write("d-1", "s", 5, WAIVED, "me", 2)
    again = GapFile(path)
    assert again.decision("d-1", "s", 5) == WAIVED and again.decision("d-1", "s", 6) == PENDING
    assert len(path.read_text().splitlines()) == 2
    for text in ("x\n", '{"device":"d"}\n', '[]\n'):
        path.write_text(text)
        with pytest.raises(UserError, match="JSON lines"):
            GapFile(path)
    with pytest.raises(UserError, match="decision"):
        GapDecisions().decide("d", "s", 1, "perhaps")


# -- corrections --

def test_a_correction_is_a_credit_cdr_and_a_new_one(tmp_path):
    session = session_of(gap())
    folder, decisions = CdrFolder(tmp_path / "cdrs"), GapDecisions()
    billing = Billing(operator(vat_permille=190), decisions)
    assert folder.put(billing, session, NOW_MS) == "made"
    assert folder.put(billing, session, NOW_MS + 5) == "there"
    with pytest.raises(UserError, match="nothing to correct"):
        folder.correct(billing, session, NOW_MS)
    decisions.decide("d-1", session.sid, session.gap_mwh, CONFIRMED)
    assert folder.put(billing, session, NOW_MS) == "differs"
    credit, new = [cdrs.read(path.read_text())
                   for path in folder.correct(billing, session, NOW_MS + 10)]
    first = cdrs.read((folder.path / (session.sid + ".json")).read_text())
    assert (credit["id"], credit["credit_reference_id"], credit["credit"]) == (
        first["id"] + "-C", first["id"], True)
    assert credit["total_cost"] == {name: -value for name, value in first["total_cost"].items()}
    different = {name for name in {*credit, *first} if credit.get(name) != first.get(name)}
    assert different == {"id", "credit", "credit_reference_id", "total_cost", "last_updated"}
    assert new["id"] == session.sid + "-2" and "credit" not in new
    assert folder.put(billing, session, NOW_MS) == "there"
    assert folder.correct(billing, session, NOW_MS, replace=False)[0].stem == new["id"] + "-C"
    assert folder.put(billing, session, NOW_MS) == "credited"
    with pytest.raises(UserError, match="no CDR in force"):
        folder.correct(billing, session, NOW_MS, replace=False)
    with pytest.raises(UserError, match="credit CDR"):
        cdrs.credit(credit, NOW_MS)
    # credited is not billed for ever; so it stands where a correction was broken off, too
    again, = folder.correct(billing, session, NOW_MS)
    assert again.stem == session.sid + "-3" and folder.put(billing, session, NOW_MS) == "there"


# -- tariffs of OCPI --

def test_a_cdr_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk in the middle of one: the next run makes it, and no file is in its way."""
    session, folder = session_of(evening()), CdrFolder(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(cdr_folder.os, "fsync", _full_disk)
        with pytest.raises(UserError, match="No space"):
            folder.put(Billing(operator()), session, NOW_MS)
    assert not list(tmp_path.iterdir())
    assert folder.put(Billing(operator()), session, NOW_MS) == "made"
    text = (tmp_path / "d-1-000001.json").read_text()
    with pytest.raises(UserError, match="exists"):
        folder._write({**cdrs.read(text), "currency": "SEK"})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("d-1-000001.json", text)]


def _full_disk(_number):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_tariff_elements_price_each_instant_as_the_device_does():
    tariff = OperatorTariff({"id": "t", "vat_permille": 190, "currency": "EUR", "zone": "UTC0",
                             "windows": [
        {"name": "work", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000,
         "days": ["mon", "tue", "wed", "thu", "fri"], "season": ["10-01", "03-31"]},
        {"name": "calm", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000,
         "days": ["mon", "tue", "wed", "thu", "fri"], "season": ["10-01", "03-31"]},
        {"name": "free", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 1000,
         "days": ["sat", "sun"], "season": ["10-01", "03-31"]},
        {"name": "summer", "from": "00:00", "to": "24:00", "centiminor_per_kwh": 3000,
         "season": ["04-01", "09-30"]}]})
    found = tariff.ocpi("DE", "EVM", [2026, 2027], "2026-01-01T00:00:00Z")
    assert ocpi.tariff_faults(found) == []
    for at_s in range(1_767_225_600, 1_830_297_600, 7211):  # 2026 and 2027
        expected = Decimal(tariff.device.price(tariff.device.window_at(at_s))) / 10_000
        assert _ocpi_price(found, at_s) == expected, at_s


def _ocpi_price(tariff, at_s):
    """The price of energy at an instant by OCPI's rule: the first element that applies."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(at_s, UTC)
    day, clock = at.strftime("%Y-%m-%d"), at.strftime("%H:%M")
    for element in tariff["elements"]:
        rule = element.get("restrictions", {})
        end = rule.get("end_time", "24:00")
        if (rule.get("start_date", "") <= day < rule.get("end_date", "9")
                and rule.get("start_time", "") <= clock < ("24:00" if end == "00:00" else end)
                and at.strftime("%A").upper() in rule.get("day_of_week", ocpi.DAYS)):
            return element["price_components"][0]["price"]
    return None


@pytest.mark.parametrize(("change", "word"), [
    ({"id": ""}, "id"), ({"id": "x" * 37}, "id"), ({"session_minor": -1}, "session_minor"),
    ({"vat_permille": "19"}, "vat_permille"), ({"vat_included": True}, "needs"),
    ({"windows": []}, "windows"), ({"colour": 1}, "unknown field colour"), ({"zone": "?"}, "zone"),
])
def test_a_wrong_tariff_is_one_clear_line(change, word):
    with pytest.raises(UserError, match=word):
        OperatorTariff({"id": "t", **TARIFF, **change})


@pytest.mark.parametrize(("change", "word"), [
    ({"country_code": "D"}, "country_code"), ({"party_id": "LONG"}, "party_id"),
    ({"places": []}, "places"), ({"places": {"d": {}}}, "rated_w"),
    ({"places": {"d": {"rated_w": 1, "tariff": "none"}}}, "allowed: dn"),
    ({"tariffs": {}}, "tariffs"), ({"tokens": {"x": "y"}}, "tokens.x"),
    ({"places": {"d": {"rated_w": 1, "tariff": [{"from_s": 9, "id": "dn"},
                                                {"from_s": 0, "id": "dn"}]}}}, "oldest first"),
])
def test_a_wrong_operators_file_is_one_clear_line(change, word, tmp_path):
    config = {"country_code": "DE", "party_id": "EVM", "tariffs": [{"id": "dn", **TARIFF}]}
    path = tmp_path / "operator.json"
    path.write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=word):
        read_operator(path)


@pytest.mark.parametrize(("begin_ms", "years"), [
    (1767222600000, {"2026"}),  # 2025-12-31 23:10 UTC: ten past midnight in Berlin
    (1767220200000, {"2025", "2026"}), (1767216600000, {"2025"})])
def test_tariff_elements_are_those_of_the_local_years(begin_ms, years):
    seasons = {**TARIFF, "windows": [
        {"name": name, "from": "00:00", "to": "24:00", "centiminor_per_kwh": price,
         "season": season} for name, price, season in (
             ("winter", 4000, ["10-01", "03-31"]), ("summer", 2000, ["04-01", "09-30"]))]}
    sample = SampleDevice("d-1", begin_ms, tariff=seasons, evse_id="DE*EVM*E1")
    cdr = Billing(operator(seasons)).cdr(
        session_of(sample.plug().charge(2400, 6000).unplug()), NOW_MS)
    summers = [element["restrictions"] for element in cdr["tariffs"][0]["elements"]
               if element["price_components"][0]["price"] == Decimal("0.2")]
    assert {each["start_date"][:4] for each in summers} == years


def test_a_tariff_holds_from_its_day_on():
    config = {"country_code": "DE", "party_id": "EVM",
              "tariffs": [{"id": "old", **TARIFF}, {"id": "new", **TARIFF}],
              "places": {"d": {"rated_w": 1, "tariff": [{"from_s": 100, "id": "old"},
                                                        {"from_s": 200, "id": "new"}]}}}
    found = Operator(config)
    assert [found.tariff("d", at_s).id for at_s in (100, 199, 200)] == ["old", "old", "new"]
    with pytest.raises(Held, match="no tariff then"):
        found.tariff("d", 99)


# -- what others say --

def every_cdr():
    """CDRs of all kinds."""
    hours = [*range(16), 24]
    each = {"currency": "EUR", "zone": "UTC0", "windows": [
        {"name": "ab"[hour % 2], "from": "%02d:00" % hour, "to": "%02d:00" % hours[hour + 1],
         "centiminor_per_kwh": 2000 + 100 * (hour % 2)} for hour in hours[:-1]]}
    long_day = SampleDevice("d-1", BEGIN_MS, tariff=each, evse_id="DE*EVM*E1")
    long_session = session_of(long_day.plug(USER).charge(22 * HOUR_S, 3000).unplug())
    billing = Billing(operator(vat_permille=190, session_minor=50), receipt=lambda d, s:
                      "https://example.com/%s/%s" % (d, s))
    found = [billing.cdr(session_of(sample), NOW_MS)
             for sample in (evening(), gap(), gap(False))]
    found.append(Billing(operator(each)).cdr(long_session, NOW_MS))
    found.append(cdrs.credit(found[0], NOW_MS))
    return found


def test_other_peoples_models_take_every_cdr():
    texts = [json.dumps(json.loads(cdrs.text(cdr))) for cdr in every_cdr()]
    wrong = json.loads(texts[0])
    del wrong["cdr_token"]
    long = json.loads(texts[0])
    long["cdr_location"]["city"] = "x" * 46
    done = subprocess.run(
        [sys.executable, str(ROOT / "host_tests/ocpi_models.py"), str(ROOT / "build/ocpi")],
        input="\n".join([*texts, json.dumps(wrong), json.dumps(long)]), capture_output=True,
        text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:len(texts)] == ["ok"] * len(texts)
    assert "cdr_token" in lines[-2] and "city" in lines[-1]


def test_pyocmf_takes_every_record_of_a_cdr():
    kinds = set()
    for cdr in every_cdr():
        key = base64.b64decode(cdr["signed_data"]["public_key"]).hex()
        for value in cdr["signed_data"]["signed_values"]:
            assert base64.b64decode(value["signed_data"]).decode() == value["plain_data"]
            assert pyocmf_accepts(key, value["plain_data"])
            assert not pyocmf_accepts(key, value["plain_data"].replace("SDM120", "SDM121"))
            kinds.add(value["nature"])
    assert kinds == {"Start", "End", "Intermediate"}


_BROKEN = {
    "no id": lambda cdr: cdr.pop("id"),
    "an id too long for no credit": lambda cdr: cdr.update(id="x" * 37),
    "a field of one's own": lambda cdr: cdr.update(extra=1),
    "no periods": lambda cdr: cdr.update(charging_periods=[]),
    "a float": lambda cdr: cdr.update(total_energy=44.0),
    "five decimals": lambda cdr: cdr.update(total_time=Decimal("4.50001")),
    "energy that is no sum": lambda cdr: cdr.update(total_energy=Decimal(45)),
    "time that is no sum": lambda cdr: cdr.update(total_time=Decimal(4)),
    "parking that is no sum": lambda cdr: cdr.update(total_parking_time=Decimal(0)),
    "a cost below nothing": lambda cdr: cdr.update(total_cost={"excl_vat": Decimal(-1)}),
    "a credit without what it credits": lambda cdr: cdr.update(credit=True),
    "a reference without credit": lambda cdr: cdr.update(credit_reference_id="x"),
    "a time with an offset": lambda cdr: cdr.update(end_date_time="2026-09-22T23:30:00+02:00"),
    "no calendar day": lambda cdr: cdr.update(end_date_time="2026-02-30T23:30:00Z"),
    "an end before the beginning": lambda cdr: cdr.update(end_date_time="2026-09-22T19:30:00Z"),
    "no currency": lambda cdr: cdr.update(currency="Euro"),
    "no plug of OCPI": lambda cdr: cdr["cdr_location"].update(connector_standard="SCHUKO"),
    "coordinates as a number": lambda cdr: cdr["cdr_location"]["coordinates"].update(latitude=51),
    "a period before the session": lambda cdr: cdr["charging_periods"][0].update(
        start_date_time="2026-09-22T18:59:59.000Z"),
    "signed data that is no base64": lambda cdr: cdr["signed_data"]["signed_values"][0].update(
        signed_data="OCMF|"),
    "no step": lambda cdr: cdr["tariffs"][0]["elements"][0]["price_components"][0].pop(
        "step_size"),
}


@pytest.mark.parametrize("name", sorted(_BROKEN))
def test_our_own_rules_refuse(name):
    cdr = Billing(operator(vat_permille=190)).cdr(session_of(evening()), NOW_MS)
    assert ocpi.faults(cdr) == []
    _BROKEN[name](cdr)
    assert ocpi.faults(cdr)
    with pytest.raises(UserError, match="OCPI"):
        cdrs.checked(cdr)


# -- the command --

def test_the_command_from_the_store_to_files(tmp_path, capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evmeter", "cdr", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    store = Store(tmp_path / "db.sqlite")
    sample = gap()
    sample.run(60).plug().charge(20, 4000).unplug().plug().charge(60)
    sample.store(store)
    store.close()
    config = {"country_code": "DE", "party_id": "EVM", "tariffs": [{"id": "dn", **TARIFF}],
              "places": {"d-1": {"rated_w": 22000, "tariff": "dn", "location": LOCATION}}}
    (tmp_path / "operator.json").write_text(json.dumps(config))
    common = ["--db", str(tmp_path / "db.sqlite"), "--decisions", str(tmp_path / "gaps.jsonl")]
    make = ["make", "--operator", str(tmp_path / "operator.json"), "--out",
            str(tmp_path / "cdrs"), *common]
    code, said = run(*make)
    assert code == 0 and "1 CDRs written" in said.out and "1 held" in said.out
    assert "not billable" in said.out
    code, said = run(*make, "--json")
    assert {name: len(rows) for name, rows in json.loads(said.out).items()} == {
        "made": 0, "there": 1, "differs": 0, "credited": 0, "held": 1}
    code, said = run("gaps", *common)
    assert "0.100 kWh of" in said.out and said.out.endswith("pending\n")
    assert all(len(line) <= 80 for line in said.out.splitlines())
    code, said = run("gaps", *common, "--confirm", "d-1-000001")
    assert code == 2 and "--by" in said.err
    code, said = run("gaps", *common, "--confirm", "d-1-000001", "--by", "A. Operator", "--json")
    assert json.loads(said.out)[0]["decision"] == "confirmed"
    code, said = run(*make)
    assert "evmeter cdr correct" in said.out
    code, said = run("correct", "d-1-000001", *make[1:])
    assert code == 0 and len(said.out.splitlines()) == 2
    assert sorted(path.stem for path in (tmp_path / "cdrs").iterdir()) == [
        "d-1-000001", "d-1-000001-2", "d-1-000001-C"]
    for words in (["correct", "nobody", *make[1:]], [*make, "--gap", "x"],
                  ["make", "--operator", "none", "--out", "x", *common],
                  ["gaps", "--db", str(tmp_path / "none.sqlite")],
                  ["gaps", *common, "--confirm", "d-1-000003", "--by", "x"]):
        code, said = run(*words)
        assert code == 2 and len(said.err.splitlines()) == 1, words


def test_what_was_decided_on_a_page_counts_for_the_command_and_back(
        tmp_path, capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evmeter", "cdr", *words, "--db", db, "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    db = str(tmp_path / "db.sqlite")
    store = Store(db)
    sample = gap()
    sample.store(store)
    # a charger that signs what is the other's, and comes first by its name
    other = device(secret=9).plug().charge(1800, 4000).cut(100, 7200).charge(600, 4000).unplug()
    store.enrol("a-1", other.key_id, other.spki)
    store.add([messages.read("a-1", stream, payload, store.trusted())
               for stream, payload in other.messages])
    assert insight.decide(store, "d-1", "d-1-000001", "confirmed", "ann") == 100_000
    (tmp_path / "operator.json").write_text(json.dumps({
        "country_code": "DE", "party_id": "EVM", "tariffs": [{"id": "dn", **TARIFF}],
        "places": {name: {"rated_w": 22000, "tariff": "dn", "location": LOCATION}
                   for name in ("a-1", "d-1")}}))
    made = run("make", "--operator", str(tmp_path / "operator.json"), "--out", str(tmp_path))
    assert [row["sid"] for row in made["made"]] == ["d-1-000001"]
    cdr = cdrs.read((tmp_path / "d-1-000001.json").read_text())
    assert cdr["total_energy"] == Decimal("4.1")
    rows = run("gaps", "--waive", "d-1-000001", "--by", "A. Operator")
    told = {row["device"]: row["decision"] for row in insight.gap_rows(store)}
    assert told == {"a-1": PENDING, "d-1": WAIVED} == {
        row["device"]: row["decision"] for row in rows}
    store.close()
