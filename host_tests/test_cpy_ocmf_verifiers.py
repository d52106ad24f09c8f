"""What the firmware signs under MicroPython, before three verifiers, two of them not ours."""

import json
import os
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

import pyocmf
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter.ledger import ocmf
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from verifiers import mutations, node, pyocmf_accepts

_ROOT = Path(__file__).parents[1]
_SECRET = bytes(range(7, 39))

_SIGN_UNDER_MICROPYTHON = """
import asyncio, hashlib, json, os
from evmeter.ledger import ocmf, signer
it = signer.SoftwareSigner(bytes(range(7, 39)), os.urandom)
fields = {"GI": "evmeter", "GS": "demo-0001", "GV": "0.1.0", "MV": "Eastron", "MM": "SDM120",
          "MS": "12345678"}
user = {"IS": True, "IL": "VERIFIED", "IF": ("RFID_RELATED",), "IT": "ISO14443",
        "ID": "1F2D3A4F5506C7"}
more = {"TT": "0.40 EUR/kWh \\u20ac|", "CF": "2.0", "CT": "EVSEID", "CI": "DE*XYZ*E1",
        "LC": {"LN": "cable", "LI": 1, "LR": 3, "LU": "mOhm"}}
t, mwh, previous, page = 1800000000000, 123456000, "0" * 32, 1
def record(kind, readings, **extra):
    global previous, page
    vendor = [("ZP", previous), ("ZS", sid)]
    if kind == "complete":
        vendor.append(("ZB", 1))
    every = dict(fields)
    every.update(extra)
    text = ocmf.payload(kind, every, page, 1000, readings, vendor)
    der = asyncio.run(it.sign(hashlib.sha256(text.encode()).digest()))
    print(json.dumps((kind, text.join(ocmf.envelope(der)))))
    previous = ocmf.record_hash(text.encode())
    page += 1
for number, (letter, quality, extra) in enumerate((
    ("E", "I", {}), ("P", "U", user), ("L", "S", user), ("R", "R", {}), ("A", "I", more),
)):
    sid = "demo-0001-%06d" % number
    begin = (t, quality, "B", mwh, "", "G")
    record("begin", [begin], **extra)
    middle = [(t + 60000 * i, quality, "T", mwh + 999500 * i, "", "G") for i in range(1, number)]
    end = (t + 3600123, quality, letter, mwh + 7400499, "", "G")
    record("complete", [begin] + middle + [end], **extra)
    t += 7200000
    mwh += 8000000
print(json.dumps((it.spki_hex(), it.failures)))
"""


def _micropython():
    local = _ROOT / "build/bin/micropython"
    found = str(local) if local.exists() else shutil.which("micropython")
    assert found, "no micropython: make sets it up in build/bin"
    return found


@lru_cache(1)
def _signed():
    """Return (key in hex, [(kind, record)]) as made by the firmware under MicroPython."""
    environment = dict(os.environ, MICROPYPATH=".frozen:%s" % (_ROOT / "firmware"))
    done = subprocess.run(
        [_micropython(), "-X", "heapsize=128k", "-c", _SIGN_UNDER_MICROPYTHON],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *records, (spki, failures) = [json.loads(line) for line in done.stdout.splitlines()]
    assert failures == 0
    return spki, records


def test_the_key_is_the_one_that_cryptography_derives():
    number = int.from_bytes(_SECRET, "big")
    der = (
        ec.derive_private_key(number, ec.SECP256R1())
        .public_key()
        .public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert _signed()[0] == der.hex()


def test_cryptography_verifies_the_bytes_between_the_pipes():
    key, records = _signed()
    public = serialization.load_der_public_key(bytes.fromhex(key))
    assert len(records) == 10
    for _, text in records:
        _, payload, section = text.split("|")
        signature = bytes.fromhex(json.loads(section)["SD"])
        public.verify(signature, payload.encode(), ec.ECDSA(hashes.SHA256()))


def test_our_verifier_finds_complete_transactions():
    key, records = _signed()
    verdicts = [check_record(text, key) for _, text in records]
    for (kind, _), verdict in zip(records, verdicts, strict=True):
        assert verdict.ok and verdict.kind == kind, verdict.reasons
        assert verdict.complete == (kind == "complete")
    report = check_all(verdicts)
    assert report.ok, (report.reasons, [session.reasons for session in report.sessions])
    assert [session.state for session in report.sessions] == ["complete"] * 5
    # Printed begin 123.456 and end 123.456 + 7.400499: the difference of what is printed
    assert [session.energy_mwh for session in report.sessions] == [7400000] * 5


def test_pyocmf_in_strict_mode_finds_complete_transactions():
    key, records = _signed()
    for kind, text in records:
        record = pyocmf.OCMF.from_string(text, strict=True)
        assert record.verify_signature(key) is True
        assert record.check_eichrecht(errors_only=True) == []
        letters = [str(reading.TX) for reading in record.payload.RD]
        assert all(reading.RI.is_law_relevant for reading in record.payload.RD)
        # With a begin and an end reading, pyocmf applies the transaction rules.
        assert letters[0] == "B"
        assert (letters[-1] in "ELRAP") == (kind == "complete")


def test_road_labs_ocmf_verifies_every_record():
    key, records = _signed()
    assert node(key, [text for _, text in records]) == [True] * len(records)


def test_every_changed_character_of_a_payload_is_refused_by_all():
    key, records = _signed()
    for kind in ("begin", "complete"):
        original = next(text for found, text in records if found == kind)
        changed = mutations(original)
        assert len(changed) > 1.5 * (original.rindex("|") - 5)
        for text in changed:
            assert not check_record(text, key).ok, text
            assert not pyocmf_accepts(key, text), text
        results = node(key, changed)
        assert len(results) == len(changed)
        accepted = [text for text, result in zip(changed, results, strict=True)
                    if result is True]
        assert not accepted


def test_the_calendar_agrees_with_datetime_on_every_day():
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    days = (datetime(2106, 1, 1, tzinfo=timezone.utc) - epoch).days
    for day in range(days):
        # Another time of day on each: 86399.999 s is the last moment, on the first day
        ms = (86399999 - day * 7919) % 86400000
        expected = epoch + timedelta(days=day, milliseconds=ms)
        text = expected.strftime("%Y-%m-%dT%H:%M:%S,") + "%03d+0000 U" % (ms % 1000)
        assert ocmf.timestamp(day * 86400000 + ms, "U") == text
