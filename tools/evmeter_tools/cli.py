"""The `evmeter` command: one entry point, each command in the module of its room."""

import sys

import typer

from evmeter_tools.backend import command as backend_command
from evmeter_tools.backend import listing as backend_listing
from evmeter_tools.bench import command as bench_command
from evmeter_tools.billing import command as billing_command
from evmeter_tools.demo import command as demo_command
from evmeter_tools.device import command as device_command
from evmeter_tools.device import console
from evmeter_tools.device.doctor import doctor
from evmeter_tools.device.provision import provision
from evmeter_tools.device.release import release
from evmeter_tools.errors import UserError
from evmeter_tools.export import command as export_command
from evmeter_tools.faults.command import faults
from evmeter_tools.fleet.command import fleet
from evmeter_tools.insight.command import show as report
from evmeter_tools.journal import command as journal_command
from evmeter_tools.measure.command import measure
from evmeter_tools.operator import command as operator_command
from evmeter_tools.operator.lock import lock, unlock
from evmeter_tools.operator.update import update
from evmeter_tools.receipt.command import receipt
from evmeter_tools.sample import command as sample_command
from evmeter_tools.scan.command import scan
from evmeter_tools.testing import selftest
from evmeter_tools.verify.command import verify

app = typer.Typer(
    name="evmeter",
    help="Signed charging-session metering for EV chargers: the host side.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
emulate = typer.Typer(help="Emulate a part of a charger on this machine.", no_args_is_help=True)
backend = typer.Typer(help="The operator's side: collect, store, acknowledge.",
                      no_args_is_help=True)
journal = typer.Typer(help="Read a device's journal out of its flash; never write to it.",
                       no_args_is_help=True)
cdr = typer.Typer(help="Charge detail records (OCPI 2.2.1) from verified sessions.",
                  no_args_is_help=True)
export = typer.Typer(help="Research data, Prometheus metrics, the NEVI quarterly set.",
                     no_args_is_help=True)
app.add_typer(emulate, name="emulate")
app.add_typer(backend, name="backend")
app.add_typer(journal, name="journal")
app.add_typer(release, name="release")
app.add_typer(cdr, name="cdr")
app.add_typer(export, name="export")
app.command()(demo_command.demo)
app.command("bench-rig")(demo_command.bench_rig)
app.command()(verify)
app.command()(receipt)
app.command()(selftest)
app.command()(scan)
app.command()(provision)
app.command()(update)
app.command()(lock)
app.command()(unlock)
app.command()(doctor)
app.command()(console.logs)
app.command()(console.shell)
app.command("pull-journal")(console.pull_journal)
app.command()(faults)
app.command()(fleet)
app.command()(measure)
app.command()(device_command.image)
app.command()(device_command.firmware)
app.command()(device_command.flash)
app.command("report")(report)
app.command()(operator_command.command)
app.command("operator-key")(operator_command.operator_key)
journal.command()(journal_command.read)
journal.command()(journal_command.export)
journal.command()(journal_command.check)
emulate.command("meter")(bench_command.meter)
backend.command()(backend_command.run)
backend.command()(backend_command.web)
backend.command()(backend_command.enrol)
backend.command()(backend_command.login)
backend.command()(backend_command.user)
backend.command()(backend_command.backup)
backend.command()(backend_listing.sessions)
backend.command()(backend_listing.export)
backend.command()(sample_command.fill)
cdr.command()(billing_command.make)
cdr.command()(billing_command.correct)
cdr.command()(billing_command.gaps)
export.command()(export_command.research)
export.command()(export_command.metrics)
export.command()(export_command.nevi)


def main():
    """Run a command; a `UserError` becomes one line and exit code 2."""
    try:
        app(prog_name="evmeter")
    except UserError as error:
        print("evmeter: %s" % error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
