import board

from evmeter.app import App

App(board.build()).run()
