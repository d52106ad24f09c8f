import gc

# early and often: a heap that fills up with what importing, signing and texts leave is crumbs
gc.threshold(4096)

import board  # noqa: E402
from evmeter.app import App, StartError  # noqa: E402

hardware = board.build()
try:
    app = App(hardware)
except StartError as error:
    from evmeter.system.trial import go_back

    go_back(hardware, str(error))
    hardware.halt("evmeter: %s" % error)
else:
    gc.collect()
    app.run()
