"""ATECC608A and ATECC608B, a secure element on I2C, as a signer (evmeter/ledger/signer.py).

Sources: data sheet summary DS40001977, and Microchip's published library for opcodes, execution
times and status codes. The chip holds the private key in a slot and never gives it out. Both of
its zones must have been locked by whoever commissions it: locking cannot be undone, and this
driver does not do it.

The bus runs at 100 kHz at most: the byte 0 that wakes the chip must hold SDA low for 60 us.
"""

import asyncio
import binascii
import hashlib
import time

from micropython import const

from evmeter.ledger import p256
from evmeter.ledger.signer import SPKI_HEAD, SignerError, der, run

ADDRESS = const(0x60)

# Word addresses
_SLEEP = b"\x01"
_COMMAND = const(3)
# Commands, their modes and the bytes of their answers
_READ = const(0x02)
_NONCE = const(0x16)
_INFO = const(0x30)
_GENKEY = const(0x40)
_SIGN = const(0x41)
_READ_32 = const(0x80)
_NONCE_FIXED = const(0x43)  # passed through, to the message digest buffer
_GENKEY_NEW = const(4)
_SIGN_EXTERNAL = const(0xA0)  # the message digest buffer as it is
# Status codes
_OK = const(0)
_JUST_AWAKE = const(0x11)
_WATCHDOG = const(0xEE)
_CRC_OR_COMMUNICATION = const(0xFF)
_STATUS = {1: "miscompare", 3: "parse error", 5: "ECC fault", 7: "self test failed",
           8: "random generator's health test failed", 0x0F: "cannot be executed"}

_WAKE_MS = const(2)  # tWHI: 1.5 ms
_SELF_TEST_MS = const(60)  # a chip that tests itself at every wake answers later
_POLL_MS = const(5)
_QUICK_MS = const(100)
_SLOW_MS = const(690)  # slowest clock divider: 665 ms; the chip's watchdog comes after 700
_TRIES = const(3)
_LOCK_WORD = const(0x15)  # bytes 84 to 87 of the configuration
_SLOT_CONFIG = const(5)  # word of slots 0 and 1
_KEY_CONFIG = const(24)
_P256 = const(4)


class Atecc608Error(SignerError):
    """No usable answer, a chip that is not commissioned, a signature that is not right."""


class _Again(Exception):
    """An answer that was damaged or lost: worth another try."""


def crc16(data, start, end):
    """CRC of `data[start:end]`, polynomial 0x8005, lowest bit first; low byte first on the bus."""
    crc = 0
    for at in range(start, end):
        byte = data[at]
        for _ in range(8):
            crc = crc << 1 ^ (0x8005 if (crc >> 15 ^ byte) & 1 else 0)
            byte >>= 1
        crc &= 0xFFFF
    return crc


