"""A device's life on the host board, from erased flash over an update to a broken one that is
given up; the firmware runs from the image in its flash."""

import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.device import legal
from evmeter_tools.paths import ROOT
from update_life import Life, make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("images"))


@pytest.mark.timeout(900)
def test_from_an_erased_flash_to_a_broken_update_that_is_given_up(tmp_path, made):
    life = Life(tmp_path, made, files=False)
    with life.bench as bench:  # provisioned from the image
        done = subprocess.run(
            [sys.executable, "-m", "evmeter_tools.cli", "doctor", "--dir", str(tmp_path)],
            capture_output=True, text=True, timeout=200, check=False,
            env=dict(os.environ, PYTHONPATH=str(ROOT / "tools")))
        assert done.returncode == 0, done.stdout + done.stderr
        bench.device.start()
        life.until(lambda: bench.watch.count("boot"))
        life.session()

        # refused, with the reason, and nothing changes
        other = ec.generate_private_key(ec.SECP256R1())
        code, said = life.said(life.update("good", 5, other))
        assert code == 2 and "not signed by" in said, said

        # in mid-backlog: the backend is away, records wait on the flash
        life.leave_a_backlog()
        code, said = life.said(life.update("good", 5))  # in a session
        assert code == 2 and "end of the session" in said, said
        life.update_from_the_backlog()
        assert [entry["version"] for entry in life.entries("update")] == ["good"]
        life.session()

        code, said = life.said(life.update("first", 5))
        assert code == 2 and "allowed: 6 to " in said, said
        code, said = life.said(life.update("broken", 6))
        assert code == 0, said
        life.until(lambda: life.revive() or life.entries("update_failed"), 120)
        assert life.entries("update_failed")[0]["counter"] == 6
        life.session()
        life.until(lambda: bench.watch.confirmed >= bench.watch.head)
        assert life.versions() == ["first"] * 4 + ["good"] * 4
        told = life.entries("firmware")
        assert [one["fw"].split("-")[0] for one in told[:1] + told[-1:]] == ["first", "good"]
        assert {one["legal"] for one in told} == {legal.digest(legal.files(made["first"]))}
