"""The database's tables, in SQL that SQLite and PostgreSQL both understand.

Instants are Unix time in ms (`_ms` as the device tells it, `_at` as the backend's own clock has
it), energies mWh. `migrations/` brings an older database to this state.
"""

import sqlalchemy as sql

meta = sql.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s"})

_BIG = sql.BigInteger
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # counts up by itself


def _table(name, *columns, **more):
    return sql.Table(name, meta, *columns, **more)


def _device(**more):
    return sql.Column("device", sql.String(20), nullable=False, **more)


def _text(name, length, **more):
    return sql.Column(name, sql.String(length), nullable=False, server_default="", **more)


def _need(name, kind, **more):
    return sql.Column(name, kind, nullable=False, **more)


def _may(name, kind=_BIG, **more):
    return sql.Column(name, kind, nullable=True, **more)


# -- what devices have signed or said --

keys = _table(
    "key", _device(primary_key=True), _need("key_id", sql.String(8), primary_key=True),
    _need("spki", sql.String(200)), _need("enrolled_at", _BIG),
    _may("follows", sql.String(8)))  # key id that this one took over from, by a signed change
records = _table(
    "record", _device(primary_key=True), _need("key_id", sql.String(8), primary_key=True),
    _need("seq", _BIG, primary_key=True), _need("stream", sql.String(3)),
    _need("sid", sql.String(36)), _need("kind", sql.String(32)),
    _need("payload", sql.LargeBinary), _need("sha256", sql.String(64)),
    _need("received_at", _BIG, index=True), _need("verdict", sql.String(8)),
    _need("why", sql.Text))
sql.Index("ix_record_sid", records.c.sid)
quarantine = _table(
    "quarantine", sql.Column("id", _NUMBER, primary_key=True), _device(),
    _need("key_id", sql.String(8)), _need("seq", _BIG), _need("payload", sql.LargeBinary),
    _need("sha256", sql.String(64)), _need("received_at", _BIG), _need("why", sql.Text),
    sql.UniqueConstraint("device", "key_id", "seq", "sha256"))
# one row a session, from its signed records; can be made anew from them
sessions = _table(
    "session", _device(primary_key=True), _need("sid", sql.String(36), primary_key=True),
    _need("key_id", sql.String(8)), _need("state", sql.String(8)), _need("begin_ms", _BIG),
    _need("begin_mwh", _BIG), _may("end_ms"), _may("energy_mwh"),
    _need("gap_mwh", _BIG, server_default="0", index=True), _may("billable", sql.Boolean),
    _need("ok", sql.Boolean), _text("tx", 1), _need("changed_at", _BIG, index=True))
sql.Index("ix_session_device_begin_ms", sessions.c.device, sessions.c.begin_ms)
sql.Index("ix_session_begin_ms", sessions.c.begin_ms)
gaps = _table(
    "gap", _device(primary_key=True), _need("key_id", sql.String(8), primary_key=True),
    _need("first", _BIG, primary_key=True), _need("last", _BIG), _need("missing", _BIG),
    _need("seen_at", _BIG), _may("asked_at"), _need("asked", sql.Integer, server_default="0"),
    _may("closed_at", index=True))

# -- the newest of what passes by --

live = _table(
    "live", _device(primary_key=True), _need("topic", sql.String(64), primary_key=True),
    _need("payload", sql.LargeBinary), _need("received_at", _BIG),
    _need("boot", _BIG, server_default="0"), _need("n", _BIG, server_default="0"))
states = _table(
    "state", _device(primary_key=True), _need("online", sql.Boolean),
    _need("state", sql.String(16)), _need("since_at", _BIG), _text("cp", 2), _text("sid", 36),
    _may("power_mw"), _may("session_mwh"), _may("register_mwh"), _text("progress", 24),
    _need("unsent", _BIG, server_default="0"), _need("heard_at", _BIG),
    _need("changed_at", _BIG, index=True))
sql.Index("ix_state_state", states.c.state)
spans = _table(
    "status_span", sql.Column("id", _NUMBER, primary_key=True), _device(),
    _need("state", sql.String(16)), _need("from_ms", _BIG), _may("to_ms"))
