"""What has to be told to people: alarms with their life cycle, and notes to who asked for them.

All of it is written in the transaction that stores its cause.
"""

import sqlalchemy as sql

from evmeter_tools.backend.tables import alarms, alerts, outbox

CRITICAL = "crit"
WARNING = "warn"
CONFLICT = "RECORD_CONFLICT"
BAD_RECORD = "BAD_RECORD"
GAP = "RECORD_GAP"
OFFLINE = "OFFLINE"
# raised here for something that happened once: nothing else ends them
_SEEN_IS_OVER = (CONFLICT, BAD_RECORD)
OWN = (CONFLICT, BAD_RECORD, GAP, OFFLINE)
_LONGEST_TEXT = 500

# event of the device -> (subject, what it says to a driver)
_TELLING = {
    "finished_estimated": ("Fully charged (estimated)",
                           "The vehicle does not ask for current any more."),
    "target_reached": ("Target reached", "The wished energy has been charged."),
    "fault": ("Charging interrupted", "The charger reports a fault."),
    "paused_by_charger": ("Charging paused", "The charger offers no current at the moment."),
    "resume": ("Charging goes on", "The charger was without power and went on with the session."),
    "close": ("Charging session ended", "The receipt is ready."),
}


def raise_alarm(connection, device, code, severity, text, onset_ms, at, count=1, active=True):
    """Raise an alarm, or note how the open one of its code goes on: `active` is False where its
    cause is gone but somebody has to see it. Returns the alarm's id."""
    text = text[:_LONGEST_TEXT]
    held = connection.execute(sql.select(
        alarms.c.id, alarms.c.text, alarms.c.count, alarms.c.severity, alarms.c.over_at).where(
            alarms.c.device == device, alarms.c.code == code,
            alarms.c.cleared_at.is_(None))).first()
    over_at = None if active else at
    if held is None:
        return connection.execute(sql.insert(alarms).values(
            device=device, code=code, severity=severity, text=text, onset_ms=onset_ms,
            raised_at=at, changed_at=at, count=count, over_at=over_at)).inserted_primary_key[0]
    if held.over_at and over_at:
        over_at = held.over_at
    if (held.text, held.count, held.severity, held.over_at) != (text, count, severity, over_at):
        values = {"text": text, "severity": severity, "count": max(count, held.count),
                  "changed_at": at, "over_at": over_at}
        if count > held.count and active:  # it came again: whoever saw the last one has not this
            values.update(acked_at=None, acked_by=None, escalated_at=None)
        connection.execute(sql.update(alarms).where(alarms.c.id == held.id).values(values))
    return held.id


def acknowledge(connection, number, who, note, at):
    """Somebody has seen alarm `number`; one that only waited for that is over. Returns its row
    as it was, None where there is none that is open and unseen."""
    alarm = connection.execute(sql.select(alarms).where(
        alarms.c.id == number, alarms.c.acked_at.is_(None),
        alarms.c.cleared_at.is_(None))).first()
    if alarm:
        connection.execute(sql.update(alarms).where(alarms.c.id == number).values(
            acked_at=at, acked_by=who, note=note, changed_at=at,
            cleared_at=at if alarm.code in _SEEN_IS_OVER else None))
    return alarm


def clear_alarm(connection, device, code, at):
    """The cause is gone."""
    connection.execute(sql.update(alarms).where(
        alarms.c.device == device, alarms.c.code == code, alarms.c.cleared_at.is_(None)).values(
            cleared_at=at, changed_at=at))


def conflict(connection, entry, at):
    """Another content came under a stored number: a copied key, a rollback or tampering."""
    raise_alarm(connection, entry.device, CONFLICT, CRITICAL,
                "number %d came with another content" % entry.seq, at, at)


def happened(store, connection, entries, at):
    """Take entries that were just stored: raise what is wrong, tell who asked for it."""
    told = {}
    for entry in entries:
        if entry.verdict != "ok":
            raise_alarm(connection, entry.device, BAD_RECORD, CRITICAL,
                        "number %d: %s" % (entry.seq, entry.why), at, at)
        elif entry.stream == "evt" and entry.sid and entry.kind in _TELLING:
            told.setdefault((entry.device, entry.sid), []).append(entry)
    if not told:
        return
    query = sql.select(alerts).where(alerts.c.sid.in_({sid for _, sid in told}),
                                     alerts.c.device.in_({device for device, _ in told}))
    for alert in connection.execute(query).all():
        for entry in told.get((alert.device, alert.sid), ()):
            subject, body = _TELLING[entry.kind]
            note = "%s\n%s" % (body, alert.address) if alert.address else body
            put(store, connection, "%d/%s/%d" % (alert.id, entry.kind, entry.seq), alert.channel,
                alert.target, subject, note, at)


def put(store, connection, once, channel, target, subject, body, at):
    """Put a note into the outbox; a second one with the same `once` changes nothing."""
    connection.execute(store.insert(outbox).values(
        once=once, channel=channel, target=target, subject=subject, body=body, created_at=at,
        next_at=at).on_conflict_do_nothing())


def with_open(connection, code):
    """The devices with an open alarm of a code."""
    return list(connection.execute(sql.select(alarms.c.device).where(
        alarms.c.code == code, alarms.c.cleared_at.is_(None))).scalars())
