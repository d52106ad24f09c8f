"""Signing: a full signature against naive affine double-and-add on the same MicroPython, what it
leaves behind, the smallest heap in which it is made, and what other packages take."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from evmeter_tools.device import image
from evmeter_tools.errors import UserError
from evmeter_tools.measure import vm
from evmeter_tools.paths import BUILD, FIRMWARE, HOST_BOARD, ROOT

_FOLDER = BUILD / "measure-sign"
_LEAST_KIB, _AMPLE_KIB = 4, 96
_MODULES = ("evmeter/__init__", "evmeter/ledger/__init__", "evmeter/ledger/p256",
            "evmeter/ledger/p256_comb", "evmeter/ledger/signer", "evmeter/system/__init__",
            "evmeter/system/forget")
_NATIVE = ("evmeter/ledger/p256_viper", "evmeter/ledger/p256_field",
           "evmeter/ledger/p256_comb_native")
_PEERS = ("starkbank_ecdsa", "ecdsa")


def _figure(key, found, machine, reason):
    text = ("naive %d us, signature %d us, signed and verified %d us; on %s"
            % (found["naive_us"], found["sign_us"], found["checked_us"], machine))
    if reason:
        text += ", not judged: %s" % reason
    return key, round(found["naive_us"] / found["sign_us"], 1), text


def speedup():
    """sign_speedup_python and sign_speedup_viper: nonce of RFC 6979, k*G and s by both ways, best
    of several in turn. sign_garbage_bytes: what one signature without its check allocates."""
    machine, reason = vm.small()
    machine = machine or vm.host()
    found = machine.run("sign.py")
    yield _figure("sign_speedup_python", found, machine, reason)
    garbage = "without its check; on %s" % machine
    native = None if reason else machine.run("sign.py", "viper")  # the kernel is for 32 bits
    if native and not native["why_not"]:
        yield _figure("sign_speedup_viper", native, machine, reason)
        garbage = "with the native kernel %d; %s" % (native["bytes"], garbage)
    yield "sign_garbage_bytes", found["bytes"], garbage


def _smallest(machine, *arguments):
    """The smallest heap in KiB in which scripts/sign_heap.py ends well, by halving."""
    low, high = _LEAST_KIB, _AMPLE_KIB  # high works, low does not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            machine.run("sign_heap.py", *arguments, heap="%dk" % middle, path=(_FOLDER,))
            high = middle
        except UserError:
            low = middle
    return high


def heap():
    """sign_heap_min_kib: the smallest 32-bit heap in which the signer's bytecode is imported, its
    table in memory, and one signature is made and checked."""
    machine, reason = vm.small()
    if machine is None:
        print("sign_heap_min_kib is not measured: %s" % reason)
        return
    shutil.rmtree(_FOLDER, ignore_errors=True)
    for name in (*_MODULES, *_NATIVE):
        image.compiled(FIRMWARE / (name + ".py"), Path(name + ".py"), _FOLDER, "x86")
    machine.run("sign_heap.py", heap="%dk" % _AMPLE_KIB, path=(_FOLDER,))
    yield ("sign_heap_min_kib", _smallest(machine),
           "with the native kernel %d, its code outside the heap; on %s"
           % (_smallest(machine, "viper"), machine))


def _why_not(name, folder):
    """Why a package does not run on MicroPython, in its own words."""
    try:
        vm.host().run("sign_peers.py", name, path=(folder,))
    except UserError as error:
        return str(error).partition(": ")[2]
    return "it does"


def peers():
    """sign_against_...: a deterministic signature by another package, as it comes from PyPI,
    against ours on the same CPython: neither of them runs on MicroPython."""
    for name in _PEERS:
        folder = vm.peer(name)
        path = ":".join(map(str, (folder, FIRMWARE, ROOT, HOST_BOARD)))
        code = "import cpython_shim; cpython_shim.install(); import runpy; runpy.run_path(%r)"
        script = str(vm.SCRIPTS / "sign_peers.py")
        done = subprocess.run([sys.executable, "-c", code % script, name],
                              env=dict(os.environ, PYTHONPATH=path), capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise UserError("%s: %s" % (name, done.stderr.strip().splitlines()[-1]))
        found = json.loads(done.stdout)
        yield ("sign_against_" + name, round(found["theirs_us"] / found["ours_us"], 2),
               "its signature %d us, ours %d us, both on CPython; on MicroPython: %s"
               % (found["theirs_us"], found["ours_us"], _why_not(name, folder)))
