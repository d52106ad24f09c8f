"""The short way for plain records takes nothing that the long way would refuse."""

import json
import random
import re

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from evmeter_tools.backend import messages
from evmeter_tools.fleet.recorded import record
from evmeter_tools.sample.device import SampleDevice
from evmeter_tools.verify import plain
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import is_der

_TRIALS = 4000
_KEY = ec.derive_private_key(77, ec.SECP256R1())
_SPKI = _KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
# what a value may turn into: allowed, refused, and nearly right ones
_POOLS = {
    "FV": ('"0.1"', '"1.3"', '"1.4"', '"0.10"', "1"),
    "GS": ('"x"', '""', '"replay-00001"', '"a\\u0041"'),
    "PG": ('"T0"', '"T01"', '"F1"', '"T"', "7", '"T1234567890123456789"'),
    "MS": ('""', '"1"', '"\\\\"'),
    "IS": ("true", "false", "null", '"true"'),
    "IL": ('"TRUSTED"', '"MISMATCH"', '"none"', '""', "1"),
    "IF": ('["RFID_PLAIN"]', '["RFID_PLAIN","RFID_PSK"]', '["RFID_PLAIN","OCPP_RS"]', '["X"]',
           '[""]', '["RFID_PLAIN",]', "{}"),
    "IT": ('"ISO14443"', '"NONE"', '"ISO"', '""'),
    "ID": ('"04A2"', '"%s"' % ("1" * 40), '"%s"' % ("1" * 41)),
    "TM": ('"2026-02-30T10:00:00,000+0000 S"', '"2026-09-20T24:00:00,000+0000 S"',
           '"2030-01-01T00:00:00,000+0200 I"', '"2020-01-01T00:00:00,000-0130 U"',
           '"2026-09-21T10:00:00,000+0000 R"', '"2026-09-21T10:00:00,000+0060 S"',
           '"2026-09-21T10:00:00,000+9900 S"', '"2026-09-21T10:00:00,00+0000 S"'),
    "TX": ('"B"', '"E"', '"L"', '"R"', '"P"', '"A"', '"T"', '"C"', '"X"', '"S"', '"e"'),
    "RV": ("0.000", "1.5", "01.5", "999999999.999999", "9999999999.0", "1e3", "-1.0", "5",
           "0.0000001", '"1.000"'),
    "RI": ('"1-0:1.8.0*198"', '"01-00:B0.08.00*FF"', '"1-0:2.8.0"', '"9-9"', '""'),
    "RU": ('"kWh"', '"Wh"', '"MWh"'),
    "RT": ('"AC"', '"DC"', '"XC"'),
    "EF": ('""', '"t"', '"E"', '"Et"', '"x"'),
    "ST": ('"G"', '"N"', '"S"', '"Q"'),
    "ZP": ('"%s"' % ("0" * 32), '"%s"' % ("0" * 31), '"%s"' % ("F" * 32)),
    "ZS": ('"x-1"', '""', '"replay-00001-000009"', "3"),
    "ZQ": ('"meter"', '"label"', '"guess"'),
    "ZB": ("0", "1", "2", "true"),
    "ZG": ("0", "5", "3600000000", "-1", "1.5", "00"),
}


def _payloads():
    """Payloads of sound records: begin and complete, some with more fields."""
    found = []
    for device in (record(1, 3), record(2, 2)):
        found += [json.loads(payload)["ocmf"].split("|")[1]
                  for stream, payload in device.frames if stream == "rec"]
    sample = SampleDevice("replay-00001", 1_790_000_000_000, secret=5, evse_id="DE*ABC*E1",
                          quality="I")
    sample.plug({"IS": True, "IL": "TRUSTED", "IF": ["RFID_PLAIN"], "IT": "ISO14443",
                 "ID": "04A2B3C4"}).charge(600)
    sample.cut(30, 7000).unplug("R")
    found += [json.loads(payload)["ocmf"].split("|")[1]
              for stream, payload in sample.messages if stream == "rec"]
    return found


def _mutated(text, choose):
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        names = [name for name in _POOLS if '"%s":' % name in text]
        how = choose.randrange(10)
        if how < 7:
            name = choose.choice(names)
            places = list(re.finditer(r'"%s":("[^"]*"|\[[^\]]*\]|[^,}\]]+)' % name, text))
            at = choose.choice(places)
            text = text[:at.start(1)] + choose.choice(_POOLS[name]) + text[at.end(1):]
        elif how == 7:  # a key once more, or another one
            name = choose.choice((*_POOLS, "ZW", "XX", "QQ", "LC"))
            text = '%s,"%s":%s}' % (text[:-1], name, choose.choice(_POOLS.get(name, ("1", "{}"))))
        elif how == 8:
            at = choose.randrange(len(text))
            text = text[:at] + choose.choice('"\\{}[],:0 aZ|é') + text[at + choose.randrange(2):]
        else:
            readings = re.findall(r'\{"TM"[^}]*\}', text)
            text = text.replace(readings[-1], ",".join(
                choose.choice(readings) for _ in range(choose.randrange(1, 4))))
    return text


