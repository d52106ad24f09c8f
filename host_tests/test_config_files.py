import os

from drivers import config_files
from drivers.config_files import ConfigFiles
from fakes.memory_store import Power, PowerCut
from support import raises

_FOLDER = "build/test-config-files"
_OLD = '{"rev": 1}'
_NEW = '{"rev": 2, "pad": "%s"}' % ("x" * 3000)


class _Torn:
    """A file whose writing the power can end at each step: opened, half written, written."""

    def __init__(self, path, power):
        power.use()
        self._file = open(path, "w")
        self._power = power

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, text):
        self._file.write(text[: len(text) // 2])
        self._power.use()
        self._file.write(text[len(text) // 2 :])
        self._power.use()


class _Os:
    def __init__(self, power):
        self._power = power

    def rename(self, old, new):
        self._power.use()
        os.rename(old, new)
        self._power.use()


def _files():
    for path in ("build", _FOLDER):
        try:
            os.mkdir(path)
        except OSError:
            continue
    for entry in os.listdir(_FOLDER):
        os.remove(_FOLDER + "/" + entry)
    with open(_FOLDER + "/config.json", "w") as file:
        file.write(_OLD)
    return ConfigFiles(_FOLDER)


def _with_power(power, function, *args):
    config_files.os = _Os(power)
    config_files.open = lambda path, mode="r": (
        _Torn(path, power) if mode == "w" else open(path, mode))
    try:
        function(*args)
    finally:
        config_files.os = os
        del config_files.open


def _cuts(prepare, work):
    """Yield the files after `work(files)` was cut at each of its steps."""
    for left in range(100):
        files = _files()
        prepare(files)
        power = Power()
        power.left = left
        try:
            _with_power(power, work, files)
        except PowerCut:
            yield files
            continue
        break
    assert left > 1


def test_a_cut_at_any_step_leaves_the_old_one_or_the_new_one():
    seen = set()
    for files in _cuts(lambda files: None, lambda files: files.write(_NEW)):
        found = files.read()
        assert found in (_OLD, _NEW), len(found)
        seen.add(found)
        if found == _NEW:
            files.restore()
            assert files.read() == _OLD
    assert len(seen) == 2


def test_a_cut_while_it_is_put_back_leaves_one_of_the_two():
    seen = set()
    for files in _cuts(lambda files: files.write(_NEW), lambda files: files.restore()):
        assert files.read() in (_OLD, _NEW)
        seen.add(files.read())
    assert len(seen) == 2


def test_the_one_before_comes_back_once():
    files = _files()
    raises(OSError, files.restore)
    files.write(_NEW)
    assert files.read() == _NEW
    files.restore()
    assert files.read() == _OLD
    raises(OSError, files.restore)
    assert files.read() == _OLD


def test_the_check_notices_a_file_that_is_written_in_place():
    def in_place(files):
        with config_files.open(_FOLDER + "/config.json", "w") as file:
            file.write(_NEW)

    found = [files.read() for files in _cuts(lambda files: None, in_place)]
    assert [one for one in found if one not in (_OLD, _NEW)]
