"""A change of the key: what the device writes, what backend and journal tool make of it, and what
a power cut leaves."""

import asyncio
import hashlib
import json
import os
from types import SimpleNamespace

import pytest

from evmeter.ledger import journal as frames
from evmeter.ledger.ledger import Ledger
from evmeter.ledger.signer import SignerError, SoftwareSigner
from evmeter.system import key_change, keys
from evmeter.uplink.publisher import _key_of
from evmeter_tools.backend import messages
from evmeter_tools.backend.collector import Collector
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.store import Store
from evmeter_tools.journal.signatures import signature_faults
from host_nvs import NvsFile


class _Journal:
    def __init__(self):
        self.payloads = []
        self.cursor = 0

    @property
    def next_seq(self):
        return len(self.payloads) + 1

    def append(self, kind, payload, **head):
        assert kind == frames.LOG
        self.payloads.append(bytes(payload))
        return len(self.payloads)

    def unconfirmed(self):
        return len(self.payloads) - self.cursor


class _Quiet:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None


@pytest.fixture
def device(tmp_path):
    nvs = NvsFile(str(tmp_path / "nvs.json"))
    old = keys.make(nvs, os.urandom)
    journal = _Journal()
    clock = SimpleNamespace(unix_ms_at=lambda mono_ms: 1800000000000, quality="I")
    ledger = Ledger(journal, old, clock, _Quiet(), None)
    return SimpleNamespace(nvs=nvs, old=old, journal=journal, ledger=ledger,
                           path=str(tmp_path / "nvs.json"))


def _propose(device):
    return asyncio.run(key_change.propose(device.nvs, os.urandom, device.ledger, 0))


def _read(device, payload):
    trusted = {("d", device.old.key_id): device.old.spki_hex()}
    return messages.read("d", "log", payload, trusted)


def _entries(*payloads):
    return [SimpleNamespace(kind="log", message=json.loads(payload), payload=payload, file="f",
                            offset=0, seq=seq) for seq, payload in enumerate(payloads, 1)]


def test_both_keys_sign_and_the_new_one_takes_over_once_all_is_confirmed(device):
    seq = _propose(device)
    (payload,) = device.journal.payloads
    entry = _read(device, payload)
    assert entry.verdict == "ok", entry.why
    new_k, spki = entry.facts["new_key"]
    assert new_k != device.old.key_id
    assert keys.load(device.nvs, os.urandom).key_id == device.old.key_id
    assert not key_change.adopt(device.nvs, device.journal)
    assert key_change.proposed(NvsFile(device.path)) == seq  # a power cut changes nothing
    with pytest.raises(SignerError, match="under way"):
        _propose(device)
    device.journal.cursor = seq
    assert key_change.adopt(NvsFile(device.path), device.journal)
    found = keys.load(NvsFile(device.path), os.urandom)
    assert (found.key_id, found.spki_hex()) == (new_k, spki)
    assert key_change.proposed(NvsFile(device.path)) == 0
    assert not key_change.adopt(NvsFile(device.path), device.journal)


def test_a_cut_before_the_entry_leaves_the_old_key_and_a_fresh_start(device):
    async def fails(*_, **__):
        raise frames.JournalError("cut")

    device.ledger.log = fails
    with pytest.raises(frames.JournalError):
        _propose(device)
    nvs = NvsFile(device.path)
    assert not key_change.adopt(nvs, device.journal)
    assert keys.load(nvs, os.urandom).key_id == device.old.key_id
    del device.ledger.log
    assert _propose(device) == 1


def test_without_a_key_there_is_none_to_change(device):
    ledger = Ledger(device.journal, None, None, _Quiet(), None)
    with pytest.raises(SignerError, match="no key"):
        asyncio.run(key_change.propose(device.nvs, os.urandom, ledger, 0))


def _signed(device, text):
    """`text` (without its closing brace) signed anew by the old key alone."""
    der = asyncio.run(device.old.sign(hashlib.sha256(text).digest()))
    return text + b',"sg":"' + der.hex().encode() + b'"}'


def test_a_change_that_the_new_key_did_not_sign_is_refused(device):
    _propose(device)
    (payload,) = device.journal.payloads
    text = payload[:payload.index(b',"sg"')]
    other = SoftwareSigner(bytes(31) + b"\7", os.urandom)
    new = json.loads(payload)["new_spki"]
    cases = (
        (_signed(device, text[:text.index(b',"sn"')]), "not signed by the new key"),
        (_signed(device, text.replace(new.encode(), other.spki_hex().encode())), "new_k"),
        (_signed(device, text.replace(b'"ts":1800000000', b'"ts":1800000001')),
         "does not belong"),
        (payload.replace(b'"ts":1800000000', b'"ts":1800000001'), "does not belong"),
        (_signed(device, text.replace(new.encode(), b"30")), "not a public key"),
    )
    for wrong, why in cases:
        entry = _read(device, wrong)
        assert entry.verdict == "bad" and why in entry.why, (wrong, entry.why)
        assert "new_key" not in entry.facts
        key = bytes.fromhex(device.old.spki_hex())
        assert list(signature_faults(_entries(wrong), [key]))


def test_the_journal_tool_follows_the_change_from_the_first_key(device):
    _propose(device)
    device.journal.cursor = 1
    assert key_change.adopt(device.nvs, device.journal)
    new = keys.load(device.nvs, os.urandom)
    ledger = Ledger(device.journal, new, device.ledger._clock, _Quiet(), None)
    asyncio.run(ledger.log("meter_changed", "", 0, {}))
    old = bytes.fromhex(device.old.spki_hex())
    entries = _entries(*device.journal.payloads)
    assert list(signature_faults(entries, [old])) == []
    faults = [fault.what for fault in signature_faults(entries[1:], [old])]
    assert len(faults) == 1 and "was not given" in faults[0]


def test_what_the_old_key_signed_is_acknowledged_when_it_comes_once_more(device, tmp_path):
    _propose(device)
    device.journal.cursor = 1
    assert key_change.adopt(device.nvs, device.journal)
    new = keys.load(device.nvs, os.urandom)
    asyncio.run(Ledger(device.journal, new, device.ledger._clock, _Quiet(), None).log(
        "meter_changed", "", 0, {}))
    store = Store(tmp_path / "db.sqlite")
    store.enrol("d", device.old.key_id, device.old.spki_hex())
    collector = Collector(store, Address("127.0.0.1", 1))
    told = []
    collector._client = SimpleNamespace(
        ack=lambda *_: None, publish=lambda topic, text, qos: told.append(text))

    def take(*numbers):
        del told[:]
        for seq in numbers:
            collector._on_message(seq, "evmeter/v1/d/log", device.journal.payloads[seq - 1])
        collector._take(collector._waiting)
        collector._waiting.clear()
        return [json.loads(text) for text in told]

    try:
        for seq in (1, 2):
            take(seq)
        for seq, key in ((1, device.old.key_id), (2, new.key_id)):
            (ack,) = take(seq)
            assert (ack["k"], ack["cum"]) == (key, 2)
            assert _key_of(device.journal.payloads[seq - 1]) == key.encode()
        assert not store.quarantined()
    finally:
        store.close()
