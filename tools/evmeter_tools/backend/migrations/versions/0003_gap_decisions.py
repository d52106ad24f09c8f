"""What operators decided on energy that flowed while a device was off."""

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    """Add the table, and the index by which such sessions are found."""
    op.create_table(
        "gap_decision", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("sid", sql.String(36), nullable=False),
        sql.Column("gap_mwh", sql.BigInteger, nullable=False),
        sql.Column("decision", sql.String(16), nullable=False),
        sql.Column("by", sql.String(64), nullable=False),
        sql.Column("at", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("device", "sid", name="pk_gap_decision"))
    op.create_index("ix_session_gap_mwh", "session", ["gap_mwh"])
