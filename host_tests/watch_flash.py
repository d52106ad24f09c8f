# The firmware as main.py starts it; tells when flash or the second store was written between a
# Modbus request and its reply, how often they were written at all, and which stores are loaded.
import sys

import board
import host_flash
import host_nvs
from evmeter.app import App

asked = [False]
writes = [0]


def sent(*request):
    asked[0] = True
    return send(*request)


def received(*request):
    wait_ms = receive(*request)
    if wait_ms <= 0:
        asked[0] = False
    return wait_ms


def watched(kind, name):
    write = getattr(kind, name)

    def writing(self, *arguments):
        if asked[0]:
            print("WRITTEN before the reply: %s" % name)
        writes[0] += 1
        if writes[0] % 5 == 0:
            print("written %d times" % writes[0])
        return write(self, *arguments)

    setattr(kind, name, writing)


watched(host_flash.FlashFile, "writeblocks")
watched(host_flash.FlashFile, "erase")
watched(host_nvs.NvsFile, "commit")
app = App(board.build())  # littlefs binds the device's methods when it is mounted
bus = app.poll._meter.bus
send, receive = bus._send, bus._receive
bus._send, bus._receive = sent, received
for module in ("ring", "sectors", "small_files", "segments", "foreign"):
    if "evmeter.ledger." + module in sys.modules:
        print("loaded: " + module)
app.run()
