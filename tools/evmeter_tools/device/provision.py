"""`evmeter provision`: configuration and key onto a device, its public key into the backend."""

import base64
import contextlib
import json
import re
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools import firmware
from evmeter_tools.backend.credentials import Credentials
from evmeter_tools.device import run
from evmeter_tools.device.label import label as make_label
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice
from evmeter_tools.operator import signing

# main.py's names hold the firmware that was interrupted: two do not fit
_PROGRAM = """
app = hardware = None
from evmeter.system import provision
provision.main(%s, %s)
"""
# whole or not at all, and the one before can be put back; a device starts in the folder /
_WRITE = """
import json, os
from drivers.config_files import ConfigFiles
text, before = %r, "config.json" in os.listdir()
if before:
    ConfigFiles(".").write(text)
else:
    with open("config.new", "w") as file:
        file.write(text)
    os.rename("config.new", "config.json")
print(json.dumps({"written": True, "before": before}))
"""
_PUT_BACK = """
from drivers.config_files import ConfigFiles
ConfigFiles(".").restore()
print('{"restored": true}')
"""
_CERTIFICATES = ("ca", "certificate", "key")
_LONGEST = 400  # characters of what is wrong with a configuration


def _der(path, field):
    """A certificate or key, PEM or DER, as base64 of its DER."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError("%s: %s cannot be read: %s" % (field, path, error.strerror)) from None
    found = re.search(rb"-----BEGIN [A-Z ]+-----\s(.*?)-----END", data, re.S)
    if found:
        return b"".join(found.group(1).split()).decode()
    return base64.b64encode(data).decode()


def _once(members):
    """An object of a file, in which no field may be there twice. Raises ValueError."""
    found = dict(members)
    names = [name for name, _ in members]
    for name in found:
        if names.count(name) > 1:
            raise ValueError("%.40s is there twice" % name)
    return found


def _read(path):
    """A configuration from a file; `@name` in place of a certificate is a file beside it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        if not isinstance(config, dict):
            raise ValueError("it must begin with { and end with }")
    except OSError as error:
        raise UserError("%s: cannot be read: %s" % (path, error.strerror)) from None
    except RecursionError:
        raise UserError("%s is no JSON object: nested too deep" % path) from None
    except ValueError as error:
        raise UserError("%s is no JSON object: %s" % (path, error)) from None
    mqtt = config.get("mqtt")
    for name in _CERTIFICATES if isinstance(mqtt, dict) else ():
        if isinstance(mqtt.get(name), str) and mqtt[name].startswith("@"):
            mqtt[name] = _der(path.parent / mqtt[name][1:], "mqtt." + name)
    return config


def _ask_meter(scan_port):
    if scan_port:
        from evmeter_tools.scan.command import run as scan

        meter = scan(scan_port)
    else:
        meter = {"profile": typer.prompt("Meter profile ('evmeter scan' finds it)",
                                         default="eastron_sdm120"),
                 "baud": typer.prompt("Line speed", default=9600),
                 "parity": typer.prompt("Parity N, E or O", default="N"),
                 "unit": typer.prompt("Modbus unit", default=1)}
    if meter.get("serial", "").startswith("<"):
        meter["serial"] = typer.prompt("Serial number on the meter's label")
    meter["p_max_w"] = typer.prompt("Most power that the installation draws, W",
                                    default=meter.get("p_max_w", 22000))
    return meter


def _ask_keys(whose):
    """Public keys, from a file that `evmeter operator-key` or `evmeter release key` has made, or
    as they have printed one."""
    text = typer.prompt("%s: its file, or its public half in hex (empty: none)" % whose,
                        default="")
    if not text:
        return []
    return [signing.spki(signing.load_key(Path(text))) if Path(text).is_file() else text]


def _ask(scan_port, makes_login):
    """The configuration by questions; `makes_login`: the log-in is none of them."""
    config = {"id": typer.prompt("Charger's id (A-Z a-z 0-9 _ -, at most 20)")}
    evse_id = typer.prompt("EVSE id for the records (empty: none)", default="")
    if evse_id:
        config["evse_id"] = evse_id
    config["meter"] = _ask_meter(scan_port)
    config["pilot"] = {"front_end": typer.prompt("Pilot front end: fe1, fe2, fe3",
                                                 default="fe3")}
    mqtt = config["mqtt"] = {"host": typer.prompt("Broker's host name")}
    mqtt["port"] = typer.prompt("Broker's port", default=8883)
    ca = typer.prompt("File of the broker's CA certificate (empty: not verified)", default="")
    if ca:
        mqtt["ca"] = _der(Path(ca), "mqtt.ca")
    else:
        mqtt["tls"] = "off" if mqtt["port"] == 1883 else "insecure"
    user = "" if makes_login else typer.prompt("User at the broker (empty: none)", default="")
    if user:
        mqtt["user"] = user
        mqtt["password"] = typer.prompt("Password", hide_input=True)
    servers = typer.prompt("Time servers, with spaces between", default="pool.ntp.org")
    config["clock"] = {"servers": servers.split()}
    ssid = typer.prompt("Wi-Fi name (empty: Ethernet)", default="")
    if ssid:
        config["network"] = {"ssid": ssid,
                             "password": typer.prompt("Wi-Fi password", hide_input=True)}
    tariff = typer.prompt("File of the tariff, JSON (empty: none)", default="")
    if tariff:
        config["tariff"] = _read(Path(tariff))
    config["operator"] = {"keys": _ask_keys("Operator key, for lock and signed commands")}
    config["update"] = {"keys": _ask_keys("Release key, for updates")}
    return config


