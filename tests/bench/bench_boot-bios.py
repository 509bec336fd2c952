"""boot-bios: power on to the first byte of a boot sector, with SeaBIOS, next to QEMU's pc, ROM and disk the same: here
and, where KVM emulates kernel mode, in the SVM host as well."""

import json
import os
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import QEMU, Unfit, milliseconds_to, need_qemu, pairs_in_svmhost, print_pairs

FRACTION = 0.6  # of QEMU's time
ROUNDS = 3  # where KVM emulates kernel mode, each takes seconds
ROM = "/usr/share/seabios/bios-256k.bin"
READY = b"second sector"
INSIDE_SECONDS = 120


def pairs_here():
    cpu = "host,-arch-capabilities" if guestlib.host_kind() == "pvm" else "host"
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        disk, vm = os.path.join(folder, "disk"), os.path.join(folder, "vm.json")
        with open(os.path.join(guestlib.BUILD, "guests", "boot_sector.bin"), "rb") as f:
            sector = f.read()
        with open(disk, "wb") as f:
            f.write(sector + READY + b"\r\n\0")
            f.truncate(1 << 20)
        with open(vm, "w") as f:
            json.dump({"name": "bios", "memory": "64M", "boot": {"firmware": "bios", "loader": ROM},
                       "disks": [guestlib.disk(disk)]}, f)
        ours = [guestlib.CAIRN, "run", vm]
        peer = [QEMU, "-M", "pc", "-accel", "kvm", "-cpu", cpu, "-m", "64", "-nodefaults", "-no-user-config", "-display",
                "none", "-serial", "stdio", "-no-reboot", "-bios", ROM, "-drive", f"file={disk},format=raw,if=virtio"]
        return [(milliseconds_to(ours, READY), milliseconds_to(peer, READY)) for _ in range(ROUNDS)]


def run(bench):
    need_qemu()
    if not os.path.exists(ROM):
        raise Unfit(f"the firmware is missing: {ROM}")
    bench.pairs("boot sector", "ms", pairs_here(), "QEMU pc", 1 / FRACTION)
    if guestlib.host_kind() == "pvm":
        bench.pairs("boot sector, SVM host", "ms", pairs_in_svmhost(__file__, INSIDE_SECONDS), "QEMU pc", 1 / FRACTION)


if __name__ == "__main__":
    print_pairs(pairs_here())
