"""promote: the longest time for which a port of a VM had no process while a live clone took the VM's place, in
milliseconds, and the longest connect of a client that connects again and again. A client that is refused fails the
row. The bare-metal guest, with a user network."""

import os
import socket
import threading
import time

import freshfs
from benchlib import need_kvm
from snapbench import daemon_of

GUEST = "guests/idle.elf"
ROUNDS = 50
GAP_MS, CONNECT_MS = 20.0, 20.0


class Client(threading.Thread):
    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.stopped, self.refused, self.longest_ms = port, False, 0, 0.0

    def run(self):
        while not self.stopped:
            begin = time.perf_counter()
            try:
                socket.create_connection(("127.0.0.1", self.port), 10).close()
            except ConnectionRefusedError:
                self.refused += 1
            except ConnectionResetError:
                pass
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - begin) * 1e3)
            time.sleep(0.001)


def promote(daemon, q, port):
    """Return the gap and the longest connect, in ms."""
    daemon.cairn("clone", "--live", "web", "try")
    client = Client(port)
    client.start()
    time.sleep(0.02)
    gap = q.run("vm-promote", vm="try")["gap"] / 1e6
    time.sleep(0.02)
    client.stopped = True
    client.join()
    assert not client.refused, f"{client.refused} connections were refused"
    daemon.cairn("undefine", "web-old")
    return gap, client.longest_ms


def run(bench):
    need_kvm()
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with freshfs.folder(bench, 512) as place, daemon_of(bench.uid, place) as daemon:
        q = daemon.qmp()
        daemon.define("web", memory="64M", boot={"kernel": os.path.join(bench.build, GUEST)},
                      interfaces=[{"type": "user", "forwards": [{"port": port, "to": 80}]}])
        daemon.cairn("start", "web")
        rounds = [promote(daemon, q, port) for _ in range(ROUNDS)]
    bench.pairs(f"gap of the port, worst of {ROUNDS}", "ms", [(max(gap for gap, _ in rounds), GAP_MS)], "target", 1.0)
    bench.pairs(f"connect, worst of {ROUNDS}", "ms", [(max(ms for _, ms in rounds), CONNECT_MS)], "target", 1.0)
