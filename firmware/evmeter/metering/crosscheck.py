"""The meter's pulse output against its Modbus register: two ways that one energy goes."""

from micropython import const

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

    def reading(self, register_mwh):
        """Why the two do not agree since the last comparison, or ""."""
        count = self._edges.value()
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
