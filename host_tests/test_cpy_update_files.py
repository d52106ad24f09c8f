"""A device's life where the firmware is a file of the chip's littlefs, as on MicroPython's own
images for the ESP32: a broken one on trial is given up, and an update taken in mid-backlog."""


import pytest

from drivers.rom_slots import Slots
from host_nvs import NvsFile
from update_life import Life, make


@pytest.mark.timeout(900)
def test_from_a_broken_file_that_is_given_up_to_an_update(tmp_path):
    life = Life(tmp_path, make(tmp_path), files=True)
    with life.bench as bench:  # provisioned from the image
        nvs = NvsFile(str(tmp_path / "nvs.json"))
        nvs.set_i32("upd_new", 4)  # as an update leaves it
        Slots(nvs).try_other()
        bench.device.start()
        life.until(lambda: life.revive() or life.entries("update_failed"), 120)
        assert life.entries("update_failed")[0]["counter"] == 4
        assert (tmp_path / "device.log").read_text().count("this firmware is broken") == 3
        life.session()

        life.leave_a_backlog()
        life.update_from_the_backlog()
        code, said = life.said(life.update("first", 5))
        assert code == 2 and "allowed: 6 to " in said, said
        life.session()
        life.until(lambda: bench.watch.confirmed >= bench.watch.head)
        assert life.versions() == ["first"] * 4 + ["good"] * 2
