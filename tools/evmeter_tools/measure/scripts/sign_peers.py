# sign_peers.py NAME: on CPython, one deterministic signature of another project's package against
# ours, in us, best of several in turn. On MicroPython: whether it can be imported at all.
import hashlib
import json
import sys
import time

_D = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721  # RFC 6979 A.2.5
_X = 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
_Y = 0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299
DIGEST = hashlib.sha256(b"sample").digest()


def _starkbank():
    from ellipticcurve.curve import prime256v1
    from ellipticcurve.ecdsa import Ecdsa
    from ellipticcurve.privateKey import PrivateKey

    key = PrivateKey(prime256v1, _D)

    def sign():
        made = Ecdsa.sign("sample", key)
        return made.r, made.s

    return sign


def _ecdsa():
    from hashlib import sha256

    from ecdsa import NIST256p, SigningKey

    key = SigningKey.from_secret_exponent(_D, NIST256p, sha256)
    return lambda: key.sign_deterministic(b"sample", sigencode=lambda r, s, order: (r, s))


def _finish(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _ours():
    from evmeter.ledger import p256
    from evmeter.ledger.signer import nonce

    return lambda: _finish(p256.sign(_D, DIGEST, nonce(_D, DIGEST), 12345, 67890))


def _check(sign):
    from evmeter.ledger import p256

    if not _finish(p256.verify(_X, _Y, DIGEST, *sign())):
        raise ValueError("the signature is wrong")


def best(function, rounds):
    least = 1 << 60
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        function()
        least = min(least, time.perf_counter_ns() - begin)
    return least / 1000


theirs = {"starkbank_ecdsa": _starkbank, "ecdsa": _ecdsa}[sys.argv[1]]()
ours = _ours()
_check(theirs)
_check(ours)
found = [1 << 60, 1 << 60]
for _ in range(10):
    for at, function in enumerate((theirs, ours)):
        found[at] = min(found[at], best(function, 10))
print(json.dumps({"theirs_us": found[0], "ours_us": found[1]}))
