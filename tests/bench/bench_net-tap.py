"""net-tap: a guest's cost per frame, sent one after the other into a tap in a bridge: doorbell to used ring."""

import fcntl
import json
import os
import struct
import tempfile
import time

import guestlib
from benchlib import QEMU, Program, Unfit, need_kvm, need_qemu
from netlib import Lan, frame

FRAMES = 4000
TAP = "peer"
TUNSETIFF, TUNSETVNETHDRSZ, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454ca, 0x400454d8, 2, 0x1000, 0x4000


class Tap:
    """Create a tap as cairnd does, with headers of 12 bytes."""

    def __init__(self):
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
        os.set_inheritable(self.fd, True)

    def settimeout(self, seconds):
        pass

    def close(self):
        os.close(self.fd)


def said(guest, command):
    guest.output = b""
    os.write(guest.stdin, command.encode() + b"\n")
    guest.until(b"ok")


def frame_us(guest, size):
    begin = time.perf_counter()
    said(guest, f"net send {size} 1 {FRAMES}")
    return 1e6 * (time.perf_counter() - begin) / FRAMES


def write_us(tap, size):
    """Return the microseconds of a write of the guest's frame into a tap of the same bridge."""
    whole, write, fd = bytes(12) + frame(size, 1), os.write, tap.fd
    begin = time.perf_counter()
    for _ in range(FRAMES):
        write(fd, whole)
    return 1e6 * (time.perf_counter() - begin) / FRAMES


def qemu(lan, kind, mac):
    """Return the command of a QEMU with a tap in the bridge, and the tap."""
    tap = lan.inside(Tap)
    lan.ip("link", "set", TAP, "master", "br0", "up")
    cpu = "host,-arch-capabilities" if kind == "pvm" else "host"
    return [QEMU, "-M", "pc", "-accel", "kvm", "-cpu", cpu, "-m", "64", "-nodefaults", "-display", "none", "-serial",
            "stdio", "-netdev", f"tap,id=t,fd={tap.fd}", "-device",
            f"virtio-net-pci,netdev=t,disable-legacy=on,mac={mac}", "-kernel", guestlib.bare("interp")], tap


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
                json.dump(guestlib.definition(interfaces=[{"type": "bridge", "source": "br0"}]), f)
            ours = ["/usr/bin/nsenter", *lan.enter[1:], guestlib.CAIRN, "run", path]
            theirs, tap = qemu(lan, kind, "52:54:00:00:00:02")
            with Program(ours) as a, Program(theirs) as b:
                for g in (a, b):
                    g.until(b"interp")
                    said(g, "net open 0")
                for size in (46, 1486):
                    bench.compare(f"{size} bytes", "us/frame", lambda: frame_us(a, size), lambda: frame_us(b, size), "QEMU pc", 1.0,
                                  limit=lambda: write_us(tap, size), limit_name="write() of the frame into a tap")
    finally:
        lan.close()
