"""`evmeter fleet`."""

import json
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.fleet.run import Fleet
from evmeter_tools.paths import BUILD
from evmeter_tools.run_folder import empty

_TELL_S = 5
_LOOK_S = 0.25
_DEVICES_A_S = 100  # so many that replay begin in a second
_SWITCHED_ON_S = 2  # from one firmware process to the next


def _progress(fleet, begun):
    line = "%4d s" % (time.monotonic() - begun)
    if fleet.replay:
        told = fleet.replay.told
        line += "  replay %d of %d, %d frames acknowledged, p95 %d ms" % (
            told.get("done", 0), told.get("devices", 0), told.get("acked", 0),
            told.get("p95_ms", 0))
    if fleet.names:
        line += "  firmware %d up, %d sessions" % (len(fleet.watch.online), fleet.watch.complete)
    print(line, flush=True)


def _drive(fleet, spread_s, seconds, quiet):
    """Run until everything is acknowledged or the time is over; returns whether it was in time."""
    begun = told = time.monotonic()
    on, plugged = 0, set()
    every_s = max(spread_s / max(1, len(fleet.names)), _SWITCHED_ON_S)
    while True:
        now = time.monotonic()
        fleet.check()
        while on < len(fleet.names) and now - begun >= on * every_s:
            fleet.switch_on(on)
            on += 1
        for name in fleet.names:
            if name in fleet.watch.online and name not in plugged:
                plugged.add(name)
                fleet.stations.say(name)
        fleet.note_memory()
        if now - told >= _TELL_S and not quiet:
            told = now
            _progress(fleet, begun)
        if fleet.replayed() and fleet.driven():
            return True
        if now - begun >= seconds:
            return False
        time.sleep(_LOOK_S)


def _summary(fleet, in_time, settled):
    found = fleet.judge()
    replay = fleet.replay.told if fleet.replay else {}
    frames = replay.get("frames", 0)
    missing = frames - replay.get("acked", 0)
    rate = round(frames / found["replay_s"]) if found["replay_s"] else 0
    found.update({
        "firmware": len(fleet.names), "devices": replay.get("devices", 0), "frames": frames,
        "sent": replay.get("sent", 0), "again": replay.get("again", 0),
        "acknowledged": replay.get("acked", 0), "acks_refused": replay.get("refused", 0),
        "stored_per_s": rate, "p50_ms": replay.get("p50_ms", 0),
        "p95_ms": replay.get("p95_ms", 0), "rss_mib": fleet.rss, "in_time": in_time,
        "firmware_acknowledged": settled})
    found["ok"] = bool(
        in_time and settled and not missing
        and not any(found[name] for name in ("gaps", "doubled", "altered", "bad", "quarantined",
                                             "acks_refused"))
        and found["firmware_exact"] == len(fleet.names)
        and found["firmware_sessions"] == found["firmware_sound"])
    return found


def _print(found):
    print("replay    %(devices)d devices, %(frames)d frames, sent %(sent)d times, "
          "%(again)d of them again\n"
          "          %(acknowledged)d acknowledged, %(stored_per_s)d/s verified and stored\n"
          "          from publish to acknowledgement: median %(p50_ms)d ms, p95 %(p95_ms)d ms"
          % found)
    if found["firmware"]:
        print("firmware  %(firmware)d processes, %(firmware_sessions)d sessions, of which "
              "%(firmware_sound)d verified;\n          energy exact to the mWh on "
              "%(firmware_exact)d" % found)
    print("memory    " + ", ".join("%s %.0f MiB" % part for part in found["rss_mib"].items()))
    print("database  %(stored)d messages, %(verified)d signatures verified, %(bad)d bad" % found)
    wrong = ("gaps", "doubled", "altered", "quarantined")
    for text, good in (
            (", ".join("%s %%(%s)d" % (name, name) for name in wrong),
             not any(found[name] for name in wrong)),
            ("everything acknowledged", found["acknowledged"] == found["frames"]
             and found["firmware_acknowledged"]),
            ("all of it", found["ok"])):
        print("[%s] %s" % ("ok" if good else "FAILED", text % found))


def fleet(
    firmware: Annotated[
        int, typer.Option("--firmware", "-n", min=0, max=999,
                          help="Firmware processes, each with a meter and a vehicle")] = 10,
    devices: Annotated[
        int, typer.Option(min=0, max=99999, help="Devices that replay recorded sessions")
    ] = 10_000,
    sessions: Annotated[
        int, typer.Option(min=1, help="Charging sessions of each firmware process")] = 2,
    charge: Annotated[float, typer.Option(min=1, help="Seconds that a car charges")] = 30,
    spread: Annotated[
        float, typer.Option(min=0, help="Seconds until the last device begins; 0: 1 for 100")
    ] = 0,
    seconds: Annotated[int, typer.Option(min=1, help="The longest that it may take")] = 900,
    folder: Annotated[Path | None, typer.Option("--dir", help="Run folder; emptied first")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON")] = False,
):
    """Many devices at one backend on this machine: firmware under MicroPython with emulated meters
    and vehicles, and devices that replay signed sessions; then what the database has of them.

    The devices that replay share eight connections, which the access rules of this broker permit;
    each has its own key and obeys its own acknowledgements. A firmware process takes about a
    fiftieth of a core; all of them stand back for the backend, and where there are more than the
    machine has room for, they run slower than a device would.
    Exit code 1 where a record is missing, doubled, altered or not acknowledged.

    Example: evmeter fleet -n 2 --devices 50 --charge 5
    """
    spread = spread or max(10, devices / _DEVICES_A_S)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = empty(folder or BUILD / "fleet")
    if not as_json:
        print("%d firmware processes, %d devices that replay; everything lies in %s"
              % (firmware, devices, folder), flush=True)
    try:
        with Fleet(folder, firmware, devices, sessions=sessions, charge_s=charge,
                   spread_s=spread) as running:
            in_time = _drive(running, spread, seconds, as_json)
            settled = running.settle()
            found = _summary(running, in_time, settled)
    except KeyboardInterrupt:
        print("ended by Ctrl-C; what is stored lies in %s" % folder)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    raise typer.Exit(0 if found["ok"] else 1)
