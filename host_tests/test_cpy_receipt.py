"""`evmeter receipt`: what its files say; machines read record and key out of them again."""

import io
import re
from html import unescape
from html.parser import HTMLParser

import pypdf
import pytest
import zxingcpp
from defusedxml import ElementTree
from PIL import Image
from typer.testing import CliRunner

from evmeter_tools.cli import app
from evmeter_tools.errors import UserError
from evmeter_tools.receipt.content import qr_code, sheet
from evmeter_tools.receipt.safe_xml import values
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from forge import Forge, reading
from verifiers import node, pyocmf_accepts

_SID = "demo-0001-000001"
_HONEST = ("lies in the flash of the device", "does not encrypt", "No conformity with metering")


def _run(*arguments, text=None):
    done = CliRunner().invoke(app, ["receipt", *map(str, arguments)], input=text)
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def _lines(forge):
    return "".join("%s\n%s\n" % (text, forge.spki.hex()) for text in forge.texts)


def _sessions(forge):
    return check_all([check_record(text, forge.spki) for text in forge.texts]).sessions


def _written(tmp_path, forge, code=0):
    """{suffix: bytes} of the one session's files."""
    assert _run("-", "--out", tmp_path / "out", text=_lines(forge))[0] == code
    files = {path.suffix[1:]: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"xml", "ocmf", "html", "pdf"}
    return files


def _full():
    """A session in which everything is said that a receipt can say."""
    forge = Forge()
    more = {"FV": "1.3", "IS": True, "IL": "VERIFIED", "IF": ["RFID_RELATED"], "IT": "ISO14443",
            "ID": "1F2D3A4F5506C7", "TT": "0,40 \u20ac/kWh <b>&", "CF": "2.0",
            "LC": {"LN": "cable", "LR": 3, "LU": "mOhm"}, "CT": "EVSEID", "CI": "DE*XYZ*E1",
            "ZQ": "label"}
    begin = (0, "B", 100_000_000, {})
    forge.record((begin,), _SID, **more)
    forge.record((begin, (0.5, "T", 103_000_000, {}), (1, "P", 107_400_000, {})), _SID,
                 **more, ZB=0, ZG=20_000, ZT=1)
    forge.record(((0.75, "T", 105_000_000, {}),), _SID, **more)
    return forge


