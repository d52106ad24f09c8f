"""Names to IPv4 addresses by a UDP query of our own (RFC 1035).

The ESP32's getaddrinfo waits for a silent name server as long as it likes, with everything else
at a stand. Here each query has its deadline, and nobody waits but the task that asks.
"""

import asyncio
import errno
import os
import socket
import time

from micropython import const

from evmeter.system.log import log
from evmeter.uplink import is_address
from evmeter.uplink.link import LinkError

_PORT = const(53)
_MOST_BYTES = const(512)  # RFC 1035, 4.2.1
_HEAD = const(12)
_ROUNDS = const(2)
_WAIT_MS = const(1000)  # for one server in the first round; twice that in the second
_STEP_MS = const(10)
_MOST_RECORDS = const(32)
_MOST_ALIASES = const(8)
_MOST_LABELS = const(127)
_MOST_JUMPS = const(16)
_MOST_ADDRESSES = const(8)
_MOST_KNOWN = const(8)  # a configuration has one broker and four time servers
_LONGEST_NAME = const(253)
_LONGEST_LABEL = const(63)
_A = const(1)
_CNAME = const(5)
_IN = const(1)
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
_RCODES = ("", "format error", "server failure", "no such name", "not implemented", "refused")
_KEY = "dns"
_EPHEMERAL = const(49152)
_ANY = "0.0.0.0"  # noqa: S104


class ResolveError(LinkError):
    """The name has no address now; the text says why."""


def question(name):
    """The question for the address of `name`, as it stands in a query. Raises ResolveError."""
    text = name.lower().encode()
    if text.endswith(b"."):
        text = text[:-1]
    result = bytearray()
    for label in text.split(b"."):
        if not 0 < len(label) <= _LONGEST_LABEL or label.strip(_LETTERS):
            raise ResolveError("%s is no host name" % name)
        result.append(len(label))
        result.extend(label)
    if len(text) > _LONGEST_NAME:
        raise ResolveError("a host name of %d characters" % len(text))
    result.extend(b"\x00\x00\x01\x00\x01")
    return bytes(result)


def query(number, asked):
    """The packet that asks `asked` (see `question`); `number` is two random bytes."""
    return number + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + asked  # recursion desired


def _name(data, at):
    """(name in lower case as length-prefixed labels, where it ends). Raises ValueError."""
    result = bytearray()
    end = 0
    jumps = 0
    while True:
        if at >= len(data):
            raise ValueError("name beyond the packet")
        length = data[at]
        if length >= 0xC0:
            if at + 1 >= len(data):
                raise ValueError("name beyond the packet")
            end = end or at + 2
            target = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if target >= at or jumps > _MOST_JUMPS:  # an honest pointer names what came before
                raise ValueError("name in a circle")
            at = target
        elif length > _LONGEST_LABEL:
            raise ValueError("unknown kind of label")
        elif at + 1 + length > len(data) or len(result) + 1 + length > _LONGEST_NAME + 1:
            raise ValueError("name too long")
        elif not length:
            return bytes(result).lower(), end or at + 1
        else:
            result.extend(data[at : at + 1 + length])
            at += 1 + length


def _number(data, at):
    return data[at] << 8 | data[at + 1]


def answer(data, asked):
    """The IPv4 addresses in the answer `data` to the query `asked` (bytes), at most eight.

    None where it is no answer to this very query: the true one may still come. Raises
    ResolveError where it is one and has no address.
    """
    end = len(asked)
    if (len(data) < end or bytes(data[:2]) != asked[:2] or data[2] & 0xF8 != 0x80
            or bytes(data[4:6]) != b"\x00\x01" or bytes(data[_HEAD:end]).lower() != asked[_HEAD:]):
        return None
    code = data[3] & 0x0F
    if code:
        raise ResolveError(_RCODES[code] if code < len(_RCODES) else "code %d" % code)
    if data[2] & 2:
        raise ResolveError("answer cut short")
    addresses = []
    aliases = {}
    try:
        at = end
        for _ in range(min(_number(data, 6), _MOST_RECORDS)):
            owner, at = _name(data, at)
            if at + 10 > len(data):
                raise ValueError("record beyond the packet")
            kind, group, length = _number(data, at), _number(data, at + 2), _number(data, at + 8)
            at += 10
            if at + length > len(data):
                raise ValueError("record beyond the packet")
            if group == _IN and kind == _A and length == 4:
                addresses.append((owner, bytes(data[at : at + 4])))
            elif group == _IN and kind == _CNAME:
                target, stop = _name(data, at)
                if stop != at + length:
                    raise ValueError("alias of another length")
                aliases[owner] = target
            at += length
    except ValueError as error:
        raise ResolveError("malformed answer: %s" % error) from None
    wanted = asked[_HEAD:-5]
    for _ in range(_MOST_ALIASES):
        found = ["%d.%d.%d.%d" % tuple(raw) for owner, raw in addresses
                 if owner == wanted and 0 < raw[0] < 224]
        if found:
            return found[:_MOST_ADDRESSES]
        if wanted not in aliases:
            break
        wanted = aliases[wanted]
    raise ResolveError("the answer has no address")


