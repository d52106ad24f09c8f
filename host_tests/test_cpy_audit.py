"""`evmeter verify` over exports with audit entries: signatures, key changes, and the records that
a meter signs itself; each thing that a forger could do is signed rightly where it can be."""

import hashlib
import json
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from evmeter_tools.bench.signing import SigningPart
from evmeter_tools.cli import app
from evmeter_tools.device.package import pack
from evmeter_tools.receipt.safe_xml import own_values
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import judge
from forge import Forge

_SID = "demo-0001-000001"


class _Device(Forge):
    """A forge of audit entries, too; `lines` is its export, (record or entry, key)."""

    def __init__(self, **more):
        super().__init__(**more)
        self.seq = 100
        self.entries = []

    @property
    def name(self):
        return hashlib.sha256(self.spki).digest()[:4].hex()

    def _signed(self, text):
        return self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())).hex()

    def entry(self, event, sid="", new=None, **fields):
        self.seq += 1
        message = {"ev": event, "v": 1, "ts": 1, "tq": "I", "k": self.name, "seq": self.seq,
                   "sid": sid, **fields}
        text = json.dumps(message)[:-1]
        if new:
            text += ', "sn": "%s"' % new._signed(text)
        self.entries.append(text + ', "sg": "%s"}' % self._signed(text))
        return self.entries[-1]

    def change(self, new, **fields):
        return self.entry("key_change", new=new, **{
            "new_k": new.name, "new_spki": new.spki.hex(), **fields})

    def lines(self):
        return ([(text, self.spki) for text in self.texts],
                [(text, self.spki) for text in self.entries])


def _judge(*devices, given=None, whole=False):
    records, entries = [], []
    for device in devices:
        more_records, more_entries = device.lines()
        records += more_records
        entries += more_entries
    return judge(records, entries, given, is_whole=whole)


def _reasons(report):
    parts = report.sessions + report.records + report.entries
    return " / ".join(report.reasons + [reason for part in parts for reason in part.reasons])


# -- entries --


def test_a_sound_entry_holds_and_every_flipped_bit_is_noticed():
    device = _Device()
    text = device.entry("clock_step", step_ms=1, why="a \"quoted\" word")
    assert check_entry(text, device.spki).ok
    for at in range(0, len(text), 3):
        changed = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1:]
        assert not check_entry(changed, device.spki).ok, changed


@pytest.mark.parametrize(("said", "change"), [
    ("not JSON", lambda text: text[:-1]),
    ("not JSON", lambda text: "x" + text),
    ("not a JSON object", lambda text: "[]"),
    ("stands twice", lambda text: text.replace('"seq"', '"seq": 7, "seq"')),
    ("longer than 8192", lambda text: text.replace("{", '{"x": "%s", ' % ("y" * 9000), 1)),
    ("is not signed", lambda text: text[:text.index(', "sg"')] + "}"),
    ("is not signed", lambda text: text[:-1] + ', "more": 1}'),
    ("does not belong", lambda text: text.replace('"ts": 1', '"ts": 2')),
    ("SD is not hex", lambda text: text[:-2] + 'x"}'),
])
def test_an_entry_that_was_changed_is_refused(said, change):
    device = _Device()
    entry = check_entry(change(device.entry("boot_note")), device.spki)
    assert not entry.ok and said in " / ".join(entry.reasons), entry.reasons


def test_an_entry_in_another_ones_name_or_without_a_number_is_refused():
    device, other = _Device(), _Device(secret=8)
    named = check_entry(device.entry("x", k=other.name), device.spki)
    assert "k is not the name" in " / ".join(named.reasons)
    assert "seq is no whole number" in " / ".join(
        check_entry(device.entry("x", seq="7"), device.spki).reasons)
    assert "was not given" in " / ".join(check_entry(device.entry("x"), None).reasons)


def test_a_number_given_out_twice_is_a_fault_and_a_copy_is_none():
    device = _Device()
    device.session()
    device.entry("x")
    device.entries.append(device.entries[0])
    assert _judge(device).ok
    device.entry("y", seq=101)
    assert "audit entry 101 was given out twice" in _reasons(_judge(device))


def test_a_reading_from_the_future_is_a_note():
    device = _Device()
    device.session(start_h=90_000)
    assert "2037" in " / ".join(_judge(device).notes) and _judge(device).ok


# -- changes of the key --


