"""A UART with a line and a scripted meter at its other end, on virtual time."""

from drivers.modbus_rtu import crc16

_BUFFER = 256  # of the ESP32's driver: what comes while it is full is lost


def with_crc(hex_text):
    """The bytes of `hex_text` with their CRC."""
    body = bytes.fromhex(hex_text)
    crc = crc16(body, 0, len(body))
    return body + bytes((crc & 0xFF, crc >> 8))


def reply(unit, function, words):
    """A reply with these registers."""
    body = bytearray((unit, function, 2 * len(words)))
    for word in words:
        body.append(word >> 8)
        body.append(word & 0xFF)
    crc = crc16(body, 0, len(body))
    return bytes(body) + bytes((crc & 0xFF, crc >> 8))


class FakeUart:
    """machine.UART's any, readinto, write, flush over `time` (a VirtualTime).

    `answer(request)` returns [(ms after the request's last bit, bytes)] or None. Bytes take
    `char_us` each in both directions. `requests`: (start in us, bytes) of each request.
    """

    def __init__(self, time, char_us, answer=None):
        self._time = time
        self._char_us = char_us
        self.answer = answer
        self._line = []  # (time of the last bit in us, byte) in the order of arrival
        self.requests = []
        self.sent_until_us = 0
        self.heard_until_us = 0
        self.fail = None

    def deliver(self, at_us, data):
        """Put bytes on the line; the first begins at `at_us`."""
        for byte in data:
            at_us += self._char_us
            self._line.append((at_us, byte))
        self.heard_until_us = max(self.heard_until_us, at_us)
        self._line.sort(key=lambda entry: entry[0])

    def _arrived(self):
        now_us = self._time.now_us
        count = 0
        while count < len(self._line) and self._line[count][0] <= now_us:
            count += 1
        while count > _BUFFER:
            count -= 1
            del self._line[count]
        return count

    def any(self):
        if self.fail:
            raise self.fail
        return self._arrived()

    def readinto(self, buffer, nbytes=None):
        count = min(self._arrived(), len(buffer), len(buffer) if nbytes is None else nbytes)
        for index in range(count):
            buffer[index] = self._line.pop(0)[1]
        return count or None

    def write(self, data):
        if self.fail:
            raise self.fail
        start_us = self._time.now_us
        self.requests.append((start_us, bytes(data)))
        self.sent_until_us = start_us + len(data) * self._char_us
        for delay_ms, piece in (self.answer and self.answer(bytes(data))) or ():
            self.deliver(self.sent_until_us + delay_ms * 1000, piece)
        return len(data)

    def flush(self):
        self._time.now_us = max(self._time.now_us, self.sent_until_us)
