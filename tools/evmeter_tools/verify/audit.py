"""Judge signed audit entries: changes of the key, and the records of a meter that signs itself.

An entry is a `log` message as the device sent it. Its signature is its last field, over the text
before the comma that leads to it (firmware/evmeter/ledger/ledger.py).
"""

from dataclasses import dataclass, field
from decimal import Decimal

from evmeter_tools.verify.parse import (
    KEY_CHANGE,
    KeyFormatError,
    RecordError,
    check_signature,
    key_change,
    key_id,
    parse_key,
    signed_part,
    split,
    strict_json,
)
from evmeter_tools.verify.readings import parse_time, register_mwh

METER_RECORD = "meter_record"
FIRMWARE = "firmware"
_MOST_CHARACTERS = 8192
_TOTAL = "1-0:1.8.0*255"


@dataclass
class OwnRecord:
    """A record that the meter signed itself, verbatim in an audit entry.

    `total_mwh` is its total import register, with the step that its digits show, `energy_mwh` the
    register of the transaction; None where it does not tell. `signature`: by the meter's own key.
    """

    text: str
    tx: str
    key: bytes | None = None
    signature: bool = False
    payload: dict = field(default_factory=dict)
    time: object = None
    total_mwh: int | None = None
    step_mwh: int = 0
    energy_mwh: int | None = None
    status: str = ""

    @property
    def page(self):
        """Its pagination, as text."""
        return str(self.payload.get("PG"))

    @property
    def serial(self):
        """The meter's serial number as the meter gives it."""
        return str(self.payload.get("MS"))


@dataclass
class Entry:
    """What was found out about one audit entry.

    signature   True, False, or None where no key was at hand
    new_key     DER of the key that it announces, None for other entries and unsound ones
    own         an `OwnRecord`, None for other entries
    release     which of the given releases the firmware is that it tells of, or None
    """

    text: str
    signature: bool | None = None
    key: bytes | None = None
    message: dict = field(default_factory=dict)
    reasons: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    new_key: bytes | None = None
    own: OwnRecord | None = None
    release: str | None = None

    @property
    def ok(self):
        """Tell whether the entry holds."""
        return self.signature is True and not self.reasons

    @property
    def seq(self):
        """Its sequence number, None where there is none."""
        value = self.message.get("seq")
        return value if type(value) is int else None

    @property
    def event(self):
        """What happened, as a word."""
        return str(self.message.get("ev"))[:32]

    @property
    def legal(self):
        """Of a start: SHA-256 in hex over the firmware's legally relevant part; else None."""
        value = self.message.get("legal") if self.event == FIRMWARE else None
        return value[:64] if isinstance(value, str) else None

    @property
    def session(self):
        """The session id that it names, or None."""
        value = self.message.get("sid")
        return value if isinstance(value, str) and value else None

    @property
    def key_id(self):
        """The short name of the key that it says it is signed with."""
        return str(self.message.get("k"))[:8]


def _register(reading, value, unit):
    """(mWh, step of its last digit in mWh) of a register in a reading, or (None, 0)."""
    try:
        mwh = register_mwh(reading.get(value), reading.get(unit))
    except RecordError:
        return None, 0
    exponent = Decimal(reading[value]).as_tuple().exponent
    step = Decimal(1_000_000 if reading[unit] == "kWh" else 1000).scaleb(min(0, exponent))
    return mwh, max(1, int(step))


def own_record(message):
    """Return the `OwnRecord` of an audit entry's message; raise `RecordError` where its text
    cannot be read at all, `KeyFormatError`."""
    text, tx, spki = (message.get(name) for name in ("meter_ocmf", "tx", "meter_spki"))
    if not isinstance(text, str) or not isinstance(spki, str) or tx not in ("B", "E"):
        raise RecordError("the meter's record, its key or its tx is missing")
    own = OwnRecord(text, tx)
    signed, own.payload, section = split(text)
    own.key = parse_key(spki)
    try:
        check_signature(signed, section, own.key)
        own.signature = True
    except RecordError:
        own.signature = False
    readings = own.payload.get("RD")
    if not isinstance(readings, list) or not readings or not isinstance(readings[0], dict):
        raise RecordError("the meter's record has no reading")
    reading = readings[0]
    own.status = str(reading.get("ST"))
    own.time, _ = parse_time(reading.get("TM"))
    own.energy_mwh, _ = _register(reading, "RV", "RU")
    if reading.get("XI") == _TOTAL:
        own.total_mwh, own.step_mwh = _register(reading, "XV", "XU")
    return own


