"""`evmeter demo`: two charging sessions, one broken by a power cut, from pilot to receipt."""

import time

from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.view import View
from evmeter_tools.demo import report
from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD
from evmeter_tools.run_folder import empty

DEVICE = "demo-0001"
# Shorter than in the field (120 s, 60 s), so that nobody has to wait.
FINISHED_AFTER_S = 5
CHECKPOINT_S = 5
_LOAD_W = 10200
_STEP_S = 30  # the longest that one step of the demo may take
_CHARGE_S = 60
_FIRST_MWH = 103_000  # just above the 100 register steps from which a session is billable
_BEFORE_CUT_MWH = 25_000
_AFTER_CUT_MWH = 25_000
_OFF_S = 3


class Script:
    """The steps of the demo over a bench."""

    def __init__(self, bench, view):
        self._bench = bench
        self._watch = bench.watch
        self._view = view

    def _until(self, what, condition, limit_s=_STEP_S):
        deadline = time.monotonic() + limit_s
        while not condition():
            self._view.refresh()
            self._bench.check()
            if time.monotonic() > deadline:
                raise UserError("the demo waited %d s in vain: %s; see %s"
                                % (limit_s, what, self._bench.folder))
            time.sleep(0.1)

    def _count(self, name, number):
        return lambda: self._watch.count(name) >= number

    def _settled(self):
        return self._watch.head and self._watch.confirmed >= self._watch.head

    def _plug_and_charge(self, sessions):
        view, rig = self._view, self._bench.rig
        view.note("the vehicle is plugged in (pilot A -> B)")
        rig.tell(pilot="B")
        self._until("a session opens", self._count("open", sessions))
        view.note("the vehicle asks for current (pilot B -> C)")
        rig.tell(pilot="C", load_w=_LOAD_W)

    def _charge(self, energy_mwh):
        start_mwh = self._bench.register_mwh()
        self._until("%d Wh flow" % (energy_mwh // 1000),
                    lambda: self._bench.register_mwh() - start_mwh >= energy_mwh, _CHARGE_S)

    def run(self):
        """Play both sessions."""
        view, bench = self._view, self._bench
        view.note("the device is switched on")
        bench.device.start()
        self._until("the device reports its boot", self._count("boot", 1))
        self._plug_and_charge(1)
        self._charge(_FIRST_MWH)
        view.note("the vehicle is full (pilot C -> B); told after %d s" % FINISHED_AFTER_S)
        bench.rig.tell(pilot="B")
        self._until("fully charged is told", self._count("finished_estimated", 1))
        view.note("the vehicle is unplugged (pilot B -> A)")
        bench.rig.tell(pilot="A")
        self._until("the first session is complete", self._count("close", 1))
        self._plug_and_charge(2)
        self._charge(_BEFORE_CUT_MWH)
        view.note("POWER CUT: the device's process is killed, charging goes on")
        bench.device.cut_power()
        view.device(is_on=False)
        time.sleep(_OFF_S)
        view.note("the power is back")
        view.device(is_on=True)
        bench.device.start()
        self._until("the device boots again", self._count("boot", 2))
        self._charge(_AFTER_CUT_MWH)
        view.note("the vehicle is unplugged while charging (pilot C -> A)")
        bench.rig.tell(pilot="A")
        self._until("the second session is complete", self._count("close", 2))
        self._until("the backend has confirmed everything", self._settled)


def demo(folder=None):
    """Run the demo in `folder` (default build/demo, emptied first); returns the exit code."""
    folder = empty(folder or BUILD / "demo")
    with Bench(folder, DEVICE, finished_after_s=FINISHED_AFTER_S,
               checkpoint_s=CHECKPOINT_S) as bench:
        for notice in bench.notices:
            print(notice)
        with View(bench.watch, "evmeter demo: %s" % DEVICE) as view:
            Script(bench, view).run()
            final_mwh = bench.final_register_mwh()
            view.refresh()
        return report.show(view.console, bench, final_mwh)
