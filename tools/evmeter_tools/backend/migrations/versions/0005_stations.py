"""What operators exclude from outages; sums of telemetry for the stations' performance."""

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade():
    """Add the tables of schema 5."""
    op.create_table(
        "exclusion",
        sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), nullable=False),
        sql.Column("device", sql.String(20), nullable=False),
        sql.Column("from_s", sql.BigInteger, nullable=False),
        sql.Column("to_s", sql.BigInteger, nullable=False),
        sql.Column("reason", sql.String(16), nullable=False),
        sql.Column("note", sql.String(500), server_default="", nullable=False),
        sql.Column("by", sql.String(64), nullable=False),
        sql.Column("at", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("id", name="pk_exclusion"))
    op.create_index("ix_exclusion_device", "exclusion", ["device"])
    op.create_table(
        "supply", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("day", sql.Integer, nullable=False),
        sql.Column("phase", sql.Integer, nullable=False),
        sql.Column("band_a", sql.Integer, nullable=False),
        sql.Column("count", sql.BigInteger, nullable=False),
        sql.Column("voltage_mv", sql.BigInteger, nullable=False),
        sql.Column("current_ma", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("device", "day", "phase", "band_a", name="pk_supply"))
    op.create_table(
        "offer", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("day", sql.Integer, nullable=False),
        sql.Column("count", sql.BigInteger, nullable=False),
        sql.Column("power_mw", sql.BigInteger, nullable=False),
        sql.Column("offered_mw", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("device", "day", name="pk_offer"))
