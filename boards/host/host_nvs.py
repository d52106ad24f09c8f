"""The second store on a file, with the face of esp32.NVS: durable once `commit` returns."""

import json
import os
from binascii import hexlify, unhexlify

# as esp32.NVS raises them
_NOT_FOUND = -4354
_KEY_TOO_LONG = -4361
_INVALID_LENGTH = -4364
_KEY_CHARS = 15


class NvsFile:
    """Whole numbers and blobs by key. A change replaces the file by renaming: old or new.

    A file that cannot be read counts as empty, as ESP-IDF treats damaged pages.
    """

    def __init__(self, path):
        self._path = path
        try:
            with open(path) as file:
                self._values = json.loads(file.read())
        except (OSError, ValueError):
            self._values = {}
        if not isinstance(self._values, dict):
            self._values = {}

    def _get(self, key, kind):
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise OSError(_NOT_FOUND)
        return value

    def _set(self, key, value):
        if len(key) > _KEY_CHARS:
            raise OSError(_KEY_TOO_LONG)
        self._values[key] = value

    def get_i32(self, key):
        return self._get(key, int)

    def set_i32(self, key, value):
        if not -0x80000000 <= value <= 0x7FFFFFFF:
            raise OverflowError("%s does not fit 32 bits" % key)
        self._set(key, value)

    def get_blob(self, key, buffer):
        data = unhexlify(self._get(key, str))
        if len(data) > len(buffer):
            raise OSError(_INVALID_LENGTH)
        buffer[: len(data)] = data
        return len(data)

    def set_blob(self, key, data):
        self._set(key, hexlify(bytes(data)).decode())

    def erase_key(self, key):
        self._get(key, (int, str))
        del self._values[key]

    def commit(self):
        """Make the changes since the last commit durable."""
        fresh = self._path + ".new"
        with open(fresh, "w") as file:
            file.write(json.dumps(self._values))
        os.rename(fresh, self._path)
