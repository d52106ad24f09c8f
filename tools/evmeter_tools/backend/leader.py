"""What only one process of a backend does: follow live messages, send commands, look for gaps,
tell people. With PostgreSQL any number of replicas stand ready; whoever holds the lock does it.
"""

import contextlib
import fcntl
import json
import logging
import queue
import threading
import time

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from evmeter_tools.backend import messages, mqtt, orders
from evmeter_tools.backend.gaps import Gaps
from evmeter_tools.backend.live import SILENT, SUBSCRIPTIONS, Live
from evmeter_tools.backend.outbox import Channels, Outbox
from evmeter_tools.backend.store import is_away, now_ms
from evmeter_tools.errors import UserError
from evmeter_tools.insight.workup import work_up
from evmeter_tools.words import clean

log = logging.getLogger("evmeter.leader")

_LOCK = 0x65766D02  # PostgreSQL's advisory lock
_TRY_S = 1.0
_BATCH = 50  # records wait for it where there is one writer
_MOST_HELD = 200_000  # live messages that wait for the database
_TICK_S = 0.25
_GAPS_S = 5
_ALARMS_S = 1
_CLEAN_S = 600
_SILENT_S = 30
_SILENT_MS = 900_000  # a device sends its status every 5 minutes
_LONGEST_PAUSE_S = 2
_RUSH_S = 0.5  # without a message left behind, and it is over
_LONGEST_RUSH_S = 10
_SAMPLES_MS = 7 * 86_400_000


def _newest(batch):
    """What still matters of messages that could not be stored: the newest of each topic, each
    answer to a command; no more than there are topics, however long the database is away."""
    kept = {}
    for at, message in enumerate(batch):
        key = (*message[:2], at if message[1] == "cmd/res" else None)
        kept.pop(key, None)
        kept[key] = message
    return list(kept.values())[-_MOST_HELD:]


def host_state(online):
    """The payload that tells devices whether there is a backend."""
    return json.dumps({"v": 1, "online": online, "ts": int(time.time())})


class _Lock:
    """Held by one process at a time, for as long as it lives."""

    def __init__(self, store):
        self._store = store
        self._held = None

    def take(self):
        """Try; returns whether it is held."""
        if self._held:
            return self.holds()
        if self._store.is_sqlite:
            return self._take_file()
        connection = self._store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.execute(sql.select(sql.func.pg_try_advisory_lock(_LOCK))).scalar():
            self._held = connection
            return True
        connection.close()
        return False

    def _take_file(self):
        database = self._store.engine.url.database
        file = open((database or "/dev/null") + ".lock", "a")  # noqa: SIM115 - held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._held = file
        return True

    def holds(self):
        """Whether it is still ours: a lost connection to PostgreSQL gives it away."""
        if self._held and not self._store.is_sqlite:
            try:
                self._held.execute(sql.select(1))
            except SQLAlchemyError:
                self._held.invalidate()
                self._held = None
        return self._held is not None

    def release(self):
        """Let another one have it."""
        if self._held:
            if not self._store.is_sqlite:
                self._held.invalidate()  # ends the database's session, and with it the lock
            self._held.close()
            self._held = None


