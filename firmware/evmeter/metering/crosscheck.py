"""The meter's pulse output against its Modbus register: two ways that one energy goes."""

import asyncio

from micropython import const

_STEP_MS = const(200)
_MWH = const(1000000)
_PULSES = const(100)  # that many are compared at a time


class CrossCheck:
    """`edges` as PulseMeter takes them; `step_mwh` of the register. Feed it each believed
    register. One step either way, of the coarser of the two, is no fault."""

    def __init__(self, edges, imp_per_kwh, step_mwh):
        self._edges = edges
        self._imp = imp_per_kwh
        self._step_mwh = max(step_mwh, _MWH // imp_per_kwh + 1)
        self.restart()

    def restart(self):
        """The register went on from elsewhere: compare from the next reading on."""
        self._from_mwh = None
        self._from = 0

    async def run(self):
        """Take the edges from their ring, which has room for a second or two."""
        while True:
            self._edges.value()
            await asyncio.sleep_ms(_STEP_MS)

    def reading(self, register_mwh):
        """Why the two do not agree since the last comparison, or ""."""
        edges = self._edges
        count = edges.value()
        if getattr(edges, "missed", False):  # some came while nobody looked
            edges.missed = False
            self.restart()
        if self._from_mwh is None:
            self._from_mwh = register_mwh
            self._from = count
            return ""
        pulses = count - self._from
        grown_mwh = register_mwh - self._from_mwh
        if max(pulses, grown_mwh * self._imp // _MWH) < _PULSES:
            return ""
        pulse_mwh = pulses * _MWH // self._imp
        self._from_mwh = register_mwh
        self._from = count
        if abs(pulse_mwh - grown_mwh) // self._step_mwh <= 1:
            return ""
        return "%d pulses are %d mWh, the register grew by %d mWh" % (pulses, pulse_mwh, grown_mwh)
