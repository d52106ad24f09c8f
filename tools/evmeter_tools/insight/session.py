"""A charging session as reports and bills see it: from its verified records and its events.

Registers, times, user and whether it can be billed are from signed records; phases, durations and
the device's own split by tariff are from its events, which are stored but not signed.
"""

import json
from dataclasses import dataclass, field

from evmeter_tools.backend.sessions import TrueTime

CHARGING = "charging"
OFF = "off"  # the device was without power
UNKNOWN = "unknown"
FAULT = "fault"
# The car is there, has what it wants or does not ask, and nobody but its driver can change that.
IDLE = ("finished_estimated", "paused_by_car", "waiting_for_car")
PHASES = (CHARGING, *IDLE, "paused_by_charger", "no_current_in_c", FAULT)

SUCCESS = "success"
OPEN = "open"
OUTCOMES = {
    SUCCESS: "energy flowed, and the session ended as it should",
    OPEN: "not ended yet",
    "never_charged": "the car was connected and never charged",
    "no_energy": "charging began, no energy was metered",
    "aborted": "ended by a fault of 15 minutes, or by the operator (TX=A)",
    "power_fail": "ended by a power failure (TX=P)",
    "not_verified": "a record is missing, not believed or not signed rightly",
}


@dataclass(frozen=True)
class Stamp:
    """A time as it was signed, its quality (U, I, S, R), and the true one where a later entry of
    the device shows it."""

    unix_ms: int
    quality: str
    true: TrueTime | None = None

    @property
    def best_ms(self):
        """The true time where it is known, else the signed one."""
        return self.true.unix_ms if self.true else self.unix_ms

    @property
    def known(self):
        """Whether it is a time of the day at all."""
        return self.true is not None or self.quality != "U"


@dataclass(frozen=True)
class Phase:
    """A stretch of a session, Unix ms. `name` is of PHASES, OFF or UNKNOWN."""

    name: str
    start_ms: int
    stop_ms: int

    def inside_ms(self, from_ms, to_ms):
        """So much of it lies in a period."""
        return max(0, min(self.stop_ms, to_ms) - max(self.start_ms, from_ms))


