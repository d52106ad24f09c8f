import asyncio
import hashlib
import os

from evmeter.ledger import p256, signer
from support import raises

_D = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
# RFC 6979 A.2.5, SHA-256: message, k, r, s
_RFC6979 = (
    (
        b"sample",
        0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60,
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    (
        b"test",
        0xD16B6AE827F17175E040871A1C7EC3500192C4C92677336EC2537ACAEE0008E0,
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
)
_SPKI = (
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)


def _signer(urandom=os.urandom):
    return signer.SoftwareSigner(_D.to_bytes(32, "big"), urandom)


def _numbers(der):
    """Return r and s of a DER signature, with the lengths checked."""
    assert der[0] == 0x30 and der[1] == len(der) - 2
    values = []
    at = 2
    for _ in range(2):
        assert der[at] == 2
        body = der[at + 2 : at + 2 + der[at + 1]]
        assert body and body[0] < 128 and (len(body) == 1 or body[0] or body[1] > 127)
        values.append(int.from_bytes(body, "big"))
        at += 2 + len(body)
    assert at == len(der)
    return values


def _verify(signer_, digest, der):
    r, s = _numbers(der)
    point = bytes([int(signer_.spki_hex()[i : i + 2], 16) for i in range(54, 182, 2)])
    x, y = (int.from_bytes(point[i : i + 32], "big") for i in (0, 32))
    check = p256.verify(x, y, digest, r, s)
    while True:
        try:
            next(check)
        except StopIteration as end:
            return end.value


def test_rfc_6979_vectors():
    for message, k, r, s in _RFC6979:
        digest = hashlib.sha256(message).digest()
        assert signer.nonce(_D, digest) == k
        steps = p256.sign(_D, digest, k, 12345, 67890)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                assert end.value == (r, s)
                break


def test_hmac_vectors():
    # RFC 4231 has no key of 32 bytes but one of case 4 padded: a key is padded with zeros.
    key = bytes(range(1, 26)) + bytes(7)
    expected = "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"
    found = signer._hmac(key, b"\xcd" * 50)
    assert "".join(["%02x" % byte for byte in found]) == expected


def test_additional_data_changes_the_nonce():
    digest = hashlib.sha256(b"sample").digest()
    plain = signer.nonce(_D, digest)
    assert signer.nonce(_D, digest, b"\x00") != plain
    assert signer.nonce(_D, digest, b"\x01") != signer.nonce(_D, digest, b"\x02")
    assert 0 < signer.nonce(_D, b"\xff" * 32, b"x") < p256.N


def test_public_key_and_its_name():
    it = _signer()
    assert it.spki_hex() == _SPKI
    spki = bytes([int(_SPKI[i : i + 2], 16) for i in range(0, 182, 2)])
    assert it.key_id == "".join(["%02x" % b for b in hashlib.sha256(spki).digest()[:4]])


def test_signatures_verify_and_never_repeat():
    it = _signer()
    digest = hashlib.sha256(b"a record").digest()
    seen = set()
    for _ in range(3):
        der = asyncio.run(it.sign(digest))
        assert _verify(it, digest, der) is True
        assert _verify(it, hashlib.sha256(b"another").digest(), der) is False
        seen.add(_numbers(der)[0])
    assert len(seen) == 3
    assert it.failures == 0


def test_a_stuck_random_source_repeats_no_nonce():
    it = _signer(lambda count: b"\x55" * count)
    digest = hashlib.sha256(b"a record").digest()
    first, second = (_numbers(asyncio.run(it.sign(digest))) for _ in range(2))
    assert first[0] != second[0]


def test_other_tasks_run_while_it_signs():
    it = _signer()
    turns = []

    async def other():
        while True:
            turns.append(1)
            await asyncio.sleep_ms(0)

    async def main():
        task = asyncio.create_task(other())
        await it.sign(bytes(32))
        task.cancel()

    asyncio.run(main())
    # 22 slices of signing and about 70 of verifying
    assert len(turns) > 80


def test_two_signatures_at_once():
    it = _signer()
    digests = [hashlib.sha256(text).digest() for text in (b"one", b"two")]

    async def main():
        return await asyncio.gather(*[it.sign(digest) for digest in digests])

    for digest, der in zip(digests, asyncio.run(main())):
        assert _verify(it, digest, der) is True


class _Faulty(signer.SoftwareSigner):
    """A signer whose secret number is hit by a fault for the next `faults` signatures."""

    faults = 0

    @property
    def _d(self):
        if self.faults > 0:
            # Read once for the nonce and once for the signature
            self.faults -= 1
            return self.secret ^ 1 << 77
        return self.secret

    @_d.setter
    def _d(self, value):
        self.secret = value


def test_a_failed_signature_is_made_again_and_counted():
    digest = hashlib.sha256(b"a record").digest()
    for faults, failures in ((2, 1), (4, 2)):
        it = _Faulty(_D.to_bytes(32, "big"), os.urandom)
        it.faults = faults
        if failures == 1:
            assert _verify(it, digest, asyncio.run(it.sign(digest))) is True
        else:
            assert "twice" in str(raises(signer.SignerError, asyncio.run, it.sign(digest)))
        assert it.failures == failures


def test_a_flipped_intermediate_is_noticed_wherever_it_is():
    digest = hashlib.sha256(b"a record").digest()
    it = _signer()
    comb, inverse = p256._comb, p256.inverse
    hits = []

    def flipped_comb(coordinate):
        def faulty(k, blind):
            point = yield from comb(k, blind)
            if hits:
                return point
            hits.append(1)
            return point[:coordinate] + (point[coordinate] ^ 1 << 99,) + point[coordinate + 1:]

        return faulty

    def flipped_inverse(modulus):
        def faulty(a, m):
            if hits or m != modulus:
                return inverse(a, m)
            hits.append(1)
            return inverse(a, m) ^ 1

        return faulty

    for name, faulty in (("_comb", flipped_comb(0)), ("_comb", flipped_comb(2)),
                         ("inverse", flipped_inverse(p256.P)),
                         ("inverse", flipped_inverse(p256.N))):
        hits.clear()
        before = it.failures
        setattr(p256, name, faulty)
        try:
            found = asyncio.run(it.sign(digest))
        finally:
            p256._comb, p256.inverse = comb, inverse
        assert hits and it.failures == before + 1
        assert _verify(it, digest, found) is True


def test_a_bad_secret_or_digest_is_refused():
    for secret, words in (
        (b"", "32 bytes, not 0"),
        (bytes(31), "32 bytes, not 31"),
        (bytes(32), "out of range"),
        (p256.N.to_bytes(32, "big"), "out of range"),
        (b"\xff" * 32, "out of range"),
    ):
        error = raises(signer.SignerError, signer.SoftwareSigner, secret, os.urandom)
        assert words in str(error)
    assert "not 20" in str(raises(signer.SignerError, asyncio.run, _signer().sign(bytes(20))))


def _source(*draws):
    """Return a urandom that gives these draws one after another, the last for ever."""
    left = list(draws)

    def urandom(count):
        return left.pop(0) if len(left) > 1 else left[0]

    return urandom


def test_key_generation_checks_its_source():
    key = signer.generate_key(os.urandom)
    assert len(key) == 32 and key != signer.generate_key(os.urandom)
    good = bytes(range(32))
    over = p256.N.to_bytes(32, "big")
    assert signer.generate_key(_source(bytes(32), over, good)) == good
    for draws, words in (
        ((good,), "broken"),
        ((good, bytes(32)), "broken"),
        ((good, b"\xff" * 32), "broken"),
        ((good, b"\x00\x01" * 16), "broken"),
        ((good, good[:31]), "broken"),
        ((good, over, over), "broken"),
        ([(p256.N + i).to_bytes(32, "big") for i in range(12)], "range"),
    ):
        error = raises(signer.SignerError, signer.generate_key, _source(*draws))
        assert words in str(error)


def test_der_is_minimal():
    top = 2**255
    for r, s, text in (
        (1, 127, "300602010102017f"),
        (128, 255, "300802020080020200ff"),
        (256, 0x7FFF, "30080202010002027fff"),
        (top, top - 1, "3045022100" + "80" + "00" * 31 + "0220" + "7f" + "ff" * 31),
    ):
        assert "".join(["%02x" % byte for byte in signer.der(r, s)]) == text
    assert len(signer.der(p256.N - 1, p256.N - 1)) == 72
