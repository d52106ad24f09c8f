"""The folder that a run on this machine works in: emptied at its start, one run's at a time."""

import fcntl
import shutil
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD

_MARKER = "run-folder.txt"
_held = {}  # folder -> its marker, locked


def empty(folder):
    """Make the run folder `folder` anew; it is this process's until that ends. Raises UserError
    where it holds something that this tool did not put there, or another run is at work in it."""
    folder = Path(folder).resolve()
    marker = folder / _MARKER
    _held.pop(folder, None)
    if marker.exists():
        with marker.open() as file:
            _hold(file, folder)
    ours = marker.exists() or folder.is_relative_to(BUILD)
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise UserError("%s holds something else; give an empty folder by --dir" % folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.write_text("Made by evmeter; emptied at its next start.\n")
    _held[folder] = file = marker.open()
    _hold(file, folder)
    return folder


def _hold(file, folder):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError("another run is at work in %s; end it, or give another folder by --dir"
                        % folder) from None
