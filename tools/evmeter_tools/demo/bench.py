"""Everything around one device on this machine: meter, vehicle, broker, collector, device."""

import subprocess
import sys
import time
from decimal import ROUND_HALF_UP, Decimal

from evmeter_tools.backend import broker as brokers
from evmeter_tools.bench.meter import float_bits_mwh
from evmeter_tools.demo.rig_client import Rig
from evmeter_tools.demo.watch import Watch
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice, micropython
from evmeter_tools.paths import ROOT
