"""The second store on a file, with the face of esp32.NVS: durable once `commit` returns."""

import json
import os
from binascii import hexlify, unhexlify

_NOT_FOUND = -4354  # ESP_ERR_NVS_NOT_FOUND as esp32.NVS raises it


class NvsFile:
    """Whole numbers and blobs by key. A change replaces the file by renaming: old or new."""

    def __init__(self, path):
        self._path = path
        try:
            with open(path) as file:
                self._values = json.loads(file.read())
        except OSError:
            self._values = {}

    def _get(self, key, kind):
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise OSError(_NOT_FOUND)
        return value

    def get_i32(self, key):
        return self._get(key, int)

    def set_i32(self, key, value):
        self._values[key] = value

    def get_blob(self, key, buffer):
        data = unhexlify(self._get(key, str))
        if len(data) > len(buffer):
            raise OSError(-4364)  # ESP_ERR_NVS_INVALID_LENGTH
        buffer[: len(data)] = data
        return len(data)

    def set_blob(self, key, data):
        self._values[key] = hexlify(bytes(data)).decode()

    def erase_key(self, key):
        self._get(key, (int, str))
        del self._values[key]

    def commit(self):
        """Make the changes since the last commit durable."""
        fresh = self._path + ".new"
        with open(fresh, "w") as file:
            file.write(json.dumps(self._values))
        os.rename(fresh, self._path)
