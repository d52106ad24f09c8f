"""Metrics for Prometheus, from what the database counts."""

import sqlalchemy as sql

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import alarms, gaps, keys, quarantine, states, totals
from evmeter_tools.export import metrics
from evmeter_tools.insight.workup import waiting, work_up

_CATCH_UP_S = 0.02


def text(store):
    """The metrics as bytes."""
    at = now_ms()
    work_up(store, _CATCH_UP_S)
    left = waiting(store)
    with store.engine.connect() as connection:
        def rows(*columns, where=(), by=()):
            return connection.execute(sql.select(*columns).where(*where).group_by(*by)).all()

        count = sql.func.count()
        values = {
            "evmeter_devices": {(): connection.execute(
                sql.select(sql.func.count(keys.c.device.distinct()))).scalar()},
            "evmeter_records_missing": {(device,): int(number) for device, number in rows(
                gaps.c.device, sql.func.sum(gaps.c.missing),
                where=[gaps.c.closed_at.is_(None)], by=[gaps.c.device])},
            "evmeter_quarantined": {(device,): number for device, number in rows(
                quarantine.c.device, count, by=[quarantine.c.device])},
            "evmeter_alarms": {(device, severity): number for device, severity, number in rows(
                alarms.c.device, alarms.c.severity, count,
                where=[alarms.c.cleared_at.is_(None)],
                by=[alarms.c.device, alarms.c.severity])}}
        ended = connection.execute(sql.select(
            totals.c.device, totals.c.sessions, totals.c.energy_mwh).where(
                totals.c.sessions > 0)).all()
        values["evmeter_sessions"] = {(row[0],): row[1] for row in ended}
        values["evmeter_energy_mwh"] = {(row[0],): row[2] for row in ended}
        known = connection.execute(sql.select(
            states.c.device, states.c.online, states.c.power_mw, states.c.heard_at)).all()
    values["evmeter_records_waiting"] = {(): left}
    values["evmeter_online"] = {(row.device,): int(row.online) for row in known}
    values["evmeter_power_mw"] = {(row.device,): row.power_mw for row in known
                                  if row.power_mw is not None}
    values["evmeter_last_word_seconds"] = {
        (row.device,): max(0, at - row.heard_at) / 1000 for row in known}
    return metrics.text(values)
