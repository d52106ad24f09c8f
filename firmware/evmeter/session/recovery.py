"""What a session that was open before a reboot comes to. Needed once after the boot.

It goes on only if the car is still there, the meter agrees, and no car can have been swapped: the
reset was no power loss, or the clock proves an off-time of at most 180 s. Else it is closed with
TX=P from a fresh register reading.
"""

import asyncio

from micropython import const

from evmeter.ledger.journal import JournalError
from evmeter.ledger.ledger import newest_unix_ms, read_message
from evmeter.session import pilot
from evmeter.session.progress import Progress
from evmeter.session.session import METER_KEY, Session, unpack, unpack_end

_LONGEST_OFF_MS = const(180000)
_CLOCK_SLACK_MS = const(2000)  # two clock readings may differ by so much
_OFF_PM_S = const(3)  # likewise, and the checkpoint holds whole seconds
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


async def settle(keeper):
    """Write down the boot, and go on with the session that was open or close it."""
    while keeper.register_mwh() is None or keeper.filter.state is None:
        await keeper.pause(100)
    now_ms = keeper.clock.mono_ms()
    register_mwh = keeper.register_mwh()
    if not keeper.journal.ready:
        return
    keeper.ended_unix_ms = max(0, newest_unix_ms(keeper.journal) - 1000)
    session = stored_session(keeper)
    if session:
        keeper.sid = "%s-%06d" % (keeper.device_id, session.page)
    # First, for the stored session learns of a jump by the journal's mark.
    await keeper.tell_meter_events()
    keeper.session = session = stored_session(keeper)
    if session:
        keeper.clock.raise_floor(session.last_unix_ms)
    elif not keeper.journal.open_seq:
        await _restore_end(keeper)
    code = keeper.meter_code() & 0x7FFFFFFF
    known = _known_meter(keeper)
    if known not in (code, None):
        _exchanged(keeper, session, register_mwh)
    await keeper.tell_meter_events()
    if known != code:
        await keeper.save_meter()
    fields = {"now_mwh": register_mwh, "cause": keeper.board.reset_cause,
              "faults": keeper.journal.faults}
    if session:  # what flowed since its begin is the session's own
        await keeper.ledger.event("boot", keeper.sid, now_ms, fields)
    else:
        fields["out_mwh"] = keeper.out_mwh(register_mwh)
        await keeper.ledger.event("boot", "", now_ms, fields, register_mwh)
    if session:
        await _go_on_or_close(keeper, session, register_mwh, now_ms)


async def _restore_end(keeper):
    """When the last session ended: a clock that was set back must not hide it."""
    ended_unix_ms = unpack_end(keeper.journal.load_small("session"))
    if ended_unix_ms is None:
        await keeper.save_end()
    else:
        keeper.ended_unix_ms = max(keeper.ended_unix_ms, ended_unix_ms)


def _known_meter(keeper):
    """The code of the meter of before the reboot, or None."""
    try:
        return keeper.board.nvs.get_i32(METER_KEY)
    except OSError:
        return None


def _exchanged(keeper, session, register_mwh):
    """Another meter than before the reboot: its register tells nothing of the first one's."""
    old_mwh = session.last_mwh if session else keeper.journal.mark_mwh
    if old_mwh is not None:
        keeper.meter_event("meter_rebase", {
            "old_mwh": old_mwh, "new_mwh": register_mwh, "modulus_mwh": 0, "diff_mwh": None,
            "cause": "meter exchanged while off"})


def base_mwh(keeper):
    """The last register known before the boot, or None: what the first reading is judged by.
    Raises JournalError."""
    if not keeper.journal.open_seq:
        return keeper.journal.mark_mwh
    return stored_session(keeper).last_mwh


