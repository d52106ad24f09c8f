"""drivers/prompt.py over the fakes of a chip's modules, and what boot.py makes of it."""

import sys

from fakes import chip as fake
from support import raises

_FIRMWARE = __file__[:-len("host_tests/test_prompt.py")] + "firmware"


class _Restart(BaseException):
    pass


class _Chip:
    """The chip's modules while the prompt's driver is loaded anew; `lock`: what the second store
    holds, None for nothing. `told`: what was told to kbd_intr."""

    def __init__(self, lock):
        self.told = []
        chip = self
        self.lock = lock

        class Nvs:
            def __init__(self, name):
                assert name == "evmeter"

            def get_i32(self, key):
                if key != "lock" or chip.lock is None:
                    raise OSError(-4354)
                return chip.lock

            def set_i32(self, key, value):
                chip.lock = value

            def commit(self):
                pass

        self._nvs = Nvs

    def kbd_intr(self, code):
        self.told.append(code)

    def reset(self):
        raise _Restart()

    def __enter__(self):
        fake.install("esp32")
        self._kept = {name: sys.modules.pop(name, None) for name in ("drivers.prompt", "prompt")}
        sys.modules["esp32"].NVS = self._nvs
        sys.modules["machine"].reset = self.reset
        from drivers import prompt

        self.prompt = sys.modules["prompt"] = prompt
        prompt.micropython = self
        prompt.time = self
        return self

    def sleep_ms(self, ms):
        assert 1000 <= ms <= 10000

    def __exit__(self, *_):
        fake.remove()
        for name in self._kept:
            sys.modules.pop(name, None)
            if self._kept[name]:
                sys.modules[name] = self._kept[name]
        if hasattr(sys.modules["drivers"], "prompt"):
            delattr(sys.modules["drivers"], "prompt")


def test_an_open_prompt_gets_ctrl_c_back_and_a_closed_one_does_not():
    for lock, told in ((None, [3]), (0, [3]), (1, [])):
        with _Chip(lock) as chip:
            chip.prompt.ask()
            assert chip.told == told
            if told:
                chip.prompt.leave(ValueError("x"))
            else:
                raises(_Restart, chip.prompt.leave, ValueError("x"))
                raises(_Restart, chip.prompt.leave)


def test_as_long_as_it_is_not_known_nobody_gets_the_prompt():
    with _Chip(0) as chip:
        raises(_Restart, chip.prompt.leave, KeyboardInterrupt())


def test_whoever_stands_beside_the_device_can_open_it():
    with _Chip(1) as chip:
        chip.prompt.ask()
        raises(_Restart, chip.prompt.hand_over)
        assert chip.lock == 0
    with _Chip(0) as chip:
        chip.prompt.ask()
        assert chip.prompt.hand_over() is None  # nothing to open


def _boot(chip, start):
    """Run boot.py's text; MicroPython's own kbd_intr is left out."""
    with open(_FIRMWARE + "/boot.py") as file:
        text = file.read().replace("micropython.kbd_intr(-1)", "chip.kbd_intr(-1)")
    rom_boot = type("rom_boot", (), {"start": staticmethod(start)})
    sys.modules["rom_boot"] = rom_boot
    try:
        exec(text, {"chip": chip})  # noqa: S102
    finally:
        del sys.modules["rom_boot"]


def test_whatever_ends_boot_py_restarts_a_closed_device():
    def ends(error):
        def start():
            raise error

        return start

    for error in (KeyboardInterrupt(), SystemExit(), MemoryError(), OSError(19), ValueError("x")):
        with _Chip(1) as chip:
            raises(_Restart, _boot, chip, ends(error))
            assert chip.told == [-1]
        with _Chip(0) as chip:
            assert raises(type(error), _boot, chip, ends(error)) is error
            assert chip.told == [-1, 3]
    with _Chip(1) as chip:
        _boot(chip, lambda: None)
        assert chip.told == [-1]


def test_a_ctrl_c_from_before_the_first_line_restarts_too():
    for lock in (1, 0):  # it is not known yet
        with _Chip(lock) as chip:
            ask = chip.prompt.ask

            def interrupted():
                raise KeyboardInterrupt()

            chip.prompt.ask = interrupted
            raises(_Restart, _boot, chip, lambda: None)
            chip.prompt.ask = ask
