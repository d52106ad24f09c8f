"""What the backend keeps of devices' records, in SQLite or PostgreSQL.

A record's message is kept byte for byte. A number is stored once for (device, key); the same
content again changes nothing, other content goes to quarantine.
"""

import contextlib
import hashlib
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from itertools import chain

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from evmeter_tools.backend import migrations, notices
from evmeter_tools.backend.tables import keys, quarantine, records, sessions, works
from evmeter_tools.errors import UserError

STORED = "stored"
REPEATED = "repeated"
CONFLICT = "conflict"
CONFLICT_WHY = "another content under a stored number"
_NUMBER = ("device", "key_id", "seq")
_NEW = " ON CONFLICT DO NOTHING RETURNING device, key_id, seq"
_RECORD = (*_NUMBER, "stream", "sid", "kind", "payload", "sha256", "received_at",
           "verdict", "why")
# SQLite's reasons that pass by themselves, or once somebody has made room
_AWAY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN",
         "SQLITE_READONLY")
_ROWS = 500  # in one statement: databases bound its parameters
_BEGIN = ("device", "sid", "key_id", "changed_at", "ok", "state", "begin_ms", "begin_mwh")
# what a record says of its session, by the state that it leaves it in
_SESSION = {"open": _BEGIN, "complete": (*_BEGIN, "end_ms", "energy_mwh", "gap_mwh", "billable",
                                         "tx")}


@dataclass
class Entry:
    """One durable message as it came: who, which number, what. `facts` is what its signed content
    says (messages.read): of a session, or of a new key."""

    device: str
    key_id: str
    seq: int
    stream: str
    sid: str
    kind: str
    payload: bytes
    verdict: str = "ok"
    why: str = ""
    facts: dict = field(default_factory=dict, compare=False)

    @property
    def sha256(self):
        """Hash of the message's bytes, hex."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def number(self):
        """What it is known by."""
        return self.device, self.key_id, self.seq


def now_ms():
    """Unix time in ms."""
    return time.time_ns() // 1_000_000


def is_away(error):
    """Whether an error says that the database is away, busy or full: then the same
    statement may do later."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", None)
    if name is not None:
        return name.startswith(_AWAY)
    return (isinstance(error, (sql.exc.OperationalError, sql.exc.InterfaceError,
                               sql.exc.TimeoutError))
            or getattr(error, "connection_invalidated", False))


def database_url(text):
    """The SQLAlchemy URL of `--db`: a URL, or the path of an SQLite file."""
    if "://" not in str(text):
        return "sqlite:///%s" % text
    scheme, _, rest = text.partition("://")
    return ("postgresql+pg8000" if scheme in ("postgresql", "postgres") else scheme) + "://" + rest


