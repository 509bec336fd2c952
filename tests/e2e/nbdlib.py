"""NBD servers for tests: nbdkit and qemu-nbd in the background, and a server here that misbehaves on demand."""
import contextlib
import itertools
import os
import socket
import struct
import subprocess
import threading

from conftest import until

TIMEOUT = 60
READ, WRITE, DISCONNECT, FLUSH, TRIM, STATUS, ZERO = 0, 1, 2, 3, 4, 7, 6
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_ZEROES = 1, 2, 4, 8, 32, 64
NUMBERS = itertools.count()


@contextlib.contextmanager
def serving(path, *argv, **more):
    """Run a server that writes a pid file once it listens. argv: {socket} and {pid} are replaced. more: for
    Popen. Yields the socket."""
    sock, pid = (os.path.join(path, f"{kind}-{next(NUMBERS)}") for kind in ("sock", "pid"))
    with subprocess.Popen([str(a).format(socket=sock, pid=pid) for a in argv], cwd=path, **more) as server:
        try:
            until(lambda: server.poll() is not None or (os.path.exists(pid) and os.path.getsize(pid)))
            assert server.poll() is None, argv
            yield sock
        finally:
            server.terminate()


def nbdkit(path, *argv):
    return serving(path, "nbdkit", "-f", "-U", "{socket}", "-P", "{pid}", *argv)


def qemu_nbd(path, *argv):
    return serving(path, "qemu-nbd", "-t", "-e", "8", "-k", "{socket}", "--pid-file={pid}", *argv)


class Fake:
    """A server for one client after the other on a Unix socket.

    size, flags: of the export. answer(kind, offset, length, data): called for each request; returns bytes of data of a read,
    a list of (length, flags) of a status, None for success, a number for an error (errno), or raises Close or Stall.
    reached: set when the server stalls or closes the connection."""

    class Close(Exception):
        """Close the connection."""

    class Stall(Exception):
        """Answer nothing any more."""

    def __init__(self, path, size, answer, flags=HAS_FLAGS | SEND_FLUSH | SEND_TRIM | SEND_ZEROES, greeting=None, blocks=None):
        self.socket = os.path.join(path, f"fake-{next(NUMBERS)}")
        self.size, self.flags, self.answer, self.greeting, self.blocks = size, flags, answer, greeting, blocks
        self.reached = threading.Event()
        self.ended = threading.Event()
        self.log = []
        self.clients = 0

    def __enter__(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(TIMEOUT)

    @property
    def url(self):
        return f"nbd+unix://?socket={self.socket}"

    def run(self):
        while not self.ended.is_set():
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            self.clients += 1
            with client:
                try:
                    self.handshake(client)
                    while self.request(client):
                        pass
                except (self.Close, ConnectionError):
                    self.reached.set()
                except self.Stall:
                    self.reached.set()
                    while not self.ended.is_set() and not self.is_gone(client):
                        pass

    @staticmethod
    def is_gone(client):
        client.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            return not client.recv(1, socket.MSG_PEEK)
        return False

    @staticmethod
    def take(client, n):
        data = b""
        while len(data) < n:
            more = client.recv(n - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def handshake(self, client):
        if self.greeting == "stall":
            raise self.Stall
        client.sendall(self.greeting or b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.take(client, 4)
        while True:
            _, option, n = struct.unpack(">QII", self.take(client, 16))
            data = self.take(client, n)

            def reply(kind, body=b"", option=option):
                client.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(body)) + body)

            if option == 10 and self.flags is not None:  # SET_META_CONTEXT
                reply(4, struct.pack(">I", 1) + b"base:allocation")
                reply(1)
            elif option == 8:  # STRUCTURED_REPLY
                reply(1)
            elif option == 7:  # GO
                reply(3, struct.pack(">HQH", 0, self.size, self.flags))
                if self.blocks:
                    reply(3, struct.pack(">HIII", 3, *self.blocks))
                reply(1)
                return
            else:
                reply(0x80000001)
            del data

    def request(self, client):
        _, flags, kind, cookie, offset, n = struct.unpack(">IHHQQI", self.take(client, 28))
        data = self.take(client, n) if kind == WRITE else b""
        if kind == DISCONNECT:
            return False
        self.log.append((kind, offset, n, flags))
        answer = self.answer(kind, offset, n, data)
        if isinstance(answer, int):
            chunk, body = 0x8001, struct.pack(">IH", answer, 0)
        elif kind == READ and answer is not None:
            chunk, body = 1, struct.pack(">Q", offset) + answer
        elif kind == STATUS and answer is not None:
            chunk, body = 5, struct.pack(">I", 1) + b"".join(struct.pack(">II", *x) for x in answer)
        else:
            chunk, body = 0, b""
        client.sendall(struct.pack(">IHHQI", 0x668e33ef, 1, chunk, cookie, len(body)) + body)
        return True
