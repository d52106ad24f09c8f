"""The parts of TLS that need no peer: certificates, dates, reasons; a Link over a fake one."""

import asyncio
import errno

from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink.link import Link, LinkError
from evmeter.uplink.mqtt import Session
from evmeter.uplink.tls import CertificateError, Tls, der, facts
from fakes.net import FakeBroker, FakePoller, FakeSockets
from fakes.virtual_time import VirtualTime
from support import raises

# openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=a -days 3
_SELF = """-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUIbDiH+R9Sz4aUa7njl4uNyfsrtkwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAeFw0yNjExMjUwMzQyMjNaFw0yNjExMjgwMzQyMjNaMAwx
CjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQuyRUQf/O1RW9V
Hgklx1C6MDIUgnQH4eVQcQk3ZbMUhO6zVaNM6RVAdhpUYcnhqhy5/cPPcD6RmE7B
osR6U0Gxo1MwUTAdBgNVHQ4EFgQUWz+uA3ZmpAb5+efK2FThFhtOvQwwHwYDVR0j
BBgwFoAUWz+uA3ZmpAb5+efK2FThFhtOvQwwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiB/CQ2KNJJyfs7B7cti4CBhsAscEkg7hLJfhDk4Cjqi1QIh
ANjRF9KIXrSnm88VHYDZ/w504iwFzJEKhdpQFruqzFdv
-----END CERTIFICATE-----
"""
_BEGINS_S, _ENDS_S = 1795578143, 1795837343


def _sequence(*parts):
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


def _dated(begins, ends, issuer=b"\x30\x01i", subject=b"\x30\x01s"):
    """A certificate that has nothing but what `facts` looks at."""
    return _sequence(_sequence(b"\xa0\x03\x02\x01\x02", b"\x02\x01\x05", b"\x30\x00", issuer,
                               _sequence(begins, ends), subject))


def test_certificates_are_read_from_pem_and_base64():
    one = der(_SELF)
    assert len(one) == 1 and one[0][:2] == b"\x30\x82"
    body = "".join(_SELF.split("\n")[1:-2])
    assert der(body) == one and der("\r\n" + body + "\r\n") == one
    assert der(_SELF.replace("\n", "\r\n")) == one
    assert der("a comment?".replace("a comment?", "") + _SELF + _SELF) == one * 2
    for text in ("", "-----BEGIN CERTIFICATE-----", "nonsense!", "AAAA",
                 "-----BEGIN X-----\nAAAA\n-----END X-----", _SELF.replace("\nMI", "\n!!")):
        assert "CA" in str(raises(CertificateError, der, text, "CA")), text


def test_dates_and_issuer_of_a_certificate():
    assert facts(der(_SELF)[0]) == (_BEGINS_S, _ENDS_S, True)
    begins, ends = b"\x17\x0d700101000000Z", b"\x18\x0f20380119031408Z"
    assert facts(memoryview(_dated(begins, ends))) == (0, 2**31, False)
    for text, seconds in ((b"\x17\x0d000229120000Z", 951825600), (b"\x17\x0d491231235959Z",
                          2524607999), (b"\x17\x0d500101000000Z", -631152000),
                          (b"\x18\x0f21000301000000Z", 4107542400)):
        assert facts(_dated(text, ends))[0] == seconds, text
    whole = _dated(begins, ends)
    for cut in range(len(whole)):
        raises(ValueError, facts, whole[:cut])
    for bad in (b"\x17\x0d70010100000aZ", b"\x17\x0b7001010000Z", b"\x18\x0f20380119031408+",
                b"\x04\x0d700101000000Z"):
        raises(ValueError, facts, _dated(bad, ends))


def test_a_certificate_with_any_byte_changed_is_read_or_refused():
    whole = der(_SELF)[0]
    for at in range(len(whole)):
        for value in (0, 0x7F, 0x80, 0x84, 0xFF):
            try:
                facts(whole[:at] + bytes([value]) + whole[at + 1 :])
            except ValueError:
                continue


class _Context:
    """tls.SSLContext: keeps what it is told."""

    def __init__(self, protocol):
        self.verify_mode = None
        self.verify_callback = None
        self.loaded = []
        self.chain = None

    def load_verify_locations(self, data):
        if data == b"\x30bad":
            raise ValueError("invalid cert")
        self.loaded.append(data)

    def load_cert_chain(self, certificate, key):
        if key is None:
            raise TypeError("no key")
        self.chain = certificate, key

    def wrap_socket(self, sock, server_hostname, do_handshake_on_connect):
        if do_handshake_on_connect:
            raise AssertionError("that would block")
        self.host = server_hostname
        return _Stream(sock, self.verify_callback)


class _Library:
    PROTOCOL_TLS_CLIENT = 0
    CERT_NONE = 0
    CERT_REQUIRED = 2

    def SSLContext(self, protocol):  # noqa: N802
        self.context = _Context(protocol)
        return self.context


