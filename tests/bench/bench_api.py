"""api: queries per second and their delay, a list of 1,000 VMs, the daemon's memory and its restart."""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchlib import QEMU, Unfit, need_qemu

QUERY = b'{"execute":"%s"}'
BATCH = 64  # queries sent at once, as by a pipelining client
SECONDS = 0.5
DEFINED, RUNNING, CLIENTS = 1000, 100, 100
ASKED = 3000  # queries whose delay is measured, per round
RATE_TARGET, P99_TARGET_MS, LIST_TARGET_MS, RSS_TARGET_MIB, RESTART_TARGET_MS = 30000, 1.0, 10.0, 20.0, 1000.0
FLOOD_TARGET_MS, FLOOD_RSS_TARGET_MIB = 5.0, 64.0  # the accounts bound what answers that nobody reads take
PEER_TIMES = 3.0


class Qmp:
    """A minimal client, so that only the socket is measured."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.lines(1)
        self.sock.sendall(QUERY % b"qmp_capabilities")
        self.lines(1)

    def lines(self, n):
        data = b""
        while data.count(b"\n") < n:
            got = self.sock.recv(1 << 16)
            if not got:
                raise RuntimeError("it hung up")
            data += got
        return data

    def run(self, command, **args):
        self.sock.sendall(json.dumps({"execute": command, "arguments": args}).encode())
        while True:
            m = json.loads(self.lines(1).splitlines()[-1])
            if "error" in m:
                raise RuntimeError(m["error"]["desc"])
            if "return" in m:
                return m["return"]

    def rate(self, command, batch):
        """Return queries answered per second over this connection, with this many in flight."""
        text, n, begin = (QUERY % command) * batch, 0, time.perf_counter()
        while time.perf_counter() - begin < SECONDS:
            self.sock.sendall(text)
            self.lines(batch)
            n += batch
        return n / (time.perf_counter() - begin)

    def delay_ms(self, command):
        begin = time.perf_counter()
        self.sock.sendall(QUERY % command)
        self.lines(1)
        return (time.perf_counter() - begin) * 1e3


class Daemon:
    """A daemon with this many VMs defined, and this many running as idle processes (tests/helpers/fake_vm), so that
    the benchmark measures the daemon and not the host's capacity."""

    def __init__(self, build, tmp):
        self.build, self.tmp = build, tmp
        self.env = {**os.environ, "CAIRN_SOCKET": str(tmp / "sock")}
        self.proc = None
        (tmp / "kernel").write_bytes(b"none\n")
        self.restart_ms()
        self.qmp = Qmp(str(tmp / "sock"))
        for i in range(DEFINED):
            self.qmp.run("vm-define", definition={"name": f"vm{i:04}", "memory": "32M",
                                                  "boot": {"kernel": str(tmp / "kernel")}})
        for i in range(RUNNING):
            self.qmp.run("vm-start", vm=f"vm{i:04}")

    def restart_ms(self):
        """Kill the daemon if it runs. Return the time from exec to its greeting, by which it has adopted all
        running VMs."""
        if self.proc:
            self.proc.kill()
            self.proc.wait()
        begin = time.perf_counter()
        self.proc = subprocess.Popen([f"{self.build}/cairnd", "--state-dir", self.tmp / "state", "--vm-program",
                                      f"{self.build}/helpers/fake_vm"], env=self.env, stderr=subprocess.DEVNULL)
        while True:
            try:
                Qmp(str(self.tmp / "sock"))
                return (time.perf_counter() - begin) * 1e3
            except (OSError, RuntimeError):
                time.sleep(0.0005)

    def list_ms(self):
        begin = time.perf_counter()
        out = subprocess.run([f"{self.build}/cairn", "list", "--all"], env=self.env, stdout=subprocess.PIPE).stdout
        passed = (time.perf_counter() - begin) * 1e3
        if out.count(b"\n") < DEFINED:
            raise RuntimeError("the list is too short")
        return passed

    def rss_mib(self):
        with open(f"/proc/{self.proc.pid}/status") as f:
            return int(f.read().split("VmRSS:")[1].split()[0]) / 1024

    def running(self):
        q, n, after = Qmp(str(self.tmp / "sock")), 0, ""
        while after is not None:
            page = q.run("vm-list", **({"after": after} if after else {}))
            n += sum(v["state"] == "running" for v in page["vms"])
            after = page.get("next")
        return n

    def close(self):
        q = Qmp(str(self.tmp / "sock"))
        for i in range(RUNNING):
            q.run("vm-destroy", vm=f"vm{i:04}")
        self.proc.terminate()
        self.proc.wait()


