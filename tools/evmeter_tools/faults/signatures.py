"""Signatures: the firmware's own against the package `cryptography`, on every interpreter that is
there; records with one bit flipped; the shared tests of the arithmetic on 32 bits."""

import asyncio
import os
import subprocess

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from evmeter_tools.errors import UserError
from evmeter_tools.faults.result import Result
from evmeter_tools.measure import vm
from evmeter_tools.paths import ROOT
from evmeter_tools.verify.check import check_record

_HASH = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
_START_MS = 1_800_000_000_000
_PER_KEY = 10
_TIMEOUT_S = 900
_SHARED = ("test_p256", "test_p256_viper", "test_signer")


def _cpython(count):
    """As measure/scripts/signatures.py, here."""
    from evmeter.ledger.signer import SoftwareSigner, generate_key

    for number in range(count):
        if number % _PER_KEY == 0:
            signer = SoftwareSigner(generate_key(os.urandom), os.urandom)
        digest = os.urandom(32)
        yield signer.spki_hex(), digest.hex(), asyncio.run(signer.sign(digest)).hex()


def _micropython(machine, count, *arguments):
    command, env = machine.command("signatures.py", str(count), *arguments)
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True,
                          timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise UserError("signatures.py: %s" % (done.stderr or done.stdout).strip()[-200:])
    return [line.split() for line in done.stdout.splitlines()]


def _sources(count):
    """Yield (name, its signatures as (public key, digest, DER), in hex)."""
    yield "CPython", _cpython(count)
    yield "MicroPython, 64 bits", _micropython(vm.host(), count)
    small = vm.present()
    if small:
        yield "MicroPython, 32 bits", _micropython(small, count)
        yield "MicroPython, 32 bits, viper", _micropython(small, count, "viper")


def judge(signatures):
    """Yield what is wrong with signatures: one that does not verify, a nonce met before."""
    met = set()
    for spki, digest, der in signatures:
        key = serialization.load_der_public_key(bytes.fromhex(spki))
        signature = bytes.fromhex(der)
        try:
            key.verify(signature, bytes.fromhex(digest), _HASH)
        except InvalidSignature:
            yield "a signature that does not verify: %s" % der
        r, _ = utils.decode_dss_signature(signature)
        if r in met:
            yield "a nonce used twice: r is %x" % r
        met.add(r)


def _record():
    """(a record's payload, the DER of its signature, the public key)."""
    from evmeter.ledger import ocmf
    from evmeter.ledger.signer import SoftwareSigner, generate_key

    signer = SoftwareSigner(generate_key(os.urandom), os.urandom)
    readings = [(_START_MS, "S", "B", 1_234_567_000, "", "G"),
                (_START_MS + 3_600_000, "S", "E", 1_241_967_000, "", "G")]
    text = ocmf.payload("complete", {"GI": "evmeter", "GS": "demo-0001", "GV": "1", "MV": "m",
                                     "MM": "m", "MS": "4711"}, 2, 1000, readings,
                        [("ZP", "0" * 32), ("ZS", "demo-0001-000001")])
    digest = hashes.Hash(hashes.SHA256())
    digest.update(text.encode())
    der = asyncio.run(signer.sign(digest.finalize()))
    return text, der, bytes.fromhex(signer.spki_hex())


def _flipped(data):
    """Yield `data` with each of its bits flipped."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1:]


def changed_records(text, der):
    """Yield each record that differs from the right one by one bit of payload or signature."""
    from evmeter.ledger import ocmf

    for payload in _flipped(text.encode()):
        yield payload.decode("latin-1").join(ocmf.envelope(der))
    for signature in _flipped(der):
        yield text.join(ocmf.envelope(signature))


def _accepted(record, spki):
    return check_record(record, spki).ok


def _without_signature(record, spki):
    """A wrong design: it takes what has the form of a record."""
    return all("ignature" in reason for reason in check_record(record, spki).reasons)


def _wrong_signers():
    """Yield (name of a wrong design, what it signs)."""
    from evmeter.ledger import p256
    from evmeter.ledger.signer import der

    def run(generator):
        while True:
            try:
                next(generator)
            except StopIteration as end:
                return end.value

    secret = ec.generate_private_key(ec.SECP256R1())
    number = secret.private_numbers().private_value
    spki = secret.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()

    def signatures(nonce, fault):
        for _ in range(3):
            digest = os.urandom(32)
            r, s = run(p256.sign(number ^ fault, digest, nonce(), 3, 5))
            yield spki, digest.hex(), der(r, s).hex()

    yield "a signer that does not check what a fault made of it", signatures(
        lambda: int.from_bytes(os.urandom(31), "big") + 1, 1 << 77)
    yield "a signer with one nonce", signatures(lambda: 12345, 0)


def _shared_tests(result):
    small = vm.present()
    for name in _SHARED if small else ():
        command, env = small.command(str(ROOT / "host_tests/run_micropython.py"), name,
                                     heap="128k", path=(ROOT / "host_tests",))
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True,
                              timeout=_TIMEOUT_S, check=False)
        result.counts["test files on 32 bits"] += 1
        if done.returncode:
            result.wrong("%s on 32 bits: %s" % (name, done.stdout.strip()[-200:]))


def run(trials, progress=lambda done, all_: None, shared=True):
    """`trials` signatures on each interpreter, every bit of a record, the wrong designs."""
    result = Result("hostile-signatures")
    for name, signatures in _sources(trials):
        found = list(signatures)
        result.trials += len(found)
        result.counts[name] = len(found)
        for text in judge(found):
            result.wrong("%s: %s" % (name, text))
        progress(result.trials, 4 * trials)
    text, der, spki = _record()
    from evmeter.ledger import ocmf

    if not _accepted(text.join(ocmf.envelope(der)), spki):
        result.wrong("the right record is refused")
    credulous = 0
    for number, record in enumerate(changed_records(text, der)):
        result.trials += 1
        result.counts["bits flipped"] += 1
        if _accepted(record, spki):
            result.wrong("a record with bit %d flipped is accepted" % number)
        credulous += number % 16 == 0 and _without_signature(record, spki)
    result.controls["a verifier that looks at the form only"] = credulous > 0
    for name, signatures in _wrong_signers():
        result.controls[name] = any(judge(signatures))
    if shared:
        _shared_tests(result)
    return result
