"""What the stored records say: sessions, gaps in the numbers, energy outside of sessions."""

import json
from dataclasses import dataclass

from evmeter_tools.verify.check import check_all, check_record


@dataclass
class Balance:
    """A device's energy as its messages account for it, in mWh, and what is missing."""

    first_mwh: int | None = None  # register at the first boot that is known
    last_mwh: int | None = None  # register after the last accounted event
    sessions_mwh: int = 0
    outside_mwh: int = 0
    gap_mwh: int = 0  # part of the sessions: flowed while the device was off
    jump_mwh: int = 0  # the register went on from elsewhere by so much; no energy
    missing: tuple = ()

    @property
    def exact(self):
        """Whether sessions and outside energy are the register's own difference."""
        if self.first_mwh is None or self.last_mwh is None:
            return False
        accounted_mwh = self.sessions_mwh + self.outside_mwh + self.jump_mwh
        return accounted_mwh == self.last_mwh - self.first_mwh


def device_report(store, device):
    """The verdict (verify.check.Report) over all stored records of `device`."""
    spki = {key: value for (name, key), value in store.trusted().items() if name == device}
    verdicts = []
    for row in store.rows(device, "rec"):
        message = json.loads(row.payload)
        verdicts.append(check_record(message.get("ocmf", ""), spki[row.key_id]))
    return check_all(verdicts)


def missing_numbers(store, device):
    """Sequence numbers of `device` that were passed over, per key."""
    held = {}
    for row in store.rows(device):
        held.setdefault(row.key_id, []).append(row.seq)
    return tuple(
        seq for numbers in held.values()
        for seq in sorted(set(range(1, max(numbers) + 1)) - set(numbers)))


def balance(store, device):
    """The energy balance of `device` from its messages (whole numbers, mWh)."""
    result = Balance(missing=missing_numbers(store, device))
    for row in store.rows(device):
        message = json.loads(row.payload)
        outside_mwh = message.get("out_mwh", 0)
        result.outside_mwh += outside_mwh
        if row.kind == "boot" and result.first_mwh is None:
            result.first_mwh = message["reg_mwh"] - outside_mwh
        if row.kind == "meter_rebase":
            result.jump_mwh += message["jump_mwh"]
        if row.kind == "complete":
            session_mwh = message["reg_mwh"] - message["begin_mwh"] - message["jump_mwh"]
            result.sessions_mwh += session_mwh
            result.gap_mwh += message["gap_mwh"]
        if "reg_mwh" in message:
            result.last_mwh = message["reg_mwh"]
    return result


def export_lines(store, device=None):
    """Every stored record as a JSON line with its device's public key."""
    spki = store.trusted()
    for row in store.rows(device, "rec"):
        message = json.loads(row.payload)
        yield json.dumps({"device": row.device, "seq": row.seq, "ocmf": message.get("ocmf"),
                          "spki": spki[row.device, row.key_id]})
