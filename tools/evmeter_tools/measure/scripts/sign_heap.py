# sign_heap.py [viper]: import the signer, make one signature; fails where the heap is too small.
import asyncio
import os
import sys

from evmeter.ledger.signer import SoftwareSigner

if "viper" in sys.argv:
    from evmeter.ledger import p256_viper

    why_not = p256_viper.install(os.urandom)
    if why_not:
        raise MemoryError(why_not)

signer = SoftwareSigner(bytes(range(1, 33)), os.urandom)
asyncio.run(signer.sign(bytes(32)))
print('{"signed": 1}')
