# Runs one test module under MicroPython: micropython run_micropython.py test_name
#
# The last line says how many passed and failed; exit code 1 where one failed or none ran.

import gc
import sys

# Collect early: a small heap that is filled to the brim by compiling is left in crumbs.
gc.threshold(2048)

name = sys.argv[1]
module = __import__(name)
passed = failed = 0
for attribute in sorted(dir(module)):
    if not attribute.startswith("test_"):
        continue
    try:
        getattr(module, attribute)()
        passed += 1
    except Exception as error:
        failed += 1
        print("FAILED %s.%s" % (name, attribute))
        sys.print_exception(error)
    gc.collect()
print("%d passed, %d failed" % (passed, failed))
sys.exit(0 if passed and not failed else 1)
