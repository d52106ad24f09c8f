"""The signing key in the second store, made on the device and never given out."""

from evmeter.ledger.signer import SignerError, SoftwareSigner, generate_key
from evmeter.system.log import log

KEY = "key"
_KEY_BYTES = 32


def read(nvs, name):
    """The secret under `name`, or None."""
    secret = bytearray(_KEY_BYTES)
    try:
        if nvs.get_blob(name, secret) != _KEY_BYTES:
            return None
    except OSError:
        return None
    return bytes(secret)


def _go_native(urandom):
    """Let the native kernel do the arithmetic from now on, where it can."""
    try:
        from evmeter.ledger import p256_viper

        why_not = p256_viper.install(urandom)
    except (ImportError, MemoryError) as error:
        why_not = repr(error)
    if why_not:
        log.warning("no native kernel, signatures are made in Python: %s", why_not)


def load(nvs, urandom, native=False):
    """The signer over the stored key, or None where there is none or it is damaged. `native`:
    with the kernel in machine code where that can be had, which takes 30 KiB."""
    secret = read(nvs, KEY)
    if not secret:
        return None
    if native:
        _go_native(urandom)
    try:
        return SoftwareSigner(secret, urandom)
    except SignerError as error:  # flash that was lost: the device meters all the same
        log.error("the signing key is damaged: %s", error)
        return None


def make(nvs, urandom):
    """Make and store a key where there is none yet; returns the signer."""
    signer = load(nvs, urandom)
    if signer is None:
        nvs.set_blob(KEY, generate_key(urandom))
        nvs.commit()
        signer = load(nvs, urandom)
    return signer
