"""The table at the end of the demo, and whether everything held."""

from rich import box
from rich.table import Table

from evmeter_tools.backend.sessions import balance, device_report, export_lines
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.view import energy_text
from evmeter_tools.receipt.command import write


def _reading(reading):
    """A reading's register as kWh with the three decimals of the meter, exactly."""
    return "%d.%03d" % (reading.mwh // 1_000_000, reading.mwh % 1_000_000 // 1000)


def _table(sessions):
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("session", "start UTC", "stop UTC", "clk", "from kWh", "to kWh", "Wh", "OCMF"):
        table.add_column(name, no_wrap=True,
                         justify="right" if name in ("from kWh", "to kWh", "Wh") else "left")
    for session in sessions:
        whole = session.state == "complete"
        end = session.end if whole else None
        gap_mwh = _complete(session, "ZG") or 0
        mark = " *" if gap_mwh else ""
        table.add_row(
            session.id[-6:], session.begin.time.strftime("%H:%M:%S"),
            end.time.strftime("%H:%M:%S") if end else "-", session.quality or "-",
            _reading(session.begin), _reading(end) if end else "-",
            "%d%s" % (session.energy_mwh // 1000, mark) if whole else "-",
            "complete, ok" if whole and session.ok else "REFUSED")
    return table


def _complete(session, key):
    found = [record.get(key) for record in session.records if record.kind == "complete"]
    return found[0] if found else None


def _says(session):
    """What a person should know of a session besides its figures."""
    text = "session %s: ended by TX=%s" % (session.id[-6:], session.end.tx if session.end else "?")
    text += ", billable" if session.billable else ", not billable (below 100 register steps)"
    gap_mwh = _complete(session, "ZG")
    if gap_mwh:
        text += "; * %s of it flowed while the device was off" % energy_text(gap_mwh)
    return text


def show(console, bench, final_mwh):
    """Print the outcome; returns 0 only if every record holds and the energy is exact."""
    store = Store(bench.database)
    report = device_report(store, bench.device_id)
    sums = balance(store, bench.device_id)
    records = bench.folder / "records.jsonl"
    receipts = bench.folder / "receipts"
    records.write_text("".join(line + "\n" for line in export_lines(store, bench.device_id)))
    write(report.sessions, receipts)
    quarantined = len(store.quarantined())
    store.close()
    pages = [record.page for record in report.records]
    meter_mwh = final_mwh - bench.start_mwh
    whole = sum(1 for session in report.sessions if session.state == "complete")
    exact = (sums.exact and sums.sessions_mwh + sums.outside_mwh == meter_mwh
             and sums.sessions_mwh == sum(s.energy_mwh or 0 for s in report.sessions))
    checks = (
        ("records verified: %d of %d"
         % (sum(1 for record in report.records if record.ok), len(report.records)),
         report.ok and whole == len(report.sessions) == 2),
        ("no page twice, none missing: T%s" % ", T".join(map(str, pages)),
         pages == list(range(1, len(pages) + 1))),
        ("no number missing, none in quarantine", not sums.missing and not quarantined),
        ("energy to the milliwatt-hour", exact),
    )
    console.print(_table(report.sessions))
    for session in report.sessions:
        console.print(_says(session))
        for reason in session.reasons:
            console.print("  " + reason)
    console.print("sessions %s + outside %s = meter %s"
                  % (energy_text(sums.sessions_mwh), energy_text(sums.outside_mwh),
                     energy_text(meter_mwh)))
    for text, good in checks:
        console.print("[%s] %s" % ("ok" if good else "FAILED", text), markup=False)
    console.print("receipts %s\nrecords  %s\ndatabase %s\nlog      %s\n"
                  "check    build/bin/evmeter verify %s"
                  % (_short(receipts), _short(records), _short(bench.database),
                     _short(bench.folder / "device.log"), _short(records)), markup=False)
    return 0 if all(good for _, good in checks) else 1


def _short(path):
    from evmeter_tools.paths import ROOT

    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
