"""`evmeter provision` on the host board and over a serial port."""

import base64
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pypdf import PdfReader

from evmeter_tools.backend.store import Store
from evmeter_tools.bench.tls_servers import Certificates
from evmeter_tools.device.label import label as make_label
from evmeter_tools.host_device import micropython_path
from evmeter_tools.operator import signing
from repl_device import Chip

ROOT = Path(__file__).resolve().parents[1]
_CONFIG = {"id": "charger-17", "meter": {"profile": "eastron_sdm120", "p_max_w": 7400},
           "mqtt": {"host": "broker.example", "ca": "@ca.pem"}}
_ANSWERS = ["charger-18", "DE*EVM*E1", "eastron_sdm630", "9600", "N", "1", "22000", "fe3",
            "127.0.0.1", "1883", "", "", "ptb.example time.example", "site", "secret123", ""]
_KEY = ec.generate_private_key(ec.SECP256R1())


def _provision(*arguments, answers=None):
    done = subprocess.run(
        [sys.executable, "-m", "evmeter_tools.cli", "provision", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        input="".join(line + "\n" for line in answers) if answers else None,
        env=dict(os.environ, PYTHONPATH=str(ROOT / "tools")))
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path):
    Certificates(tmp_path)
    (tmp_path / "junk.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n"
                                        + base64.encodebytes(b"der" * 30)
                                        + b"-----END CERTIFICATE-----\n")
    path = tmp_path / "charger.json"
    path.write_text(json.dumps(_CONFIG))
    return path


def test_a_device_is_commissioned_enrolled_and_labelled(file, tmp_path):
    folder, label, db = tmp_path / "run", tmp_path / "label.pdf", tmp_path / "x.sqlite"
    arguments = (file, "--dir", folder, "--db", db, "--label", label, "--page",
                 "https://verify.example/charger-17", "--json")
    code, out, error = _provision(*arguments)
    assert code == 0, error
    known = json.loads(out)
    assert known["formatted"] is True
    store = Store(db)
    assert store.trusted() == {("charger-17", known["k"]): known["spki"]}
    store.close()
    text = PdfReader(label).pages[0].extract_text()
    assert "charger-17" in text and known["k"] in text and "No conformity" in text
    written = json.loads((folder / "config.json").read_text())
    assert written["mqtt"]["ca"] in (tmp_path / "ca.pem").read_text().replace("\n", "")
    code, out, _ = _provision(*arguments)  # once more: key and journal stay
    assert code == 0 and json.loads(out) == {**known, "formatted": False}


def test_the_longest_id_fits_the_label():
    sizes = {}
    for name in ("charger-17", "W" * 20, "i" * 20):
        page = PdfReader(io.BytesIO(make_label(name, "90e194e9", "3059" * 45))).pages[0]
        page.extract_text(visitor_text=lambda text, _c, _t, _f, size, name=name: sizes.update(
            {name: size} if text.strip() == name else {}))
    assert sizes["charger-17"] == sizes["i" * 20] == 16
    # Helvetica-Bold's W is 944 thousandths wide; 92 mm are 260.8 points
    assert 20 * 0.944 * sizes["W" * 20] <= 261


def test_the_log_in_is_made_where_the_brokers_folder_is_given(file, tmp_path):
    folder, broker = tmp_path / "run", tmp_path / "broker"
    code, out, error = _provision(file, "--dir", folder, "--broker-dir", broker)
    assert code == 0 and "its log-in is in" in out, error
    mqtt = json.loads((folder / "config.json").read_text())["mqtt"]
    assert mqtt["user"] == "charger-17"
    held = dict(line.split(":", 1) for line in (broker / "passwords").read_text().splitlines())
    _, kind, rounds, salt, digest = held["charger-17"].split("$")
    assert kind == "7" and base64.b64decode(digest) == hashlib.pbkdf2_hmac(
        "sha512", mqtt["password"].encode(), base64.b64decode(salt), int(rounds))
    assert mqtt["password"] not in out
    # another log-in is not overwritten, and none is made for a device that took nothing
    file.write_text(json.dumps({**_CONFIG, "mqtt": {**_CONFIG["mqtt"], "user": "somebody"}}))
    code, _, error = _provision(file, "--dir", folder, "--broker-dir", broker)
    assert code == 2 and "logs in by its id" in error
    file.write_text(json.dumps({**_CONFIG, "id": "charger-19", "meter": {"profile": "none"}}))
    code, _, error = _provision(file, "--dir", folder, "--broker-dir", broker)
    assert code == 2 and "charger-19" not in (broker / "passwords").read_text()


