"""What the composition root does by itself, each without the rest of the device."""

from types import SimpleNamespace

from evmeter.app import App
from fakes.memory_store import MemoryNvs


def test_a_signature_that_did_not_verify_raises_an_alarm_once():
    told = []
    app = SimpleNamespace(signer=SimpleNamespace(failures=0), _bad_signatures=0,
                          alarms=SimpleNamespace(happened=lambda *what: told.append(what)))
    for failures, expected in ((0, 0), (1, 1), (1, 1), (3, 2)):
        app.signer.failures = failures
        App._watch_signer(app)
        assert len(told) == expected
    assert told[1][0] == "SIGNATURE_FAULT" and told[1][2] == "3 signature(s) did not verify"
    app.signer = None
    app._bad_signatures = 0
    App._watch_signer(app)
    assert len(told) == 2


def test_a_restart_by_an_order_counts_as_no_short_life():
    nvs = MemoryNvs()
    nvs.set_i32("short", 3)
    resets = []
    app = SimpleNamespace(short_lives=3,
                          board=SimpleNamespace(nvs=nvs, reset=lambda: resets.append(1)))
    app._count_short = lambda short: App._count_short(app, short)
    App.restart(app)
    assert (nvs.get_i32("short"), app.short_lives, resets) == (2, 2, [1])
