"""Bytes from time servers."""

import struct

from evmeter.system.sntp import SntpError, answer

FLOOR_MS = 1795478400000


def sntp(data):
    """Nonce's last byte, round trip, whether the origin is put right; then the answer."""
    if len(data) < 3:
        return
    nonce, trip_ms = bytes((data[0],)) * 8, data[1] * 8
    packet = bytearray(data[3:131])
    if data[2] & 1 and len(packet) >= 32:
        packet[24:32] = nonce
    buffer = packet + bytes(128 - len(packet))
    try:
        unix_ms, uncertainty_ms, wire_ms = answer(buffer, len(packet), nonce, trip_ms, FLOOR_MS)
    except SntpError:
        return
    assert len(packet) >= 48 and packet[24:32] == nonce, "an answer to nothing"
    assert packet[0] & 7 == 4 and packet[0] >> 6 < 3 and 1 <= packet[1] <= 15, "no server's"
    assert any(packet[32:40]) and any(packet[40:48]), "zero"
    delay, dispersion = struct.unpack_from(">II", packet, 4)
    assert uncertainty_ms >= (delay / 2 + dispersion) * 1000 / 65536 - 1 + wire_ms / 2
    assert 0 <= wire_ms <= trip_ms <= 1500, "a trip that cannot be"
    seconds, fraction = struct.unpack_from(">II", packet, 40)
    sent_ms = (seconds - 2208988800) * 1000 + fraction * 1000 / 2**32 + wire_ms / 2
    apart_ms = (unix_ms - sent_ms + 2**31 * 1000) % (2**32 * 1000) - 2**31 * 1000
    assert abs(apart_ms) <= 2, "another time"
    assert 0 <= unix_ms - FLOOR_MS <= 7305 * 86400000, "a time that cannot be"
