"""The signatures in a journal: records (OCMF) and audit entries, against the device's keys."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.journal.scan import Fault
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import (
    KEY_CHANGE,
    KeyFormatError,
    RecordError,
    key_change,
    key_id,
    parse_key,
)

# An audit entry's signature is its last field, over the text before this (ledger/ledger.py, log)
_SIGNED_UNTIL = b', "sg": "'
_END = b'"}'


def _audit_faults(entry, key):
    """Yield what is wrong with the signature of an audit entry."""
    signed, found, rest = entry.payload.rpartition(_SIGNED_UNTIL)
    if not found:
        yield "the audit entry is not signed"
        return
    try:
        der = bytes.fromhex(rest.removesuffix(_END).decode("ascii"))
        serialization.load_der_public_key(key).verify(der, signed, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        yield "the audit entry's signature does not belong to its text"
        return
    if entry.message.get("ev") == KEY_CHANGE:
        try:
            key_change(entry.message, signed)
        except (RecordError, KeyFormatError) as error:
            yield str(error)


def _entry_faults(entry, keys):
    name = entry.message.get("k")
    key = keys.get(name) if isinstance(name, str) else None
    if key is None:
        yield "signed by key %.16s, which was not given" % name if name else "names no key"
    elif entry.kind == "log":
        yield from _audit_faults(entry, key)
    else:
        yield from check_record(str(entry.message.get("ocmf")), key).reasons


def signature_faults(entries, keys):
    """Yield a `Fault` for each record and audit entry that does not hold under its key; `keys`
    are DER. A key that a known one announces is known from there on. What lies between records
    is the matter of evmeter verify."""
    named = {key_id(key): key for key in keys}
    for entry in entries:
        if entry.kind in ("rec", "log") and entry.message is not None:
            faults = list(_entry_faults(entry, named))
            for text in faults:
                yield Fault(text, entry.file, entry.offset, entry.seq)
            if not faults and entry.kind == "log" and entry.message.get("ev") == KEY_CHANGE:
                named[entry.message["new_k"]] = parse_key(entry.message["new_spki"])
