"""`evmeter receipt`: files for the driver and the operator, one set a session."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.errors import UserError
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.read import find_all, read_input, read_key
from evmeter_tools.words import clean, wrap

_NAME_LENGTH = 80


def _names(sessions):
    """A file name without a folder for each session, no two alike."""
    taken = set()
    for session in sessions:
        stem = re.sub("[^A-Za-z0-9_-]+", "_", session.id)[:_NAME_LENGTH].strip("_") or "session"
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = "%s_%d" % (stem, number)
        taken.add(name.lower())
        yield name


def _chosen(report, wanted, name):
    sessions = [session for session in report.sessions if wanted in (None, session.id)]
    if not sessions and report.sessions:
        known = ", ".join(session.id for session in report.sessions[:5])
        raise UserError("%s holds no session %s; it has %s" % (
            name, clean(wanted)[:60], clean(known)[:200]))
    if not sessions:
        raise UserError("%s: none of its records can be read" % name)
    return sessions


def write(sessions, folder, key_given=False):
    """Write the files of sessions (verify.sessions.Session) into `folder`, which is made; returns
    the paths. Raises UserError where that cannot be done."""
    from evmeter_tools.receipt.content import sheet
    from evmeter_tools.receipt.page import html
    from evmeter_tools.receipt.pdf import pdf
    from evmeter_tools.receipt.safe_xml import own_values, values

    made = datetime.now(UTC)
    paths = []
    try:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for session, name in zip(sessions, _names(sessions), strict=True):
            content = sheet(session, key_given)
            text = "".join(record.text + "\n" for record in session.records)
            for suffix, body in (("xml", values(session)), ("ocmf", text),
                                 ("meter.xml", own_values(session)),
                                 ("html", html(content)), ("pdf", pdf(content, made))):
                if body is None:
                    continue
                paths.append(folder / ("%s.%s" % (name, suffix)))
                paths[-1].write_bytes(
                    body if isinstance(body, bytes) else body.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError("--out %s: cannot be written: %s"
                        % (folder, error.strerror or error)) from error
    return paths


def receipt(
    file: Annotated[
        str, typer.Argument(help="OCMF text, JSON lines or S.A.F.E. XML; - is the standard input")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write into; it is made")],
    session: Annotated[str | None, typer.Option(help="Only this session's id")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Public key: hex, or a file with hex, PEM or DER")
    ] = None,
):
    """Write each session as S.A.F.E. XML, OCMF text and a receipt (HTML and PDF, with QR code).

    Every record is checked first, as by evmeter verify; a receipt says what was found. What a
    meter has signed itself is in the receipt and, by its own key, in an XML file of its own. Files
    of the same name are replaced.

    Exit code 0: everything holds. 1: something does not, and its receipt says so. 2: the input,
    the key or the folder cannot be used.

    Example: evmeter receipt build/demo/records.jsonl --out receipts
    """
    given = None if key is None else read_key(key)
    name = "standard input" if file == "-" else file
    records, entries = find_all(read_input(file), name)
    if not given and not any(own for _, own in records):
        raise UserError("%s holds no key: give the device's public key by --key" % name)
    report = judge(records, entries, given)
    sessions = _chosen(report, session, name)
    paths = write(sessions, out, given is not None)
    for each in sessions:
        print("%s: %s, %s" % (clean(each.id)[:50], each.state,
                              "verified" if each.ok else "NOT VERIFIED"))
    for reason in report.reasons:
        print("\n".join(wrap(reason, "! ")))
    print("%d files written to %s" % (len(paths), out))
    if report.reasons or not all(each.ok for each in sessions):
        raise typer.Exit(1)