def _durable(connection, _record):
    """SQLite: readers do not wait for the writer, and a commit means that it is on disk."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON",
                   "busy_timeout=10000"):
        cursor.execute("PRAGMA " + pragma)
    cursor.close()


class _Turns:
    """Lets the writers of a process take turns. SQLite has one writer at a time, and whoever
    waits for it there tries again now and then, which another one that comes back at once wins."""

    def __init__(self):
        self._gate, self._turn = threading.Lock(), threading.Lock()

    def __enter__(self):
        with self._gate:  # whoever waits for the turn holds it, and is the next
            self._turn.acquire()

    def __exit__(self, *_):
        self._turn.release()


class Store:
    """An open database; `url` is a path of SQLite or a URL. Raises UserError where it cannot be
    used."""

    def __init__(self, url):
        self.url = database_url(url)
        self.pressed_at = 0.0  # when a collector of this process last left messages (monotonic)
        self.stuck = {}  # device -> ids of its notes in `work` that failed in this process
        try:
            self.engine = sql.create_engine(self.url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                sql.event.listen(self.engine, "connect", _durable)
            self.is_sqlite = self.engine.dialect.name == "sqlite"
            self.turn = _Turns() if self.is_sqlite else contextlib.nullcontext()
            self._prepare()
            self._migrate()
        except sql.exc.SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise UserError("the database %s cannot be used: %s" % (shown(url), reason)) from None
        except (OSError, ImportError, TypeError) as error:  # TypeError: a URL without a user
            raise UserError("the database %s cannot be used: %s" % (shown(url), error)) from None

    def _prepare(self):
        """Statements that are the same for every batch."""
        self.insert = (sqlite if self.is_sqlite else postgresql).insert
        # past SQLAlchemy's treatment of each value, which takes longer than the database
        self._insert_records = self._rows_statement(records.name, _RECORD)
        self._insert_works = self._rows_statement(works.name, _NUMBER)
        self._session_of = {state: self._session_statement(state, columns)
                            for state, columns in _SESSION.items()}

    def _rows_statement(self, table, names):
        """(begin, one row) of a statement that inserts rows."""
        row = "(%s)" % ", ".join(["?" if self.is_sqlite else "%s"] * len(names))
        return "INSERT INTO %s (%s) VALUES " % (table, ", ".join(names)), row  # noqa: S608

    def _migrate(self):
        with self.engine.connect() as connection:
            found = migrations.current(connection)
        if found == migrations.HEAD:
            return
        if not migrations.is_known(found):
            raise UserError("the database has schema %s; this version knows up to %s"
                            % (found, migrations.HEAD))
        if migrations.upgrade(self.engine) == migrations.FIRST:
            self._derive_all()

    def _derive_all(self):
        """Make the rows that follow from the records, in a database that had none."""
        from evmeter_tools.backend.messages import read

        trusted = self.trusted()
        query = sql.select(records).where(records.c.stream.in_(("rec", "log"))).order_by(
            records.c.device, records.c.key_id, records.c.seq)
        with self.engine.connect() as reading, self.engine.begin() as connection:
            for rows in reading.execute(query).partitions(500):
                self._derive(connection, [read(row.device, row.stream, row.payload, trusted)
                                          for row in rows])

    def close(self):
        """Let go of the database."""
        self.engine.dispose()

    # -- keys --

    def enrol(self, device, key_id, spki):
        """Trust `spki` for `device`. Raises UserError where another key has the same id."""
        with self.engine.begin() as connection:
            self._enrol(connection, device, key_id, spki, None)

    def _enrol(self, connection, device, key_id, spki, follows):
        held = connection.execute(sql.select(keys.c.spki).where(
            keys.c.device == device, keys.c.key_id == key_id)).scalar()
        if held is None:
            connection.execute(self.insert(keys).values(
                device=device, key_id=key_id, spki=spki, enrolled_at=now_ms(),
                follows=follows).on_conflict_do_nothing())
        elif held != spki:
            raise UserError("%s has another key with the id %s" % (device, key_id))

    def trusted(self):
        """{(device, key id): SPKI hex} of every enrolled key."""
        with self.engine.connect() as connection:
            rows = connection.execute(sql.select(keys.c.device, keys.c.key_id, keys.c.spki))
            return {(row.device, row.key_id): row.spki for row in rows}

    def lines(self):
        """{(device, key id): key ids that count on one line}: a key that took over by a signed
        change goes on with the numbers of the one before."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sql.select(keys.c.device, keys.c.key_id, keys.c.follows)).all()
        before = {(row.device, row.key_id): row.follows for row in rows}
        groups = {}
        for device, key_id in before:
            first, seen = key_id, {key_id}
            while before.get((device, first)) and before[device, first] not in seen:
                first = before[device, first]
                seen.add(first)
            groups.setdefault((device, first), []).append(key_id)
        return {(device, key_id): tuple(sorted(group))
                for (device, _), group in groups.items() for key_id in group}

    # -- records --

    def add(self, entries):
        """Commit a batch; returns what became of each: STORED, REPEATED or CONFLICT.

        When it returns, all of it is on disk; when it raises, none of it is.
        """
        if not entries:
            return []
        first = {}
        for entry in entries:
            first.setdefault(entry.number, entry)
        at = now_ms()
        with self.turn, self.engine.begin() as connection:
            fresh = self._insert(connection, first, at)
            if len(fresh) == len(entries):
                self._follow(connection, entries, at)
                return [STORED] * len(entries)
            held = self._held(connection, [number for number in first if number not in fresh])
            fates = []
            for entry in entries:
                number = entry.number
                if number in fresh and first[number] is entry:
                    fates.append(STORED)
                    continue
                known = held.get(number) or first[number].sha256
                fates.append(REPEATED if known == entry.sha256 else CONFLICT)
            self._follow(connection, [first[number] for number in first if number in fresh], at)
            self._set_aside(connection, entries, fates, at)
        return fates

    def _follow(self, connection, stored, at):
        """What comes of entries that were just stored."""
        begin, row = self._insert_works
        numbers = sorted(entry.number for entry in stored)
        for first in range(0, len(numbers), _ROWS):
            part = numbers[first:first + _ROWS]
            connection.exec_driver_sql(begin + ", ".join([row] * len(part)),
                                       tuple(chain.from_iterable(part)))
        self._derive(connection, stored)
        notices.happened(self, connection, stored, at)

    def _insert(self, connection, entries, at):
        """Insert {number: entry} that is not there yet; returns the numbers that were new."""
        begin, row = self._insert_records
        # in one order everywhere: two replicas with the same messages must not wait for each other
        numbers = sorted(entries)
        found = set()
        for first in range(0, len(numbers), _ROWS):
            values = []
            for number in numbers[first:first + _ROWS]:
                entry = entries[number]
                values += (*number, entry.stream, entry.sid, entry.kind, entry.payload,
                           entry.sha256, at, entry.verdict, entry.why)
            text = begin + ", ".join([row] * (len(values) // len(_RECORD))) + _NEW
            found.update(map(tuple, connection.exec_driver_sql(text, tuple(values)).cursor))
        return found

    @staticmethod
    def _held(connection, numbers):
        """{number: hash} of what is stored under `numbers`."""
        if not numbers:
            return {}
        columns = records.c.device, records.c.key_id, records.c.seq
        found = connection.execute(sql.select(*columns, records.c.sha256).where(
            sql.tuple_(*columns).in_(numbers)))
        return {tuple(row[:3]): row.sha256 for row in found}

    def _set_aside(self, connection, entries, fates, at):
        for entry, fate in zip(entries, fates, strict=True):
            if fate != CONFLICT:
                continue
            connection.execute(
                self.insert(quarantine)
                .values(device=entry.device, key_id=entry.key_id, seq=entry.seq,
                        payload=entry.payload, sha256=entry.sha256, received_at=at,
                        why=CONFLICT_WHY)
                .on_conflict_do_nothing())
            notices.conflict(connection, entry, at)

    def _derive(self, connection, entries):
        """What follows from records just stored: a session's row, a new key."""
        waiting = {state: {} for state in _SESSION}
        at = now_ms()
        for entry in entries:
            facts = entry.facts
            if "new_key" in facts:
                self._enrol(connection, entry.device, *facts["new_key"], entry.key_id)
            if entry.stream == "rec" and entry.verdict != "ok":
                self._write_sessions(connection, waiting)  # it counts for what came before it
                connection.execute(sql.update(sessions).where(
                    sessions.c.device == entry.device, sessions.c.sid == entry.sid).values(
                        ok=False, changed_at=at))
            elif "begin_ms" in facts:
                begin = entry.device, entry.sid, facts["begin_ms"], facts["begin_mwh"]
                row = {"device": entry.device, "sid": entry.sid, "key_id": entry.key_id,
                       "changed_at": at, "ok": True, **facts}
                if facts["state"] == "open":
                    waiting["open"][begin] = row
                else:  # it says all that the begin of the same batch has said
                    waiting["open"].pop(begin, None)
                    waiting["complete"][begin + entry.number] = row
        self._write_sessions(connection, waiting)

    def _write_sessions(self, connection, waiting):
        """The rows of sound records, begins first: a session is the same in either order."""
        for state, rows in waiting.items():
            if rows:
                text, names = self._session_of[state]
                connection.exec_driver_sql(text, [tuple([row[name] for name in names])
                                                  for row in rows.values()])
                rows.clear()

    def _session_statement(self, state, columns):
        """(SQL, columns in the order of its values) that make or amend a session's row."""
        statement = self.insert(sessions)
        new = statement.excluded
        # both records must begin alike; a second complete one is no sound one
        agrees = sql.and_(sessions.c.ok, *(
            sessions.c[name] == new[name] for name in ("begin_ms", "begin_mwh")))
        update = {"ok": agrees, "changed_at": new.changed_at}
        if state == "complete":
            update = {name: new[name] for name in columns if name not in ("device", "sid")}
            update["ok"] = sql.and_(agrees, sessions.c.state != sql.literal_column("'complete'"))
        made = statement.on_conflict_do_update(
            index_elements=[sessions.c.device, sessions.c.sid], set_=update).compile(
                dialect=self.engine.dialect, column_keys=columns)
        return str(made), made.positiontup

    def contiguous(self, device, key_ids, above=0):
        """The highest number up to which every number after `above` is stored under `key_ids` (a
        key id, or several that count on one line)."""
        key_ids = (key_ids,) if isinstance(key_ids, str) else key_ids
        query = sql.select(records.c.seq).where(
            records.c.device == device, records.c.key_id.in_(key_ids), records.c.seq > above)
        with self.engine.connect() as connection:
            found = connection.execution_options(yield_per=500).execute(
                query.order_by(records.c.seq))
            for seq in found.scalars():
                if seq > above + 1:
                    break
                above = seq
        return above

    def reached(self, lines):
        """{(device, key ids): (contiguous(..) of it, its highest number)} of several lines."""
        counted = sql.select(
            records.c.device, records.c.key_id, sql.func.count().label("count"),
            sql.func.max(records.c.seq).label("last")).where(
                records.c.device.in_({device for device, _ in lines})).group_by(
                    records.c.device, records.c.key_id)
        with self.engine.connect() as connection:
            held = {(row.device, row.key_id): row for row in connection.execute(counted)}
        found = {}
        for device, key_ids in lines:
            parts = [held[device, key] for key in key_ids if (device, key) in held]
            last = max((part.last for part in parts), default=0)
            # numbers begin at 1: so many up to the last one leave no room for a gap
            whole = len(parts) <= 1 and sum(part.count for part in parts) == last
            found[device, key_ids] = (last if whole else self.contiguous(device, key_ids), last)
        return found

    def rows(self, device=None, stream=None, sid=None):
        """Stored records in the order of their numbers."""
        query = sql.select(records).order_by(records.c.device, records.c.key_id, records.c.seq)
        for column, wanted in ((records.c.device, device), (records.c.stream, stream),
                               (records.c.sid, sid)):
            if wanted is not None:
                query = query.where(column == wanted)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def quarantined(self):
        """What was put aside."""
        with self.engine.connect() as connection:
            return connection.execute(sql.select(quarantine)).all()

    # -- copies --

    def backup(self, path):
        """Copy an SQLite database that may be in use, whole, to `path`. Raises UserError."""
        if not self.is_sqlite:
            raise UserError("back up PostgreSQL by pg_dump -Fc, restore by pg_restore")
        try:
            with contextlib.closing(sqlite3.connect(path)) as target, \
                    self.engine.connect() as connection:
                connection.connection.driver_connection.backup(target)
                fault = target.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:  # no such folder, no right to write there, no room
            raise UserError("no copy at %s: %s" % (path, error)) from None
        if fault != "ok":
            raise UserError("the copy %s is not sound: %s" % (path, fault))


def shown(url):
    """A database's name without the password in it."""
    text = str(url)
    scheme, mark, rest = text.partition("://")
    who, at, where = rest.rpartition("@")
    return text if not (mark and at) else "%s://%s@%s" % (scheme, who.partition(":")[0], where)
