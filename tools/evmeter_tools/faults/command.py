"""`evmeter faults`."""

import json
import sys
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple

import typer

from evmeter_tools import firmware
from evmeter_tools.errors import UserError
from evmeter_tools.faults import fuzz
from evmeter_tools.paths import BUILD

FILE = BUILD / "faults.json"
_STEP_S = 1.0
_TEXT_WIDTH = 78


class Campaign(NamedTuple):
    """`run(trials, short, progress)` gives a Result; `trials` is what is tried by default."""

    run: Callable
    trials: int
    short: int


def _bus(trials, short, progress):
    from evmeter_tools.faults import bus

    return bus.run(trials, progress=progress, control_trials=800 if short else 4000)


def _power_cut(ring):
    def run(trials, short, progress):
        from evmeter_tools.faults import power_cut
        from evmeter_tools.faults.life import stores

        more = {"appends": 40 if ring else 24, "each": 3 if ring else 13} if short else {}
        if ring and not short:
            more["appends"] = 640  # it has a fifth of littlefs' operations
        return power_cut.power_cut(trials, progress=progress, stores=stores(ring), **more)

    return run


def _bit_rot(ring):
    def run(trials, short, progress):
        from evmeter_tools.faults import power_cut
        from evmeter_tools.faults.life import stores

        more = {"appends": 24, "control_trials": 300} if short else {}
        return power_cut.bit_rot(trials, progress=progress, stores=stores(ring), **more)

    return run


def _flash_errors(ring):
    def run(trials, short, progress):
        from evmeter_tools.faults import flash_errors
        from evmeter_tools.faults.life import stores

        more = {"control_trials": 60} if short else {}
        return flash_errors.run(trials, progress=progress, stores=stores(ring), **more)

    return run


def _in_micropython(what, ring):
    def run(trials, short, progress):
        from evmeter_tools.faults import in_micropython

        return in_micropython.run(what, ring, 8 if short else 1)

    return run


def _session_pilot(trials, short, progress):
    from evmeter_tools.measure import pilot

    return pilot.run(trials, progress=progress, control_windows=5000 if short else 12000)


def _session_sequences(trials, short, progress):
    from evmeter_tools.faults import session

    return session.sequences(trials, progress=progress)


def _session_years(trials, short, progress):
    from evmeter_tools.faults import session

    return session.years(trials, progress=progress)


def _signatures(trials, short, progress):
    from evmeter_tools.faults import signatures

    return signatures.run(trials, progress=progress, shared=not short)


def _clock(trials, short, progress):
    from evmeter_tools.faults import clock

    return clock.run(trials, progress=progress, control_trials=1500 if short else 3000)


def _network(trials, short, progress):
    from evmeter_tools.faults import network

    return network.run(trials, progress=progress)


def _update(files):
    def run(trials, short, progress):
        from evmeter_tools.faults import update

        more = {"size": 1000} if short else {}
        return update.run(trials, progress=progress, files=files, **more)

    return run


def _commands(trials, short, progress):
    from evmeter_tools.faults import commands

    return commands.run(97 if short else 1, progress=progress)


def _real_broker(name):
    def run(trials, short, progress):
        from evmeter_tools.faults import real_broker

        return getattr(real_broker, name)(trials, progress=progress)

    return run


def _outage(trials, short, progress):
    from evmeter_tools.faults import real_broker

    return real_broker.outage(trials, progress=progress, days=3 if short else 30)


def _hostile(name):
    def run(trials, short, progress):
        from evmeter_tools.faults import hostile

        return getattr(hostile, name)(trials, progress=progress)

    return run


def _uart(trials, short, progress):
    from evmeter_tools.faults import uart

    return uart.uart(trials, progress=progress)


def _tasks(trials, short, progress):
    from evmeter_tools.faults import tasks

    return tasks.run(trials, progress=progress)


def _fuzz(target):
    def run(trials, short, progress):
        return fuzz.fuzz(target, trials, progress=progress)

    return run


