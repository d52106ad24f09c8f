# loaded.py BOARD IMAGE [MODULE]..: modules that a device with BOARD (1, or 0: without) has loaded
# once it runs, with these besides, and the heap that they take, imported from IMAGE.
import gc
import json
import sys

import rom


class _Chip:
    """Stands for the modules of the chip: anything asked of it is there."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


rom.mount(sys.argv[2])
names = sys.argv[3:]
if sys.argv[1] == "1":
    for module in ("esp32", "machine", "network"):
        sys.modules[module] = _Chip()
    names += ["board", "drivers.wifi"]
gc.collect()
before = gc.mem_alloc()
rom.load(*names)
gc.collect()
after = gc.mem_alloc()
print(json.dumps({"bytes": after - before, "modules": sorted(sys.modules)}))
