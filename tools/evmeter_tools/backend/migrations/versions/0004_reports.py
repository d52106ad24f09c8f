"""What follows from the records, for reports; each record that is there waits to be worked up."""

import sqlalchemy as sql
from alembic import op

revision = "0004"
down_revision = "0003"

_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")
_BIG = sql.BigInteger


def _need(name, kind, default=None):
    return sql.Column(name, kind, server_default=default, nullable=False)


def _may(name, kind=_BIG):
    return sql.Column(name, kind, nullable=True)


def _device():
    return _need("device", sql.String(20))


def upgrade():
    """Add the tables of schema 4."""
    op.create_table(
        "work", _need("id", _NUMBER), _device(), _need("key_id", sql.String(8)),
        _need("seq", _BIG), sql.PrimaryKeyConstraint("id", name="pk_work"))
    op.create_table(
        "session_fact", _need("id", _NUMBER), _device(), _need("sid", sql.String(36)),
        _need("key_id", sql.String(8)), _need("state", sql.String(8)), _need("ok", sql.Integer),
        _may("start_ms"), _may("stop_ms"), _may("until_ms"),
        _may("start_quality", sql.String(1)), _may("stop_quality", sql.String(1)),
        _need("start_corrected", sql.Integer), _need("stop_corrected", sql.Integer),
        _may("duration_s"), _may("energy_mwh"), _need("gap_mwh", _BIG),
        _need("billable", sql.Integer), _need("why_not", sql.Text),
        _need("ended_by", sql.String(1)), _need("outcome", sql.String(16)),
        _need("charging_ms", _BIG), _need("occupied_ms", _BIG), _need("idle_ms", _BIG),
        _need("faults", sql.Integer), _may("split_ok", sql.Integer),
        _need("currency", sql.String(3)), _may("cost_info_minor"), _need("by_tariff", sql.Text),
        _need("phases", sql.Text), _need("changed_at", _BIG),
        sql.PrimaryKeyConstraint("id", name="pk_session_fact"),
        sql.UniqueConstraint("device", "sid", name="uq_session_fact_device_sid"))
    op.create_index("ix_session_fact_changed_at", "session_fact", ["changed_at"])
    op.create_index("ix_session_fact_device_start_ms", "session_fact", ["device", "start_ms"])
    op.create_table(
        "happening", _device(), _need("key_id", sql.String(8)), _need("seq", _BIG),
        _need("at_ms", _BIG), _need("kind", sql.String(5)), _may("outside_mwh"),
        _may("delay_ms"), _need("detail", sql.Text),
        sql.PrimaryKeyConstraint("device", "key_id", "seq", name="pk_happening"))
    op.create_table(
        "load_day", _device(), _need("day", sql.Integer), _need("timeless", sql.Boolean),
        _need("quarters", sql.LargeBinary),
        sql.PrimaryKeyConstraint("device", "day", "timeless", name="pk_load_day"))
    op.create_table(
        "cover", _device(), _need("from_s", _BIG), _need("to_s", _BIG),
        sql.PrimaryKeyConstraint("device", "from_s", name="pk_cover"))
    op.create_table(
        "alarm_span", _need("id", _NUMBER), _device(), _need("code", sql.String(32)),
        _need("from_s", _BIG), _may("to_s"),
        sql.PrimaryKeyConstraint("id", name="pk_alarm_span"))
    op.create_index("ix_alarm_span_device", "alarm_span", ["device"])
    op.create_table(
        "down", _device(), _need("from_s", _BIG), _may("to_s"),
        sql.PrimaryKeyConstraint("device", "from_s", name="pk_down"))
    op.create_table(
        "refusal", _need("id", _NUMBER), _device(), _need("at_ms", _BIG), _need("count", _BIG),
        sql.PrimaryKeyConstraint("id", name="pk_refusal"))
    op.create_index("ix_refusal_device", "refusal", ["device"])
    op.create_index("ix_refusal_at_ms", "refusal", ["at_ms"])
    op.create_table(
        "tally", _device(), _need("key_id", sql.String(8)), _need("stored", _BIG),
        _need("bad", _BIG), _need("highest", _BIG), _need("boots", _BIG, "0"),
        _may("delay_p95_ms"),
        sql.PrimaryKeyConstraint("device", "key_id", name="pk_tally"))
    op.create_table(
        "total", _device(), _need("sessions", _BIG), _need("energy_mwh", _BIG),
        sql.PrimaryKeyConstraint("device", name="pk_total"))
    op.execute("INSERT INTO work (device, key_id, seq) SELECT device, key_id, seq FROM record "
               "ORDER BY device, key_id, seq")
    op.create_index("ix_work_device", "work", ["device"])
