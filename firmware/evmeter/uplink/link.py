"""A TCP connection that never blocks: fixed buffers, deadlines, one MQTT packet at a time.

After `connect` the socket stays non-blocking for good: on the ESP32 `setblocking(True)` clears
any timeout and waits for ever, so that nothing here ever calls it.
"""

import asyncio
import errno
import select
import socket
import time

from micropython import const

from evmeter.system.log import log

_MAX_PACKET = const(4096)
_HEAD = const(5)  # packet type and at most four length bytes
_SEND_BYTES = const(2816)  # one durable frame with its topic
_STEP_MS = const(10)
_FLUSH_MS = const(5000)
_IPPROTO_TCP = const(6)
_TCP_NODELAY = const(1)


class LinkError(OSError):
    """The connection cannot be used any more; the text says why."""


class Link:
    """`resolve(host, port)` gives a socket address; `wrap(sock)` may put TLS over the socket."""

    def __init__(self, resolve=None, wrap=None, sockets=socket, poll=select.poll):
        self._resolve = resolve
        self._wrap = wrap
        self._sockets = sockets
        self._poll = poll
        self._socket = None
        self._receive = None
        self._transmit = None
        self._in = bytearray(_MAX_PACKET + _HEAD)
        self._in_view = memoryview(self._in)
        self._have = 0
        self._out = bytearray(_SEND_BYTES)
        self._out_view = memoryview(self._out)
        self.queued = 0
        self.last_rx_ms = 0

    async def connect(self, host, port, timeout_ms):
        """Open the connection. Raises OSError (LinkError on the deadline)."""
        self.close()
        if self._resolve:
            address = self._resolve(host, port)
        else:
            address = self._sockets.getaddrinfo(host, port)[0][-1]
        sock = self._socket = self._sockets.socket()
        sock.setblocking(False)
        try:
            sock.connect(address)
        except OSError as error:
            if error.args[0] not in (errno.EINPROGRESS, errno.EALREADY):
                raise
        poller = self._poll()
        poller.register(sock, select.POLLOUT)
        begun = time.ticks_ms()
        while True:
            ready = poller.poll(0)
            if ready:
                break
            if time.ticks_diff(time.ticks_ms(), begun) > timeout_ms:
                raise LinkError("no connection within %d ms" % timeout_ms)
            await asyncio.sleep_ms(_STEP_MS)
        if ready[0][1] & (select.POLLERR | select.POLLHUP):
            raise LinkError("connection refused")
        try:
            sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        except (AttributeError, OSError, ValueError):
            log.info("link: no TCP_NODELAY here")  # whole packets in one write make it tolerable
        if self._wrap:
            sock = self._socket = self._wrap(sock)
        # MicroPython's TLS sockets have the stream methods only, CPython's sockets the others
        self._receive = getattr(sock, "readinto", None) or sock.recv_into
        self._transmit = getattr(sock, "write", None) or sock.send
        self._have = self.queued = 0
        self.last_rx_ms = time.ticks_ms()

    def close(self):
        """Drop the connection and what was queued."""
        if self._socket is not None:
            try:
                self._socket.close()
            except OSError as error:
                log.info("link: close: %s", error)
            self._socket = None
        self._have = self.queued = 0

    def queue(self, data, length=None):
        """Put bytes into the transmit buffer. Raises LinkError where they do not fit."""
        if length is None:
            length = len(data)
        end = self.queued + length
        if end > _SEND_BYTES:
            raise LinkError("more than %d bytes to send at once" % _SEND_BYTES)
        self._out[self.queued : end] = memoryview(data)[:length]
        self.queued = end

    def mark(self, at, bits):
        """Set bits in a queued byte (the DUP flag of a packet that begins at `at`)."""
        self._out[at] |= bits

    async def flush(self):
        """Send what is queued. Raises LinkError on the deadline, OSError."""
        sent = 0
        begun = time.ticks_ms()
        while sent < self.queued:
            try:
                count = self._transmit(self._out_view[sent : self.queued])
            except OSError as error:
                if error.args[0] != errno.EAGAIN:
                    raise
                count = None
            if count:
                sent += count
            elif time.ticks_diff(time.ticks_ms(), begun) > _FLUSH_MS:
                raise LinkError("the peer takes no data")
            else:
                await asyncio.sleep_ms(_STEP_MS)
        self.queued = 0

    def poll(self):
        """Receive what is there. Returns the next whole packet (memoryview, valid until `consume`)
        or None. Raises LinkError on a closed connection or a packet that is too large."""
        packet = self._packet()
        if packet is None:
            self._fill()
            packet = self._packet()
        return packet

    def _fill(self):
        try:
            count = self._receive(self._in_view[self._have :])
        except OSError as error:
            if error.args[0] != errno.EAGAIN:
                raise
            count = None
        if count is None:
            return
        if not count:
            raise LinkError("closed by the peer")
        self._have += count
        self.last_rx_ms = time.ticks_ms()

    def _packet(self):
        """The packet at the start of the buffer once all of it is there."""
        data = self._in
        length = shift = 0
        for index in range(1, _HEAD):
            if index >= self._have:
                return None
            length |= (data[index] & 0x7F) << shift
            shift += 7
            if not data[index] & 0x80:
                break
        else:
            raise LinkError("malformed packet length")
        if length > _MAX_PACKET:
            raise LinkError("packet of %d bytes; allowed: %d" % (length, _MAX_PACKET))
        total = index + 1 + length
        return self._in_view[:total] if self._have >= total else None

    def consume(self, length):
        """Drop the first `length` bytes received."""
        rest = self._have - length
        if rest:
            self._in[:rest] = self._in[length : self._have]
        self._have = rest