def _check_network(settings):
    from evmeter.uplink import is_address

    for name in ("address", "mask", "gateway"):
        if settings[name] is not None and not is_address(settings[name]):
            raise ValueError("network.%s is %r; allowed: an address as 192.168.1.20"
                             % (name, settings[name]))
    for one in settings["dns"]:
        if not is_address(one):
            raise ValueError("network.dns has %r; allowed: addresses as 192.168.1.1" % one)


def _check_broker(mqtt):
    from evmeter.uplink.tls import Tls, der

    if not re.fullmatch(r"[A-Za-z0-9._:-]+", mqtt["host"]):
        raise ValueError("mqtt.host is %.60r; allowed: a host's name or address" % mqtt["host"])
    if mqtt["tls"] == "off":
        return
    if mqtt["tls"] == "verified" and not mqtt["ca"]:
        raise ValueError("mqtt.ca is missing, by which the broker is verified")
    ca, certificate, key = [der(mqtt[name], "mqtt." + name) if mqtt[name] else ()
                            for name in _CERTIFICATES]
    Tls(ca, time.time, certificate[0] if certificate else None, key[0] if key else None,
        mqtt["tls"] == "insecure")


def _check_parts(settings):
    """What the firmware finds wrong only when it starts. Raises ValueError."""
    from drivers.meter_profile import take
    from drivers.pilot_front_end import front_end_data

    meter = settings["meter"]
    if meter["profile"] != "pulse":
        try:
            take(meter["profile"], meter["total_is_import"])
        except ValueError as error:
            raise ValueError("meter.profile: %s" % error) from None
    elif not meter["imp_per_kwh"]:
        raise ValueError("meter.imp_per_kwh is missing: pulses for each kWh")
    try:
        front_end_data(settings["pilot"]["front_end"])
    except ValueError as error:
        raise ValueError("pilot.front_end: %s" % error) from None
    _check_network(settings["network"])
    _check_broker(settings["mqtt"])


