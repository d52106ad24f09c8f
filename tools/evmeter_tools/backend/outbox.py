"""Sends what is in the outbox: e-mail, webhook, ntfy. Each note is tried for a day."""

import email.message
import http.client
import json
import logging
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import sqlalchemy as sql

from evmeter_tools.backend import notices
from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import alarms, outbox
from evmeter_tools.errors import UserError
from evmeter_tools.words import clean

log = logging.getLogger("evmeter.outbox")

CHANNELS = ("email", "webhook", "ntfy")
_TIMEOUT_S = 10
_FIRST_PAUSE_MS = 5_000
_LONGEST_PAUSE_MS = 3_600_000
_GIVE_UP_MS = 86_400_000
_AT_ONCE = 20
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Channels:
    """How people are told. `operators` and `escalation` are (channel, target) pairs: told at
    once of a critical alarm, and where nobody acknowledged it within `escalate_after_s`."""

    smtp: str = ""  # host:port; "" for no e-mail
    smtp_user: str = ""
    smtp_password: str = ""
    smtp_starttls: bool = False
    sender: str = "evmeter@localhost"
    ntfy: str = ""  # URL of the ntfy server; "" for none
    operators: tuple = field(default=())
    escalation: tuple = field(default=())
    escalate_after_s: int = 300

    def check(self):
        """The channels themselves. Raises UserError where they could tell nobody."""
        host, _, port = self.smtp.rpartition(":")
        if self.smtp and not (host and port.isascii() and port.isdigit()
                              and 0 < int(port) < 65536):
            raise UserError("--smtp %s: give it as host:port" % self.smtp)
        if self.ntfy and not self.ntfy.startswith(_WEB):
            raise UserError("--ntfy %s: give the server's address, with https://" % self.ntfy)
        for channel, target in (*self.operators, *self.escalation):
            if channel == "webhook":
                if not target.startswith(_WEB):
                    raise UserError("webhook:%s: give an address with https://" % target)
            elif channel not in self.usable():
                raise UserError("%s:%s needs --%s, the server that sends it"
                                % (channel, target, "smtp" if channel == "email" else "ntfy"))
        return self

    def usable(self):
        """The channels that a driver may choose: never a URL of his own, which the backend would
        have to call."""
        return [name for name, there in (("email", self.smtp), ("ntfy", self.ntfy)) if there]


def pair(text):
    """CHANNEL:TARGET as a pair. Raises UserError."""
    channel, _, target = text.partition(":")
    if channel not in CHANNELS or not target:
        raise UserError("%s: give CHANNEL:TARGET, with one of %s" % (text, ", ".join(CHANNELS)))
    return channel, target


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        """A target is what was configured, not what it points to."""
        return


_opener = urllib.request.build_opener(_NoRedirect)


def _post(url, body, headers):
    if not url.startswith(_WEB):
        raise OSError("no http or https address")
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked
    with _opener.open(request, timeout=_TIMEOUT_S) as answer:
        answer.read(1024)


class Outbox:
    """Sends; one caller at a time."""

    def __init__(self, store, channels):
        self._store = store
        self._channels = channels

    def round(self):
        """Send what is due; returns how many notes were sent."""
        at = now_ms()
        with self._store.engine.connect() as connection:
            due = connection.execute(sql.select(outbox).where(
                outbox.c.sent_at.is_(None), outbox.c.next_at <= at).order_by(
                    outbox.c.next_at).limit(_AT_ONCE)).all()
        sent = 0
        for note in due:
            error = self._send(note)
            sent += not error
            self._done(note, error)
        return sent

    def _send(self, note):
        """Returns "" or why it was not sent."""
        try:
            if note.channel == "email":
                self._email(note)
            elif note.channel == "ntfy":
                if not self._channels.ntfy:
                    raise OSError("no ntfy server is configured")
                _post("%s/%s" % (self._channels.ntfy.rstrip("/"), note.target),
                      note.body.encode(), {"Title": note.subject})
            else:
                _post(note.target, json.dumps({
                    "subject": note.subject, "text": note.body, "id": note.once,
                    "ts": note.created_at // 1000}).encode(),
                    {"Content-Type": "application/json"})
        except (OSError, ValueError, smtplib.SMTPException,
                http.client.HTTPException) as error:
            return str(error)[:200] or type(error).__name__
        return ""

    def _email(self, note):
        channels = self._channels
        host, _, port = channels.smtp.rpartition(":")
        if not host:
            raise OSError("no mail server is configured")
        message = email.message.EmailMessage()
        message["Subject"], message["From"] = note.subject, channels.sender
        message["To"] = note.target
        message.set_content(note.body)
        with smtplib.SMTP(host, int(port), timeout=_TIMEOUT_S) as server:
            if channels.smtp_starttls:
                server.starttls(context=ssl.create_default_context())
            if channels.smtp_user:
                server.login(channels.smtp_user, channels.smtp_password)
            server.send_message(message)

    def _done(self, note, error):
        at = now_ms()
        values = {"attempts": note.attempts + 1, "error": error, "sent_at": at}
        if error and at - note.created_at < _GIVE_UP_MS:
            pause_ms = min(_FIRST_PAUSE_MS << min(note.attempts, 10), _LONGEST_PAUSE_MS)
            values.update(sent_at=None, next_at=at + pause_ms)
        if error and (not note.attempts or values["sent_at"]):
            log.warning("%s not sent, %s: %s: %s", note.channel,
                        "given up" if values["sent_at"] else "tried again", clean(note.subject),
                        clean(error))
        with self._store.engine.begin() as connection:
            connection.execute(sql.update(outbox).where(outbox.c.id == note.id).values(values))

    def escalate(self):
        """Put notes of critical alarms into the outbox: to the operators at once, and further up
        where nobody has acknowledged one in time."""
        at, channels = now_ms(), self._channels
        late_at = at - channels.escalate_after_s * 1000
        with self._store.engine.begin() as connection:
            for alarm in connection.execute(sql.select(alarms).where(
                    alarms.c.severity == notices.CRITICAL, alarms.c.cleared_at.is_(None),
                    alarms.c.acked_at.is_(None), alarms.c.escalated_at.is_(None))).all():
                for channel, target in channels.operators:
                    self._put(connection, alarm, "alarm", channel, target, at)
                if alarm.raised_at > late_at:
                    continue
                for channel, target in channels.escalation:
                    self._put(connection, alarm, "escalation", channel, target, at)
                connection.execute(sql.update(alarms).where(alarms.c.id == alarm.id).values(
                    escalated_at=at, changed_at=at))

    def _put(self, connection, alarm, what, channel, target, at):
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(alarm.onset_ms // 1000))
        subject = "%s: %s %s" % ("Not acknowledged" if what == "escalation" else "Alarm",
                                 alarm.device, alarm.code)
        notices.put(self._store, connection, "%s/%d/%s/%s" % (what, alarm.id, channel, target),
                    channel, target, subject, "%s\nsince %s" % (alarm.text, when), at)
