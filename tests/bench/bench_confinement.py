"""confinement: what a VM's sandbox costs: the start of `cairn run` and the disk of a running VM, with and without it.

Both kinds of start take turns, and four guests, two of each kind, because guests of one kind differ by up to 7 %. On a
tmpfs no device hides a difference: there each request is a system call, on which seccomp costs 30 ns of some 1100. On a
disk the times are the device's, so the processor time of the disk's thread counts."""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import guestlib
from benchlib import ROUNDS, milliseconds_to, need_kvm
from imgbench import PLACES
from plainlib import qcow2

SANDBOXES = {"with": [], "without": ["--no-sandbox"]}
START_MS, START_ROUNDS = 1.0, 41
FOUR = ["without", "with", "with", "without"]
DISK_GOAL, DISK_MIB, DISK_ROUNDS = 0.98, 64, 3 * ROUNDS
REQUESTS = {"shm": 20000, "disk": 2000}


def starts(bench, folder):
    file = os.path.join(folder, "vm.json")
    with open(file, "w") as f:
        json.dump({"name": "bench", "memory": "32M", "boot": {"kernel": guestlib.bare("first_byte")}}, f)

    def once(sandbox):
        return milliseconds_to([guestlib.CAIRN, "run", *SANDBOXES[sandbox], file], b"A")
    for sandbox in SANDBOXES:
        once(sandbox)
    found = [{s: once(s) for s in (SANDBOXES if i % 2 else reversed(SANDBOXES))} for i in range(START_ROUNDS)]
    added = statistics.median(f["with"] - f["without"] for f in found)
    bench.pairs("added to the start of cairn run", "ms", [(max(added, 0.0), START_MS)], "target", 1.0)


def guest_of(folder, name, sandbox):
    disk = qcow2(os.path.join(folder, f"{name}.qcow2"), f"{DISK_MIB}M")
    subprocess.run(["qemu-io", "-c", f"write -P 165 0 {DISK_MIB}M", disk["path"]], check=True, stdout=subprocess.DEVNULL)
    guest = guestlib.Guest(guestlib.definition(guest="interp", disks=[disk]), SANDBOXES[sandbox])
    guest.expect("interp\n")
    guest.command("open 0")
    return guest


def disk_thread_ns(guest):
    """The processor time of the disk's thread."""
    for task in Path(f"/proc/{guest.vm_pid()}/task").iterdir():
        if (task / "comm").read_text() == "vda\n":
            return int((task / "schedstat").read_text().split()[0])
    raise AssertionError("no thread vda")


def blk(bench, place):
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=PLACES[place]) as folder, contextlib.ExitStack() as stack:
        guests = [(s, stack.enter_context(guest_of(folder, str(i), s))) for i, s in enumerate(FOUR)]

        n = REQUESTS[place]

        def iops(guest, kind):
            return n / guest.values(f"bench {kind} 32 {n} 4096 {DISK_MIB << 11}")["ns"] * 1e9

        def work_ns(guest, kind):
            before = disk_thread_ns(guest)
            iops(guest, kind)
            return (disk_thread_ns(guest) - before) / n

        def once(measure, kind, turn):
            found = [(s, measure(g, kind)) for s, g in (guests if turn % 2 else reversed(guests))]
            return tuple(statistics.mean(v for s, v in found if s == which) for which in SANDBOXES)
        on_disk = place == "disk"
        for kind in ("randread", "randwrite"):
            pairs = [once(work_ns if on_disk else iops, kind, i) for i in range(DISK_ROUNDS + 1)][1:]
            bench.pairs(f"blk, 4 KiB {kind}, depth 32, " + ("on disk: processor time" if on_disk else "on tmpfs"),
                        "ns" if on_disk else "IOPS", pairs, "without it", DISK_GOAL, rate=not on_disk)


def run(bench):
    need_kvm()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=PLACES["shm"]) as folder:
        starts(bench, folder)
    for place in PLACES:
        blk(bench, place)
