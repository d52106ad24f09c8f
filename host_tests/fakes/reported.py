"""What a backend reads of a reported configuration."""

import json

from evmeter.system import report


def shown(settings):
    """(The fields that are shown, what stands for those that are hidden)."""
    told = json.loads("{%s}" % "".join(report.members(settings)))
    return told["cfg"], told["kept"]
