import gc

gc.threshold(4096)  # a heap that fills up with what importing leaves ends in crumbs

import board  # noqa: E402
from evmeter.app import App, StartError  # noqa: E402

hardware = board.build()
try:
    app = App(hardware)
except StartError as error:
    hardware.halt("evmeter: %s" % error)
else:
    gc.collect()
    gc.threshold(-1)
    app.run()