sql.Index("ix_status_span_device_from_ms", spans.c.device, spans.c.from_ms)
samples = _table(  # for a driver's plot; thinned, and not kept for long
    "sample", _device(primary_key=True), _need("at_ms", _BIG, primary_key=True, index=True),
    _need("sid", sql.String(36)), _need("power_mw", _BIG), _may("session_mwh"))
supplies = _table(  # sums of telemetry by day (UTC), phase and current; never the messages
    "supply", _device(primary_key=True), _need("day", sql.Integer, primary_key=True),
    _need("phase", sql.Integer, primary_key=True),
    _need("band_a", sql.Integer, primary_key=True),  # whole amperes; -1: below 0.5 A
    _need("count", _BIG), _need("voltage_mv", _BIG), _need("current_ma", _BIG))
offers = _table(  # sums over telemetry while a car charges
    "offer", _device(primary_key=True), _need("day", sql.Integer, primary_key=True),
    _need("count", _BIG), _need("power_mw", _BIG), _need("offered_mw", _BIG))
alarms = _table(
    "alarm", sql.Column("id", _NUMBER, primary_key=True), _device(),
    _need("code", sql.String(32)), _need("severity", sql.String(8)), _need("text", sql.Text),
    _need("count", _BIG, server_default="1"), _need("onset_ms", _BIG), _need("raised_at", _BIG),
    _need("changed_at", _BIG, index=True), _may("cleared_at", index=True),
    _may("over_at"),  # the cause is gone; a latched alarm waits to be acknowledged all the same
    _may("acked_at"),
    _may("acked_by", sql.String(64)), _text("note", 500), _may("escalated_at"))
sql.Index("ix_alarm_device_code", alarms.c.device, alarms.c.code)

# -- what follows from the records, for reports; made by derive/, can be made anew --

works = _table(  # stored records that are not in the tables below yet
    "work", sql.Column("id", _NUMBER, primary_key=True), _device(),
    _need("key_id", sql.String(8)), _need("seq", _BIG))
sql.Index("ix_work_device", works.c.device)
session_facts = _table(  # insight.session.ChargingSession.row(), and what sums are made of
    "session_fact", sql.Column("id", _NUMBER, primary_key=True), _device(),
    _need("sid", sql.String(36)), _need("key_id", sql.String(8)), _need("state", sql.String(8)),
    _need("ok", sql.Integer), _may("start_ms"), _may("stop_ms"), _may("until_ms"),
    _may("start_quality", sql.String(1)), _may("stop_quality", sql.String(1)),
    _need("start_corrected", sql.Integer), _need("stop_corrected", sql.Integer),
    _may("duration_s"), _may("energy_mwh"), _need("gap_mwh", _BIG),
    _need("billable", sql.Integer), _need("why_not", sql.Text), _need("ended_by", sql.String(1)),
    _need("outcome", sql.String(16)), _need("charging_ms", _BIG), _need("occupied_ms", _BIG),
    _need("idle_ms", _BIG), _need("faults", sql.Integer), _may("split_ok", sql.Integer),
    _need("currency", sql.String(3)), _may("cost_info_minor"), _need("by_tariff", sql.Text),
    _need("phases", sql.Text), _need("changed_at", _BIG, index=True),
    sql.UniqueConstraint("device", "sid"))
sql.Index("ix_session_fact_device_start_ms", session_facts.c.device, session_facts.c.start_ms)
happenings = _table(  # records that tell of a boot, an alarm, energy outside or their own delay
    "happening", _device(primary_key=True), _need("key_id", sql.String(8), primary_key=True),
    _need("seq", _BIG, primary_key=True), _need("at_ms", _BIG), _need("kind", sql.String(5)),
    _may("outside_mwh"), _may("delay_ms"), _need("detail", sql.Text))
load_days = _table(  # a day's quarters of an hour in UTC (derive/load.py); device "": all
    "load_day", _device(primary_key=True), _need("day", sql.Integer, primary_key=True),
    _need("timeless", sql.Boolean, primary_key=True), _need("quarters", sql.LargeBinary))
covers = _table(  # times that a device's load profile covers, Unix s
    "cover", _device(primary_key=True), _need("from_s", _BIG, primary_key=True),
    _need("to_s", _BIG))
alarm_spans = _table(  # what a device's events tell of its alarms, Unix s
    "alarm_span", sql.Column("id", _NUMBER, primary_key=True), _device(index=True),
    _need("code", sql.String(32)), _need("from_s", _BIG), _may("to_s"))
