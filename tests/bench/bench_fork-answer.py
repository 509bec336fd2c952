"""fork-answer: 50 live clones of a VM with a user network, each with a port of the host's of its own that the clone's
guest answers on: milliseconds a clone beyond those of a fork without ports.

The guest sends datagrams back. It looks for them at each tick of a timer of 100 Hz, which alone takes 5 ms of an
answer on average; all clones wait for theirs at once. Each clone starts with its port: the daemon opens it with the
clone's files, and the clone's cairn-slirp begins with it."""

import json
import select
import socket
import time

import freshfs
import guestlib
from benchlib import need_kvm
from conftest import Console
from snapbench import daemon_of

COUNT = 50
EACH_MS = 10.0
ROUNDS = 5
AGAIN_S = 0.5  # a datagram that was lost is sent again


def clone(daemon, *publish):
    """Return the clones' ports, and the seconds that the verb took."""
    begin = time.perf_counter()
    r = daemon.cairn("clone", "--live", "src", "c", "--count", str(COUNT), *publish, "--format", "json")
    took = time.perf_counter() - begin
    return [p["port"] for p in json.loads(r.stdout).get("published", [])], took


def answers_await(ports):
    """Wait until each port has answered its own question."""
    sockets = {}
    for port in ports:
        s = socket.socket(type=socket.SOCK_DGRAM)
        s.connect(("127.0.0.1", port))
        sockets[s] = str(port).encode()
    while sockets:
        for s, question in sockets.items():
            s.send(question)
        deadline = time.perf_counter() + AGAIN_S
        while sockets and time.perf_counter() < deadline:
            for s in select.select(list(sockets), [], [], max(0, deadline - time.perf_counter()))[0]:
                if s.recv(100) == sockets[s]:
                    del sockets[s]
                    s.close()


def forget(qmp):
    for i in range(1, COUNT + 1):
        qmp.run("vm-destroy", vm=f"c-{i}")
        qmp.run("vm-undefine", vm=f"c-{i}", **{"remove-all-storage": True})


def measure(daemon, qmp):
    _, plain = clone(daemon)
    forget(qmp)
    begin = time.perf_counter()
    ports, _ = clone(daemon, "--publish", "udp:auto:7")
    assert len(set(ports)) == COUNT
    answers_await(ports)
    whole = time.perf_counter() - begin
    forget(qmp)
    return 1e3 * (whole - plain) / COUNT


def run(bench):
    need_kvm()
    with freshfs.folder(bench, 1 << 10) as place, daemon_of(bench.uid, place) as daemon:
        daemon.define("src", memory="32M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                      interfaces=[{"type": "user"}])
        daemon.cairn("start", "src")
        console = Console(daemon, "src")
        while console.line() != "interp":
            pass
        console.run("net open 0")
        console.run("pit 100")
        console.sock.sendall(b"net serve\n")
        console.close()
        qmp = daemon.qmp(timeout=60)
        measure(daemon, qmp)  # the first one reads the programs from the disk
        bench.compare(f"user network, each of {COUNT}", "ms", lambda: measure(daemon, qmp), EACH_MS, "target", 1.0, rounds=ROUNDS)
