"""Composition root: builds the objects, starts the tasks."""

import asyncio
import json
import os

from micropython import const

from drivers.control_pilot import A_MV, ControlPilot
from evmeter import BUILD_UNIX_S, VERSION
from evmeter.ledger import store
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ledger import Ledger, account, newest_unix_ms
from evmeter.ledger.ocmf import quantise
from evmeter.metering.gate import Gate
from evmeter.metering.intervals import LENGTH_S, LONG_S, Intervals
from evmeter.metering.poll import MeterPoll
from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import Alarms
from evmeter.monitoring.conditions import Conditions
from evmeter.monitoring.status import Monitor
from evmeter.session.keeper import SessionKeeper
from evmeter.session.machine import CHARGING
from evmeter.system import keys
from evmeter.system.clock import Clock
from evmeter.system.forget import forget
from evmeter.system.log import log
from evmeter.system.supervisor import Supervisor
from evmeter.uplink.link import Link, is_address
from evmeter.uplink.publisher import Uplink

_WINDOW_MS = const(50)
_HOUSEKEEPING_MS = const(1000)
_SHORT_LIFE_MS = const(600000)
_SHORT_LIVES = const(4)  # in a row: an alarm
_SAFE_LIVES = const(10)  # and then only what meters is started at once
_SOUND_LIFE_MS = const(3600000)  # such a device is trusted again
_SETTLED_MS = const(30000)  # alarms are written from then on, even if the boot is not settled
_LEAST_PERCENT = const(10)  # with less of the journal free, room is for the running session
_CURSOR_EVERY = const(10)  # seconds
_FRESH_MS = const(10000)
_SESSION_LIVES_MS = const(180000)  # it signs up to six records between two looks at its queue
_MOST_NOTES = const(4)  # that wait to be written
_PILOT_KEY = "pilot_a"
_UNSEEN_KEY = "alarms"
_PILOT_STEP_MV = const(60)
_LIMIT_KEY = "limit_ma"
_THIN_PERCENT = const(25)  # with less of the journal free, intervals get longer


class StartError(Exception):
    """The firmware cannot start as it is configured; the text says why, for the installer."""


def _number(nvs, key):
    try:
        return nvs.get_i32(key)
    except OSError:
        return 0


def _settings(board):
    from evmeter.system import config

    forget("evmeter.system", "config")  # needed at the start alone
    try:
        return config.parse(board.read_config())
    except OSError as error:
        raise StartError("the configuration cannot be read (error %s); provision the device"
                         % error.args[0]) from None
    except (config.ConfigError, ValueError) as error:
        raise StartError("configuration: %s" % error) from None


