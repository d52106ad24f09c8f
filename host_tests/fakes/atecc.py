"""An ATECC608 on an I2C bus: framing, CRC, busy times, watchdog; its arithmetic is given."""

_WATCHDOG_MS = 700
_WAKE_MS = 1  # tWHI is 1.5 ms: what is asked sooner is not acknowledged
_EXECUTION_MS = {0x02: 1, 0x16: 7, 0x30: 1, 0x40: 115, 0x41: 70}


def crc(data):
    """The chip's CRC-16, bit by bit as the data sheet draws it."""
    register = 0
    for byte in data:
        for bit in range(8):
            top = register >> 15
            register = register << 1 & 0xFFFF
            if top != byte >> bit & 1:
                register ^= 0x8005
    return bytes((register & 0xFF, register >> 8))


class Chip:
    """`key`: public() gives 64 bytes, sign(digest) 64 bytes; `time` has ticks_ms, ticks_diff.

    Faults: `busy` multiplies execution times, `absent` answers nothing, `damage` flips a bit in
    the next so many answers, `deaf` loses the next so many commands, `wrong` spoils signatures.
    """

    def __init__(self, key, time, address=0x60):
        self._key = key
        self._time = time
        self._address = address
        self.config = bytearray(128)
        self.config[0:4] = b"\x01\x23\x45\x67"
        self.config[8:13] = b"\x89\xab\xcd\xef\xee"
        for slot in range(16):
            self.config[20 + 2 * slot:22 + 2 * slot] = b"\x8f\x20"
            self.config[96 + 2 * slot:98 + 2 * slot] = b"\x33\x00"
        self.revision = b"\x00\x00\x60\x02"
        self.busy = 1
        self.absent = False
        self.damage = self.deaf = self.wrong = self.flip_command = 0
        self.commands = []
        self.longest_ms = 0
        self._awake_at = None
        self._ready_at = 0
        self._output = b""
        self._buffer = None

    def _now(self):
        return self._time.ticks_ms()

    def _since(self, then):
        return self._time.ticks_diff(self._now(), then)

    def _awake(self):
        if self._awake_at is not None and self._since(self._awake_at) > _WATCHDOG_MS:
            self._fall_asleep()
        return self._awake_at is not None and self._since(self._awake_at) >= _WAKE_MS

    def _fall_asleep(self):
        self._awake_at = None
        self._buffer = None
        self._output = b""

    def _put(self, data, ms):
        self._output = bytes((len(data) + 3,)) + data
        self._output += crc(self._output)
        self._ready_at = self._time.ticks_ms() + ms

    def _running(self):
        return self._since(self._ready_at) < 0

    def writeto(self, address, data):
        data = bytes(data)
        if address == 0 and not self.absent and not self._awake():
            self._awake_at = self._now()
            self._put(b"\x11", _WAKE_MS)
        if address != self._address or self.absent or not self._awake() or self._running():
            raise OSError(19)
        if data == b"\x01":
            self._fall_asleep()
        elif data[0] == 3:
            self._take(data[1:])

    def readfrom_into(self, address, buffer):
        if address != self._address or self.absent or not self._awake() or self._running():
            raise OSError(19)
        output = bytearray(self._output)
        if not output:
            raise OSError(19)
        if self.damage:
            self.damage -= 1
            output[len(output) // 2] ^= 0x10
        for at in range(len(buffer)):
            buffer[at] = output[at] if at < len(output) else 0xFF

    def _take(self, frame):
        if self.deaf:
            self.deaf -= 1
            self._output = b""
            return
        if self.flip_command:
            self.flip_command -= 1
            frame = bytes((frame[0], frame[1] ^ 1)) + frame[2:]
        if frame[0] != len(frame) or crc(frame[:-2]) != frame[-2:]:
            self._put(b"\xff", 1)
            return
        opcode, mode, parameter = frame[1], frame[2], frame[3] | frame[4] << 8
        self.commands.append((opcode, mode, parameter))
        self._put(self._do(opcode, mode, parameter, frame[5:-2]),
                  _EXECUTION_MS.get(opcode, 1) * self.busy)

    def _do(self, opcode, mode, parameter, data):
        locked = not self.config[87]
        if opcode == 0x30 and mode == 0:
            return self.revision
        if opcode == 0x02 and mode in (0, 0x80):
            size = 32 if mode else 4
            return bytes(self.config[parameter * 4:parameter * 4 + size])
        if opcode == 0x16 and mode == 0x43 and len(data) == 32:
            self._buffer = data
            return b"\0"
        if opcode == 0x40 and mode in (0, 4) and locked:
            if mode == 4:
                self._key.new()
            return self._key.public()
        if opcode == 0x41 and mode == 0xA0 and locked:
            if self._buffer is None:
                return b"\x0f"
            signature = bytearray(self._key.sign(self._buffer))
            if self.wrong:
                self.wrong -= 1
                signature[40] ^= 1
            return bytes(signature)
        return b"\x03"
