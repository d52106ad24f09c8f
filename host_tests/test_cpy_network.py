"""A sample of the campaigns with a real broker, the whole firmware or its uplink, and TLS."""

import asyncio
import contextlib
import json
import time

import pytest

from evmeter_tools.bench.tls_servers import BAD
from evmeter_tools.faults import hostile, real_broker
from evmeter_tools.faults.relay import DOWN, NEW, UP, Relay, _Packets
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.uplink_stand import Device, Stand, play


def _all_good(result, trials, controls):
    assert result.texts == []
    assert result.trials >= trials
    assert list(result.controls.values()) == [True] * controls
    assert result.good


def test_the_broker_is_killed_under_load():
    result = real_broker.killed(1500)
    _all_good(result, 1500, 1)
    assert result.counts["broker killed"] == 2
    assert result.counts["frames stored"] == 1500
    assert result.counts["acknowledgements refused"] == 0


def test_a_campaign_that_stands_still_says_what_does():
    with Stand("network-still") as stand, Device(stand, "net-still", stand.broker.port,
                                                 10 ** 6) as device:
        while not stand.highest(device.name):
            assert device.running()
            time.sleep(0.05)
        assert stand.told() == "the broker runs; the collector's threads run"
        stand.stop_collector()
        stand.broker.kill()
        play(stand, device, lambda stored: None, stall_s=1)
        assert "THE BROKER ENDED (-9); THE COLLECTOR DOES NOT RUN" in device.stalled
        told = json.loads(device.stalled.partition("the device: ")[2])
        assert not told["online"] and "ECONNREFUSED" in told["reason"]
        assert 0 < told["confirmed"] < 10 ** 6
        assert device.figures() is None
        result = Result("still")
        real_broker.judge(stand, device, result)
        assert "nothing new for 1 s after frame" in result.texts[0]


def test_faults_on_the_way_to_the_broker():
    result = real_broker.wire(40)
    _all_good(result, 40, 2)
    for kind in UP + DOWN + NEW:
        assert result.counts["fault: " + kind] >= 1, kind
    assert result.counts["pilot's longest gap, ms (it wants 50)"] >= 50


def test_a_backend_that_is_away_for_days():
    result = real_broker.outage(12, days=2)
    _all_good(result, 12, 1)
    assert result.counts["sessions complete"] == 12
    assert result.counts["connections lost"] >= 3


def test_no_bad_server_gets_a_byte_and_the_status_says_why():
    result = hostile.tls(len(BAD))
    _all_good(result, len(BAD), 1)
    assert result.counts["attempts at a bad server"] >= len(BAD)


def test_a_flood_costs_no_reading():
    result = hostile.flood(5000)
    assert result.counts["messages taken by the device"] > 500
    assert result.counts["readings of the meter"] >= 3
    assert result.controls == {"a device that each message holds up for 300 ms": True}


def test_packets_come_out_of_the_stream_whole():
    stream = b"\xc0\x00" + b"\x30\x82\x01" + b"x" * 130 + b"\x40\x02\x00\x01"
    for piece in range(1, len(stream)):
        packets = _Packets()
        found = []
        for at in range(0, len(stream), piece):
            found += packets.feed(stream[at : at + piece])
        assert found == [(b"\xc0\x00", 2), (stream[2:135], 3), (b"\x40\x02\x00\x01", 2)]


_PUBLISH = b"\x32\x0b\x00\x05t/rec\x00\x01pp"
_PUBACK = b"\x40\x02\x00\x01"


@pytest.mark.parametrize(("fault", "heard", "answers"), [
    (None, _PUBLISH, _PUBACK),
    ("half-open", _PUBLISH[:5], b""),
    ("lost after puback", b"", _PUBACK),
    ("puback lost", _PUBLISH, b""),
    ("puback doubled", _PUBLISH, 2 * _PUBACK),
    ("message doubled", 2 * _PUBLISH, _PUBACK),
    ("falls silent", _PUBLISH, b""),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_relay_does_what_it_is_told(fault, heard, answers):
    """Before a broker that keeps what it hears and answers what ends with a publish."""
    got, answered = bytearray(), []

    async def broker(reader, writer):
        with contextlib.suppress(asyncio.CancelledError):  # at the end
            while data := await reader.read(100):
                got.extend(data)
                if data.endswith(_PUBLISH) and not answered:  # one doubled may come in two pieces
                    answered.append(True)
                    writer.write(_PUBACK)

    async def play():
        server = await asyncio.start_server(broker, "127.0.0.1", 0)
        with Relay(server.sockets[0].getsockname()[1], [(fault, 5, 0)] if fault else []) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"\x10\x00" + _PUBLISH)
            said = b""
            with contextlib.suppress(TimeoutError):
                while len(said) < len(answers) or not answers:
                    said += await asyncio.wait_for(reader.read(100), 5 if answers else 0.3)
            for _ in range(500):
                if len(got) < 2 + len(heard):
                    await asyncio.sleep(0.01)
            writer.close()
            assert relay.left == 0
        server.close()
        return said

    said = asyncio.run(play())
    assert (said, bytes(got)) == (answers, b"\x10\x00" + heard)
