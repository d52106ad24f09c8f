"""Bytes from the network before there is a session: name servers' answers, certificates."""

from cryptography import x509

from evmeter.uplink.resolver import ResolveError, answer, is_address, query, question
from evmeter.uplink.tls import facts

_ASKED = query(b"\x12\x34", question("broker.example"))


def dns(data):
    """A name server's answer: addresses that stand in it, or a refusal in one line."""
    if data[:1] == b"\x01":  # the right head, which mutation hardly finds
        data = (_ASKED[:2] + b"\x81\x80\x00\x01\x00" + data[1:2] + b"\x00\x00\x00\x00"
                + _ASKED[12:] + data[2:])
    try:
        found = answer(memoryview(data), _ASKED)
    except ResolveError as error:
        assert str(error) and "\n" not in str(error), "not one line"
        return
    if found is None:
        return
    assert data[:2] == _ASKED[:2] and not data[3] & 15 and not data[2] & 2, "not our answer"
    assert data[12 : len(_ASKED)].lower() == _ASKED[12:], "not our question"
    assert 0 < len(found) <= 8
    for text in found:
        assert is_address(text) and bytes(map(int, text.split("."))) in data, "not in the answer"


def certificate(data):
    """A certificate's dates and whether it is self-issued, as the library has them."""
    try:
        found = facts(data)
    except ValueError:
        found = None
    try:
        told = x509.load_der_x509_certificate(data)
        expected = (int(told.not_valid_before_utc.timestamp()),
                    int(told.not_valid_after_utc.timestamp()),
                    told.issuer.public_bytes() == told.subject.public_bytes())
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion):
        return
    if found is not None:
        assert found == expected, "other dates"
