"""traitorlib: VMs whose process a guest has taken over, as far as the rest of the host can tell: one of its
threads makes the system calls that a test wants (tests/helpers/vm/traitor.c)."""

import mmap
import os
import struct

from conftest import BUILD, until

PROGRAM = os.path.abspath(os.path.join(BUILD, "helpers", "traitor_vm"))
MAIN, VCPU, DISK, NET, TRACKER, WORKER = range(6)
CALLS, OTHER_MODE, NEW_THREADS, RING = range(4)
CONTROL_FD = 0x7261697400000000
AT, CALLS_MAX, DATA_BYTES = 0x600000000000, 256, 1 << 18
RESULTS, COUNTS, ORDERS = 64, 64 + 8 * CALLS_MAX, 64 + 16 * CALLS_MAX
DATA = ORDERS + 64 * CALLS_MAX


class Traitor:
    """The file by which a test gives orders to the next process that starts. Use as a context manager."""

    def __init__(self, path):
        self.path = str(path)
        with open(path, "w+b") as f:
            f.truncate(DATA + DATA_BYTES)
            self.map = mmap.mmap(f.fileno(), DATA + DATA_BYTES)
        self.env = {"TRAITOR": self.path}
        self.used = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.map.close()

    def _put(self, at, form, *values):
        struct.pack_into("<" + form, self.map, at, *values)

    def _get(self, at, form):
        return struct.unpack_from("<" + form, self.map, at)[0]

    def data(self, blob):
        """Return the address at which the process finds these bytes."""
        at = self.used
        self.used += -(-len(blob) // 16) * 16
        assert self.used <= DATA_BYTES
        self.map[DATA + at:DATA + at + len(blob)] = blob
        return AT + DATA + at

    def argument(self, a):
        if isinstance(a, str):
            a = int(a) if a[:1] != "=" else a[1:].encode() + b"\0"
        return self.data(a) if isinstance(a, bytes) else a & (1 << 64) - 1

    def arm(self, thread):
        """Let the next process that starts obey, with this thread."""
        self._put(0, "IIII", 1, thread, 0, 0)
        self._put(40, "IIQq", 0, 0, 0, -1)

    def order(self, *calls, rounds=1, repeat=1, act=CALLS, keep=False):
        """Let the thread make system calls, each a number and its arguments; text and bytes stand for their address.
        repeat: how often each call is made; rounds: how often all of them are. keep: the data of data() before."""
        if not keep:
            self.used = 0
        for i, (number, *args) in enumerate(calls):
            args = [self.argument(a) for a in args] + [0] * (6 - len(args))
            self._put(ORDERS + 64 * i, "q7Q", number, *args, repeat)
        for at in (RESULTS, COUNTS):
            self.map[at:at + 8 * CALLS_MAX] = bytes(8 * CALLS_MAX)
        self._put(12, "IIIQQ", 0, act, len(calls), rounds, 0)
        self._put(8, "I", 1)

    def lie(self, kind, body):
        """Let the process send this body in each message of this type; kind 0: no more."""
        self.used = 0
        self.data(body)
        self._put(44, "IQ", len(body), 0)
        self._put(40, "I", kind)

    def taken(self):
        """Return whether a process has taken the orders."""
        return not self._get(0, "I")

    def control_fd(self):
        """Return the process's number of the socket to the daemon."""
        return self._get(56, "q")

    def done(self):
        return self._get(12, "I") == 1

    def rounds(self):
        return self._get(32, "Q")

    def results(self, n):
        return list(struct.unpack_from(f"<{n}q", self.map, RESULTS))

    def counts(self, n):
        return list(struct.unpack_from(f"<{n}Q", self.map, COUNTS))

    def make(self, *calls, **more):
        """Let the thread make the calls, and return their results."""
        self.order(*calls, **more)
        until(self.done)
        return self.results(len(calls))
