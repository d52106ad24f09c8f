# signatures.py COUNT [viper]: sign COUNT random digests with random keys, ten with each; prints
# the public key, the digest and the signature of each, in hex.
import asyncio
import binascii
import os
import sys

from evmeter.ledger.signer import SoftwareSigner, generate_key

if "viper" in sys.argv:
    from evmeter.ledger import p256_viper

    why_not = p256_viper.install(os.urandom)
    if why_not:
        raise ValueError("no kernel: " + why_not)


def text(data):
    return binascii.hexlify(data).decode()


async def main():
    for number in range(int(sys.argv[1])):
        if number % 10 == 0:
            signer = SoftwareSigner(generate_key(os.urandom), os.urandom)
        digest = os.urandom(32)
        print(signer.spki_hex(), text(digest), text(await signer.sign(digest)))


asyncio.run(main())
