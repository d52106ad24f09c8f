"""CDRs before the models of OCPI 2.2.1 of extrawest_ocpi, in a process of its own.

    python ocpi_models.py FOLDER < one CDR a line

Prints "ok" or what is wrong, one line each. The models are written for pydantic 1, which comes
with pydantic 2 as `pydantic.v1`. What they have otherwise than the specification: plain_data of
at most 512 characters, an erratum that release-2.2.1-bugfixes has put right to 5000.
"""

import json
import sys
import types
from pathlib import Path

from pydantic import v1
from pydantic.v1 import fields


def models(folder):
    """The module of the models of CDRs."""
    sys.modules["pydantic"], sys.modules["pydantic.fields"] = v1, fields
    for name in ("py_ocpi", "py_ocpi.core"):  # their own packages would load a web framework
        package = types.ModuleType(name)
        package.__path__ = [str(Path(folder, *name.split(".")))]
        sys.modules[name] = package
    sys.path.insert(0, str(folder))
    from py_ocpi.modules.cdrs.v_2_2_1 import schemas

    plain_data = schemas.SignedValue.__fields__["plain_data"].type_
    assert plain_data.max_length == 512
    plain_data.max_length = 5000
    return schemas


if __name__ == "__main__":
    Cdr = models(sys.argv[1]).Cdr
    for line in sys.stdin:
        try:
            Cdr(**json.loads(line))
            print("ok")
        except v1.ValidationError as error:
            print(" ".join(str(error).split()))
