"""What the device is made of: the objects of one App, from board and configuration.

Needed at the start alone, and forgotten then: nothing made here may keep a function of this
module, which would keep all of it in memory.
"""

import os

from micropython import const

from drivers.control_pilot import A_MV, ControlPilot
from evmeter import BUILD_UNIX_S
from evmeter.app import LIMIT_KEY, PILOT_KEY, SAFE_LIVES, UNSEEN_KEY, StartError
from evmeter.ledger import store
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ledger import Ledger, account, newest_unix_ms
from evmeter.metering.gate import Gate
from evmeter.metering.intervals import Intervals
from evmeter.metering.poll import MeterPoll
from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import Alarms
from evmeter.monitoring.conditions import Conditions
from evmeter.monitoring.status import Monitor
from evmeter.session.keeper import SessionKeeper
from evmeter.system import keys
from evmeter.system.clock import Clock
from evmeter.system.forget import forget
from evmeter.system.log import log
from evmeter.system.supervisor import Supervisor
from evmeter.uplink import is_address
from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink

_SHORT_LIVES = const(4)  # in a row: an alarm


def _number(nvs, key):
    try:
        return nvs.get_i32(key)
    except OSError:
        return 0


def _settings(board):
    from evmeter.system import config

    forget("evmeter.system", "config")
    try:
        return config.parse(board.read_config())
    except OSError as error:
        raise StartError("the configuration cannot be read (error %s); provision the device"
                         % error.args[0]) from None
    except (config.ConfigError, ValueError) as error:
        raise StartError("configuration: %s" % error) from None


def _count_boot(app, nvs, reset_cause):
    """Boots, and how many lives in a row were short, this one counted as long as it is one."""
    app.boots, short = _number(nvs, "boots") + 1, _number(nvs, "short")
    if not app.examines:
        nvs.set_i32("boots", app.boots)
        nvs.set_i32("short", short + 1)
        nvs.commit()
    if reset_cause == "watchdog":
        app.alarms.happened(codes.WATCHDOG, codes.WARNING, "reset by the watchdog")
    if short >= _SHORT_LIVES:
        app.alarms.happened(codes.REBOOTS, codes.CRITICAL,
                            "%d times in a row up for less than 10 minutes" % short)
    app.safe = short >= SAFE_LIVES
    app.short_lives = short + 1


def _tell_firmware(app, board):
    from evmeter.system import legal

    app.note("firmware", legal.entry(board, app.boots))
    forget("evmeter.system", "legal")


def _open_journal(app):
    try:
        app.journal.open()
    except JournalError as error:
        from evmeter.ledger import foreign

        app.alarms.raise_(codes.JOURNAL, codes.CRITICAL, "%s; the flash holds %s"
                          % (error, foreign.what(app.board.journal_flash)))
        forget("evmeter.ledger", "foreign")
    forget("evmeter.ledger", "ring_scan")


def _set_clock(app, settings):
    """Not earlier than the newest frame on flash; from the battery-backed clock if it agrees with
    that."""
    clock, board = app.clock, app.board
    clock.limit(settings["s_max_age_s"], settings["i_max_age_s"])
    clock.raise_floor(newest_unix_ms(app.journal), newest_unix_ms(app.journal, "S"))
    app.battery = board.battery_clock if settings["battery"] else None
    if app.battery:
        clock.ask_battery(app.battery)
    app.time = None
    if settings["servers"]:
        from evmeter.system.sntp import SntpClient
        from evmeter.system.timekeeper import TimeKeeper

        hosts = [server.partition(":")[0] for server in settings["servers"]]
        client = SntpClient(clock, None if all(map(is_address, hosts)) else _resolver(app))
        app.time = TimeKeeper(settings, clock, client, app.battery, board.network.up)


def _resolver(app, nvs=None, quiet=None):
    from evmeter.uplink.resolver import Resolver

    return Resolver(app.board.network.dns_servers, nvs, quiet)


