"""`evmeter backend ...`: run the collector, enrol a device. What is stored: listing.py."""

import contextlib
import fcntl
import getpass
import hashlib
import logging
import os
import secrets
import signal
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.backend.broker import HOST, Broker, find_mosquitto
from evmeter_tools.backend.collector import Collector
from evmeter_tools.backend.credentials import COLLECTOR, Credentials
from evmeter_tools.backend.leader import Leader
from evmeter_tools.backend.messages import is_device
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.outbox import Channels, pair
from evmeter_tools.backend.store import Store, shown
from evmeter_tools.errors import UserError
from evmeter_tools.verify.parse import KeyFormatError, parse_key

Database = Annotated[
    str, typer.Option("--db", help="SQLite file, or postgresql://user:password@host/name")]
_Folder = Annotated[Path, typer.Option("--dir", help="Where the broker keeps its files")]
_WebListen = Annotated[str, typer.Option(help="Address of the pages")]
_PublicUrl = Annotated[
    str, typer.Option(help="What drivers reach the pages by; for links and QR codes")]
_TlsCert = Annotated[Path | None, typer.Option(help="Certificate chain, PEM")]
_TlsKey = Annotated[Path | None, typer.Option(help="Its key, PEM")]
_BehindProxy = Annotated[
    bool, typer.Option("--behind-proxy", help="A proxy in front of the pages does TLS")]
_Operator = Annotated[
    str, typer.Option(help="Operator's file (JSON): who bills, places, tariffs")]
DEFAULT_DB = "build/backend/evmeter.sqlite"
_DEFAULT_FOLDER = Path("build/backend")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def open_store(db):
    if "://" not in db:
        Path(db).parent.mkdir(parents=True, exist_ok=True)
        # hashes of passwords and who has charged are nobody else's business
        with contextlib.suppress(OSError):
            os.close(os.open(db, os.O_CREAT | os.O_RDWR, 0o600))
    return Store(db)


def _external(broker, user, ca):
    """Where a broker is that runs already."""
    host, _, given = broker.rpartition(":")
    if not host or not given.isdigit():
        raise UserError("--broker %s: give it as host:port" % broker)
    password = os.environ.get("EVMETER_BROKER_PASSWORD", "")
    if user and not password:
        raise UserError("--broker-user needs the password in EVMETER_BROKER_PASSWORD")
    return Address(host, int(given), user, password, ca)


def _alone(folder):
    """A file to be held open for as long as a broker of ours keeps its files in the folder: a
    second one there would write over the first one's. Raises UserError."""
    file = (folder / "broker.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError("another backend's broker keeps its files in %s; end it, or give another "
                        "--dir, or this one's --broker" % folder) from None
    return file


def _own(stack, folder, port, listen, tls, is_open):
    """A broker of our own, started, and how to log in at it; the ExitStack `stack` ends it."""
    credentials = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone(folder))
        if find_mosquitto() and not is_open:
            credentials = Credentials(folder)
        broker = Broker(folder, port, credentials=credentials, listen=listen, tls=tls).start()
    except OSError as error:
        raise UserError("--dir %s: %s" % (folder, error.strerror or error)) from None
    stack.callback(broker.stop)
    if not credentials:
        return broker, Address(HOST, broker.inside)
    return broker, Address(HOST, broker.inside, COLLECTOR, credentials.collector_password)


def _channels(smtp, sender, ntfy, alert, escalate, after_s):
    return Channels(
        smtp=smtp, sender=sender, ntfy=ntfy, operators=tuple(map(pair, alert)),
        escalation=tuple(map(pair, escalate)), escalate_after_s=after_s,
        smtp_user=os.environ.get("EVMETER_SMTP_USER", ""),
        smtp_password=os.environ.get("EVMETER_SMTP_PASSWORD", ""),
        smtp_starttls=bool(os.environ.get("EVMETER_SMTP_USER"))).check()


def _public(url):
    """What drivers reach the pages by, if it can be that."""
    if url and not url.startswith(("http://", "https://")):
        raise UserError("--public-url %s: give it with https://" % url)
    return url


def _beyond(address, tls, proxied):
    """Refuse what would put passwords on a network in the clear."""
    if address not in _LOOPBACK and not (tls or proxied):
        raise UserError("--web-listen %s: give --tls-cert and --tls-key, or --behind-proxy where "
                        "a proxy does TLS" % address)


def _operator(path):
    """The settings that follow from the operator's file. Raises UserError."""
    settings = {"metrics_token": os.environ.get("EVMETER_METRICS_TOKEN", "")}
    if path:
        from evmeter_tools.billing.party import read_operator

        known = read_operator(path)
        settings.update(operator=path, party=(known.country_code, known.party_id))
    return settings


def _pair_of_files(certificate, key):
    if (certificate is None) != (key is None):
        raise UserError("--tls-cert and --tls-key go together")
    for name in (certificate, key):
        if name is not None and not name.is_file():
            raise UserError("%s is no file" % name)
    return (certificate, key) if certificate else None