def _changed():
    old, new = _Device(), _Device(secret=8)
    old.session(1)
    old.change(new)
    new.page, new.previous = old.page, old.previous
    new.session(2, 2, 108_000_000)
    new.seq = 200
    new.entry("later")
    return old, new


def test_records_on_both_sides_of_a_key_change_are_one_story():
    old, new = _changed()
    for given in (None, old.spki):
        report = _judge(old, new, given=given, whole=True)
        assert report.ok, _reasons(report)
        assert "signed by 2 keys" in " / ".join(report.notes)
    report = _judge(old, new, given=new.spki)  # only the new one is trusted: the change is not
    assert not report.ok and "was not given" in _reasons(report)


@pytest.mark.parametrize(("said", "change"), [
    ("does not follow T2", lambda old, new: setattr(new, "previous", "1" * 32)),
    ("the register goes back", lambda old, new: new.session(2, 2, 106_000_000)),
    ("T3 is missing", lambda old, new: setattr(new, "page", 4)),
    ("goes on signing after its successor", lambda old, new: (
        new.session(2, 2, 108_000_000), setattr(old, "page", new.page),
        setattr(old, "previous", new.previous), old.session(3, 4, 117_000_000))),
])
def test_a_story_that_breaks_at_a_key_change_is_noticed(said, change):
    old, new = _Device(), _Device(secret=8)
    old.session(1)
    old.change(new)
    new.page, new.previous = old.page, old.previous
    change(old, new)
    if not new.texts:
        new.session(2, 2, 108_000_000)
    report = _judge(old, new, given=old.spki, whole=True)
    assert not report.ok and said in _reasons(report), _reasons(report)


@pytest.mark.parametrize("forged", [
    lambda old, new: old.entry("key_change", new_k=new.name, new_spki=new.spki.hex()),
    lambda old, new: old.change(new, new_k="00000000"),
    lambda old, new: old.change(new, new_spki=_Device(secret=9).spki.hex()),
    lambda old, new: old.entry("key_change", new=old, new_k=new.name, new_spki=new.spki.hex()),
    lambda old, new: new.change(new),
    lambda old, new: old.entry("other", new=new, new_k=new.name, new_spki=new.spki.hex()),
    lambda old, new: None,
])
def test_a_key_that_no_trusted_one_announces_signs_nothing(forged):
    old, new = _Device(), _Device(secret=8)
    old.session(1)
    forged(old, new)
    new.page, new.previous = old.page, old.previous
    new.session(2, 2, 108_000_000)
    report = _judge(old, new, given=old.spki)
    assert not report.ok
    assert [record.ok for record in report.records] == [True, True, False, False]
    assert not _judge(old, new).ok


def test_changes_in_a_circle_end():
    old, new = _Device(), _Device(secret=8)
    old.session(1)
    old.change(new)
    new.seq = 150
    new.change(old)
    _judge(old, new, given=old.spki)


# -- what the meter signs itself --


class _Meter(SigningPart):
    def __init__(self, serial=21034567):
        self.wh = 100_000
        super().__init__(serial, lambda: self.wh)

    def own(self, letter, called=_SID, number=None):
        self._count += 1
        for at in range(70):
            self._words[40279 + at] = 0
        self._put(40279, called.encode().ljust(140, b"\0"))
        return {"tx": letter, "meter_ocmf": self._text(number or {"B": 3, "E": 4}[letter], letter),
                "meter_spki": self.spki.hex()}


def _with_meter(change=None):
    device, meter = _Device(), _Meter()
    begin = meter.own("B")
    meter.wh += 7_400
    end = meter.own("E")
    if change:
        begin, end = change(meter, begin, end) or (begin, end)
    device.session()
    for fields in (begin, end):
        device.entry("meter_record", _SID, **fields)
    return device


def test_the_meters_own_records_stand_in_their_session():
    report = _judge(_with_meter(), whole=True)
    assert report.ok, _reasons(report)
    (session,) = report.sessions
    assert [(own.tx, own.page, own.total_mwh) for own in session.own] == [
        ("B", "T4276", 100_000_000), ("E", "T4277", 107_400_000)]
    assert all(own.signature and own.step_mwh == 10_000 for own in session.own)


def _edited(fields, old, new):
    return {**fields, "meter_ocmf": fields["meter_ocmf"].replace(old, new)}


