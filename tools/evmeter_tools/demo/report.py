"""The table at the end of the demo, and whether everything held."""

from rich.table import Table

from evmeter_tools.backend import sessions as stored
from evmeter_tools.demo.view import energy_text
