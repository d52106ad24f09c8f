"""Who answers on a line, and as what it can be read.

Every combination is asked until something answers; a Modbus exception is an answer too. What
answers is then read by each profile, and fits where everything that it reads is plausible.
"""

import asyncio
import errno
import os
import termios
import time
from typing import NamedTuple

import serial as pyserial

from evmeter_tools.errors import UserError
from evmeter_tools.scan.rules import CODE_POINTS, CODES, LATENCY_MS, SILENCE_MS, Line, recognise

_READ_TRIES = 2
_TRIED_ADDRESS = 0
_TRIED_REGISTERS = 2


class Unsupported(Exception):
    """The port cannot do this baud rate or parity."""


class Found(NamedTuple):
    """Who answers, which profiles fit (best first), and what the best one reads."""

    line: Line
    unit: int
    fits: tuple
    identity: tuple
    reading: object
    why: tuple  # what speaks for the best profile


def open_port(port, line):
    """A pyserial port. Raises UserError where it cannot be used, Unsupported where it cannot do
    the line's settings."""
    try:
        return pyserial.Serial(port, line.baud, parity=line.parity, stopbits=line.stop,
                               timeout=line.wait_s(), exclusive=True)
    except (ValueError, termios.error):
        raise Unsupported(str(line)) from None
    except OSError as error:
        if "not configure port" in str(error):
            cause = "it is no serial port"
        elif "exclusively lock" in str(error) or error.errno in (errno.EBUSY, errno.EAGAIN):
            cause = "another program uses it; end that first"
        elif error.errno == errno.ENOENT:
            cause = "it does not exist; look with 'ls /dev/tty*'"
        elif error.errno in (errno.EACCES, errno.EPERM):
            cause = "no permission; add yourself to the group 'dialout' and log in again"
        else:
            cause = os.strerror(error.errno) if error.errno else str(error)
        raise UserError("the port %s cannot be used: %s" % (port, cause)) from None


class Master:
    """A Modbus master on an open port, with a bus's face to ModbusMeter; it waits where it stands.

    `heard`: whether any byte ever came. Answers are kept, so that profiles with the same map cost
    nothing more.
    """

    def __init__(self, port, line):
        self._port = port
        self._line = line
        self.char_us = round(line.char_s * 1000000)
        self.gap_ms = SILENCE_MS
        self.heard = False
        self.asked = None
        self._quiet_from = time.monotonic()
        self._answers = {}

    def ask(self, unit, function, address, count, latency_ms=LATENCY_MS):
        """The data bytes of a reply. Raises ModbusError; its code tells an exception reply."""
        from drivers.modbus_rtu import ModbusError, build_request, find_reply

        request = bytearray(8)
        build_request(request, unit, function, address, count)
        time.sleep(max(0, self._quiet_from + self.gap_ms / 1000 - time.monotonic()))
        wait_s = self._line.wait_s(latency_ms)
        received = bytearray()
        try:
            self._port.reset_input_buffer()
            self._port.write(request)
            if self._port.timeout != wait_s:  # setting it configures the port anew
                self._port.timeout = wait_s
            end_s = time.monotonic() + wait_s + (5 + 2 * count) * self._line.char_s
            while True:
                data = self._port.read(max(1, self._port.in_waiting))
                if not data or time.monotonic() > end_s + wait_s:
                    raise ModbusError("no reply from unit %d" % unit, "F" if received else "T")
                self.heard = True
                received += data
                at = find_reply(received, len(received), unit, function, count)
                if at >= 0:
                    return bytes(received[at:at + 2 * count])
        except (OSError, termios.error) as error:
            raise UserError("the port went away: %s" % error) from None
        finally:
            self._quiet_from = time.monotonic()

    async def read(self, unit, function, address, count, latency_ms):
        """As ModbusRtu.read."""
        from drivers.modbus_rtu import ModbusError

        key = (unit, function, address, count)
        if key not in self._answers:
            for _ in range(_READ_TRIES):
                try:
                    self._answers[key] = self.ask(*key, latency_ms)
                    break
                except ModbusError as error:
                    self._answers[key] = error
                    if error.code:
                        break
        if isinstance(self._answers[key], ModbusError):
            raise self._answers[key]
        return self._answers[key]

    async def read_each(self, unit, function, requests, index, take, latency_ms):
        """As ModbusRtu.read_each."""
        for request in requests[index:]:
            self.asked = request
            take(request, await self.read(unit, function, request[0], request[1], latency_ms))

    def is_there(self, one):
        """Whether a unit answers a request, be it with an exception."""
        from drivers.modbus_rtu import ModbusError

        try:
            self.ask(one.unit, one.function, _TRIED_ADDRESS, _TRIED_REGISTERS)
        except ModbusError as error:
            return error.code != 0
        return True


