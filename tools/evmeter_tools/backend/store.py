"""What the backend keeps, in SQL that SQLite and PostgreSQL both understand.

A record's message is kept byte for byte. A number is stored once for (device, key); the same
content again changes nothing, other content goes to quarantine.
"""

import hashlib
import time
from dataclasses import dataclass

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from evmeter_tools.errors import UserError

SCHEMA = 1
STORED = "stored"
REPEATED = "repeated"
CONFLICT = "conflict"

_meta = sql.MetaData()
_about = sql.Table("about", _meta, sql.Column("schema", sql.Integer, nullable=False))
keys = sql.Table(
    "key", _meta,
    sql.Column("device", sql.String(20), primary_key=True),
    sql.Column("key_id", sql.String(8), primary_key=True),
    sql.Column("spki", sql.String(200), nullable=False),
    sql.Column("enrolled_at", sql.BigInteger, nullable=False))
records = sql.Table(
    "record", _meta,
    sql.Column("device", sql.String(20), primary_key=True),
    sql.Column("key_id", sql.String(8), primary_key=True),
    sql.Column("seq", sql.BigInteger, primary_key=True),
    sql.Column("stream", sql.String(3), nullable=False),
    sql.Column("sid", sql.String(36), nullable=False),
    sql.Column("kind", sql.String(32), nullable=False),
    sql.Column("payload", sql.LargeBinary, nullable=False),
    sql.Column("sha256", sql.String(64), nullable=False),
    sql.Column("received_at", sql.BigInteger, nullable=False),
    sql.Column("verdict", sql.String(8), nullable=False),
    sql.Column("why", sql.Text, nullable=False))
quarantine = sql.Table(
    "quarantine", _meta,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("device", sql.String(20), nullable=False),
    sql.Column("key_id", sql.String(8), nullable=False),
    sql.Column("seq", sql.BigInteger, nullable=False),
    sql.Column("payload", sql.LargeBinary, nullable=False),
    sql.Column("sha256", sql.String(64), nullable=False),
    sql.Column("received_at", sql.BigInteger, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.UniqueConstraint("device", "key_id", "seq", "sha256"))
live = sql.Table(
    "live", _meta,
    sql.Column("device", sql.String(20), primary_key=True),
    sql.Column("topic", sql.String(64), primary_key=True),
    sql.Column("payload", sql.LargeBinary, nullable=False),
    sql.Column("received_at", sql.BigInteger, nullable=False))


@dataclass(frozen=True)
class Entry:
    """One durable message as it came: who, which number, what."""

    device: str
    key_id: str
    seq: int
    stream: str
    sid: str
    kind: str
    payload: bytes
    verdict: str = "ok"
    why: str = ""

    @property
    def sha256(self):
        """Hash of the message's bytes, hex."""
        return hashlib.sha256(self.payload).hexdigest()


def _now_ms():
    return time.time_ns() // 1_000_000


def _durable(connection, _record):
    """SQLite: readers do not wait for the writer, and a commit means that it is on disk."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute("PRAGMA " + pragma)
    cursor.close()


class Store:
    """The database at `url` (a path means SQLite). Raises UserError where it cannot be used."""

    def __init__(self, url):
        url = str(url)
        if "://" not in url:
            url = "sqlite:///" + url
        try:
            self._engine = sql.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _durable)
            _meta.create_all(self._engine)
            self._check_schema()
        except sql.exc.SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise UserError("the database %s cannot be used: %s" % (url, reason)) from None
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        self._insert = dialect.insert

    def _check_schema(self):
        with self._engine.begin() as connection:
            found = connection.execute(sql.select(_about.c.schema)).scalar()
            if found is None:
                connection.execute(sql.insert(_about).values(schema=SCHEMA))
            elif found != SCHEMA:
                raise UserError("the database has schema %d; this version knows %d"
                                % (found, SCHEMA))

    def close(self):
        """Let go of the database."""
        self._engine.dispose()

    def enrol(self, device, key_id, spki):
        """Trust `spki` for `device`. Raises UserError where another key has the same id."""
        with self._engine.begin() as connection:
            held = connection.execute(sql.select(keys.c.spki).where(
                keys.c.device == device, keys.c.key_id == key_id)).scalar()
            if held is None:
                connection.execute(sql.insert(keys).values(
                    device=device, key_id=key_id, spki=spki, enrolled_at=_now_ms()))
            elif held != spki:
                raise UserError("%s has another key with the id %s" % (device, key_id))

    def trusted(self):
        """{(device, key id): SPKI hex} of every enrolled key."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(keys.c.device, keys.c.key_id, keys.c.spki))
            return {(row.device, row.key_id): row.spki for row in rows}

    def add(self, entries):
        """Commit a batch; returns what became of each: STORED, REPEATED or CONFLICT.

        When it returns, all of it is on disk; when it raises, none of it is.
        """
        fates = []
        with self._engine.begin() as connection:
            for entry in entries:
                fates.append(self._add(connection, entry))
        return fates

    def _add(self, connection, entry):
        numbered = {"device": entry.device, "key_id": entry.key_id, "seq": entry.seq}
        content = {"payload": entry.payload, "sha256": entry.sha256, "received_at": _now_ms()}
        fresh = connection.execute(
            self._insert(records)
            .values(stream=entry.stream, sid=entry.sid, kind=entry.kind, verdict=entry.verdict,
                    why=entry.why, **numbered, **content)
            .on_conflict_do_nothing().returning(records.c.seq)).first()
        if fresh:
            return STORED
        held = connection.execute(sql.select(records.c.sha256).where(
            *(records.c[name] == value for name, value in numbered.items()))).scalar()
        if held == entry.sha256:
            return REPEATED
        connection.execute(
            self._insert(quarantine)
            .values(why="another content under a stored number", **numbered, **content)
            .on_conflict_do_nothing())
        return CONFLICT

    def contiguous(self, device, key_id, above=0):
        """The highest number up to which every number after `above` is stored."""
        query = sql.select(records.c.seq).where(
            records.c.device == device, records.c.key_id == key_id, records.c.seq > above)
        with self._engine.connect() as connection:
            for seq in connection.execute(query.order_by(records.c.seq)).scalars():
                if seq != above + 1:
                    break
                above = seq
        return above

    def note(self, device, topic, payload):
        """Keep the newest live message of a topic."""
        values = {"payload": payload, "received_at": _now_ms()}
        statement = self._insert(live).values(device=device, topic=topic, **values)
        statement = statement.on_conflict_do_update(
            index_elements=[live.c.device, live.c.topic], set_=values)
        with self._engine.begin() as connection:
            connection.execute(statement)

    def rows(self, device=None, stream=None):
        """Stored records in the order of their numbers."""
        query = sql.select(records).order_by(records.c.device, records.c.key_id, records.c.seq)
        if device:
            query = query.where(records.c.device == device)
        if stream:
            query = query.where(records.c.stream == stream)
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    def quarantined(self):
        """What was put aside."""
        with self._engine.connect() as connection:
            return connection.execute(sql.select(quarantine)).all()
