"""What each station delivers and loses, and whether its records are all there."""

from evmeter_tools.backend.supply import IDLE_BAND, IDLE_MA
from evmeter_tools.insight.session import CHARGING, OPEN, SUCCESS
from evmeter_tools.insight.table import Column, Table, median, quantile, share
from evmeter_tools.insight.use import begun, energy_inside

_HOUR_MS = 3_600_000
_LOADED_PERMILLE = 800


def stations(facts, from_ms, to_ms, rated_mw):
    """Performance of each device in a period: `facts` are its DeviceFacts, `rated_mw` {device:
    rated power}. Stand-by is energy that belongs to no session, over the time in which no car was
    connected; delivered is the mean power while charging, against the rated one."""
    rows = []
    for device, own in sorted(facts.items()):
        found = begun(own.sessions, from_ms, to_ms)
        ended = [session for session in found if session.outcome != OPEN]
        good = sum(session.outcome == SUCCESS for session in ended)
        failed = sum(session.outcome in ("never_charged", "no_energy") for session in ended)
        energy_mwh = sum(energy_inside(session, from_ms, to_ms) for session in own.sessions
                         if session.start and session.start.known)
        charging_ms = occupied_ms = 0
        for session in own.sessions:
            if session.start and session.start.known:
                charging_ms += session.phase_ms((CHARGING,), from_ms, to_ms)
                occupied_ms += max(0, min(session.stop_ms, to_ms) - max(session.start_ms, from_ms))
        outside_mwh = sum(mwh for at_ms, mwh in own.outside if from_ms <= at_ms < to_ms)
        mean_mw = share(energy_mwh * _HOUR_MS, charging_ms, 1)
        rows.append((
            device, len(found), share(good, len(ended)), failed, energy_mwh, mean_mw,
            mean_mw and share(mean_mw, rated_mw.get(device)), outside_mwh,
            share(outside_mwh * _HOUR_MS, to_ms - from_ms - occupied_ms, 1),
            share(outside_mwh, outside_mwh + energy_mwh)))
    return Table("stations", "Stations", (
        Column("device", "device"), Column("sessions", "sess."),
        Column("success_permille", "ok o/oo", "sessions that went as they should"),
        Column("failed_starts", "failed", "connected and never charged, or no energy"),
        Column("energy_mwh", "energy mWh"),
        Column("charging_mw", "mean mW", "while charging"),
        Column("delivered_permille", "of rated", "mean power while charging / rated power"),
        Column("standby_mwh", "standby mWh", "outside of sessions"),
        Column("standby_mw", "mW", "mean, while no car is connected"),
        Column("loss_permille", "loss", "stand-by of all energy")), rows)


def completeness(facts):
    """Whether all that a device wrote is stored: `missing` must be 0."""
    return Table("records", "Records", (
        Column("device", "device"), Column("stored", "stored"),
        Column("missing", "missing", "numbers passed over; must be 0"),
        Column("bad", "refused", "stored, but with a wrong signature or content"),
        Column("latency_p95_ms", "latency p95 ms", "from making a record to storing it"),
        Column("boots", "boots")),
        [(device, sum(own.by_stream.values()), own.missing,
          sum(count for (_, verdict), count in own.by_stream.items() if verdict != "ok"),
          quantile(own.latency_ms, 950), len(own.boots)) for device, own in sorted(facts.items())])


def voltage_drop(device, telemetry):
    """How far the voltage falls under load, by phase, from live messages (`tel`, as dicts): the
    median at less than 0.5 A against the median at 80 % and more of the highest current seen."""
    rows = []
    phases = min((len(message["u_mv"]) for message in telemetry), default=0)
    for phase in range(phases):
        pairs = [(message["i_ma"][phase], message["u_mv"][phase]) for message in telemetry
                 if len(message["i_ma"]) > phase]
        most_ma = max((current for current, _ in pairs), default=0)
        idle = [voltage for current, voltage in pairs if abs(current) < IDLE_MA]
        loaded = [(current, voltage) for current, voltage in pairs
                  if current >= IDLE_MA and current * 1000 >= most_ma * _LOADED_PERMILLE]
        idle_mv = median(idle)
        loaded_mv = median([voltage for _, voltage in loaded])
        current_ma = median([current for current, _ in loaded])
        rows.append(_drop(device, phase + 1, idle_mv, loaded_mv, current_ma))
    return _voltage_table(rows)


def supply(facts):
    """The same of {device: DeviceFacts}, from what was summed up of telemetry by whole amperes:
    means take the medians' place."""
    rows = []
    for device, own in sorted(facts.items()):
        for phase in sorted({row[0] for row in own.supply}):
            bands = {band_a: sums for number, band_a, *sums in own.supply if number == phase}
            count, voltage_mv, _ = bands.pop(IDLE_BAND, (0, 0, 0))
            idle_mv = share(voltage_mv, count, 1)
            most_a = max(bands, default=0)
            loaded = [sums for band_a, sums in bands.items()
                      if band_a * 1000 >= most_a * _LOADED_PERMILLE]
            count, voltage_mv, current_ma = map(sum, zip(*loaded, strict=True)) if loaded else (
                0, 0, 0)
            rows.append(_drop(device, phase, idle_mv, share(voltage_mv, count, 1),
                              share(current_ma, count, 1)))
    return _voltage_table(rows)


def _drop(device, phase, idle_mv, loaded_mv, current_ma):
    drop_mv = None if None in (idle_mv, loaded_mv) else idle_mv - loaded_mv
    return (device, phase, idle_mv, loaded_mv, current_ma, drop_mv,
            drop_mv and share(drop_mv, idle_mv), drop_mv and share(drop_mv * 1000, current_ma, 1))


def _voltage_table(rows):
    return Table("voltage", "Voltage drop", (
        Column("device", "device"), Column("phase", "phase"), Column("idle_mv", "idle mV"),
        Column("loaded_mv", "loaded mV"), Column("current_ma", "at mA"),
        Column("drop_mv", "drop mV"), Column("drop_permille", "permille"),
        Column("source_mohm", "mOhm", "drop / current: the way from the transformer")), rows)


def delivered(device, samples):
    """Delivered against offered power while the car charges, from live messages merged to dicts
    with i_max_ma (`status`), u_mv and p_mw (`tel`): means in mW and their ratio."""
    found = [(sample["p_mw"], sample["i_max_ma"] * sum(sample["u_mv"]) // 1000)
             for sample in samples if sample.get("i_max_ma") and sample.get("p_mw") is not None]
    return _delivered_table([(device, len(found), sum(power for power, _ in found),
                              sum(offered for _, offered in found))])


def offers(facts):
    """The same of {device: DeviceFacts}, from what was summed up of telemetry."""
    return _delivered_table([(device, *own.offers) for device, own in sorted(facts.items())
                             if own.offers[0]])


def _delivered_table(sums):
    return Table("delivered", "Delivered against offered", (
        Column("device", "device"), Column("samples", "samples"),
        Column("power_mw", "mean mW"), Column("offered_mw", "offered mW"),
        Column("share_permille", "permille")),
        [(device, count, share(power_mw, count, 1), share(offered_mw, count, 1),
          share(power_mw, offered_mw)) for device, count, power_mw, offered_mw in sums])
