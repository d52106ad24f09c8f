import hashlib

from evmeter.ledger import ocmf
from support import raises

_FIELDS = {
    "MS": "12345678",
    "GI": "evmeter",
    "GS": "demo-0001",
    "GV": "0.1.0",
    "MV": "Eastron",
    "MM": "SDM120",
}
_T0 = 1800000000000
_BEGIN = (_T0, "I", "B", 123456000, "", "G")
_END = (_T0 + 3600123, "S", "E", 130856499, "", "G")
_SIGNATURE = b"\x30" + b"\x07" * 70
_HEAD = (
    '{"FV":"1.0","GI":"evmeter","GS":"demo-0001","GV":"0.1.0","PG":"T12","MV":"Eastron",'
    '"MM":"SDM120","MS":"12345678","IS":false,"IL":"NONE","IF":[],"IT":"NONE","ID":"","RD":['
)
_B = (
    '{"TM":"2027-01-15T08:00:00,000+0000 I","TX":"B","RV":123.456,"RI":"01-00:B0.08.00*FF",'
    '"RU":"kWh","RT":"AC","EF":"","ST":"G"}'
)
_E = (
    '{"TM":"2027-01-15T09:00:00,123+0000 S","TX":"E","RV":130.856,"RI":"01-00:B0.08.00*FF",'
    '"RU":"kWh","RT":"AC","EF":"","ST":"G"}'
)


def _with(**changes):
    fields = dict(_FIELDS)
    fields.update(changes)
    return fields


def _reading(tx, ms=0, mwh=123456000, errors="", status="G", quality="I"):
    return (_T0 + ms, quality, tx, mwh, errors, status)


def _payload(kind="begin", fields=_FIELDS, page=12, step=1000, readings=(_BEGIN,), vendor=()):
    return ocmf.payload(kind, fields, page, step, readings, vendor)


def test_begin_and_complete_text_in_full():
    vendor = (("ZP", "0" * 32), ("ZS", "demo-0001-000003"), ("ZB", 1))
    tail = '],"ZP":"%s","ZS":"demo-0001-000003","ZB":1}' % ("0" * 32)
    assert _payload(vendor=vendor) == _HEAD + _B + tail
    assert _payload("complete", readings=(_BEGIN, _END), vendor=vendor) == (
        _HEAD + _B + "," + _E + tail
    )


def test_optional_fields_and_the_version_that_defines_them():
    loss = {"LN": "cable", "LI": 1, "LR": 3, "LU": "mOhm"}
    loss_text = '"LC":{"LN":"cable","LI":1,"LR":3,"LU":"mOhm"}'
    for changes, version, text in (
        ({}, "1.0", '"ID":"","RD":'),
        ({"TT": "0.40 EUR/kWh"}, "1.1", '"ID":"","TT":"0.40 EUR/kWh","RD":'),
        ({"LC": loss}, "1.2", '"ID":"",' + loss_text + ',"RD":'),
        ({"TT": "x", "LC": loss}, "1.2", '"TT":"x",' + loss_text + ',"RD":'),
        ({"CF": "2.0"}, "1.3", '"ID":"","CF":"2.0","RD":'),
        ({"TT": "x", "CF": "2.0"}, "1.3", '"TT":"x","CF":"2.0","RD":'),
        ({"CT": "EVSEID", "CI": "DE*X*E1"}, "1.0", '"ID":"","CT":"EVSEID","CI":"DE*X*E1","RD":'),
        ({"MF": "1.2"}, "1.0", '"MS":"12345678","MF":"1.2","IS":false'),
    ):
        found = _payload(fields=_with(**changes))
        assert found.startswith('{"FV":"%s",' % version), found
        assert text in found, found


def test_an_assigned_user():
    user = {"IS": True, "IL": "VERIFIED", "IF": ("RFID_RELATED", "OCPP_AUTH"), "IT": "ISO14443"}
    text = _payload(fields=_with(ID="1F2D3A4F5506C7", **user))
    assert (
        '"IS":true,"IL":"VERIFIED","IF":["RFID_RELATED","OCPP_AUTH"],"IT":"ISO14443",'
        '"ID":"1F2D3A4F5506C7","RD":'
    ) in text