class Leader:
    """Runs in its own threads between `start` and `stop`. `gap_wait_s`: so long a gap may last
    before it is asked for. `gives_time`: a device that does not know the time is told it."""

    def __init__(self, store, address, name="leader", channels=None, gap_wait_s=60,
                 gives_time=True):
        self._gives_time = gives_time
        self._store = store
        self._address = address
        self._name = name
        self._lock = _Lock(store)
        self._live = Live(store)
        self._gaps = Gaps(store, gap_wait_s * 1000)
        self._outbox = Outbox(store, channels or Channels())
        self._queue = queue.Queue()
        self._stopping = threading.Event()
        self._client = None
        self._due = {}
        self._is_behind = False  # live messages wait for the database
        self._listens_from = None  # since when the broker's messages come, Unix ms
        self.leads = threading.Event()
        self._threads = [threading.Thread(target=target, name=target.__name__, daemon=True)
                         for target in (self._lead, self._follow, self._tell, self._work_up)]

    def start(self):
        """Take the lead where it is free, now or later."""
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Say good-bye to the devices and give the lead away."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._step_down()

    # -- the lead --

    def _lead(self):
        while not self._stopping.is_set():
            try:
                if not self._lock.take():
                    self._step_down()
                    self._stopping.wait(_TRY_S)
                    continue
                if not self._client:
                    self._connect()
                self._chores()
            except (SQLAlchemyError, UserError, OSError) as error:
                log.error("%s", str(error).splitlines()[0])
                self._stopping.wait(_TRY_S)
            except Exception:  # a defect in one chore must not end the others
                log.exception("the leader goes on")
                self._stopping.wait(_TRY_S)
            self._stopping.wait(_TICK_S)

    def _connect(self):
        client = mqtt.client(self._address, self._name)
        client.will_set(mqtt.HOST_STATE, host_state(False), 1, True)
        client.on_message = self._on_message
        mqtt.connect(client, self._address, self._on_connect)
        self._client = client
        self.leads.set()

    def _on_message(self, client, _data, message):
        self._queue.put((message.topic, message.payload, now_ms()))
        if self._gives_time and not message.retain and message.topic.endswith("/status"):
            payload = orders.time_for(message.payload)  # at once: it must not be old
            if payload:
                client.publish(message.topic.removesuffix("status") + "cmd", payload, 1)

    def _on_connect(self, client):
        self._listens_from = now_ms()
        client.subscribe([("%s+/%s" % (mqtt.ROOT, topic), 1) for topic in SUBSCRIPTIONS])
        client.publish(mqtt.HOST_STATE, host_state(True), 1, True)

    def _step_down(self):
        self.leads.clear()
        if self._client:
            with contextlib.suppress(ValueError, RuntimeError):  # there is no connection
                self._client.publish(mqtt.HOST_STATE, host_state(False), 1,
                                     True).wait_for_publish(2)
            mqtt.close(self._client)
            self._client = None
        self._lock.release()

    # -- what is done again and again --

    def _is_due(self, what, every_s):
        now = time.monotonic()
        if now < self._due.get(what, 0):
            return False
        self._due[what] = now + every_s
        return True

    def _chores(self):
        if self._client.is_connected():
            orders.send(self._store.engine, lambda device, payload: self._client.publish(
                "%s%s/cmd" % (mqtt.ROOT, device), payload, 1))
        if self._is_due("gaps", _GAPS_S):
            self._gaps.look()
        if self._is_due("alarms", _ALARMS_S):
            self._outbox.escalate()
        if self._is_due("silent", _SILENT_S) and self._client.is_connected():
            self._look_for_silent()
        if self._is_due("clean", _CLEAN_S):
            self._live.forget_samples(now_ms() - _SAMPLES_MS)

    def _look_for_silent(self):
        """A broker that died and came back has kept who was on line and cannot tell who has gone
        meanwhile: who says nothing for long has."""
        at = now_ms()
        if self._is_behind or self._listens_from is None:
            return
        if self._listens_from < at - _SILENT_MS:
            for device in self._live.silent_since(at - _SILENT_MS):
                self._queue.put(("%s%s/avail" % (mqtt.ROOT, device), SILENT, at))

    def _tell(self):
        """Mail servers and webhooks may be slow: nothing else waits for them."""
        while not self._stopping.wait(_TICK_S):
            if self.leads.is_set():
                try:
                    self._outbox.round()
                except SQLAlchemyError as error:
                    log.error("outbox: %s", str(error).splitlines()[0])
                except Exception:
                    log.exception("the outbox goes on")

    def _rushes(self):
        return time.monotonic() - self._store.pressed_at < _RUSH_S

    def _work_up(self):
        """What reports are made of follows the records: a quarter of the time at most, collecting
        comes first. In a rush it waits: a device's records cost less together."""
        waits_from = None
        while not self._stopping.wait(_TICK_S):
            begun = time.monotonic()
            late = waits_from is not None and begun - waits_from > _LONGEST_RUSH_S
            if self._rushes() and not late:
                waits_from = waits_from or begun
                continue
            waits_from = None
            if not self.leads.is_set():
                continue

            def pause(late=late):
                nonlocal begun
                stops = self._stopping.wait(min(3 * (time.monotonic() - begun), _LONGEST_PAUSE_S))
                begun = time.monotonic()
                return stops or not self.leads.is_set() or (self._rushes() and not late)

            try:
                if work_up(self._store, pause=pause) is False:  # in a rush, or one is stuck
                    self._stopping.wait(_TRY_S)
            except SQLAlchemyError as error:
                log.error("reports: %s", str(error).splitlines()[0])
                self._stopping.wait(_TRY_S)
            except Exception:  # nothing else would work anything up until the next start
                log.exception("the reports go on")
                self._stopping.wait(_TRY_S)

    # -- live messages --

    def _follow(self):
        held = []
        while not self._stopping.is_set():
            if not held and self._queue.empty():
                self._is_behind = False
            held = held or self._next_batch()
            batch = held[:_BATCH]
            if not batch:
                continue
            try:
                self._live.take(batch)
            except Exception as error:
                if self._is_away(error):
                    self._is_behind = True
                    log.error("live messages wait: %s", str(error).splitlines()[0])
                    held = _newest([*held, *self._next_batch(_MOST_HELD)])
                    self._stopping.wait(_TRY_S)
                    continue
                self._one_by_one(batch)  # one device's message must not cost the others theirs
            del held[:_BATCH]

    def _is_away(self, error):
        """Whether the database will do later, and does not now: PostgreSQL that was restarted
        has an error for each connection that it broke."""
        if not is_away(error):
            return False
        try:
            with self._store.engine.connect() as connection:
                connection.execute(sql.select(1))
        except SQLAlchemyError:
            return True
        return self._store.is_sqlite

    def _one_by_one(self, batch):
        for message in batch:
            try:
                self._live.take([message])
            except Exception:
                log.exception("%s of %s was not stored", clean(message[1])[:40], message[0])

    def _next_batch(self, most=_BATCH):
        batch = []
        with contextlib.suppress(queue.Empty):
            self._add(batch, self._queue.get(timeout=0.2))
            while len(batch) < most:
                self._add(batch, self._queue.get_nowait())
        return batch

    @staticmethod
    def _add(batch, message):
        topic, payload, at = message
        with contextlib.suppress(messages.MessageError):
            batch.append((*messages.split_topic(topic), payload, at))