class App:
    """The device: everything from the board's hardware to the running tasks. Raises StartError."""

    def __init__(self, board):
        self.board = board
        self.config = settings = _settings(board)
        try:
            board.open_network(settings["network"], settings["id"])
        except ValueError as error:
            raise StartError("configuration: %s" % error) from None
        self.clock = Clock(BUILD_UNIX_S * 1000)
        self.alarms = Alarms(self.clock)
        self._unseen = _number(board.nvs, _UNSEEN_KEY)
        self.alarms.restore(self._unseen)
        self.boots, self._short_lives = self._count_boot()
        self.signer = keys.load(board.nvs, os.urandom, settings["native_signing"])
        if self.signer is None:
            self.alarms.raise_(codes.KEY, codes.CRITICAL, "no signing key; provision the device")
        self.journal = Journal(store(settings["journal"]["store"], board), board.nvs, account)
        self._open_journal()
        self._first_seq = self.journal.next_seq
        self._set_clock(settings["clock"])
        self._build_meter(settings["meter"])
        self.ledger = Ledger(self.journal, self.signer, self.clock, self.poll.bus_idle,
                             self._identity)
        self._build_pilot(settings["pilot"])
        self.keeper = SessionKeeper(settings, self.clock, self.poll, self.ledger, self.journal,
                                    self.alarms, board)
        self.pass_through = None
        if self.signing_meter:
            from evmeter.metering.pass_through import PassThrough

            self.pass_through = PassThrough(self.signing_meter, self.ledger, self.clock,
                                            self.alarms)
            self.keeper.on_edge = self.pass_through.edge
        if settings["tariff"]:
            forget("evmeter.session", "windows")
        self._set_base()
        self.monitor = Monitor(settings, self.clock, board, self.poll, self.keeper, self.journal,
                               self.signer, self.alarms, self.boots)
        self.monitor.time = self.time
        self._bad_signatures = 0
        self._notes = []  # audit entries that wait to be written: name, ms since boot, fields
        self._traces = {}
        self.conditions = self._build_conditions(settings["alarms"])
        self.supervisor = Supervisor(self.clock, board.watchdog, self._task_died)
        discovery = None
        if settings["mqtt"]["discovery"]:
            from evmeter.uplink.discovery import Discovery

            discovery = Discovery(settings["mqtt"]["discovery"], settings["id"], self.poll)
        link = self._build_link(settings["mqtt"], discovery.room if discovery else 0)
        self.uplink = Uplink(settings["mqtt"], settings["id"], self.journal, self.clock,
                             self.monitor, self.signer.key_id if self.signer else "", link)
        self.uplink.discovery = discovery
        self.monitor.uplink = self.uplink
        self.keeper.on_change = self.uplink.status_changed
        self.keeper.alive = self._session_alive
        self.poll.alive = self._meter_alive
        self.poll.on_event = self._on_meter_event
        self.intervals = Intervals(self.journal.interval_mwh)
        self.poll.on_reading = self._on_reading
        self.alarms.on_change = self.uplink.status_changed
        self.uplink.on_damage = self._damaged
        self._build_orders()

    def _build_orders(self):
        """What comes back from the backend. Most of it is loaded when the first of it comes."""
        board, uplink = self.board, self.uplink
        self._commands = self._operations = self.trial = None
        uplink.on_command = self._command
        uplink.on_config = self._wish
        uplink.on_greet = self._report_config
        self.pilot_pwm = board.pilot_pwm
        if self.pilot_pwm:
            try:
                self.pilot_pwm.offer(board.nvs.get_i32(_LIMIT_KEY))
            except (OSError, ValueError):  # none was ordered, or more than this board can
                self.pilot_pwm.offer(self.pilot_pwm.max_ma)
        if _number(board.nvs, "cfg_try"):
            from evmeter.system.trial import Trial

            self.trial = Trial(board, self.config["rev"])
        if _number(board.nvs, "key_new_seq"):
            self._load_commands()
        self._build_probation()

    def _build_probation(self):
        """For a firmware that is on trial; one that was given up is told."""
        nvs, slots = self.board.nvs, self.board.rom_slots()
        self._slots = slots
        self._updater = self._probation = None
        if slots and (slots.on_trial or _number(nvs, "upd_new") > _number(nvs, "upd_ctr")):
            from evmeter.system.update import Probation, failed

            if slots.on_trial:
                self._probation = Probation(slots, nvs, self.clock, self._well,
                                            lambda: self.uplink.online)
            else:
                self._note("update_failed", {"counter": failed(nvs)})
                forget("evmeter.system", "update")

    def updater(self):
        """What takes a new firmware. Raises ValueError."""
        if self._slots is None:
            raise ValueError("this firmware lies in files: there is no place beside it")
        if self._updater is None:
            from evmeter.system.update import Updater

            self._updater = Updater(self._slots, self.board.name, self.config["update"]["keys"],
                                    self.board.nvs, self.poll.bus_idle)
        return self._updater

    def _well(self):
        """Whether this firmware does what it is for."""
        latest = self.poll.latest
        return (latest is not None and self.clock.mono_ms() - latest.mono_ms < _FRESH_MS
                and self.keeper.filter.state is not None and not self.conditions.pilot_why
                and self.journal.ready and self.signer is not None)

    async def _watch_probation(self):
        async with self.poll.bus_idle:
            seen = self._probation.check()
        if not seen:
            return
        self._probation = None
        forget("evmeter.system", "update")
        self._note("update_" + seen, {"version": VERSION})
        if seen == "failed":
            log.error("this firmware is not well: the one before comes back")
            while self.keeper.engaged() or not self.at_rest():
                self.supervisor.check_in("books", _SESSION_LIVES_MS)
                await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            self.board.reset()

    def _load_commands(self):
        from evmeter.system.operations import Operations
        from evmeter.uplink.commands import Commands

        settings = self.config
        self._operations = Operations(self)
        self._commands = Commands(settings["id"], settings["operator"], self.clock, self.board.nvs,
                                  self.poll.bus_idle, self._operations, self.uplink.answer)
        self.supervisor.start("commands", self._commands.run)

    def _command(self, payload, wish=False):
        if self._commands is None:
            self._load_commands()
        self._commands.take(payload, wish)

    def _wish(self, payload):
        """It is retained, so that it comes at each connection: what is in force already is not
        looked at again."""
        if not payload:
            return
        wish = json.loads(payload)
        if not isinstance(wish, dict) or wish.get("rev") != self.config["rev"]:
            self._command(payload, True)

    def _report_config(self):
        from evmeter.system import twin

        self.uplink.answer(b"cfg", twin.report(self), True)
        if self._operations is None:
            forget("evmeter.system", "twin")
            if self.trial is None:  # else its ConfigError has to stay everybody's
                forget("evmeter.system", "trial")
                forget("evmeter.system", "config")

    def limit(self, ma):
        """Offer the car at most `ma` from now on, over reboots too."""
        self.board.nvs.set_i32(_LIMIT_KEY, ma)
        self.board.nvs.commit()
        self.pilot_pwm.offer(ma)

    def at_rest(self):
        """Whether no record is in the making: the device may be restarted."""
        return not self.ledger.busy() and self.keeper.at_rest()

    def restart(self):
        """Restart at once; a life that ends by an order is no short one."""
        self.forgive(self._short_lives - 1)
        self.board.reset()

    def _set_clock(self, settings):
        """Not earlier than the newest frame on flash; from the battery-backed clock if it agrees
        with that."""
        clock = self.clock
        clock.limit(settings["s_max_age_s"], settings["i_max_age_s"])
        clock.raise_floor(newest_unix_ms(self.journal), newest_unix_ms(self.journal, "S"))
        self.battery = self.board.battery_clock if settings["battery"] else None
        if self.battery:
            clock.ask_battery(self.battery)
        self.time = None
        if settings["servers"]:
            from evmeter.system.sntp import SntpClient
            from evmeter.system.timekeeper import TimeKeeper

            hosts = [server.partition(":")[0] for server in settings["servers"]]
            client = SntpClient(clock, None if all(map(is_address, hosts)) else self._resolver())
            self.time = TimeKeeper(settings, clock, client, self.battery, self.board.network.up)

    def _resolver(self, nvs=None, quiet=None):
        from evmeter.uplink.resolver import Resolver

        return Resolver(self.board.network.dns_servers, nvs, quiet)

    def _count_boot(self):
        """(boot count, how many lives in a row before this one were short)."""
        nvs = self.board.nvs
        boots, short = _number(nvs, "boots") + 1, _number(nvs, "short")
        nvs.set_i32("boots", boots)
        nvs.set_i32("short", short + 1)
        nvs.commit()
        if self.board.reset_cause == "watchdog":
            self.alarms.happened(codes.WATCHDOG, codes.WARNING, "reset by the watchdog")
        if short >= _SHORT_LIVES:
            self.alarms.happened(codes.REBOOTS, codes.CRITICAL,
                                 "%d times in a row up for less than 10 minutes" % short)
        self.safe = short >= _SAFE_LIVES
        return boots, short + 1

    async def _watch_life(self):
        """The count of short lives, once this one is none."""
        lived_ms = self.clock.mono_ms()
        short = self._short_lives
        if lived_ms >= (_SOUND_LIFE_MS if self.safe else _SHORT_LIFE_MS):
            short = 0
        elif lived_ms >= _SHORT_LIFE_MS:
            short = _SAFE_LIVES - 1  # one more, and it is safe at once
        if short != self._short_lives:
            await self.forgive(short)

    async def _keep_alarms(self):
        """What nobody has acknowledged is shown again after a reboot."""
        unseen = self.alarms.unseen()
        if unseen != self._unseen:
            async with self.ledger.quiet:
                self._unseen = unseen
                self.board.nvs.set_i32(_UNSEEN_KEY, unseen)
                self.board.nvs.commit()

    async def forgive(self, short=0):
        """So many short lives count from now on."""
        self._short_lives = short
        async with self.ledger.quiet:
            self.board.nvs.set_i32("short", short)
            self.board.nvs.commit()

    def _open_journal(self):
        try:
            self.journal.open()
        except JournalError as error:
            from evmeter.ledger import foreign

            self.alarms.raise_(codes.JOURNAL, codes.CRITICAL, "%s; the flash holds %s"
                               % (error, foreign.what(self.board.journal_flash)))
            forget("evmeter.ledger", "foreign")
        forget("evmeter.ledger", "ring_scan")

    def _build_conditions(self, settings):
        board = self.board
        sensor = getattr(board, "temperature_mc", None)
        if sensor is None and self.battery:  # a DS3231 has one
            sensor = getattr(self.battery, "temperature_mc", None)
        conditions = Conditions(settings, self.clock, self.alarms, self.poll, self.keeper,
                                self.journal, sensor)
        self.monitor.temperature_mc = sensor
        conditions.clock_why = lambda: (self.time.status if self.time
                                        else "no time server is configured")
        return conditions

    def _build_meter(self, settings):
        self.pulses = self.crosscheck = self.signing_meter = None
        try:
            if settings["profile"] == "pulse":
                meter = self._pulse_meter(settings)
            else:
                meter = self._modbus_meter(settings)
            if settings["pass_through"] and not self.signing_meter:
                raise ValueError("pass_through is true, but a %s signs no records of its own"
                                 % meter.model)
        except ValueError as error:
            raise StartError("meter: %s" % error) from None
        self.gate = Gate(settings["p_max_w"], meter.step_mwh)
        self.poll = MeterPoll(meter, self.gate, self.clock, settings["period_ms"])
        if meter.confidence != "high":
            log.warning("meter profile of %s %s is of %s confidence", meter.make, meter.model,
                        meter.confidence)
        if meter.note:
            log.warning("meter: %s", meter.note)

    def _modbus_meter(self, settings):
        from drivers.modbus_meter import ModbusMeter
        from drivers.modbus_rtu import ModbusRtu

        board = self.board
        try:
            uart = board.open_uart(settings["baud"], 8, settings["parity"], settings["stop"])
        except OSError as error:
            raise StartError("the meter's port cannot be opened (error %s); check the wiring or "
                             "the port's name" % error.args[0]) from None
        char_bits = 9 + settings["stop"] + (settings["parity"] != "N")
        bus = ModbusRtu(uart, settings["baud"], char_bits, board.rs485_de)
        meter = ModbusMeter(bus, settings["profile"], settings["unit"], settings["serial"],
                            settings["total_is_import"])
        if settings["pass_through"] and meter.signed:
            from drivers.signing_meter import SigningMeter

            self.signing_meter = SigningMeter(bus, settings["unit"])
        if settings["imp_per_kwh"]:
            from evmeter.metering.crosscheck import CrossCheck

            self.crosscheck = CrossCheck(board.pulse_input(), settings["imp_per_kwh"],
                                         meter.step_mwh)
        return meter

    def _pulse_meter(self, settings):
        from drivers.pulse_meter import PulseMeter

        board = self.board
        self.pulses = PulseMeter(board.pulse_input(), board.nvs, settings["imp_per_kwh"],
                                 self.clock, settings["serial"], board.rtc_pulses)
        return self.pulses

    def _build_pilot(self, settings):
        board = self.board
        a_mv = _number(board.nvs, _PILOT_KEY) or A_MV
        try:
            self.pilot = ControlPilot(board.pilot_adc, settings["front_end"], board.pace_us,
                                      board.pilot_edges, a_mv)
        except ValueError as error:
            raise StartError("pilot: %s" % error) from None
        forget("drivers", "pilot_front_end")
        self._kept_a_mv = a_mv

    def _build_link(self, settings, room):
        board = self.board
        tls = resolve = None
        if settings["tls"] != "off":
            from evmeter.uplink.tls import CertificateError, Tls, der

            try:
                ca, certificate, key = [der(settings[name], name) if settings[name] else ()
                                        for name in ("ca", "certificate", "key")]
                tls = Tls(ca, self.clock.unix_s, certificate[0] if certificate else None,
                          key[0] if key else None, settings["tls"] == "insecure", board.set_time)
            except CertificateError as error:
                raise StartError("mqtt: %s" % error) from None
        if not is_address(settings["host"]):
            resolve = self._resolver(board.nvs, self.ledger.quiet)
        link = Link(resolve, tls, room=room)
        if link.insecure:
            self.alarms.raise_(codes.INSECURE, codes.WARNING, "the broker is not verified")
        return link

    async def _keep_pilot_gain(self):
        """What state A measured is known again after a reboot."""
        a_mv = self.pilot.a_mv
        if abs(a_mv - self._kept_a_mv) >= _PILOT_STEP_MV:
            self._kept_a_mv = a_mv
            async with self.ledger.quiet:
                self.board.nvs.set_i32(_PILOT_KEY, a_mv)
                self.board.nvs.commit()

    def _set_base(self):
        from evmeter.session import recovery

        try:
            base_mwh = recovery.base_mwh(self.keeper)
            if self.pulses and base_mwh is not None:
                self.pulses.at_least(base_mwh)
            self.gate.base(base_mwh)
        except JournalError as error:
            self.alarms.raise_(codes.JOURNAL, codes.CRITICAL, str(error))

    def _identity(self):
        poll, settings = self.poll, self.config
        fields = {"GI": "evmeter", "GS": settings["id"], "GV": VERSION, "MV": poll.make,
                  "MM": poll.model, "MS": poll.serial}
        box = settings["charge_box_id"]
        for key, value in (("CI", box or settings["evse_id"]), ("TT", settings["tariff_text"]),
                           ("CF", settings["controller_firmware"]), ("MF", poll.firmware)):
            if value:
                fields[key] = value
        if "CI" in fields:
            fields["CT"] = "CBIDC" if box else "EVSEID"
        loss = settings["cable_loss"]
        if loss["resistance"]:
            fields["LC"] = {"LI": loss["id"], "LR": loss["resistance"], "LU": loss["unit"]}
            if loss["name"]:
                fields["LC"]["LN"] = loss["name"]
        return fields, poll.step_mwh, poll.serial_source

    def _watch_signer(self):
        """A signature that did not verify was made again; that it happens is not right."""
        failures = self.signer.failures if self.signer else 0
        if failures != self._bad_signatures:
            self._bad_signatures = failures
            self.alarms.happened(codes.SIGNATURE, codes.WARNING,
                                 "%d signature(s) did not verify" % failures)

    def _damaged(self, text):
        self.alarms.happened(codes.JOURNAL, codes.WARNING, text)

    def _task_died(self, name, error, trace):
        code = codes.JOURNAL if isinstance(error, JournalError) else codes.TASK
        self.alarms.happened(code, codes.WARNING, "%s: %s" % (name, error))
        # one that dies again and again the same way is told once
        if self._traces.get(name) != trace and len(self._notes) < _MOST_NOTES:
            self._traces[name] = trace
            self._note("crash", {"task": name, "trace": trace})

    def _meter_alive(self):
        self.supervisor.check_in("meter")

    def _session_alive(self):
        self.supervisor.check_in("session", _SESSION_LIVES_MS)

    async def _watch_pilot(self):
        pilot, keeper = self.pilot, self.keeper
        while True:
            try:
                pilot.sample()
                keeper.window(pilot.high_mv, pilot.low_mv, pilot.pwm, pilot.duty_permille)
                self.conditions.pilot_why = ""
            except OSError as error:
                self.conditions.pilot_why = "pilot not readable: %s" % error
            self.supervisor.check_in("pilot")
            await asyncio.sleep_ms(_WINDOW_MS)

    def _on_reading(self, reading):
        """Each believed reading, as soon as it is there."""
        clock = self.clock
        self.keeper.reading(reading)
        self.intervals.reading(
            quantise(reading.import_mwh, self.poll.step_mwh), reading.power_mw, reading.mono_ms,
            clock.unix_ms_at(reading.mono_ms) // 1000, clock.quality != "U")
        if self.crosscheck:
            differs = self.crosscheck.reading(reading.import_mwh)
            if differs:
                self.alarms.happened(codes.PULSES, codes.WARNING, differs)

    def _on_meter_event(self, name, fields):
        self.intervals.rebase(self.keeper.meter_event(name, fields))
        if self.crosscheck:
            self.crosscheck.restart()

    def _watch_pulses(self):
        """Pulses that may not have been counted: the open session cannot be billed."""
        latest = self.poll.latest
        if latest and self.pulses.gap and self.keeper.booted:
            self.alarms.happened(codes.PULSES, codes.WARNING, "pulses may have been lost")
            self._on_meter_event("pulse_gap", {
                "old_mwh": latest.import_mwh, "new_mwh": latest.import_mwh, "modulus_mwh": 0,
                "diff_mwh": 0, "cause": self.pulses.gap})
            self.pulses.gap = ""

    async def _write_interval(self):
        journal = self.journal
        intervals = self.intervals
        intervals.length_s = LONG_S if journal.free_percent() < _THIN_PERCENT else LENGTH_S
        if intervals.closed:
            await self.ledger.interval(intervals.closed)
            intervals.written()

    def _note(self, name, fields):
        self._notes.append((name, self.clock.mono_ms(), fields))

    async def _write_notes(self):
        while self._notes and self.keeper.booted:
            name, at_ms, fields = self._notes[0]
            await self.ledger.log(name, self.keeper.sid, at_ms, fields)
            self._notes.pop(0)

    async def _keep_house(self):
        """What must not wait for the flash."""
        clock = self.clock
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            if self.battery:
                clock.ask_battery(self.battery)
            if self.pulses:
                self._watch_pulses()
            self.conditions.check()
            self.keeper.follow()
            self.uplink.charging = self.keeper.machine.phase == CHARGING
            self.supervisor.check_in("house")

    async def _keep_books(self):
        """What goes into the journal once its turn comes."""
        keeper, round_ = self.keeper, 0
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            round_ += 1
            self.supervisor.check_in("books", _SESSION_LIVES_MS)
            await self._watch_life()
            await self._keep_alarms()
            self._watch_signer()
            if self._operations:
                await self._operations.follow()
            if self.trial and await self.trial.check(self):
                self.trial = None
            if self._probation:
                await self._watch_probation()
            if self.journal.ready:
                await self._write_interval()
                await self._write_notes()
                if self.clock.notes and keeper.booted:
                    await self.clock.write_notes(self.ledger, keeper.sid, self.boots,
                                                 self._first_seq)
                if ((keeper.booted or self.clock.mono_ms() > _SETTLED_MS)
                        and self.journal.free_percent() >= _LEAST_PERCENT):
                    await self.alarms.write(self.ledger, keeper.sid)
                if round_ % _CURSOR_EVERY == 0:
                    await self.ledger.save_cursor()
                    await self._keep_pilot_gain()

    async def main(self):
        """Run until the power goes."""
        start = self.supervisor.start
        if self.pulses:
            start("pulses", self.pulses.run)
        elif self.crosscheck:
            start("pulses", self.crosscheck.run)
        start("meter", self.poll.run)
        start("pilot", self._watch_pilot)
        start("session", self.keeper.run)
        start("house", self._keep_house)
        start("books", self._keep_books)
        if self.pass_through:
            start("meter records", self.pass_through.run)
        if self.safe:
            log.error("safe: %d lives were short; the network waits for 10 minutes",
                      self._short_lives - 1)
            start("network", self._link_up_late)
        else:
            self._link_up()
        await self.supervisor.run()

    def _link_up(self):
        start = self.supervisor.start
        start("network", self.board.network.run)
        start("uplink", self.uplink.run)
        if self.time:
            start("time", self.time.run)

    async def _link_up_late(self):
        """What may have ended the lives before waits until this one has measured for a while."""
        while self.clock.mono_ms() < _SHORT_LIFE_MS:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
        self._link_up()

    def run(self):
        """Enter the event loop."""
        asyncio.run(self.main())
