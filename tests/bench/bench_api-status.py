"""api-status: query-status on a VM's own socket and on QEMU's: queries per second, and the server's CPU time per
query."""

import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from benchlib import QEMU, ROUNDS, Unfit, need_qemu

QUERY = b'{"execute":"query-status"}'
QUERIES = 4000
IN_FLIGHT = 50
CLIENTS = 100
TARGET_RATE = 30000.0
TARGET_P99_MS = 1.0


def cpu_seconds(pid):
    return sum(int(open(f"/proc/{pid}/task/{t}/schedstat").read().split()[0]) for t in os.listdir(
        f"/proc/{pid}/task")) / 1e9


def lines(sock, n):
    """Read this many answers without parsing them, which would be the client's cost."""
    while n > 0:
        n -= sock.recv(1 << 16).count(b"\n")


def rate(client, pid, in_flight):
    """Return queries per second, and the server's CPU time per query in microseconds."""
    cpu, begin = cpu_seconds(pid), time.perf_counter()
    for _ in range(QUERIES // in_flight):
        client.sock.sendall(QUERY * in_flight)
        lines(client.sock, in_flight)
    wall = time.perf_counter() - begin
    return QUERIES / wall, (cpu_seconds(pid) - cpu) / QUERIES * 1e6


def p99(clients):
    """Return the 99th percentile of the answer time in ms. All clients are connected and ask one after the other."""
    took = []
    for _ in range(10):
        for c in clients:
            begin = time.perf_counter()
            c.sock.sendall(QUERY)
            lines(c.sock, 1)
            took.append((time.perf_counter() - begin) * 1e3)
    return statistics.quantiles(took, n=100)[98]


def peer_start(path):
    p = subprocess.Popen([QEMU, "-M", "none", "-nodefaults", "-display", "none", "-S", "-qmp",
                          f"unix:{path},server=on,wait=off"])
    end = time.monotonic() + 30
    while not os.path.exists(path):
        if p.poll() is not None or time.monotonic() > end:
            p.kill()
            raise Unfit("QEMU does not start")
        time.sleep(0.02)
    return p


def measure(bench, daemon, path, peer, peer_path):
    from conftest import Qmp

    ours, theirs = Qmp(path), Qmp(peer_path)
    for case, in_flight in (("one at a time", 1), (f"{IN_FLIGHT} in flight", IN_FLIGHT)):
        rounds = [(rate(ours, daemon.proc.pid, in_flight), rate(theirs, peer.pid, in_flight)) for _ in range(ROUNDS)]
        bench.pairs(f"{case}: server's CPU", "us", [(a[1], b[1]) for a, b in rounds], "QEMU", 3.0)
        bench.pairs(f"{case}: rate", "1/s", [(a[0], b[0]) for a, b in rounds], "QEMU", 3.0, rate=True)
        bench.pairs(f"{case}: rate", "1/s", [(a[0], TARGET_RATE) for a, _ in rounds], "target", 1.0, rate=True)
    clients = [Qmp(path) for _ in range(CLIENTS)]
    bench.compare(f"99th of 100, {CLIENTS} clients", "ms", lambda: p99(clients), TARGET_P99_MS, "target", 1.0)
    for c in [ours, theirs, *clients]:
        c.close()


def run(bench):
    need_qemu()
    from conftest import FAKE_VM, Daemon

    if not os.path.exists(FAKE_VM):
        raise Unfit("fake_vm is not built: make helpers")
    with tempfile.TemporaryDirectory() as tmp:
        daemon = Daemon(pathlib.Path(tmp), vm_program=FAKE_VM)
        peer = None
        try:
            daemon.define("vm1")
            daemon.cairn("start", "vm1")
            peer = peer_start(os.path.join(tmp, "peer"))
            measure(bench, daemon, daemon.cairn("qmp-path", "vm1").stdout.rstrip("\n"), peer,
                    os.path.join(tmp, "peer"))
        finally:
            daemon.close()
            if peer:
                peer.terminate()
                peer.wait(20)
