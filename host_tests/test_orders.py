from evmeter.session import orders
from support import raises

_USER = {"IL": "HEARSAY", "IT": "ISO14443", "ID": "1F2D3A4F5506C7", "IF": ["RFID_PLAIN"]}


def test_an_order_is_checked_as_a_whole():
    for name, given, words in (
        ("dance", {}, ("the order", "stop, target, user")),
        ("user", [], ("JSON object",)),
        ("user", {"IL": "HEARSAY", "IT": "ISO14443"}, ("ID", "1 to 40")),
        ("user", dict(_USER, ID="x" * 41), ("ID", "1 to 40")),
        ("user", dict(_USER, ID="\u00e4"), ("ID", "ASCII")),
        ("user", dict(_USER, IL="SURE"), ("IL", "VERIFIED")),
        ("user", dict(_USER, IT="CARD"), ("IT", "ISO14443")),
        ("user", dict(_USER, IF=["RFID"]), ("IF", "RFID_PLAIN")),
        ("user", dict(_USER, IF=["RFID_PSK"] * 5), ("IF", "at most 4")),
        ("user", dict(_USER, name="Eve"), ("a field of user", "name")),
        ("target", {}, ("target_mwh or target_minor",)),
        ("target", {"target_mwh": 1, "target_minor": 1}, ("target_mwh or target_minor",)),
        ("target", {"target_mwh": 0}, ("target_mwh", "from 1")),
        ("target", {"target_mwh": True}, ("target_mwh", "whole number")),
        ("target", {"target_minor": "5"}, ("target_minor", "whole number")),
        ("stop", {}, ("by", "local, remote")),
    ):
        message = str(raises(ValueError, orders.check, name, given))
        for word in words:
            assert word in message, (message, word)


def test_what_is_taken():
    for name, given, fields in (
        ("user", _USER, {"user": {"IS": True, "IL": "HEARSAY", "IF": ["RFID_PLAIN"],
                                  "IT": "ISO14443", "ID": "1F2D3A4F5506C7"}}),
        ("user", {"IL": "NONE", "IT": "LOCAL", "ID": "1"}, {"user": {
            "IS": True, "IL": "NONE", "IF": [], "IT": "LOCAL", "ID": "1"}}),
        ("target", {"target_mwh": 5}, {"target_mwh": 5}),
        ("target", {"target_minor": 1 << 40}, {"target_minor": 1 << 40}),
        ("stop", {"by": "local"}, {"by": "local"}),
    ):
        assert orders.check(name, given) == fields
