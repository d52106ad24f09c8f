# sign.py [viper]: one full signature against naive affine double-and-add, in us, best of several;
# with viper on the native kernel.
import gc
import hashlib
import json
import os
import sys
import time

from evmeter.ledger import p256
from evmeter.ledger.p256 import N, P
from evmeter.ledger.signer import der, nonce

_GX = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
_GY = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
_D = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721  # RFC 6979 A.2.5
DIGEST = hashlib.sha256(b"sample").digest()


WHY_NOT = ""
if "viper" in sys.argv:
    from evmeter.ledger import p256_viper

    WHY_NOT = p256_viper.install(os.urandom)


def _naive_add(a, b):
    if a is None:
        return b
    x1, y1 = a
    x2, y2 = b
    if x1 == x2:
        slope = 3 * (x1 * x1 - 1) * pow(2 * y1, P - 2, P) % P
    else:
        slope = (y2 - y1) * pow(x2 - x1, P - 2, P) % P
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def naive():
    k = nonce(_D, DIGEST)
    result, point, bits = None, (_GX, _GY), k
    while bits:
        if bits & 1:
            result = _naive_add(result, point)
        point = _naive_add(point, point)
        bits >>= 1
    r = result[0] % N
    e = int.from_bytes(DIGEST, "big")
    return der(r, (e + r * _D) * pow(k, N - 2, N) % N)


def _finish(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def _random(limit):
    return int.from_bytes(os.urandom(32), "big") % (limit - 1) + 1


def ours():
    k = nonce(_D, DIGEST)
    return der(*_finish(p256.sign(_D, DIGEST, k, _random(P), _random(N))))


PUBLIC = _finish(p256.base_mult(_D, 1))


def checked():
    k = nonce(_D, DIGEST)
    r, s = _finish(p256.sign(_D, DIGEST, k, _random(P), _random(N)))
    if not _finish(p256.verify(PUBLIC[0], PUBLIC[1], DIGEST, r, s)):
        raise ValueError("not verified")
    return der(r, s)


def best(function, rounds):
    least = 1 << 60
    for _ in range(rounds):
        gc.collect()
        begin = time.ticks_us()
        function()
        least = min(least, time.ticks_diff(time.ticks_us(), begin))
    return least


def naive_us():
    # the process's own time, in ms: long enough that another program would get in between
    begin = time.clock()
    for _ in range(2):
        naive()
    return round((time.clock() - begin) * 500000)


if naive() != ours():
    raise ValueError("the two signatures differ")
# in turn, so that a busy machine meets both
slow, fast, both = 1 << 60, 1 << 60, 1 << 60
for _ in range(8):
    slow = min(slow, naive_us())
    fast = min(fast, best(ours, 20))
    both = min(both, best(checked, 3))
gc.collect()
gc.disable()
before = gc.mem_alloc()
ours()
garbage = gc.mem_alloc() - before
print(json.dumps({"naive_us": slow, "sign_us": fast, "checked_us": both, "bytes": garbage,
                  "why_not": WHY_NOT}))
