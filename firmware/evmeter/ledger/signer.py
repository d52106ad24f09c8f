"""Who signs: the interface, the signer in software, its key and its nonces.

A signer has `key_id` (8 hex digits: the first 4 bytes of the SHA-256 of the public key's DER),
`spki_hex()` (that DER, a SubjectPublicKeyInfo, in hex) and `async sign(digest)`, which returns the
DER of an ECDSA signature over a 32-byte SHA-256 digest or raises `SignerError`. A secure element
takes the software signer's place by offering the same three.
"""

import asyncio
import binascii
import hashlib

from evmeter.ledger import p256

# SubjectPublicKeyInfo of a P-256 key up to its uncompressed point (RFC 5480)
SPKI_HEAD = binascii.unhexlify(b"3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_PAD = b"\x36" * 32
_IPAD = int.from_bytes(_PAD, "big")
_OPAD_TAIL = b"\x5c" * 32
_OPAD = int.from_bytes(_OPAD_TAIL, "big")


class SignerError(Exception):
    """A key that cannot be used, a random source that fails, a signature that is not right."""


def _hmac(key, message):
    """Return HMAC-SHA256 (RFC 2104) under a key of exactly 32 bytes, half a block."""
    key = int.from_bytes(key, "big")
    inner = hashlib.sha256((key ^ _IPAD).to_bytes(32, "big") + _PAD)
    inner.update(message)
    outer = hashlib.sha256((key ^ _OPAD).to_bytes(32, "big") + _OPAD_TAIL)
    outer.update(inner.digest())
    return outer.digest()


def nonce(d, digest, extra=b""):
    """Return the nonce of RFC 6979 for the secret number `d` and a 32-byte digest.

    Without `extra` this is the deterministic nonce of section 3.2; with it, the variant of
    section 3.6 that takes additional data.
    """
    e = int.from_bytes(digest, "big") % p256.N
    seed = d.to_bytes(32, "big") + e.to_bytes(32, "big") + extra
    v = b"\x01" * 32
    key = b"\x00" * 32
    for tag in (b"\x00", b"\x01"):
        key = _hmac(key, v + tag + seed)
        v = _hmac(key, v)
    while True:
        v = _hmac(key, v)
        k = int.from_bytes(v, "big")
        if 0 < k < p256.N:
            return k
        key = _hmac(key, v + b"\x00")
        v = _hmac(key, v)


def generate_key(urandom):
    """Draw a secret key, 32 bytes, from `urandom(n)`.

    Raises `SignerError` when the source looks broken: short, hardly two bytes different, or the
    same twice. A draw outside 1..N-1, which happens once in 2**32, is drawn again.
    """
    before = urandom(32)
    for _ in range(8):
        secret = urandom(32)
        if len(secret) != 32 or secret == before or len(set(secret)) < 4:
            raise SignerError("the random source is broken: no key was made")
        if 0 < int.from_bytes(secret, "big") < p256.N:
            return secret
        before = secret
    raise SignerError("the random source gives no number in the key's range: no key was made")


def point(spki):
    """(x, y) of a public key, SubjectPublicKeyInfo in hex. Raises ValueError."""
    data = binascii.unhexlify(spki)
    x, y = [int.from_bytes(part, "big") for part in (data[27:59], data[59:])]
    if len(data) != 91 or data[:27] != SPKI_HEAD or not p256.on_curve(x, y):
        raise ValueError("no P-256 key")
    return x, y


def key_id(spki):
    """The short name of a public key, SubjectPublicKeyInfo in hex."""
    return binascii.hexlify(hashlib.sha256(binascii.unhexlify(spki)).digest()[:4]).decode()


def _integer(value):
    data = value.to_bytes(33, "big")
    at = 0
    # DER: as short as can be, with a leading zero where the top bit would make it negative
    while at < 32 and not data[at] and data[at + 1] < 128:
        at += 1
    return b"\x02" + bytes((33 - at,)) + data[at:]


def der(r, s):
    """Return the DER of a signature, SEQUENCE {INTEGER r, INTEGER s}: at most 72 bytes."""
    body = _integer(r) + _integer(s)
    return b"\x30" + bytes((len(body),)) + body


def _finish(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


async def run(generator):
    """Run a computation to its end, giving way to the other tasks after every slice."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
        await asyncio.sleep_ms(0)


class SoftwareSigner:
    """Signs with a key in memory.

    `failures` counts the signatures that did not verify and were not given out.
    """

    def __init__(self, secret, urandom):
        """Take a 32-byte secret key and `urandom(n)`, and compute the public key.

        This takes as long as a signature, without giving way: it belongs to the start, before
        the tasks run. Raises `SignerError` for a secret that is no P-256 key.
        """
        if len(secret) != 32:
            raise SignerError("a secret key has 32 bytes, not %d" % len(secret))
        self._d = int.from_bytes(secret, "big")
        if not 0 < self._d < p256.N:
            raise SignerError("the secret key is out of range")
        self._urandom = urandom
        self._count = 0
        self.failures = 0
        self._public = _finish(p256.base_mult(self._d, self._random(p256.P)))
        if not p256.on_curve(*self._public):
            raise SignerError("the public key is not on the curve")
        self.key_id = key_id(self.spki_hex())

    def _spki(self):
        x, y = self._public
        return SPKI_HEAD + x.to_bytes(32, "big") + y.to_bytes(32, "big")

    def spki_hex(self):
        """Return the public key as SubjectPublicKeyInfo in lower-case hex, 182 digits."""
        return binascii.hexlify(self._spki()).decode()

    def _random(self, limit):
        """Return a random number in 1..limit-1."""
        return int.from_bytes(self._urandom(32), "big") % (limit - 1) + 1

    async def sign(self, digest):
        """Sign a 32-byte digest and return the DER, verified; give way to other tasks meanwhile.

        A signature that does not verify is made once more. Raises `SignerError` when that one
        fails too, or when the digest has another length.
        """
        if len(digest) != 32:
            raise SignerError("a digest has 32 bytes, not %d" % len(digest))
        for _ in range(2):
            # Hedged: what faults or a stuck random source do to one part, the other holds. The
            # count keeps the nonces of two equal digests apart when the random source is stuck.
            self._count += 1
            extra = self._urandom(32) + self._count.to_bytes(8, "big")
            k = nonce(self._d, digest, extra)
            r, s = await run(
                p256.sign(self._d, digest, k, self._random(p256.P), self._random(p256.N))
            )
            x, y = self._public
            if await run(p256.verify(x, y, digest, r, s)):
                return der(r, s)
            self.failures += 1
        raise SignerError("the signature did not verify, twice: nothing was signed")
