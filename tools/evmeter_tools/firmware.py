"""The firmware's modules on CPython, for campaigns and figures that run them in this process."""

import sys

from evmeter_tools.errors import UserError
from evmeter_tools.paths import FIRMWARE, HOST_BOARD, ROOT, UMQTT


def reach():
    """Make `evmeter`, `drivers` and the host board importable. Raises UserError outside of a
    checkout."""
    if not FIRMWARE.is_dir():
        raise UserError("%s is missing: this command runs in a checkout" % FIRMWARE)
    for folder in (UMQTT, HOST_BOARD, ROOT, FIRMWARE):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    import cpython_shim

    cpython_shim.install()