@pytest.mark.parametrize(("said", "change"), [
    ("its signature does not belong", lambda m, b, e: (b, _edited(e, "107.40", "207.40"))),
    ("its signature does not belong", lambda m, b, e: (b, {
        **e, "meter_spki": _Meter(5).spki.hex()})),
    ("two meters or keys", lambda m, b, e: (b, _later(_Meter(5)).own("E"))),
    ("names 'demo-0001-000009', not the session", lambda m, b, e: (
        b, m.own("E", "demo-0001-000009"))),
    ("has TX 'B', not E", lambda m, b, e: (b, {**b, "tx": "E"})),
    ("below ours", lambda m, b, e: (_lower(m, 99_000).own("B"), _lower(m, 107_400).own("E"))),
    ("register of the meter's own records goes back", lambda m, b, e: (
        _lower(m, 120_000).own("B"), _lower(m, 110_000).own("E"))),
    ("do not go on", lambda m, b, e: (m.own("B"), e)),
    ("not one at the begin and one at the end", lambda m, b, e: (b, m.own("B"))),
    ("is missing", lambda m, b, e: (b, {"tx": "E", "meter_ocmf": 7})),
    ("does not begin with OCMF|", lambda m, b, e: (b, {**e, "meter_ocmf": "x"})),
    ("not a public key", lambda m, b, e: (b, {**e, "meter_spki": "00"})),
    ("not a public key", lambda m, b, e: (b, {**e, "meter_spki": "\ud800"})),
    ("is missing", lambda m, b, e: (b, {**e, "meter_spki": True})),
])
def test_records_of_the_meter_that_are_not_right_are_noticed(said, change):
    report = _judge(_with_meter(change))
    assert not report.ok and said in _reasons(report), _reasons(report)


def _lower(meter, wh):
    meter.wh = wh
    return meter


def _later(meter):
    meter.wh, meter._count = 107_400, 9000
    return meter


def test_a_record_that_the_meter_did_not_give_is_a_note():
    report = _judge(_with_meter(lambda m, b, e: (b, {"tx": "E", "why": "no reply"})))
    assert report.ok and "no record of the meter's own at TX=E: no reply" in " / ".join(
        note for entry in report.entries for note in entry.notes)


def test_records_of_a_meter_without_ours_are_told():
    device = _with_meter()
    device.texts.clear()
    assert "the meter's own records are in the input, ours are not" in " / ".join(
        _judge(device).notes)


# -- the command --


def _lines(device):
    records, entries = device.lines()
    return "".join(json.dumps({name: text, "spki": key.hex()}) + "\n"
                   for name, found in (("ocmf", records), ("log", entries))
                   for text, key in found)


def test_the_table_and_the_json_show_the_audit_entries(tmp_path):
    device = _with_meter()
    device.change(_Device(secret=8))
    done = CliRunner().invoke(app, ["verify", "-", "--whole"], input=_lines(device))
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())
    for words in ("meter_record", "T4276 of meter 001BZR0021034567, TX=B", "signed by both",
                  "by the meter's own T4277,   E 107.400 kWh", "3 of 3 audit entries"):
        assert words in done.output, words
    found = json.loads(CliRunner().invoke(app, ["verify", "-", "--json"],
                                          input=_lines(device)).output)
    assert found["audit"][0]["meter_record"]["page"] == "T4276"
    assert found["audit"][2]["new_key"] == _Device(secret=8).name
    assert found["sessions"][0]["meter_records"][1]["mwh"] == 107_400_000
    assert found["audit"][0]["legal"] is None
    broken = _lines(device).replace("107.40", "117.40")
    assert CliRunner().invoke(app, ["verify", "-"], input=broken).exit_code == 1
    for line in ('{"log": 7}', '{"log": "x", "ocmf": "y"}', "[]",
                 '{"log": "x", "spki": "\\ud800"}'):
        assert CliRunner().invoke(app, ["verify", "-"], input=line).exit_code != 0


