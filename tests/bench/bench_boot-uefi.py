"""boot-uefi: power on to the first byte of a boot loader, with OVMF, in the SVM host next to QEMU's q35, firmware and
disk the same. Each start has new UEFI variables."""

import json
import os
import shutil
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import efidisk
import guestlib
from benchlib import QEMU, Program, Unfit, need_qemu, pairs_in_svmhost, print_pairs

FRACTION = 0.8  # of QEMU's time
ROUNDS = 2
INSIDE_SECONDS = 3600
PATIENCE = 1200
CODE, VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
READY = b"efi app"


def milliseconds(argv):
    with Program(argv) as p:
        return p.until(READY, PATIENCE)


def pair(folder):
    disk, vm, variables = (os.path.join(folder, n) for n in ("disk", "vm.json", "vars"))
    efidisk.make(disk, os.path.join(guestlib.GUESTS, "efi_app.efi"))
    shutil.copy(VARIABLES, variables)
    with open(vm, "w") as f:
        json.dump({"name": "uefi", "memory": "128M", "boot": {"firmware": "uefi", "loader": CODE, "nvram_template": VARIABLES},
                   "disks": [guestlib.disk(disk)]}, f)
    peer = [QEMU, "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-drive", f"if=pflash,format=raw,readonly=on,file={CODE}",
            "-drive", f"if=pflash,format=raw,file={variables}", "-drive", f"file={disk},format=raw,if=virtio"]
    return milliseconds([guestlib.CAIRN, "run", vm]), milliseconds(peer)


def pairs():
    """Measure here; return [(ours, QEMU's), ...]."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        return [pair(folder) for _ in range(ROUNDS)]


def run(bench):
    need_qemu()
    if not os.path.exists(CODE):
        raise Unfit(f"the firmware is missing: {CODE}")
    there = guestlib.host_kind() in ("vmx", "svm")
    measured = pairs() if there else pairs_in_svmhost(__file__, INSIDE_SECONDS)
    bench.pairs("here" if there else "SVM host", "ms", measured, "QEMU q35", 1 / FRACTION)


if __name__ == "__main__":
    print_pairs(pairs())
