"""Whether a session that was open before a reboot goes on.

It does only if the car is still there, the meter agrees, and no car can have been swapped: the
reset was no power loss, or the clock proves an off-time of at most 180 s.
"""

from micropython import const

from evmeter.session import pilot

_LONGEST_OFF_MS = const(180000)
_CLOCK_SLACK_MS = const(2000)  # two clock readings may differ by so much
NO_POWER_LOSS = ("watchdog", "software")


def off_time_ms(session, now_unix_ms, now_quality):
    """Upper bound of the off-time in ms, or None where the clock proves nothing."""
    if now_quality == "U" or session.last_quality == "U":
        return None
    off_ms = now_unix_ms - session.last_unix_ms
    if off_ms < -_CLOCK_SLACK_MS:
        return None
    return max(0, off_ms)


def refusal(session, state, register_mwh, same_meter, reset_cause, off_ms):
    """Why the session cannot be resumed, or "" if it can. `state` as in pilot.py."""
    if state is None or not pilot.B <= state <= pilot.D:
        return "car gone"
    if not same_meter:
        return "meter exchanged"
    if register_mwh < session.last_mwh:
        return "register below checkpoint"
    if reset_cause in NO_POWER_LOSS:
        return ""
    if off_ms is None:
        return "off-time not proven"
    if off_ms > _LONGEST_OFF_MS:
        return "off for %d s" % (off_ms // 1000)
    return ""
