"""exec: `cairn exec` with cairn-agent in the small Linux, until the first byte of the program's output: in the SVM
host, and natively beside what the same guest measures for a fork and exec of the same program."""

import os
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import ROUNDS, Unfit, pairs_in_svmhost, print_pairs

GOAL_MS = 8.0
BEYOND_MS = 5.0
INSIDE_SECONDS = 240
PROGRAM = ["/cairn-agent", "--usage"]  # the only one that the initramfs has beside init


def first_byte_ms(vm):
    """Return the milliseconds from the start of `cairn exec` to the first byte of the program's output."""
    begin = time.monotonic()
    with subprocess.Popen([guestlib.CAIRN, "exec", vm, "--", *PROGRAM], stderr=subprocess.PIPE) as p:
        assert p.stderr.read(1)
        ms = (time.monotonic() - begin) * 1000
        assert b"usage" in p.stderr.read()
    return ms


def measure(kernel):
    """Return [(ms of cairn exec, ms of a fork and exec in the guest), ...] of a warm guest."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        d = guestlib.linux_definition(vsock={"path": f"{folder}/s"})
        d["boot"]["kernel"] = os.path.join(kernel, "vmlinux")
        with guestlib.Guest(d, ("--agent",)) as g:
            g.expect("cairn-guest: ready", 180)
            g.line()
            return [(first_byte_ms(f"{folder}/s"), g.number("spawn " + " ".join(PROGRAM)) / 1e6) for _ in range(ROUNDS + 2)][2:]


def run(bench):
    kernel = guestlib.linux_kernel()
    kind = guestlib.host_kind()
    if kind == "none":
        raise Unfit("no usable /dev/kvm")
    if kind == "pvm":
        bench.pairs("first byte, SVM host", "ms", [(ours, GOAL_MS) for ours, _ in pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel)], "goal", 1.0)
    pairs = measure(kernel)
    bench.pairs("first byte, natively", "ms", [(ours, own + BEYOND_MS) for ours, own in pairs], "the guest's own fork and exec + 5 ms", 1.0)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
