"""boot-bios: power on to the first byte of a boot sector, with SeaBIOS, next to QEMU's pc, ROM and disk the same."""

import json
import os
import tempfile

import guestlib
from benchlib import QEMU, Unfit, milliseconds_to, need_qemu

FRACTION = 0.6  # of QEMU's time
ROUNDS = 3  # where KVM emulates kernel mode, each takes seconds
ROM = "/usr/share/seabios/bios-256k.bin"
READY = b"second sector"


def run(bench):
    need_qemu()
    if not os.path.exists(ROM):
        raise Unfit(f"the firmware is missing: {ROM}")
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
        bench.compare("boot sector", "ms", lambda: milliseconds_to(ours, READY), lambda: milliseconds_to(peer, READY), "QEMU pc",
                      1 / FRACTION, rounds=ROUNDS)
