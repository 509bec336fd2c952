"""fork-answer: 50 live clones of a VM with a user network, each with a port of the host's of its own that the clone's
guest answers on: milliseconds a clone beyond those of a fork without ports. The same on a NAT network (root only), in a
network namespace of its own.

The guest sends datagrams back. It looks for them at each tick of a timer of 20 Hz, which alone takes 25 ms of an
answer on average; all clones wait for theirs at once. More ticks would measure the ticks: where KVM emulates kernel
mode, 50 guests with 100 Hz take 1.5 processors. Each clone starts with its port: the daemon opens it with the clone's
files, and the clone's cairn-slirp begins with it."""

import contextlib
import json
import os
import pathlib
import select
import socket
import tempfile
import time

import freshfs
import guestlib
from benchlib import need_kvm
from conftest import Console, Daemon
from netlib import Lan
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


class NatDaemon(Daemon):
    """A daemon in a network namespace, with an active network."""

    def __init__(self, folder, lan):
        self.lan = lan
        lan.ip("link", "set", "lo", "up")
        super().__init__(folder)
        (folder / "lan.json").write_text(json.dumps({"name": "lan", "ipv4": {
            "address": "10.77.0.1", "prefix": 24, "dhcp": {"ranges": [{"start": "10.77.0.2", "end": "10.77.0.250"}]}}}))
        self.cairn("net-define", str(folder / "lan.json"))
        self.cairn("net-start", "lan")

    def command(self):
        return [*self.lan.enter, *super().command()]

    def close(self):
        for name in self.cairn("list", "--name", ok=None).stdout.split():
            self.cairn("destroy", name, ok=None)
        self.cairn("net-destroy", "lan", ok=None)
        super().close()


@contextlib.contextmanager
def nat_daemon(place):
    with contextlib.closing(Lan()) as lan, tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=place) as folder, \
            contextlib.closing(NatDaemon(pathlib.Path(folder), lan)) as daemon:
        yield daemon


def socket_make():
    return socket.socket(type=socket.SOCK_DGRAM)


def answers_await(ports, make):
    """Wait until each port has answered its own question. make: makes a socket where the ports are."""
    sockets = {}
    for port in ports:
        s = make()
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


def measure(daemon, qmp, make=socket_make):
    _, plain = clone(daemon)
    forget(qmp)
    begin = time.perf_counter()
    ports, _ = clone(daemon, "--publish", "udp:auto:7")
    assert len(set(ports)) == COUNT
    answers_await(ports, make)
    whole = time.perf_counter() - begin
    forget(qmp)
    return 1e3 * (whole - plain) / COUNT


def source_start(daemon, face, *commands):
    """Start the VM that is cloned; its guest serves."""
    daemon.define("src", memory="32M", debug_exit=True, boot={"kernel": guestlib.bare("interp")}, interfaces=[face])
    daemon.cairn("start", "src")
    console = Console(daemon, "src")
    while console.line() != "interp":
        pass
    for command in "net open 0", *commands, "pit 20":
        console.run(command)
    console.sock.sendall(b"net serve\n")
    console.close()
    return daemon.qmp(timeout=60)


def compare(bench, label, measure_once):
    measure_once()  # the first one reads the programs from the disk
    bench.compare(f"{label}, each of {COUNT}", "ms", measure_once, EACH_MS, "target", 1.0, rounds=ROUNDS)


def run(bench):
    need_kvm()
    with freshfs.folder(bench, 1 << 10) as place, daemon_of(bench.uid, place) as daemon:
        qmp = source_start(daemon, {"type": "user"})
        compare(bench, "user network", lambda: measure(daemon, qmp))
    if bench.uid is not None or os.geteuid():
        return
    with freshfs.folder(bench, 1 << 10) as place, nat_daemon(place) as daemon:
        qmp = source_start(daemon, {"type": "network", "source": "lan"}, "net dhcp")
        compare(bench, "NAT network", lambda: measure(daemon, qmp, lambda: daemon.lan.inside(socket_make)))
