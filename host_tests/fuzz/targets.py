"""What the fuzzer feeds: one function for each parser, over bytes; and the wrong parsers.

A target lets out nothing but what the parser declares, and holds its answers against a second
opinion; AssertionError and every other exception are findings. `WRONG` has for each target parsers
that are wrong, which it must notice: name -> (module of the target, attribute, what is put there).
"""

import ledger
import metering
import system
import uplink

from drivers import modbus_rtu
from drivers.meter_profile import check_profile
from evmeter.ledger.journal import Journal
from evmeter.metering import registers
from evmeter.session import session
from evmeter.system import config
from evmeter.uplink import mqtt, publisher
from evmeter_tools.verify import check, parse

TARGETS = {"modbus": metering.modbus, "registers": metering.registers, "gate": metering.gate,
           "ack": uplink.ack, "mqtt": uplink.mqtt_in, "config": system.configuration,
           "profile": system.profile, "ocmf": ledger.ocmf, "key": ledger.key,
           "checkpoint": ledger.checkpoint, "journal": ledger.journal}
from evmeter.system.sntp import SntpError, answer
from evmeter.uplink.publisher import parse_ack
from evmeter_tools.verify import parse

_P_MAX_W = 11000
_STEP_MWH = 1000
_KINDS = sorted(set(WORDS) - {"t5", "t6"})  # Iskra's types have no like in struct
KEY_ID = "a1b2c3d4"
_ACK = {"v": 1, "k": KEY_ID, "cum": 3, "sel": [5, 7], "bad": [{"seq": 4}]}
_CONFIG = {
    "id": "demo-0001", "evse_id": None,
    "meter": {"profile": "x", "unit": 1, "baud": 9600, "parity": "N", "stop": 1, "serial": None,
              "p_max_w": 11000, "period_ms": 1000},
    "pilot": {"front_end": "fe3"}, "mqtt": {"host": "h", "port": 1883, "window": 4},
    "session": {"finished_after_s": 120}, "clock": {"battery": True}}
HIGHEST = 70000
FLOOR_MS = 1795478400000


def _without_crc(line, length, unit, function, count):
    at = bytes(line).find(bytes((unit, function, 2 * count)))
    return at + 3 if 0 <= at <= length - 5 - 2 * count else -5


def _without_exceptions(line, length, unit, function, count):


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


def modbus(data):
    """Unit, function and count, then what came over the line."""
    if len(data) < 3:
        return
    unit, function, count = data[0] or 1, 3 + (data[1] & 1), 1 + data[2] % 125
    line = data[3:291]
    # Half of the inputs get right CRCs at a place that they choose, which mutation hardly finds.
    if len(line) > 6 and data[1] & 2:
        end = 3 + line[2] + 2
        if end <= len(line):
            line = line[: end - 2] + crc(line[: end - 2]) + line[end:]
    try:
        return modbus_rtu.find_reply(line, length, unit, function, count)
    except modbus_rtu.ModbusError:
        return -5


def _by_float(data, at, kind, *more):
    found = registers.decode(data, at, kind, *more)
    return int(float(found) * (1 + 2.0 ** -50)) if found else found


def _unsigned(data, at, kind, *more):
    return registers.decode(data, at, kind.replace("i", "u"), *more)


class _Credulous(metering.Gate):
    def _against(self, old_mwh, old_ms, mwh, now_ms):
        return ""


class _NoRange(metering.Gate):
    def _range(self, reading):
        return ""


def _any_key(payload, key_id, highest):
    told = uplink.json.loads(payload)
    return publisher.parse_ack(payload, told["k"] if isinstance(told, dict) and "k" in told
                               else key_id, highest)


def _any_number(payload, key_id, highest):
    return publisher.parse_ack(payload, key_id, 1 << 40)


class _NoPuback(mqtt.Session):
    def _take(self, packet):
        kept, self._stream.write = self._stream.write, lambda data, length=None: None
        super()._take(packet)
        self._stream.write = kept