class Resolver:
    """`await resolver(name)` gives an IPv4 address as text, and takes at most 6 s for two servers.

    `servers()` gives the name servers' addresses as text, best first. The last address that was
    found is used where nobody answers, also after a reboot with `nvs` (an esp32.NVS), which has
    room for one name and is written inside `quiet` (Ledger.quiet).
    """

    def __init__(self, servers, nvs=None, quiet=None, sockets=socket, urandom=os.urandom,
                 port=_PORT):
        self._servers = servers
        self._port = port
        self._nvs = nvs
        self._quiet = quiet
        self._sockets = sockets
        self._urandom = urandom
        self._known = {}
        self._turn = 0
        self.failures = 0
        self.reason = ""

    async def __call__(self, name):
        if is_address(name):
            return name
        if name == "localhost":  # RFC 6761, 6.3
            return "127.0.0.1"
        asked = question(name)
        try:
            addresses = await self._ask_all(asked)
        except ResolveError as error:
            self.failures += 1
            self.reason = "%s: %s" % (name, error.args[0])
            last = self._known.get(name) or self._kept(name)
            if not last:
                raise ResolveError(self.reason) from None
            log.warning("uplink: %s; its last address is used", self.reason)
            return last
        self.reason = ""
        # the next time another one of them: the first one may be down
        address = addresses[self._turn % len(addresses)]
        self._turn = (self._turn + 1) % _MOST_ADDRESSES
        if self._known.get(name) not in addresses:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            await self._keep(name, address, addresses)
        self._known[name] = address
        return address

    async def _ask_all(self, asked):
        servers = [server for server in self._servers() if server and server != _ANY]
        if not servers:
            raise ResolveError("no name server is known")
        reason = None
        for round_ in range(1, _ROUNDS + 1):
            for server in servers[:2]:
                try:
                    return await self._ask(server, asked, round_ * _WAIT_MS)
                except OSError as error:
                    reason = error
        raise ResolveError(str(reason) if isinstance(reason, ResolveError) else
                           "name server: error %s" % reason.args[0])

    def _open(self, server):
        """A socket that only `server` can answer, from a port that nobody else knows."""
        sockets = self._sockets
        sock = sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            number = self._urandom(2)
            port = _EPHEMERAL + ((number[0] << 8 | number[1]) & 0x3FFF)
            try:
                sock.bind(self._address(_ANY, port))
            except OSError as error:  # taken: the stack's own choice
                log.debug("uplink: port %d: %s", port, error)
            sock.connect(self._address(server, self._port))
        except OSError:
            sock.close()
            raise
        return sock

    def _address(self, host, port):
        sockets = self._sockets
        return sockets.getaddrinfo(host, port, sockets.AF_INET, sockets.SOCK_DGRAM)[0][-1]

    async def _ask(self, server, asked, wait_ms):
        if not is_address(server):
            raise ResolveError("%s is no name server's address" % server)
        packet = query(self._urandom(2), asked)
        data = bytearray(_MOST_BYTES)
        view = memoryview(data)
        sock = self._open(server)
        try:
            receive = getattr(sock, "readinto", None) or sock.recv_into
            sock.send(packet)
            begun = time.ticks_ms()
            while time.ticks_diff(time.ticks_ms(), begun) <= wait_ms:
                count = None
                try:
                    count = receive(data)
                except OSError as error:
                    if error.args[0] != errno.EAGAIN:
                        raise
                if count:
                    addresses = answer(view[:count], packet)
                    if addresses:
                        return addresses
                await asyncio.sleep_ms(0 if count else _STEP_MS)
        finally:
            sock.close()
        raise ResolveError("name server %s does not answer" % server)

    async def _keep(self, name, address, addresses):
        if self._nvs is None or self._kept(name) in addresses:
            return
        try:
            async with self._quiet:
                self._nvs.set_blob(_KEY, ("%s %s" % (address, name)).encode())
                self._nvs.commit()
        except OSError as error:
            log.warning("uplink: last address not kept: error %s", error.args[0])

    def _kept(self, name):
        """The address kept for `name`, or None."""
        if self._nvs is None:
            return None
        buffer = bytearray(_LONGEST_NAME + 16)
        try:
            length = self._nvs.get_blob(_KEY, buffer)
        except OSError:  # there is none
            return None
        address, _, kept = bytes(buffer[:length]).partition(b" ")
        try:
            address = address.decode()
        except ValueError:
            return None
        return address if kept == name.encode() and is_address(address) else None
