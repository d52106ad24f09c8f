"""A device's life where the firmware is a file of the chip's littlefs, as on MicroPython's own
images for the ESP32: an update in mid-backlog, and a broken one that is given up."""

import time

import pytest

from update_life import Life, make


@pytest.mark.timeout(900)
def test_from_a_file_over_an_update_to_a_broken_one(tmp_path):
    life = Life(tmp_path, make(tmp_path), files=True)
    with life.bench as bench:  # provisioned from the image
        bench.device.start()
        life.until(lambda: bench.watch.count("boot"))
        life.session()

        bench.end_collector()
        bench.rig.tell(pilot="C", load_w=10000)
        time.sleep(3)
        bench.rig.tell(pilot="A")
        time.sleep(5)
        code, said = life.said(life.update("good", 5))
        assert code == 0 and "counter 5, on trial" in said, said
        bench.start_collector()
        life.until(lambda: life.entries("update_confirmed"), 150)
        code, said = life.said(life.update("first", 5))
        assert code == 2 and "allowed: 6 or more" in said, said

        code, said = life.said(life.update("broken", 6))
        assert code == 0, said
        life.until(lambda: life.revive() or life.entries("update_failed"), 120)
        assert life.entries("update_failed")[0]["counter"] == 6
        life.session()
        life.until(lambda: bench.watch.confirmed >= bench.watch.head)
        assert life.versions() == ["first"] * 4 + ["good"] * 2
