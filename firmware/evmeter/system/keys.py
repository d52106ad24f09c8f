"""The signing key in the second store, made on the device and never given out."""

from evmeter.ledger.signer import SoftwareSigner, generate_key

_KEY = "key"
_KEY_BYTES = 32


def load(nvs, urandom):
    """The signer over the stored key, or None where there is none."""
    secret = bytearray(_KEY_BYTES)
    try:
        if nvs.get_blob(_KEY, secret) != _KEY_BYTES:
            return None
    except OSError:
        return None
    return SoftwareSigner(bytes(secret), urandom)


def make(nvs, urandom):
    """Make and store a key where there is none yet; returns the signer."""
    signer = load(nvs, urandom)
    if signer is None:
        nvs.set_blob(_KEY, generate_key(urandom))
        nvs.commit()
        signer = load(nvs, urandom)
    return signer
