"""snapshot-pause: how long a snapshot of a running VM stops it, with 128 MiB and with 8 GiB of memory."""

import statistics

from benchlib import ROUNDS, need_kvm
from snapbench import running

TARGET_MS = 10.0
FLAT = 1.5  # 8 GiB may take that much of what 128 MiB take


def pauses(vm):
    """A first one, which begins to watch memory, then the measured ones, some memory dirtied before each."""
    ms = []
    for i in range(ROUNDS + 1):
        vm.fill(1, i + 2)
        ms.append(vm.snapshot()["pause"] / 1e6)
        vm.delete()
    return ms[1:]


def run(bench):
    need_kvm()
    with running(128, 64) as small, running(8192, 64) as large:
        a, b = pauses(small), pauses(large)
    bench.pairs("128 MiB", "ms", [(x, TARGET_MS) for x in a], "target", 1.0)
    bench.pairs("8 GiB", "ms", [(x, TARGET_MS) for x in b], "target", 1.0)
    bench.pairs("8 GiB against 128 MiB", "ms", [(x, FLAT * statistics.median(a)) for x in b], "1.5 x 128 MiB", 1.0)