def test_the_receipt_has_what_the_meter_signed_and_a_file_for_it(tmp_path):
    path = tmp_path / "export.jsonl"
    path.write_text(_lines(_with_meter()))
    done = CliRunner().invoke(app, ["receipt", str(path), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    files = {each.name: each for each in (tmp_path / "r").iterdir()}
    html = files[_SID + ".html"].read_text()
    assert "T4276 of 001BZR0021034567 at the begin, 100.000 kWh, signature valid" in html
    assert "Signed by the meter itself" in html
    xml = files[_SID + ".meter.xml"].read_text()
    assert xml.count("<value ") == 2 and "Transaction.Begin" in xml and "Transaction.End" in xml
    assert _Meter().spki.hex().upper() in xml


_VALUE = {"context": str, "transactionId": int}  # xs:string, xs:integer
_CHILDREN = {"publicKey": {"encoding"}, "signedData": {"format", "encoding"}}


def check_values(text):
    """S.A.F.E.'s values.xsd (transparenzsoftware, src/main/resources), by hand: names, order,
    attributes and their types; returns [(attributes, {child: text})]."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "values" and not root.attrib and not (root.text or "").strip()
    found = []
    for value in root:
        assert value.tag == "value" and set(value.attrib) <= set(_VALUE)
        for name, kind in _VALUE.items():
            if name in value.attrib:
                kind(value.attrib[name])
        names = [child.tag for child in value]
        assert names == ["publicKey", "signedData"]  # an xs:sequence: in this order, once each
        for child in value:
            assert set(child.attrib) <= _CHILDREN[child.tag] and not list(child)
        found.append((value.attrib, {child.tag: child for child in value}))
    return found


def test_the_files_for_safe_keep_its_schema_and_what_its_program_asks_for(tmp_path):
    device = _with_meter()
    device.record(((0.5, "T", 101_000_000, {}),), _SID)
    path = tmp_path / "export.jsonl"
    path.write_text(_lines(device))
    done = CliRunner().invoke(app, ["receipt", str(path), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    ours = check_values((tmp_path / "r" / (_SID + ".xml")).read_text())
    own = check_values((tmp_path / "r" / (_SID + ".meter.xml")).read_text())
    # our complete record alone under its id; the tariff record has none
    assert [dict(attributes) for attributes, _ in ours] == [
        {"transactionId": "2", "context": "Transaction.End"}, {}]
    # the meter's two are a pair
    assert [dict(attributes) for attributes, _ in own] == [
        {"transactionId": "2", "context": "Transaction.Begin"},
        {"transactionId": "2", "context": "Transaction.End"}]
    for _, children in ours + own:
        assert children["signedData"].get("format") == "OCMF"
        assert children["signedData"].get("encoding") == "plain"
        key = bytes.fromhex(children["publicKey"].text)
        assert len(key) == 91 and children["publicKey"].get("encoding") == "plain"
        assert check_record(children["signedData"].text, key).signature is True


@pytest.mark.parametrize(("old", "new"), [
    ("<values>", "<value>"), ('context="', 'Context="'),
    ('transactionId="2"', 'transactionId="x"'),
    ("publicKey", "key"), (' format="OCMF"', ' form="OCMF"')])
def test_a_file_that_breaks_the_schema_is_noticed_by_this_test(old, new):
    report = _judge(_with_meter())
    text = own_values(report.sessions[0])
    check_values(text)
    with pytest.raises((AssertionError, ValueError, ElementTree.ParseError, KeyError)):
        check_values(text.replace(old, new))


def test_the_firmware_of_each_start_is_held_against_releases(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    files = []
    for number, relevant in enumerate(("ab" * 32, "cd" * 32, "ef" * 32)):
        files.append(tmp_path / ("%d.evu" % number))
        files[-1].write_bytes(pack(b"image", key, "esp32_devkit", "0.%d.0" % number, 1, relevant))
    device = _with_meter()
    device.entry("firmware", fw="0.0.0", legal="ab" * 32, boot=1, cause="power-on", lock=1)
    device.entry("firmware", fw="0.1.0", legal="cd" * 32, boot=2, cause="software", lock=0)

    def verify(*options):
        return CliRunner().invoke(app, ["verify", "-", *map(str, options)], input=_lines(device))

    done = verify()
    assert done.exit_code == 0 and "firmware 0.0.0, prompt closed;" in done.output, done.output
    assert "ab" * 32 in done.output.replace("\n          ", "")
    done = verify("--release", files[0], "--release", files[1])
    assert done.exit_code == 0 and "release 0.1.0 of 1.evu" in done.output, done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())
    done = verify("--release", files[0], "--release", files[2], "--json")
    entries = json.loads(done.output)["audit"]
    assert [one["release"] for one in entries[-2:]] == ["0.0.0 of 0.evu", None]
    assert done.exit_code == 1 and "of no given release" in entries[-1]["reasons"][0]
    assert "no package" in str(verify("--release", __file__).exception)
