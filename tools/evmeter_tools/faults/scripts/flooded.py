# The firmware as main.py starts it: flooded.py [SLOW_MS]; prints one line of JSON at each reading
# of the meter: how many there were, the longest time between two of them and between two windows
# of the pilot since the line before, and how many messages have come. With SLOW_MS each message
# holds everything up for so long.
import json
import sys
import time

import board
from evmeter.app import App

app = App(board.build())
slow_ms = int(sys.argv[1]) if len(sys.argv) > 1 else 0
found = {"readings": 0, "messages": 0, "reading_ms": 0, "window_ms": 0}
last = {}
on_reading, window = app.poll.on_reading, app.keeper.window
take = app.uplink._session._on_message


def gap(name):
    now = time.ticks_ms()
    found[name] = max(found[name], time.ticks_diff(now, last.get(name, now)))
    last[name] = now


def reading(one):
    gap("reading_ms")
    found["readings"] += 1
    print(json.dumps(found))
    found["reading_ms"] = found["window_ms"] = 0
    on_reading(one)


def looked(*levels):
    gap("window_ms")
    window(*levels)


def taken(topic, payload):
    found["messages"] += 1
    if slow_ms:
        time.sleep_ms(slow_ms)
    take(topic, payload)


app.poll.on_reading, app.keeper.window = reading, looked
app.uplink._session._on_message = taken
app.run()
