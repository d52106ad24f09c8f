"""What Home Assistant is told, so that it shows the device by itself: MQTT device discovery.

One retained message with a component for each value, in the abbreviations of its MQTT integration;
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. Home Assistant asks for
it again by its birth message. Values stay what they are on the wire; the templates turn mWh into
kWh, mV into V.
"""

import json

from micropython import const

from evmeter import VERSION

_PACKET_BYTES = const(7)  # type, length, topic's length, packet id

_HEAD = ('{"dev":{"ids":["evmeter_%s"],"name":"evmeter %s","mf":"evmeter","mdl":%s,"sw":"%s"},'
         '"o":{"name":"evmeter","sw":"%s"},"avty_t":"%s/avail","stat_t":"%s/tel","cmps":{')
_PART = ',"%s":{"p":"%s","uniq_id":"%s_%s","name":"%s","val_tpl":"%s"%s}'
_KWH = ',"dev_cla":"energy","stat_cla":"total_increasing","unit_of_meas":"kWh"'
_MEAN = ',"dev_cla":"%s","stat_cla":"measurement","unit_of_meas":"%s"'
_STATUS = ',"stat_t":"%s/status"'
# a value that the meter does not have is null, and then unknown there too
_NUMBER = "{{value_json.%s|multiply(%s,None)}}"
_FLAG = "{{'ON' if %s else 'OFF'}}"


class Discovery:
    """`prefix` is Home Assistant's discovery prefix; `meter` a MeterPoll.

    `topic` is where to publish what `fill` gives, retained; `birth` is the topic on which Home
    Assistant says b"online" when it wants it again. `room`: bytes of the whole as an MQTT packet,
    2.5 to 4 KB by the number of phases and the length of names.
    """

    def __init__(self, prefix, device_id, meter):
        self._id = device_id
        self._meter = meter
        self.topic = ("%s/device/evmeter_%s/config" % (prefix, device_id)).encode()
        self.birth = (prefix + "/status").encode()
        self.room = len(self.topic) + _PACKET_BYTES
        for piece in self.pieces():
            self.room += len(piece)

    def _part(self, key, name, template, more, sort="sensor"):
        return _PART % (key, sort, self._id, key, name, template, more)

    def pieces(self):
        """The message, piece by piece: a small heap need not hold it whole."""
        meter, part, root = self._meter, self._part, "evmeter/v1/" + self._id
        yield _HEAD % (self._id, self._id, json.dumps(("%s %s" % (meter.make, meter.model))[:40]),
                       VERSION, VERSION, root, root)
        yield part("energy", "Energy", _NUMBER % ("e_mwh", "1e-6"), _KWH)[1:]
        yield part("session", "Session energy", _NUMBER % ("s_mwh", "1e-6"), _KWH)
        yield part("power", "Power", _NUMBER % ("p_mw", "1e-3"), _MEAN % ("power", "W"))
        yield part("f", "Frequency", _NUMBER % ("f_mhz", "1e-3"), _MEAN % ("frequency", "Hz"))
        for phase in range(meter.phases):
            for key, name, value, unit in (("u", "Voltage", "u_mv", "V"),
                                           ("i", "Current", "i_ma", "A")):
                yield part("%s%d" % (key, phase + 1), "%s L%d" % (name, phase + 1),
                           _NUMBER % ("%s[%d]" % (value, phase), "1e-3"),
                           _MEAN % (name.lower(), unit))
        status = _STATUS % root
        yield part("offer", "Offered current", _NUMBER % ("i_max_ma", "1e-3"),
                   _MEAN % ("current", "A") + status)
        yield part("state", "State", "{{value_json.st}}", status)
        yield part("pilot", "Pilot", "{{value_json.cp}}", status)
        yield part("unsent", "Unsent", "{{value_json.pend}}", status + ',"ent_cat":"diagnostic"')
        yield part("plug", "Vehicle", _FLAG % "value_json.cp in ('B','C','D')",
                   ',"dev_cla":"plug"' + status, "binary_sensor")
        yield part("alarm", "Alarm", _FLAG % "value_json.al", ',"dev_cla":"problem"' + status,
                   "binary_sensor")
        yield "}}"

    def fill(self, area):
        """Put the message into a memoryview; returns its length."""
        at = 0
        for piece in self.pieces():
            area[at : at + len(piece)] = piece.encode()
            at += len(piece)
        return at
