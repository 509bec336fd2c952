"""epoll: the loop on epoll, as in a container that refuses io_uring, against io_uring: starts and disk reads.

The reads are a guest's, of 4 KiB, at random, from a full qcow2 disk on a tmpfs and on disk."""

import contextlib
import json
import os
import subprocess
import tempfile

import guestlib
from benchlib import milliseconds_to, need_kvm
from imgbench import PLACES
from plainlib import qcow2

LOOPS = ("epoll", "io_uring")
START_GOAL, READ_GOAL = 1 / 1.3, 0.6
DISK_MIB, REQUESTS = 256, {1: 2000, 32: 20000}  # by depth


@contextlib.contextmanager
def loop(name):
    """Let programs that start meanwhile use this loop."""
    os.environ["CAIRN_LOOP"] = name
    try:
        yield
    finally:
        del os.environ["CAIRN_LOOP"]


def starts(bench, folder):
    file = os.path.join(folder, "vm.json")
    with open(file, "w") as f:
        json.dump({"name": "bench", "memory": "32M", "boot": {"kernel": guestlib.bare("first_byte")}}, f)

    def once(name):
        with loop(name):
            return milliseconds_to([guestlib.CAIRN, "run", file], b"A")
    for name in LOOPS:
        once(name)
    bench.compare("cairn run to first byte", "ms", lambda: once("epoll"), lambda: once("io_uring"), "on io_uring", START_GOAL)


def guest_of(folder, name):
    """Start a guest with a filled disk on this loop."""
    disk = qcow2(os.path.join(folder, f"{name}.qcow2"), f"{DISK_MIB}M")
    subprocess.run(["qemu-io", "-c", f"write -P 165 0 {DISK_MIB}M", disk["path"]], check=True, stdout=subprocess.DEVNULL)
    with loop(name):
        guest = guestlib.interp(disks=[disk])
    guest.command("open 0")
    return guest


def reads(bench, place, folder):
    with contextlib.ExitStack() as stack:
        guests = {name: stack.enter_context(guest_of(folder, name)) for name in LOOPS}

        def iops(name, depth):
            count = REQUESTS[depth]
            return count / guests[name].values(f"bench randread {depth} {count} 4096 {DISK_MIB << 11}")["ns"] * 1e9
        for depth in REQUESTS:
            for name in LOOPS:
                iops(name, depth)
            bench.compare(f"4 KiB random read, depth {depth}, {place}", "IOPS", lambda: iops("epoll", depth),
                          lambda: iops("io_uring", depth), "on io_uring", READ_GOAL, rate=True)


def run(bench):
    need_kvm()
    for place in PLACES:
        with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=PLACES[place]) as folder:
            if place == "disk":
                starts(bench, folder)
            reads(bench, place, folder)
