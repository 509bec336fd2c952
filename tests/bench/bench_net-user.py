"""net-user: a user-mode network: into a guest, out of it, and round trips. The host's TCP behind a tap plays the
guest for both."""

import contextlib
import fcntl
import os
import socket
import statistics
import struct
import subprocess
import time

import slirplib
from benchlib import QEMU, Unfit, need_qemu
from netlib import Lan

MIB = 1 << 20
BULK_MIB = 16
BULK = b"x" * (BULK_MIB * MIB)  # made once: its page faults would cost as much as the network
TRIPS = 300
CONNECTIONS = 50
PORT = 5000  # port in the guest
TAP = "guest"
LIMIT = "TCP on loopback"
LARGE = 65520  # MTU in bytes: QEMU's is always 1500
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000

# The program in the guest: the first byte of a connection selects the test. Its arguments are an address of its own, a
# port, and the host's address.
SERVER = f"""
import socket, sys, threading
bulk = b"x" * {BULK_MIB << 20}
def serve(c):
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    what = c.recv(1)
    if what == b"s":  # a sink that says when it has had all
        left, room = {BULK_MIB << 20}, bytearray(1 << 20)
        while left:
            left -= c.recv_into(room)
        c.sendall(b".")
    elif what == b"e":
        while d := c.recv(65536):
            c.sendall(d)
    elif what == b"o":  # out: to the host's port that follows
        with socket.create_connection((sys.argv[3], int(c.makefile().readline()))) as out:
            out.sendall(bulk)
    c.close()
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=100)
print(s.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


class Tap:
    """Create a tap device in the current namespace."""

    def __init__(self):
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))

    def settimeout(self, seconds):
        pass

    def close(self):
        os.close(self.fd)


class Side:
    """A network with its guest, and the host's port that is forwarded to the guest."""

    def __init__(self, start, mtu=1500):
        self.mtu = mtu
        self.stack = contextlib.ExitStack()
        self.ns = Lan()
        self.stack.callback(self.ns.close)
        try:
            self.port = start(self)
            self.ns.ip("addr", "add", "10.0.2.15/24", "dev", TAP)
            self.ns.ip("link", "set", TAP, "up", "mtu", str(self.mtu))
            self.serve("0.0.0.0", PORT, "10.0.2.2", self.ns.enter)
            self.trip_us(1)  # resolve all addresses before the measurement
        except BaseException:
            self.stack.close()
            raise

    def serve(self, address, port, host, enter=()):
        """Start the guest's program. Return its port."""
        argv = [*enter, "/usr/bin/python3", "-c", SERVER, address, str(port), host]
        return int(self.process(argv, stdout=subprocess.PIPE).stdout.readline())

    def process(self, argv, **more):
        p = subprocess.Popen(argv, **more)
        self.stack.callback(lambda: (p.kill(), p.wait()))
        return p

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def connect(self, what):
        c = socket.create_connection(("127.0.0.1", self.port))
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.sendall(what)
        return c

    def trip_us(self, trips=TRIPS):
        times = []
        with self.connect(b"e") as c:
            for _ in range(trips):
                begin = time.perf_counter()
                c.sendall(b"x")
                c.recv(1)
                times.append(time.perf_counter() - begin)
        return 1e6 * statistics.median(times)

    def in_mib_s(self):
        with self.connect(b"s") as c:
            begin = time.perf_counter()
            c.sendall(BULK)
            c.recv(1)
        return BULK_MIB / (time.perf_counter() - begin)

    def out_mib_s(self):
        with socket.create_server(("127.0.0.1", 0)) as s, self.connect(b"o%d\n" % s.getsockname()[1]):
            c, _ = s.accept()
            with c:
                begin, got, room = time.perf_counter(), 0, bytearray(MIB)
                while n := c.recv_into(room):
                    got += n
        assert got == BULK_MIB * MIB
        return BULK_MIB / (time.perf_counter() - begin)

    def connection_us(self):
        begin = time.perf_counter()
        for _ in range(CONNECTIONS):
            with self.connect(b"ex") as c:
                c.recv(1)
        return 1e6 * (time.perf_counter() - begin) / CONNECTIONS


class Loopback(Side):
    """The guest's program on the host, without a network between: the limit."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.port = self.serve("127.0.0.1", 0, "127.0.0.1")


def ours(side):
    """The cable is a separate process, as a VM would be."""
    cable = os.path.join(os.environ["CAIRN_BUILD"], "helpers", "tap_cable")
    if not os.path.exists(cable):
        raise Unfit("tap_cable is not built: make helpers")
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    with near, far, slirplib.listener() as s:
        side.process([slirplib.PROGRAM, "--frames", str(far.fileno()), "--host-loopback", "--mtu", str(side.mtu),
                      "--forward", f"tcp:{s.fileno()}:-:{PORT}"], pass_fds=[far.fileno(), s.fileno()])
        side.process([*side.ns.enter, cable, TAP, str(near.fileno())], pass_fds=[near.fileno()],
                     stdout=subprocess.PIPE).stdout.readline()
        return s.getsockname()[1]


def qemu(side):
    """QEMU without a machine: two netdevs and a hub."""
    with slirplib.listener() as s:
        port = s.getsockname()[1]
    tap = side.ns.inside(Tap)
    side.process([QEMU, "-M", "none", "-display", "none", "-nodefaults", "-serial", "none", "-monitor", "none",
                  "-netdev", f"user,id=u,hostfwd=tcp:127.0.0.1:{port}-:{PORT}", "-netdev", f"tap,id=t,fd={tap.fd}",
                  "-netdev", "hubport,hubid=0,id=hu,netdev=u", "-netdev", "hubport,hubid=0,id=ht,netdev=t"],
                 pass_fds=[tap.fd], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1000):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return port
        time.sleep(0.01)
    raise Unfit("QEMU does not listen")


def run(bench):
    need_qemu()
    if os.geteuid():
        raise Unfit("needs root, for a network namespace")
    peer = "QEMU -netdev user"
    with Side(ours) as a, Side(ours, LARGE) as large, Side(qemu) as b, Loopback() as none:
        for side, goal in ((a, 0.8), (large, 2.0)):
            case = f", MTU {side.mtu}"
            bench.compare("into the guest" + case, "MiB/s", side.in_mib_s, b.in_mib_s, peer, goal, rate=True, limit=none.in_mib_s, limit_name=LIMIT)
            bench.compare("out of the guest" + case, "MiB/s", side.out_mib_s, b.out_mib_s, peer, goal, rate=True, limit=none.out_mib_s, limit_name=LIMIT)
        # One more process in the path, as with a VM.
        bench.compare("to and fro", "us", a.trip_us, b.trip_us, peer, 0.5, limit=none.trip_us, limit_name=LIMIT)
        bench.compare("connection", "us", a.connection_us, b.connection_us, peer, 1.0, limit=none.connection_us, limit_name=LIMIT)
