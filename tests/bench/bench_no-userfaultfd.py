"""no-userfaultfd: snapshots and reverts where no userfaultfd can be had: the pause of a snapshot while the guest writes
64 MiB/s, the bytes that a second snapshot writes, and a revert of 16 MiB."""

import os
import threading
import time

from benchlib import ROUNDS, need_kvm
from snapbench import running

MEMORY_MIB, FILLED_MIB = 1024, 512
PIECE_MIB, PIECES_PER_S = 4, 16  # 64 MiB/s
SECOND_MIB, REVERT_MIB = 64, 16
AS_PLAIN_USER = True


def pauses(vm):
    """Take snapshots while the guest writes 64 MiB/s to 512 MiB."""
    end = threading.Event()

    def write():
        begin, n = time.monotonic(), 0
        while not end.is_set():
            vm.console.run(f"fill {0x1000000 + (n * PIECE_MIB % FILLED_MIB << 20):#x} {PIECE_MIB << 20:#x} {n + 2}")
            n += 1
            end.wait(max(0, begin + n / PIECES_PER_S - time.monotonic()))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = []
        for _ in range(ROUNDS):
            found.append(vm.snapshot()["pause"] / 1e6)
            vm.delete()
        return found
    finally:
        end.set()
        writer.join()


def seconds(vm):
    written = []
    vm.snapshot()
    for i in range(ROUNDS):
        vm.fill(SECOND_MIB, i + 2)
        written.append(vm.snapshot()["ram-bytes-written"] / 2**20)
    return written


def reverts(vm):
    vm.snapshot()
    ms = []
    for i in range(ROUNDS + 1):
        vm.fill(REVERT_MIB, i + 2)
        ms.append(vm.revert(f"s{vm.n}"))
    return ms[1:]


def run(bench):
    need_kvm()
    os.environ["CAIRN_USERFAULTFD"] = "refuse"
    try:
        with running(bench.uid, MEMORY_MIB, FILLED_MIB) as vm:
            bench.pairs("pause, 64 MiB/s written", "ms", [(x, 20.0) for x in pauses(vm)], "target", 1.0)
            bench.pairs("second, 64 MiB dirtied", "MiB", [(x, 1.1 * SECOND_MIB) for x in seconds(vm)], "1.1 x dirtied", 1.0)
            bench.pairs("revert, 16 MiB dirtied", "ms", [(x, 30.0) for x in reverts(vm)], "target", 1.0)
    finally:
        del os.environ["CAIRN_USERFAULTFD"]