def _check(config):
    """By the firmware's own rules, before anything is touched. Returns the text."""
    firmware.reach()
    from evmeter.system.config import ConfigError, parse

    text = json.dumps(config)
    try:
        _check_parts(parse(text))
    except (ConfigError, ValueError) as error:
        why = str(error)
        if len(why) > _LONGEST:  # which field it is stands first, what is allowed last
            why = "%s .. %s" % (why[: _LONGEST // 2], why[-_LONGEST // 2 :])
        raise UserError("the configuration: %s" % why) from None
    return text


def _put(text, port, folder, config):
    """Put the configuration onto the device; returns what puts the one before back."""
    if folder:
        path = folder / "config.json"
        try:
            before = path.read_bytes() if path.exists() else None
            HostDevice(folder).write_config(config)
        except OSError as error:
            raise UserError("--dir %s: %s" % (folder, error.strerror)) from None
        return lambda: None if before is None else path.write_bytes(before)
    run.check(port)
    try:
        told = next((one for one in run.objects(_WRITE % text, port=port) if "written" in one),
                    None)
    except UserError:
        run.reset(port)  # whatever came of it: the firmware was stopped
        raise
    if not told:
        raise UserError("%s: the configuration was not taken" % port)
    return lambda: told["before"] and any(run.objects(_PUT_BACK, port=port))


def _give_login(config):
    """Put a new log-in into the configuration. Raises UserError where that has another one."""
    mqtt = config.get("mqtt")
    if not isinstance(mqtt, dict):
        raise UserError("mqtt: must be there for a log-in")
    if mqtt.get("user", config.get("id")) != config.get("id"):
        raise UserError("mqtt.user is %.40s: at this broker a device logs in by its id; leave it "
                        "out, or leave out --broker-dir" % mqtt["user"])
    mqtt["user"], mqtt["password"] = config.get("id"), secrets.token_urlsafe(24)


def _credentials(folder):
    try:
        return Credentials(folder)
    except OSError as error:
        raise UserError("--broker-dir %s: %s" % (folder, error.strerror)) from None


def _add_login(credentials, config):
    """The device has it: from now on nobody else gets in by its name."""
    if credentials:
        credentials.add(config["id"], config["mqtt"]["password"])


def _open_store(db):
    from evmeter_tools.backend.command import open_store

    try:
        return open_store(db)
    except OSError as error:
        raise UserError("--db %s: %s" % (db, error.strerror)) from None


def _place(path):
    """Raise UserError where no file can be at `path`."""
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError("%s: no file can be written there" % path)


def _write(path, data):
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError("%s: cannot be written: %s" % (path, error.strerror)) from None


def _is_whole(known, config):
    """Whether an answer is as it was sent: a serial line has no check of its own, and a key with
    one digit wrong would be enrolled."""
    from evmeter.ledger.signer import key_id

    try:
        return known["id"] == config["id"] and known["k"] == key_id(known["spki"]) and (
            {type(known["formatted"]), type(known["locked"])} == {bool})
    except (KeyError, TypeError, ValueError):
        return False


def _make_key(program, port, folder, put_back, config, credentials):
    """Have the device lay its journal and make its key; returns its public facts. Raises
    UserError; where the device has refused, the configuration before this one is in force again;
    where its answer was lost, the broker knows its log-in."""
    try:
        known = next((one for one in run.objects(program, port=port or None, folder=folder)
                      if {"spki", "error"} & set(one)), None)
        if not known or "error" in known:
            put_back()
        elif not _is_whole(known, config):
            raise UserError("what the device said of its key was garbled on its way")
    except UserError as error:
        _add_login(credentials, config)  # the only way, where its prompt is closed now
        raise UserError("%s. The device has the new configuration: give the command again, where "
                        "its prompt is closed now after 'evmeter unlock'" % error) from None
    finally:
        if port:
            run.reset(port)
    if not known or "error" in known:
        raise UserError(known["error"] if known else
                        "the device made no key; is the firmware on it?")
    return known


def _tell_prompt(known, is_open):
    if known.get("locked"):
        print("the prompt is closed: evmeter unlock %s --key .., or the board's button"
              % known["id"])
    elif not is_open:
        print("the prompt stays open: without operator.keys nothing could open it again")


def provision(
    file: Annotated[
        Path | None, typer.Argument(help="The configuration, JSON; without it, questions")
    ] = None,
    port: Annotated[str | None, typer.Option(help="Serial port of the device")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Run folder of the host board, in its place")
    ] = None,
    scan: Annotated[
        str | None, typer.Option(help="Serial port on which to look for the meter first")] = None,
    db: Annotated[
        str | None, typer.Option(help="Database of the backend, to enrol the key in")] = None,
    broker_dir: Annotated[Path | None, typer.Option(
        help="Folder of the backend's broker (backend run --dir): a log-in is made there")
    ] = None,
    label: Annotated[
        Path | None, typer.Option(help="File for the label, PDF of 100 x 62 mm")] = None,
    page: Annotated[
        str | None, typer.Option(help="Address of the page that verifies records")] = None,
    erase: Annotated[bool, typer.Option(
        "--erase", help="Let go what the journal's flash holds, if that is no journal")] = False,
    is_open: Annotated[bool, typer.Option(
        "--open", help="Leave the prompt open: 'evmeter lock' closes it later")] = False,
    save: Annotated[
        Path | None, typer.Option(help="File to keep what was answered in")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the device's public facts")]
    = False,
):
    """Commission a device: its configuration, its journal, a key made on it; then its public key
    into the backend and onto a label. The prompt is closed at the end, where an operator's key in
    the configuration, or a button, can open it again: from then on, `doctor`, `shell` and
    `pull-journal` find nobody at the port.

    Nothing is touched before the configuration was checked whole. A key and a journal that are
    there are kept; where the journal's flash holds something else, that is kept too, and told.
    Where the device refuses, the configuration that it had before is in force again.
    With --broker-dir the device gets a new log-in at the broker, too.

    Example: evmeter provision charger-17.json --port /dev/ttyUSB0 --label charger-17.pdf
    """
    if (not port) == (folder is None):
        raise UserError("give the device as --port or the host board's run folder as --dir")
    config = _read(file) if file else _ask(scan, broker_dir is not None)
    if save:
        asked = json.dumps(config, indent=1) + "\n"
    if broker_dir:
        _give_login(config)
    text = _check(config)
    if label:  # an address that is none is told before, too
        make_label("x", "x", "00", page)
    with contextlib.ExitStack() as stack:
        # All that may fail afterwards is tried before: the device's prompt may be closed then, and
        # what was not done cannot be made good over its port.
        _place(label)
        _place(save)
        credentials = _credentials(broker_dir) if broker_dir else None
        store = _open_store(db) if db else None
        if store:
            stack.callback(store.close)
        if save:
            _write(save, asked.encode())
        put_back = _put(text, port, folder, config)
        known = _make_key(_PROGRAM % (erase, not is_open), port, folder, put_back, config,
                          credentials)
        if as_json:
            print(json.dumps(known))
        else:
            print("%s: key %s, journal %s" % (
                known["id"], known["k"], "formatted" if known["formatted"] else "kept as it was"))
            print("public key %s" % known["spki"])
            _tell_prompt(known, is_open)
        _add_login(credentials, config)
        if store:
            store.enrol(known["id"], known["k"], known["spki"])
        if label:
            _write(label, make_label(known["id"], known["k"], known["spki"], page))
    if as_json:
        return
    print("enrolled in %s" % db if db else
          "not enrolled: evmeter backend enrol %s %s..." % (known["id"], known["spki"][:16]))
    if broker_dir:
        print("its log-in is in %s" % broker_dir)
    if label:
        print("label in %s" % label)
