"""Keys, records, quarantine and the newest live messages."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    """Make the tables of schema 1."""
    op.create_table(
        "key", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("key_id", sql.String(8), nullable=False),
        sql.Column("spki", sql.String(200), nullable=False),
        sql.Column("enrolled_at", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("device", "key_id"))
    op.create_table(
        "record", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("key_id", sql.String(8), nullable=False),
        sql.Column("seq", sql.BigInteger, nullable=False),
        sql.Column("stream", sql.String(3), nullable=False),
        sql.Column("sid", sql.String(36), nullable=False),
        sql.Column("kind", sql.String(32), nullable=False),
        sql.Column("payload", sql.LargeBinary, nullable=False),
        sql.Column("sha256", sql.String(64), nullable=False),
        sql.Column("received_at", sql.BigInteger, nullable=False),
        sql.Column("verdict", sql.String(8), nullable=False),
        sql.Column("why", sql.Text, nullable=False),
        sql.PrimaryKeyConstraint("device", "key_id", "seq"))
    op.create_table(
        "quarantine",
        sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
        sql.Column("device", sql.String(20), nullable=False),
        sql.Column("key_id", sql.String(8), nullable=False),
        sql.Column("seq", sql.BigInteger, nullable=False),
        sql.Column("payload", sql.LargeBinary, nullable=False),
        sql.Column("sha256", sql.String(64), nullable=False),
        sql.Column("received_at", sql.BigInteger, nullable=False),
        sql.Column("why", sql.Text, nullable=False),
        sql.UniqueConstraint("device", "key_id", "seq", "sha256"))
    op.create_table(
        "live", sql.Column("device", sql.String(20), nullable=False),
        sql.Column("topic", sql.String(64), nullable=False),
        sql.Column("payload", sql.LargeBinary, nullable=False),
        sql.Column("received_at", sql.BigInteger, nullable=False),
        sql.PrimaryKeyConstraint("device", "topic"))
