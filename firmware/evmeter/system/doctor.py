"""Is the device well? One finding for each part that an installer can put right. Run in place of
the firmware, by the installer's tool."""

import asyncio
import gc
import json

from micropython import const

from evmeter.app import App, StartError
from evmeter.ledger import foreign
from evmeter.ledger.journal import JournalError
from evmeter.monitoring import alarms as codes
from evmeter.session import pilot
from evmeter.session.pilot import PilotFilter
from evmeter.session.zone import date

OK = "ok"
WARN = "warn"  # it works, and the installer should know
FAIL = "fail"

_METER_MS = const(15000)
_NETWORK_MS = const(30000)
_LOOK_MS = const(100)
_WINDOWS = const(20)
_WINDOW_MS = const(50)
_LEAST_PERCENT = const(10)
_FEW_PERCENT = const(25)
_LEAST_HEAP = const(16384)
# OCMF letter of the newest poll: what to do; any other letter is the line's
_METER = {"X": "check meter.serial, and which meter is on the line",
          "O": "check meter.profile, meter.p_max_w and the meter"}
_OTHER = "it answers, but refuses: check meter.profile; 'evmeter scan' tells the model"
_CONFIGURATION = "configuration: "
_LINE = "check wiring, polarity of A and B, baud, parity and unit; 'evmeter scan' finds them"


