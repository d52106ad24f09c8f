"""The quarterly set that 23 CFR 680.112(a) asks of stations that NEVI pays for.

Sessions: charging port, begin and end (UTC), error codes, energy, peak power, payment method.
Up-time: T_outage, T_excluded and uptime of each port and month. Outages: begin, end, reason.
"""

from datetime import UTC, datetime

from evmeter_tools.errors import UserError
from evmeter_tools.insight.demand import peak_mw
from evmeter_tools.insight.reports import known, recorded_outages, since
from evmeter_tools.insight.session import SUCCESS
from evmeter_tools.insight.table import Column, Table
from evmeter_tools.insight.uptime import begun, month_period, uptime

_PAYMENT = {"ISO14443": "RFID card", "ISO15693": "RFID card", "EMAID": "plug and charge",
            "EVCCID": "plug and charge", "ISO7812": "payment card", "PHONE_NUMBER": "phone",
            "CENTRAL": "app or operator", "CENTRAL_1": "app or operator",
            "CENTRAL_2": "app or operator"}


def quarter_months(name):
    """The three months of a quarter "2026Q3" as "2026-07" and so on. Raises UserError."""
    year, mark, number = name.upper().partition("Q")
    if mark != "Q" or not (len(year) == 4 and year.isascii() and year.isdigit()
                           and 1971 <= int(year) < 2106) or number not in ("1", "2", "3", "4"):
        raise UserError("%.20r is no quarter; give it as 2026Q3" % name)
    first = int(number) * 3 - 2
    return ["%s-%02d" % (year, month) for month in range(first, first + 3)]


def _utc(unix_ms):
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kilo(value):
    """Thousandths of thousandths: mWh as kWh, mW as kW, six decimals, exactly."""
    return None if value is None else "%d.%06d" % divmod(value, 1_000_000)


def nevi(facts, quarter, zone, outages=(), sites=None, now_s=None):
    """[sessions, uptime, outages] of a quarter "2026Q3" as Tables. `outages` are uptime.Outage
    beside those that the device's records show; `sites`: {device: site}. The uptime is that of
    months that have begun by `now_s` (Unix s; None: now) and of which something is known."""
    months = quarter_months(quarter)
    sites = sites or {}
    from_s, to_s = month_period(months[-1], zone, 3)
    rows, all_outages = [], list(outages)
    for device, own in sorted(facts.items()):
        all_outages += recorded_outages(own, to_s)
        for session in own.sessions:
            if not session.start or not session.start.known or not (
                    from_s * 1000 <= session.start_ms < to_s * 1000) or session.stop is None:
                continue
            errors = [] if session.outcome == SUCCESS else [session.outcome]
            errors += ["pilot_fault"] if session.faults else []
            errors += sorted({code for code, on_s, off_s in own.alarms
                              if on_s * 1000 < session.stop_ms
                              and (off_s is None or off_s * 1000 >= session.start_ms)})
            user = session.user or {}
            rows.append((
                sites.get(device, device), device, session.sid, _utc(session.start_ms),
                _utc(session.stop_ms), " ".join(errors), _kilo(session.energy_mwh),
                _kilo(peak_mw(own.intervals, session.start_ms // 1000, session.stop_ms // 1000)),
                _PAYMENT.get(user.get("IT"), "other") if user.get("ID") else "none"))
    spans = [(sites.get(each.device, each.device), each.device, _utc(each.start_s * 1000),
              _utc(each.stop_s * 1000), (each.stop_s - each.start_s + 30) // 60, each.excluded,
              each.cause)
             for each in sorted(all_outages, key=lambda each: (each.device, each.start_s))
             if each.stop_s > from_s and each.start_s < to_s]
    place = (Column("station", "station"), Column("port", "port", "charging port"))
    return [
        Table("nevi_sessions", "Sessions of %s" % quarter, (
            *place, Column("session", "session"), Column("start_utc", "begin"),
            Column("end_utc", "end"),
            Column("error_codes", "errors", "outcome, and alarms of its time"),
            Column("energy_kwh", "kWh", "verified; empty where not"),
            Column("peak_kw", "peak kW", "highest power of the intervals it touches"),
            Column("payment_method", "payment")), rows),
        uptime(all_outages, known(facts), begun(months, zone, now_s), zone, since(facts)),
        Table("nevi_outages", "Outages of %s" % quarter, (
            *place, Column("start_utc", "begin"), Column("end_utc", "end"),
            Column("outage_min", "minutes"), Column("excluded", "excluded as"),
            Column("cause", "cause")), spans)]
