"""revert: time from the command to the guest's first answer, with lazy loading, by size of memory; to the snapshot
that memory is tracked from, and alternately to another one."""

import statistics

from benchlib import ROUNDS, kvm_limit, need_kvm
from snapbench import running

TARGET_MS = 20.0
FLAT = 1.3
DIRTY_MIB = 1
LIMIT = f"{DIRTY_MIB} MiB mapped anew and one KVM_RUN"
AS_PLAIN_USER = True


def reverts(bench, mib, names):
    """Return the milliseconds of reverts of a VM with that much memory, and the limits."""
    with running(bench.uid, mib, 64) as vm:
        pairs = [(revert(vm, names, i), kvm_limit(bench, "revert", mib, DIRTY_MIB)) for i in range(ROUNDS + 1)][1:]
    return [[pair[i] for pair in pairs] for i in (0, 1)]


def revert(vm, names, i):
    while vm.n < len(names):
        vm.snapshot()
        vm.fill(DIRTY_MIB, 99)
    vm.fill(DIRTY_MIB, i + 2)
    return vm.revert(names[i % len(names)])


def run(bench):
    need_kvm()
    for where, names in (("", ["s1"]), (", by turns", ["s1", "s2"])):
        a, small = reverts(bench, 128, names)
        b, large = reverts(bench, 8192, names)
        bench.pairs("128 MiB" + where, "ms", [(x, TARGET_MS) for x in a], "target", 1.0, limit=small, limit_name=LIMIT)
        bench.pairs("8 GiB" + where, "ms", [(x, TARGET_MS) for x in b], "target", 1.0, limit=large, limit_name=LIMIT)
        bench.pairs("8 GiB against 128 MiB" + where, "ms", [(x, FLAT * statistics.median(a)) for x in b],
                    "1.3 x 128 MiB", 1.0)
