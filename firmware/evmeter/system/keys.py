"""The signing key in the second store, made on the device and never given out."""

from evmeter.ledger.signer import SoftwareSigner, generate_key

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


def load(nvs, urandom):
    """The signer over the stored key, or None where there is none."""
    secret = read(nvs, KEY)
    return SoftwareSigner(secret, urandom) if secret else None


def make(nvs, urandom):
    """Make and store a key where there is none yet; returns the signer."""
    signer = load(nvs, urandom)
    if signer is None:
        nvs.set_blob(KEY, generate_key(urandom))
        nvs.commit()
        signer = load(nvs, urandom)
    return signer
