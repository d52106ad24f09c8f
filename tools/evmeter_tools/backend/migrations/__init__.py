"""Brings a database to the state that `tables.py` describes; run by alembic."""

import contextlib
import fcntl
from pathlib import Path

import sqlalchemy as sql

HEAD = "0005"
_KNOWN = (None, "0001", "0002", "0003", "0004", HEAD)
FIRST = "0001"  # made without alembic
_VERSIONS = "alembic_version"
_LOCK = 0x65766D01  # PostgreSQL's advisory lock: of several replicas one migrates


@contextlib.contextmanager
def _alone(engine):
    """Of several processes that open one SQLite file, one migrates: its DDL commits by itself."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or path == ":memory:":
        yield
        return
    lock = Path(path + ".migration")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)


def upgrade(engine):
    """Migrate to the newest schema; returns the revision found, None where there was none."""
    with _alone(engine):
        return _upgrade(engine)


def _upgrade(engine):
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        found = current(connection)
        if found == FIRST and not sql.inspect(connection).has_table(_VERSIONS):
            command.stamp(config, FIRST)
        command.upgrade(config, "head")
        return found


def is_known(revision):
    """Whether a database of this revision can be brought up to date."""
    return revision in _KNOWN


def current(connection):
    """The schema that a database has: a revision, or None for an empty one."""
    known = sql.inspect(connection)
    if known.has_table(_VERSIONS):
        return connection.execute(sql.select(
            sql.column("version_num")).select_from(sql.table(_VERSIONS))).scalar()
    return FIRST if known.has_table("record") else None
