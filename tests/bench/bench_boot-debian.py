"""boot-debian: power on to the login prompt of Debian with systemd, from a disk that mmdebstrap and grub-install made
(tests/guests/debian/disk.sh), by SeaBIOS and GRUB in the SVM host, next to QEMU's pc. Each start has a new overlay."""

import json
import os
import subprocess
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import QEMU, Program, Unfit, need_qemu, pairs_in_svmhost, print_pairs

FRACTION = 0.8  # of QEMU's time
ROUNDS = 3  # each takes a minute
INSIDE_SECONDS = 3600
PATIENCE = 1800
ROM = "/usr/share/seabios/bios-256k.bin"
READY = b"debian login:"
DISK = os.path.join(guestlib.ROOT, "tests", "guests", "debian", "disk.sh")


def milliseconds(argv):
    with Program(argv) as p:
        return p.until(READY, PATIENCE)


def overlay(folder, base):
    path = os.path.join(folder, "disk.qcow2")
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True)
    return path


def ours(base):
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        vm = os.path.join(folder, "vm.json")
        with open(vm, "w") as f:
            json.dump({"name": "debian", "memory": "512M", "boot": {"firmware": "bios", "loader": ROM}, "rng": True, "disks": [
                {"path": overlay(folder, base), "format": "qcow2", "backing": [{"path": base, "format": "qcow2"}]}]}, f)
        return milliseconds([guestlib.CAIRN, "run", vm])


def qemus(base):
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        return milliseconds([QEMU, "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none",
                             "-serial", "stdio", "-no-reboot", "-bios", ROM, "-device", "virtio-rng-pci",
                             "-drive", f"file={overlay(folder, base)},format=qcow2,if=virtio"])


def pairs(base):
    """Measure here; return [(ours, QEMU's), ...]. The two take turns to begin, since the first boot reads the disk."""
    return [(ours(base), qemus(base)) if i % 2 else (qemus(base), ours(base))[::-1] for i in range(ROUNDS)]


def run(bench):
    need_qemu()
    if not os.path.exists(ROM):
        raise Unfit(f"the firmware is missing: {ROM}")
    made = subprocess.run([DISK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        raise Unfit(f"no disk of Debian: {made.stderr.strip().splitlines()[-1]}")
    base = os.path.join(made.stdout.strip(), "disk.qcow2")
    there = guestlib.host_kind() in ("vmx", "svm")
    measured = pairs(base) if there else pairs_in_svmhost(__file__, INSIDE_SECONDS, base)
    bench.pairs("here" if there else "SVM host", "ms", measured, "QEMU pc", 1 / FRACTION)


if __name__ == "__main__":
    print_pairs(pairs(sys.argv[1]))
