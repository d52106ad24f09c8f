# loaded.py: modules that the firmware loads, and the heap that they take.
import gc
import json
import sys

gc.collect()
before = gc.mem_alloc()
__import__("evmeter.app")

gc.collect()
after = gc.mem_alloc()
print(json.dumps({"bytes": after - before, "modules": sorted(sys.modules)}))
