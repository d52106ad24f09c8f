# image_heap.py IMAGE FOLDER: heap that the imports of the firmware and the host board take from
# IMAGE, and the emulated flash, which on a chip is none of the heap.
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
flash = sys.modules["host_flash"].FlashFile(sys.argv[2] + "/flash.new", 8)
gc.collect()
print(json.dumps({"imported": imported, "flash": gc.mem_alloc() - before - imported}))
