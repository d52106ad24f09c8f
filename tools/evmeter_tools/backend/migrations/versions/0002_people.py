"""What people see and do: states, sessions, gaps, alarms, accounts, links, commands."""

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")


def _need(name, kind, default=None):
    return sql.Column(name, kind, server_default=default, nullable=False)


def _may(name, kind):
    return sql.Column(name, kind, nullable=True)


def upgrade():
    """Add the tables of schema 2."""
    op.execute("DROP TABLE IF EXISTS about")  # held the number of schema 1
    op.create_table(
        "account", _need("name", sql.String(64)), _need("role", sql.String(8)),
        _need("password", sql.String(200)), _need("created_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("name", name="pk_account"))
    op.create_table(
        "alarm", _need("id", _NUMBER), _need("device", sql.String(20)),
        _need("code", sql.String(32)), _need("severity", sql.String(8)), _need("text", sql.Text),
        _need("count", sql.BigInteger, "1"), _need("onset_ms", sql.BigInteger),
        _need("raised_at", sql.BigInteger), _need("changed_at", sql.BigInteger),
        _may("cleared_at", sql.BigInteger), _may("over_at", sql.BigInteger),
        _may("acked_at", sql.BigInteger), _may("acked_by", sql.String(64)),
        _need("note", sql.String(500), ""), _may("escalated_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("id", name="pk_alarm"))
    op.create_index("ix_alarm_changed_at", "alarm", ["changed_at"])
    op.create_index("ix_alarm_cleared_at", "alarm", ["cleared_at"])
    op.create_index("ix_alarm_device_code", "alarm", ["device", "code"])
    op.create_table(
        "alert", _need("id", _NUMBER), _need("device", sql.String(20)),
        _need("sid", sql.String(36)), _need("channel", sql.String(8)),
        _need("target", sql.String(320)), _need("address", sql.String(500), ""),
        _need("created_at", sql.BigInteger), sql.PrimaryKeyConstraint("id", name="pk_alert"),
        sql.UniqueConstraint("device", "sid", "channel", "target", name="uq_alert"))
    op.create_table(
        "audit", _need("id", _NUMBER), _need("at", sql.BigInteger), _need("who", sql.String(64)),
        _need("what", sql.String(32)), _need("subject", sql.String(64), ""),
        _need("detail", sql.String(500), ""), sql.PrimaryKeyConstraint("id", name="pk_audit"))
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_table(
        "charger", _need("device", sql.String(20)), _need("label", sql.String(64), ""),
        _may("site", sql.String(36)), _need("evse_id", sql.String(48), ""),
        _need("rated_w", sql.BigInteger, "0"),
        sql.PrimaryKeyConstraint("device", name="pk_charger"))
    op.create_index("ix_charger_site", "charger", ["site"])
    op.create_table(
        "command", _need("id", sql.String(36)), _need("device", sql.String(20)),
        _need("op", sql.String(32)), _need("args", sql.Text), _need("by", sql.String(64)),
        _need("created_at", sql.BigInteger), _need("expires_at", sql.BigInteger),
        _may("sent_at", sql.BigInteger), _may("answered_at", sql.BigInteger),
        _need("answer", sql.String(1000), ""), sql.PrimaryKeyConstraint("id", name="pk_command"))
    op.create_index("ix_command_sent_at", "command", ["sent_at"])
    op.create_table(
        "driver_link", _need("token_sha256", sql.String(64)), _need("device", sql.String(20)),
        _need("sid", sql.String(36), ""), _need("created_at", sql.BigInteger),
        _need("expires_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("token_sha256", name="pk_driver_link"))
    op.create_table(
        "gap", _need("device", sql.String(20)), _need("key_id", sql.String(8)),
        _need("first", sql.BigInteger), _need("last", sql.BigInteger),
        _need("missing", sql.BigInteger), _need("seen_at", sql.BigInteger),
        _may("asked_at", sql.BigInteger), _need("asked", sql.Integer, "0"),
        _may("closed_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("device", "key_id", "first", name="pk_gap"))
    op.create_index("ix_gap_closed_at", "gap", ["closed_at"])
    op.create_table(
        "login", _need("token_sha256", sql.String(64)), _need("name", sql.String(64)),
        _need("csrf", sql.String(64)), _need("created_at", sql.BigInteger),
        _need("expires_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("token_sha256", name="pk_login"))
    op.create_index("ix_login_name", "login", ["name"])
    op.create_table(
        "outbox", _need("id", _NUMBER), _need("once", sql.String(200)),
        _need("channel", sql.String(8)), _need("target", sql.String(320)),
        _need("subject", sql.String(200)), _need("body", sql.Text),
        _need("created_at", sql.BigInteger), _need("next_at", sql.BigInteger),
        _need("attempts", sql.Integer, "0"), _may("sent_at", sql.BigInteger),
        _need("error", sql.String(200), ""), sql.PrimaryKeyConstraint("id", name="pk_outbox"),
        sql.UniqueConstraint("once", name="uq_outbox_once"))
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.create_table(
        "sample", _need("device", sql.String(20)), _need("at_ms", sql.BigInteger),
        _need("sid", sql.String(36)), _need("power_mw", sql.BigInteger),
        _may("session_mwh", sql.BigInteger),
        sql.PrimaryKeyConstraint("device", "at_ms", name="pk_sample"))
    op.create_index("ix_sample_at_ms", "sample", ["at_ms"])
    op.create_table(
        "session", _need("device", sql.String(20)), _need("sid", sql.String(36)),
        _need("key_id", sql.String(8)), _need("state", sql.String(8)),
        _need("begin_ms", sql.BigInteger), _need("begin_mwh", sql.BigInteger),
        _may("end_ms", sql.BigInteger), _may("energy_mwh", sql.BigInteger),
        _need("gap_mwh", sql.BigInteger, "0"), _may("billable", sql.Boolean),
        _need("ok", sql.Boolean), _need("tx", sql.String(1), ""),
        _need("changed_at", sql.BigInteger),
        sql.PrimaryKeyConstraint("device", "sid", name="pk_session"))
    op.create_index("ix_session_begin_ms", "session", ["begin_ms"])
    op.create_index("ix_session_changed_at", "session", ["changed_at"])
    op.create_index("ix_session_device_begin_ms", "session", ["device", "begin_ms"])
    op.create_table(
        "site", _need("id", sql.String(36)), _need("name", sql.String(255), ""),
        _need("address", sql.String(45), ""), _need("city", sql.String(45), ""),
        _need("country", sql.String(3), ""), _need("latitude", sql.String(10), ""),
        _need("longitude", sql.String(11), ""), _need("time_zone", sql.String(255), "UTC"),
        _need("limit_w", sql.BigInteger, "0"), sql.PrimaryKeyConstraint("id", name="pk_site"))
    op.create_table(
        "state", _need("device", sql.String(20)), _need("online", sql.Boolean),
        _need("state", sql.String(16)), _need("since_at", sql.BigInteger),
        _need("cp", sql.String(2), ""), _need("sid", sql.String(36), ""),
        _may("power_mw", sql.BigInteger), _may("session_mwh", sql.BigInteger),
        _may("register_mwh", sql.BigInteger), _need("progress", sql.String(24), ""),
        _need("unsent", sql.BigInteger, "0"), _need("heard_at", sql.BigInteger),
        _need("changed_at", sql.BigInteger), sql.PrimaryKeyConstraint("device", name="pk_state"))
    op.create_index("ix_state_changed_at", "state", ["changed_at"])
    op.create_index("ix_state_state", "state", ["state"])
    op.create_table(
        "status_span", _need("id", _NUMBER), _need("device", sql.String(20)),
        _need("state", sql.String(16)), _need("from_ms", sql.BigInteger),
        _may("to_ms", sql.BigInteger), sql.PrimaryKeyConstraint("id", name="pk_status_span"))
    op.create_index("ix_status_span_device_from_ms", "status_span", ["device", "from_ms"])
    op.add_column("key", _may("follows", sql.String(8)))
    op.add_column("live", _need("boot", sql.BigInteger, "0"))
    op.add_column("live", _need("n", sql.BigInteger, "0"))
    op.create_index("ix_record_received_at", "record", ["received_at"])
    op.create_index("ix_record_sid", "record", ["sid"])
