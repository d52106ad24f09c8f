# start.py IMAGE SCRIPT: runs a script from its source, as a chip does main.py, over IMAGE.
import sys

import rom

rom.mount(sys.argv[1])
with open(sys.argv[2]) as file:
    source = file.read()
exec(source, {"__name__": "__main__"})  # noqa: S102
