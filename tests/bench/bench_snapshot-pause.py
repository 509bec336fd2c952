"""snapshot-pause: how long a snapshot pauses a running VM, with 128 MiB and with 8 GiB of memory, with little and
with much memory dirtied since the last snapshot."""

from benchlib import ROUNDS, kvm_limit, need_kvm
from snapbench import running

TARGET_MS = 10.0
FLAT = 1.5  # the pause with 8 GiB may be this multiple of that with 128 MiB
MUCH_MIB, MUCH_ROUNDS = 1024, 3
LIMIT = "a vCPU is kicked, parks, and runs again"
AS_PLAIN_USER = True


def pauses(bench, vms, mib, rounds):
    """Take snapshots of the VMs alternately: a first one, which starts write tracking, then the measured ones, with
    memory dirtied before each. Return the pauses of each VM, and the limits."""
    ms, limits = [[] for _ in vms], []
    for i in range(rounds + 1):
        for vm, found in zip(vms, ms):
            vm.fill(mib, i + 2)
            limits.append(kvm_limit(bench, "pause"))
            found.append(vm.snapshot()["pause"] / 1e6)
            vm.delete()
    return [found[1:] for found in ms], limits


def run(bench):
    need_kvm()
    with running(bench.uid, 128, 64) as small, running(bench.uid, 8192, 64) as large:
        (a, b), limits = pauses(bench, [small, large], 1, ROUNDS)
        (much,), much_limits = pauses(bench, [large], MUCH_MIB, MUCH_ROUNDS)
    bench.pairs("128 MiB", "ms", [(x, TARGET_MS) for x in a], "target", 1.0, limit=limits, limit_name=LIMIT)
    bench.pairs("8 GiB", "ms", [(x, TARGET_MS) for x in b], "target", 1.0, limit=limits, limit_name=LIMIT)
    bench.pairs("8 GiB, 1 GiB dirtied", "ms", [(x, TARGET_MS) for x in much], "target", 1.0, limit=much_limits, limit_name=LIMIT)
    bench.pairs("8 GiB against 128 MiB", "ms", [(y, FLAT * x) for x, y in zip(a, b)], "1.5 x 128 MiB", 1.0)
