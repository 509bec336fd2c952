"""revert: time from the command to the guest's first answer, with lazy loading, by size of memory; to the snapshot
that memory is tracked from, and alternately to another one."""

import statistics

from benchlib import ROUNDS, need_kvm
from snapbench import running

TARGET_MS = 20.0
FLAT = 1.3
AS_PLAIN_USER = True


def reverts(vm, names):
    ms = []
    while vm.n < len(names):
        vm.snapshot()
        vm.fill(1, 99)
    for i in range(ROUNDS + 1):
        vm.fill(1, i + 2)
        ms.append(vm.revert(names[i % len(names)]))
    return ms[1:]


def run(bench):
    need_kvm()
    for where, names in (("", ["s1"]), (", by turns", ["s1", "s2"])):
        with running(bench.uid, 128, 64) as small:
            a = reverts(small, names)
        with running(bench.uid, 8192, 64) as large:
            b = reverts(large, names)
        bench.pairs("128 MiB" + where, "ms", [(x, TARGET_MS) for x in a], "target", 1.0)
        bench.pairs("8 GiB" + where, "ms", [(x, TARGET_MS) for x in b], "target", 1.0)
        bench.pairs("8 GiB against 128 MiB" + where, "ms", [(x, FLAT * statistics.median(a)) for x in b],
                    "1.3 x 128 MiB", 1.0)
