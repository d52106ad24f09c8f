"""What has changed, for the pages that are open: one thread asks the database for all of them."""

import asyncio
import json
import logging
import threading

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from evmeter_tools.backend.store import now_ms
from evmeter_tools.backend.tables import alarms, sessions, states

log = logging.getLogger("evmeter.feed")

_EVERY_S = 0.5
_BACK_MS = 3000  # a commit may be seen later than the instant written in it
_ALIVE_S = 15
MOST_READERS = 1000


class Feed:
    """`subscribe` gives a queue of sets of what changed: ("charger", device), ("alarm", device),
    ("session", device)."""

    def __init__(self, store):
        self._store = store
        self._readers = {}  # queue -> its event loop
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._seen = {}
        self._thread = None

    def start(self):
        """Begin to ask."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def stop(self):
        """End it, and every stream that is open."""
        self._stopping.set()
        self._tell(None)
        if self._thread:
            self._thread.join()

    def subscribe(self):
        """A queue for this event loop, None where there are too many readers."""
        with self._lock:
            if len(self._readers) >= MOST_READERS or self._stopping.is_set():
                return None
            queue = asyncio.Queue(100)
            self._readers[queue] = asyncio.get_running_loop()
            return queue

    def leave(self, queue):
        """The reader has gone."""
        with self._lock:
            self._readers.pop(queue, None)

    def _run(self):
        since = now_ms()
        while not self._stopping.wait(_EVERY_S):
            at = now_ms()
            try:
                changed = self._changes(since - _BACK_MS)
            except SQLAlchemyError as error:
                log.error("%s", str(error).splitlines()[0])
                continue
            since = at
            if changed:
                self._tell(changed)

    def _changes(self, since):
        """What changed at or after `since` and was not told yet."""
        found = set()
        with self._store.engine.connect() as connection:
            for what, table in (("charger", states), ("alarm", alarms), ("session", sessions)):
                for device, changed_at in connection.execute(sql.select(
                        table.c.device, sql.func.max(table.c.changed_at)).where(
                            table.c.changed_at >= since).group_by(table.c.device)):
                    if self._seen.get((what, device)) != changed_at:
                        self._seen[what, device] = changed_at
                        found.add((what, device))
        return found

    def _tell(self, changed):
        with self._lock:
            for queue, loop in list(self._readers.items()):
                try:
                    loop.call_soon_threadsafe(_put, queue, changed)
                except RuntimeError:  # that loop has ended
                    self._readers.pop(queue)


def _put(queue, changed):
    if queue.full():  # a reader that does not keep up asks for everything anew
        queue.get_nowait()
    queue.put_nowait(changed)


async def stream(feed, message):
    """Server-sent events: `message(changed)` gives a dict to send, None for nothing; `changed`
    is None at the beginning."""
    queue = feed.subscribe()
    if queue is None:
        yield "event: full\ndata: {}\n\n"
        return
    try:
        changed = None
        while True:
            body = await asyncio.to_thread(message, changed)
            if body is not None:
                yield "data: %s\n\n" % json.dumps(body)
            try:
                changed = await asyncio.wait_for(queue.get(), _ALIVE_S)
            except TimeoutError:
                yield ": alive\n\n"
                changed = set()
                continue
            if changed is None:
                return
    finally:
        feed.leave(queue)
