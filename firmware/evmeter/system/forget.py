"""Give back the memory of a module that is needed once."""

import sys


def forget(package, name):
    """Drop the module `package`.`name`; the next import loads it again."""
    sys.modules.pop(package + "." + name, None)
    if hasattr(sys.modules[package], name):
        delattr(sys.modules[package], name)
