"""A broker and backend in one that does as little as can be done: each frame is acknowledged at
once. What the device itself takes is measured against it; prints its port."""

import asyncio
import json
import socket
import sys

_CONNECT, _PUBLISH, _SUBSCRIBE, _PING = 0x10, 0x30, 0x80, 0xC0
_STATE = b"evmeter/v1/_host/state"
_DURABLE = (b"/rec", b"/evt", b"/ivl", b"/log")
_SEQ = b'"seq":'


def _message(topic, payload):
    body = len(topic).to_bytes(2, "big") + topic + b"\x00\x01" + payload
    length = len(body)
    head = bytearray(b"\x32")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


class _Stub(asyncio.Protocol):
    """One connection; `key_id` is the device's key."""

    def __init__(self, key_id):
        self._ack = json.dumps({"v": 1, "k": key_id, "cum": -1, "sel": [], "bad": []})
        self._data = bytearray()
        self._transport = None

    def connection_made(self, transport):
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self._data += data
        answers = []
        while len(self._data) >= 2:
            length = shift = 0
            at = 1
            while at < len(self._data):
                length |= (self._data[at] & 0x7F) << shift
                shift += 7
                at += 1
                if not self._data[at - 1] & 0x80:
                    break
            else:
                break
            if len(self._data) < at + length:
                break
            answers.append(self._answer(self._data[0], bytes(self._data[at : at + length])))
            del self._data[: at + length]
        self._transport.write(b"".join(answers))

    def _answer(self, first, body):
        kind = first & 0xF0
        if kind == _CONNECT:
            return b"\x20\x02\x00\x00"
        if kind == _PING:
            return b"\xd0\x00"
        if kind == _SUBSCRIBE:
            answer = b"\x90\x03" + body[:2] + b"\x01"
            if body[4:-1] == _STATE:
                answer += _message(_STATE, b'{"online": true}')
            return answer
        if kind != _PUBLISH or not first & 6:
            return b""
        end = 2 + int.from_bytes(body[:2], "big")
        topic = body[2:end]
        answer = b"\x40\x02" + body[end : end + 2]
        if topic.endswith(_DURABLE):
            start = body.rindex(_SEQ) + len(_SEQ)
            seq = body[start : start + 10].split(b",")[0].rstrip(b"}")
            answer += _message(topic[:-3] + b"ack",
                               self._ack.replace("-1", seq.decode()).encode())
        return answer


async def _serve(key_id):
    server = await asyncio.get_running_loop().create_server(
        lambda: _Stub(key_id), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
