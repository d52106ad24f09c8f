# loaded.py: modules that the firmware loads, and the heap that they take.
import gc
import json
import sys

gc.collect()
before = gc.mem_alloc()
for name in ("evmeter.app", "evmeter.session.recovery", "drivers.modbus_meter",
             "drivers.modbus_rtu"):
    __import__(name)

gc.collect()
after = gc.mem_alloc()
print(json.dumps({"bytes": after - before, "modules": sorted(sys.modules)}))
