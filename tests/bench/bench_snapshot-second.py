"""snapshot-second: bytes written and time taken by a second snapshot after 1 % of memory was dirtied."""

from benchlib import ROUNDS, need_kvm
from snapbench import running

MEMORY_MIB, FILLED_MIB, DIRTIED_MIB = 512, 384, 5
AS_PLAIN_USER = True


def run(bench):
    need_kvm()
    written, times = [], []
    with running(bench.uid, MEMORY_MIB, FILLED_MIB) as vm:
        first = vm.snapshot()
        for i in range(ROUNDS):
            vm.fill(DIRTIED_MIB, i + 2)
            s = vm.snapshot()
            written.append((s["ram-bytes-written"] / 2**20, 3 * DIRTIED_MIB))
            times.append((s["total"] / 1e6, 0.1 * first["total"] / 1e6))
    bench.pairs("written, 5 of 512 MiB dirtied", "MiB", written, "3 x dirtied", 1.0)
    bench.pairs("time, 5 of 512 MiB dirtied", "ms", times, "0.1 x the first", 1.0)
