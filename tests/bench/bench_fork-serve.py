"""fork-serve: 50 live clones of a VM with a user network, from the command until each has answered a request of HTTP on
a port of the host's of its own, in milliseconds for all together. The bare-metal guest, whose processor halts until a
frame comes; on this machine, and in the SVM host. Rows of information: the same of the command alone."""

import ipaddress
import json
import os
import selectors
import socket
import sys
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import freshfs
import guestlib
from benchlib import need_kvm, pairs_in_svmhost, print_pairs
from conftest import Console
from snapbench import daemon_of

COUNT = 50
GOAL_MS = 500.0
ROUNDS, INSIDE_ROUNDS = 5, 2
PORT = 80
REQUEST = b"GET / HTTP/1.1\r\nHost: clone\r\n\r\n"
INSIDE_SECONDS = 1200
PATIENCE = 120


def source_start(daemon):
    daemon.define("src", memory="32M", debug_exit=True, boot={"kernel": guestlib.bare("interp")}, interfaces=[{"type": "user"}])
    daemon.cairn("start", "src")
    console = Console(daemon, "src")
    while console.line() != "interp":
        pass
    console.run("net open 0")
    address = console.run("net dhcp")[0]
    console.run(f"tcp listen {int(ipaddress.ip_address(address))} {PORT}")
    console.sock.sendall(b"tcp http\n")
    console.close()


def requests_answer(ports):
    """Ask each port at once, and wait until each has answered."""
    selector, left = selectors.DefaultSelector(), {}
    for port in ports:
        s = socket.create_connection(("127.0.0.1", port), PATIENCE)
        s.sendall(REQUEST)
        s.setblocking(False)
        left[s] = b""
        selector.register(s, selectors.EVENT_READ)
    while left:
        ready = selector.select(PATIENCE)
        assert ready, f"{len(left)} clones do not answer"
        for key, _ in ready:
            s = key.fileobj
            data = s.recv(4096)
            left[s] += data
            if not data:
                assert left[s].startswith(b"HTTP/1.1 200 ") and left[s].endswith(b"served\n"), left[s]
                selector.unregister(s)
                del left[s]
                s.close()


def measure(daemon, qmp):
    """Return the ms until all have answered, and those of the command."""
    begin = time.perf_counter()
    r = daemon.cairn("clone", "--live", "src", "c", "--count", str(COUNT), "--publish", f"auto:{PORT}", "--format", "json", timeout=600)
    cloned = time.perf_counter()
    ports = {p["port"] for p in json.loads(r.stdout)["published"]}
    assert len(ports) == COUNT
    requests_answer(ports)
    end = time.perf_counter()
    for i in range(1, COUNT + 1):
        qmp.run("vm-destroy", vm=f"c-{i}")
        qmp.run("vm-undefine", vm=f"c-{i}", **{"remove-all-storage": True})
    return (end - begin) * 1e3, (cloned - begin) * 1e3


def measure_rounds(daemon, rounds):
    source_start(daemon)
    qmp = daemon.qmp(timeout=300)
    return [measure(daemon, qmp) for _ in range(rounds + 1)][1:]  # the first one reads the programs from the disk


def rows_add(bench, where, rounds):
    bench.pairs(f"{COUNT} clones answer, {where}", "ms", [(ms, GOAL_MS) for ms, _ in rounds], "target", 1.0)
    bench.pairs(f"the command alone, {where}", "ms", [(ms, GOAL_MS) for _, ms in rounds], "target", 0.0)


def run(bench):
    need_kvm()
    with freshfs.folder(bench, 1 << 10) as place, daemon_of(bench.uid, place) as daemon:
        rows_add(bench, "natively", measure_rounds(daemon, ROUNDS))
    if bench.uid is None and guestlib.host_kind() == "pvm":
        rows_add(bench, "SVM host", pairs_in_svmhost(__file__, INSIDE_SECONDS))


if __name__ == "__main__":
    with daemon_of(None) as inside:
        print_pairs(measure_rounds(inside, INSIDE_ROUNDS))