@dataclass
class ChargingSession:
    """One session.

    state        "open", "complete" or "broken"; `ok` and `reasons` are the verdict
    start, stop  Stamp; stop is None while it is open
    energy_mwh   end register less begin register, both signed; None where not verified or open
    gap_mwh      part of it that flowed while the device was off: nobody's to pay until the
                 operator confirms it
    billable     whether the signed records say so; `why_not` lists what stands against it
    segments     [(Unix ms at its begin, mWh)] between tariff changes, from signed readings; their
                 sum is energy_mwh
    gaps         [(Unix ms, mWh)] of gap energy as the events place it
    tariff_code  tells the tariff that the device had (session/tariff.py), None without one
    split_ok     the device's verdict on the split: True, False, None without a tariff
    by_tariff    energy by tariff as the device splits it, gap energy left out
    phases       without holes from start to stop (to `until_ms` while it is open)
    duration_s   by the monotonic clock; None where no closing event is stored
    """

    device: str
    sid: str
    key_id: str = ""
    state: str = "broken"
    ok: bool = False
    reasons: tuple = ()
    start: Stamp | None = None
    stop: Stamp | None = None
    begin_mwh: int | None = None
    end_mwh: int | None = None
    energy_mwh: int | None = None
    gap_mwh: int = 0
    billable: bool = False
    why_not: tuple = ()
    ended_by: str = ""
    user: dict | None = None
    segments: list = field(default_factory=list)
    gaps: list = field(default_factory=list)
    split_ok: bool | None = None
    tariff_code: int | None = None
    currency: str = ""
    cost_info: int | None = None
    by_tariff: dict = field(default_factory=dict)
    phases: list = field(default_factory=list)
    duration_s: int | None = None
    duration_pm_s: int = 0
    faults: int = 0
    records: list = field(default_factory=list, repr=False)

    @property
    def start_ms(self):
        """Best known start, Unix ms; None where there is no readable record."""
        return self.start and self.start.best_ms

    @property
    def stop_ms(self):
        """Best known stop, or up to where its phases are known while it is open."""
        if self.stop:
            return max(self.stop.best_ms, self.start_ms)
        return self.phases[-1].stop_ms if self.phases else self.start_ms

    @property
    def quality(self):
        """The worse of both times' qualities."""
        return min((stamp.quality for stamp in (self.start, self.stop) if stamp),
                   key="RUIS".index, default="U")

    def phase_ms(self, names, from_ms=-(2**62), to_ms=2**62):
        """Time in phases of these names, within a period."""
        return sum(phase.inside_ms(from_ms, to_ms) for phase in self.phases
                   if phase.name in names)

    @property
    def charging_ms(self):
        """Time in which the car asked for current and it flowed."""
        return self.phase_ms((CHARGING,))

    @property
    def occupied_ms(self):
        """Time in which the car was there: pilot B, C or D."""
        return 0 if self.start is None else self.stop_ms - self.start_ms

    @property
    def idle_ms(self):
        """Time after the last charging in which the car kept the place and did not want more."""
        charged = [phase.stop_ms for phase in self.phases if phase.name == CHARGING]
        return self.phase_ms(IDLE, charged[-1]) if charged else 0

    def overstay_ms(self, grace_ms):
        """Idle time beyond the grace that the operator gives."""
        return max(0, self.idle_ms - grace_ms)

    def energy_until(self, unix_ms):
        """Energy up to an instant, mWh: in proportion to the charging time, or to all of it where
        no charging is known. Neighbouring periods add up to the whole."""
        names = (CHARGING,) if self.charging_ms else tuple({p.name for p in self.phases})
        whole_ms = self.phase_ms(names)
        if not whole_ms:
            return self.energy_mwh if unix_ms > self.start_ms else 0
        return self.energy_mwh * self.phase_ms(names, to_ms=unix_ms) // whole_ms

    @property
    def outcome(self):
        """One of OUTCOMES."""
        if self.state == "open":
            return OPEN
        if not self.ok or self.energy_mwh is None:
            return "not_verified"
        if not self.energy_mwh:
            return "no_energy" if self.charging_ms else "never_charged"
        return {"A": "aborted", "P": "power_fail"}.get(self.ended_by, SUCCESS)

    def row(self):
        """A flat dict of whole numbers and texts: for a table, or to be kept as a derived row from
        which `from_row` makes all that reports need, without the records."""
        return {
            "device": self.device, "sid": self.sid, "key_id": self.key_id, "state": self.state,
            "ok": int(self.ok), "start_ms": self.start_ms,
            "stop_ms": self.stop and self.stop_ms,
            "start_quality": self.start and self.start.quality,
            "stop_quality": self.stop and self.stop.quality,
            "start_corrected": int(bool(self.start and self.start.true)),
            "stop_corrected": int(bool(self.stop and self.stop.true)),
            "duration_s": self.duration_s, "energy_mwh": self.energy_mwh,
            "gap_mwh": self.gap_mwh, "billable": int(self.billable),
            "why_not": "; ".join(self.why_not), "ended_by": self.ended_by,
            "outcome": self.outcome, "charging_s": self.charging_ms // 1000,
            "occupied_s": self.occupied_ms // 1000, "idle_s": self.idle_ms // 1000,
            "faults": self.faults, "split_ok": self.split_ok and int(self.split_ok),
            "currency": self.currency, "cost_info_minor": self.cost_info,
            "by_tariff": json.dumps(self.by_tariff),
            "phases": json.dumps([[phase.name, phase.start_ms, phase.stop_ms]
                                  for phase in self.phases])}


def from_row(row):
    """The ChargingSession of a dict that `row()` made, as far as reports need it: no records, and
    nothing that could be billed."""
    session = ChargingSession(row["device"], row["sid"])
    fill(session, row)
    session.phases = phases_of(row)
    return session


def phases_of(row):
    """The phases in a dict that `row()` made."""
    return [Phase(*phase) for phase in json.loads(row["phases"])]


def fill(session, row):
    """Give a session all that `row()` has of one but its phases."""
    ChargingSession.__init__(session, row["device"], row["sid"], row["key_id"], row["state"],
                             bool(row["ok"]))
    for name in ("start", "stop"):
        at_ms = row[name + "_ms"]
        if at_ms is not None:
            quality = row[name + "_quality"]
            true = TrueTime(at_ms, 0, quality, 0) if row[name + "_corrected"] else None
            setattr(session, name, Stamp(at_ms, quality, true))
    for name in ("energy_mwh", "gap_mwh", "ended_by", "duration_s", "faults", "currency"):
        setattr(session, name, row[name])
    session.billable = bool(row["billable"])
    session.why_not = tuple(row["why_not"].split("; ")) if row["why_not"] else ()
    session.split_ok = None if row["split_ok"] is None else bool(row["split_ok"])
    session.cost_info = row["cost_info_minor"]
    if row["by_tariff"] != "{}":
        session.by_tariff = json.loads(row["by_tariff"])
