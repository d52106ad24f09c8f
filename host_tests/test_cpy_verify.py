"""`evmeter verify`: each refusal, by a record that is signed rightly and says a wrong thing."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import utils
from typer.testing import CliRunner

from evmeter.ledger import ocmf
from evmeter_tools.cli import app
from evmeter_tools.errors import UserError
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from evmeter_tools.verify.sessions import check_session
from forge import Forge, reading

_B = (0, "B", 100_000_000, {})
_E = (1, "E", 107_400_000, {})
_SID = "demo-0001-000001"


def _one(readings=(_B, _E), change=None, **fields):
    """The verdict over one record."""
    forge = Forge()
    return check_record(forge.record(readings, _SID, change, **fields), forge.spki)


def _all(*forges, whole=False):
    return check_all([check_record(text, forge.spki) for forge in forges for text in forge.texts],
                     is_whole=whole)


def _reasons(report):
    return " / ".join(report.reasons + [reason for part in report.sessions + report.records
                                        for reason in part.reasons])


def test_what_the_forge_makes_holds_unless_it_is_told_otherwise():
    forge = Forge()
    for number in range(3):
        forge.session(number + 1, 2 * number, 100_000_000 + 8_000_000 * number)
    report = _all(forge, whole=True)
    assert report.ok and not report.notes, (_reasons(report), report.notes)
    assert [session.energy_mwh for session in report.sessions] == [7_400_000] * 3
    assert all(session.billable for session in report.sessions)


_LOSS = {"LN": "cable", "LI": 1, "LR": 3, "LU": "mOhm"}
_T = (0.5, "T", 103_000_000, {})


@pytest.mark.parametrize(("said", "readings", "fields"), [
    ("unknown key AA", (_B, _E), {"AA": 1}),
    ("FV is missing", (_B, _E), {"FV": None}),
    ("FV is missing or not 0.1 to 1.3", (_B, _E), {"FV": "1.4"}),
    ("PG is not T or F and a number", (_B, _E), {"PG": "T01"}),
    ("PG is not T or F and a number", (_B, _E), {"PG": None}),
    ("PG is not of the transaction counter T", (_B, _E), {"PG": "F1"}),
    ("MS, the meter's serial number", (_B, _E), {"MS": None}),
    ("MV is no text", (_B, _E), {"MV": 3}),
    ("IS is missing", (_B, _E), {"IS": None}),
    ("IL OUTDATED says", (_B, _E), {"IL": "OUTDATED"}),
    ("IL 'ABSOLUTE' is not defined", (_B, _E), {"IL": "ABSOLUTE"}),
    ("IT is missing", (_B, _E), {"IT": None}),
    ("IF is no list", (_B, _E), {"IF": "RFID_PLAIN"}),
    ("IF has two flags of one group", (_B, _E), {"IF": ["RFID_PLAIN", "RFID_PSK"]}),
    ("ID is longer than 40", (_B, _E), {"ID": "1" * 41}),
    ("TT is longer than 250", (_B, _E), {"FV": "1.1", "TT": "x" * 251}),
    ("TT is no text", (_B, _E), {"FV": "1.1", "TT": 4}),
    ("CF is longer than 25", (_B, _E), {"FV": "1.3", "CF": "x" * 26}),
    ("CT is neither EVSEID nor CBIDC", (_B, _E), {"CT": "POLE"}),
    ("LC is not LR and LU", (_B, _E), {"FV": "1.2", "LC": {"LR": 3}}),
    ("LC is not LR and LU", (_B, _E), {"FV": "1.2", "LC": {**_LOSS, "LX": 3}}),
    ("LC is not LR and LU", (_B, _E), {"FV": "1.2", "LC": 3}),
    ("LR has the wrong type", (_B, _E), {"FV": "1.2", "LC": {**_LOSS, "LR": "3"}}),
    ("LU is neither mOhm", (_B, _E), {"FV": "1.2", "LC": {**_LOSS, "LU": "Ohm"}}),
    ("LN is longer than 20", (_B, _E), {"FV": "1.2", "LC": {**_LOSS, "LN": "x" * 21}}),
    ("ZP is not 32 hex digits", (_B, _E), {"ZP": "0" * 31}),
    ("ZG is no whole number", (_B, _E), {"ZG": -1}),
    ("ZB is neither 0 nor 1", (_B, _E), {"ZB": True}),
    ("ZQ is neither meter nor label", (_B, _E), {"ZQ": "guess"}),
    ("ZT is no number", (_B, _E), {"ZT": "2"}),
    ("ZS is no text", (_B, _E), {"ZS": 7}),
    ("ZS is not a session of the device", (_B, _E), {"GS": "demo-0002"}),
    ("RD has no readings", (), {}),
    ("RD has no readings", (_B, _E), {"RD": {}}),
    ("there is not exactly one begin reading, first", (_T, _B, _E), {}),
    ("there is not exactly one begin reading, first", (_B, _B, _E), {}),
    ("there is not exactly one end reading, last", (_B, _E, _E), {}),
    ("there is not exactly one end reading, last", (_B, _E, (1, "T", 107_400_000, {})), {}),
    ("neither a begin nor an end reading", ((1, "C", 107_400_000, {}),), {}),
    ("TX X: time or energy is not usable", (_B, (0.5, "X", 103_000_000, {}), _E), {}),
    ("the time goes back from B to E", (_B, (-1, "E", 107_400_000, {})), {}),
    ("the time goes back from T to E", (_B, (2, "T", 103_000_000, {}), _E), {}),
    ("the register goes back from B to E", (_B, (1, "E", 99_999_000, {})), {}),
    ("the register goes back from T to E", (_B, (0.5, "T", 107_401_000, {}), _E), {}),
    ("the register goes back from B to T", (_B, (0.5, "T", 99_999_000, {}), _E), {}),
    ("begin reading not believed: ST F", ((0, "B", 100_000_000, {"ST": "F"}), _E), {}),
    ("end reading not believed: ST T", (_B, (1, "E", 107_400_000, {"ST": "T"})), {}),
    ("tariff reading not believed: ST O", (_B, (0.5, "T", 103_000_000, {"ST": "O"}), _E), {}),
    ("end reading: EF says", (_B, (1, "E", 107_400_000, {"EF": "E"})), {}),
    ("begin has a relative time", ((0, "B", 100_000_000, {
        "TM": "2027-01-15T08:00:00,000+0000 R"}), _E), {}),
    ("RI differs between B and E", (_B, (1, "E", 107_400_000, {"RI": "01-00:B2.08.00*FF"})), {}),
    ("RT differs between B and E", (_B, (1, "E", 107_400_000, {"RT": "DC"})), {}),
    ("is no billing register", (_B, (1, "E", 107_400_000, {"RI": "01-00:02.08.00*FF"})), {}),
    ("RI missing", (_B, (1, "E", 107_400_000, {"RI": None})), {}),
    ("TM missing", (_B, (1, "E", 107_400_000, {"TM": None})), {}),
    ("not YYYY-MM-DD", (_B, (1, "E", 107_400_000, {"TM": "2027-01-15T09:00:00Z I"})), {}),
    ("no time of the calendar", (_B, (1, "E", 107_400_000, {
        "TM": "2027-02-30T09:00:00,000+0000 I"})), {}),
    ("RU 'MWh' is neither kWh nor Wh", (_B, (1, "E", 107_400_000, {"RU": "MWh"})), {}),
    ("TX 'Q' is not defined", (_B, (1, "Q", 107_400_000, {})), {}),
    ("ST 'Q' is not defined", (_B, (1, "E", 107_400_000, {"ST": "Q"})), {}),
    ("unknown key QQ", (_B, (1, "E", 107_400_000, {"QQ": 1})), {}),
])
def test_a_record_that_is_signed_and_wrong_is_refused(said, readings, fields):
    verdict = _one(readings, **fields)
    assert verdict.signature is True
    assert not verdict.ok and not verdict.complete
    assert said in " / ".join(verdict.reasons), verdict.reasons


@pytest.mark.parametrize(("readings", "fields"), [
    ((_B, _E), {}),
    ((_B, _T, _E), {}),
    ((_B, (0, "T", 100_000_000, {}), (1, "T", 107_400_000, {}), _E), {}),
    ((_B, _E), {"FV": "1.3", "TT": "x" * 250, "CF": "1", "LC": _LOSS, "CT": "EVSEID"}),
    ((_B, _E), {"FV": "1.2", "LC": {"LR": 3, "LU": "uOhm"}}),
    ((_B, (0, "E", 100_000_000, {})), {"ZG": 0, "ZB": 0}),
    ((_B, (1, "E", 107_400_000, {"EF": "t"})), {}),
    ((_B, _E), {"GI": None, "GS": None, "GV": None, "ZQ": None}),
])
def test_what_lies_just_inside_the_rules_holds(readings, fields):
    verdict = _one(readings, **fields)
    assert verdict.ok and verdict.complete, verdict.reasons


@pytest.mark.parametrize(("said", "fields"), [
    ("not billable", {"ZB": 0}), ("20000 mWh flowed unseen", {"ZG": 20000}),
    ("from its label", {"ZQ": "label"}), ("FV 1.0 does not define TT yet; 1.1 does", {"TT": "x"}),
])
def test_what_a_reader_should_know_is_a_note(said, fields):
    verdict = _one(**fields)
    assert verdict.ok and said in " / ".join(verdict.notes)


def test_a_signature_of_another_key_or_over_another_text_is_refused():
    forge, other = Forge(), Forge(secret=8)
    text = forge.record((_B, _E), _SID)
    assert check_record(text, forge.spki).ok
    for wrong in (check_record(text, other.spki), check_record(text, None),
                  check_record(text.replace("107.400", "108.400"), forge.spki),
                  check_record(text.replace('"ZS"', '"ZT"'), forge.spki)):
        assert not wrong.ok and "signature" in " / ".join(wrong.reasons)


def test_the_same_text_with_its_signature_taken_from_another_record_is_refused():
    forge = Forge()
    first, second = forge.record((_B, _E), _SID), forge.record((_B, _E), _SID)
    mixed = first.rpartition("|")[0] + "|" + second.rpartition("|")[2]
    assert check_record(mixed, forge.spki).signature is False


# -- sessions --


def _session(*records):
    """The session of records ((readings, fields), ...) on successive pages."""
    forge = Forge()
    for readings, fields in records:
        forge.record(readings, _SID, **fields)
    return check_session([check_record(text, forge.spki) for text in forge.texts], _SID)


_BEGIN = ((_B,), {})
_COMPLETE = ((_B, _E), {"ZB": 1})


@pytest.mark.parametrize(("said", "records"), [
    ("MS differs between T1, T2", (_BEGIN, ((_B, _E), {"MS": "87654321"}))),
    ("GS differs between T1, T2", (_BEGIN, ((_B, _E), {"GS": "demo-0002"}))),
    ("MF differs between T1, T2", (_BEGIN, ((_B, _E), {"MF": "2"}))),
    ("ID differs between T1, T2", (_BEGIN, ((_B, _E), {"ID": "ABCD"}))),
    ("CI differs between T1, T2", (_BEGIN, ((_B, _E), {"CT": "EVSEID", "CI": "DE*1"}))),
    ("TT differs between T1, T2", (_BEGIN, ((_B, _E), {"FV": "1.1", "TT": "free"}))),
    ("T2 to T4 are missing", (_BEGIN, ((_B, _E), {"PG": "T5"}))),
    ("T2 is missing", (_BEGIN, ((_B, _E), {"PG": "T3"}))),
    ("page T1 was given out twice", (_BEGIN, ((_B, _E), {"PG": "T1"}))),
    ("the begin record T2 is not the first", (_COMPLETE, _BEGIN)),
    ("T2 does not follow T1: ZP names another", (_BEGIN, ((_B, _E), {"ZP": "1" * 32}))),
    ("T2 names no record before it", (_BEGIN, ((_B, _E), {"ZP": None}))),
    ("more than one begin or complete", (_BEGIN, _COMPLETE, _COMPLETE)),
    ("the begin reading differs between T1, T2",
     (_BEGIN, (((0, "B", 100_001_000, {}), _E), {}))),
    ("the begin reading differs between T1, T2",
     (_BEGIN, (((0.1, "B", 100_000_000, {}), _E), {}))),
    ("neither a begin nor a complete record", (((_T,), {}),)),
    ("T2: neither begin, complete nor tariff record", (_BEGIN, (((1, "C", 1, {}),), {}))),
])
def test_records_that_do_not_make_a_session_are_refused(said, records):
    session = _session(*records)
    assert session.state == "broken" and not session.billable
    assert said in " / ".join(session.reasons), session.reasons


def test_two_keys_in_one_session_are_refused():
    forge, other = Forge(), Forge(secret=8)
    forge.record((_B,), _SID)
    other.page, other.previous = 2, forge.previous
    other.record((_B, _E), _SID)
    report = _all(forge, other)
    assert "the key differs between T1, T2" in _reasons(report)
    assert all(record.ok for record in report.records)


def test_records_of_one_session_under_two_serial_numbers_meet_in_it():
    for fields in ({"MS": "87654321"}, {"GS": "demo-0002"}):
        forge = Forge()
        forge.record((_B,), _SID)
        forge.record((_B, _E), _SID, **fields)
        report = _all(forge)
        assert len(report.sessions) == 1
        assert "differs between T1, T2" in _reasons(report)


# -- tariff records --


def _change(hours, mwh, **more):
    return hours, "T", mwh, more


_TARIFF = ((_change(0.2, 101_000_000), _change(0.4, 102_000_000)), {})


def test_tariff_records_on_the_next_pages_go_between_begin_and_end():
    later = ((_change(0.6, 103_000_000), _change(0.8, 104_000_000)), {})
    session = _session(_BEGIN, ((_B, _E), {"ZB": 1, "ZT": 4}), _TARIFF, later)
    assert session.ok and session.billable, session.reasons
    assert [each.mwh for each in session.changes] == [
        101_000_000, 102_000_000, 103_000_000, 104_000_000]
    # Readings that stand in the complete record itself come before those of the records behind it
    session = _session(_BEGIN, ((_B, _change(0.1, 100_500_000), _E), {}), _TARIFF)
    assert session.ok and len(session.changes) == 3, session.reasons
    # At the very edges
    session = _session(_BEGIN, _COMPLETE, ((_change(0, 100_000_000), _change(1, 107_400_000)), {}))
    assert session.ok, session.reasons


@pytest.mark.parametrize(("said", "complete", "tariffs"), [
    ("a tariff reading of T3 is out of order: the time", {}, (_change(-0.1, 101_000_000),)),
    ("a tariff reading of T3 is out of order: the register", {}, (_change(0.1, 99_999_000),)),
    ("a tariff reading lies behind the end: the time", {}, (_change(1.1, 101_000_000),)),
    ("a tariff reading lies behind the end: the register", {}, (_change(0.1, 107_401_000),)),
    ("leaves 3 tariff readings to tariff records, which have 2", {"ZT": 3}, _TARIFF[0]),
    ("leaves 1 tariff readings to tariff records, which have 0", {"ZT": 1}, None),
    ("RI of a tariff reading of T3 is another", {},
     (_change(0.1, 101_000_000, RI="01-00:B2.08.00*FF"),)),
])
def test_tariff_records_out_of_order_are_refused(said, complete, tariffs):
    records = [_BEGIN, ((_B, _E), complete)] + ([(tariffs, {})] if tariffs else [])
    session = _session(*records)
    assert not session.ok and said in " / ".join(session.reasons), session.reasons


@pytest.mark.parametrize(("said", "second"), [
    ("T4 is out of order: the time", (_change(0.3, 103_000_000),)),
    ("T4 is out of order: the time", (_change(0.4, 103_000_000),)),
    ("T4 is out of order: the register", (_change(0.6, 101_999_000),)),
    ("RU of a tariff reading of T4 is another",
     (_change(0.6, 103_000_000, RU="Wh", RV="103000000"),)),
])
def test_tariff_records_go_on_from_one_to_the_next(said, second):
    session = _session(_BEGIN, _COMPLETE, _TARIFF, (second, {}))
    assert all(record.ok for record in session.records)
    assert not session.ok and said in " / ".join(session.reasons), session.reasons


def test_a_tariff_record_between_two_others_is_missed():
    forge = Forge()
    for readings in ((_B,), (_B, _E), _TARIFF[0], (_change(0.6, 103_000_000),)):
        forge.record(readings, _SID)
    del forge.texts[2]
    assert "T3 is missing" in _reasons(_all(forge))


# -- a device's whole story --


def _story(edit, whole=False):
    forge = Forge()
    forge.session(1, 0, 100_000_000)
    forge.session(2, 2, 108_000_000)
    forge.session(3, 4, 116_000_000)
    edit(forge)
    return _all(forge, whole=whole)


def test_a_record_that_is_missing_between_sessions_is_a_note_or_a_fault_of_the_whole():
    report = _story(lambda forge: forge.texts.__delitem__(slice(2, 4)))
    assert report.ok and "T3 to T4 are missing" in " / ".join(report.notes)
    report = _story(lambda forge: forge.texts.__delitem__(slice(2, 4)), whole=True)
    assert not report.ok and "T3 to T4 are missing" in _reasons(report)
    report = _story(lambda forge: forge.texts.__delitem__(slice(0, 2)), whole=True)
    assert "the input begins with T3" in _reasons(report)
    report = _story(lambda forge: forge.texts.pop(3))
    assert "its complete record is missing, and later ones are in the input" in _reasons(report)


def test_a_whole_story_has_every_begin_record():
    forge = Forge()
    forge.record((_B, _E), _SID)
    assert _all(forge).ok and not _all(forge, whole=True).ok
    assert "its begin record is missing" in _reasons(_all(forge, whole=True))


def test_copies_are_harmless_and_order_in_the_input_is_too():
    report = _story(lambda forge: forge.texts.extend(reversed(forge.texts[:3])))
    assert report.ok and "3 record(s) stand in the input more than once" in report.notes
    assert _story(lambda forge: forge.texts.reverse()).ok


@pytest.mark.parametrize(("said", "start_h", "start_mwh", "page", "previous"), [
    ("page T2 was given out twice", 2, 108_000_000, 2, None),
    ("T3 does not follow T2: ZP names another", 2, 108_000_000, 3, "1" * 32),
    ("the register goes back from T2 to T3", 2, 107_000_000, 3, None),
    ("the time goes back from T2 to T3", 0.5, 108_000_000, 3, None),
])
def test_a_second_session_must_go_on_from_the_first(said, start_h, start_mwh, page, previous):
    forge = Forge()
    forge.session(1)
    forge.page, forge.previous = page, previous or forge.previous
    forge.session(2, start_h, start_mwh)
    report = _all(forge)
    assert all(record.ok for record in report.records)
    assert not report.ok and said in _reasons(report), _reasons(report)


def test_a_tariff_record_does_not_hide_a_register_that_goes_back():
    forge = Forge()
    forge.session(1)
    forge.record(_TARIFF[0], _SID)
    forge.session(2, 2, 107_000_000)
    assert "the register goes back from T2 to T4" in _reasons(_all(forge))


def test_time_without_a_clock_and_a_new_meter_are_notes():
    forge = Forge()
    forge.session(1)
    unset = {"TM": "2027-01-15T08:30:00,000+0000 U"}
    begin = (0, "B", 108_000_000, unset)
    forge.record((begin,), "demo-0001-000002")
    report = _all(forge)
    assert report.ok and "the time goes back from T2 to T3" in " / ".join(report.notes)
    forge = Forge()
    forge.session(1)
    forge.record(((2, "B", 5_000, {}),), "demo-0001-000002", MS="9")
    report = _all(forge)
    assert report.ok and "the meter changes from T2 to T3" in " / ".join(report.notes)


def test_a_second_key_that_nothing_explains_is_a_fault():
    forge = Forge()
    forge.session(1)
    other = Forge(secret=8, page=3)
    other.session(2, 2, 108_000_000)
    report = _all(forge, other)
    assert not report.ok and "demo-0001: signed by 2 keys" in _reasons(report)
    assert "no change of the key that both signed" in _reasons(report)
    enrolled = check_all(report.records, enrolled=True)
    assert enrolled.ok and "signed by 2 keys" in " / ".join(enrolled.notes)


def test_one_key_for_two_devices_is_a_fault():
    forge, other = Forge(), Forge(gateway="demo-0002")
    forge.session(1)
    other.session(1)
    report = _all(forge, other)
    assert "signs for more than one device: demo-0001, demo-0002" in _reasons(report)


def test_the_same_payload_signed_once_more_is_a_copy_and_no_second_record():
    forge = Forge()
    forge.session(1)
    twin = forge.sign(forge.texts[1].split("|")[1])
    assert twin != forge.texts[1]
    forge.texts.append(twin)
    report = _all(forge, whole=True)
    assert report.ok and len(report.sessions[0].records) == 2
    # (r, n - s) is a signature of the same text, too
    order = int("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551", 16)
    head, payload, section = forge.texts[0].split("|")
    r, s = utils.decode_dss_signature(bytes.fromhex(json.loads(section)["SD"]))
    forge.texts.append(payload.join(ocmf.envelope(utils.encode_dss_signature(r, order - s))))
    assert _all(forge, whole=True).ok


def test_more_unseen_energy_than_energy_and_a_first_record_that_is_not_the_first():
    assert "more than all of its energy" in " / ".join(_one(ZG=7_400_001).reasons)
    assert _one(ZG=7_400_000).ok
    forge = Forge()
    forge.previous = "ab" * 16
    forge.session(1)
    assert "T1 names a record before it" in _reasons(_all(forge))


# -- the command --


def _run(*arguments, text=None):
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)], input=text)
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_exit_codes_and_both_forms(tmp_path):
    forge = Forge()
    forge.session(1)
    forge.record(_TARIFF[0], _SID)
    lines = "".join(json.dumps({"ocmf": text, "spki": forge.spki.hex()}) + "\n"
                    for text in forge.texts)
    code, out = _run("-", "--whole", text=lines)
    assert code == 0 and all(len(line) <= 80 for line in out.splitlines())
    assert "tariff 2027-01-15T08:12:00,000+0000 I  T  101.000 kWh" in out
    code, out = _run("-", "--json", text=lines)
    found = json.loads(out)
    assert code == 0 and found["ok"] is True
    assert [each["mwh"] for each in found["sessions"][0]["tariff_changes"]] == [
        101_000_000, 102_000_000]
    code, out = _run("-", text=lines.replace("107.400", "207.400"))
    assert code == 1 and "FAILED" in out and "INVALID" in out
    for text in ("nothing", "{}", "OCMF|{}|{}", "<values>", ""):
        assert _run("-", text=text)[0] == 2, text
    assert _run(tmp_path / "no-such-file")[0] == 2
    assert _run("-", "--key", "no-such-key", text=lines)[0] == 2
    code, out = _run("--help")
    assert "Exit code 0" in out and "Example" in out


def test_text_as_a_qr_code_has_it_brings_its_key():
    forge = Forge()
    forge.session(1)
    text = "".join("%s\n%s\n" % (record, forge.spki.hex()) for record in forge.texts)
    assert _run("-", text=text)[0] == 0
    other = Forge(secret=8)
    assert _run("-", text=text.replace(forge.spki.hex(), other.spki.hex()))[0] == 1
    assert _run("-", text="%s\n%s\n" % (forge.texts[0], "ab" * 40))[0] == 2


def test_readings_of_the_forge_are_as_the_firmware_writes_them():
    assert reading(0, "B", 12_340_000) == {
        "TM": "2027-01-15T08:00:00,000+0000 I", "TX": "B", "RV": "12.340",
        "RI": "01-00:B0.08.00*FF", "RU": "kWh", "RT": "AC", "EF": "", "ST": "G"}
