"""One reading of the meter: integers with their unit in the name, its age and its quality."""


class MeterError(Exception):
    """The meter gave no usable reply. `letter` is the OCMF fault letter for a reading that had to
    do without it: T no reply in time, D disconnected, F read error, X another meter."""

    def __init__(self, text, letter="F"):
        super().__init__(text)
        self.letter = letter


class Reading:
    """The billing set and the slow set. What the meter does not have, or says is not available,
    is None.

    `voltages_mv`, `currents_ma`: one entry a phase; `power_mw`: import positive; `frequency_mhz`;
    `import_mwh`, `export_mwh`: the registers as they stand; `mono_ms`: time of the reply with the
    import register, in ms since boot; `quality`: G, or the OCMF fault letter with `reason`.
    Slow set, read every 10th time: `pf_milli`, signed where the meter's is; `apparent_mva`,
    `reactive_mvar`; `slow_ms`: time of these three, or None where they could not be read.
    The poll task reuses its objects: keep a copy, not a reference.
    """

    def __init__(self, phases=1):
        self.voltages_mv = [None] * phases
        self.currents_ma = [None] * phases
        self.power_mw = None
        self.frequency_mhz = None
        self.import_mwh = None
        self.export_mwh = None
        self.mono_ms = 0
        self.pf_milli = self.apparent_mva = self.reactive_mvar = self.slow_ms = None
        self.quality = "G"
        self.reason = ""

    def copy_from(self, other):
        """Take the billing set of `other`, which has the same number of phases."""
        for phase in range(len(self.voltages_mv)):
            self.voltages_mv[phase] = other.voltages_mv[phase]
            self.currents_ma[phase] = other.currents_ma[phase]
        self.power_mw = other.power_mw
        self.frequency_mhz = other.frequency_mhz
        self.import_mwh = other.import_mwh
        self.export_mwh = other.export_mwh
        self.mono_ms = other.mono_ms
        self.quality = other.quality
        self.reason = other.reason
