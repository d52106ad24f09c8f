"""`evmeter command`, `evmeter operator-key`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.errors import UserError
from evmeter_tools.operator import signing
from evmeter_tools.operator.line import LOGIN_FROM, Line
from evmeter_tools.words import clean

_REPORT_S = 5
_RESTART_S = 60
_WIDEST = 78


def operator_key(
    file: Annotated[Path, typer.Argument(help="PEM file to write; it must not exist")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
):
    """Make the key that signs an operator's dangerous commands.

    The public key belongs into the device's configuration: operator.keys.

    Example: evmeter operator-key operator.pem
    """
    key = signing.make_key(file)
    if as_json:
        print(json.dumps({"by": signing.key_id(key), "spki": signing.spki(key)}))
        return
    print("key %s is in %s: keep it secret" % (signing.key_id(key), file))
    print("public key, for operator.keys of the configuration:\n%s" % signing.spki(key))


def _arguments(words):
    args = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise UserError("%s: give arguments as NAME=VALUE" % word)
        try:
            args[name] = json.loads(text)
        except ValueError:
            args[name] = text
    return args


def _wish(line, file, args):
    """The arguments of the operation config: the file's configuration under the next revision."""
    try:
        wished = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError("%s is no configuration: %s" % (file, error)) from None
    if "rev" not in args:
        reported = line.configuration(_REPORT_S)
        if reported is None:
            raise UserError("the device has not reported its configuration; give rev=NUMBER")
        args = {"rev": max(reported.get("rev", 0), reported.get("wish", 0)) + 1, **args}
    return {**args, "cfg": wished}


def _tell(device, operation, answer, as_json):
    if as_json:
        print(json.dumps(answer))
        return
    said = answer.get("err", "refused") if not answer.get("ok") else "done"
    print(clean("%s %s: %s" % (device, operation, said)))
    for name, value in (answer.get("res") or {}).items():
        print(clean("  %-10s %s" % (name, value)))


def _show(reported, as_json):
    if as_json:
        print(json.dumps(reported))
        return
    print("revision %s" % reported.get("rev"))
    if reported.get("err"):
        print(clean("revision %s was refused: %s" % (reported.get("wish"), reported["err"])))
    print(json.dumps(reported.get("cfg"), indent=1))
    for name, value in (reported.get("kept") or {}).items():
        print(clean("not shown: %s (%s)" % (name, value)))


def _configuration(line, device, rev, as_json):
    """Wait for what becomes of a configuration that the device has taken; the exit code."""
    reported = line.configuration(_RESTART_S, lambda message: message.get("rev") == rev or (
        message.get("wish") == rev and message.get("err")))
    if reported is None:
        raise UserError("%s took revision %d, but did not report it within %d s"
                        % (device, rev, _RESTART_S))
    good = reported["rev"] == rev
    if as_json:
        print(json.dumps(reported))
    else:
        print(clean("revision %d is in force" % rev if good else
                    "revision %d was not taken: %s" % (rev, reported["err"])))
    return 0 if good else 1


def command(
    device: Annotated[str, typer.Argument(help="The device's id")],
    operation: Annotated[str, typer.Argument(help="identify, resend, reboot, config, ...")],
    words: Annotated[list[str] | None, typer.Argument(
        metavar="NAME=VALUE", help="Arguments of the operation")] = None,
    key: Annotated[Path | None, typer.Option(help="Operator key (PEM) that signs it")] = None,
    file: Annotated[Path | None, typer.Option(
        help="config: the wished configuration (JSON)")] = None,
    broker: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:1883",
    user: Annotated[str | None, typer.Option(
        help="Login at the broker; password in " + LOGIN_FROM)] = None,
    ca: Annotated[str | None, typer.Option(help="CA (PEM) that the broker's TLS is of")] = None,
    valid: Annotated[int, typer.Option(min=1, max=600, help="Seconds until it expires")] = 60,
    wait: Annotated[int, typer.Option(min=1, max=600, help="Seconds to wait for the answer")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON")] = False,
):
    """Give a device a command, and tell its answer. Exit code 1: the device refused it.

    `config` without --file shows the configuration that is in force.

    Example: evmeter command demo-0001 resend from=5 to=9
    """
    args = _arguments(words or [])
    signer = signing.load_key(key) if key else None
    with Line(device, broker, user, ca) as line:
        if operation == "config" and not args and file is None:
            reported = line.configuration(_REPORT_S)
            if reported is None:
                raise UserError("%s has not reported its configuration" % device)
            _show(reported, as_json)
            return
        if file is not None:
            if operation != "config":
                raise UserError("--file goes with the operation config")
            args = _wish(line, file, args)
        name, text = signing.command(device, operation, args, valid, signer)
        line.send("cmd", text)
        answer = line.answer(name, wait)
        if answer is None:
            raise UserError("%s did not answer within %d s; is it on-line?" % (device, wait))
        code = 0 if answer.get("ok") else 1
        if code or operation != "config" or not as_json:
            _tell(device, operation, answer, as_json)
        if not code and operation == "config":
            code = _configuration(line, device, args["rev"], as_json)
    raise typer.Exit(code)
