"""An emulated Eastron SDM120 on pymodbus, an implementation of Modbus that is not ours.

Registers as in the vendor's protocol document V2.5: float32, most significant word first, by
function 4; serial number, meter code and software version by function 3. Energy integrates the
emulated load in real time; the register counts whole watt-hours, as the real meter's does.
"""

import asyncio
import logging
import struct
import termios
import time
from decimal import ROUND_HALF_UP, Decimal

import serial as pyserial
from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from evmeter_tools.bench.wire import Wire
from evmeter_tools.errors import UserError

PROFILES = ("eastron_sdm120",)
BAUDS = (1200, 2400, 4800, 9600)
PARITIES = ("N", "E", "O")
_MW_NS_PER_WH = 3600 * 1000 * 10**9
_VOLTAGE_MV = 230000
_FREQUENCY_MHZ = 50000
_METER_CODE = 0x0020
_SOFTWARE = 0x0205
_MAX_REGISTERS = 80
_CHAR_BITS = {"N": 10, "E": 11, "O": 11}


def float_bits(value):
    """The 32 bits of the float32 nearest to `value`."""
    return struct.unpack(">I", struct.pack(">f", value))[0]


def float_bits_mwh(bits, step_mwh=1000):
    """A register's float32 bits (kWh) as mWh, rounded to the meter's step; exact arithmetic."""
    kwh = Decimal(struct.unpack(">f", struct.pack(">I", bits))[0])
    return int((kwh * 1000000 / step_mwh).to_integral_value(ROUND_HALF_UP)) * step_mwh


class EmulatedMeter:
    """The meter behind a wire (`path` is the charger's end), or on a real serial `port`.

    `latency_ms` may be changed at any time. `lost` is set when the port goes away.
    """

    def __init__(self, *, unit=1, baud=9600, parity="N", latency_ms=40, register_wh=1234567,
                 serial=21034567, port=None):
        self.unit = unit
        self.latency_ms = latency_ms
        self.serial = serial
        self.lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._baud = baud
        self._parity = parity
        self._port = port
        self._energy_mw_ns = register_wh * _MW_NS_PER_WH
        self._load_mw = 0
        self._since_ns = time.monotonic_ns()
        self._server = None
        self.wire = None if port else Wire(baud, _CHAR_BITS[parity], unit)
        self.path = port or self.wire.device_path

    def set_load(self, power_w):
        """The load from now on, in watts."""
        self._integrate()
        self._load_mw = power_w * 1000

    def _integrate(self):
        now_ns = time.monotonic_ns()
        self._energy_mw_ns += self._load_mw * (now_ns - self._since_ns)
        self._since_ns = now_ns

    @property
    def register_wh(self):
        """The energy register: whole watt-hours."""
        self._integrate()
        return self._energy_mw_ns // _MW_NS_PER_WH

    @property
    def register_bits(self):
        """The energy register as the meter shows it: float32 bits of kWh."""
        return float_bits(self.register_wh / 1000)

    def _values(self):
        watts = self._load_mw / 1000
        kwh = self.register_wh / 1000
        return {
            0x0000: _VOLTAGE_MV / 1000, 0x0006: watts / (_VOLTAGE_MV / 1000), 0x000C: watts,
            0x0012: watts, 0x0018: 0.0, 0x001E: 1.0, 0x0024: 0.0, 0x0046: _FREQUENCY_MHZ / 1000,
            0x0048: kwh, 0x004A: 0.0, 0x004C: 0.0, 0x004E: 0.0, 0x0054: watts,
            0x0156: kwh, 0x0158: 0.0,
        }

    async def _answer(self, function, start, address, count, registers, _set_values):
        """Called by pymodbus for each request; returns an exception code or None."""
        await asyncio.sleep(self.latency_ms / 1000)
        if function not in (3, 4):
            return ExcCodes.ILLEGAL_FUNCTION
        if count > _MAX_REGISTERS:
            return ExcCodes.ILLEGAL_VALUE
        if function == 4:
            if address & 1 or count & 1:  # the vendor's document: even start, even count
                return ExcCodes.ILLEGAL_ADDRESS
            for at, value in self._values().items():
                bits = float_bits(value)
                registers[at - start] = bits >> 16
                registers[at - start + 1] = bits & 0xFFFF
        return None

    def _outgoing(self, sending, packet):
        """Keep silent for other units on the bus: pymodbus answers for them with an exception."""
        return packet if not sending or packet[0] == self.unit else b""

    def _connection(self, connected):
        (self._connected if connected else self.lost).set()

    def _try_port(self):
        """Open and close the port for the sake of the error's cause, which pymodbus only logs."""
        try:
            pyserial.Serial(self._port, self._baud, parity=self._parity, exclusive=True).close()
        except (OSError, ValueError, termios.error) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError("the port %s cannot be used: %s" % (self._port, cause)) from None

    async def start(self):
        """Serve until `stop`. Raises UserError where the port cannot be used."""
        identity = [self.serial >> 16, self.serial & 0xFFFF, _METER_CODE, _SOFTWARE]
        words = DataType.REGISTERS
        unused = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
        device = SimDevice(
            id=self.unit, action=self._answer,
            simdata=(unused, list(unused), [SimData(0xFC00, values=identity, datatype=words)],
                     [SimData(0, count=0x15A, values=0, datatype=words)]))
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        if self.wire:
            self.wire.start()
        else:
            self._try_port()
        self._server = ModbusSerialServer(
            device, framer=FramerType.RTU, port=self.wire.meter_path if self.wire else self._port,
            baudrate=self._baud, parity="N" if self.wire else self._parity,
            trace_packet=self._outgoing, trace_connect=self._connection)
        try:
            await self._server.serve_forever(background=True)
            await self._connected.wait()
        except (OSError, RuntimeError) as error:
            raise UserError("the port %s cannot be used: %s" % (self.path, error)) from None

    async def stop(self):
        """End the server and take the wire away."""
        if self._server:
            await self._server.shutdown()
        if self.wire:
            self.wire.stop()
