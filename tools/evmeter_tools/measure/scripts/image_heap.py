# image_heap.py IMAGE FOLDER: heap that the imports of the firmware and the host board take from
# IMAGE; and what on a chip is none of the heap: flash, second store, the meter's line and the
# ADC's samples as they are emulated in the run folder.
import gc
import json
import sys

import rom

rom.mount(sys.argv[1])
gc.threshold(2048)
gc.collect()
before = gc.mem_alloc()
rom.load("board", "host_flash")
gc.collect()
imported = gc.mem_alloc() - before
folder = sys.argv[2]
emulated = (sys.modules["host_flash"].FlashFile(folder + "/flash.new", 8),
            sys.modules["host_nvs"].NvsFile(folder + "/nvs.json"),
            sys.modules["host_uart"].Uart(folder + "/meter.tty"),
            sys.modules["host_adc"].PilotAdc(folder + "/pilot.bin"))
gc.collect()
print(json.dumps({"imported": imported, "emulated": gc.mem_alloc() - before - imported}))