class _Text(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.words, self.tags, self.links = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def _plain(files):
    """{form: text} of the two forms for people, white space collapsed."""
    page = " ".join(_Text(files["html"].decode()).words)
    paper = " ".join(each.extract_text() for each in pypdf.PdfReader(
        io.BytesIO(files["pdf"])).pages)
    return {name: " ".join(text.split()) for name, text in (("html", page), ("pdf", paper))}


def test_both_forms_say_what_was_measured_and_what_is_not_proven(tmp_path):
    files = _written(tmp_path, _full())
    for form, text in _plain(files).items():
        for words in (
            "Charging session demo-0001-000001", "Verified: signature and rules hold",
            "2027-01-15 08:00:00.000 UTC+00:00 (informative clock, not proven)",
            "2027-01-15 09:00:00.000 UTC+00:00", "100.000 kWh", "107.400 kWh", "7.400 kWh",
            "0.020 kWh flowed while the device was off", "ended by a power failure",
            "serial number 12345678, number from its label", "ISO14443 1F2D3A4F5506C7 (VERIFIED)",
            "DE*XYZ*E1 (EVSEID)", "cable 3 mOhm", "3.000 kWh", "2.000 kWh", "2.400 kWh",
            "record T2 (complete): signature valid", "key was taken from the input", *_HONEST,
        ):
            assert words in text, (form, words)
        assert re.search(r"Billable no\b", text), form


def test_the_register_stands_digit_by_digit_as_it_was_signed():
    forge = Forge()
    begin, end = (0, "B", 100_000_000, {}), (1, "E", 107_400_000, {})
    raw = [reading(*begin), reading(*end)]
    raw[0]["RV"], raw[1]["RV"] = "100.0", "107.40"
    forge.record((), _SID, RD=raw)
    rows = dict(sheet(_sessions(forge)[0], True).rows)
    assert (rows["Register at begin"], rows["Register at end"]) == ("100.0 kWh", "107.40 kWh")
    assert rows["Energy"] == "7.400 kWh"


@pytest.mark.parametrize(("letter", "words"), [
    ("U", "clock was never set"), ("S", "synchronised"), ("R", "only the duration counts")])
def test_each_quality_of_time_is_said_in_words(letter, words):
    forge = Forge()
    stamp = {"TM": "2027-01-15T08:00:00,000+0000 " + letter}
    forge.record(((0, "B", 1_000_000, stamp), (0, "E", 2_000_000, stamp)), _SID)
    assert words in dict(sheet(_sessions(forge)[0], True).rows)["Begin"]


def _pictures(data):
    return [Image.open(io.BytesIO(picture.data)).convert("L")
            for page in pypdf.PdfReader(io.BytesIO(data)).pages for picture in page.images]


def test_the_code_on_paper_scans_and_verifies(tmp_path):
    forge = _full()
    pictures = _pictures(_written(tmp_path, forge)["pdf"])
    assert len(pictures) == 1
    found = zxingcpp.read_barcodes(pictures[0])
    assert len(found) == 1
    assert found[0].text == "%s\n%s\n" % (forge.texts[1], forge.spki.hex())
    done = CliRunner().invoke(app, ["verify", "-"], input=found[0].text)
    assert done.exit_code == 1  # alone it lacks the tariff record that it names
    assert "complete transaction" in done.stdout
    assert "leaves 1 tariff readings" in done.stdout


def test_the_code_of_the_page_has_the_same_modules():
    session = _sessions(_full())[0]
    content = sheet(session, True)
    code = content.qr.svg_inline(border=4, omitsize=True, title="record and key")
    from evmeter_tools.receipt.page import html

    assert code in html(content)


def test_the_longest_record_that_a_device_writes_has_a_code():
    record = "OCMF|" + "{\"a1\":" * 400
    text = "%s\n%s\n" % (record[:1875], "30" * 91)
    picture = io.BytesIO()
    qr_code(text).save(picture, kind="png", scale=3, border=4)
    assert zxingcpp.read_barcodes(Image.open(picture).convert("L"))[0].text == text
    assert qr_code("x" * 2953) is not None
    assert qr_code("x" * 2954) is None


def test_a_record_too_long_for_a_code_says_so(tmp_path):
    forge = Forge()
    forge.session(1, MF="x" * 2900)
    files = _written(tmp_path, forge, code=1)  # MF differs from the begin record's
    assert not _pictures(files["pdf"])
    for text in _plain(files).values():
        assert "too long for a QR code" in text


def test_the_page_stands_alone_and_hides_no_markup(tmp_path):
    source = _written(tmp_path, _full())["html"].decode()
    parsed = _Text(source)
    assert not parsed.links and not {"script", "b", "img", "link"} & set(parsed.tags)
    assert "default-src 'none'" in source
    assert "0,40 \u20ac/kWh <b>&" in " ".join(parsed.words)
    assert "<pre>%s</pre>" % _full().texts[0].split("|")[0] not in source
    texts = [unescape(text) for text in re.findall("<pre>(.*?)</pre>", source)]
    assert [text.rpartition("|")[0] for text in texts[1:]] == [
        text.rpartition("|")[0] for text in _full().texts]


def test_the_xml_has_the_complete_record_alone_under_its_number(tmp_path):
    forge = _full()
    files = _written(tmp_path, forge)
    found = ElementTree.fromstring(files["xml"])
    assert found.tag == "values"
    complete, tariff = found.findall("value")
    assert dict(complete.attrib) == {"transactionId": "2", "context": "Transaction.End"}
    assert not tariff.attrib
    for value, text in ((complete, forge.texts[1]), (tariff, forge.texts[2])):
        assert [child.tag for child in value] == ["publicKey", "signedData"]
        data, key = value.find("signedData"), value.find("publicKey")
        assert (data.get("format"), data.get("encoding"), data.text) == ("OCMF", "plain", text)
        assert key.get("encoding") == "plain"
        assert key.text == forge.spki.hex().upper()
    assert files["ocmf"].decode().splitlines() == forge.texts


def test_other_verifiers_take_records_and_key_out_of_the_xml(tmp_path):
    forge = Forge()
    forge.session(1)
    value = ElementTree.fromstring(_written(tmp_path, forge)["xml"]).find("value")
    record, key = value.findtext("signedData"), value.findtext("publicKey")
    assert pyocmf_accepts(key, record) and node(key, [record]) == [True]
    wrong = record.replace("107.400", "108.400")
    assert not pyocmf_accepts(key, wrong) and node(key, [wrong]) != [True]


def test_markup_in_a_record_survives_the_xml():
    forge = Forge()
    forge.session(1, MF="<&>]]>")
    text = values(_sessions(forge)[0])
    assert ElementTree.fromstring(text).findtext("value/signedData") == forge.texts[1]
    session = _sessions(forge)[0]
    session.records[1].text += "\x01"
    assert values(session) is None


def test_an_open_session_has_a_receipt_without_an_end(tmp_path):
    forge = Forge()
    forge.record(((0, "B", 100_000_000, {}),), _SID)
    files = _written(tmp_path, forge)
    value = ElementTree.fromstring(files["xml"]).find("value")
    assert value.get("context") == "Transaction.Begin"
    for text in _plain(files).values():
        assert "the session has no end yet" in text
        assert re.search(r"Billable no\b", text)


def test_a_forged_record_is_not_verified_on_any_form(tmp_path):
    forge = Forge()
    forge.session(1)
    forge.texts[1] = forge.texts[1].replace("107.400", "107.300")
    for text in _plain(_written(tmp_path, forge, code=1)).values():
        assert "NOT VERIFIED" in text and "Verified:" not in text
        assert "record T2 (complete): signature INVALID" in text
        assert re.search(r"Billable no\b", text)


def test_a_key_of_the_readers_own_is_what_counts(tmp_path):
    forge, other = Forge(), Forge(secret=8)
    forge.session(1)
    assert _run("-", "--out", tmp_path, "--key", forge.spki.hex(), text=_lines(forge))[0] == 0
    assert "taken from the input" not in (tmp_path / (_SID + ".html")).read_text()
    assert _run("-", "--out", tmp_path, "--key", other.spki.hex(), text=_lines(forge))[0] == 1


def test_one_session_is_chosen_by_its_id(tmp_path):
    forge = Forge()
    for number in (1, 2):
        forge.session(number, 2 * number, 100_000_000 + 8_000_000 * number)
    code, out = _run("-", "--out", tmp_path / "one", "--session", "demo-0001-000002",
                     text=_lines(forge))
    assert code == 0 and "demo-0001-000002: complete, verified" in out
    assert {path.stem for path in (tmp_path / "one").iterdir()} == {"demo-0001-000002"}
    code, out = _run("-", "--out", tmp_path / "none", "--session", "other", text=_lines(forge))
    assert code == 2 and "demo-0001-000001, demo-0001-000002" in out
    assert not (tmp_path / "none").exists()


def test_no_name_of_a_session_leads_out_of_the_folder(tmp_path):
    forge = Forge()
    for number, sid in enumerate(("../../x", "..", "a/b", "a?b", "A b")):
        begin = (number, "B", 1_000_000 * (number + 1), {})
        forge.record((begin, (number, "E", 1_000_000 * (number + 1), {})), sid, GS=None)
    out = tmp_path / "deep" / "er"
    assert _run("-", "--out", out, text=_lines(forge))[0] == 0
    assert {path.name for path in out.iterdir() if path.suffix == ".pdf"} == {
        "x.pdf", "session.pdf", "a_b.pdf", "a_b_2.pdf", "A_b_3.pdf"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize("text", ["", "nothing", "OCMF|{}|{}", "{}"])
def test_bad_input_is_one_line_and_code_two(tmp_path, text):
    code, out = _run("-", "--out", tmp_path, text=text)
    assert code == 2 and out and "\n" not in out


def test_a_folder_that_cannot_be_written_is_code_two(tmp_path):
    forge = Forge()
    forge.session(1)
    (tmp_path / "file").write_text("")
    assert _run("-", "--out", tmp_path / "file" / "x", text=_lines(forge))[0] == 2
    assert _run(tmp_path / "none", "--out", tmp_path)[0] == 2
