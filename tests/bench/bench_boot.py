"""boot: the small Linux until user space, in the SVM host next to QEMU microvm, and natively. In that host,
most of the time is the emulator's own work. So one more row counts the instructions of VMM, KVM and guest, which is nearer
to hardware."""

import json
import os
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import ROUNDS, milliseconds_to, need_qemu, pairs_in_svmhost, print_pairs, qemu_microvm

FRACTION = 0.6  # of QEMU microvm's time
NATIVE_TARGET_S = 12.0
NATIVE_ROUNDS = 3  # each takes ten seconds
READY = b"cairn-guest: ready"
INSIDE_SECONDS = 120
COUNT_SECONDS = 1200  # the clock of a host that counts instructions is slow


def definition_file(folder, kernel):
    path = os.path.join(folder, "vm.json")
    d = guestlib.linux_definition()
    d["boot"]["kernel"] = os.path.join(kernel, "vmlinux")
    with open(path, "w") as f:
        json.dump(d, f)
    return path


def pairs_here(kernel):
    """Measure both alternately on this host, without disks. QEMU's microvm gets an RTC, its fastest setup: without
    one, Linux waits for seconds."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        ours = [guestlib.CAIRN, "run", definition_file(folder, kernel)]
        peer = qemu_microvm(os.path.join(kernel, "vmlinux"), 128, "-initrd", guestlib.linux_initrd(), "-append",
                            guestlib.linux_cmdline() + " cairn.port=ttyS0", "-device", "virtio-rng-device", options=",rtc=on")
        pairs = [(milliseconds_to(ours, READY), milliseconds_to(peer, READY)) for _ in range(ROUNDS + 1)]
    return pairs[1:]  # the first one reads the files


def native(kernel):
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        return milliseconds_to([guestlib.CAIRN, "run", definition_file(folder, kernel)], READY) / 1000


def run(bench):
    need_qemu()
    kernel = guestlib.linux_kernel()
    kind = guestlib.host_kind()
    if kind in ("vmx", "svm"):
        bench.pairs("here", "ms", pairs_here(kernel), "QEMU microvm", 1 / FRACTION)
        return
    for suffix, host_kernel in (("", ""), (", Linux 6.12", "backports")):  # Linux 6.1 gives no huge pages
        pairs = pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel, kernel=host_kernel)
        bench.pairs("SVM host" + suffix, "ms", pairs, "QEMU microvm", 1 / FRACTION)
    counted = pairs_in_svmhost(__file__, COUNT_SECONDS, kernel, options=("--count", "--smp", "1"))
    bench.pairs("SVM host, 500 million instructions a second", "ms", counted, "QEMU microvm", 1 / FRACTION)
    if kind == "pvm":
        bench.compare("PVM host", "s", lambda: native(kernel), NATIVE_TARGET_S, "target", 1.0, rounds=NATIVE_ROUNDS)


if __name__ == "__main__":
    print_pairs(pairs_here(sys.argv[1]))
