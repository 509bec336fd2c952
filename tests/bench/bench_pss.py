"""pss: memory of an idle VM process beyond the guest's RAM, with 1 vCPU and one disk."""

import os
import re
import tempfile
import time

import guestlib
from benchlib import Program, need_kvm, need_qemu, qemu_microvm

RAM_MIB = 32
TARGET_MIB = 2.5
PEER_MIB = 30.0  # QEMU microvm's memory when the goal was set
ROUNDS = 3  # the result hardly varies


def pss_without_ram(pid):
    """Return MiB. Guest RAM is the mapping of RAM_MIB, or of a memfd."""
    total, ram = 0, False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ram = "memfd:" in line
            elif line.startswith("Size:"):
                ram = ram or int(line.split()[1]) == RAM_MIB * 1024
            elif line.startswith("Pss:") and not ram:
                total += int(line.split()[1])
    return total / 1024


def settled(program):
    program.until(b"idle")
    time.sleep(0.3)
    return pss_without_ram(program.pid)


def run(bench):
    need_kvm()
    need_qemu()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        image = os.path.join(folder, "disk.img")
        with open(image, "wb") as f:
            f.truncate(64 << 20)

        def ours():
            d = guestlib.definition(guest="idle", memory=f"{RAM_MIB}M", disks=[guestlib.disk(image)])
            with guestlib.Guest(d) as g:
                g.expect("idle")
                time.sleep(0.3)
                return pss_without_ram(g.vm_pid())

        def peer():
            argv = qemu_microvm(guestlib.bare("idle"), RAM_MIB, "-drive", f"file={image},format=raw,if=none,id=d",
                                "-device", "virtio-blk-device,drive=d")
            with Program(argv) as p:
                return settled(p)

        pairs = [(ours(), peer()) for _ in range(ROUNDS)]
        bench.pairs("1 vCPU, 1 disk", "MiB", [(o, TARGET_MIB) for o, _ in pairs], "target", 1.0)
        bench.pairs("1 vCPU, 1 disk", "MiB", pairs, "QEMU microvm", PEER_MIB / TARGET_MIB)