class _Stream:
    """Mbed TLS's stream: `answers` are what the next writes do before data passes ("never":
    for ever nothing). Like the real
    one it lets go of its socket when the handshake fails."""

    answers = []
    shown = None

    def __init__(self, sock, callback):
        self._sock = sock
        self._callback = callback
        self._answers = list(self.answers)

    def write(self, data):
        if self._answers:
            answer = self._answers.pop(0)
            if answer == "never":
                self._answers.append(answer)
                return None
            if answer is None:
                return None
            if self.shown and self._callback(self.shown, 0):
                answer = OSError(-0x3000)
            if isinstance(answer, Exception):
                self._sock = None
                raise answer
        return self._sock.write(data)

    def readinto(self, buffer):
        return self._sock.readinto(buffer)

    def close(self):
        if self._sock:
            self._sock.close()


def _tls(now_s=(_BEGINS_S + 5), **parts):
    library = _Library()
    return Tls([b"\x30ca"], lambda: now_s, library=library, **parts), library


def _connect(answers, shown=None, **parts):
    """Why a connection fails whose first writes do as `answers` say, or ""; and the broker."""
    tls, _ = _tls(**parts)
    broker = FakeBroker()
    _Stream.answers, _Stream.shown = answers, shown
    link = Link(tls=tls, sockets=FakeSockets(broker), poll=FakePoller)
    session = Session(link, "demo-0001", {"host": "10.0.0.1", "port": 8883, "user": None,
                                          "password": None, "keepalive_s": 30}, b"t/avail", None)
    try:
        asyncio.run(session.connect())
        why = ""
    except LinkError as error:
        why = str(error)
    session.close()
    assert broker.socket.closed  # also where TLS has let go of it
    return why, broker


def test_verification_is_on_unless_it_is_said_otherwise():
    tls, library = _tls()
    assert (library.context.verify_mode, library.context.loaded) == (2, [b"\x30ca"])
    assert library.context.verify_callback and not tls.insecure and library.context.chain is None
    tls, library = _tls(insecure=True)
    assert (library.context.verify_mode, library.context.verify_callback) == (0, None)
    assert tls.insecure and Link(tls=tls).insecure and Link().insecure
    assert not Link(tls=_tls()[0]).insecure
    for ca in ((), None, [b"\x30bad"]):
        assert "CA" in str(raises(CertificateError, lambda ca=ca: Tls(ca, int, library=library)))
    _, library = _tls(certificate=b"\x30c", key=b"\x30k")
    assert library.context.chain == (b"\x30c", b"\x30k")
    raises(CertificateError, lambda: _tls(certificate=b"\x30c"))


def test_the_clock_that_mbed_tls_looks_at_is_set_first():
    told = []
    tls, library = _tls(1234567890, set_time=told.append)
    tls.wrap(None, "broker.example")
    assert told == [1234567890] and library.context.host == "broker.example"


def test_every_failure_has_one_reason_and_no_byte_leaves():
    self_signed = der(_SELF)[0]
    good = _dated(b"\x17\x0d700101000000Z", b"\x18\x0f20990119031408Z")
    untrusted = ValueError("\nThe certificate is not correctly signed by the trusted CA\n")
    for answer, shown, now_s, reason in (
        (untrusted, good, 5, "is not from the configured CA"),
        (untrusted, self_signed, _BEGINS_S, "is self-signed"),
        (ValueError("\nThe certificate Common Name (CN) does not match with the expected CN\n"),
         self_signed, _ENDS_S, "is for another name"),
        (ValueError("\nThe certificate validity has expired\n"), good, 5, "has expired"),
        (ValueError("\nThe certificate validity starts in the future\n"), good, 5,
         "is not valid yet"),
        (0, self_signed, _ENDS_S + 1, "has expired"),
        (0, self_signed, _BEGINS_S - 1, "is not valid yet"),
        (0, b"\x30\x00", 5, "cannot be read"),
        (ValueError("\nThe certificate is signed with an unacceptable hash.\n"), good, 5,
         "too weak"),
        (ValueError("\nsomething new\n"), good, 5, "TLS: something new"),
        (OSError(-0x7200), None, 5, "no TLS there"),
        (OSError(-0x7280, "MBEDTLS_ERR_SSL_CONN_EOF"), None, 5, "no TLS there"),
        (OSError(errno.ECONNRESET), None, 5, "no TLS there"),
        (OSError(-0x7780), None, 5, "client certificate"),
        (OSError(errno.ENOMEM), None, 5, "memory"),
        (OSError(-0x6C00), None, 5, "TLS: error -27648"),
    ):
        why, broker = _connect([None, None, answer], shown, now_s=now_s)
        assert reason in why and "\n" not in why, why
        assert broker.packets == [] and broker.socket.written == 0, why


def test_a_verified_broker_is_spoken_to():
    why, broker = _connect([None] * 7, der(_SELF)[0])
    assert why == "" and broker.packets[0][0] == 0x10


def test_an_error_later_on_is_the_connections_own():
    tls, _ = _tls()
    for error, word in ((OSError(-0x7280), "closed by the peer"), (OSError(-0x7180), "-29056")):
        assert word in tls.reason(error, True)


def test_a_handshake_that_does_not_end_is_given_up_after_15_s():
    kept = link_module.time, mqtt_module.time, mqtt_module.asyncio
    clock = VirtualTime()
    link_module.time = mqtt_module.time = mqtt_module.asyncio = clock
    try:
        why, broker = _connect(["never"])
    finally:
        link_module.time, mqtt_module.time, mqtt_module.asyncio = kept
    assert why == "no TLS handshake within 15000 ms"
    assert 15000 <= clock.mono_ms() < 15100
    assert broker.packets == []
