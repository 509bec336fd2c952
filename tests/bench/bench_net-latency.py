"""net-latency: a frame with one byte from the host to a guest behind a tap in a bridge, and back."""

import contextlib
import json
import os
import statistics
import tempfile
import time

import guestlib
from benchlib import QEMU, Program, Unfit, need_kvm, need_qemu
from netlib import TYPE, Lan

import importlib
net_tap = importlib.import_module("bench_net-tap")

TRIPS = 500
MACS = {"ours": "52:54:00:00:00:01", "peer": "52:54:00:00:00:02", "limit": "52:54:00:00:00:03"}


def bytes_of(mac):
    return bytes.fromhex(mac.replace(":", ""))


def trip_us(guest, sock, host, mac):
    """Return the median round trip. The guest answers with what it gets."""
    net_tap.said(guest, "net drain")
    guest.output = b""
    os.write(guest.stdin, f"net echo {TRIPS}\n".encode())
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(2048)
    sock.settimeout(30)
    frame = bytes_of(mac) + bytes_of(host) + TYPE.to_bytes(2, "big") + b"x"
    times = []
    for _ in range(TRIPS):
        begin = time.perf_counter()
        sock.send(frame)
        while sock.recv(2048)[6:12] != bytes_of(mac):
            pass
        times.append(time.perf_counter() - begin)
    guest.until(b"ok")
    return 1e6 * statistics.median(times)


def veth(lan):
    """Return a socket behind a veth in the bridge, in the place of a guest."""
    lan.ip("link", "add", "near", "master", "br0", "up", "type", "veth", "peer", "name", "far", "address", MACS["limit"])
    lan.ip("link", "set", "far", "up")
    return lan.socket("far")


def veth_us(sock, far, host):
    """Return the median round trip to that socket, which answers as the guests do."""
    there = bytes_of(MACS["limit"]) + bytes_of(host) + TYPE.to_bytes(2, "big") + b"x"
    back = there[6:12] + there[:6] + there[12:]
    times = []
    for _ in range(TRIPS):
        begin = time.perf_counter()
        sock.send(there)
        while far.recv(2048)[:6] != there[:6]:
            pass
        far.send(back)
        while sock.recv(2048)[6:12] != back[6:12]:
            pass
        times.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(times)


def run(bench):
    kind = need_kvm()
    need_qemu()
    if os.geteuid():
        raise Unfit("needs root, for a network namespace")
    lan = Lan()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "vm.json")
            with open(path, "w") as f:
                json.dump(guestlib.definition(interfaces=[{"type": "bridge", "source": "br0", "mac": MACS["ours"]}]), f)
            ours = ["/usr/bin/nsenter", *lan.enter[1:], guestlib.CAIRN, "run", path]
            with Program(ours) as a, Program(net_tap.qemu(lan, kind, MACS["peer"])[0]) as b:
                for g in (a, b):
                    g.until(b"interp")
                    net_tap.said(g, "net open 0")
                far = veth(lan)
                sock, host = lan.socket(), lan.ip("link", "show", "br0")[0]["address"]
                bench.compare("one byte", "us", lambda: trip_us(a, sock, host, MACS["ours"]),
                              lambda: trip_us(b, sock, host, MACS["peer"]), "QEMU pc", 1.0,
                              limit=lambda: veth_us(sock, far, host), limit_name="through bridge and veth, without a process to wake")
    finally:
        lan.close()
