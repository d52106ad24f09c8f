"""The live view on the terminal; plain lines where the output is no terminal."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_WIDTH = 80
_LINES = 9
_PILOT = {"A": "A  no vehicle", "B": "B  vehicle connected", "C": "C  vehicle draws current",
          "D": "D  vehicle draws current, ventilation", "E": "E  pilot fault",
          "F": "F  charger not available", "": "-"}


def energy_text(mwh):
    """Energy in mWh as Wh with three decimals, exactly."""
    sign = "-" if mwh < 0 else ""
    return "%s%d.%03d Wh" % (sign, abs(mwh) // 1000, abs(mwh) % 1000)


class View:
    """Shows a Watch; `note` adds what the demo itself does."""

    def __init__(self, watch, title, interactive=None):
        self._watch = watch
        self._title = title
        self.console = Console(width=_WIDTH, highlight=False)
        if interactive is None:
            interactive = self.console.is_terminal
        self._interactive = interactive
        self._live = None
        self._shown = 0
        self._began = time.monotonic()
        self._device_on = True

    def __enter__(self):
        if self._interactive:
            self._live = Live(self._draw(), console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_):
        self.refresh()
        if self._live:
            self._live.stop()

    def device(self, is_on):
        """Say whether the device has power."""
        self._device_on = is_on

    def note(self, text):
        """Tell what the demo does now."""
        self._watch.say("> " + text)
        self.refresh()

    def refresh(self):
        """Draw anew, or print what is new."""
        if self._live:
            self._live.update(self._draw())
            return
        lines = self._watch.lines
        total = self._watch.said
        fresh = total - self._shown
        for stamp, text in lines[-fresh:] if fresh else ():
            self.console.print(Text("%s  %s" % (stamp, text)), overflow="ellipsis", no_wrap=True)
        self._shown = total

    def _draw(self):
        status, live = self._watch.status, self._watch.telemetry
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(no_wrap=True)
        off = not self._device_on
        power_w = self._watch.power_w()
        grid.add_row("Control pilot", "-" if off else _PILOT.get(status.get("cp", ""), "-"),
                     "Power", "-" if off or power_w is None else "%d W" % power_w)
        grid.add_row("Session", "no power" if off else status.get("st", "-"),
                     "Session energy", "-" if off else energy_text(live.get("s_mwh", 0)))
        grid.add_row("Records on flash", str(self._watch.head),
                     "acknowledged", str(self._watch.confirmed))
        grid.add_row("Meter register", energy_text(live.get("e_mwh", 0)),
                     "Time", "%d s" % (time.monotonic() - self._began))
        log = Text("\n".join("%s  %s" % line for line in self._watch.lines[-_LINES:]),
                   overflow="ellipsis", no_wrap=True)
        return Group(Panel(grid, title=self._title), Panel(log, height=_LINES + 2))
