"""The secure element with an emulated chip whose arithmetic is the cryptography package."""

import asyncio
import hashlib
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from drivers import atecc608
from evmeter.ledger import ocmf
from evmeter_tools.verify.check import check_record
from fakes import atecc
from fakes.virtual_time import VirtualTime

_HASH = ec.ECDSA(utils.Prehashed(hashes.SHA256()))


class Key:
    def __init__(self):
        self.new()

    def new(self):
        self._key = ec.generate_private_key(ec.SECP256R1())

    def public(self):
        return self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)[1:]

    def sign(self, digest):
        return b"".join(number.to_bytes(32, "big") for number in
                        utils.decode_dss_signature(self._key.sign(digest, _HASH)))


@pytest.fixture
def element(monkeypatch):
    time = VirtualTime()
    monkeypatch.setattr(atecc608, "time", time)
    # a name of its own: virtual time itself waits by the true asyncio.sleep_ms
    monkeypatch.setattr(atecc608, "asyncio", SimpleNamespace(Lock=asyncio.Lock,
                                                             sleep_ms=time.sleep_ms))
    one = atecc608.Atecc608(atecc.Chip(Key(), time))
    asyncio.run(one.open())
    return one


def test_signatures_are_the_right_ones_to_cryptography(element):
    public = serialization.load_der_public_key(bytes.fromhex(element.spki_hex()))
    for number in range(20):
        digest = hashlib.sha256(b"record %d" % number).digest()
        der = asyncio.run(element.sign(digest))
        public.verify(der, digest, _HASH)
        with pytest.raises(InvalidSignature):
            public.verify(der, hashlib.sha256(digest).digest(), _HASH)
    assert element.failures == element.retries == 0


def test_a_record_signed_by_the_chip_verifies(element):
    signed = ('{"FV":"1.0","GI":"evmeter","GS":"d1","GV":"1","PG":"T1","MV":"m","MM":"m",'
              '"MS":"1","IS":false,"IF":[],"IT":"NONE","ID":"","RD":[{"TM":'
              '"2026-03-01T12:00:00,000+0000 S","TX":"B","RV":1.0,"RI":"1-b:1.8.0","RU":"kWh",'
              '"RT":"AC","EF":"","ST":"G"}]}')
    der = asyncio.run(element.sign(hashlib.sha256(signed.encode()).digest()))
    verdict = check_record(signed.join(ocmf.envelope(der)), bytes.fromhex(element.spki_hex()))
    assert verdict.signature is True