class Atecc608:
    """`i2c` offers writeto(address, bytes) and readfrom_into(address, buffer), which raise OSError
    where nobody acknowledges: machine.I2C or SoftI2C. `slot`: 0 to 15, of the private key.

    `open` comes first. `failures` counts the signatures that did not verify, `retries` the
    commands that were sent again.
    """

    def __init__(self, i2c, slot=0, address=ADDRESS):
        self._i2c = i2c
        self._slot = slot
        self._address = address
        self._lock = asyncio.Lock()
        self._answer = bytearray(67)
        self._public = b""
        self.serial = ""
        self.revision = ""
        self.key_id = ""
        self.failures = 0
        self.retries = 0

    def _acknowledged(self, address, data):
        try:
            self._i2c.writeto(address, data)
        except OSError:
            return False
        return True

    def _write(self, data):
        if not self._acknowledged(self._address, data):
            raise _Again("it does not acknowledge")

    async def _answered(self, size, deadline_ms):
        """Wait for an answer of `size` bytes or a status; returns its data as a memoryview."""
        begun = time.ticks_ms()
        answer = memoryview(self._answer)[:size + 3]
        while True:
            try:
                # A busy chip does not acknowledge its address.
                self._i2c.readfrom_into(self._address, answer)
                break
            except OSError:
                if time.ticks_diff(time.ticks_ms(), begun) >= deadline_ms:
                    raise _Again("no answer within %d ms" % deadline_ms) from None
            await asyncio.sleep_ms(_POLL_MS)
        length = answer[0]
        if length not in (4, size + 3):
            raise _Again("an answer of %d bytes" % length)
        if crc16(answer, 0, length - 2) != answer[length - 2] | answer[length - 1] << 8:
            raise _Again("an answer with a wrong CRC")
        if length == 4 and size != 1:
            self._judge(answer[1])
            raise _Again("a status in place of an answer")
        return answer[1:1 + size]

    def _judge(self, status):
        """Raise for a status that is not success."""
        if status in (_JUST_AWAKE, _WATCHDOG, _CRC_OR_COMMUNICATION):
            raise _Again("status 0x%02x" % status)
        if status != _OK:
            raise Atecc608Error("secure element: %s" % _STATUS.get(status, "status %d" % status))

    async def _wake(self):
        self._acknowledged(0, b"\0")  # nobody does: the low SDA is what counts
        await asyncio.sleep_ms(_WAKE_MS)
        if (await self._answered(1, _SELF_TEST_MS))[0] != _JUST_AWAKE:
            raise _Again("not the answer of a chip that wakes")

    async def _command(self, opcode, mode, parameter, size, deadline_ms, data=b""):
        """Send a command; returns the data of its answer, `size` bytes, valid until the next."""
        frame = bytearray(8 + len(data))
        frame[0] = _COMMAND
        frame[1] = 7 + len(data)
        frame[2] = opcode
        frame[3] = mode
        frame[4] = parameter & 0xFF
        frame[5] = parameter >> 8
        frame[6:6 + len(data)] = data
        crc = crc16(frame, 1, 6 + len(data))
        frame[-2] = crc & 0xFF
        frame[-1] = crc >> 8
        self._write(frame)
        await asyncio.sleep_ms(_POLL_MS)
        answer = await self._answered(size, deadline_ms)
        if size == 1:
            self._judge(answer[0])
        return answer

    async def _awake(self, steps, *arguments):
        """Run `steps(*arguments)` with the chip awake, again where an answer was lost. Each run
        fits in the 0.7 s after which the chip's watchdog sends it to sleep."""
        async with self._lock:
            reason = None
            for attempt in range(_TRIES):
                self.retries += attempt > 0
                try:
                    await self._wake()
                    result = await steps(*arguments)
                    self._write(_SLEEP)
                    return result
                except _Again as error:
                    reason = error
                await self._put_to_sleep()
            raise Atecc608Error("secure element: %s, %d times" % (reason, _TRIES))

    async def _put_to_sleep(self):
        """Whatever state it is in: asleep it acknowledges nothing, and wakes anew."""
        if not self._acknowledged(self._address, _SLEEP):
            await asyncio.sleep_ms(_QUICK_MS)

    async def _word(self, word):
        return bytes(await self._command(_READ, 0, word, 4, _QUICK_MS))

    async def _half(self, word):
        """The slot's own half of a configuration word that two slots share, as a number."""
        both = await self._word(word + (self._slot >> 1))
        at = (self._slot & 1) << 1
        return both[at] | both[at + 1] << 8

    async def _facts(self):
        revision = bytes(await self._command(_INFO, 0, 0, 4, _QUICK_MS))
        if revision[2] != 0x60:
            raise Atecc608Error("not an ATECC608: revision %s"
                                % binascii.hexlify(revision).decode())
        block = await self._command(_READ, _READ_32, 0, 32, _QUICK_MS)
        serial = bytes(block[0:4]) + bytes(block[8:13])
        locks = await self._word(_LOCK_WORD)
        slot_config = await self._half(_SLOT_CONFIG)
        key_config = await self._half(_KEY_CONFIG)
        self.revision = binascii.hexlify(revision).decode()
        self.serial = binascii.hexlify(serial).decode()
        if locks[3]:
            raise Atecc608Error("secure element: its configuration is not locked")
        if locks[2]:
            raise Atecc608Error("secure element: its data zone is not locked")
        # KeyConfig: bit 0 private, bits 2 to 4 the kind; SlotConfig: bit 0 signs any message
        if not key_config & 1 or key_config >> 2 & 7 != _P256 or not slot_config & 1:
            raise Atecc608Error("secure element: slot %d does not sign with a P-256 key"
                                % self._slot)

    async def _key(self, mode):
        return bytes(await self._command(_GENKEY, mode, self._slot, 64, _SLOW_MS))

    def _take(self, public):
        x = int.from_bytes(public[:32], "big")
        y = int.from_bytes(public[32:], "big")
        if not p256.on_curve(x, y):
            raise Atecc608Error("secure element: its public key is not on the curve")
        self._public = public
        spki = SPKI_HEAD + public
        self.key_id = binascii.hexlify(hashlib.sha256(spki).digest()[:4]).decode()

    async def open(self):
        """Read serial number, locks and public key. Raises Atecc608Error for a chip that does not
        answer or is not commissioned."""
        await self._awake(self._facts)
        self._take(await self._awake(self._key, 0))

    async def make_key(self):
        """Make a new private key in the slot; the one before is gone. For commissioning only."""
        await self._awake(self._facts)
        self._take(await self._awake(self._key, _GENKEY_NEW))

    def spki_hex(self):
        """Return the public key as SubjectPublicKeyInfo in lower-case hex, 182 digits."""
        return binascii.hexlify(SPKI_HEAD + self._public).decode()

    async def _signature(self, digest):
        await self._command(_NONCE, _NONCE_FIXED, 0, 1, _QUICK_MS, digest)
        return bytes(await self._command(_SIGN, _SIGN_EXTERNAL, self._slot, 64, _SLOW_MS))

    async def sign(self, digest):
        """As SoftwareSigner.sign: the DER, verified on this side. Raises SignerError."""
        if len(digest) != 32:
            raise SignerError("a digest has 32 bytes, not %d" % len(digest))
        if not self._public:
            raise Atecc608Error("secure element: it was not opened")
        x = int.from_bytes(self._public[:32], "big")
        y = int.from_bytes(self._public[32:], "big")
        for _ in range(2):
            signature = await self._awake(self._signature, digest)
            r = int.from_bytes(signature[:32], "big")
            s = int.from_bytes(signature[32:], "big")
            if await run(p256.verify(x, y, digest, r, s)):
                return der(r, s)
            self.failures += 1
        raise Atecc608Error("secure element: the signature did not verify, twice")