def _faults(texts):
    """(texts that the short way took and the long way refuses or reads otherwise, taken)."""
    wrong, taken = [], 0
    for text in texts:
        der = _KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        ocmf = 'OCMF|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"%s"}' % (text, der.hex())
        found = plain.plain_record(ocmf)
        if found is None:
            continue
        taken += 1
        verdict = check_record(ocmf, _SPKI)
        if not (verdict.ok and verdict.kind == found.kind and verdict.session == found.session
                and verdict.signed == found.signed
                and messages._session_facts(verdict) == messages._plain_facts(found)):
            wrong.append((ocmf, verdict.reasons))
    return wrong, taken


def _trials():
    choose = random.Random(20)
    sound = _payloads()
    return [_mutated(choose.choice(sound), choose) for _ in range(_TRIALS)]


def test_sound_records_go_the_short_way():
    sound = _payloads()
    wrong, taken = _faults(sound)
    assert (wrong, taken) == ([], len(sound)) and taken >= 12
    with_gap = [plain.plain_record('OCMF|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"00"}' % text)
                for text in sound if '"ZG"' in text]
    assert with_gap and all(found.gap_mwh > 0 for found in with_gap)


def test_what_the_short_way_takes_the_long_way_takes_too():
    wrong, taken = _faults(_trials())
    assert wrong == []
    assert _TRIALS // 20 < taken < _TRIALS // 2  # neither nothing nor everything


def test_a_short_way_that_forgets_a_rule_is_caught(monkeypatch):
    trials = _trials()
    text = plain._RECORD.pattern
    for pattern, weaker in (('"ST":"G"', '"ST":"[A-Z]"'), ('"EF":"t?"', '"EF":"[tE]*"'),
                            ('"ZP":"[0-9a-f]{32}"', '"ZP":"[0-9a-f]*"'), ("(?P=gs)-", ""),
                            ("(?P=unit)", '"RI":"[^"]*","RU":"kWh","RT":"(?:AC|DC)"')):
        with monkeypatch.context() as patch:
            assert pattern in text
            patch.setattr(plain, "_RECORD", re.compile(text.replace(pattern, weaker), re.ASCII))
            assert _faults(trials)[0], pattern
    monkeypatch.setattr(plain, "_is_user", lambda _text: True)
    assert _faults(trials)[0]


def test_a_record_under_another_key_is_refused_with_its_reason():
    device = record(3)
    other = SampleDevice("replay-00003", 1_790_000_000_000, secret=9)
    trusted = {(device.name, device.key_id): other.spki}
    payload = next(payload for stream, payload in device.frames if stream == "rec")
    entry = messages.read(device.name, "rec", payload, trusted)
    assert entry.verdict == "bad" and "does not belong" in entry.why and not entry.facts
    changed = payload.replace(b'\\"MM\\":\\"SDM120', b'\\"MM\\":\\"SDM121')
    entry = messages.read(device.name, "rec", changed, {(device.name, device.key_id):
                                                        device.spki})
    assert entry.verdict == "bad" and "does not belong" in entry.why


def _der_faults(count, is_der):
    """Bytes that `is_der` takes for a signature, or not, other than what encodes one."""
    choose, wrong, sound = random.Random(21), [], 0
    edges = (0, 1, 127, 128, 255, 256, 2**255 - 1, 2**255, 2**256 - 1)
    for _ in range(count):
        der = bytearray(utils.encode_dss_signature(
            *(choose.choice((*edges, choose.getrandbits(256))) for _ in range(2))))
        for _ in range(choose.randrange(3)):
            at = choose.randrange(len(der))
            der[at:at + choose.randrange(2)] = choose.choice(
                (b"", b"\x00", b"\x02", b"\x30", b"\x80", b"\xff", bytes([der[at] ^ 1])))
        try:
            right = utils.encode_dss_signature(*utils.decode_dss_signature(bytes(der))) == der
        except ValueError:
            right = False
        sound += right
        if is_der(bytes(der)) is not right:
            wrong.append(der.hex())
    assert count // 5 < sound < count // 5 * 4
    return wrong


def test_a_signature_has_one_encoding():
    assert _der_faults(_TRIALS, is_der) == []
    assert not is_der(b"") and not is_der(b"\x30\x06\x02\x01\x01\x02\x01")


def test_the_trial_above_would_catch_a_negative_number():
    assert _der_faults(_TRIALS, lambda der: is_der(der) or is_der(
        der[:4] + bytes([der[4] & 0x7F]) + der[5:]))
