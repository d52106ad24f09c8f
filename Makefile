# evmeter: `make help` lists the targets. Everything that is set up lies in build/.

PYTHON ?= python3
EVMETER := build/bin/evmeter
SETUP := $(PYTHON) tools/setup/bootstrap.py

.PHONY: help setup demo bench-rig backend fleet test bench faults firmware flash provision \
        lint clean

help:
	@echo "make demo                       two sessions, one broken by a power cut (2 min)"
	@echo "make test                       everything that can be checked on this machine"
	@echo "make bench-rig [METER=/dev/...] the bench until Ctrl-C, with a real meter if given"
	@echo "make backend                    broker, collector and pages at http://127.0.0.1:8080/"
	@echo "make fleet N=100                so many firmware processes, 10,000 devices that replay"
	@echo "make bench                      figures, beside what they are held against"
	@echo "make faults                     the long fault campaigns"
	@echo "make firmware BOARD= MICROPYTHON=  MicroPython for a board, from its sources"
	@echo "make flash BOARD= PORT=         put MicroPython and evmeter on a board"
	@echo "make provision PORT= [FILE=]    commission a device, by questions or from a file"
	@echo "make setup                      only set up build/"
	@echo "make lint                       ruff"
	@echo "make clean                      remove build/"

setup:
	@$(SETUP)

demo: setup
	@$(EVMETER) demo

bench-rig: setup
	@$(EVMETER) bench-rig $(if $(METER),--meter $(METER)) $(if $(BAUD),--baud $(BAUD))

backend: setup
	@$(EVMETER) backend run $(if $(DB),--db $(DB))

fleet: setup
	@$(EVMETER) fleet $(if $(N),--firmware $(N)) $(if $(DEVICES),--devices $(DEVICES))

test:
	@$(SETUP) --require micropython,mosquitto,postgres,chromium,pyocmf,node-ocmf,ocpi \
	  --try micropython32
	@$(EVMETER) selftest

bench: setup
	@$(EVMETER) measure

faults: setup
	@$(EVMETER) faults

firmware: setup
	@$(EVMETER) firmware --board "$(BOARD)" $(if $(MICROPYTHON),--micropython $(MICROPYTHON))

flash: setup
	@$(EVMETER) flash --board "$(BOARD)" --port "$(PORT)" \
	  $(if $(FIRMWARE),--firmware $(FIRMWARE)) $(if $(CONFIG),--config $(CONFIG))

provision: setup
	@$(EVMETER) provision $(FILE) --port "$(PORT)" $(if $(LABEL),--label $(LABEL))

lint: setup
	@build/venv/bin/ruff check .

clean:
	rm -rf build
