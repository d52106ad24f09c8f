"""The tests' fakes, for campaigns that need the same: one fake of each thing is enough."""

import sys

from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT

TESTS = ROOT / "host_tests"


def reach():
    """Make `fakes` importable. Raises UserError outside of a checkout."""
    if not TESTS.is_dir():
        raise UserError("%s is missing: this command runs in a checkout" % TESTS)
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