def run(
    db: Database = DEFAULT_DB,
    port: Annotated[int, typer.Option(
        min=1, max=65535, help="Port of the broker that is started")] = 1883,
    broker: Annotated[
        str | None, typer.Option(help="host:port of a broker that runs already")] = None,
    broker_user: Annotated[
        str, typer.Option(help="Log-in there; password in EVMETER_BROKER_PASSWORD")] = "",
    broker_ca: Annotated[
        str, typer.Option(help="CA file that its certificate is checked against")] = "",
    folder: _Folder = _DEFAULT_FOLDER,
    listen: Annotated[
        str, typer.Option(help="Address at which devices reach the broker")] = HOST,
    is_open: Annotated[
        bool, typer.Option("--no-login", help="A broker for a bench: anybody may log in")] = False,
    share: Annotated[
        str | None, typer.Option(help="Group of replicas that share the work (MQTT 5)")] = None,
    web_port: Annotated[int, typer.Option(
        min=0, max=65535, help="Port of the pages; 0: none")] = 8080,
    web_listen: _WebListen = HOST,
    public_url: _PublicUrl = "",
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    behind_proxy: _BehindProxy = False,
    smtp: Annotated[
        str, typer.Option(help="Mail server, host:port; EVMETER_SMTP_USER and _PASSWORD")] = "",
    mail_from: Annotated[str, typer.Option(help="Sender of mails")] = "evmeter@localhost",
    ntfy: Annotated[str, typer.Option(help="URL of an ntfy server")] = "",
    alert: Annotated[
        list[str] | None,
        typer.Option(metavar="CHANNEL:TARGET", help="Told of critical alarms: email:, webhook: "
                     "or ntfy:; repeatable")] = None,
    escalate: Annotated[
        list[str] | None,
        typer.Option(metavar="CHANNEL:TARGET", help="Told where nobody acknowledged one in time")
    ] = None,
    escalate_after_s: Annotated[int, typer.Option(min=10, help="How long that is")] = 300,
    operator: _Operator = "",
    gap_wait_s: Annotated[
        int, typer.Option(min=1, help="So long numbers may be missing until they are asked for")
    ] = 60,
    no_time: Annotated[bool, typer.Option(
        "--no-time", help="Do not tell the time to devices that do not know it")] = False,
):
    """Collect, check, store, acknowledge and show, until Ctrl-C.

    Nothing listens beyond this machine unless it is told to. Example:

    evmeter backend run --db postgresql://evmeter@localhost/evmeter --share collectors
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    tls = _pair_of_files(tls_cert, tls_key)
    _beyond(web_listen, tls, behind_proxy)
    channels = _channels(smtp, mail_from, ntfy, alert or (), escalate or (), escalate_after_s)
    public_url, settings = _public(public_url), _operator(operator)
    store = open_store(db)
    if share and store.is_sqlite:
        raise UserError("--share needs --db postgresql://...: SQLite serves one process")
    name = "%s-%d" % (socket.gethostname()[:20], os.getpid()) if share else "collector"
    ended = _until_told()
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        if broker:
            address = _external(broker, broker_user, broker_ca)
        else:
            own, address = _own(stack, folder, port, listen, tls if listen != HOST else None,
                                is_open)
            if own.notice:
                print(own.notice)
            if listen != HOST:
                print("devices reach the broker at %s:%d%s"
                      % (listen, own.port, ", by TLS" if own.tls else ", NOT by TLS"))
        collector = Collector(store, address, name, share)
        collector.start()
        stack.callback(collector.stop)
        leader = Leader(store, address, "leader-" + name, channels, gap_wait_s, not no_time)
        leader.start()
        stack.callback(leader.stop)
        print("collecting from %s into %s; Ctrl-C ends it" % (address, shown(db)), flush=True)
        if web_port:
            from evmeter_tools.web.server import Server, Settings

            server = Server(store, Settings(
                channels=channels, public_url=public_url, secure=bool(tls or behind_proxy),
                **settings), web_listen, web_port, tls)
            server.start()
            stack.callback(server.stop)
            print("pages at %s" % server.url, flush=True)
            _first_account(store)
        ended.wait()
    print("%d messages stored" % collector.stored)


def _first_account(store):
    """Without one nobody could log in: its password is told once."""
    from evmeter_tools.web import access

    if not access.account_names(store):
        password = secrets.token_urlsafe(12)
        access.set_account(store, "operator", access.OPERATOR, password)
        print("first account: operator, password %s; more by 'evmeter backend user'" % password,
              flush=True)


def user(
    name: Annotated[str, typer.Argument(help="Name to log in with; without one: list them")] = "",
    role: Annotated[
        str, typer.Option(help="viewer: sees everything; operator: acknowledges, commands")
    ] = "viewer",
    remove: Annotated[bool, typer.Option("--remove", help="Take the account away")] = False,
    db: Database = DEFAULT_DB,
):
    """Make or change an account for the pages; the password is asked for, or EVMETER_PASSWORD.

    Example: evmeter backend user ann --role operator
    """
    from evmeter_tools.web import access

    store = open_store(db)
    try:
        if not name:
            for each, its_role in access.account_names(store):
                print("%-32s %s" % (each, its_role))
        elif remove:
            if not access.remove_account(store, name):
                raise UserError("there is no account %s" % name[:64])
            print("removed %s" % name)
        else:
            password = os.environ.get("EVMETER_PASSWORD") or getpass.getpass("password: ")
            access.set_account(store, name, role, password)
            print("%s is %s" % (name, role))
    finally:
        store.close()


def web(
    db: Database = DEFAULT_DB,
    web_port: Annotated[int, typer.Option(
        min=1, max=65535, help="Port of the pages")] = 8080,
    web_listen: _WebListen = HOST,
    public_url: _PublicUrl = "",
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    behind_proxy: _BehindProxy = False,
    smtp: Annotated[str, typer.Option(help="Mail server, as given to backend run")] = "",
    ntfy: Annotated[str, typer.Option(help="ntfy server, as given to backend run")] = "",
    operator: _Operator = "",
):
    """Serve the pages alone, beside collectors that run elsewhere on the same database.

    Example: evmeter backend web --db postgresql://evmeter@localhost/evmeter --web-port 8080
    """
    from evmeter_tools.web.server import Server, Settings

    tls = _pair_of_files(tls_cert, tls_key)
    _beyond(web_listen, tls, behind_proxy)
    store = open_store(db)
    server = Server(store, Settings(
        channels=Channels(smtp=smtp, ntfy=ntfy).check(), public_url=_public(public_url),
        secure=bool(tls or behind_proxy), **_operator(operator)), web_listen, web_port, tls)
    ended = _until_told()
    server.start()
    print("pages at %s" % server.url, flush=True)
    _first_account(store)
    ended.wait()
    server.stop()
    store.close()


def _until_told():
    """Set by Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended


def key_id(spki):
    """The short name of a public key: 8 hex digits. Raises UserError where it is no key."""
    return hashlib.sha256(_der(spki)).hexdigest()[:8]


def _der(spki):
    try:
        return parse_key(spki)
    except KeyFormatError as error:
        raise UserError("the public key cannot be used: %s" % error) from None


def enrol(
    device: Annotated[str, typer.Argument(help="The device's id")],
    spki: Annotated[str, typer.Argument(help="Its public key: SubjectPublicKeyInfo in hex")],
    db: Database = DEFAULT_DB,
    folder: _Folder = _DEFAULT_FOLDER,
    login: Annotated[
        bool, typer.Option(help="Make a password for mosquitto and print it, once")] = True,
):
    """Trust a device's key, and give the device a log-in at mosquitto.

    Messages under other keys are neither stored nor acknowledged. A device writes only its own
    topics; only the collector writes acknowledgements and commands.

    Example: evmeter backend enrol charger-17 3059301306072A86...
    """
    name = key_id(spki)
    if not is_device(device):
        raise UserError("%r is no device id: 1 to 20 of A-Z a-z 0-9 _ -, not beginning with _"
                        % device[:40])
    store = open_store(db)
    store.enrol(device, name, _der(spki).hex())
    store.close()
    print("enrolled %s, key %s" % (device, name))
    if login:
        password = Credentials(folder).add(device)
        print('for its configuration: "mqtt": {"user": "%s", "password": "%s"}'
              % (device, password))


def login(
    device: Annotated[str, typer.Argument(help="The device's id")],
    folder: _Folder = _DEFAULT_FOLDER,
    remove: Annotated[bool, typer.Option("--remove", help="Take its log-in away")] = False,
):
    """Give a device a new log-in at mosquitto, as before evmeter provision asks for one.

    Example: evmeter backend login charger-17
    """
    credentials = Credentials(folder)
    if not remove:
        print('user "%s", password "%s"' % (device, credentials.add(device)))
    elif not credentials.remove(device):
        raise UserError("%s has no log-in in %s" % (device[:40], folder))
    else:
        print("removed %s" % device)


def backup(
    out: Annotated[Path, typer.Argument(help="File to write; must not be there yet")],
    db: Database = DEFAULT_DB,
):
    """Copy an SQLite database, also while the backend runs.

    To restore, end the backend and put the copy in the database's place, without old -wal and
    -shm files beside it. What devices have sent since then they still hold as confirmed: numbers
    that are missing are asked for again once newer ones come. PostgreSQL: pg_dump, pg_restore.

    Example: evmeter backend backup evmeter-monday.sqlite
    """
    if out.exists():
        raise UserError("%s is there already; give another name" % out)
    if "://" not in db and not Path(db).is_file():
        raise UserError("there is no database %s" % db)
    store = open_store(db)
    try:
        store.backup(out)
    except UserError:
        out.unlink(missing_ok=True)  # half a copy is none
        raise
    finally:
        store.close()
    print("copied to %s" % out)
