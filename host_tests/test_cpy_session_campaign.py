"""Random lives of a device: plugs, faults, power cuts at any store operation, meters that fail or
are exchanged, clocks that are lost. What is on flash at the end must tell the whole truth."""

import random

import pytest

from evmeter.session import recovery
from evmeter.session.keeper import SessionKeeper
from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, START_UNIX_MS, Device
from fakes.memory_store import Power, PowerCut
from fakes.world import FakeBoard

_E = (0, 0, False)
_F = (-12000, -12000, False)
_C1 = (6000, 6000, False)
_B1 = (9000, 9000, False)
_PILOTS = (PILOT_A, PILOT_A, PILOT_B, PILOT_C, PILOT_C, PILOT_C, _E, _F, _C1, _B1)
_START_MWH = 1_000_000


class World:
    """What goes on while devices come and go: the meter's register, the time, the board."""

    def __init__(self, seed, keeper=SessionKeeper):
        self.random = random.Random(seed)
        self.power = Power()
        self.board = FakeBoard(self.power)
        self.keeper = keeper
        self.register_mwh = _START_MWH
        self.unix_ms = START_UNIX_MS
        self.serial = "21034567"
        self.pilot = PILOT_A

    def device(self, quality):
        """Boot a device."""
        # a device without a clock begins long ago
        unix_ms = self.unix_ms if quality != "U" else START_UNIX_MS - 10**9
        device = Device(self.board, unix_ms, self.register_mwh, quality, self.serial,
                        keeper=self.keeper)
        device.pilot = self.pilot
        base_mwh = recovery.base_mwh(device.keeper)
        if base_mwh is not None and self.register_mwh < base_mwh - 500:
            _gate(device, base_mwh)
        return device

    def _steps(self):
        chance = self.random
        steps = []
        for _ in range(chance.randrange(1, 8)):
            self.pilot = chance.choice(_PILOTS)
            flows = self.pilot in (PILOT_C, _C1) or chance.random() < 0.05
            power_w = chance.choice((0, 1400, 7200, 11000)) if flows else 0
            hook = None
            if chance.random() < 0.1:
                hook = _meter_off
            elif chance.random() < 0.5:
                hook = _meter_on
            elif chance.random() < 0.05:
                hook = self._rebase
            ms = chance.choice((50, 100, 250, 400, 900, 3000, 12000, 70000))
            steps.append((ms, self.pilot, power_w, hook))
        return steps

    def _rebase(self, device):
        """The meter's register starts again near zero."""
        old_mwh = device.meter.register_mwh
        if old_mwh > 500_000:
            device.meter.register_mwh = 1000 * self.random.randrange(5)
            _gate(device, old_mwh)

    def life(self):
        """One life of the device, ended by a power cut, a reset, or nothing at all."""
        chance = self.random
        quality = chance.choice("IIIU")
        device = self.device(quality)
        cut = chance.random() < 0.7
        if cut:
            self.power.left = chance.randrange(0, 40)
        error = device.live(self._steps())
        assert error is None or isinstance(error, PowerCut), error
        self.power.restore()
        self.register_mwh = device.meter.register_mwh
        if chance.random() < 0.8 or cut:
            self.board.cut_power()
        else:
            self.board.reset_cause = "watchdog"
        off_ms = chance.choice((500, 5000, 60000, 400000))
        self.unix_ms += device.clock.mono_ms() + off_ms
        if chance.random() < 0.4:
            self.register_mwh += chance.choice((0, 1000, 25000)) * (off_ms // 500)

    def settle(self):
        """A last life without faults, the car gone."""
        device = self.device("I")
        error = device.live([(3000, PILOT_A, 0, _meter_on), (3000, PILOT_A, 0, None)])
        assert error is None, error
        return device


def _gate(device, old_mwh):
    """What metering tells when it believes a register below the one before."""
    device.keeper.meter_event("meter_rebase", {
        "old_mwh": old_mwh, "new_mwh": device.meter.register_mwh, "modulus_mwh": 0,
        "diff_mwh": None, "cause": "register stepped back"})


def _meter_off(device):
    device.meter.answers = False


def _meter_on(device):
    device.meter.answers = True


def _complete_faults(message, begun):
    energy_mwh = message["reg_mwh"] - message["begin_mwh"] - message["jump_mwh"]
    checks = (
        (message["begin_mwh"] != begun["begin_mwh"], "begins elsewhere than its begin record"),
        (energy_mwh < 0 or message["gap_mwh"] > energy_mwh,
         "energy %d, gap %d" % (energy_mwh, message["gap_mwh"])),
        (message["begin_ms"] // 1000 > message["ts"], "ends before it begins"),
        ('"ZB":1' in message["ocmf"] and message["jump_mwh"], "is billable over a jump"),
    )
    return ["%s %s" % (message["sid"], text) for bad, text in checks if bad]


def violations(device, world):
    """What is wrong in what the device has on flash, as a list of words."""
    wrong = list(device.journal.faults)
    messages = device.messages()
    if not any(name == "boot" for name, _ in messages):
        return wrong
    first = next(message for name, message in messages if name == "boot")
    pages, begun, completed, previous_end = [], {}, {}, None
    for name, message in messages:
        if name not in ("begin", "complete"):
            continue
        pages.append(int(message["ocmf"].split('"PG":"T')[1].split('"')[0]))
        sid = message["sid"]
        target = begun if name == "begin" else completed
        if sid in target:
            wrong.append("%s twice: %s" % (name, sid))
        target[sid] = message
        if name == "complete":
            wrong += _complete_faults(message, begun[sid])
            previous_end = message
        elif previous_end and message["begin_ms"] < previous_end["ts"] * 1000:
            wrong.append("%s begins before the end of the one before" % sid)
    if pages != list(range(1, len(pages) + 1)):
        wrong.append("pages %s" % pages)
    if set(begun) != set(completed):
        wrong.append("open for ever: %s" % (set(begun) - set(completed)))
    jumps_mwh = sum(m["jump_mwh"] for name, m in messages if name == "meter_rebase")
    real_mwh = device.meter.register_mwh // 1000 * 1000 - first["reg_mwh"] + first["out_mwh"]
    accounted_mwh = device.balance() + jumps_mwh
    if abs(accounted_mwh - real_mwh) > 1000:
        wrong.append("accounted %d of %d" % (accounted_mwh, real_mwh))
    if sum(m.get("out_mwh", 0) < 0 for _, m in messages):
        wrong.append("negative energy outside")
    return wrong


def run(seed, lives=4, keeper=SessionKeeper):
    """One trial; returns its violations."""
    world = World(seed, keeper)
    for _ in range(lives):
        world.life()
    return violations(world.settle(), world)


def test_random_lives_tell_the_whole_truth():
    for seed in range(250):
        assert run(seed) == [], seed


class _Doubling(SessionKeeper):
    """A wrong design: energy outside of sessions is counted one step too far."""

    def out_mwh(self, register_mwh):
        return super().out_mwh(register_mwh) + 1000


class _Forgetful(SessionKeeper):
    """A wrong design: the open session is not looked for at a boot."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.journal.open_seq = 0


class _Trusting(SessionKeeper):
    """A wrong design: a register that goes on from elsewhere spoils nothing."""

    def _spoil(self, cause, jump_mwh):
        return None


@pytest.mark.parametrize("design", [_Doubling, _Forgetful, _Trusting])
def test_the_campaign_catches_wrong_designs(design):
    assert any(run(seed, keeper=design) for seed in range(400))
