"""The life with a network of campaign `memory-tasks`: Wi-Fi, time servers, name server, broker and
backend come and go (site.py), a session is charged, commands are given, pulses checked against the
register. Calls fail in the tasks that have to do with that.

On top of what holds for every life: at its end the device is on line and knows the time, the
backend has every frame as it lies on flash, the device knows that, and a command is answered.
"""

from types import SimpleNamespace

from drivers import netif
from drivers.pulse_meter import EdgeRing
from drivers.wifi import Wifi
from evmeter.metering import crosscheck
from evmeter.metering.crosscheck import CrossCheck
from evmeter.monitoring import alarms as codes
from evmeter.monitoring.status import Monitor
from evmeter.system.sntp import SntpClient
from evmeter.system.timekeeper import TimeKeeper
from evmeter.uplink import commands, link, mqtt, publisher, resolver
from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink
from evmeter.uplink.resolver import Resolver
from evmeter_tools.faults import world as charger
from evmeter_tools.faults.site import BROKER, PASSWORD, SSID, TIME_SERVERS, Site
from evmeter_tools.faults.tasks_session import Charger, Life
from evmeter_tools.faults.world import STEP_MWH

TASKS = ("network", "uplink", "time", "pulses", "commands")
_DEVICE = "demo-0001"
_KEY_ID = "a1b2c3d4"  # of world.py's signer
_IMP_PER_KWH = 1000
_MWH = 1_000_000
_LEVEL_MS = 30  # of an S0 pulse, closed and open
_LEAST_MS = 5
_COARSE_MS = 250  # while nothing happens
_SETTLE_MS = 20000
_MOST_SETTLES = 40


class _Contact:
    """The meter's pulse output."""

    def __init__(self, world):
        self._world = world
        self.level = 1
        self.ring = None
        self._told = self._gone()

    def __call__(self):
        return self.level

    def _gone(self):
        return self._world.meter.gone_mwh() * _IMP_PER_KWH // _MWH

    async def run(self):
        """Close and open for each pulse."""
        sleep_ms = self._world.time.sleep_ms
        while True:
            while self._told < self._gone():
                self._told += 1
                for level in (0, 1):
                    self.level = level
                    self.ring.isr(None)
                    await sleep_ms(_LEVEL_MS)
            await sleep_ms(_COARSE_MS)


class _Event:
    """asyncio.Event without an event loop."""

    def __init__(self, sleep_ms):
        self._sleep_ms = sleep_ms
        self._is_set = False

    def set(self):
        self._is_set = True

    def clear(self):
        self._is_set = False

    async def wait(self):
        while not self._is_set:
            await self._sleep_ms(_COARSE_MS)


class _Online(Life):
    """A life whose App has a network."""

    def _make_app(self):
        super()._make_app()
        app, world = self.app, self.world
        site, board, time = world.site, world.board, world.time
        board.name = "host"
        board.network = Wifi(site.start(), site.network, SSID, PASSWORD, hostname=_DEVICE,
                             ticks=time, urandom=site.random)
        names = Resolver(board.network.dns_servers, board.nvs, app.ledger.quiet,
                         sockets=site.sockets, urandom=site.random)
        settings = dict(app.config["clock"], servers=TIME_SERVERS, time_authority=True)
        client = SntpClient(app.clock, names, site.sockets, site.random, world.pause_ms)
        app.time = TimeKeeper(settings, app.clock, client, None, board.network.up, site.random,
                              world.pause_ms)
        app.monitor = monitor = Monitor(app.config, app.clock, board, app.poll, app.keeper,
                                        app.journal, None, app.alarms, app.boots)
        monitor.time = app.time
        settings = dict(app.config["mqtt"], host=BROKER)
        app.uplink = monitor.uplink = uplink = Uplink(
            settings, _DEVICE, app.journal, app.clock, monitor, _KEY_ID,
            Link(names, sockets=site.sockets, poll=site.poll))
        uplink.on_damage, uplink.on_command = app.damaged, app.command
        uplink.on_config, uplink.on_greet = app.wish, app.report_config
        app.keeper.on_change = app.alarms.on_change = uplink.status_changed
        contact = _Contact(world)
        contact.ring = EdgeRing(contact, ticks=time)
        app.crosscheck = CrossCheck(contact.ring, _IMP_PER_KWH, STEP_MWH)
        app._commands = None
        app.supervisor.start = self._spawn
        time.spawn(contact.run())
        for name, function in (("pulses", app.crosscheck.run), ("network", board.network.run),
                               ("uplink", uplink.run), ("time", app.time.run)):
            self._spawn(name, function)


