"""The firmware's link over TLS on a real socket; on both interpreters.

As a program: tls_device.py HOST PORT CA-FILE NOW_S INSECURE, tries one MQTT connection, prints one
line of JSON: why it failed (or "") and the longest time that another task had to wait.
"""

import asyncio
import gc
import json
import sys
import time

# ruff: noqa: E402
gc.threshold(2048)  # before anything is compiled: that leaves a small heap in crumbs

from evmeter.uplink import tls
from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session
from evmeter.uplink.resolver import Resolver

_SETTINGS = {"user": "device", "password": "secret", "keepalive_s": 30}


def _read(path):
    with open(path) as file:
        return tls.der(file.read())


def secure_link(ca_file, now_s, insecure=False, client_file=None):
    """A Link that believes the CA in the PEM file, and shows the client's certificate, if any."""
    certificate, key = _read(client_file) if client_file else (None, None)
    return Link(Resolver(tuple),
                tls.Tls(_read(ca_file), lambda: now_s, certificate, key, insecure))


async def attempt(host, port, ca_file, now_s, insecure):
    """One connection; the figures as a dict."""
    link = secure_link(ca_file, now_s, insecure)
    session = Session(link, "demo-0001", dict(_SETTINGS, host=host, port=port), b"t/avail",
                      lambda topic, payload: None)
    longest_us = 0

    async def watch():
        nonlocal longest_us
        while True:
            begun = time.ticks_us()
            await asyncio.sleep_ms(1)
            longest_us = max(longest_us, time.ticks_diff(time.ticks_us(), begun) - 1000)

    task = asyncio.create_task(watch())
    await asyncio.sleep_ms(0)
    why = ""
    begun = time.ticks_ms()
    try:
        await session.connect()
    except OSError as error:
        why = str(error)
    took_ms = time.ticks_diff(time.ticks_ms(), begun)
    session.close()
    task.cancel()
    return {"why": why, "ms": took_ms, "longest_us": longest_us, "insecure": link.insecure}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(attempt(sys.argv[1], int(sys.argv[2]), sys.argv[3],
                                         int(sys.argv[4]), sys.argv[5] == "1"))))
