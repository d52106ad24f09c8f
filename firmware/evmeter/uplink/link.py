"""A TCP connection that never blocks: bounded buffers, deadlines, one MQTT packet at a time.

After `connect` the socket stays non-blocking for good: on the ESP32 `setblocking(True)` clears
any timeout and waits for ever, so that nothing here ever calls it.
"""

import asyncio
import errno
import select
import socket
import sys
import time

from micropython import const

from evmeter.system.log import log
from evmeter.uplink import is_address

_MAX_PACKET = const(4096)
_ROOM = const(512)  # for packets; a larger one gets a buffer of its own while it is here
_MOST_DROPPED = const(1048576)  # of a message that is too large
_PUBLISH = const(0x30)
_HEAD = const(5)  # packet type and at most four length bytes
_SEND_BYTES = const(2688)  # one durable frame with its topic (2,610), and PUBACKs
_STEP_MS = const(10)
_FLUSH_MS = const(5000)
_IPPROTO_TCP = const(6)
_PACKET_MS = const(10000)  # from a packet's first byte to its last
_HANDSHAKE_MS = const(15000)  # an ESP32 computes for 1 to 2 s of it


class LinkError(OSError):
    """The connection cannot be used any more; the text says why."""


def _named(code):
    """An errno's name, or its number where MicroPython has no name for it."""
    return errno.errorcode.get(code) or "error %s" % code


