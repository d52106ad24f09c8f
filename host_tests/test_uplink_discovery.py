from fakes.uplink_bench import UplinkBench


class Discovery:
    """A short one."""

    topic = b"home/assistant/device/evmeter_demo-0001/config"
    birth = b"home/assistant/status"

    def fill(self, area):
        area[:3] = b"{1}"
        return 3


def test_it_is_told_at_each_connection_and_when_it_is_asked_for():
    bench = UplinkBench(0)
    bench.uplink.discovery = Discovery()

    def told():
        found = [(payload, qos, retain) for topic, payload, qos, retain, _, _ in
                 bench.broker.published if topic == Discovery.topic]
        del bench.broker.published[:]
        return found

    bench.play()
    assert told() == [(b"{1}", 1, 1)]
    assert Discovery.birth in bench.broker.subscribed
    for payload, count in ((b"offline", 1), (b"", 1), (b"ONLINE", 1), (b"\xff", 1),
                           (b"online", 2)):
        bench.play(lambda: bench.broker.say(Discovery.birth, payload))
        assert told() == [(b"{1}", 1, 1)] * count, payload
    del bench.broker.subscribed[:]
    bench.uplink.discovery = None
    bench.play(lambda: bench.broker.say(Discovery.birth, b"online"))
    assert told() == [] and Discovery.birth not in bench.broker.subscribed
