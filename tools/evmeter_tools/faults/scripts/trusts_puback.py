"""A wrong design that campaigns have to notice, on both interpreters."""

from evmeter.uplink.publisher import packet_id


def trust(uplink):
    """Let `uplink` (publisher.Uplink) let go of what the broker has acknowledged."""
    take = uplink._session._take

    def watch(packet):
        if packet[0] == 0x40:
            for entry in list(uplink._sent):
                if packet_id(entry[0]) == packet[2] << 8 | packet[3]:
                    uplink._sent.remove(entry)
                    uplink._journal.confirm(0, [entry[0]])
        take(packet)

    uplink._session._take = watch
