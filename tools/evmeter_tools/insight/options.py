"""What the commands that read the store have in common."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.backend.store import Store
from evmeter_tools.errors import UserError

_FIRST, _LAST = date(1970, 1, 2), date(2106, 1, 1)  # within the times of the contract
DEFAULT_DB = "build/backend/evmeter.sqlite"
Database = Annotated[str, typer.Option("--db", help="SQLite file or SQLAlchemy URL")]
ZoneName = Annotated[str, typer.Option("--zone", help="Time zone: Europe/Berlin, or a POSIX text")]
FromDay = Annotated[str | None, typer.Option(
    "--from", help="First day, 2026-03-01; the first of this month where left out")]
ToDay = Annotated[str | None, typer.Option(
    "--to", help="The day after the last; tomorrow where left out")]


def open_store(db):
    """The Store to read from. Raises UserError where there is none: none is made."""
    if "://" not in db and not Path(db).exists():
        raise UserError("there is no database %s; evmeter backend run makes it" % db)
    return Store(db)


def _day(text, name):
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UserError("--%s %.20s: give a day as 2026-03-01" % (name, text)) from None
    if not _FIRST <= day <= _LAST:
        raise UserError("--%s %s: allowed: %s to %s" % (name, day, _FIRST, _LAST))
    return day


def period_ms(zone, first, last):
    """(from, to) in Unix ms of the days given on the command line, local midnights."""
    today = zone.date(int(datetime.now(UTC).timestamp()))
    begin = _day(first, "from") if first else today.replace(day=1)
    end = _day(last, "to") if last else today + timedelta(days=1)
    if end <= begin:
        raise UserError("--to %s is not after --from %s" % (end, begin))
    return zone.midnight_s(begin) * 1000, zone.midnight_s(end) * 1000
