"""`evmeter journal read|export|check`: look into a device's journal; nothing is written to it."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.errors import UserError
from evmeter_tools.journal import words

_TYPES = ("rec", "evt", "ivl", "log")

_Source = Annotated[str, typer.Argument(
    metavar="IMAGE|PORT", help="Flash image, or the serial port of a device")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
_Offset = Annotated[int, typer.Option(
    "--offset", help="Byte of the image at which the journal's partition begins")]
_Nvs = Annotated[str | None, typer.Option(
    "--nvs", help="The host board's second store (nvs.json), to compare the newest frame with")]
_Keep = Annotated[Path | None, typer.Option(
    "--keep", help="With a PORT: file to keep the copy of the flash in")]
_Types = Annotated[str | None, typer.Option(
    "--type", help="Only these types: rec, evt, ivl, log; several with commas")]
_Keys = Annotated[list[str] | None, typer.Option(
    "--key", help="The device's public key, hex or a file: check every signature too; may be "
    "given again for a device that has changed its key")]
_Session = Annotated[str | None, typer.Option("--session", help="Only this session's id")]


def _second_store(name):
    if name is None:
        return None
    try:
        text = Path(name).read_text()
        if not isinstance(json.loads(text), dict):
            raise ValueError
    except (OSError, ValueError) as error:
        raise UserError("--nvs %s: no file of the host board's second store" % name) from error
    from evmeter_tools.firmware import reach

    reach()
    from host_nvs import NvsFile

    return NvsFile(name)


def _is_port(name):
    return bool(re.fullmatch(r"COM\d+", name)) or Path(name).is_char_device()


def _report(source, offset, nvs, keep, keys=()):
    from evmeter_tools.journal.image import open_image
    from evmeter_tools.journal.scan import scan
    from evmeter_tools.journal.signatures import signature_faults
    from evmeter_tools.verify.read import read_key

    ders = [read_key(key) for key in keys or ()]
    if _is_port(source):
        from evmeter_tools.journal.device import copy_flash

        if offset or nvs:
            raise UserError("--offset and --nvs go with an image, not with a device")
        image = copy_flash(source, keep)
    else:
        if keep:
            raise UserError("--keep goes with a device, not with an image")
        image = open_image(source, offset)
    report = scan(image, _second_store(nvs))
    if ders:
        report.faults += signature_faults(report.entries, ders)
    return report


def _wanted(report, types, session):
    names = _TYPES if types is None else tuple(types.split(","))
    if not set(names) <= set(_TYPES):
        raise UserError("--type %s: allowed are %s" % (types, ", ".join(_TYPES)))
    return [entry for entry in report.entries
            if (types is None or entry.kind in names)
            and (session is None or (entry.message or {}).get("sid") == session)]


def _end(report):
    if not report.ok:
        raise typer.Exit(1)


def read(source: _Source, types: _Types = None, session: _Session = None, as_json: _Json = False,
         keys: _Keys = None, offset: _Offset = 0, nvs: _Nvs = None, keep: _Keep = None):
    """Show every entry of a journal, and where its chain or a checksum breaks.

    Exit code 0: sound. 1: broken. 2: the input cannot be used.

    Example: evmeter journal read build/demo/device/flash.img --type rec
    """
    report = _report(source, offset, nvs, keep, keys)
    entries = _wanted(report, types, session)
    if as_json:
        print(json.dumps(words.as_object(report, entries), indent=1))
    else:
        print("\n".join([*words.table(report, entries), "", *words.summary(report)]))
    _end(report)


def check(source: _Source, as_json: _Json = False, keys: _Keys = None, offset: _Offset = 0,
          nvs: _Nvs = None, keep: _Keep = None):
    """Tell whether a journal is sound: every frame, the chain, the numbers, the small files, and,
    with a key, every signature. What lies between records is told by evmeter verify.

    Exit code 0: sound. 1: broken. 2: the input cannot be used.

    Example: evmeter journal check flash.img --nvs nvs.json --key meter.pem
    """
    report = _report(source, offset, nvs, keep, keys)
    if as_json:
        print(json.dumps(words.as_object(report, []), indent=1))
    else:
        print("\n".join(words.summary(report)))
    _end(report)


def _keys(entries, der):
    """Key's name -> key in hex: the given one, and those that changes announce from it on;
    whether they hold, evmeter verify says."""
    from evmeter_tools.verify.parse import KEY_CHANGE, key_id

    keys = {key_id(der): der.hex()} if der else {}
    for entry in entries if der else ():
        message = entry.message or {}
        if entry.kind == "log" and message.get("ev") == KEY_CHANGE:
            keys.setdefault(str(message.get("new_k")), str(message.get("new_spki")))
    return keys


def _line(entry, keys):
    message = entry.message or {}
    sid = message.get("sid")
    device = sid.rsplit("-", 1)[0] if isinstance(sid, str) and sid else None
    line = {"device": device, "seq": entry.seq, "type": entry.kind}
    if entry.kind in ("rec", "log"):
        if entry.kind == "rec":
            line["ocmf"] = message.get("ocmf")
        else:
            line["log"] = entry.payload.decode("utf-8", "surrogateescape")
        if str(message.get("k")) in keys:
            line["spki"] = keys[message["k"]]
    else:
        line["message"] = entry.message
    return json.dumps(line)


def export(
    source: _Source,
    out: Annotated[str, typer.Option("--out", help="File to write; - is the standard output")]
    = "-",
    form: Annotated[str, typer.Option("--format", help="jsonl, or ocmf for the records alone")]
    = "jsonl",
    types: _Types = "rec,log",
    session: _Session = None,
    key: Annotated[str | None, typer.Option(
        "--key", help="The device's public key, to put beside each record")] = None,
    offset: _Offset = 0,
    nvs: _Nvs = None,
    keep: _Keep = None,
):
    """Write a journal's records and audit entries as JSON lines, or the records as OCMF text, for
    evmeter verify.

    What cannot be read is left out, and told on the standard error.

    Exit code 0: sound. 1: broken; what is whole was written. 2: the input cannot be used.

    Example: evmeter journal export flash.img | evmeter verify - --key meter.pem
    """
    from evmeter_tools.verify.read import read_key

    if form not in ("jsonl", "ocmf"):
        raise UserError("--format %s: allowed are jsonl, ocmf" % form)
    if form == "ocmf" and types not in ("rec", "rec,log"):
        raise UserError("--format ocmf has room for records alone; leave --type out")
    der = read_key(key) if key else None
    report = _report(source, offset, nvs, keep)
    entries = _wanted(report, types, session)
    if form == "ocmf":
        lines = [entry.message["ocmf"] for entry in entries
                 if isinstance((entry.message or {}).get("ocmf"), str)]
    else:
        known = _keys(report.entries, der)
        lines = [_line(entry, known) for entry in entries if entry.message is not None]
    text = "".join(line + "\n" for line in lines)
    if out == "-":
        sys.stdout.write(text)
    else:
        try:
            Path(out).write_text(text)
        except OSError as error:
            raise UserError("--out %s: cannot be written: %s" % (out, error.strerror)) from error
        print("%d lines written to %s" % (len(lines), out))
    for line in [line for fault in report.faults for line in
                 words.wrap(words.fault_text(fault), "! ")]:
        print(line, file=sys.stderr)
    _end(report)