def meter_on(master, profile, unit):
    """A ModbusMeter. Raises ValueError for a profile that cannot be taken."""
    from drivers.modbus_meter import ModbusMeter

    # A meter with nothing but a total is read as if that were the import.
    only_total = () if "import" in profile["billing"] else (None, True)
    return ModbusMeter(master, profile, unit, *only_total)


def _read_by(master, profile, unit):
    """(reading, identity) by a profile, or None where the meter does not answer as it says."""
    from evmeter.metering.reading import MeterError, Reading

    async def both():
        meter = meter_on(master, profile, unit)
        reading = Reading(meter.phases)
        await meter.read_billing(reading)
        try:
            identity = await meter.read_identity()
        except MeterError:
            identity = (None, None, None)
        return reading, identity

    try:
        return asyncio.run(both())
    except MeterError:
        return None
    finally:
        master.gap_ms = SILENCE_MS


def identify(master, profiles, line, unit, tell):
    """The `Found` of a unit that answers; `fits` is empty where no profile does. `tell` is called
    with what it is read as."""
    ranked = []
    for name in sorted(profiles, key=lambda name: name not in CODES):
        profile = profiles[name]
        tell("%s %s" % (profile["make"], profile["model"]))
        read = _read_by(master, profile, unit)
        verdict = read and recognise(name, profile, line, unit, read[0], read[1][1])
        if verdict:
            ranked.append((verdict[0], name, verdict[1], *read))
            if verdict[0] >= CODE_POINTS:  # the meter says itself what it is
                ranked = ranked[-1:]
                break
    if not ranked:
        return Found(line, unit, (), (None, None, None), None, ())
    ranked.sort(key=lambda one: (-one[0], one[1]))
    _, _, why, reading, identity = ranked[0]
    return Found(line, unit, tuple(one[1] for one in ranked), identity, reading, why)


class Search:
    """One search on one port. `opened(port, line)` opens it; `progress` is a `Show`.

    `tried`, `noise`: how many requests were sent, and the lines on which bytes came that were no
    reply.
    """

    def __init__(self, port, profiles, tries, progress, opened=open_port):
        self._port = port
        self._profiles = profiles
        self._tries = tries
        self._progress = progress
        self._opened = opened
        self.tried = 0
        self.noise = []

    def run(self):
        """The `Found`, or None. Raises UserError where the port cannot be used."""
        master = port = line = None
        try:
            for one in self._tries:
                self._progress.trying(one)
                if one.line != line:
                    line = one.line
                    if port:
                        port.close()
                    port, master = self._open(line)
                if master is None:
                    continue
                self.tried += 1
                if master.is_there(one):
                    self._progress.say("unit %d answers at %s; comparing with %d meter profiles"
                                       % (one.unit, line, len(self._profiles)))
                    return identify(master, self._profiles, line, one.unit,
                                    self._progress.comparing)
                if master.heard and line not in self.noise:
                    self.noise.append(line)
        finally:
            if port:
                port.close()
        return None

    def _open(self, line):
        try:
            port = self._opened(self._port, line)
        except Unsupported:
            self._progress.say("the port cannot do %s" % (line,))
            return None, None
        return port, Master(port, line)