downs = _table(  # outages by records and alarms, without overlap, Unix s
    "down", _device(primary_key=True), _need("from_s", _BIG, primary_key=True), _may("to_s"))
refusals = _table(  # attempts for which no session could open
    "refusal", sql.Column("id", _NUMBER, primary_key=True), _device(index=True),
    _need("at_ms", _BIG, index=True), _need("count", _BIG))
tallies = _table(
    "tally", _device(primary_key=True), _need("key_id", sql.String(8), primary_key=True),
    _need("stored", _BIG), _need("bad", _BIG), _need("highest", _BIG),
    _need("boots", _BIG, server_default="0"), _may("delay_p95_ms"))
totals = _table(  # of the complete sessions that are sound
    "total", _device(primary_key=True), _need("sessions", _BIG), _need("energy_mwh", _BIG))

# -- what the operator has set up and done --

sites = _table(
    "site", _need("id", sql.String(36), primary_key=True), _text("name", 255),
    _text("address", 45), _text("city", 45), _text("country", 3), _text("latitude", 10),
    _text("longitude", 11), _need("time_zone", sql.String(255), server_default="UTC"),
    _need("limit_w", _BIG, server_default="0"))
chargers = _table(
    "charger", _device(primary_key=True), _text("label", 64),
    _may("site", sql.String(36), index=True), _text("evse_id", 48),
    _need("rated_w", _BIG, server_default="0"))
accounts = _table(
    "account", _need("name", sql.String(64), primary_key=True), _need("role", sql.String(8)),
    _need("password", sql.String(200)), _need("created_at", _BIG))
logins = _table(
    "login", _need("token_sha256", sql.String(64), primary_key=True),
    _need("name", sql.String(64), index=True), _need("csrf", sql.String(64)),
    _need("created_at", _BIG), _need("expires_at", _BIG))
links = _table(  # without a session: the charger's own link, which leads to the session of now
    "driver_link", _need("token_sha256", sql.String(64), primary_key=True), _device(),
    _text("sid", 36), _need("created_at", _BIG), _need("expires_at", _BIG))
alerts = _table(
    "alert", sql.Column("id", _NUMBER, primary_key=True), _device(), _need("sid", sql.String(36)),
    _need("channel", sql.String(8)), _need("target", sql.String(320)), _text("address", 500),
    _need("created_at", _BIG), sql.UniqueConstraint(
        "device", "sid", "channel", "target", name="uq_alert"))
outbox = _table(
    "outbox", sql.Column("id", _NUMBER, primary_key=True),
    _need("once", sql.String(200), unique=True),  # what must not be told twice
    _need("channel", sql.String(8)), _need("target", sql.String(320)),
    _need("subject", sql.String(200)), _need("body", sql.Text), _need("created_at", _BIG),
    _need("next_at", _BIG, index=True), _need("attempts", sql.Integer, server_default="0"),
    _may("sent_at"), _text("error", 200))
commands = _table(
    "command", _need("id", sql.String(36), primary_key=True), _device(),
    _need("op", sql.String(32)), _need("args", sql.Text), _need("by", sql.String(64)),
    _need("created_at", _BIG), _need("expires_at", _BIG), _may("sent_at", index=True),
    _may("answered_at"), _text("answer", 1000))
exclusions = _table(  # time that counts against no up-time, by an operator's word; Unix s
    "exclusion", sql.Column("id", _NUMBER, primary_key=True), _device(index=True),
    _need("from_s", _BIG), _need("to_s", _BIG), _need("reason", sql.String(16)),
    _text("note", 500), _need("by", sql.String(64)), _need("at", _BIG))
gap_decisions = _table(  # on energy that flowed while a device was off
    "gap_decision", _device(primary_key=True), _need("sid", sql.String(36), primary_key=True),
    _need("gap_mwh", _BIG), _need("decision", sql.String(16)), _need("by", sql.String(64)),
    _need("at", _BIG))
audit = _table(
    "audit", sql.Column("id", _NUMBER, primary_key=True), _need("at", _BIG, index=True),
    _need("who", sql.String(64)), _need("what", sql.String(32)), _text("subject", 64),
    _text("detail", 500))
