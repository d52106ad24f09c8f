"""The configuration in files, A and B: what is read is the old one or the new one, whole, wherever
the power goes. Over any file system whose rename replaces in one step, as littlefs's does."""

import os


class ConfigFiles:
    """`folder`/config.json is in force; config.old is the one before it."""

    def __init__(self, folder=""):
        self._path = folder + "/config.json"
        self._old = folder + "/config.old"
        self._new = folder + "/config.new"

    def read(self):
        """The text of the configuration. Raises OSError where there is none."""
        with open(self._path) as file:
            return file.read()

    def _put(self, path, text):
        with open(self._new, "w") as file:
            file.write(text)
        os.rename(self._new, path)

    def write(self, text):
        """Put `text` in force; what was in force until now can be restored. Raises OSError."""
        self._put(self._old, self.read())
        self._put(self._path, text)

    def restore(self):
        """Put the one before in force again, once. Raises OSError where there is none."""
        os.rename(self._old, self._path)
