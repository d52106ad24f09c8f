"""A way from a device to its broker that fails as it is told to, packet by packet."""

import asyncio
import contextlib
import socket
import struct
import threading

_PUBLISH, _PUBACK = 0x30, 0x40
_DURABLE = (b"/rec", b"/evt", b"/ivl", b"/log")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets
_READ_S = 0.003  # in which the other end reads what came before the reset

# what strikes at a durable message on its way up, at an acknowledgement on its way down, or at a
# new connection
UP = ("reset up", "half-open", "falls silent", "puback lost", "puback late", "puback doubled",
      "lost after puback", "message doubled")
DOWN = ("reset down", "ack lost", "ack doubled")
NEW = ("silent", "refused")


class _Packets:
    """Whole MQTT packets out of a stream."""

    def __init__(self):
        self._data = b""

    def feed(self, data):
        self._data += data
        while len(self._data) >= 2:
            length = shift = 0
            at = 1
            while True:
                if at >= len(self._data):
                    return
                length |= (self._data[at] & 0x7F) << shift
                shift += 7
                at += 1
                if not self._data[at - 1] & 0x80:
                    break
            if len(self._data) < at + length:
                return
            packet, self._data = self._data[: at + length], self._data[at + length :]
            yield packet, at


def _topic(packet, at):
    """(topic, packet id) of a PUBLISH whose head is `at` bytes long."""
    length = int.from_bytes(packet[at : at + 2], "big")
    end = at + 2 + length
    return packet[at + 2 : end], packet[end : end + 2] if packet[0] & 6 else b""


class Way:
    """Listens on 127.0.0.1:`port`, a context manager; what connects is given to `_serve`."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self):
        self._thread.start()
        self._do(asyncio.start_server(self._serve, sock=self._listener))
        return self

    def __exit__(self, *_):
        self._do(end_all(self._listener))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Relay(Way):
    """To the broker on 127.0.0.1. `faults` are (kind, number, how many
    messages pass before): they strike one after another, each once; `number` is where in the
    packet a connection breaks. `late_s`: how late a PUBACK is."""

    def __init__(self, broker_port, faults, late_s=1.0):
        super().__init__()
        self._broker_port = broker_port
        self._faults = list(faults)
        self._late_s = late_s
        self.all = len(self._faults)
        self.struck = {}  # kind -> how often
        self._passing = self._faults[0][2] if faults else 0
        self._kept = []  # connections that are left open, half dead
        self._tasks = set()  # of connections: asyncio holds none that waits for nothing

    @property
    def left(self):
        """How many faults have not struck yet."""
        return len(self._faults)

    def wants_a_connection(self):
        """Whether the next fault is one of a new connection."""
        return bool(self._faults) and self._faults[0][0] in NEW

    def _strikes(self, kinds):
        """The fault that strikes now as (kind, number), or (None, 0)."""
        if not self._faults or self._faults[0][0] not in kinds:
            return None, 0
        if self._passing:
            self._passing -= 1
            return None, 0
        kind, number, _ = self._faults.pop(0)
        self._passing = self._faults[0][2] if self._faults else 0
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return kind, number

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # at the end
                await self._connection(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _connection(self, reader, writer):
        kind, _ = self._strikes(NEW)
        if kind == "refused":
            _reset(writer)
            return
        if kind == "silent":
            self._kept.append(writer)
            await _swallow(reader)
            return
        await _Way(self, reader, writer, self._late_s).run(self._broker_port)


class _Way:
    """One connection through the relay."""

    def __init__(self, relay, reader, writer, late_s):
        self._relay = relay
        self._device = reader, writer
        self._late_s = late_s
        self._pubacks = {}  # packet id -> what happens to its PUBACK
        self._silent = False
        self._broker = None
        self._over = asyncio.Event()
        _no_delay(writer)

    async def run(self, broker_port):
        try:
            self._broker = await asyncio.open_connection("127.0.0.1", broker_port)
        except OSError:
            self.reset()
            return
        _no_delay(self._broker[1])
        await asyncio.gather(self._pass(self._device[0], self._up),
                             self._pass(self._broker[0], self._down))

    def reset(self):
        self._over.set()
        for end in (self._device, self._broker):
            if end:
                _reset(end[1])

    async def _pass(self, reader, take):
        packets = _Packets()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for packet, at in packets.feed(data):
                    if not take(packet, at):
                        await self._over.wait()  # nothing is read any more, nothing closed
                        return
        self.reset()

    def _break(self, end, packet, number):
        """`number` bytes of the packet, then the connection is reset."""
        end[1].write(packet[:number])
        asyncio.get_running_loop().call_later(_READ_S, self.reset)
        return False

    def _up(self, packet, at):
        """Take a packet of the device; False where the connection is as good as dead."""
        if self._silent:
            return True
        write = _write(self._broker[1])
        topic, pid = _topic(packet, at) if packet[0] & 0xF0 == _PUBLISH else (b"", b"")
        if not topic.endswith(_DURABLE):
            write(packet)
            return True
        if self._relay.wants_a_connection():
            return self._break(self._broker, packet, 0)
        kind, number = self._relay._strikes(UP)
        if kind == "reset up":
            return self._break(self._broker, packet, number)
        if kind == "half-open":
            write(packet[:number])
            return False
        if kind == "lost after puback":
            self._device[1].write(b"\x40\x02" + pid)
            return True
        if kind == "falls silent":
            self._silent = True
        elif kind == "message doubled":
            write(packet)
        elif kind:
            self._pubacks[pid] = kind
        write(packet)
        return True

    def _down(self, packet, at):
        """Take a packet of the broker, likewise."""
        if self._silent:
            return True
        write = _write(self._device[1])
        if packet[0] == _PUBACK:
            kind = self._pubacks.pop(packet[2:4], None)
            if kind == "puback late":
                asyncio.get_running_loop().call_later(self._late_s, write, packet)
            if kind in ("puback late", "puback lost"):
                return True
            if kind == "puback doubled":
                write(packet)
        elif packet[0] & 0xF0 == _PUBLISH and _topic(packet, at)[0].endswith(b"/ack"):
            kind, number = self._relay._strikes(DOWN)
            if kind == "reset down":
                return self._break(self._device, packet, number)
            if kind == "ack lost":
                return True
            if kind == "ack doubled":
                write(packet)
        write(packet)
        return True


async def end_all(listener):
    """Close the listener and end every task of the running loop."""
    asyncio.get_running_loop().remove_reader(listener)
    listener.close()
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _swallow(reader):
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def _write(writer):
    """What writes to it for as long as it is open."""
    def write(data):
        if not writer.is_closing():
            writer.write(data)

    return write


def _no_delay(writer):
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer):
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
