"""fuselib: a FUSE file system that answers as late as a test likes. It speaks the protocol of <linux/fuse.h> itself, so
it needs no library. Needs root and /dev/fuse; without them the test is skipped.

A process of its own serves the file system: the test's process may wait for an answer while it holds Python's lock."""

import contextlib
import enum
import errno
import json
import os
import pathlib
import select
import socket
import stat
import struct
import subprocess
import sys

ROOT = 1  # the node of the folder
DIRECT_IO = 1
NOTIFY_POLL = 1


class Op(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    UNLINK = 10
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    POLL = 40
    BATCH_FORGET = 42


# ---- the test's side ----

class Fuse:
    """One folder of files. Any user may read, write, execute, make and remove files there."""

    def __init__(self, folder, control):
        self.folder = folder
        self.control = control.makefile("rw")

    def __getitem__(self, name):
        """Return the path of a file."""
        return str(self.folder / name)

    def ask(self, *message):
        self.control.write(json.dumps(message) + "\n")
        self.control.flush()
        return json.loads(self.control.readline())

    def hang(self, *operations, after=0):
        """From now on, answer only that many requests of each of these operations. Each further one keeps the process
        that made it in the kernel, deaf to SIGKILL. The folder's own attributes never hang: anybody may ask for them
        who passes by, such as the du of tests/run.sh."""
        self.ask("hang", operations, after)

    def release(self):
        """Answer everything, from now on and what hangs."""
        self.ask("release")

    def fail(self):
        """Answer what hangs with EIO, and everything from now on as usual."""
        self.ask("fail")

    def hanging(self):
        """Return the operations of the requests that hang."""
        return self.ask("hanging")

    def seen(self):
        """Return the operations of all requests."""
        return [op for op, _, _ in self.ask("seen")]

    def urge(self, name, times=1):
        """Let poll() report POLLPRI of a file once, as it does of a file of /proc/pressure. Before the first poll() of
        the file, call this with times=0, else the kernel asks the file system for no poll()."""
        self.ask("urge", name, times)

    def users(self, name, operation):
        """Return the ids of the users whose processes made such requests of a file."""
        node = self.ask("node", name)
        return {uid for op, of, uid in self.ask("seen") if (op, of) == (operation, node)}


@contextlib.contextmanager
def fuse(folder, allow_other=True, **files):
    """Make the folder and mount a file system with these files there. files: name and content."""
    import pytest  # the server, which runs this file by itself, needs neither
    from mountlib import mounted
    folder = pathlib.Path(folder)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)  # a request may go away after select()
    except OSError as e:
        pytest.skip(f"needs /dev/fuse: {e.strerror}")
    ours, theirs = socket.socketpair()
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0" + ",allow_other" * allow_other
    with mounted(folder, "-i", "-t", "fuse", "-o", options, "none", pass_fds=[device]), ours:
        with subprocess.Popen([sys.executable, __file__, str(device), str(theirs.fileno())],
                              pass_fds=[device, theirs.fileno()]) as server:
            os.close(device)  # when the server ends, whatever the reason, requests fail
            theirs.close()
            f = Fuse(folder, ours)
            for name, content in files.items():
                f.ask("add", name, content.hex())
            try:
                yield f
            finally:
                f.control.close()
                ours.close()
                server.wait()


# ---- the server ----

class File:
    def __init__(self, node, content=b""):
        self.node, self.content = node, bytearray(content)