class Connected(Charger):
    """A Charger on a Site."""

    lives = _Online

    def __init__(self, injector):
        super().__init__(injector)
        self.site = Site(self.time, self.true_ms, _DEVICE, _KEY_ID)
        self.last = ""  # id of the newest command

    async def pause_ms(self, ms):
        """A pause of what has to do with the network: not long, and longer where nothing
        happens."""
        if self.time.now_us >= self._fine_until_us:
            ms = max(ms, _COARSE_MS)
        await self.time.sleep_ms(max(ms, _LEAST_MS))

    def acknowledge(self):
        """The backend does it."""

    def patches(self):
        """As Charger."""
        names = {"asyncio": SimpleNamespace(sleep_ms=self.pause_ms,
                                            Event=lambda: _Event(self.pause_ms)),
                 "time": self.time, "os": SimpleNamespace(urandom=self.site.random)}
        return super().patches() + [
            (module, {name: names[name] for name in names if hasattr(module, name)})
            for module in (netif, crosscheck, commands, link, mqtt, publisher, resolver)]

    def play(self):
        """A session while everything beyond the device fails once."""
        site = self.site
        self.boot("U")
        self.pass_ms(40000)
        self.plug(charger.B)
        self.pass_ms(3000)
        self.plug(charger.C, 7200)
        self.pass_ms(60000)
        site.command("identify")
        self.pass_ms(3000)
        site.command("user", {"IL": "HEARSAY", "IT": "ISO14443", "ID": "CARD000001"})
        self.pass_ms(3000)
        site.command("nothing")
        site.broker.fall()
        self.pass_ms(30000)
        site.broker.down = False
        self.pass_ms(30000)
        site.name_server = False
        site.drop()
        self.pass_ms(20000)
        site.access_point = True
        self.pass_ms(60000)
        site.name_server = True
        self.restart()
        self.pass_ms(60000)
        site.command("resend", {"from": 1, "to": 5})
        self.pass_ms(10000)
        self.plug(charger.A)
        self.pass_ms(30000)
        self.injector.armed = False
        for _ in range(_MOST_SETTLES):
            self.pass_ms(_SETTLE_MS)
            if site.answered(self.last) and self._delivered():
                break
            self.last = site.command("identify")
        self.pass_ms(_SETTLE_MS)

    def _delivered(self):
        journal = self.device.journal
        return journal.cursor == journal.next_seq - 1

    def judge(self, least):
        """As Charger."""
        self.truth.pending.add("CARD000001")
        wrong = super().judge(least)
        device, broker = self.device, self.site.broker
        app, journal = device.app, device.journal
        if not app.uplink.online or not app.board.network.up():
            wrong.append("off line: %s; %s" % (app.uplink.reason, app.board.network.status))
        if device.clock.quality == "U":
            wrong.append("the time is not known: %s" % app.time.status)
        head = journal.next_seq - 1
        if sorted(broker.frames) != list(range(1, head + 1)) or journal.cursor != head:
            wrong.append("%d frames, %d at the backend, %d known to be"
                         % (head, len(broker.frames), journal.cursor))
        for seq in range(journal.oldest(), head + 1):
            if broker.frames.get(seq) != bytes(journal.view(seq)[1]):
                wrong.append("frame %d differs at the backend" % seq)
        if broker.conflicts:
            wrong.append("frames %s came in two versions" % broker.conflicts[:3])
        if not self.site.answered(self.last):
            wrong.append("a command was not answered")
        if codes.PULSES in app.alarms.codes():
            wrong.append("pulses and register are said not to agree")
        return wrong
