"""The face of MicroPython's module `tls` over CPython's `ssl`: what the firmware uses of it.

The handshake comes with the first reads and writes; without data there is None; a certificate
that is refused is a ValueError in Mbed TLS's words.
"""

import os
import ssl
import tempfile

PROTOCOL_TLS_CLIENT = 0
CERT_NONE = 0
CERT_REQUIRED = 2

_FATAL = -0x3000  # MBEDTLS_ERR_X509_FATAL_ERROR
_ALERT = -0x7780  # MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE
_INVALID_RECORD = -0x7200
_EOF = -0x7280
# OpenSSL's verify codes (openssl/x509_vfy.h)
_VERIFY = {
    9: "The certificate validity starts in the future", 10: "The certificate validity has expired",
    18: "self-signed certificate", 62: "The certificate Common Name (CN) does not match with the "
                                       "expected CN",
    64: "The certificate Common Name (CN) does not match with the expected CN",
}
_UNTRUSTED = "The certificate is not correctly signed by the trusted CA"


class SSLSocket:
    """A stream over a non-blocking socket."""

    def __init__(self, sock, check):
        self._sock = sock
        self._check = check

    def _step(self, function, *args):
        try:
            if self._check:
                self._sock.do_handshake()
                check, self._check = self._check, None
                if check(self._sock.getpeercert(True), 0):
                    raise OSError(_FATAL)
            return function(*args)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLCertVerificationError as error:
            raise ValueError(_VERIFY.get(error.verify_code, _UNTRUSTED)) from None
        except ssl.SSLZeroReturnError:
            return 0
        except ssl.SSLEOFError:
            raise OSError(_EOF) from None
        except ssl.SSLError as error:
            raise OSError(_ALERT if "ALERT" in (error.reason or "") else _INVALID_RECORD
                          ) from None

    def write(self, data):
        return self._step(self._sock.send, data)

    def readinto(self, buffer):
        return self._step(self._sock.recv_into, buffer)

    def close(self):
        self._sock.close()


class SSLContext:
    """Verifies by default; certificates and keys are DER."""

    def __init__(self, protocol):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.verify_mode = CERT_REQUIRED
        self.verify_callback = None

    def load_verify_locations(self, cadata):
        self._context.load_verify_locations(cadata=bytes(cadata))

    def load_cert_chain(self, certificate, key):
        pem = ssl.DER_cert_to_PEM_cert(bytes(certificate))
        pem += pem_of_key(bytes(key))
        handle, path = tempfile.mkstemp()
        try:
            with open(handle, "w") as file:
                file.write(pem)
            self._context.load_cert_chain(path)
        finally:
            os.unlink(path)

    def wrap_socket(self, sock, server_hostname=None, do_handshake_on_connect=True):
        if self.verify_mode == CERT_NONE:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        check = self.verify_callback or (lambda certificate, depth: 0)
        return SSLSocket(self._context.wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False), check)


def pem_of_key(der):
    """A private key in DER (SEC 1 or PKCS #8) as PEM."""
    # PKCS #8 has a sequence behind its version, SEC 1 an octet string
    kind = "EC PRIVATE KEY" if der[der.index(b"\x02\x01") + 3] == 4 else "PRIVATE KEY"
    text = ssl.DER_cert_to_PEM_cert(der)
    return text.replace("CERTIFICATE", kind)
