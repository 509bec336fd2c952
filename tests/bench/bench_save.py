"""save: bytes per second that a save of a VM writes, compared with dd on the same file system; and the cost of
untouched memory."""

import os
import subprocess
import time

from benchlib import SEQUENTIAL, need_kvm, sequential_mib_s
from snapbench import FILL_AT, running

FILLED_MIB, ROUNDS, GOAL = 256, 5, 0.8
LITTLE_MIB = 1


def save_s(vm, filled_mib):
    """Save and start again; return the seconds of the save and the state's size on disk."""
    vm.console.run(f"check {FILL_AT:#x} {filled_mib << 20:#x} 1")  # all memory is back
    begin = time.perf_counter()
    vm.daemon.cairn("managedsave", "vm")
    seconds = time.perf_counter() - begin
    state, = vm.daemon.state.rglob("managed.save")
    taken = state.stat().st_blocks * 512
    vm.console.close()
    vm.daemon.cairn("start", "vm")
    vm.attach()
    return seconds, taken


def dd_s(folder, mib):
    source, out = os.path.join(folder, "dd.in"), os.path.join(folder, "dd.out")
    if not os.path.exists(source):
        with open(source, "wb") as f:
            f.write(os.urandom(1 << 20) * mib)
    begin = time.perf_counter()
    subprocess.run(["dd", f"if={source}", f"of={out}", "bs=1M", "conv=fdatasync"], check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    os.unlink(out)
    return seconds


def run(bench):
    need_kvm()
    with running(bench.uid, 512, FILLED_MIB) as vm:
        pairs, limits = [], []
        for _ in range(ROUNDS):
            s, _ = save_s(vm, FILLED_MIB)
            pairs.append((FILLED_MIB / s, FILLED_MIB / dd_s(str(vm.daemon.tmp), FILLED_MIB)))
            limits.append(sequential_mib_s(str(vm.daemon.tmp / "fio"), FILLED_MIB))
        bench.pairs("256 MiB of 512", "MiB/s", pairs, "dd", GOAL, rate=True, limit=limits, limit_name=SEQUENTIAL)
    with running(bench.uid, 128, LITTLE_MIB) as small, running(bench.uid, 8192, LITTLE_MIB) as large:
        pairs = [(save_s(large, LITTLE_MIB), save_s(small, LITTLE_MIB)) for _ in range(ROUNDS)]
    bench.pairs("8 GiB untouched", "ms", [(a[0] * 1e3, b[0] * 1e3) for a, b in pairs], "128 MiB", GOAL)
    # The only addition is a checksum for each block.
    bench.pairs("8 GiB untouched", "MiB on disk", [(a[1] / 2**20, b[1] / 2**20 + 1) for a, b in pairs],
                "128 MiB + 1", 1.0)
