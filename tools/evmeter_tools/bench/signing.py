"""The signing part of an emulated Bauer BSM-WS36A: snapshots, their OCMF, clock, public key.

Addresses, models and texts are those of chargeIT mobility's integrator's documentation (bsm-python
on GitHub). The signature is by the package `cryptography`.
"""

import asyncio
import hashlib
import struct
from datetime import UTC, datetime, timedelta, timezone

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# kind -> (number of the type, TX letter, address of the snapshot, of its OCMF)
_KINDS = {"current": (0, "C", 40521, 41791), "start": (3, "B", 41283, 43291),
          "end": (4, "E", 41537, 43791)}
_SNAPSHOT, _OCMF = (64901, 252), (64903, 498)
_STATUS_AT, _TEXT_AT, _TEXT_BYTES = 3, 4, 992
_INVALID, _VALID, _UPDATING = 1, 0, 2
_KEY, _KEY_BYTES = 40449, 96
_EPOCH, _TZO = 40260, 40262
_CALLED, _CALLED_REGISTERS = 40279, 70
_FIRST, _BEYOND = 40197, 44293
_NAME = "BSM-WS36A-H01-1311-0000"


class SigningPart:
    """`register_wh()` is the meter's import register; `signing_s` what a signature takes."""

    addresses = range(_FIRST, _BEYOND)

    def __init__(self, serial, register_wh, signing_s=1.0):
        self._serial = "001BZR%010d" % serial
        self._register_wh = register_wh
        self._signing_s = signing_s
        secret = hashlib.sha256(b"evmeter emulated meter %d" % serial).digest()
        self._key = ec.derive_private_key(int.from_bytes(secret, "big") % (_ORDER - 1) + 1,
                                          ec.SECP256R1())
        self._words = {}
        self._ready = asyncio.Event()
        self._ready.set()
        self._count = 4275
        self._begin_wh = 0
        self._epoch_set = None  # what was written, and when by the loop's clock
        self._put(_EPOCH, b"\xff\xff\xff\xff\x80\0")
        self._put(_KEY, struct.pack(">HH", _KEY_BYTES // 2, len(self.spki))
                  + self.spki.ljust(_KEY_BYTES, b"\0"))
        for _, _, snapshot, ocmf in _KINDS.values():
            for address, model in ((snapshot, _SNAPSHOT), (ocmf, _OCMF)):
                self._put(address, struct.pack(">HH", *model))
                self._words[address + _STATUS_AT] = _INVALID

    @property
    def spki(self):
        """The public key's DER."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def _put(self, address, data):
        for at, (word,) in enumerate(struct.iter_unpack(">H", data)):
            self._words[address + at] = word

    def words(self, address, count):
        """Address -> word of a part of the registers."""
        return {at: self._words.get(at, 0) for at in range(address, address + count)}

    async def ready(self):
        """The meter does not answer while it signs."""
        await self._ready.wait()

    def write(self, address, values):
        """Take written registers; what cannot be written is ignored, as in the meter."""
        for at, value in enumerate(values, address):
            if at in range(_CALLED, _CALLED + _CALLED_REGISTERS):
                self._words[at] = value
        if address == _EPOCH and len(values) >= 2:
            self._epoch_set = (values[0] << 16 | values[1], asyncio.get_running_loop().time())
            self._put(_EPOCH, struct.pack(">%dH" % len(values), *values))
        for kind, (_, _, snapshot, ocmf) in _KINDS.items():
            if address == snapshot + _STATUS_AT and values == [_UPDATING]:
                self._words[address] = self._words[ocmf + _STATUS_AT] = _UPDATING
                self._ready.clear()
                asyncio.get_running_loop().call_later(self._signing_s, self._finish, kind)

    def _finish(self, kind):
        number, letter, snapshot, ocmf = _KINDS[kind]
        self._count += 1
        if letter == "B":
            self._begin_wh = self._register_wh()
        text = self._text(number, letter)
        self._put(ocmf + _TEXT_AT, text.encode().ljust(_TEXT_BYTES, b"\0"))
        self._words[snapshot + _STATUS_AT] = self._words[ocmf + _STATUS_AT] = _VALID
        self._ready.set()

    def _time(self):
        zone = struct.unpack(">h", struct.pack(">H", self._words[_TZO]))[0]
        if self._epoch_set is None:
            return datetime.fromtimestamp(0, UTC).strftime("%Y-%m-%dT%H:%M:%S,000+0000 U")
        seconds = self._epoch_set[0] + asyncio.get_running_loop().time() - self._epoch_set[1]
        local = datetime.fromtimestamp(int(seconds), timezone(timedelta(minutes=zone)))
        return local.strftime("%Y-%m-%dT%H:%M:%S,000%z S")

    def _text(self, number, letter):
        """The OCMF of a snapshot, as the meter writes it: energy in steps of 10 Wh."""
        called = b"".join(self._words.get(_CALLED + at, 0).to_bytes(2, "big")
                          for at in range(_CALLED_REGISTERS)).rstrip(b"\0").decode("latin-1")
        total_wh = self._register_wh()
        payload = (
            '{"FV":"1.0","GI":"BAUER Electronic %s","GS":"%s","GV":"1.9:32CA:AFF4, f1d3d06",'
            '"PG":"T%d","MV":"BAUER Electronic","MM":"%s","MS":"%s","IS":true,"IT":"UNDEFINED",'
            '"ID":"%s","RD":[{"TM":"%s","TX":"%s","RV":%.2f,"RI":"1-0:1.8.0*198","RU":"kWh",'
            '"XV":%.2f,"XI":"1-0:1.8.0*255","XU":"kWh","XT":%d,"RT":"AC","EF":"","ST":"G"}]}'
            % (_NAME, self._serial, self._count, _NAME, self._serial, called, self._time(), letter,
               (total_wh - self._begin_wh) // 10 / 100, total_wh // 10 / 100, number))
        der = self._key.sign(payload.encode(), ec.ECDSA(hashes.SHA256()))
        return 'OCMF|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"%s"}' % (payload, der.hex())