def test_registers_are_rounded_once_to_the_meters_step():
    for mwh, step, text in (
        (0, 1000, "0.000"),
        (499, 1000, "0.000"),
        (500, 1000, "0.001"),
        (123456499, 1000, "123.456"),
        (123456500, 1000, "123.457"),
        (100000000, 1000, "100.000"),
        (999999500, 1000, "1000.000"),
        (4999, 10000, "0.00"),
        (5000, 10000, "0.01"),
        (123456789, 10000, "123.46"),
        (123450000, 100000, "123.5"),
        (123449999, 100000, "123.4"),
        (499999, 1000000, "0"),
        (123500000, 1000000, "124"),
        (123500000, 10000000, "120"),
        (123456789, 1, "123.456789"),
        (123456785, 10, "123.45679"),
        (123456789, 100, "123.4568"),
        # 2000 and 800 pulses a kWh: not powers of ten
        (123456749, 500, "123.4565"),
        (123456750, 500, "123.4570"),
        (2499, 1250, "0.00250"),
        (1874, 1250, "0.00125"),
        # Beyond what a float of 32 or 64 bits holds
        (16777217000, 1000, "16777.217"),
        (9007199254740993, 1, "9007199254.740993"),
    ):
        assert ocmf.register(mwh, step) == text, (mwh, step, ocmf.register(mwh, step))
        assert ocmf.quantise(mwh, step) % step == 0
        assert abs(ocmf.quantise(mwh, step) - mwh) <= step // 2
    for mwh, step in ((-1, 1000), (1, 0), (1, -1000), (None, 1000)):
        assert "not allowed" in str(raises(ocmf.OcmfError, ocmf.register, mwh, step))


def test_times():
    for unix_ms, text in (
        (0, "1970-01-01T00:00:00,000"),
        (951782399999, "2000-02-28T23:59:59,999"),
        (951782400000, "2000-02-29T00:00:00,000"),
        (951868800000, "2000-03-01T00:00:00,000"),
        (1709164800001, "2024-02-29T00:00:00,001"),
        (1735689599999, "2024-12-31T23:59:59,999"),
        (1735689600000, "2025-01-01T00:00:00,000"),
        (2147483648000, "2038-01-19T03:14:08,000"),
        (4107542399000, "2100-02-28T23:59:59,000"),
        (4107542400000, "2100-03-01T00:00:00,000"),
        (4291747199999, "2105-12-31T23:59:59,999"),
    ):
        for quality in "UISR":
            assert ocmf.timestamp(unix_ms, quality) == "%s+0000 %s" % (text, quality)
    for unix_ms, quality in ((-1, "U"), (4291747200000, "U"), (0, "X"), (0, ""), (0, "UI")):
        assert "not allowed" in str(raises(ocmf.OcmfError, ocmf.timestamp, unix_ms, quality))


def test_text_is_escaped_to_ascii_without_a_pipe():
    for value, text in (
        ('a"b\\c', 'a\\"b\\\\c'),
        ("a|b", "a\\u007cb"),
        ("\n\t\x00\x7f", "\\u000a\\u0009\\u0000\\u007f"),
        ("\u20ac\u00e4", "\\u20ac\\u00e4"),
        ("\U0001f50c", "\\ud83d\\udd0c"),
        ('"PG":"T99"', '\\"PG\\":\\"T99\\"'),
    ):
        found = _payload(fields=_with(GI=value))
        assert '"GI":"%s",' % text in found, found
        assert "|" not in found and all(31 < ord(char) < 127 for char in found)
        assert ocmf.pagination(found.join(ocmf.envelope(_SIGNATURE))) == 12


def test_which_readings_make_which_record():
    for kind, letters, good in (
        ("begin", "B", True),
        ("begin", "", False),
        ("begin", "BB", False),
        ("begin", "E", False),
        ("begin", "BE", False),
        ("complete", "BE", True),
        ("complete", "BL", True),
        ("complete", "BR", True),
        ("complete", "BA", True),
        ("complete", "BP", True),
        ("complete", "BTTE", True),
        ("complete", "B", False),
        ("complete", "E", False),
        ("complete", "", False),
        ("complete", "BT", False),
        ("complete", "BEE", False),
        ("complete", "BBE", False),
        ("complete", "TE", False),
        ("complete", "BXE", False),
        ("tariff", "T", True),
        ("tariff", "TT", True),
        ("tariff", "", False),
        ("tariff", "TE", False),
        ("other", "T", False),
    ):
        readings = [_reading(tx) for tx in letters]
        if good:
            text = _payload(kind, readings=readings)
            assert text.count('"TX":"') == len(letters)
        else:
            error = raises(ocmf.OcmfError, ocmf.payload, kind, _FIELDS, 1, 1000, readings)
            assert "cannot have the readings" in str(error)