class _AnyPacket(mqtt.Session):
    def _take(self, packet):
        if packet[0] & 0xF0 == 0x30:
            super()._take(packet)
        else:
            self._link.consume(len(packet))


def _lenient_config(text):
    kept = config.FIELDS["meter"]["unit"]
    config.FIELDS["meter"]["unit"] = ("int", -10, 10 ** 30, 1)
    try:
        return config.parse(text)
    finally:
        config.FIELDS["meter"]["unit"] = kept


def _silent_defaults(text):
    try:
        return config.parse(text)
    except config.ConfigError:
        return config.parse(uplink.json.dumps(system._CONFIG))


def _large_requests(text):
    given = uplink.json.loads(text)
    if isinstance(given, dict) and given.get("max_registers") in range(4, 125):
        given["max_registers"] = 125
    return check_profile(given)


def _all_refused(text):
    raise system.ProfileError("x is wrong; allowed: nothing")


def _any_signature(text, key):
    verdict = check.check_record(text, key)
    if verdict.payload is not None:
        verdict.signature = True
        verdict.reasons = []
    return verdict


def _stripped(text, key):
    return check.check_record(text.replace("T1", "T2").strip(), key)


def _any_key_object(data):
    try:
        return parse.parse_key(data)
    except parse.KeyFormatError:
        return ledger.SPKI[:-1] + b"\0"


def _short_checkpoint(body):
    return session.unpack(bytes(body[:70]).ljust(70, b"\0") if body else None)


def _no_jump(body):
    found = session.unpack(body)
    if found:
        found.jump_mwh = abs(found.jump_mwh)
    return found


class _LowNumbers(Journal):
    def open(self):
        super().open()
        self.next_seq = max(1, self.next_seq - 1)


class _NoCrc(Journal):
    def _load(self, segment, offset):
        frame = self._frame
        got = self._store.read(segment, offset, frame, len(frame))
        length = int.from_bytes(frame[2:4], "little")
        if got < 29 or got < length + 29 or length > 2560:
            return 0, 1 if got else 0, 0
        return frame[8], length, int.from_bytes(frame[4:8], "little")


WRONG = {
    "modbus": {"no CRC": (metering, "find_reply", _without_crc),
               "no exceptions": (metering, "find_reply", _without_exceptions),
               "waits for more": (metering, "find_reply", lambda *_: -999)},
    "registers": {"through floats": (metering, "decode", _by_float),
                  "without signs": (metering, "decode", _unsigned)},
    "gate": {"no step rule": (metering, "Gate", _Credulous),
             "no range": (metering, "Gate", _NoRange)},
    "ack": {"any key": (uplink, "parse_ack", _any_key),
            "any number": (uplink, "parse_ack", _any_number)},
    "mqtt": {"no PUBACK": (uplink, "Session", _NoPuback),
             "any packet": (uplink, "Session", _AnyPacket)},
    "config": {"no limit": (system, "parse", _lenient_config),
               "defaults in place of errors": (system, "parse", _silent_defaults)},
    "profile": {"any size": (system, "parse_profile", _large_requests),
                "takes none": (system, "parse_profile", _all_refused)},
    "ocmf": {"any signature": (ledger, "check_record", _any_signature),
             "another text": (ledger, "check_record", _stripped)},
    "key": {"any point": (ledger, "parse_key", _any_key_object)},
    "checkpoint": {"any length": (ledger, "unpack", _short_checkpoint),
                   "no sign": (ledger, "unpack", _no_jump)},
    "journal": {"a number twice": (ledger, "Journal", _LowNumbers),
                "no CRC": (ledger, "Journal", _NoCrc)},
}
TARGETS = {"modbus": modbus, "gate": gate, "ack": ack, "config": configuration, "ocmf": ocmf,
           "sntp": sntp}
