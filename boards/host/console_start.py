"""Starts main.py as MicroPython's shared/runtime/pyexec.c does on a chip: compiled first, then
Ctrl-C is switched on, then it runs.

There a Ctrl-C waits for the next jump of the program, and main.py's first one is inside of its
`try`; the unix port may raise it before: that stands for what main.py would make of it.
"""

import sys

import micropython

_RESTART = 3  # exit code

micropython.kbd_intr(-1)
with open(sys.argv[1]) as file:
    program = compile(file.read(), sys.argv[1], "exec")
names = {"__name__": "__main__"}
print("console: started")
try:
    micropython.kbd_intr(3)
    exec(program, names)  # noqa: S102
except KeyboardInterrupt:
    if "prompt" in names:
        raise
    sys.exit(_RESTART)
