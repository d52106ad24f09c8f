"""Who may see and do what: accounts with a role, log-ins, links for drivers.

Passwords are kept as argon2id. Of a log-in and of a link the database has only a hash: a copy of
it lets nobody in.
"""

import base64
import hashlib
import secrets
import threading
import time

import sqlalchemy as sql
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import accounts, audit, links, logins
from evmeter_tools.errors import UserError

VIEWER = "viewer"
OPERATOR = "operator"
ROLES = (VIEWER, OPERATOR)
_LOGIN_MS = 12 * 3_600_000
_LINK_MS = 90 * 86_400_000
_LEAST_PASSWORD = 10
_MOST_PASSWORD = 200
_MOST_NAME = 64
_FAILURES = 5
_PAUSE_S = 30
_MOST_COUNTED = 10_000
_hasher = PasswordHasher(time_cost=2, memory_cost=32 * 1024, parallelism=1)
_hashing = threading.Semaphore(2)  # each takes 32 MiB
_NOBODY = _hasher.hash("nobody has this password")


class Busy(Exception):
    """Too many wrong passwords; the text says how long to wait."""


def _hash(token):
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def note(connection, who, what, subject="", detail=""):
    """Write what somebody did into the audit log."""
    connection.execute(sql.insert(audit).values(
        at=now_ms(), who=who[:64], what=what[:32], subject=subject[:64], detail=detail[:500]))


def set_account(store, name, role, password):
    """Make an account or change it; its log-ins end. Raises UserError."""
    if not (0 < len(name) <= _MOST_NAME and name.isascii() and name.isprintable()
            and name.strip() == name):
        raise UserError("the name must have 1 to %d printable ASCII characters" % _MOST_NAME)
    if role not in ROLES:
        raise UserError("role %s: allowed: %s" % (role, ", ".join(ROLES)))
    if not _LEAST_PASSWORD <= len(password) <= _MOST_PASSWORD:
        raise UserError("the password must have %d to %d characters"
                        % (_LEAST_PASSWORD, _MOST_PASSWORD))
    with _hashing:
        hashed = _hasher.hash(password)
    values = {"role": role, "password": hashed}
    with store.engine.begin() as connection:
        connection.execute(store.insert(accounts).values(
            name=name, created_at=now_ms(), **values).on_conflict_do_update(
                index_elements=[accounts.c.name], set_=values))
        connection.execute(sql.delete(logins).where(logins.c.name == name))
        note(connection, "command line", "account", name, role)


def remove_account(store, name):
    """Take an account away; returns whether there was one."""
    with store.engine.begin() as connection:
        connection.execute(sql.delete(logins).where(logins.c.name == name))
        note(connection, "command line", "account removed", name)
        return connection.execute(sql.delete(accounts).where(
            accounts.c.name == name)).rowcount > 0


def account_names(store):
    """[(name, role)] of all accounts."""
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(
            sql.select(accounts.c.name, accounts.c.role).order_by(accounts.c.name))]


class Access:
    """Log-ins and links over a Store."""

    def __init__(self, store):
        self._store = store
        self._failures = {}  # (name, address) -> (how many, last)
        self._lock = threading.Lock()

    # -- people with an account --

    def _check_rate(self, key):
        with self._lock:
            count, last = self._failures.get(key, (0, 0))
            wait_s = last + _PAUSE_S - time.monotonic()
            if count >= _FAILURES and wait_s > 0:
                raise Busy("too many wrong passwords; try again in %d s" % (wait_s + 1))

    def _failed(self, key):
        with self._lock:
            if len(self._failures) >= _MOST_COUNTED:
                self._failures.clear()
            self._failures[key] = self._failures.get(key, (0, 0))[0] + 1, time.monotonic()

    def login(self, name, password, address):
        """(token, name, role, CSRF token) of a new log-in, None where name or password is wrong.
        Raises Busy."""
        key = name[:_MOST_NAME], address
        self._check_rate(key)
        with self._store.engine.connect() as connection:
            row = connection.execute(sql.select(accounts).where(
                accounts.c.name == name)).first()
        try:
            with _hashing:  # a name that is not there takes as long as one that is
                _hasher.verify(row.password if row else _NOBODY, password[:_MOST_PASSWORD])
            good = row is not None
        except (VerificationError, InvalidHashError):
            good = False
        if not good:
            self._failed(key)
            return None
        with self._lock:
            self._failures.pop(key, None)
        token, csrf, at = secrets.token_urlsafe(32), secrets.token_urlsafe(24), now_ms()
        with self._store.engine.begin() as connection:
            connection.execute(sql.delete(logins).where(logins.c.expires_at < at))
            connection.execute(sql.insert(logins).values(
                token_sha256=_hash(token), name=name, csrf=csrf, created_at=at,
                expires_at=at + _LOGIN_MS))
            note(connection, name, "login", "", address)
        return token, name, row.role, csrf

    def who(self, token):
        """The row (name, role, csrf) of a log-in, None where there is none."""
        if not token:
            return None
        with self._store.engine.connect() as connection:
            return connection.execute(
                sql.select(logins.c.name, accounts.c.role, logins.c.csrf)
                .join(accounts, accounts.c.name == logins.c.name)
                .where(logins.c.token_sha256 == _hash(token),
                       logins.c.expires_at > now_ms())).first()

    def logout(self, token):
        """End a log-in."""
        with self._store.engine.begin() as connection:
            connection.execute(sql.delete(logins).where(logins.c.token_sha256 == _hash(token)))

    # -- drivers --

    def follow(self, token, device, sid):
        """The token of a charger's session of now, for who has the charger's own link `token`:
        always the same one."""
        digest = hashlib.sha256(("%s %s" % (token, sid)).encode()).digest()[:16]
        return self.make_link(device, sid, base64.urlsafe_b64encode(digest).decode().rstrip("="))

    def make_link(self, device, sid="", token=None):
        """A new opaque token for a session, or without one for whatever session the charger has
        when the link is opened."""
        token, at = token or secrets.token_urlsafe(16), now_ms()
        # what is fixed to a charger stays there for years
        lifetime_ms = _LINK_MS if sid else 100 * _LINK_MS
        with self._store.engine.begin() as connection:
            connection.execute(self._store.insert(links).values(
                token_sha256=_hash(token), device=device, sid=sid, created_at=at,
                expires_at=at + lifetime_ms).on_conflict_do_nothing())
        return token

    def link(self, token):
        """The row (device, sid) of a link, None where there is none that is valid."""
        with self._store.engine.connect() as connection:
            return connection.execute(sql.select(links.c.device, links.c.sid).where(
                links.c.token_sha256 == _hash(token),
                links.c.expires_at > now_ms())).first()
