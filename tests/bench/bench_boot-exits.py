"""boot-exits: in the SVM host, the exits of a vCPU while the small Linux boots until user space, next to QEMU microvm:
all, and those of each reason, with port or page. Counted by KVM's trace points, so the load does not matter."""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import milliseconds_to, need_qemu, pairs_in_svmhost, print_pairs, qemu_microvm

READY = b"cairn-guest: ready"
INSIDE_SECONDS = 120
TRACE = "/sys/kernel/tracing"
EVENT = re.compile(r": (kvm_exit|kvm_pio|kvm_mmio): (.*)")
REASONS = "all", "io", "mmio", "npf", "cpuid", "msr", "interrupt"  # the rows
LISTED = 24  # ports and pages that are printed


def trace_write(name, text):
    with open(f"{TRACE}/{name}", "w", encoding="ascii") as f:
        f.write(text)


def place_of(event, words):
    """Return what the guest accessed: a port, or a page of memory."""
    if event == "kvm_pio":
        m = re.search(r"pio_(read|write) at (0x[0-9a-f]+)", words)
        return m and f"port {m[2]} {m[1]}"
    m = re.match(r"mmio (read|write) .* gpa (0x[0-9a-f]+)", words)
    return m and f"page {int(m[2], 16) >> 12 << 12:#x} {m[1]}"


def boot(argv):
    """Boot a guest. Return Counters of the exits by reason, and by place."""
    reasons, places = collections.Counter(), collections.Counter()
    trace_write("trace", "")
    for event in "exit", "pio", "mmio":
        trace_write(f"events/kvm/kvm_{event}/enable", "1")
    milliseconds_to(argv, READY)
    trace_write("events/kvm/enable", "0")
    with open(f"{TRACE}/trace", encoding="ascii", errors="replace") as f:
        found = [m.groups() for m in map(EVENT.search, f) if m]
    for event, words in found:
        if event == "kvm_exit":
            reasons[re.search(r"reason (\S+)", words)[1]] += 1
        elif place := place_of(event, words):
            places[place] += 1
    reasons["mmio"] = sum(n for place, n in places.items() if place.startswith("page"))
    reasons["npf"] -= reasons["mmio"]  # KVM sees an access to a device as a page fault
    reasons["all"] = sum(n for reason, n in reasons.items())
    return reasons, places


def measure(kernel):
    if not os.path.exists(f"{TRACE}/trace"):
        subprocess.run(["mount", "-t", "tracefs", "none", TRACE], check=True)
    trace_write("buffer_size_kb", "32768")
    vmlinux = os.path.join(kernel, "vmlinux")
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        path, definition = os.path.join(folder, "vm.json"), guestlib.linux_definition()
        definition["boot"]["kernel"] = vmlinux
        with open(path, "w", encoding="ascii") as f:
            json.dump(definition, f)
        ours, places = boot([guestlib.CAIRN, "run", path])
        peer, _ = boot(qemu_microvm(vmlinux, 128, "-initrd", guestlib.linux_initrd(), "-append",
                                    guestlib.linux_cmdline() + " cairn.port=ttyS0", "-device", "virtio-rng-device", options=",rtc=on"))
    return [(ours[r], peer[r]) for r in REASONS], places.most_common(LISTED)


def run(bench):
    need_qemu()
    kernel = guestlib.linux_kernel()
    rows, places = measure(kernel) if guestlib.host_kind() in ("vmx", "svm") else \
        pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel)
    for reason, pair in zip(REASONS, rows):
        bench.pairs(reason, "exits", [tuple(pair)], "QEMU microvm", 0.0)
    print("most frequent of ours: " + "; ".join(f"{place} {n}" for place, n in places), file=sys.stderr)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
