"""fork-answer: 50 live clones of a VM with a user network, each with a port of the host's of its own that the clone's
guest answers on: milliseconds a clone beyond those of a fork without ports. The same on a NAT network (root only), in a
network namespace of its own. Both with the bare-metal guest, and in the SVM host with Linux, whose busybox sends back
what comes by TCP.

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
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import freshfs
import guestlib
from benchlib import need_kvm, pairs_in_svmhost, print_pairs
from conftest import Console
from netbench import NETWORK, initrd_pack, nat_daemon
from snapbench import daemon_of

COUNT = 50
EACH_MS = 10.0
ROUNDS = 5
AGAIN_S = 0.5  # a datagram that was lost is sent again
CLONE_SECONDS = 600  # in the SVM host
LINUX_ROUNDS = 2
INSIDE_SECONDS = 2000

# Init of the Linux guests: an address by DHCP, and an echo server.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /bin
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b --install -s /bin
ip link set lo up
ip link set eth0 up
udhcpc -q -n -t 20 -i eth0 -s /dhcp >/dev/null 2>&1
while nc -l -p 7 -e cat; do :; done </dev/null >/dev/null 2>&1 &
until netstat -ltn | grep -q ':7 '; do sleep 0.1; done
echo guest serves >/dev/ttyS0
while :; do sleep 1000; done
"""
DHCP = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
"""


def clone(daemon, *publish):
    """Return the clones' ports, and the seconds that the verb took."""
    begin = time.perf_counter()
    r = daemon.cairn("clone", "--live", "src", "c", "--count", str(COUNT), *publish, "--format", "json", timeout=CLONE_SECONDS)
    took = time.perf_counter() - begin
    return [p["port"] for p in json.loads(r.stdout).get("published", [])], took


def socket_make():
    return socket.socket(type=socket.SOCK_DGRAM)


def stream_make():
    return socket.socket()


def socket_to(port, make):
    s = make()
    s.connect(("127.0.0.1", port))
    return s


def has_answered(s, question):
    """Return whether the answer has come; None: the connection is reset, as the host's kernel does if a guest is silent
    for seconds."""
    try:
        return s.recv(len(question)) == question
    except (ConnectionResetError, BrokenPipeError):
        return None


def answers_await(ports, make):
    """Wait until each port has answered its own question. make: makes a socket where the ports are. On a stream, a
    question that is asked twice is answered twice."""
    sockets = {socket_to(port, make): port for port in ports}
    while sockets:
        for s, port in sockets.items():
            with contextlib.suppress(OSError):
                s.send(str(port).encode())
        deadline = time.perf_counter() + AGAIN_S
        while sockets and time.perf_counter() < deadline:
            for s in select.select(list(sockets), [], [], max(0, deadline - time.perf_counter()))[0]:
                came = has_answered(s, str(sockets[s]).encode())
                if came is False:
                    continue
                port = sockets.pop(s)
                s.close()
                if came is None:
                    sockets[socket_to(port, make)] = port


def forget(qmp):
    for i in range(1, COUNT + 1):
        qmp.run("vm-destroy", vm=f"c-{i}")
        qmp.run("vm-undefine", vm=f"c-{i}", **{"remove-all-storage": True})


def measure(daemon, qmp, make=socket_make, publish="udp:auto:7"):
    _, plain = clone(daemon)
    forget(qmp)
    begin = time.perf_counter()
    ports, _ = clone(daemon, "--publish", publish)
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


def linux_initrd(folder):
    """Pack busybox and the scripts behind the archive of the tests, which has /dev/console. Returns the path."""
    tree, path = folder / "tree", folder / "initrd"
    for d in ("bin", "etc"):
        (tree / d).mkdir(parents=True)
    for name, text in ("init", INIT), ("dhcp", DHCP):
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    subprocess.run(["cp", "-L", "/bin/busybox", tree / "bin"], check=True)
    initrd_pack(tree, path)
    return str(path)


def linux_start(daemon, face, kernel, initrd):
    """Start the Linux that is cloned; it serves."""
    d = {"name": "src", "memory": "64M", "vcpus": 1, "rng": True, "interfaces": [face],
         "boot": {"kernel": kernel, "initrd": initrd, "cmdline": guestlib.linux_cmdline()}}
    (daemon.tmp / "src.json").write_text(json.dumps(d))
    daemon.cairn("define", str(daemon.tmp / "src.json"))
    daemon.cairn("start", "src")
    console = Console(daemon, "src")
    console.sock.settimeout(200)
    while console.line() != "guest serves":
        pass
    console.close()
    return daemon.qmp(timeout=300)


def linux_measure(kernel, network):
    """Return [[ms, goal], ...]. network: NAT, or user."""
    nat = network == "NAT"
    face = {"type": "network", "source": NETWORK} if nat else {"type": "user"}
    with tempfile.TemporaryDirectory() as folder, nat_daemon(None) if nat else daemon_of(None) as daemon:
        qmp = linux_start(daemon, face, os.path.join(kernel, "vmlinux"), linux_initrd(pathlib.Path(folder)))
        make = (lambda: daemon.lan.inside(stream_make)) if nat else stream_make
        rows = [measure(daemon, qmp, make, "auto:7") for _ in range(LINUX_ROUNDS + 1)]
        return [(ms, EACH_MS) for ms in rows[1:]]  # the first one reads the programs from the disk


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
        qmp = source_start(daemon, {"type": "network", "source": NETWORK}, "net dhcp")
        compare(bench, "NAT network", lambda: measure(daemon, qmp, lambda: daemon.lan.inside(socket_make)))
    for network in ("user", "NAT") if guestlib.host_kind() == "pvm" else ():
        pairs = pairs_in_svmhost(__file__, INSIDE_SECONDS, guestlib.linux_kernel(), network)
        bench.pairs(f"{network} network, Linux in the SVM host, each of {COUNT}", "ms", pairs, "target", 1.0)


if __name__ == "__main__":
    print_pairs(linux_measure(*sys.argv[1:]))
