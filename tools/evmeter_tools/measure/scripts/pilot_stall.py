# The firmware as main.py starts it; prints the time between two pilot windows in ms: the usual one
# and each new longest one, once the first 40 are over.
import gc
import time

import board
from evmeter.app import App

gc.threshold(4096)
app = App(board.build())
window = app.keeper.window
gaps = [0] * 40
state = [0, 0, 0]  # windows, ticks of the newest, longest gap


def timed(*levels):
    now_us = time.ticks_us()
    count = state[0] = state[0] + 1
    gap_us = time.ticks_diff(now_us, state[1])
    state[1] = now_us
    if count <= len(gaps):
        gaps[count - 1] = gap_us
        if count == len(gaps):
            print("usual %d" % (sorted(gaps)[len(gaps) // 2] // 1000))
    elif gap_us > state[2]:
        state[2] = gap_us
        print("longest %d after %d windows" % (gap_us // 1000, count))
    window(*levels)


app.keeper.window = timed
app.run()
