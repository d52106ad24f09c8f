"""`evmeter measure`."""

import json
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple

import typer

from evmeter_tools import firmware
from evmeter_tools.errors import UserError
from evmeter_tools.measure import modbus, signing, size
from evmeter_tools.paths import BUILD

FILE = BUILD / "bench.json"
_WIDTH = 78


class Figure(NamedTuple):
    """`run()` yields (key, value, how); `keys` it gives; limits: key -> (sign, value)."""

    keys: tuple
    run: Callable


def _heap():
    from evmeter_tools.measure import heap

    return heap.smallest()


def _wear():
    from evmeter.system.config import FIELDS
    from evmeter_tools.measure import wear

    return wear.stores(FIELDS["journal"]["store"][3])


def _pilot_edges():
    from evmeter_tools.measure import pilot

    return pilot.edges()


def _pilot_stall():
    from evmeter_tools.measure import stall

    return stall.pilot()


def _replay():
    from evmeter_tools.measure import replay

    return replay.ratio()


def _pages():
    from evmeter_tools.measure import pages

    return pages.answers()


def _ingest():
    from evmeter_tools.measure import ingest

    return ingest.ratio()


# what is measured, in the order of the table; other rooms add theirs
FIGURES = [
    Figure(("modbus_wire_ratio_2400",), lambda: modbus.wire_ratio(2400)),
    Figure(("modbus_wire_ratio_9600", "modbus_requests_sdm120"), lambda: modbus.wire_ratio(9600)),
    Figure(("poll_alloc_bytes",), modbus.poll_alloc),
    Figure(("sign_speedup_python", "sign_speedup_viper", "sign_garbage_bytes"), signing.speedup),
    Figure(("sign_heap_min_kib",), signing.heap),
    Figure(("sign_against_starkbank_ecdsa", "sign_against_ecdsa"), signing.peers),
    Figure(("mpy_total_kib", "loaded_ram_kib"), size.loaded),
    Figure(("pilot_stall_max_ms",), _pilot_stall),
    Figure(("edge_error_ms_p99",), _pilot_edges),
    Figure(("heap_min_kib",), _heap),
    Figure(("replay_ratio", "reconnect_first_ack_ms"), _replay),
    Figure(("ingest_ratio", "ingest_session_ratio"), _ingest),
    Figure(("erases_per_session", "wear_ten_years_percent"), _wear),
    Figure(("page_ms_p95",), _pages),
]
# DESIGN.md section 5: reach
REACH = {
    "modbus_wire_ratio_2400": ("<=", 1.10), "modbus_wire_ratio_9600": ("<=", 1.10),
    "modbus_requests_sdm120": ("<=", 2), "poll_alloc_bytes": ("<=", 512),
    "sign_speedup_python": (">=", 140), "sign_speedup_viper": (">=", 400),
    "mpy_total_kib": ("<=", 42), "loaded_ram_kib": ("<=", 72),
    "pilot_stall_max_ms": ("<=", 100), "edge_error_ms_p99": ("<=", 100),
    "heap_min_kib": ("<=", 36), "erases_per_session": ("<=", 3),
    "wear_ten_years_percent": ("<=", 10), "replay_ratio": (">=", 0.8), "page_ms_p95": ("<=", 200),
    "ingest_ratio": (">=", 0.7),
}


def _tell(key, value, how):
    sign, reach = REACH.get(key, ("", None))
    met = reach is None or (value <= reach if sign == "<=" else value >= reach)
    print("%-24s %10g   %-12s%s" % (key, value, "%s %g" % (sign, reach) if sign else "",
                                    "" if met else "  missed"), flush=True)
    while how:
        at = len(how) if len(how) <= _WIDTH - 4 else how.rfind(" ", 0, _WIDTH - 4)
        print("    " + how[:at])
        how = how[at:].strip()


def measure(
    only: Annotated[str, typer.Option(help="Only what gives this key")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON")] = False,
):
    """Measure what the project promises, each beside what it is held against; build/bench.json.

    Times depend on the machine, their ratios little: nothing else should run.

    Example: evmeter measure --only sign_speedup_python
    """
    chosen = [figure for figure in FIGURES if not only or only in figure.keys]
    if not chosen:
        raise UserError("%s is not measured; there is: %s" % (
            only, ", ".join(key for figure in FIGURES for key in figure.keys)))
    firmware.reach()
    found = {}
    begun = time.monotonic()
    for figure in chosen:
        for key, value, how in figure.run():
            found[key] = value
            if not as_json:
                _tell(key, value, how)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print("%d figures in %d s: %s" % (len(found), time.monotonic() - begun,
                                         FILE.relative_to(BUILD.parent)))
