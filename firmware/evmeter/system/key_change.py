"""A change of the signing key, loaded where one is ordered or under way.

`propose` makes a new key and writes the `log` entry "key_change" that both keys sign; once the
backend has confirmed everything, `adopt` puts the new key in the old one's place, and the device
is to be restarted. Until then the old key signs, after a power cut too.
"""

from evmeter.ledger.signer import SignerError, SoftwareSigner, generate_key
from evmeter.system import keys

CHANGE = "key_change"
_NEW = "key_new"
_NEW_SEQ = "key_new_seq"  # of the entry that both have signed


def _forget(nvs, *names):
    for name in names:
        try:
            nvs.erase_key(name)
        except OSError:
            continue  # it was not there


def proposed(nvs):
    """Number of the entry that announces the new key; 0 where no change is under way."""
    try:
        return nvs.get_i32(_NEW_SEQ)
    except OSError:
        return 0


async def propose(nvs, urandom, ledger, mono_ms):
    """Make a new key and announce it; returns the entry's number.

    Raises SignerError where a change is under way or there is no key yet, JournalError.
    """
    if not ledger.can_sign():
        raise SignerError("there is no key to change")
    if proposed(nvs):
        raise SignerError("a change of the key is under way: entry %d" % proposed(nvs))
    secret = generate_key(urandom)
    new = SoftwareSigner(secret, urandom)
    async with ledger.quiet:  # before the entry: what is announced must not be lost
        nvs.set_blob(_NEW, secret)
        nvs.commit()
    seq = await ledger.log(CHANGE, "", mono_ms, {"new_k": new.key_id, "new_spki": new.spki_hex()},
                           new_signer=new)
    async with ledger.quiet:
        nvs.set_i32(_NEW_SEQ, seq)
        nvs.commit()
    return seq


def adopt(nvs, journal):
    """Put the announced key in the old one's place where everything is confirmed; returns whether
    it was done, upon which the device is to be restarted: it still signs with the old one. To be
    called inside `async with ledger.quiet`."""
    seq = proposed(nvs)
    secret = keys.read(nvs, _NEW)
    if not seq or not secret or journal.cursor < seq or journal.unconfirmed():
        return False
    nvs.set_blob(keys.KEY, secret)
    _forget(nvs, _NEW, _NEW_SEQ)
    nvs.commit()
    return True
