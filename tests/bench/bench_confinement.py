"""confinement: what a VM's sandbox costs: the start of `cairn run` and the disk of a running VM, with and without it.

Both kinds of start and both guests take turns. The disks are on a tmpfs, so that no device hides a difference."""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile

import guestlib
from benchlib import ROUNDS, milliseconds_to, need_kvm
from imgbench import PLACES
from plainlib import qcow2

SANDBOXES = {"with": [], "without": ["--no-sandbox"]}
START_MS, START_ROUNDS = 1.0, 41
DISK_GOAL, DISK_MIB, REQUESTS, DISK_ROUNDS = 0.98, 64, 20000, 3 * ROUNDS


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


def guest_of(folder, sandbox):
    disk = qcow2(os.path.join(folder, f"{sandbox}.qcow2"), f"{DISK_MIB}M")
    subprocess.run(["qemu-io", "-c", f"write -P 165 0 {DISK_MIB}M", disk["path"]], check=True, stdout=subprocess.DEVNULL)
    guest = guestlib.Guest(guestlib.definition(guest="interp", disks=[disk]), SANDBOXES[sandbox])
    guest.expect("interp\n")
    guest.command("open 0")
    return guest


def blk(bench, folder):
    with contextlib.ExitStack() as stack:
        guests = {s: stack.enter_context(guest_of(folder, s)) for s in SANDBOXES}

        def iops(sandbox, kind):
            return REQUESTS / guests[sandbox].values(f"bench {kind} 32 {REQUESTS} 4096 {DISK_MIB << 11}")["ns"] * 1e9
        for kind in ("randread", "randwrite"):
            for s in SANDBOXES:
                iops(s, kind)
            found = [{s: iops(s, kind) for s in (SANDBOXES if i % 2 else reversed(SANDBOXES))} for i in range(DISK_ROUNDS)]
            bench.pairs(f"blk, 4 KiB {kind}, depth 32", "IOPS", [(f["with"], f["without"]) for f in found], "without it", DISK_GOAL,
                        rate=True)


def run(bench):
    need_kvm()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=PLACES["shm"]) as folder:
        starts(bench, folder)
        blk(bench, folder)