class Server:
    def __init__(self, device, control):
        self.device, self.control = device, control
        self.files = {}
        self.hung = {}  # operation: number of requests that are still answered
        self.waiting = []  # requests without an answer
        self.requests = []  # operations, nodes and users of all requests
        self.urgent = {}  # node: number of POLLPRI to report
        self.polled = {}  # node: the kernel's handle of the last poll()

    def serve(self):
        """Serve until the test hangs up. All requests fail then."""
        text = self.control.makefile("rw")
        while True:
            ready, _, _ = select.select([self.device, self.control], [], [])
            if self.control in ready:
                line = text.readline()
                if not line:
                    return
                command, *args = json.loads(line)
                text.write(json.dumps(getattr(self, "do_" + command)(*args)) + "\n")
                text.flush()
            if self.device in ready:
                self.request()

    def do_add(self, name, content):
        self.files[name] = File(self.node_new(), bytes.fromhex(content))

    def do_forget(self, name):
        del self.files[name]

    def do_hang(self, operations, after):
        self.hung.update(dict.fromkeys(operations, after))

    def do_release(self):
        self.hung.clear()
        while self.waiting:
            self.answer(self.waiting.pop(0))

    def do_fail(self):
        self.hung.clear()
        while self.waiting:
            self.reply(self.header(self.waiting.pop(0))[1], errno.EIO)

    def do_hanging(self):
        return [self.header(m)[0] for m in self.waiting]

    def do_seen(self):
        return self.requests

    def do_urge(self, name, times=1):
        node = self.files[name].node
        self.urgent[node] = self.urgent.get(node, 0) + times
        if times and node in self.polled:
            os.write(self.device, struct.pack("<IiQQ", 24, NOTIFY_POLL, 0, self.polled[node]))

    def do_node(self, name):
        return self.files[name].node

    @staticmethod
    def header(m):
        """Return operation, unique number, node."""
        return struct.unpack_from("<4xIQQ", m)

    def request(self):
        try:
            m = os.read(self.device, 1 << 20)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # the request was interrupted
                return
            raise
        op, _, node = self.header(m)
        self.requests.append((op, node, struct.unpack_from("<24xI", m)[0]))
        hangs = op in self.hung and (op, node) != (Op.GETATTR, ROOT)
        if hangs and self.hung[op] == 0:
            self.waiting.append(m)
            return
        if hangs:
            self.hung[op] -= 1
        self.answer(m)

    def answer(self, m):
        op, unique, node = self.header(m)
        body, error = b"", 0
        if op in (Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT):
            return
        try:
            body = self.body(op, node, m[40:])
        except OSError as e:
            error = e.errno
        self.reply(unique, error, body)

    def reply(self, unique, error, body=b""):
        with contextlib.suppress(FileNotFoundError):  # the request was interrupted
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def body(self, op, node, body):
        if op in (Op.RELEASE, Op.FLUSH, Op.FSYNC, Op.ACCESS):
            return b""
        function = getattr(self, "op_" + Op(op).name.lower(), None) if op in list(Op) else None
        if not function:
            raise OSError(errno.ENOSYS, op)
        return function(node, body)

    def node_new(self):
        return 1 + max([ROOT, *(f.node for f in self.files.values())])

    def of_node(self, node):
        return next((f for f in self.files.values() if f.node == node), File(node))  # a removed file is empty

    def attributes(self, node):
        size, mode = len(self.of_node(node).content), stat.S_IFREG | 0o777
        if node == ROOT:
            mode = stat.S_IFDIR | 0o777
        return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def entry(self, node):
        return struct.pack("<4Q2I", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def op_init(self, node, body):
        return struct.pack("<4I2H2I2H", 7, 31, 65536, 0, 16, 12, 1 << 17, 1, 32, 0).ljust(64, b"\0")

    def op_lookup(self, node, body):
        name = body.rstrip(b"\0").decode()
        if name not in self.files:
            raise OSError(errno.ENOENT, name)
        return self.entry(self.files[name].node)

    def op_getattr(self, node, body):
        return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)

    def op_setattr(self, node, body):
        valid, size = struct.unpack_from("<I12xQ", body)
        if valid & 1 << 3:
            content = self.of_node(node).content
            content[:] = content[:size].ljust(size, b"\0")
        return self.op_getattr(node, body)

    def op_statfs(self, node, body):
        return struct.pack("<5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0)

    def op_open(self, node, body):
        return struct.pack("<Q2I", 0, DIRECT_IO, 0)

    def op_create(self, node, body):
        name = body[16:].rstrip(b"\0").decode()
        if name in self.files:
            raise OSError(errno.EEXIST, name)
        self.files[name] = File(self.node_new())
        return self.entry(self.files[name].node) + self.op_open(node, b"")

    def op_unlink(self, node, body):
        del self.files[body.rstrip(b"\0").decode()]
        return b""

    def op_read(self, node, body):
        offset, size = struct.unpack_from("<8xQI", body)
        return bytes(self.of_node(node).content[offset:offset + size])

    def op_write(self, node, body):
        offset, size = struct.unpack_from("<8xQI", body)
        content = self.of_node(node).content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset:offset + size] = body[40:40 + size]
        return struct.pack("<2I", size, 0)

    def op_poll(self, node, body):
        if node not in self.urgent:
            raise OSError(errno.ENOSYS, "poll")
        self.polled[node], = struct.unpack_from("<8xQ", body)
        urgent = self.urgent[node] > 0
        self.urgent[node] -= urgent
        return struct.pack("<2I", select.POLLIN | select.POLLOUT | select.POLLPRI * urgent, 0)


if __name__ == "__main__":
    Server(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))).serve()
