"""Certificates made for a test, and servers that are wrong in one way each."""

import base64
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from evmeter_tools.backend.broker import Broker, free_port

REASONS = {  # what the firmware says of each
    "wrong CA": "the broker's certificate is not from the configured CA",
    "wrong name": "the broker's certificate is for another name",
    "expired": "the broker's certificate has expired",
    "not yet valid": "the broker's certificate is not valid yet",
    "self-signed": "the broker's certificate is self-signed, not from the configured CA",
    "plain": "no TLS there: ",
}
BAD = tuple(REASONS)
_DAY = datetime.timedelta(days=1)
_HANDSHAKE_RECORDS = (20, 21, 22)  # change of cipher, alert, handshake: RFC 5246, 6.2.1


class Certificates:
    """A CA of our own in the folder `folder`: ca.pem, and NAME.pem (certificate and key)."""

    def __init__(self, folder):
        self.folder = folder
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("own CA")
        self.ca = self._certificate(self._name, self._name, self._key, self._key, True, -1, 365)
        (folder / "ca.pem").write_bytes(self.ca.public_bytes(serialization.Encoding.PEM))

    def _certificate(self, subject, issuer, key, signer, ca, first, last, names=()):
        now = datetime.datetime.now(datetime.UTC)
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now + first * _DAY).not_valid_after(now + last * _DAY)
                   .add_extension(x509.BasicConstraints(ca, None), True))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return builder.sign(signer, hashes.SHA256())

    def der(self, kind=None):
        """(certificate, key) of `make(kind)`, or of the CA alone, as base64 of DER."""
        if kind is None:
            return base64.b64encode(self.ca.public_bytes(serialization.Encoding.DER)).decode()
        text = self.make(kind).read_bytes()
        certificate = x509.load_pem_x509_certificate(text)
        key = serialization.load_pem_private_key(text, None)
        return tuple(base64.b64encode(data).decode() for data in (
            certificate.public_bytes(serialization.Encoding.DER),
            key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption())))

    def make(self, kind):
        """Path of a certificate with its key for "localhost" ("good address": for 127.0.0.1),
        good or of a kind in BAD."""
        path = self.folder / (kind.replace(" ", "-") + ".pem")
        key = ec.generate_private_key(ec.SECP256R1())
        subject, issuer, signer = _name("broker"), self._name, self._key
        first, last = {"expired": (-9, -2), "not yet valid": (2, 9)}.get(kind, (-1, 30))
        if kind == "wrong CA":
            issuer, signer = _name("another CA"), ec.generate_private_key(ec.SECP256R1())
        elif kind == "self-signed":
            issuer, signer = subject, key
        name = x509.DNSName("other.example" if kind == "wrong name" else "localhost")
        if kind == "good address":
            name = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
        certificate = self._certificate(subject, issuer, key, signer, False, first, last, [name])
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
        return path


def _name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def unencrypted(data):
    """How many bytes of what a client sent to a server without TLS are no TLS handshake."""
    at = 0
    while at + 5 <= len(data) and data[at] in _HANDSHAKE_RECORDS and data[at + 1] == 3:
        at += 5 + (data[at + 3] << 8 | data[at + 4])
    return max(0, len(data) - at)


class Server:
    """Takes connections on 127.0.0.1:`port`, refuses every MQTT client and counts
    `application_bytes`: what a client has said to it beyond the handshake. `version` limits TLS
    ("1.2", "1.3")."""

    def __init__(self, certificates, kind, version="1.3"):
        self.application_bytes = 0
        self.connections = 0
        self._context = None
        if kind != "plain":
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificates.make(kind))
            if version == "1.2":
                self._context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            client.settimeout(10)
            said = b""
            try:
                if self._context:
                    client = self._context.wrap_socket(client, server_side=True)
                else:
                    client.sendall(b"\x20\x02\x00\x00" * 4)  # a broker that accepts everything
                while piece := client.recv(4096):
                    said += piece
                    if self._context:
                        client.sendall(b"\x20\x02\x00\x05")
                    self.application_bytes += len(piece) if self._context else 0
            except OSError:
                pass
            finally:
                if not self._context:
                    self.application_bytes += unencrypted(said)
                client.close()

    def close(self):
        """End, once the client at hand has gone; again does nothing."""
        if self._thread.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()


class TlsBroker(Broker):
    """mosquitto with a second listener, for TLS; `wants` a client certificate or not."""

    def __init__(self, folder, certificates, wants):
        super().__init__(folder, kind="mosquitto")
        self.wants = wants
        self.tls_port = free_port()
        self._lines = (
            "listener %d 127.0.0.1\nset_tcp_nodelay true\n" % self.tls_port
            + "certfile {0}\nkeyfile {0}\n".format(certificates.make("good"))
            + "cafile %s\nrequire_certificate %s\n" % (certificates.folder / "ca.pem",
                                                       "true" if wants else "false"))

    def _mosquitto(self):
        command = super()._mosquitto()
        path = Path(command[-1])
        path.write_text(path.read_text() + self._lines)
        return command