class Link:
    """`resolve(name)` is a coroutine function that gives a name's IPv4 address as text (see
    resolver.py): getaddrinfo never gets a name, as on the ESP32 it waits for a silent name server
    without limit. `tls` (see tls.py) verifies the broker in the first writes; without one, or
    with an `insecure` one, the connection is `insecure`. `room`: bytes of the longest packet that
    is sent, where that is longer than a durable frame.
    """

    def __init__(self, resolve=None, tls=None, sockets=socket, poll=select.poll, room=0):
        self._resolve = resolve
        self._tls = tls
        self.insecure = tls is None or tls.insecure
        self._sockets = sockets
        self._poll = poll
        self._socket = None
        self._stream = None
        self._receive = None
        self._transmit = None
        self._handshake = False
        self._usual = bytearray(_ROOM)
        self._have = self._drop = 0
        self.over = 0
        self._into(self._usual)
        self._out = memoryview(bytearray(max(_SEND_BYTES, room)))
        self._sent = self._offered = self._moved_ms = self._begun_ms = 0
        self.queued = 0
        self.last_rx_ms = self.last_tx_ms = 0

    def _into(self, buffer):
        """Receive into `buffer` from now on; what is held goes along."""
        if self._have:
            buffer[: self._have] = self._in_view[: self._have]
        self._in = buffer
        self._in_view = memoryview(buffer)

    async def connect(self, host, port, timeout_ms):
        """Open the connection. Raises OSError (LinkError on the deadline)."""
        self.close()
        begun = time.ticks_ms()
        sockets = self._sockets
        address = host
        if not is_address(host):
            if self._resolve is None:
                raise LinkError("nothing here resolves names; configure the broker's address")
            address = await self._resolve(host)
        address = sockets.getaddrinfo(address, port, sockets.AF_INET, sockets.SOCK_STREAM)[0][-1]
        sock = self._socket = self._stream = sockets.socket()
        sock.setblocking(False)
        try:
            sock.connect(address)
        except OSError as error:
            if error.args[0] not in (errno.EINPROGRESS, errno.EALREADY):
                raise LinkError("no connection (%s)" % _named(error.args[0])) from None
        poller = self._poll()
        poller.register(sock, select.POLLOUT)
        while True:
            ready = poller.poll(0)
            if ready:
                break
            if time.ticks_diff(time.ticks_ms(), begun) > timeout_ms:
                raise LinkError("no connection within %d ms" % timeout_ms)
            await asyncio.sleep_ms(_STEP_MS)
        if ready[0][1] & (select.POLLERR | select.POLLHUP):
            try:
                sock.recv(1)  # raises what went wrong
            except OSError as error:
                raise LinkError("no connection (%s)" % _named(error.args[0])) from None
            raise LinkError("no connection")
        # Without it Nagle's algorithm holds a packet back for up to 40 ms. MicroPython's unix
        # port has the option, but no name for it; older ESP32 releases have neither.
        option = getattr(sockets, "TCP_NODELAY", 1 if sys.platform == "linux" else 0)
        if option:
            sock.setsockopt(_IPPROTO_TCP, option, 1)
        if self._tls:
            self._handshake = True
            try:
                sock = self._stream = self._tls.wrap(sock, host)
            except (ValueError, OSError) as error:
                raise LinkError(self._tls.reason(error, False)) from None
        # MicroPython's TLS sockets have the stream methods only, CPython's sockets the others
        self._receive = getattr(sock, "readinto", None) or sock.recv_into
        self._transmit = getattr(sock, "write", None) or sock.send
        self.last_rx_ms = self.last_tx_ms = time.ticks_ms()

    def close(self):
        """Drop the connection and what was queued."""
        # MicroPython's TLS lets go of its socket without closing it where the handshake fails.
        for stream in (self._stream, self._socket):
            if stream is not None:
                try:
                    stream.close()
                except OSError as error:
                    log.info("link: close: %s", error)
        self._stream = self._socket = None
        self._handshake = False
        self._have = self._drop = self.queued = self._sent = self._offered = 0
        self._into(self._usual)

    def tail(self, at):
        """The transmit buffer from byte `at` on (memoryview). What is put there and then queued
        from there is not copied."""
        return self._out[at:]

    def queue(self, data, length=None):
        """Put bytes into the transmit buffer. Raises LinkError where they do not fit."""
        if length is not None:
            data = memoryview(data)[:length]
        start = self.queued
        end = start + len(data)
        if end > len(self._out):
            raise LinkError("more than %d bytes to send at once" % len(self._out))
        if not start:
            self._moved_ms = time.ticks_ms()
        self._out[start:end] = data
        self.queued = end

    def flush(self):
        """Send of what is queued as much as the socket takes now. Returns whether all is sent.
        Raises LinkError where it has taken nothing for 5 s (15 s where a handshake comes first)
        or the broker is not who it should be, OSError."""
        while self._sent < self.queued:
            # TLS wants an offer that it could not take repeated with the same length
            end = self._offered or self.queued
            count = None
            try:
                count = self._transmit(self._out[self._sent : end])
            except (OSError, ValueError) as error:
                self._failed(error)
            now = time.ticks_ms()
            if not count:
                self._offered = end
                waited_ms = time.ticks_diff(now, self._moved_ms)
                if self._handshake:
                    if waited_ms > _HANDSHAKE_MS:
                        raise LinkError("no TLS handshake within %d ms" % _HANDSHAKE_MS)
                elif waited_ms > _FLUSH_MS:
                    raise LinkError("the peer takes no data")
                return False
            self._offered = 0
            self._handshake = False
            self._sent += count
            self._moved_ms = self.last_tx_ms = now
        self._sent = self.queued = 0
        return True

    def poll(self):
        """Receive what is there. Returns the next whole packet (memoryview, valid until `consume`)
        or None. Of a message that is too large, for the limit or for the heap, these are its first
        512 bytes, and `over` says how many more there are. Raises LinkError on a closed
        connection, another packet that is too large, or a message beyond 1 MiB."""
        have = self._have
        packet = self._packet() if have else None
        if packet is not None:
            return packet
        count = None
        try:
            # no slice where nothing is held: an idle look allocates nothing
            count = self._receive(self._in_view[have:] if have else self._in_view)
        except (OSError, ValueError) as error:
            self._failed(error)
        if count is None:
            if (have or self._drop) and time.ticks_diff(time.ticks_ms(),
                                                        self._begun_ms) > _PACKET_MS:
                raise LinkError("half a packet for %d ms" % _PACKET_MS)
            return None
        if not count:
            raise LinkError("closed by the peer")
        self._have = have + count
        self.last_rx_ms = time.ticks_ms()
        if not have:
            self._begun_ms = self.last_rx_ms
        if self._drop:
            self.consume(0)
        return self._packet() if self._have else None

    def _failed(self, error):
        """Raise what `error` of a read or write means, unless it is that there is nothing now."""
        code = error.args[0] if error.args else 0
        if code == errno.EAGAIN:
            return
        if self._tls:
            # A text or a large negative number is Mbed TLS's, the rest an errno of the connection,
            # which after the handshake comes out of Mbed TLS with its sign changed.
            if not isinstance(code, str) and -256 < code < 0:
                code = -code
            if isinstance(code, str) or code < 0 or code == errno.ENOMEM:
                raise LinkError(self._tls.reason(error, not self._handshake))
            if self._handshake:
                raise LinkError("no TLS there: closed in the handshake (%s)" % _named(code))
        raise LinkError("connection lost (%s)" % _named(code))

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
        total = index + 1 + length
        self.over = 0
        large = length > _MAX_PACKET
        if total > len(data) and not large:
            try:
                self._into(bytearray(total))
            except MemoryError:
                large = True
        if large:
            if length > _MOST_DROPPED or data[0] & 0xF0 != _PUBLISH:
                raise LinkError("packet of %d bytes; allowed: %d" % (length, _MAX_PACKET))
            self.over = total - _ROOM
            total = _ROOM
        return self._in_view[:total] if self._have >= total else None

    def consume(self, length):
        """Drop the first `length` bytes received, or to come."""
        length += self._drop
        rest = self._have - length
        self._drop = max(0, -rest)
        if rest > 0:
            self._in_view[:rest] = self._in_view[length : self._have]
        self._have = max(0, rest)
        if rest:
            self._begun_ms = time.ticks_ms()
        if len(self._in) > _ROOM >= self._have:
            self._into(self._usual)