def stored_session(keeper):
    """The session that was open before the boot, from the freshest place that knows it."""
    open_seq = keeper.journal.open_seq
    if not open_seq:
        return None
    best = None
    for body in (keeper.journal.load_small("session"), keeper.board.rtc_memory()):
        found = unpack(bytes(body) if body else None)
        if found and found.begin_seq == open_seq and (
                best is None or found.last_mwh >= best.last_mwh):
            best = found
    if best is None:
        best = _begun(keeper, open_seq)
    # The journal's mark went along with every jump, the checkpoint may be older.
    jump_mwh = keeper.journal.mark_mwh - best.begin_mwh
    if jump_mwh != best.jump_mwh:
        best.spoiled = best.spoiled or "register not continuous"
        best.last_mwh += jump_mwh - best.jump_mwh
        best.jump_mwh = jump_mwh
    return best


def _begun(keeper, open_seq):
    """The session as its begin record tells it, where no checkpoint can be read."""
    session = Session()
    session.begin_seq = open_seq
    session.page, unix_ms, quality, mwh = keeper.ledger.begin_reading(open_seq)
    session.begin_unix_ms = session.last_unix_ms = unix_ms
    session.begin_quality = session.last_quality = quality
    session.begin_mwh = session.last_mwh = mwh
    session.meter = keeper.meter_code()
    return session


async def _replay(keeper, session):
    """Take from the journal what happened in the session and is not in its checkpoint."""
    split = None
    if keeper.tariff:
        split = keeper.splits.Split(keeper.tariff, session.begin_unix_ms, session.begin_quality,
                                    session.begin_mwh)
    gap_mwh = 0
    for seq in range(session.begin_seq, keeper.journal.next_seq):
        try:
            message = read_message(keeper.journal, seq)
        except (JournalError, ValueError):
            if split:
                split.forget("event not readable")
            continue
        if message.get("sid") == keeper.sid:
            if message.get("kind") == "tariff":
                session.changes_written += message["n"]
            if "user" in message or message.get("ev") in ("target", "stop"):
                from evmeter.session import orders

                orders.apply(session, message.get("ev"), message)
            elif split and "ev" in message:
                gap_mwh += message.get("gap_mwh", 0)
                if gap_mwh <= session.gap_mwh:
                    split.replay(message)
                else:  # a resumption that died before its checkpoint: this boot's gap holds it
                    gap_mwh -= message.get("gap_mwh", 0)
        await asyncio.sleep_ms(0)  # reading takes time, and the pilot must not wait
    if split:
        split.skip(session.gap_mwh - gap_mwh)  # a closing that died after a checkpoint
        split.known(session.last_unix_ms, session.last_quality, session.last_mwh)
    keeper.split = split


async def _go_on_or_close(keeper, session, register_mwh, now_ms):
    off_ms = off_time_ms(session, *keeper.clock.now())
    why = refusal(session, keeper.filter.state, register_mwh,
                  session.meter == keeper.meter_code(), keeper.board.reset_cause, off_ms)
    await _replay(keeper, session)
    if off_ms is None:
        session.duration_pm_s = -1
    else:
        session.duration_s += off_ms // 1000
        if session.duration_pm_s >= 0:
            session.duration_pm_s += _OFF_PM_S
    keeper.progress = Progress(now_ms, session.duration_s)
    gap_mwh = max(0, register_mwh - session.last_mwh)
    session.gap_mwh += gap_mwh
    session.last_mwh += gap_mwh  # both at once: a checkpoint may be made from here on
    if keeper.split:
        keeper.split.skip(gap_mwh)
    keeper.started_ms = now_ms
    if not why:
        keeper.machine.resume(session.charged)
        await keeper.event("resume", now_ms, {
            "gap_mwh": gap_mwh, "off_ms": -1 if off_ms is None else off_ms})
        await keeper.checkpoint()
        return
    jumped_mwh = session.jump_mwh
    end_mwh, letter, read_ms = await keeper.final_reading()
    keeper.end_at(read_ms)
    more_mwh = max(0, end_mwh - register_mwh - (session.jump_mwh - jumped_mwh))
    session.gap_mwh += more_mwh
    session.last_mwh = max(session.last_mwh, end_mwh)
    if keeper.split:
        keeper.split.skip(more_mwh)
    await keeper.event("power_fail", now_ms, {"why": why})
    await keeper.complete(keeper.clock.unix_ms_at(read_ms), end_mwh, letter, "P", read_ms)
