"""exec: `cairn exec` with cairn-agent in the small Linux, until the first byte of the program's output: in the SVM
host, and natively beside what the same guest measures for a fork and exec of the same program. The limit in
the SVM host is that, and the start of the same program on the host: `cairn` is a program that is started there. Natively
that is no limit: where KVM emulates the guest's kernel, the agent's vfork() takes less, for it copies no page tables."""

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
LIMIT = "the guest's own fork and exec + the program's start on the host"
BEYOND_MS = 5.0
INSIDE_SECONDS = 240
SETTLE_S = 0.05
PROGRAM = ["/cairn-agent", "--usage"]  # the only one that the initramfs has beside init


def first_byte_ms(*command):
    """Return the milliseconds from the start of a command to the first byte of the output of PROGRAM, which it runs."""
    begin = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE) as p:
        first = p.stderr.read(1)
        ms = (time.monotonic() - begin) * 1000
        said = first + p.stderr.read()
        assert b"usage" in said, said
    return ms


def measure(kernel):
    """Return [(ms of cairn exec, ms of a fork and exec in the guest, ms of the program's start on the host), ...] of a
    warm guest. Each measurement waits, because the guest's work after one command delays the next one."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        d = guestlib.linux_definition(vsock={"path": f"{folder}/s"})
        d["boot"]["kernel"] = os.path.join(kernel, "vmlinux")
        with guestlib.Guest(d, ("--agent",)) as g:
            g.expect("cairn-guest: ready", 180)
            g.line()
            rows = []
            for _ in range(ROUNDS + 2):
                rows.append((first_byte_ms(guestlib.CAIRN, "exec", f"{folder}/s", "--", *PROGRAM),
                             g.number("spawn " + " ".join(PROGRAM)) / 1e6,
                             first_byte_ms(os.path.join(guestlib.BUILD, "cairn-agent"), *PROGRAM[1:])))
                time.sleep(SETTLE_S)
            return rows[2:]


def run(bench):
    kernel = guestlib.linux_kernel()
    kind = guestlib.host_kind()
    if kind == "none":
        raise Unfit("no usable /dev/kvm")
    if kind == "pvm":
        inside = pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel)
        bench.pairs("first byte, SVM host", "ms", [(ours, GOAL_MS) for ours, _, _ in inside], "goal", 1.0,
                    limit=[own + start for _, own, start in inside], limit_name=LIMIT)
    bench.pairs("first byte, natively", "ms", [(ours, own + BEYOND_MS) for ours, own, _ in measure(kernel)], "the guest's own fork and exec + 5 ms", 1.0)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
