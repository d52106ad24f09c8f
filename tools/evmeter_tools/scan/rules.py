"""What is tried, in which order, and what may pass for a meter. Pure rules."""

import re
from typing import NamedTuple

BAUDS = (9600, 2400, 19200, 4800, 38400, 1200, 115200, 57600)
PARITIES = ("N", "E", "O")
UNITS = 247
CONFIDENCE_POINTS = {"high": 2, "medium": 1, "low": 0}
LATENCY_MS = 300
OVERHEAD_MS = 20  # of the host and its USB stick
SILENCE_MS = 60  # as Eastron's documents ask for
_LOW_UNITS = 16  # higher ones are rarely given by hand
_REQUEST_CHARS = 8
_LINE = re.compile(r"(\d+)(?:\s+8?([NEO])([12]))?")
# Meter codes as seen in the field; a meter with another code is another model.
CODES = {
    "eastron_sdm120": ("0020",),
    "eastron_sdm630": ("0000", "0070", "0079"),
    "eastron_sdm72d_v1": ("0084", "0200"),
    "eastron_sdm72d_v2": ("0089",),
}
_MV = (80_000, 300_000)
_ABSENT_MV = 5_000  # a phase that is not connected
_MHZ = (45_000, 65_000)
_MOST_MA = 1_000_000
_MOST_MWH = 10**13
_SLACK_MW = 50_000
_NO_CODE = "0000"  # of early SDM630, but also what a register that is not there may read as
CODE_POINTS = 100  # more than all else together
_DELIVERED_POINTS = 5


class Line(NamedTuple):
    """What both ends of a serial line must agree on."""

    baud: int
    parity: str
    stop: int

    def __str__(self):
        return "%d 8%s%d" % self

    @property
    def char_s(self):
        return (9 + self.stop + (self.parity != "N")) / self.baud

    def wait_s(self, latency_ms=LATENCY_MS):
        """How long after a request the first byte of its reply may come."""
        return _REQUEST_CHARS * self.char_s + (latency_ms + OVERHEAD_MS) / 1000


class Try(NamedTuple):
    """One request to one unit, whose answer tells that somebody is there."""

    line: Line
    unit: int
    function: int

    @property
    def cost_s(self):
        """Seconds that it takes where nobody answers."""
        return self.line.wait_s() + SILENCE_MS / 1000


def delivered_line(profile):
    """The line settings with which a meter of this profile is delivered."""
    found = _LINE.match(profile["line"])
    if not found:
        return Line(9600, "N", 1)
    return Line(int(found[1]), found[2] or "N", int(found[3] or 1))


def candidates(profiles, bauds=BAUDS, parities=PARITIES, units=None):
    """Tries in the order of their likelihood: the profiles' own settings, the commonest first;
    then unit 1 at every speed and parity; then units 1 to 16, then the rest, on the lines of the
    profiles.

    `profiles`: {name: profile}. `bauds`, `parities`, `units` limit what is tried; `units` replaces
    those that the profiles name, on all lines at once.
    """
    lines = {}
    for profile in profiles.values():
        line = delivered_line(profile)
        units_of = lines.setdefault(line, {})
        functions = units_of.setdefault(profile["unit"], {})
        functions[profile["function"]] = functions.get(profile["function"], 0) + 1
    commonness = {line: sum(sum(one.values()) for one in lines[line].values()) for line in lines}
    known = sorted(lines, key=lambda line: (-commonness[line], line))
    others = [Line(baud, parity, 1) for parity in PARITIES for baud in BAUDS]
    tries = []
    for line in known:
        for unit in units or sorted(lines[line]):
            counts = lines[line].get(unit, {})
            both = sorted((4, 3), key=lambda one, counts=counts: -counts.get(one, 0))
            tries += [Try(line, unit, function) for function in both]
    tries += [Try(line, unit, function) for line in others for unit in units or (1,)
              for function in (4, 3)]
    if not units:
        for first, last in ((1, _LOW_UNITS), (_LOW_UNITS + 1, UNITS)):
            tries += [Try(line, unit, 4) for line in known for unit in range(first, last + 1)]
    allowed = [one for one in tries if one.line.baud in bauds and one.line.parity in parities]
    return list(dict.fromkeys(allowed))


def within(tries, seconds):
    """As many of the tries, in order, as can fail one by one within `seconds`."""
    kept = []
    for one in tries:
        seconds -= one.cost_s
        if seconds < 0:
            break
        kept.append(one)
    return kept


def _voltages_fit(voltages_mv):
    seen = [one for one in voltages_mv if one is not None]
    return (bool(seen) and _MV[0] <= seen[0] <= _MV[1]
            and all(0 <= one < _ABSENT_MV or _MV[0] <= one <= _MV[1] for one in seen))


def _power_fits(reading):
    """Whether power is not above what voltages and currents allow."""
    if reading.power_mw is None:
        return True
    pairs = list(zip(reading.voltages_mv, reading.currents_ma, strict=True))
    if not pairs or any(mv is None or ma is None for mv, ma in pairs):
        return True
    apparent_mw = sum(mv * abs(ma) // 1000 for mv, ma in pairs)
    return abs(reading.power_mw) * 5 <= apparent_mw * 6 + 5 * _SLACK_MW


def recognise(name, profile, line, unit, reading, code=None):
    """How well a reading by a profile fits a meter, and why: (points, reasons), or None where it
    cannot be this one.

    `code` is the meter code that was read, None where there is none.
    """
    codes = CODES.get(name)
    by_code = bool(codes and code in codes and code != _NO_CODE)
    if reading.quality != "G" or (codes and code is not None and code not in codes):
        return None
    seen_mv = any(one is not None for one in reading.voltages_mv)
    plausible = ((not seen_mv or _voltages_fit(reading.voltages_mv))
                 and (reading.frequency_mhz is None
                      or _MHZ[0] <= reading.frequency_mhz <= _MHZ[1])
                 and all(abs(one or 0) <= _MOST_MA for one in reading.currents_ma)
                 and reading.import_mwh is not None and 0 <= reading.import_mwh <= _MOST_MWH
                 and _power_fits(reading))
    if not plausible or not (seen_mv or reading.frequency_mhz is not None or by_code):
        return None
    points = CONFIDENCE_POINTS[profile["confidence"]]
    reasons = []
    if by_code:
        points += CODE_POINTS
        reasons.append("meter code %s" % code)
    if seen_mv:
        points += 2 + len([one for one in reading.voltages_mv if one and one >= _MV[0]])
        reasons.append("voltage")
    if reading.frequency_mhz is not None:
        points += 2
        reasons.append("frequency")
    if (line, unit) == (delivered_line(profile), profile["unit"]):
        points += _DELIVERED_POINTS
        reasons.append("settings as delivered")
    return points, tuple(reasons)
