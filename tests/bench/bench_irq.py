"""irq: the sender's cost of a message-signalled interrupt, compared with an irqfd (see docs/ARCHITECTURE.md)."""

import os
import subprocess

from benchlib import ROUNDS, Unfit, need_kvm


def run(bench):
    need_kvm()
    program = os.path.join(bench.build, "helpers", "irq_cost")
    if not os.path.exists(program):
        raise Unfit("irq_cost is not built: make helpers")
    pairs = []
    for _ in range(ROUNDS):
        pairs.append(tuple(float(x) for x in subprocess.run([program], capture_output=True, text=True,
                                                            check=True).stdout.split()))
    bench.pairs("KVM_SIGNAL_MSI", "ns", pairs, "irqfd", 1.0)
