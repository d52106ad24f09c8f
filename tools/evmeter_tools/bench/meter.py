"""An emulated energy meter on pymodbus, an implementation of Modbus that is not ours.

It has the registers, functions, limits and identity of any profile, by the host's own arithmetic
(bench/profile.py). Energy integrates the emulated load in real time; the register counts whole
watt-hours, or the coarser steps that its type and scale allow, and goes down to the step below.
"""

import asyncio
import logging
import struct
import time
from decimal import ROUND_HALF_UP, Decimal

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from evmeter_tools.bench.misbehaviour import Misbehaviour
from evmeter_tools.bench.profile import Profile
from evmeter_tools.bench.signing import SigningPart
from evmeter_tools.bench.wire import PortWire, Wire
from evmeter_tools.errors import UserError

BAUDS = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
PARITIES = ("N", "E", "O")
_MW_NS_PER_WH = 3600 * 1000 * 10**9
_VOLTAGE = 230
_FREQUENCY = 50
_SOFTWARE = 0x0205
_CODES = {"eastron_sdm120": 0x0020, "eastron_sdm630": 0x0070, "eastron_sdm72d_v1": 0x0200,
          "eastron_sdm72d_v2": 0x0089, "abb_b2x": "B23 ", "iskra_wm3m4c": "WM3M"}
# What Eastron's meters have beside the profile: the total and the demand, which nobody bills from.
_EASTRON = {0x0054: "power", 0x0156: "import"}
_EASTRON_END = 0x015A
_WRITE = 16
_HOLE = 128  # registers between two quantities that answer with 0; beyond that there is nothing
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

    `latency_ms` may be changed at any time; so may `fixed`, quantity -> Decimal in V, A, W, VA,
    var, Hz, Wh or 1, which stands in place of what the load makes of it. `fault`: what every
    `fault_every`-th reply has, a key of misbehaviour.KINDS. `lost` is set when the port goes away.
    Raises UserError.
    """

    def __init__(self, *, profile="eastron_sdm120", unit=1, baud=9600, parity="N", latency_ms=40,
                 register_wh=1234567, serial=21034567, port=None, fault=None, fault_every=1):
        self.profile = Profile(profile)
        self.unit = unit
        self.latency_ms = latency_ms
        self.serial = serial
        self.fixed = {}
        self.fault = Misbehaviour(self.profile, fault, fault_every) if fault else None
        self.lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._baud = baud
        self._parity = parity
        self._port = port
        self._energy_mw_ns = register_wh * _MW_NS_PER_WH
        self._load_mw = 0
        self._since_ns = time.monotonic_ns()
        self._server = None
        self.signing = None
        if self.profile.data.get("signed"):
            self.signing = SigningPart(serial, lambda: self.register_wh)
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
        """The energy register as an Eastron shows it: float32 bits of kWh."""
        return float_bits(self.register_wh / 1000)

    @property
    def register_mwh(self):
        """The energy register as this meter shows it, exactly, in mWh."""
        energy = self.profile.energy
        return energy.exact(energy.words(self.values()[energy.name]))

    def values(self):
        """Quantity -> Decimal in V, A, W, VA, var, Hz, Wh or 1."""
        watts = Decimal(self._load_mw) / 1000
        current = watts / self.profile.phases / _VOLTAGE
        energy = self.profile.energy
        wh = Decimal(self.register_wh)
        if energy.kind != "f32":  # a counter does not round up
            wh -= wh % energy.step
        found = {"power": watts, "frequency": Decimal(_FREQUENCY), "import": wh, "total": wh,
                 "export": Decimal(0), "pf": Decimal(1), "apparent": watts, "reactive": Decimal(0)}
        for phase in range(1, self.profile.phases + 1):
            found["voltage_l%d" % phase] = Decimal(_VOLTAGE)
            found["current_l%d" % phase] = current
        found.update(self.fixed)
        return found

    def _words(self):
        """Address -> word of the function that reads the quantities."""
        values = self.fault.values(self.values()) if self.fault else self.values()
        words = {}
        if self.profile.eastron:
            for address, name in _EASTRON.items():
                value = values[name] / 1000 if name == "import" else values[name]
                bits = float_bits(value)
                words[address], words[address + 1] = bits >> 16, bits & 0xFFFF
        words.update(self.profile.words(values))
        return self.fault.words(words) if self.fault else words

    async def _answer(self, function, start, address, count, registers, values):
        """Called by pymodbus for each request; returns an exception code or None."""
        if self.signing:
            await self.signing.ready()
        late_ms = self.fault.asked(self.unit, function, address, count) if self.fault else 0
        await asyncio.sleep((self.latency_ms + late_ms) / 1000)
        profile = self.profile
        if function == _WRITE and self.signing:
            self.signing.write(address, values)
            return None
        if function not in (profile.function, profile.identity_function):
            return ExcCodes.ILLEGAL_FUNCTION
        if count > profile.max_registers:
            return ExcCodes.ILLEGAL_VALUE
        if function == profile.function:
            if profile.eastron and (address & 1 or count & 1):
                return ExcCodes.ILLEGAL_ADDRESS  # the vendor's document: even start, even count
            words = self._words()
            if self.signing and address in self.signing.addresses:
                words = self.signing.words(address, count)
            for at, word in words.items():
                registers[at - start] = word
        return None

    def _outgoing(self, sending, packet):
        """What goes out in place of a reply."""
        return self.fault.reply(packet) if sending and self.fault else packet

    def _connection(self, connected):
        if connected:
            self._connected.set()

    def _memory(self):
        """Function -> SimData of what there is to read."""
        profile = self.profile
        code = _CODES.get(profile.name, 0)
        identity = profile.identity_words(self.serial, code, _SOFTWARE)
        memory = {3: {}, 4: {}}
        memory[profile.identity_function].update(identity)
        memory[profile.function].update(self._words())
        if self.signing:
            memory[profile.function].update(dict.fromkeys(self.signing.addresses, 0))
        if profile.eastron:
            memory[profile.function].update(dict.fromkeys((0, _EASTRON_END - 1), 0))
        found = []
        for function in (3, 4):
            words = memory[function] or {0: 0}
            blocks = []
            for address in sorted(words):
                if not blocks or address - blocks[-1][1] > _HOLE:
                    blocks.append([address, address + 1])
                blocks[-1][1] = address + 1
            found.append([SimData(begin, values=[words.get(at, 0) for at in range(begin, end)],
                                  datatype=DataType.REGISTERS) for begin, end in blocks])
        return found

    async def start(self):
        """Serve until `stop`. Raises UserError where the port cannot be used."""
        unused = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
        device = SimDevice(id=self.unit, action=self._answer,
                           simdata=(unused, list(unused), *self._memory()))
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        if self._port:
            self.wire = PortWire(self._port, self._baud, self._parity, _CHAR_BITS[self._parity],
                                 self.unit, self.lost.set)
        self.wire.start()
        self._server = ModbusSerialServer(
            device, framer=FramerType.RTU, port=self.wire.meter_path, baudrate=self._baud,
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
