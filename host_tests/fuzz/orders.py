"""What comes back from the backend: commands with what they ask for, wished configurations."""

import json

from changes import changed

from evmeter.ledger.signer import SignerError
from evmeter.session import orders
from evmeter.system import config, twin
from evmeter.system.twin import merged
from evmeter.uplink import commands
from evmeter.uplink.commands import check
from fakes.order_app import FakeApp
from fakes.reported import shown

DEVICE = "demo-0001"
_LONGEST = 3584
_HIGHEST = 1 << 53
_COMMAND = {"v": 1, "id": "c-1", "op": "resend", "args": {"from": 41, "to": 45}, "exp": 1790000060}
_SIGNED = dict(_COMMAND, dev=DEVICE, ctr=7, by="11086649", sg="3006020101020101")
_WISH = {"v": 1, "rev": 6, "cfg": {}}
_OPERATIONS = ("identify", "resend", "time", "reboot", "config", "alarm_ack", "limit", "update",
               "key_change", "user", "target", "stop")
_VALUES = (*_OPERATIONS, DEVICE, 6000, 41, 45, 1790000060, 3584, {"seconds": 5}, {"ma": 16000},
           {"code": "METER"}, {"by": "remote"}, {"rev": 6, "cfg": {}}, {"unix_ms": 1, "n": 3},
           {"IL": "NONE", "IT": "LOCAL", "ID": "1"}, {"target_mwh": 5}, {"force": True})
_NAMES = ("op", "args", "exp", "dev", "ctr", "by", "sg", "rev", "cfg", "from", "to", "ma", "n")
_ALLOWED = {False: {"id", "op", "args"}, True: {"rev", "cfg"}}
_SECRETS = ("geheim-17", "MHcCAQEEIK", "wlan-geheim")
_GIVEN = {
    "id": DEVICE, "rev": 5, "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
    "mqtt": {"host": "broker.example", "password": _SECRETS[0], "key": _SECRETS[1], "ca": "MIIB"},
    "network": {"password": _SECRETS[2]}}
SETTINGS = config.parse(json.dumps(_GIVEN))
_SHOWN = shown(SETTINGS)[0]


def _loaded(data):
    try:
        text = data.decode("ascii")
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and len(data) <= _LONGEST else None


def _whole(found, name, low, high):
    return type(found.get(name)) is int and low <= found[name] <= high


def _short(found, name, most):
    value = found.get(name)
    return isinstance(value, str) and 0 < len(value) <= most and all(
        32 < ord(one) < 127 for one in value)


def _is_command(data, found, wish):
    """The rules at the top of uplink/commands.py, once more."""
    if found is None or not _whole(found, "v", 1, 1):
        return False
    if set(found) - _ALLOWED[wish] - {"v", "ts", "tq", "exp", "dev", "ctr", "by", "sg"}:
        return False
    if wish and not _whole(found, "rev", 1, 0x7FFFFFFF):
        return False
    if not wish and not (_short(found, "id", 36) and _short(found, "op", 16)):
        return False
    if not isinstance(found.get("cfg" if wish else "args", {}), dict):
        return False
    signed = bool({"ctr", "by", "sg"} & set(found))
    if "dev" in found and found["dev"] != DEVICE or signed and "dev" not in found:
        return False
    if (signed or not wish) and not _whole(found, "exp", 0, _HIGHEST):
        return False
    return not signed or (
        _whole(found, "ctr", 1, _HIGHEST) and _short(found, "by", 8) and _short(found, "sg", 144)
        and data.endswith((', "sg": "%s"}' % found["sg"]).encode()))


def _done(coroutine):
    """Run what does not wait to its end."""
    try:
        for _ in range(1000):
            coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("never comes to an end")


class _Keeper:
    session = None

    def __init__(self):
        self.taken = []

    def engaged(self):
        return False

    async def order(self, name, given):
        self.taken.append(orders.check(name, given))


_APP = FakeApp()
_APP.keeper = _Keeper()
_APP.alarms.acknowledge = lambda code: None


def _ask(found):
    """Do what a sound command says: done, or refused by a ValueError or ConfigError in one line.
    """
    operations = _APP.operations
    operations.restart_due, operations._new = False, None
    del _APP.board.log[:], _APP.uplink.answers[:]
    try:
        answer = _done(operations.do(found["op"], found["args"], ""))
    except (ValueError, config.ConfigError, SignerError) as error:
        assert str(error) and "\n" not in str(error), "not one line"
        assert not operations.restart_due and not _APP.board.log, "refused, and yet begun"
        return
    assert found["op"] in _OPERATIONS, "does what is no operation"
    assert answer is None or json.loads(json.dumps(answer)) == answer, "no answer"
    assert not _APP.board.log, "a relevant change without a signature"


def command(data):
    """A command or a wish: what is one is taken as it stands, anything else refused in one line.
    """
    wish = bool(data[:1] and data[0] & 1)
    if data[:1] and data[0] & 6:
        data = changed(_WISH if wish else _SIGNED if data[0] & 2 else _COMMAND, data[1:], _VALUES,
                       _NAMES).encode("utf-8", "replace")
    else:
        data = data[1:]
    found = _loaded(data)
    try:
        taken = commands.read(data)
        check(taken, data, DEVICE, wish)
    except (commands.CommandError, config.ConfigError) as error:
        assert str(error) and "\n" not in str(error), "not one line"
        assert not _is_command(data, found, wish), "refused what is a command"
        return
    assert _is_command(data, found, wish), "took what is none"
    signed = taken.pop("signed", None)
    assert (signed is not None) == ("sg" in found), "signature not seen"
    assert signed is None or data[signed:].startswith(b', "sg": "'), "another signed part"
    found.setdefault("cfg" if wish else "args", {})
    assert taken == found, "another command"
    if not wish:
        _ask(taken)


def wish(data):
    """A wished configuration: whole with what it does not show, or ConfigError; no secret told."""
    if data[:1] == b"\x01":
        text = changed(_SHOWN, data[1:])
    else:
        text = data.decode("utf-8", "replace")
    try:
        wished = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(wished, dict):
        return
    given = json.loads(json.dumps(wished))
    try:
        new = merged(SETTINGS, wished, 6)
    except config.ConfigError as error:
        assert str(error) and "\n" not in str(error), "not one line"
        assert json.dumps(given) != json.dumps(_SHOWN), "refused a good one"
        return
    assert new["rev"] == 6 and "rev" not in given
    for section in ("mqtt", "network"):
        for name in ("password", "key", "ca"):
            if name in SETTINGS[section]:
                told = given.get(section, {})
                assert isinstance(told, dict), "took what is no section"
                assert new[section][name] == told.get(name, SETTINGS[section][name]), name
    found = twin.changes(SETTINGS, new)
    assert json.loads(json.dumps(new)) == json.loads(json.dumps(config.parse(json.dumps(new))))
    seen, kept = shown(new)
    hidden = [value for value in (new["mqtt"]["password"], new["mqtt"]["key"],
                                  new["network"]["password"]) if value and len(value) > 8]
    told = json.dumps([seen, kept])
    try:
        relevant = twin.to_sign(found)
        told += json.dumps(twin.told(found, relevant))
    except config.ConfigError:
        return
    for secret in (*_SECRETS, *hidden):
        if json.dumps(secret) not in json.dumps([given, "set"]):
            assert json.dumps(secret) not in told, "a secret is told"
    assert not twin.to_sign(twin.changes(new, merged(new, seen, 6))), "no round trip"