@pytest.mark.parametrize("over_a_port", [False, True])
def test_a_foreign_flash_is_told_and_erased_only_where_that_is_wished(file, tmp_path, over_a_port):
    folder = tmp_path / "run"
    folder.mkdir()
    chip, where = None, ("--dir", folder)
    if over_a_port:
        chip = Chip(folder, path=micropython_path(), heap="512k", EVMETER_HOST_DIR=str(folder))
        where = ("--port", chip.port)
    image = b"someone's data" + bytes(4 * 1024 * 1024 - 14)
    (folder / "flash.img").write_bytes(image)
    try:
        code, out, error = _provision(file, *where)
        assert (code, out) == (2, "")
        assert "the flash holds something else, which was left" in error
        assert (folder / "flash.img").read_bytes() == image
        code, out, error = _provision(file, *where, "--erase", "--json")
        assert code == 0, error
        assert json.loads(out)["formatted"] is True
        code, out, _ = _provision(file, *where, "--erase", "--json")  # a journal stays
        assert json.loads(out)["formatted"] is False
    finally:
        if chip:
            chip.close()


@pytest.mark.parametrize("over_a_port", [False, True])
def test_what_the_device_refuses_leaves_it_as_it_was(file, tmp_path, over_a_port):
    folder = tmp_path / "run"
    assert _provision(file, "--dir", folder)[0] == 0
    held, flash = (folder / "config.json").read_text(), (folder / "flash.img").read_bytes()
    chip, where = None, ("--dir", folder)
    if over_a_port:
        chip = Chip(folder, flash, path=micropython_path(), heap="512k",
                    EVMETER_HOST_DIR=str(folder))
        where = ("--port", chip.port)
    try:
        for change, words in (({"journal": {"store": "littlefs"}}, "holds a ring of sectors"),
                              ({"id": "charger-18"}, "")):
            file.write_text(json.dumps({**_CONFIG, **change}))
            code, _, error = _provision(file, *where)
            assert (code, words in error) == (2 if words else 0, True), error
            now = json.loads((folder / "config.json").read_text())
            assert now == json.loads(held) if words else now["id"] == "charger-18"
            assert (folder / "flash.img").read_bytes() == flash
    finally:
        if chip:
            chip.close()


@pytest.mark.parametrize(("garble", "words"), [
    (lambda out: out.replace(b'"spki": "30', b'"spki": "31'), "was garbled on its way. The"),
    (lambda out: out.replace(b'"k"', b'"j"'), "was garbled on its way. The"),
    (lambda out: out[:60] if b"spki" in out else out, "a line was garbled on its way"),
])
def test_a_key_that_comes_garbled_is_not_enrolled_and_the_log_in_stays(
        file, tmp_path, garble, words):
    folder, db = tmp_path / "run", tmp_path / "x.sqlite"
    folder.mkdir()
    chip = Chip(folder, path=micropython_path(), heap="512k", EVMETER_HOST_DIR=str(folder))
    (folder / "flash.img").unlink()
    arguments = (file, "--port", chip.port, "--db", db, "--broker-dir", tmp_path / "broker")
    try:
        chip.garble = garble
        code, out, error = _provision(*arguments)
        assert (code, out, chip.resets) == (2, "", 1)
        assert words in error and "give the command again" in error, error
        assert error.count("\n") == 1
        store = Store(db)
        assert store.trusted() == {}
        # the device has the log-in that this made, and may be reached by nothing else
        assert "charger-17:" in (tmp_path / "broker" / "passwords").read_text()
        chip.garble = lambda out: out
        code, out, error = _provision(*arguments)
        assert code == 0 and len(store.trusted()) == 1, error
        store.close()
    finally:
        chip.close()


def test_questions_in_place_of_a_file(tmp_path):
    operator, release = signing.make_key(tmp_path / "operator.pem"), signing.spki(_KEY)
    code, out, error = _provision("--dir", tmp_path / "run", "--save", tmp_path / "kept.json",
                                  "--open",
                                  answers=[*_ANSWERS, str(tmp_path / "operator.pem"), release])
    assert code == 0, error
    assert "not enrolled: evmeter backend enrol charger-18" in out
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written == json.loads((tmp_path / "kept.json").read_text())
    assert written["meter"] == {"profile": "eastron_sdm630", "baud": 9600, "parity": "N",
                                "unit": 1, "p_max_w": 22000}
    assert written["mqtt"] == {"host": "127.0.0.1", "port": 1883, "tls": "off"}
    assert written["clock"] == {"servers": ["ptb.example", "time.example"]}
    assert written["network"]["ssid"] == "site"
    assert written["operator"] == {"keys": [signing.spki(operator)]}
    assert written["update"] == {"keys": [release]}


def test_over_a_serial_port(file, tmp_path):
    folder = tmp_path / "chip"
    folder.mkdir()
    chip = Chip(folder, path=micropython_path(), heap="512k", EVMETER_HOST_DIR=str(folder))
    (folder / "flash.img").unlink()  # the board makes its own
    try:
        code, out, error = _provision(file, "--port", chip.port, "--json")
    finally:
        chip.close()
    assert code == 0, error
    assert json.loads(out)["id"] == "charger-17" and chip.resets == 1
    assert json.loads((folder / "config.json").read_text())["id"] == "charger-17"


