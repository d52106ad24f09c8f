"""Mail: a conversation with a real SMTP server, with STARTTLS and log-in, and its refusals."""

import datetime
import email
import ipaddress
import ssl
from types import SimpleNamespace

import pytest
import sqlalchemy as sql
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from evmeter_tools.backend import notices
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.broker import free_port
from evmeter_tools.backend.outbox import Channels, Outbox
from evmeter_tools.backend.store import Store, now_ms

_USER, _PASSWORD = "evmeter", "a long password"


class _Post:
    """Keeps what it is given; nobody@ is not known here."""

    def __init__(self):
        self.came = []

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
        self.came.append(SimpleNamespace(
            by=envelope.mail_from, to=envelope.rcpt_tos, secure=session.ssl is not None,
            user=session.auth_data.login if session.auth_data else None,
            mail=email.message_from_bytes(envelope.content)))
        return "250 OK"


def _certificate(folder, name):
    """(certificate, key) as PEM files, self-signed, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256()))
    files = folder / (name + ".crt"), folder / (name + ".key")
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    return files


def _authenticate(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (_USER.encode(), _PASSWORD.encode())
    return AuthResult(success=good, handled=good, auth_data=data)


@pytest.fixture(scope="module")
def post(tmp_path_factory):
    """A server that takes mail only by TLS and from who is logged in."""
    folder = tmp_path_factory.mktemp("mail")
    certificate, key = _certificate(folder, "mail")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = _Post()
    server = Controller(handler, "127.0.0.1", free_port(), ready_timeout=30, tls_context=context,
                        require_starttls=True, authenticator=_authenticate, auth_required=True)
    server.start()
    yield SimpleNamespace(came=handler.came, smtp="127.0.0.1:%d" % server.port, ca=certificate,
                          other=_certificate(folder, "other")[0])
    server.stop(no_assert=True)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "x.sqlite")
    yield opened
    opened.close()


def _send(store, post, target="driver@example.org", body="The receipt is ready.", **channels):
    """(sent, the note's row) of one note."""
    settings = {"smtp": post.smtp, "smtp_user": _USER, "smtp_password": _PASSWORD,
                "smtp_starttls": True, "sender": "charge@example.org", **channels}
    with store.engine.begin() as connection:
        notices.put(store, connection, "1/close/4", "email", target, "Charging session ended",
                    body, now_ms())
    sent = Outbox(store, Channels(**settings)).round()
    with store.engine.connect() as connection:
        return sent, connection.execute(sql.select(t.outbox)).one()


def test_a_note_goes_by_tls_and_log_in(store, post, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(post.ca))
    body = "Fertig geladen: 7,1 kWh – Grüße\nhttps://charge.example/s/x"
    sent, note = _send(store, post, body=body)
    assert (sent, note.error) == (1, "") and note.sent_at
    came = post.came.pop()
    assert (came.secure, came.user, came.by, came.to) == (
        True, _USER.encode(), "charge@example.org", ["driver@example.org"])
    assert came.mail["Subject"] == "Charging session ended"
    assert came.mail.get_payload(decode=True).decode().strip().splitlines() == body.splitlines()
    assert Outbox(store, Channels(smtp=post.smtp)).round() == 0  # once is enough


@pytest.mark.parametrize(("channels", "target", "trusts", "why"), [
    ({"smtp_password": "wrong"}, "driver@example.org", "ca", "535"),
    ({"smtp_user": ""}, "driver@example.org", "ca", "530"),
    ({"smtp_starttls": False}, "driver@example.org", "ca", "AUTH"),
    ({}, "nobody@example.org", "ca", "no such mailbox"),
    ({}, "driver@example.org", "other", "certificate verify failed"),
])
def test_what_is_refused_is_told_and_tried_again(store, post, monkeypatch, channels, target,
                                                 trusts, why):
    monkeypatch.setenv("SSL_CERT_FILE", str(getattr(post, trusts)))
    sent, note = _send(store, post, target, **channels)
    assert sent == 0 and why in note.error and note.sent_at is None, note.error
    assert note.attempts == 1 and note.next_at > note.created_at
    assert not post.came