def test_bad_fields_are_refused_in_words():
    for fields, page, readings, vendor, words in (
        ({}, 1, (_BEGIN,), (), "MS"),
        (_with(MS=""), 1, (_BEGIN,), (), "MS"),
        (_with(XX="a"), 1, (_BEGIN,), (), "unknown field XX"),
        (_with(GI=1.5), 1, (_BEGIN,), (), "neither text nor a whole number"),
        (_with(TT="a" * 251), 1, (_BEGIN,), (), "TT is longer than 250"),
        (_with(CF="a" * 26), 1, (_BEGIN,), (), "CF is longer than 25"),
        (_with(ID="a" * 41), 1, (_BEGIN,), (), "ID is longer than 40"),
        (_FIELDS, -1, (_BEGIN,), (), "pagination -1"),
        (_FIELDS, 1, (_reading("B", status="Q"),), (), "status Q"),
        (_FIELDS, 1, (_reading("B", status=""),), (), "status "),
        (_FIELDS, 1, (_reading("B", errors="x"),), (), "errors x"),
        (_FIELDS, 1, (_reading("B", mwh=None),), (), "register None"),
        (_FIELDS, 1, (_reading("B", mwh=-5),), (), "register -5"),
        (_FIELDS, 1, (_reading("B", quality="Q"),), (), "quality Q"),
        (_FIELDS, 1, (_BEGIN,), (("AP", "x"),), "vendor key AP"),
        (_FIELDS, 1, (_BEGIN,), (("", "x"),), "vendor key "),
    ):
        error = raises(ocmf.OcmfError, ocmf.payload, "begin", fields, page, 1000, readings, vendor)
        assert words in str(error), error


def test_a_record_is_at_most_1875_bytes():
    readings = [_reading("B")] + [_reading("T", i) for i in range(1, 9)] + [_reading("E", 9)]
    user = {"IS": True, "IL": "VERIFIED", "IF": ("RFID_RELATED",), "IT": "ISO14443"}
    fields = _with(ID="1F2D3A4F5506C7", **user)
    vendor = (("ZP", "0" * 32), ("ZS", "demo-0001-000003"), ("ZB", 1))
    text = _payload("complete", fields, 999999, readings=readings, vendor=vendor)
    assert len(text.join(ocmf.envelope(_SIGNATURE + b"\x00"))) <= 1875
    # Fill up to the limit, to the byte.
    short = _payload("complete", readings=readings)
    room = 1875 - len(short.join(ocmf.envelope(_SIGNATURE + b"\x00"))) - len(',"ZX":""')
    text = _payload("complete", readings=readings, vendor=(("ZX", "a" * room),))
    assert len(text.join(ocmf.envelope(_SIGNATURE + b"\x00"))) == 1875
    vendor = (("ZX", "a" * (room + 1)),)
    error = raises(
        ocmf.OcmfError, ocmf.payload, "complete", _FIELDS, 12, 1000, readings, vendor
    )
    assert "1876 bytes; the limit is 1875" in str(error)


def test_envelope_and_its_readers():
    text = _payload(page=0)
    record = text.join(ocmf.envelope(b"\x30\x01\xab"))
    assert record == 'OCMF|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"3001ab"}' % text
    assert ocmf.signed_part(record) == text.encode()
    digest = hashlib.sha256(text.encode()).digest()[:16]
    assert ocmf.record_hash(ocmf.signed_part(record)) == "".join(["%02x" % b for b in digest])
    for page in (0, 1, 9, 10, 4294967296):
        assert ocmf.pagination(_payload(page=page).join(ocmf.envelope(b"0"))) == page
    for bad in ("", "OCMF|{}", "OCMF|{}|{}|{}", "ocmf|{}|{}"):
        raises(ocmf.OcmfError, ocmf.signed_part, bad)
    for bad in ("", "OCMF|{}|{}", '{"PG":"T"}', '{"PG":"Tx"}', '{"PG":"F1"}', '{"PG":"T1'):
        raises(ocmf.OcmfError, ocmf.pagination, bad)
    raises(ocmf.OcmfError, ocmf.envelope, bytes(73))
