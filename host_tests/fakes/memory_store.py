"""A journal store and a second store in memory, with power cuts between their operations."""

from evmeter.ledger import StoreError


class PowerCut(Exception):
    """The power went at this operation."""


class Power:
    """Counts operations; after `left` of them the power is gone until `restore`."""

    def __init__(self):
        self.left = None
        self.operations = 0

    def use(self):
        self.operations += 1
        if self.left is not None:
            if self.left == 0:
                raise PowerCut()
            self.left -= 1

    def restore(self):
        self.left = None


class MemoryStore:
    """The interface of ledger/segments.py. `capacity` in segments of `segment_bytes`."""

    unit = 1
    tears = False

    def __init__(self, power=None, capacity=16, segment_bytes=600):
        self._power = power or Power()
        self._segment_bytes = segment_bytes
        self._full = True
        self.data = {}
        self.small = {}
        self.capacity = capacity
        self.segments = []
        self.damaged = 0
        self.formatted = True
        self.fail = None  # an error text: the next append fails with it

    def open(self):
        if not self.formatted:
            raise StoreError("no store")
        self.segments = sorted(self.data)
        self._full = not self.segments

    def start_segment(self):
        self._full = True

    def set_aside(self, first):
        del self.data[first]
        self.segments.remove(first)
        self.damaged += 1
        self._full = True

    def append(self, seq, frame, length):
        self._power.use()
        if self.fail:
            raise StoreError(self.fail)
        if self._full or len(self.data[self.segments[-1]]) + length > self._segment_bytes:
            if len(self.segments) >= self.capacity:
                raise StoreError("full")
            self.data[seq] = bytearray()
            self.segments.append(seq)
            self._full = False
        self.data[self.segments[-1]] += bytes(memoryview(frame)[:length])

    def read(self, first, offset, buffer, length):
        piece = self.data[first][offset : offset + length]
        buffer[: len(piece)] = piece
        return len(piece)

    def drop(self, first):
        self._power.use()
        self.segments.remove(first)
        del self.data[first]

    def read_small(self, name):
        return self.small.get(name)

    def write_small(self, name, body):
        self._power.use()
        self.small[name] = bytes(body)


class MemoryNvs:
    """esp32.NVS in memory: set and commit are one durable step."""

    def __init__(self, power=None):
        self._power = power or Power()
        self._values = {}

    def get_blob(self, key, buffer):
        if key not in self._values:
            raise OSError(0x1102)
        value = self._values[key]
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key, value):
        self._power.use()
        self._values[key] = bytes(value)

    def get_i32(self, key):
        if key not in self._values:
            raise OSError(0x1102)
        return self._values[key]

    def set_i32(self, key, value):
        self._power.use()
        self._values[key] = value

    def erase_key(self, key):
        del self._values[key]

    def commit(self):
        pass
