"""What operators exclude from the outages that count against a charger's up-time."""

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade():
    """Add the table."""
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
