"""Programs from Debian's packages without root: fetched and unpacked into build/.

An apt directory tree of our own, with one source whose address and key are the system's own.
"""

import platform
import shutil
import subprocess
from pathlib import Path

_SYSTEM = Path("/etc/apt")


class FetchError(Exception):
    """A package cannot be had; the text says why."""


def _deb822(text):
    """Entries of a .sources file as dicts."""
    for block in text.split("\n\n"):
        fields = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith(("#", " ")):
                fields[name.strip().lower()] = value.strip()
        if fields.get("enabled", "yes").lower() != "no" and "uris" in fields:
            yield fields["uris"].split()[0], fields.get("suites", ""), fields.get("signed-by")


def _one_line(text):
    """Entries of a sources.list file."""
    for raw in text.splitlines():
        line = raw.split("#")[0].strip()
        if not line.startswith("deb ") and not line.startswith("deb\t"):
            continue
        rest, key = line[4:].strip(), None
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
            for option in options.split():
                if option.startswith("signed-by="):
                    key = option[10:]
        words = rest.split()
        if len(words) >= 2:
            yield words[0], words[1], key


def sources():
    """Every (address, suites, key file or None) that the system's apt uses."""
    found = []
    for path in sorted((_SYSTEM / "sources.list.d").glob("*.sources")):
        found += _deb822(path.read_text())
    for path in [_SYSTEM / "sources.list", *sorted((_SYSTEM / "sources.list.d").glob("*.list"))]:
        if path.exists():
            found += _one_line(path.read_text())
    return found


def codename():
    """The system's own suite, such as bookworm."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise FetchError("this is no Debian: /etc/os-release names no suite")


def main_source(suite):
    """(address, key) of the main archive: the source that offers the system's own suite."""
    for address, suites, key in sources():
        if suite in suites.split() and "security" not in address:
            return address, key
    raise FetchError("apt has no source for %s" % suite)


def fetch(suite, names, folder, needed):
    """Unpack the packages `names` of `suite` into `folder`; only those in `needed` must exist.

    Raises FetchError.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise FetchError("apt-get and dpkg are needed to fetch %s" % needed[0])
    address, key = main_source(codename())
    apt = Path(folder).parent / (Path(folder).name + ".apt")
    shutil.rmtree(apt, ignore_errors=True)
    for part in ("state/lists/partial", "cache/archives/partial", "debs"):
        (apt / part).mkdir(parents=True)
    option = "[signed-by=%s] " % key if key and key.startswith("/") else ""
    (apt / "sources.list").write_text("deb %s%s %s main\n" % (option, address, suite))
    common = ["apt-get", "-qq"]
    for setting in ("Dir::Etc::sourcelist=%s/sources.list" % apt, "Dir::Etc::sourceparts=-",
                    "Dir::Etc::preferencesparts=-", "Dir::State=%s/state" % apt,
                    "Dir::Cache=%s/cache" % apt, "Dir::State::status=/var/lib/dpkg/status",
                    "APT::Sandbox::User=", "Acquire::Retries=3", "Acquire::Languages=none"):
        common += ["-o", setting]
    _run([*common, "update"], apt)
    for name in names:
        done = subprocess.run([*common, "download", name], cwd=apt / "debs", check=False,
                              capture_output=True, text=True)
        if done.returncode and name in needed:
            raise FetchError("%s cannot be had from %s: %s"
                             % (name, suite, _last_line(done.stderr)))
    shutil.rmtree(folder, ignore_errors=True)
    for package in sorted((apt / "debs").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(folder)], apt)
    shutil.rmtree(apt, ignore_errors=True)


def _last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _run(command, folder):
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise FetchError("%s failed: %s" % (command[0], _last_line(done.stderr)))


def triplet():
    """The folder of this machine's libraries, such as x86_64-linux-gnu."""
    return {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}.get(
        platform.machine(), platform.machine() + "-linux-gnu")