def _volts(mv):
    return "none" if mv is None else "%s%d.%d V" % ("-" if mv <= -100 else "+", abs(mv) // 1000,
                                                    abs(mv) % 1000 // 100)


class Doctor:
    """`tell(check, result, text)` is called for each finding, `result` being OK, WARN or FAIL;
    the text of the latter two says what to do. `failed` counts the FAILs."""

    def __init__(self, board, tell):
        self._board = board
        self._tell = tell
        self._tasks = []
        self.failed = 0

    def _find(self, check, result, text):
        self.failed += result == FAIL
        self._tell(check, result, text)

    async def run(self):
        """Examine everything; 15 s on a device that is well, 90 s at the most."""
        try:
            app = App(self._board, True)
        except StartError as error:
            why = str(error)
            if why.startswith(_CONFIGURATION):
                why = why[len(_CONFIGURATION):] + ": put it right, then provision the device"
            self._find("configuration", FAIL, why)
            return
        self._find("configuration", OK, app.config["id"])
        self._key(app)
        self._journal(app)
        start = self._start
        start(app.supervisor.run)  # or the watchdog bites
        start(app.poll.run)
        start(self._board.network.run)
        try:
            await self._pilot(app)
            await self._meter(app)
            is_up = await self._network()
            await self._clock(app, is_up)
            await self._broker(app, is_up)
        finally:
            for task in self._tasks:
                task.cancel()
        await app.forgive()
        self._heap()

    def _start(self, function):
        self._tasks.append(asyncio.create_task(function()))

    async def _until(self, condition, limit_ms):
        for _ in range(limit_ms // _LOOK_MS):
            if condition():
                return True
            await asyncio.sleep_ms(_LOOK_MS)
        return condition()

    def _key(self, app):
        if app.signer:
            self._find("key", OK, "key id " + app.signer.key_id)
        else:
            self._find("key", FAIL, "there is no signing key: provision the device")

    def _journal(self, app):
        journal = app.journal
        if not journal.ready:
            try:
                journal.open()
            except JournalError as error:
                found = foreign.what(self._board.journal_flash)
                todo = "provision the device"
                if found != foreign.BLANK:
                    todo = ("read it out with 'evmeter pull-journal', then provision with --erase,"
                            " by which it is lost")
                    if found in foreign.STORES:
                        todo = "set journal.store to what it holds, or " + todo
                self._find("journal", FAIL, "%s; the flash holds %s: %s" % (error, found, todo))
                return
        free = journal.free_percent()
        text = "%d %% free, %d entries not yet confirmed" % (free, journal.unconfirmed())
        if journal.faults:
            self._find("journal", WARN, "%s; %s: check it with 'evmeter journal check'"
                       % (text, "; ".join(journal.faults)))
        elif free < _LEAST_PERCENT:
            self._find("journal", FAIL, text + ": no session begins; connect the backend")
        elif free < _FEW_PERCENT:
            self._find("journal", WARN, text + ": connect the backend")
        else:
            self._find("journal", OK, text)

    async def _pilot(self, app):
        sampler, states = app.pilot, PilotFilter()
        saturated = 0
        try:
            for window in range(_WINDOWS):
                sampler.sample()
                saturated += sampler.saturated
                states.window(sampler.high_mv, sampler.low_mv, sampler.pwm, window * _WINDOW_MS)
                await asyncio.sleep_ms(_WINDOW_MS)
        except OSError as error:
            self._find("pilot", FAIL, "cannot be read (%s): check the ADC pin" % error)
            return
        levels = "%s / %s" % (_volts(sampler.high_mv), _volts(sampler.low_mv))
        if states.state is None:
            self._find("pilot", FAIL, "no steady level (%s): check the wiring of the front end"
                       % levels)
        elif states.diode_fault:
            self._find("pilot", FAIL, "no diode at the plug (%s): a test plug, or tampering"
                       % levels)
        elif states.state in (pilot.E, pilot.F):
            self._find("pilot", FAIL, "state %s (%s): the pilot is off, cut or shorted; check its "
                       "wiring and the front end" % (pilot.NAMES[states.state], levels))
        elif saturated:
            self._find("pilot", WARN, "state %s, but the ADC is at its end: check pilot.front_end"
                       % pilot.NAMES[states.state])
        else:
            self._find("pilot", OK, "state %s (%s)" % (pilot.NAMES[states.state], levels))

    async def _meter(self, app):
        poll = app.poll
        if not await self._until(lambda: poll.latest, _METER_MS):
            line = _OTHER if "exception" in poll.status else _LINE
            self._find("meter", FAIL, "%s: %s" % (poll.status, _METER.get(poll.quality, line)))
            return
        reading = poll.latest
        text = "%s %s, serial %s (%s), %d.%03d kWh" % (
            poll.make, poll.model, poll.serial or "none", poll.serial_source,
            reading.import_mwh // 1000000, reading.import_mwh // 1000 % 1000)
        if not poll.serial:
            self._find("meter", WARN, text + ": give the number on its label as meter.serial")
        else:
            self._find("meter", OK, text)

    async def _network(self):
        network = self._board.network
        if await self._until(network.up, _NETWORK_MS):
            self._find("network", OK, ", ".join(network.dns_servers()) or "up, no name server")
            return True
        self._find("network", FAIL, "not up: check name and password of the Wi-Fi, or the cable "
                   "(%s)" % json.dumps(network.diag()))
        return False

    async def _clock(self, app, is_up):
        time, quality = app.time, app.clock.quality
        if time and not is_up:
            if quality == "U":
                self._find("clock", FAIL, "time is not known: the network first")
                return
        elif time:
            await time.ask_all()
            quality = app.clock.quality
            if quality == "U":
                self._find("clock", FAIL, "%s: check clock.servers and the way to them"
                           % time.status)
                return
        elif quality == "U":
            self._find("clock", WARN, "time is not known%s: give time servers as clock.servers"
                       % (", nor to the battery-backed clock" if app.battery else ""))
            return
        unix_s = app.clock.now()[0] // 1000
        year, month, day = date(unix_s // 86400)[:3]
        self._find("clock", OK, "quality %s, %d-%02d-%02d %02d:%02d UTC"
                   % (quality, year, month, day, unix_s // 3600 % 24, unix_s // 60 % 60))

    async def _broker(self, app, is_up):
        if not is_up:
            self._find("broker", FAIL, "not reached: the network first")
            return
        try:
            await app.uplink.knock()
        except OSError as error:
            self._find("broker", FAIL, "%s: check mqtt.host, port, ca, user and password" % error)
            return
        if codes.INSECURE in app.alarms.codes():
            self._find("broker", WARN, "takes the connection, but is not verified: set mqtt.tls "
                       "to verified and give mqtt.ca")
        else:
            self._find("broker", OK, "verified, takes the connection")

    def _heap(self):
        gc.collect()
        free = gc.mem_free()
        if free < _LEAST_HEAP:
            self._find("heap", WARN, "%d bytes free: take the image for this board" % free)
        else:
            self._find("heap", OK, "%d bytes free" % free)


def main():
    """Print a line of JSON for each finding, and how many failed last."""
    import board

    def tell(check, result, text):
        print(json.dumps({"check": check, "result": result, "text": text}))

    # where the firmware was interrupted, its tasks wait in the loop: they would go on beside the
    # examination, on the same line, flash and connection
    asyncio.new_event_loop()
    gc.collect()
    doctor = Doctor(board.build(), tell)
    asyncio.run(doctor.run())
    print(json.dumps({"failed": doctor.failed}))
