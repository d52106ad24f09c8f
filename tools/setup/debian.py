"""Programs from Debian's packages without root: fetched and unpacked into build/.

An apt directory tree of our own, with one source whose address and key are the system's own.
"""

import shutil
import subprocess
from pathlib import Path

_SYSTEM = Path("/etc/apt")
_RELEASE = Path("/etc/os-release")
_ALIASES = ("stable", "oldstable", "testing", "unstable", "sid")
# fields of a source that say how far it is trusted: carried over to ours
_TRUST = ("signed-by", "trusted", "check-valid-until", "check-date", "allow-insecure",
          "allow-weak")


class FetchError(Exception):
    """A package cannot be had; the text says why."""


def _fields(block):
    """Fields of one deb822 stanza; a value keeps its continuation lines."""
    fields = {}
    name = None
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line
            continue
        key, colon, value = line.partition(":")
        if colon:
            name = key.strip().lower()
            fields[name] = value.strip()
    return fields


def parse_deb822(text):
    """Fields of every enabled binary source in a .sources file."""
    found = []
    for block in text.replace("\r", "").split("\n\n"):
        fields = _fields(block)
        if ("uris" in fields and "deb" in fields.get("types", "").split()
                and fields.get("enabled", "yes").lower() not in ("no", "false", "0")):
            found.append(fields)
    return found


def parse_one_line(text):
    """The same fields of every binary source in a sources.list file."""
    found = []
    for raw in text.splitlines():
        kind, _, rest = raw.split("#")[0].strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        if kind != "deb" or rest.startswith("cdrom:"):
            continue
        fields = {}
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
            for option in options.split():
                name, _, value = option.partition("=")
                fields[name.lower()] = value
        words = rest.split()
        if len(words) >= 3:
            fields.update(uris=words[0], suites=words[1], components=" ".join(words[2:]))
            found.append(fields)
    return found


def sources(system=_SYSTEM):
    """Fields of every source that the system's apt uses."""
    found = []
    for path in sorted((system / "sources.list.d").glob("*.sources")):
        found += parse_deb822(path.read_text())
    for path in [system / "sources.list", *sorted((system / "sources.list.d").glob("*.list"))]:
        if path.exists():
            found += parse_one_line(path.read_text())
    return found


def codename(release=_RELEASE):
    """The system's own suite, such as bookworm."""
    lines = release.read_text().splitlines() if release.exists() else []
    for line in lines:
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise FetchError("this is no Debian: /etc/os-release names no suite")


def archives(found, own):
    """Of the sources `found`, those of a whole Debian archive: main of the suite `own`.

    Another vendor's packages may call their suite the same, so there may be several.
    """
    main = [fields for fields in found if "main" in fields.get("components", "").split()]
    named = [fields for fields in main if own in fields["suites"].split()]
    named = named or [fields for fields in main
                      if any(alias in fields["suites"].split() for alias in _ALIASES)]
    if not named:
        raise FetchError("apt has no source for the main part of %s" % own)
    return named


def stanza(fields, suite):
    """A source of our own: the address and the key of `fields`, another suite."""
    lines = ["Types: deb", "URIs: %s" % fields["uris"], "Suites: %s" % suite, "Components: main"]
    lines += ["%s: %s" % (name, fields[name]) for name in _TRUST if name in fields]
    return "\n".join(lines) + "\n"


def fetch(suite, names, folder, needed, *, closure=False):
    """Unpack the packages `names` of `suite` into `folder`; only those in `needed` must exist.
    With `closure` also what they depend on and the system has not installed.

    Raises FetchError.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise FetchError("apt-get and dpkg are needed to fetch %s" % needed[0])
    reasons = []
    for fields in archives(sources(), codename()):
        try:
            _fetch(stanza(fields, suite), names, Path(folder), needed, closure)
            return
        except FetchError as error:
            reasons.append(str(error))
    raise FetchError(reasons[0])


def _fetch(source, names, folder, needed, closure):
    apt = folder.parent / (folder.name + ".apt")
    shutil.rmtree(apt, ignore_errors=True)
    for part in ("state/lists/partial", "cache/archives/partial", "sources", "debs"):
        (apt / part).mkdir(parents=True)
    (apt / "sources" / "evmeter.sources").write_text(source)
    command = ["apt-get", "-qq"]
    for setting in ("Dir::Etc::sourcelist=/dev/null", "Dir::Etc::sourceparts=%s/sources" % apt,
                    "Dir::Etc::preferencesparts=/dev/null", "Dir::State=%s/state" % apt,
                    "Dir::Cache=%s/cache" % apt, "Dir::State::status=/var/lib/dpkg/status",
                    "APT::Sandbox::User=", "APT::Update::Error-Mode=any", "Acquire::Retries=3",
                    "Acquire::Languages=none"):
        command += ["-o", setting]
    try:
        _run([*command, "update"], apt)
        if closure:
            names = _closure(command, names, apt)
        for name in names:
            try:
                _run([*command, "download", name], apt / "debs")
            except FetchError as error:
                if name in needed:
                    raise FetchError("%s cannot be had: %s" % (name, error)) from None
        shutil.rmtree(folder, ignore_errors=True)
        for package in sorted((apt / "debs").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(folder)], apt)
    finally:
        shutil.rmtree(apt, ignore_errors=True)


def _closure(command, names, folder):
    """The packages that apt would install for `names`; nothing is locked or installed."""
    lines = _run([*command, "-o", "Debug::NoLocking=1", "--no-install-recommends", "install",
                  "--print-uris", *names], folder).splitlines()
    found = [line.split()[1].partition("_")[0] for line in lines if line.startswith("'")]
    return list(dict.fromkeys([*names, *found]))


def _run(command, folder):
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line[2:].strip() for line in lines if line.startswith("E:")] or lines
        raise FetchError("%s: %s" % (command[0], errors[0] if errors else "no reason given"))
    return done.stdout


def loader(folder):
    """The unpacked libc's own program loader in `folder`, or None; beside it lie the libraries."""
    return next(iter(sorted(Path(folder).glob("usr/lib/*-linux-*/ld-linux*.so.*"))), None)
