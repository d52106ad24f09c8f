"""TLS for a Link: who the broker is, is verified before a byte of MQTT leaves.

MicroPython's module `tls` is the same on the ESP32 and on the unix port (Mbed TLS); CPython gets
its face from boards/host/host_tls.py. What Mbed TLS calls a reason becomes one clear line here.
"""

from binascii import a2b_base64

import tls
from micropython import const

_MARK = "-----"
_REFUSE = const(1)
_DATES_TAG = const(0x30)
_UTC_TIME = const(0x17)
_GENERALIZED_TIME = const(0x18)
_VERSION_TAG = const(0xA0)
_SETTLED_S = const(60)
_SELF_SIGNED = "the broker's certificate is self-signed, not from the configured CA"

# Mbed TLS's words (x509_crt.c, the error names of mbedtls/error.h) and ours
_WORDS = (
    ("Common Name", "the broker's certificate is for another name"),
    ("has expired", "the broker's certificate has expired"),
    ("starts in the future", "the broker's certificate is not valid yet"),
    ("self-signed", _SELF_SIGNED),
    ("not correctly signed", "the broker's certificate is not from the configured CA"),
    ("unacceptable", "the broker's certificate has a key or signature that is too weak"),
)
_FATAL_ALERT = const(-0x7780)
_EOF = const(-0x7280)
_NO_TLS = (-0x7200, -0x7100, -0x7F00, -0x7700, -0x7300)  # records that are none
_NO_MEMORY = const(12)


class CertificateError(ValueError):
    """A certificate or key in the configuration cannot be used; the text says which."""


def der(text, name="certificate"):
    """The DER of each certificate or key in `text` (PEM, or base64 of DER) as a list of bytes.

    Raises CertificateError.
    """
    found = []
    lines = []
    for line in text.replace("\r", "\n").split("\n") + [_MARK]:
        line = line.strip()
        if not line.startswith(_MARK):
            lines.append(line)
        elif lines:
            try:
                data = a2b_base64("".join(lines).encode())
            except ValueError:
                data = b""
            lines = []
            if data:
                found.append(data)
    if not found or any(data[0] != _DATES_TAG for data in found):
        raise CertificateError("the %s is neither PEM nor base64 of DER" % name)
    return found


def _element(data, at):
    """(tag, start of the content, end) of the DER element at `at`. Raises ValueError."""
    if at + 2 > len(data):
        raise ValueError("short")
    length = data[at + 1]
    start = at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 0 < count <= 3 or start + count > len(data):
            raise ValueError("length")
        length = 0
        for index in range(start, start + count):
            length = length << 8 | data[index]
        start += count
    if start + length > len(data):
        raise ValueError("short")
    return data[at], start, start + length


def _unix_s(data, tag):
    """Unix time of a DER time in UTC, as RFC 5280, 4.1.2.5, wants it. Raises ValueError."""
    text = bytes(data)
    if tag == _UTC_TIME and len(text) == 13:
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    if len(text) != 15 or text[14:] != b"Z" or text[:14].strip(b"0123456789"):
        raise ValueError("no time")
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
    year -= month <= 2  # years from March: the leap day comes last
    days = (365 * year + year // 4 - year // 100 + year // 400
            + (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1 - 719468)
    return (days * 24 + int(text[8:10])) * 3600 + int(text[10:12]) * 60 + int(text[12:14])


def facts(certificate):
    """(first and last second of its validity in Unix time, whether it is self-issued) of a
    certificate in DER. Raises ValueError."""
    _, at, _ = _element(certificate, 0)
    _, at, _ = _element(certificate, at)
    tag, _, end = _element(certificate, at)
    if tag == _VERSION_TAG:
        _, _, end = _element(certificate, end)  # the serial number
    _, _, issuer = _element(certificate, end)  # behind the algorithm
    _, _, validity = _element(certificate, issuer)
    _, start, subject = _element(certificate, validity)
    tag, first, end = _element(certificate, start)
    begins_s = _unix_s(certificate[first:end], tag)
    tag, first, end = _element(certificate, end)
    ends_s = _unix_s(certificate[first:end], tag)
    _, _, end = _element(certificate, subject)
    same = bytes(certificate[issuer:validity]) == bytes(certificate[subject:end])
    return begins_s, ends_s, same


class Tls:
    """The client's side of TLS, made once: `ca` is what `der` gives, `now_s()` the time that
    certificates are held against (Unix s; never before the build or the newest record).

    `certificate` and `key` (one DER each) tell the broker who we are. `insecure` verifies
    nothing: whoever answers at the address is believed. `set_time(unix_s)` sets the clock that
    Mbed TLS itself looks at: the ESP32's, which begins in the year 2000. Raises CertificateError.
    """

    def __init__(self, ca, now_s, certificate=None, key=None, insecure=False, set_time=None,
                 library=tls):
        self.insecure = insecure
        self._now_s = now_s
        self._set_time = set_time
        self._why = ""
        self._context = context = library.SSLContext(library.PROTOCOL_TLS_CLIENT)
        if insecure:
            context.verify_mode = library.CERT_NONE
        else:
            if not ca:
                raise CertificateError("there is no CA certificate")
            context.verify_mode = library.CERT_REQUIRED
            try:
                for data in ca:
                    context.load_verify_locations(data)
            except (ValueError, OSError):
                raise CertificateError("the CA certificate cannot be used") from None
            context.verify_callback = self._look
        if certificate:
            try:
                context.load_cert_chain(certificate, key)
            except (ValueError, OSError, TypeError):
                raise CertificateError("the client certificate or its key cannot be used"
                                       ) from None

    def wrap(self, sock, host):
        """`sock` (non-blocking, connected) as a stream whose first reads and writes are the
        handshake. Nothing is sent for the caller before the broker is verified."""
        self._why = ""
        if self._set_time:
            self._set_time(self._now_s())
        return self._context.wrap_socket(sock, server_hostname=host,
                                         do_handshake_on_connect=False)

    def _look(self, certificate, depth):
        """Called with each certificate of the chain: 0 where nothing speaks against it. Nothing
        may be raised through the C library."""
        try:
            begins_s, ends_s, same = facts(certificate)
        except (ValueError, IndexError):
            self._why = "the broker's certificate cannot be read"
            return _REFUSE
        now_s = self._now_s()
        if now_s > ends_s:
            self._why = "has expired"
        elif now_s < begins_s:
            self._why = "starts in the future"
        else:
            if not depth and same:
                self._why = "self-signed"  # only if it is refused
            return 0
        return _REFUSE

    def reason(self, error, begun):
        """One line for an error; `begun` says that the handshake is over."""
        first = error.args[0] if error.args else 0
        if isinstance(first, str):
            text = first + self._why
        elif self._why and self._why != "self-signed":
            text = self._why
        else:
            text = ""
        for word, ours in _WORDS:
            if word in text:
                return ours
        if text:
            return "TLS: " + text.strip()
        if first == _NO_MEMORY:
            return "TLS: no memory left"
        if first == _FATAL_ALERT:
            return "the broker ended TLS with an alert; does it want a client certificate?"
        if first == _EOF:
            return "closed by the peer" if begun else "no TLS there: closed in the handshake"
        if not begun and first in _NO_TLS:
            return "no TLS there: what answers speaks something else"
        return "TLS: error %s" % first