@pytest.mark.parametrize(("change", "more", "words"), [
    ({"id": "_x"}, (), "id is '_x'"),
    ({"colour": "red"}, (), "unknown field colour"),
    ({"mqtt": {"host": "h", "ca": "@none.pem"}}, (), "none.pem cannot be read"),
    # with these the firmware would not start
    ({"mqtt": {"host": "h"}}, (), "mqtt.ca is missing"),
    ({"meter": {"profile": "sdm120", "p_max_w": 7400}}, (), "there is: "),
    ({"meter": {"profile": "pulse", "p_max_w": 7400}}, (), "meter.imp_per_kwh is missing"),
    ({"meter": {"profile": {"make": "M"}, "p_max_w": 7400}}, (), "is None; allowed"),
    ({"meter": {"profile": {}, "p_max_w": 7400}}, (), "meter.profile: make is None; allowed"),
    ({"meter": {"profile": "p" * 10000, "p_max_w": 7400}}, (), "allowed: a text of 1 to 40"),
    ({"tariff": "t" * 10000}, (), "tttt'; allowed: an object"),
    ({"pilot": {"front_end": "fe9"}}, (), "front end fe9 is not one of fe1"),
    ({"mqtt": {"host": "h", "ca": "@junk.pem"}}, (), "mqtt.ca is neither PEM nor base64 of DER"),
    ({"mqtt": {"host": "h", "ca": "@charger.json"}}, (), "mqtt.ca is neither PEM nor base64"),
    ({"mqtt": {"host": "h", "ca": base64.b64encode(b"0" * 90).decode()}}, (),
     "the CA certificate cannot be used"),
    ({"mqtt": {"host": "h", "ca": "ca.pem"}}, (), "mqtt.ca is neither PEM nor base64 of DER"),
    ({"mqtt": {"host": "my broker", "tls": "off"}}, (), "mqtt.host is 'my broker'; allowed"),
    ({"mqtt": {"host": "h", "tls": "off", "password": "geheim" * 30}}, (),
     "mqtt.password is 180 characters long; allowed: a text of 1 to 128 characters"),
    ({"network": {"address": "192.168.1"}}, (), "network.address is '192.168.1'; allowed"),
    ({"network": {"dns": ["dns.example"]}}, (), "network.dns has 'dns.example'; allowed"),
    ({}, ("--label", "x.pdf", "--page", "verify.example"), "must begin with https://"),
    ({}, ("--port", "/dev/x"), "give the device as --port"),
    # what comes last is tried first: the device's prompt may be closed by then
    ({}, ("--label", "no/such/x.pdf"), "no/such/x.pdf: no file can be written there"),
    ({}, ("--save", "/"), "/: no file can be written there"),
    ({}, ("--db", "/dev/null/x.sqlite"), "--db /dev/null/x.sqlite: File exists"),
    ({}, ("--db", "postgresql://me@127.0.0.1:1/x"), "cannot be used"),
    ({}, ("--db", "postgresql://127.0.0.1:1/x"), "cannot be used"),
    ({}, ("--dir", "/dev/null"), "--dir /dev/null: File exists"),
    ({}, ("--broker-dir", "/dev/null"), "--broker-dir /dev/null: File exists"),
])
def test_nothing_is_touched_where_something_is_wrong(file, tmp_path, change, more, words):
    file.write_text(json.dumps({**_CONFIG, **change}))
    code, out, error = _provision(file, "--dir", tmp_path / "run", *more)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert words in error and "geheim" not in error and len(error) < 450
    assert not (tmp_path / "run").exists()


def test_what_fails_behind_the_device_does_not_keep_its_key_back(file, tmp_path):
    db = tmp_path / "x.sqlite"
    code, out, _ = _provision(file, "--dir", tmp_path / "run", "--db", db, "--json")
    known = json.loads(out)
    assert code == 0 and db.stat().st_mode & 0o077 == 0
    connection = sqlite3.connect(db)
    with connection:
        connection.execute("update key set spki = '00'")
    connection.close()
    code, out, error = _provision(file, "--dir", tmp_path / "run", "--db", db)
    assert code == 2 and "has another key with the id" in error
    assert "public key " + known["spki"] in out


@pytest.mark.parametrize(("text", "words"), [
    ("", "line 1 column 1"), ("[]", "it must begin with {"), (None, "No such file"),
    ('{"id": "x",\n "meter": {}}\n}', "line 3 column 1"), ("[" * 99999, "nested too deep"),
    ('{"id": "a", "mqtt": {"port": 1883, "host": "h", "port": 8883}}', "port is there twice")])
def test_a_file_that_is_none(tmp_path, text, words):
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    code, _, error = _provision(path, "--dir", tmp_path / "run")
    assert code == 2 and error.count("\n") == 1
    assert words in error, error