def _judge_own(entry):
    message = entry.message
    if "meter_ocmf" not in message:
        entry.notes.append("no record of the meter's own at TX=%s: %s"
                           % (message.get("tx"), str(message.get("why"))[:100]))
        return
    entry.own = own = own_record(message)
    if not own.signature:
        entry.reasons.append("the meter's own record: its signature does not belong to it")
    letter = own.payload["RD"][0].get("TX")
    if letter != own.tx:
        entry.reasons.append("the meter's own record has TX %.10r, not %s" % (letter, own.tx))
    called = str(own.payload.get("ID"))
    if called.split(" ", maxsplit=1)[0] != entry.session:
        entry.reasons.append("the meter's own record names %.40r, not the session" % called)
    if own.status != "G":
        entry.notes.append("the meter's own record has ST %.10s" % own.status)


def check_entry(text, key):
    """Judge an audit entry's text with a public key (DER), or None where it is not known; return
    an `Entry`, never raise for the entry."""
    entry = Entry(text, key=key)
    try:
        if len(text) > _MOST_CHARACTERS:
            raise RecordError("audit entry: longer than %d characters" % _MOST_CHARACTERS)
        entry.message = strict_json(text, "audit entry")
        if entry.seq is None:
            entry.reasons.append("seq is no whole number")
        data, rest = signed_part(text.encode("utf-8", "surrogateescape"), "sg")
        if key is None:
            entry.reasons.append("signature: by key %s, which was not given" % entry.key_id)
            return entry
        if not rest.endswith(b'"}'):
            raise RecordError("the audit entry is not signed")
        entry.signature = False
        check_signature(data, {"SD": rest[:-2].decode("ascii", "replace")}, key)
        entry.signature = True
        if key_id(key) != entry.message.get("k"):
            entry.reasons.append("k is not the name of the key that signed it")
        if entry.event == KEY_CHANGE:
            entry.new_key = parse_key(key_change(entry.message, data))
        elif entry.event == METER_RECORD:
            _judge_own(entry)
    except (RecordError, KeyFormatError) as error:
        entry.reasons.append(str(error))
    if entry.reasons:
        entry.new_key = None
    return entry


def check_entries(found, keys):
    """Judge audit entries ((text, DER of the key beside it or None), ...) in the order of their
    numbers; `keys` are those that are trusted from the start, DER. Returns (entries,
    {new key: key before it}): a key that a trusted one announces is trusted from there on."""
    known = {key_id(key): key for key in keys}
    before = {}
    entries = []
    for text in sorted({text for text, _ in found}, key=_number):
        entry = check_entry(text, known.get(_key_name(text)))
        entries.append(entry)
        if entry.new_key and entry.new_key != entry.key and entry.new_key not in before:
            known.setdefault(key_id(entry.new_key), entry.new_key)
            before[entry.new_key] = entry.key
    return entries, before


def _peek(text, name):
    try:
        return strict_json(text, "").get(name)
    except RecordError:
        return None


def compare(entries, releases):
    """Say of each start's entry which release runs; `releases`: {SHA-256 over the legally relevant
    part: name}. One that is none of them does not hold."""
    for entry in entries:
        if entry.legal is None or not releases:
            continue
        entry.release = releases.get(entry.legal)
        if entry.release is None:
            entry.reasons.append("the legally relevant part of the firmware is that of no given "
                                 "release")


def _number(text):
    value = _peek(text, "seq")
    return value if type(value) is int else -1


def _key_name(text):
    value = _peek(text, "k")
    return value if isinstance(value, str) else None
