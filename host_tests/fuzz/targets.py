"""What the fuzzer feeds: one function for each parser, over bytes; and the wrong parsers.

A target lets out nothing but what the parser declares, and holds its answers against a second
opinion; AssertionError and every other exception are findings. `WRONG` has for each target parsers
that are wrong, which it must notice: name -> (module of the target, attribute, what is put there).
"""

import ledger
import metering
import names
import orders
import system
import times
import uplink

from drivers import modbus_rtu
from drivers.meter_profile import check_profile
from evmeter.ledger.journal import Journal
from evmeter.metering import registers
from evmeter.session import session
from evmeter.system import config, twin
from evmeter.uplink import commands, mqtt, publisher, resolver, tls
from evmeter_tools.verify import audit, check, parse

TARGETS = {"modbus": metering.modbus, "registers": metering.registers, "gate": metering.gate,
           "ack": uplink.ack, "mqtt": uplink.mqtt_in, "config": system.configuration,
           "profile": system.profile, "ocmf": ledger.ocmf, "key": ledger.key,
           "audit": ledger.audit,
           "checkpoint": ledger.checkpoint, "journal": ledger.journal, "sntp": times.sntp,
           "command": orders.command, "wish": orders.wish,
           "dns": names.dns, "certificate": names.certificate}


def _without_crc(line, length, unit, function, count):
    at = bytes(line).find(bytes((unit, function, 2 * count)))
    return at + 3 if 0 <= at <= length - 5 - 2 * count else -5


def _without_exceptions(line, length, unit, function, count):
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


def _any_entry(text, key):
    entry = audit.check_entry(text, key)
    entry.signature = True
    return entry


def _no_reasons(text, key):
    entry = audit.check_entry(text, key)
    entry.reasons = []
    return entry


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


def _any_question(data, asked):
    return resolver.answer(data, bytes(data[:2]) + asked[2:12] + bytes(data[12 : len(asked)]))


def _any_code(data, asked):
    return resolver.answer(bytes(data[:3]) + b"\x80" + bytes(data[4:]), asked)


def _local_time(certificate):
    begins_s, ends_s, same = tls.facts(certificate)
    return begins_s + 3600, ends_s + 3600, same


def _any_device(found, payload, device_id, wish=False):
    commands.check(found, payload, found.get("dev", device_id), wish)


def _any_field(found, payload, device_id, wish=False):
    known = {name: value for name, value in found.items() if name not in ("op", "k", "x")}
    commands.check(dict(known, op="x"), payload, device_id, wish)


def _forgets(settings, wish, rev):
    return config.check(dict(wish, rev=rev))


def _takes_any(settings, wish, rev):
    try:
        return twin.merged(settings, wish, rev)
    except config.ConfigError:
        return dict(settings, rev=rev)


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
    "audit": {"any entry": (ledger, "check_entry", _any_entry),
              "no reasons": (ledger, "check_entry", _no_reasons)},
    "sntp": {"a second off": (times, "answer", lambda *_: (times.FLOOR_MS + 1, 2000, 0)),
             "too sure": (times, "answer", lambda *_: (times.FLOOR_MS, 0, 20))},
    "checkpoint": {"any length": (ledger, "unpack", _short_checkpoint),
                   "no sign": (ledger, "unpack", _no_jump)},
    "command": {"any device": (orders, "check", _any_device),
                "any field": (orders, "check", _any_field)},
    "wish": {"what is hidden is lost": (orders, "merged", _forgets),
             "the old one in place of errors": (orders, "merged", _takes_any)},
    "dns": {"any question": (names, "answer", _any_question),
            "any code": (names, "answer", _any_code)},
    "certificate": {"local time": (names, "facts", _local_time)},
    "journal": {"a number twice": (ledger, "Journal", _LowNumbers),
                "no CRC": (ledger, "Journal", _NoCrc)},
}