OTHERS = """
import socket, sys, time
path, n = sys.argv[1], int(sys.argv[2])
socks = []
for _ in range(n):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.recv(9999)
    s.sendall(b'{"execute":"qmp_capabilities"}')
    s.recv(9999)
    socks.append(s)
print("ready", flush=True)
while True:  # each asks about fifty times a second
    for s in socks:
        s.sendall(b'{"execute":"query-version"}')
    for s in socks:
        s.recv(9999)
    time.sleep(0.02)
"""


FLOOD = """
import select, socket, sys
path, n, block = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode() * 200
socks = []
for _ in range(n):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.recv(9999)
    s.sendall(b'{"execute":"qmp_capabilities"}')
    s.recv(9999)
    s.setblocking(False)
    socks.append(s)
print("ready", flush=True)
while True:
    r, w, _ = select.select(socks, socks, [])
    for s in r:
        if not s.recv(1 << 20):
            sys.exit("disconnected")
    for s in w:
        try:
            s.send(block)
        except BlockingIOError:
            pass
"""
VIEWERS = 4242  # a group with the role viewer
FLOODERS = 50


@contextlib.contextmanager
def others(script, path, *args, **user):
    p = subprocess.Popen([sys.executable, "-c", script, path, *map(str, args)], stdout=subprocess.PIPE, **user)
    try:
        if p.stdout.readline() != b"ready\n":
            raise RuntimeError("the other clients did not come up")
        yield
        if p.poll() is not None:
            raise RuntimeError("the other clients have ended")
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


def delays_p99_ms(path):
    """Return the 99th percentile of one client's delay."""
    q = Qmp(path)
    return statistics.quantiles((q.delay_ms(b"query-version") for _ in range(ASKED)), n=100)[98]


def p99_ms(path):
    """The same, while other clients send queries, too."""
    with others(OTHERS, path, CLIENTS - 1):
        return delays_p99_ms(path)


def p99_flood_ms(path):
    """The same, while viewers and users without a role send the longest queries as fast as they can."""
    with others(FLOOD, path, FLOODERS, '{"execute":"query-events"}', user=65534, group=65534, extra_groups=[VIEWERS]), \
            others(FLOOD, path, FLOODERS, '{"execute":"query-qmp-schema"}', user=65533, group=65533, extra_groups=[]):
        return delays_p99_ms(path)


class Peer:
    """A QEMU that only answers QMP."""

    def __init__(self, tmp):
        path = str(tmp / "qemu")
        self.proc = subprocess.Popen([QEMU, "-M", "none", "-display", "none", "-nodefaults", "-qmp",
                                      f"unix:{path},server=on,wait=off"])
        while not os.path.exists(path):
            time.sleep(0.01)
        self.qmp = Qmp(path)

    def close(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()


def run(bench):
    need_qemu()
    if not os.path.exists(f"{bench.build}/helpers/fake_vm"):
        raise Unfit("fake_vm is not built: make helpers")
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        tmp = Path(folder)
        daemon, peer = Daemon(bench.build, tmp), Peer(tmp)
        try:
            own = Qmp(daemon.qmp.run("vm-qmp-path", vm="vm0000")["path"])
            bench.compare("query-status, one by one", "1/s", lambda: own.rate(b"query-status", 1),
                          lambda: peer.qmp.rate(b"query-status", 1), "QEMU", PEER_TIMES, rate=True)
            bench.compare(f"query-status, {BATCH} at once", "1/s", lambda: own.rate(b"query-status", BATCH), RATE_TARGET,
                          "target", 1.0, rate=True)
            bench.compare(f"p99 with {CLIENTS} clients", "ms", lambda: p99_ms(str(tmp / "sock")), P99_TARGET_MS,
                          "target", 1.0)
            bench.compare(f"daemon's memory, {DEFINED} VMs, {RUNNING} run", "MiB", daemon.rss_mib, RSS_TARGET_MIB,
                          "target", 1.0, rounds=1)
            if os.geteuid() == 0:
                os.chmod(tmp, 0o711)
                daemon.qmp.run("permission-grant", group=VIEWERS, role="viewer")  # from now on every user may connect
                bench.compare(f"p99 with {FLOODERS} viewers and {FLOODERS} strangers", "ms",
                              lambda: p99_flood_ms(str(tmp / "sock")), FLOOD_TARGET_MS, "target", 1.0, rounds=3)
                bench.compare("daemon's memory afterwards", "MiB", daemon.rss_mib, FLOOD_RSS_TARGET_MIB, "target", 1.0, rounds=1)
            bench.compare(f"cairn list of {DEFINED} VMs", "ms", daemon.list_ms, LIST_TARGET_MS, "target", 1.0)
            bench.compare(f"restart with {RUNNING} running", "ms", daemon.restart_ms, RESTART_TARGET_MS, "target", 1.0,
                          rounds=5)
            if daemon.running() != RUNNING:
                raise RuntimeError("not all were taken back")
        finally:
            peer.close()
            daemon.close()
