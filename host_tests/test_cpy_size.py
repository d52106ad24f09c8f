"""Size of what a device loads: what the chip has room for is not given away unseen."""

import pytest

from evmeter_tools.measure import size, vm


def test_bytecode_stays_within_the_budget():
    used, profile_bytes, _ = size.bytecode()
    assert sorted(used) == ["rv32imc", "xtensawin"]
    for chip, modules in used.items():
        assert len(modules) > 50 and "evmeter.app" in modules, chip
        large = {name: bytes_ for name, bytes_ in modules.items()
                 if bytes_ > size.MOST_MODULE_BYTES}
        assert not large, (chip, large)
        total_bytes = sum(modules.values()) + profile_bytes
        assert total_bytes <= size.MOST_KIB * 1024, (chip, total_bytes)


def test_heap_of_what_is_loaded_stays_within_the_budget():
    machine = vm.present()
    if machine is None:
        pytest.skip("there is no 32-bit MicroPython")
    figures = {key: value for key, value, _ in size.loaded(machine)}
    assert 30 < figures["loaded_ram_kib"] <= 72
