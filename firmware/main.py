import board
from evmeter.app import App, StartError

hardware = board.build()
try:
    app = App(hardware)
except StartError as error:
    hardware.halt("evmeter: %s" % error)
else:
    app.run()
