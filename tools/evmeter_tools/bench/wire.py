"""An RS-485 line between two ptys: bytes take their time, and only the addressed unit hears.

A pty carries no line speed. The wire delivers each byte when its last bit would have arrived, in
both directions. Requests are handed to the meter as whole frames after 3.5 characters of silence,
and only if they name its unit: the Modbus server would answer for every unit otherwise.
"""

import asyncio
import os
import tty

_SILENCE_CHARS = 3.5
_LEAST_SILENCE_S = 0.00175  # above 19200 baud, Modbus over serial line 2.5.1.1


class Wire:
    """`device_path` is the charger's end, `meter_path` the meter's. `on_reply(bytes) -> bytes` may
    change a reply on its way (None: lost)."""

    def __init__(self, baud, char_bits, unit):
        self.char_s = char_bits / baud
        self._silence_s = max(_LEAST_SILENCE_S, _SILENCE_CHARS * self.char_s)
        self._unit = unit
        self._request = bytearray()
        self._request_end = None
        self._free_at = {}
        self._loop = None
        self.on_reply = None
        self.requests = 0
        self._device_fd, self._device_slave = os.openpty()
        self._meter_fd, self._meter_slave = os.openpty()
        for fd in (self._device_slave, self._meter_slave):
            tty.setraw(fd)
        self.device_path = os.ttyname(self._device_slave)
        self.meter_path = os.ttyname(self._meter_slave)

    def start(self):
        """Begin to carry bytes; needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._device_fd, self._from_device)
        self._loop.add_reader(self._meter_fd, self._from_meter)

    def stop(self):
        """Take the line away."""
        for fd in (self._device_fd, self._meter_fd):
            self._loop.remove_reader(fd)
        for fd in (self._device_fd, self._device_slave, self._meter_fd, self._meter_slave):
            os.close(fd)

    def _arrival(self, source, count):
        """When the last of `count` bytes sent now by `source` has arrived."""
        start = max(self._loop.time(), self._free_at.get(source, 0))
        self._free_at[source] = start + count * self.char_s
        return self._free_at[source]

    def _from_device(self):
        data = os.read(self._device_fd, 512)
        self._request += data
        if self._request_end:
            self._request_end.cancel()
        end = self._arrival("device", len(data)) + self._silence_s
        self._request_end = self._loop.call_at(end, self._deliver_request)

    def _deliver_request(self):
        frame = bytes(self._request)
        self._request.clear()
        self._request_end = None
        if frame[0] == self._unit:
            self.requests += 1
            os.write(self._meter_fd, frame)

    def _from_meter(self):
        data = os.read(self._meter_fd, 512)
        if self.on_reply:
            data = self.on_reply(data)
        start = max(self._loop.time(), self._free_at.get("meter", 0))
        for index in range(len(data or b"")):
            self._loop.call_at(start + (index + 1) * self.char_s, os.write, self._device_fd,
                               data[index : index + 1])
        self._free_at["meter"] = start + len(data or b"") * self.char_s
