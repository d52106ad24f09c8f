"""Records signed by `cryptography`, right ones and any other: for the tests under CPython."""

import hashlib
import json
import re

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter.ledger import ocmf

START_MS = 1800000000000
HOUR_MS = 3600000


class Forge:
    """A device that signs what it is told. `texts` has its records, `payloads` their contents."""

    def __init__(self, secret=7, gateway="demo-0001", page=1):
        self.key = ec.derive_private_key(secret, ec.SECP256R1())
        self._gateway = gateway
        self.page = page
        self.previous = "0" * 32
        self.texts = []
        self.spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, payload):
        """The record over a payload's text as it stands."""
        der = self.key.sign(payload.encode(), ec.ECDSA(hashes.SHA256()))
        return payload.join(ocmf.envelope(der))

    def record(self, readings, sid, change=None, **fields):
        """Append a record over `readings`: (hours, TX, register mWh, further keys);
        `change(payload)` alters it before it is signed; `fields` replace or add keys, None leaves
        one out."""
        payload = {
            "FV": "1.0", "GI": "evmeter", "GS": self._gateway, "GV": "0.1.0",
            "PG": "T%d" % self.page, "MV": "Eastron", "MM": "SDM120", "MS": "12345678",
            "IS": False, "IL": "NONE", "IF": [], "IT": "NONE", "ID": "",
            "RD": [reading(*each) for each in readings],
            "ZP": self.previous, "ZS": sid, "ZQ": "meter",
        }
        payload.update(fields)
        payload = {key: value for key, value in payload.items() if value is not None}
        if change:
            change(payload)
        text = json.dumps(payload, separators=(",", ":"))
        # registers stand as texts until here, for their digits count
        text = re.sub(r'"RV":"([0-9.]+)"', r'"RV":\1', text)
        self.page += 1
        self.previous = hashlib.sha256(text.encode()).digest()[:16].hex()
        self.texts.append(self.sign(text))
        return self.texts[-1]

    def session(self, number=1, start_h=0, start_mwh=100_000_000, energy_mwh=7_400_000, **fields):
        """Append a begin and a complete record of one hour."""
        sid = "%s-%06d" % (self._gateway, number)
        begin = (start_h, "B", start_mwh, {})
        self.record([begin], sid)
        self.record([begin, (start_h + 1, "E", start_mwh + energy_mwh, {})], sid, ZB=1, **fields)
        return sid


def reading(hours, tx, mwh, more=()):
    """A reading `hours` after the start; `more` replaces keys, None leaves one out."""
    value = {"TM": ocmf.timestamp(START_MS + int(hours * HOUR_MS), "I"), "TX": tx,
             "RV": ocmf.register(mwh, 1000), "RI": "01-00:B0.08.00*FF", "RU": "kWh", "RT": "AC",
             "EF": "", "ST": "G"}
    value.update(more)
    return {key: item for key, item in value.items() if item is not None}
