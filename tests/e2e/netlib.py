"""A network of a test's or a benchmark's own."""

import ctypes
import json
import os
import socket
import subprocess
import time

TYPE = 0x88b5  # EtherType of the guest's frames
ALL = b"\xff" * 6


def payload(n, seed):
    return bytes((i * 7 + (i >> 8) + seed) & 255 for i in range(n))


def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def frame(n, seed, to=ALL):
    return to + mac_bytes("02:00:00:00:00:99") + TYPE.to_bytes(2, "big") + payload(n, seed)


def ipv6_add(where, address, link):
    """Give a link in the namespace `where` an address with its prefix, and wait until the namespace can reach it: the
    kernel adds an address's own route in a work queue, after `ip` has ended."""
    where.ip("-6", "addr", "add", address, "dev", link, "nodad")
    while not where.ip("-6", "route", "show", "table", "local", address.split("/")[0]):
        time.sleep(0.01)


def keepalive_asks(port, seconds):
    """Return whether the kernel asks the clients of this host's port after this time of silence: its timer 02."""
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    timers = [row[5].split(":") for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "01"]
    return timers and all(kind == "02" and int(ticks, 16) <= seconds * 100 for kind, ticks in timers)


class Lan:
    """A network namespace with a bridge; it ends with the process that holds it."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo there; exec sleep 600"],
                                       stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"there\n"
        self.enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        self.sockets = []
        self.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.ip("link", "set", "br0", "up")

    def ip(self, *args):
        r = subprocess.run([*self.enter, "ip", "-j", *args], capture_output=True, text=True, check=True)
        return json.loads(r.stdout or "[]")

    def taps(self):
        return [i["ifname"] for i in self.ip("link", "show", "type", "tun")]

    def socket(self, device="br0", kind=TYPE):
        """Return a socket that sees and sends frames there."""
        s = self.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)))
        s.bind((device, kind))
        s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        return s

    def inside(self, make):
        """Enter the namespace: a socket stays in the namespace in which it was created."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as ours, open(f"/proc/{self.holder.pid}/ns/net") as theirs:
            assert libc.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
            try:
                s = make()
            finally:
                assert libc.setns(ours.fileno(), 0) == 0
        s.settimeout(30)
        self.sockets.append(s)
        return s

    def close(self):
        for s in self.sockets:
            s.close()
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