def _build_meter(app, settings):
    app.pulses = app.crosscheck = app.signing_meter = None
    try:
        if settings["profile"] == "pulse":
            meter = _pulse_meter(app, settings)
        else:
            meter = _modbus_meter(app, settings)
        if settings["pass_through"] and not app.signing_meter:
            raise ValueError("pass_through is true, but a %s signs no records of its own"
                             % meter.model)
    except ValueError as error:
        raise StartError("meter: %s" % error) from None
    app.gate = Gate(settings["p_max_w"], meter.step_mwh)
    app.poll = MeterPoll(meter, app.gate, app.clock, settings["period_ms"])
    if meter.confidence != "high":
        log.warning("meter profile of %s %s is of %s confidence", meter.make, meter.model,
                    meter.confidence)
    if meter.note:
        log.warning("meter: %s", meter.note)


def _modbus_meter(app, settings):
    from drivers.modbus_meter import ModbusMeter
    from drivers.modbus_rtu import ModbusRtu

    board = app.board
    try:
        uart = board.open_uart(settings["baud"], 8, settings["parity"], settings["stop"])
    except OSError as error:
        raise StartError("the meter's port cannot be opened (error %s); check the wiring or the "
                         "port's name" % error.args[0]) from None
    char_bits = 9 + settings["stop"] + (settings["parity"] != "N")
    bus = ModbusRtu(uart, settings["baud"], char_bits, board.rs485_de)
    meter = ModbusMeter(bus, settings["profile"], settings["unit"], settings["serial"],
                        settings["total_is_import"])
    if settings["pass_through"] and meter.signed:
        from drivers.signing_meter import SigningMeter

        app.signing_meter = SigningMeter(bus, settings["unit"])
    if settings["imp_per_kwh"]:
        from evmeter.metering.crosscheck import CrossCheck

        app.crosscheck = CrossCheck(board.pulse_input(), settings["imp_per_kwh"], meter.step_mwh)
    return meter


def _pulse_meter(app, settings):
    from drivers.pulse_meter import PulseMeter

    board = app.board
    app.pulses = PulseMeter(board.pulse_input(), board.nvs, settings["imp_per_kwh"], app.clock,
                            settings["serial"], board.rtc_pulses)
    return app.pulses


def _build_pilot(app, settings):
    board = app.board
    a_mv = _number(board.nvs, PILOT_KEY) or A_MV
    try:
        app.pilot = ControlPilot(board.pilot_adc, settings["front_end"], board.pace_us,
                                 board.pilot_edges, a_mv)
    except ValueError as error:
        raise StartError("pilot: %s" % error) from None
    forget("drivers", "pilot_front_end")
    app.kept_a_mv = a_mv


def _build_session(app, settings):
    app.keeper = SessionKeeper(settings, app.clock, app.poll, app.ledger, app.journal, app.alarms,
                               app.board)
    app.keeper.alive = app.session_alive
    app.pass_through = None
    if app.signing_meter:
        from evmeter.metering.pass_through import PassThrough

        app.pass_through = PassThrough(app.signing_meter, app.ledger, app.clock, app.alarms)
        app.keeper.on_edge = app.pass_through.edge
    if settings["tariff"]:
        forget("evmeter.session", "windows")


def _set_base(app):
    """The register that the meter's next reading is judged against: the newest on flash."""
    from evmeter.session import recovery

    try:
        base_mwh = recovery.base_mwh(app.keeper)
        if app.pulses and base_mwh is not None:
            app.pulses.at_least(base_mwh)
        app.gate.base(base_mwh)
    except JournalError as error:
        app.alarms.raise_(codes.JOURNAL, codes.CRITICAL, str(error))


def _build_monitoring(app, settings):
    board = app.board
    sensor = getattr(board, "temperature_mc", None)
    if sensor is None and app.battery:  # a DS3231 has one
        sensor = getattr(app.battery, "temperature_mc", None)
    app.monitor = Monitor(settings, app.clock, board, app.poll, app.keeper, app.journal,
                          app.signer, app.alarms, app.boots)
    app.monitor.time = app.time
    app.monitor.temperature_mc = sensor
    app.conditions = Conditions(settings["alarms"], app.clock, app.alarms, app.poll, app.keeper,
                                app.journal, sensor)
    app.conditions.clock_why = app.clock_why
    app.intervals = Intervals(app.journal.interval_mwh)
    app.poll.on_reading = app.reading
    app.poll.on_event = app.meter_event
    app.poll.alive = app.meter_alive


