"""Prometheus metrics in its text format, from figures that the store counts or the caller has.

Written out here: the client library takes 10 us a line, which is a second for 10,000 devices.
"""

# name -> (counter or not, help, labels)
FAMILIES = {
    "evmeter_devices": (False, "Devices with an enrolled key", ()),
    "evmeter_records": (True, "Stored messages by device, stream and verdict",
                        ("device", "stream", "verdict")),
    "evmeter_records_missing": (False, "Numbers passed over; must be 0", ("device",)),
    "evmeter_quarantined": (True, "Messages put aside: other content under a stored number",
                            ("device",)),
    "evmeter_sessions": (True, "Complete sessions by device", ("device",)),
    "evmeter_energy_mwh": (True, "Energy of the verified complete sessions, mWh", ("device",)),
    "evmeter_online": (False, "1 while the device is on line", ("device",)),
    "evmeter_power_mw": (False, "Power as it was last told, mW", ("device",)),
    "evmeter_alarms": (False, "Active alarms", ("device", "severity")),
    "evmeter_last_word_seconds": (False, "Age of the newest message", ("device",)),
    "evmeter_records_waiting": (False, "Stored, but not in evmeter_sessions and _energy yet", ()),
    "evmeter_record_delay_seconds": (
        False, "95th percentile from the making of a record to its storing", ("device",)),
}


def _label(value):
    return str(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r'\"')


def text(values):
    """The metrics as bytes. `values`: {name of FAMILIES: {labels as a tuple: number}}; a family
    that is left out is not there. Raises ValueError for a name that is none."""
    unknown = set(values) - set(FAMILIES)
    if unknown:
        raise ValueError("no metric %s" % ", ".join(sorted(unknown)))
    lines = []
    for name, (counts, words, labels) in FAMILIES.items():
        if name not in values:
            continue
        sample = name + "_total" if counts else name
        lines.append("# HELP %s %s\n# TYPE %s %s\n" % (
            sample, words, sample, "counter" if counts else "gauge"))
        line = sample + ("{%s} %%s\n" % ",".join('%s="%%s"' % label for label in labels)
                         if labels else " %s\n")
        lines += [line % (*map(_label, key),
                          value if type(value) is float else "%d.0" % value)
                  for key, value in sorted(values[name].items())]
    return "".join(lines).encode()


def values_of(facts, quarantined=()):
    """{name: {labels: number}} of {device: DeviceFacts}, as far as the records tell; `quarantined`
    has the devices of the messages put aside, one each."""
    from evmeter_tools.insight.table import quantile

    values = {"evmeter_devices": {(): len(facts)}, "evmeter_records": {},
              "evmeter_records_missing": {}, "evmeter_quarantined": {}, "evmeter_sessions": {},
              "evmeter_energy_mwh": {}, "evmeter_record_delay_seconds": {}}
    for device, own in facts.items():
        ended = [session for session in own.sessions if session.state == "complete"]
        values["evmeter_sessions"][device,] = len(ended)
        values["evmeter_energy_mwh"][device,] = sum(session.energy_mwh for session in ended)
        values["evmeter_records_missing"][device,] = own.missing
        values["evmeter_quarantined"][device,] = sum(name == device for name in quarantined)
        for (stream, verdict), count in own.by_stream.items():
            values["evmeter_records"][device, stream, verdict] = count
        delay_ms = quantile(own.latency_ms, 950)
        if delay_ms is not None:
            values["evmeter_record_delay_seconds"][device,] = delay_ms / 1000
    return values
