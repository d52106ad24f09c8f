"""The signatures in a journal: records (OCMF) and audit entries, against the device's keys."""

from evmeter_tools.journal.scan import Fault
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import key_id


def _entry_faults(entry, keys):
    """Yield what is wrong with a record or an audit entry; a key that it announces is known from
    there on."""
    name = entry.message.get("k")
    key = keys.get(name) if isinstance(name, str) else None
    if key is None:
        yield "signed by key %.16s, which was not given" % name if name else "names no key"
    elif entry.kind == "log":
        found = check_entry(entry.payload.decode("utf-8", "surrogateescape"), key)
        if found.new_key:
            keys[key_id(found.new_key)] = found.new_key
        yield from ("audit entry: " + text for text in found.reasons)
    else:
        yield from check_record(str(entry.message.get("ocmf")), key).reasons


def signature_faults(entries, keys):
    """Yield a `Fault` for each record and audit entry that does not hold under its key; `keys`
    are DER. What lies between records is the matter of evmeter verify."""
    named = {key_id(key): key for key in keys}
    for entry in entries:
        if entry.kind in ("rec", "log") and entry.message is not None:
            for text in _entry_faults(entry, named):
                yield Fault(text, entry.file, entry.offset, entry.seq)