def _link(app, settings, room):
    board = app.board
    tls = resolve = None
    if settings["tls"] != "off":
        from evmeter.uplink.tls import CertificateError, Tls, der

        try:
            ca, certificate, key = [der(settings[name], name) if settings[name] else ()
                                    for name in ("ca", "certificate", "key")]
            tls = Tls(ca, app.clock.unix_s, certificate[0] if certificate else None,
                      key[0] if key else None, settings["tls"] == "insecure", board.set_time)
        except CertificateError as error:
            raise StartError("mqtt: %s" % error) from None
    if not is_address(settings["host"]):
        resolve = _resolver(app, board.nvs, app.ledger.quiet)
    link = Link(resolve, tls, room=room)
    if link.insecure:
        app.alarms.raise_(codes.INSECURE, codes.WARNING, "the broker is not verified")
    return link


def _build_uplink(app, settings):
    mqtt, discovery = settings["mqtt"], None
    if mqtt["discovery"]:
        from evmeter.uplink.discovery import Discovery

        discovery = Discovery(mqtt["discovery"], settings["id"], app.poll)
    link = _link(app, mqtt, discovery.room if discovery else 0)
    app.uplink = uplink = Uplink(mqtt, settings["id"], app.journal, app.clock, app.monitor,
                                 app.signer.key_id if app.signer else "", link)
    uplink.discovery = discovery
    uplink.on_damage = app.damaged
    uplink.on_command = app.command
    uplink.on_config = app.wish
    uplink.on_greet = app.report_config
    app.monitor.uplink = uplink
    app.keeper.on_change = uplink.status_changed
    app.alarms.on_change = uplink.status_changed


def _build_orders(app):
    """What comes back from the backend. Most of it is loaded when the first of it comes."""
    board = app.board
    app.pilot_pwm = board.pilot_pwm
    if app.pilot_pwm:
        try:
            app.pilot_pwm.offer(board.nvs.get_i32(LIMIT_KEY))
        except (OSError, ValueError):  # none was ordered, or more than this board can
            app.pilot_pwm.offer(app.pilot_pwm.max_ma)
    if not app.examines and _number(board.nvs, "key_new_seq"):
        app.load_commands()


def _build_probation(app):
    """For a firmware that is on trial; one that was given up is told."""
    nvs = app.board.nvs
    if app.examines or not _number(nvs, "upd_new"):
        return
    from evmeter.system.update import Probation, failed

    slots = app.board.rom_slots()
    if slots and slots.on_trial:
        app.probation = Probation(slots, nvs, app.clock, app.well, app.online)
        return
    counter = failed(nvs)
    if counter:
        app.note("update_failed", {"counter": counter})
    forget("evmeter.system", "update")


def _begin_trial(app, board):
    """Counts the start with a configuration that is on trial; before anything is made of it, as
    there may be too little memory for what it asks for."""
    app.trial = None
    if not app.examines and _number(board.nvs, "cfg_try"):
        from evmeter.system.trial import Trial

        app.trial = Trial(board, app.config["rev"])


def assemble(app):
    """Make what `app` consists of. Raises StartError."""
    board = app.board
    app.config = settings = _settings(board)
    _begin_trial(app, board)
    try:
        board.open_network(settings["network"], settings["id"])
    except ValueError as error:
        raise StartError("configuration: %s" % error) from None
    app.clock = Clock(BUILD_UNIX_S * 1000)
    app.alarms = Alarms(app.clock)
    app.unseen = _number(board.nvs, UNSEEN_KEY)
    app.alarms.restore(app.unseen)
    _count_boot(app, board.nvs, board.reset_cause)
    app.signer = keys.load(board.nvs, os.urandom, settings["native_signing"])
    forget("evmeter.system", "keys")
    if app.signer is None:
        app.alarms.raise_(codes.KEY, codes.CRITICAL, "no signing key; provision the device")
    app.journal = Journal(store(settings["journal"]["store"], board), board.nvs, account)
    _open_journal(app)
    app.first_seq = app.journal.next_seq
    _tell_firmware(app, board)
    _set_clock(app, settings["clock"])
    _build_meter(app, settings["meter"])
    app.ledger = Ledger(app.journal, app.signer, app.clock, app.poll.bus_idle, app.identity)
    _build_pilot(app, settings["pilot"])
    _build_session(app, settings)
    _set_base(app)
    _build_monitoring(app, settings)
    app.supervisor = Supervisor(app.clock, board.watchdog, app.task_died)
    _build_uplink(app, settings)
    _build_orders(app)
    _build_probation(app)
