"""A folder of CDRs, one JSON file each, named after its id; none is ever changed."""

import os
import re
from pathlib import Path

from evmeter_tools.billing.cdr import credit, read, same, text
from evmeter_tools.billing.price import Held
from evmeter_tools.errors import UserError


class CdrFolder:
    """CDRs in the folder `path`, which is made. Raises UserError where it cannot be used."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError("%s: %s" % (path, error.strerror)) from None

    def _path(self, name):
        if not re.fullmatch("[A-Za-z0-9_-]{1,39}", name, re.ASCII):
            raise Held("its id %.40r is no name for a file" % name)
        return self.path / (name + ".json")

    def _get(self, name):
        path = self._path(name)
        if not path.exists():
            return None
        try:
            return read(path.read_text(encoding="utf-8"))
        except (UserError, OSError, ValueError) as error:
            raise UserError("%s: %s" % (path, error)) from None

    def _write(self, cdr):
        """Never over one that is there; what was not written whole is taken away again."""
        path = self._path(cdr["id"])
        words = text(cdr) + "\n"
        try:
            with path.open("x", encoding="utf-8") as file:
                try:
                    file.write(words)
                    file.flush()
                    os.fsync(file.fileno())
                except BaseException:
                    path.unlink()
                    raise
        except OSError as error:
            raise UserError("%s: %s" % (path, error.strerror)) from None
        return path

    def in_force(self, sid):
        """(the CDR that counts for a session or None, number that a new one would have)."""
        number, found = 1, None
        while True:
            cdr = self._get(sid if number == 1 else "%s-%d" % (sid, number))
            if cdr is None:
                return found, number
            found = None if self._get(cdr["id"] + "-C") else cdr
            number += 1

    def put(self, billing, session, now_ms):
        """Make a session's CDR where it has none: returns "made", "there", or "differs" where one
        is in force that says something else, or "credited" where it was taken back. Raises Held.
        """
        found, number = self.in_force(session.sid)
        if found is None and number > 1:
            return "credited"
        cdr = billing.cdr(session, now_ms, number)
        if found is None:
            self._write(cdr)
            return "made"
        return "there" if same(found, cdr) else "differs"

    def correct(self, billing, session, now_ms, replace=True):
        """Credit the CDR in force and write a new one, if `replace`; where it was credited before,
        only that. Returns the paths. Raises UserError where nothing is to be corrected, Held where
        no new one can be made."""
        found, number = self.in_force(session.sid)
        if found is None and (number == 1 or not replace):
            raise UserError("%s has no CDR in force" % session.sid)
        if found is None:
            return [self._write(billing.cdr(session, now_ms, number))]
        new = billing.cdr(session, now_ms, number) if replace else None
        if new and same(found, new):
            raise UserError("the CDR %s says the same; nothing to correct" % found["id"])
        return [self._write(cdr) for cdr in (credit(found, now_ms), new) if cdr]
