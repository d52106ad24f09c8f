"""Wi-Fi and Ethernet stay up, come back, say why not, and never hold the loop for 100 ms."""

from drivers.ethernet import Ethernet
from drivers.wifi import Wifi
from fakes.radio import Lan, Network, Wlan
from fakes.virtual_time import VirtualTime

_STATIC = ("192.168.7.9", "255.255.255.0", "192.168.7.1", "192.168.7.53")


class _Bench:
    """A driver over a fake on virtual time; `chance` is what the random byte is."""

    def __init__(self, make, chance=255, reach=lambda ssid, password: 0, **parts):
        self.clock = clock = VirtualTime()
        self.network = Network()
        if make is Wifi:
            self.nic = Wlan(clock, reach)
            parts = dict({"ssid": "site", "password": "secret"}, **parts)
        else:
            self.nic = Lan(clock)
        self.driver = make(self.nic, self.network, ticks=clock,
                           urandom=lambda count: bytes([chance] * count), **parts)
        self.longest_ms = 0

    def play(self, seconds, until=None):
        """Step as `run` does for so long; returns whether `until` came true."""
        ends_ms = self.clock.mono_ms() + 1000 * seconds
        while self.clock.mono_ms() < ends_ms:
            began_ms = self.clock.mono_ms()
            self.driver.step()
            self.longest_ms = max(self.longest_ms, self.clock.mono_ms() - began_ms)
            if until and until():
                return True
            self.clock.pass_ms(250)
        return False

    def count(self, name, *args):
        return len([call for call in self.nic.calls if call == (name,) + args])


def test_wifi_comes_up_with_its_name_country_and_address():
    bench = _Bench(Wifi, hostname="evm-0001", country="DE", dns=("9.9.9.9",))
    driver = bench.driver
    assert not driver.up() and driver.dns_servers() == ["9.9.9.9"]
    assert bench.play(10, driver.up)
    assert driver.status == "up, 192.168.1.50" and driver.rssi_dbm == -61
    assert driver.dns_servers() == ["9.9.9.9", "192.168.1.1"]
    assert bench.network.told == [("country", "DE"), ("hostname", "evm-0001")]
    assert bench.nic.calls[:3] == [("active", True), ("config", 0), ("connect", "site")]
    assert driver.diag() == {"net": "up, 192.168.1.50", "net_drops": 0, "net_fails": 0,
                             "net_why": "", "rssi_dbm": -61}
    assert bench.longest_ms <= 100


def test_wifi_comes_back_after_each_drop_and_counts_it():
    bench = _Bench(Wifi)
    driver = bench.driver
    for drop in range(1, 8):
        assert bench.play(200, driver.up)
        bench.nic.drop()
        assert bench.play(2, lambda: not driver.up())
        assert driver.drops == drop and driver.rssi_dbm is None
        assert driver.status == "down: the access point is gone"
    assert bench.longest_ms <= 100


def test_reasons_have_words():
    for code, word in ((201, "no such network in reach"), (202, "wrong password?"),
                       (204, "wrong password?"), (15, "wrong password?"), (5, "full"),
                       (77, "reason 77")):
        bench = _Bench(Wifi, reach=lambda ssid, password, code=code: code)
        assert not bench.play(30, bench.driver.up)
        assert word in bench.driver.status or word in bench.driver.reason, code


def test_pauses_double_up_to_a_minute_and_the_radio_is_restarted_now_and_then():
    for chance, least in ((255, 60), (0, 30)):
        bench = _Bench(Wifi, chance, reach=lambda ssid, password: 201)
        bench.play(3600)
        attempts = bench.count("connect", "site")
        assert 3600 // (least + 5) - 1 <= attempts <= 3600 // least + 8, attempts
        assert attempts // 5 <= bench.count("active", False) <= attempts // 4
        assert bench.nic.attempts == attempts  # the port makes none of its own
        assert bench.longest_ms <= 100


def test_a_pause_is_short_again_after_a_minute_of_quiet():
    bench = _Bench(Wifi, reach=lambda ssid, password: 201)
    bench.play(900)
    bench.nic._reach = lambda ssid, password: 0
    assert bench.play(70, bench.driver.up)
    bench.play(61)
    bench.nic.drop()
    bench.driver.step()
    assert not bench.driver.up()
    assert bench.play(6, bench.driver.up)


def test_no_address_and_no_answer_are_no_connection():
    bench = _Bench(Wifi)
    bench.nic.no_address = True
    assert not bench.play(120, bench.driver.up)
    assert "no connection within 20 s" in bench.driver.reason
    bench = _Bench(Wifi, reach=lambda ssid, password: 201, address=_STATIC)
    assert not bench.play(120, bench.driver.up)  # though the port says isconnected
    bench = _Bench(Wifi, address=_STATIC)
    assert bench.play(10, bench.driver.up)
    assert bench.driver.status == "up, 192.168.7.9"
    assert bench.driver.dns_servers() == ["192.168.7.53"]


def test_the_ports_errors_are_reasons_and_pass():
    bench = _Bench(Wifi)
    nic, driver = bench.nic, bench.driver
    nic.active(True)
    nic.connect("somebody else", "before the soft reset")  # "Wifi Internal State Error"
    assert bench.play(60, driver.up)
    assert driver.failures >= 1 and bench.longest_ms <= 120
    kept = nic.connect

    for words in (("Wifi Internal Error",), ()):
        def refuse(ssid, password):
            raise OSError(*words)

        nic.drop()
        nic.connect = refuse
        assert not bench.play(100, lambda: False)
        assert not driver.up() and (words or ("error",))[0] in driver.reason
        nic.connect = kept
        assert bench.play(100, driver.up)


def test_a_setting_that_the_port_refuses_is_a_reason_too():
    bench = _Bench(Wifi, country="Germany")
    assert not bench.play(30, bench.driver.up)
    assert "country" in bench.driver.status and bench.driver.failures > 1, bench.driver.status
    assert bench.driver.diag()["net_why"].startswith("country")


def test_ethernet_comes_up_waits_for_its_cable_and_comes_back():
    bench = _Bench(Ethernet, hostname="evm-0001")
    driver = bench.driver
    assert bench.play(10, driver.up)
    assert driver.status == "up, 192.168.1.60" and driver.dns_servers() == ["192.168.1.1"]
    assert bench.network.told == [("hostname", "evm-0001")]
    bench.nic.plug(False)
    bench.play(600)
    assert driver.status == "down: no cable" and (driver.drops, driver.failures) == (1, 1)
    assert bench.count("active", False) == 0
    bench.nic.plug(True)
    assert bench.play(10, driver.up)
    assert driver.diag()["net_drops"] == 1 and bench.longest_ms <= 100


def test_ethernet_without_an_address_is_started_again():
    bench = _Bench(Ethernet)
    bench.nic.lease_ms = None
    assert not bench.play(900, bench.driver.up)
    assert "no address within 60 s" in bench.driver.reason
    assert bench.count("active", False) >= 1
    bench.nic.lease_ms = 2000
    assert bench.play(130, bench.driver.up)
    bench = _Bench(Ethernet, address=_STATIC)
    assert bench.play(5, bench.driver.up) and bench.driver.status == "up, 192.168.7.9"


def test_an_ethernet_that_does_not_start_is_tried_again():
    bench = _Bench(Ethernet)
    bench.nic.broken = 3
    assert bench.play(60, bench.driver.up)
    assert bench.driver.failures == 3 and bench.longest_ms <= 100