# what `evmeter faults` runs; other rooms add theirs
CAMPAIGNS = {
    "bus": Campaign(_bus, 100000, 3000),
    "power-cut": Campaign(_power_cut(False), 16000, 600),
    "power-cut-ring": Campaign(_power_cut(True), 16000, 500),
    "bit-rot": Campaign(_bit_rot(False), 20000, 300),
    "bit-rot-ring": Campaign(_bit_rot(True), 20000, 300),
    "hostile-flash": Campaign(_flash_errors(False), 4000, 60),
    "hostile-flash-ring": Campaign(_flash_errors(True), 4000, 200),
    "power-cut-vfs": Campaign(_in_micropython("cut", False), 876, 876),
    "power-cut-vfs-ring": Campaign(_in_micropython("cut", True), 111, 111),
    "memory-journal": Campaign(_in_micropython("heap", False), 1400, 180),
    "memory-journal-ring": Campaign(_in_micropython("heap", True), 1000, 130),
    "memory-tasks": Campaign(_tasks, 10000, 90),
    "session-pilot": Campaign(_session_pilot, 100000, 4000),
    "session-sequences": Campaign(_session_sequences, 2500, 60),
    "session-years": Campaign(_session_years, 36500, 500),
    "hostile-signatures": Campaign(_signatures, 1000, 20),
    "hostile-commands": Campaign(_commands, 20000, 3000),
    "clock": Campaign(_clock, 100000, 3000),
    "network-link": Campaign(_network, 20000, 400),
    "update": Campaign(_update(False), 3000, 150),
    "update-files": Campaign(_update(True), 3000, 400),
    "network-broker": Campaign(_real_broker("killed"), 70000, 3000),
    "network-wire": Campaign(_real_broker("wire"), 600, 40),
    "network-outage": Campaign(_outage, 1000, 20),
    "hostile-tls": Campaign(_hostile("tls"), 12, 6),
    "hostile-flood": Campaign(_hostile("flood"), 60000, 6000),
    "hostile-uart": Campaign(_uart, 100000, 4000),
}
# likewise, where atheris is
FUZZ = {"hostile-fuzz-" + target: Campaign(_fuzz(target), 1000000, 20000)
        for target in fuzz.TARGETS}


def _progress(name):
    """A function that tells how far a campaign is, at most once a second."""
    told = [time.monotonic()]
    live = sys.stdout.isatty()

    def show(done, all_):
        now = time.monotonic()
        if now - told[0] < (_STEP_S if live else 10 * _STEP_S):
            return
        told[0] = now
        print("%s%s: %d of %d" % ("\r" if live else "  ", name, done, all_),
              end="" if live else "\n", flush=True)

    return show


def _tell(result, seconds, counts):
    print("%s%-22s %8d trials, %d violations, %d of %d controls, %d s"
          % ("\r" if sys.stdout.isatty() else "", result.campaign, result.trials,
             result.violations, sum(result.controls.values()), len(result.controls), seconds))
    for name, caught in result.controls.items():
        if not caught:
            print("  NOT CAUGHT: %s" % name)
    if counts:
        for name, number in sorted(result.counts.items()):
            print("  %-50s %9d" % (name, number))
    for text in result.texts:
        for at in range(0, len(text), _TEXT_WIDTH):
            print("  " + text[at:at + _TEXT_WIDTH])


def faults(
    campaign: Annotated[str, typer.Option(help="Only this one")] = "",
    trials: Annotated[int, typer.Option(min=0, help="Trials; 0: the campaign's own")] = 0,
    short: Annotated[bool, typer.Option("--short", help="A sample of each, in seconds")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print build/faults.json")] = False,
):
    """Run the fault campaigns; build/faults.json holds the counts of this run.

    Exit code 1 where a rule was broken or a wrong design was not noticed.

    Example: evmeter faults --campaign bus --trials 1000000
    """
    every = CAMPAIGNS | FUZZ
    if campaign and campaign not in every:
        raise UserError("campaign %s is not known; there is: %s"
                        % (campaign, ", ".join(sorted(every))))
    firmware.reach()
    rows = []
    good = True
    if campaign:
        names = [campaign]
    else:
        names = [*CAMPAIGNS, *(FUZZ if fuzz.is_there() else ())]
        if len(names) < len(every) and not as_json:
            print("hostile-fuzz-...: left out, atheris is not there")
    for name in names:
        one = every[name]
        begun = time.monotonic()
        result = one.run(trials or (one.short if short else one.trials), short,
                         (lambda done, all_: None) if as_json else _progress(name))
        rows.append(result.row())
        good = good and result.good
        if not as_json:
            _tell(result, time.monotonic() - begun, not short)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    if as_json:
        print(json.dumps(rows, indent=1))
    raise typer.Exit(0 if good else 1)
