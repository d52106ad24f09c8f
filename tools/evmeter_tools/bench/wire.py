"""An RS-485 line between two ptys: bytes take their time, and only the addressed unit hears. Or a
real line behind a serial port, with the same filter.

A pty carries no line speed. The wire delivers each byte when its last bit would have arrived, in
both directions. Requests are handed to the meter as whole frames after 3.5 characters of silence,
and only if they name its unit and their CRC holds: the Modbus server would answer for every unit,
and stay deaf for a while after noise.
"""

import asyncio
import os
import termios
import tty
from collections import deque

import serial as pyserial

from evmeter_tools.bench.misbehaviour import crc16
from evmeter_tools.errors import UserError

_SILENCE_CHARS = 3.5
_LEAST_SILENCE_S = 0.00175  # above 19200 baud, Modbus over Serial Line 1.02, 2.5.1.1
_CHUNK = 512
_FRAME_BYTES = 256  # the longest there is
_LEAST_BYTES = 4
_STALE_S = 0.05  # bytes of one frame come closer, even through a USB adapter's buffer


def whole(frame):
    """Whether the bytes are a frame whose CRC holds."""
    return len(frame) >= _LEAST_BYTES and crc16(frame[:-2]) == frame[-2:]


class Wire:
    """`device_path` is the charger's end, `meter_path` the meter's; both are there at once.

    `baud` and `char_bits` (10 or 11 bits a character) give the speed. `on_reply(data)` may damage
    a reply: it returns the bytes to deliver, None where the reply is lost, or a list of
    (delay in s, bytes). `requests` counts what reached the meter.
    """

    def __init__(self, baud, char_bits, unit):
        self.char_s = char_bits / baud
        self._silence_s = max(_LEAST_SILENCE_S, _SILENCE_CHARS * self.char_s)
        self._unit = unit
        self._request = bytearray()
        self._request_end_s = 0
        self._request_timer = None
        self._reply = deque()  # (time of arrival, byte)
        self._reply_end_s = 0
        self._reply_timer = None
        self._loop = None
        self.on_reply = None
        self.requests = 0
        self._meter_fd, self._meter_slave = self._pty()
        self.meter_path = os.ttyname(self._meter_slave)
        self._open()

    @staticmethod
    def _pty():
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        return master, slave

    def _open(self):
        self._device_fd, self._device_slave = self._pty()
        self.device_path = os.ttyname(self._device_slave)

    def _close(self):
        os.close(self._device_fd)
        os.close(self._device_slave)

    def start(self):
        """Begin to carry bytes; needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._device_fd, self._from_device)
        self._loop.add_reader(self._meter_fd, self._from_meter)

    def stop(self):
        """Take the line away; what is still on it is lost."""
        for timer in (self._request_timer, self._reply_timer):
            if timer:
                timer.cancel()
        for fd in (self._device_fd, self._meter_fd):
            if self._loop:
                self._loop.remove_reader(fd)
        os.close(self._meter_fd)
        os.close(self._meter_slave)
        self._close()

    def _from_device(self):
        self._heard(os.read(self._device_fd, _CHUNK))

    def _heard(self, data):
        self._request += data
        self._request_end_s = (max(self._loop.time(), self._request_end_s)
                               + len(data) * self.char_s)
        if self._request_timer:
            self._request_timer.cancel()
        self._request_timer = self._loop.call_at(self._request_end_s + self._silence_s,
                                                 self._deliver_request)

    def _deliver_request(self):
        frame = bytes(self._request)
        self._request.clear()
        self._request_timer = None
        if frame[0] == self._unit:
            self.requests += 1
            if whole(frame):
                self._put(self._meter_fd, frame)

    def _from_meter(self):
        data = os.read(self._meter_fd, _CHUNK)
        if self.on_reply:
            data = self.on_reply(data)
        pieces = data if isinstance(data, list) else [(0, data or b"")]
        for delay_s, piece in pieces:
            start_s = max(self._loop.time(), self._reply_end_s) + delay_s
            self._reply_end_s = start_s + len(piece) * self.char_s
            for index in range(len(piece)):
                self._reply.append((start_s + (index + 1) * self.char_s, piece[index]))
        if not self._reply_timer:
            self._deliver_reply()

    def _deliver_reply(self):
        """Hand over the bytes that have arrived by now; come back for the next one."""
        now_s = self._loop.time()
        arrived = bytearray()
        while self._reply and self._reply[0][0] <= now_s:
            arrived.append(self._reply.popleft()[1])
        if arrived:
            self._put(self._device_fd, arrived)
        self._reply_timer = None
        if self._reply:
            self._reply_timer = self._loop.call_at(self._reply[0][0], self._deliver_reply)

    @staticmethod
    def _put(fd, data):
        try:
            os.write(fd, data)
        except OSError:
            return  # nobody reads at the other end, or nobody is there; a line does not wait


class PortWire(Wire):
    """The real line behind the serial port `port`, which gives the speed itself. `on_lost` is
    called when the port goes away. Raises UserError where the port cannot be used.

    An adapter may hand over a request together with what came before it, another meter's reply or
    noise: the request is what stands last. Some also hand over what they send.
    """

    def __init__(self, port, baud, parity, char_bits, unit, on_lost):
        try:
            self._serial = pyserial.Serial(port, baud, parity=parity, timeout=0, exclusive=True)
        except (OSError, ValueError, termios.error) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError("the port %s cannot be used: %s" % (port, cause)) from None
        self.device_path = port
        self._on_lost = on_lost
        self._heard_s = 0
        super().__init__(baud, char_bits, unit)
        self.char_s = 0  # a reply takes its time on the line, not here

    def _open(self):
        self._device_fd = self._serial.fileno()

    def _close(self):
        self._serial.close()

    def _from_device(self):
        try:
            data = os.read(self._device_fd, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._device_fd)
            self._on_lost()
            return
        now_s = self._loop.time()
        if now_s - self._heard_s > _STALE_S:
            self._request.clear()
        self._heard_s = now_s
        self._heard(data)
        del self._request[:-_FRAME_BYTES]

    def _deliver_request(self):
        self._request_timer = None
        data = bytes(self._request)
        for begin in range(len(data)):
            frame = data[begin:]
            if frame[0] == self._unit and whole(frame) and not self._is_reply(frame):
                self.requests += 1
                self._request.clear()
                self._put(self._meter_fd, frame)
                return

    @staticmethod
    def _is_reply(frame):
        """Of the functions 1 to 6, requests and only they are 8 bytes long."""
        return frame[1] & 0x80 or (frame[1] <= 6 and len(frame) != 8)
