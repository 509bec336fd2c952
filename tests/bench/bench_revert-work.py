"""revert-work: time from the command until the guest has read a 64 MiB working set and answered, with lazy and with
eager loading; to the snapshot that memory is tracked from, and alternately to another one. Then in new
processes: scattered blocks, with and without the working set that the last process recorded."""

import time

from benchlib import ROUNDS, need_kvm
from snapbench import FILL_AT, running

SET_MIB, GOAL = 64, 1.3
FILLED_MIB, SCATTERED, PROCESSES = 256, 64, 5


def work_ms(vm, q, name, eager):
    begin = time.perf_counter_ns()
    q.run("snapshot-revert", vm="vm", name=name, job_id="r", eager=eager)
    q.event("JOB_STATUS_CHANGE", id="r", status="concluded")
    vm.console.run(f"check {FILL_AT:#x} {SET_MIB << 20:#x} {name[1:]}")
    ms = (time.perf_counter_ns() - begin) / 1e6
    q.run("job-dismiss", id="r")
    return ms


def scattered_ms(vm, listed, eager=False):
    """Revert to s1 in a new process; return the time until the guest has read a word of each of some blocks in the
    second half of memory."""
    vm.console.close()
    vm.daemon.cairn("destroy", "vm")
    if not listed:
        for path in vm.daemon.state.rglob("touched"):
            path.unlink()
    vm.daemon.cairn("start", "vm")
    vm.attach()
    while vm.console.line() != "interp":
        pass
    q = vm.daemon.qmp()
    begin = time.perf_counter_ns()
    q.run("snapshot-revert", vm="vm", name="s1", job_id="r", eager=eager)
    q.event("JOB_STATUS_CHANGE", id="r", status="concluded")
    for i in range(SCATTERED):
        mib = FILLED_MIB // 2 + i * 37 % (FILLED_MIB // 2)
        vm.console.run(f"rd64 {FILL_AT + (mib << 20) + (i * 7 % 16 << 16):#x}")
    ms = (time.perf_counter_ns() - begin) / 1e6
    q.run("job-dismiss", id="r")
    return ms


def run(bench):
    need_kvm()
    with running(bench.uid, 512, 0) as vm:
        for seed in (1, 2):
            vm.fill(SET_MIB, seed)
            vm.snapshot()
        vm.fill(SET_MIB, 3)
        q = vm.daemon.qmp()
        for where, names in (("base", ["s2"]), ("by turns", ["s1", "s2"])):
            pairs = []
            for i in range(ROUNDS + 1):
                ms = []
                for j, eager in enumerate((False, True)):
                    vm.fill(1, 9)
                    ms.append(work_ms(vm, q, names[(2 * i + j) % len(names)], eager))
                pairs.append([ms[0], GOAL * ms[1]])
            bench.pairs(where, "ms", pairs[1:], "1.3 x eager", 1.0)
    with running(bench.uid, 512, FILLED_MIB) as vm:
        vm.snapshot()
        # The working set that the second process records serves the next rounds.
        rounds = [(scattered_ms(vm, True), scattered_ms(vm, False), scattered_ms(vm, True, eager=True))
                  for _ in range(PROCESSES)][1:]
    bench.pairs("new process", "ms", [(a, b) for a, b, _ in rounds], "no list", 1.0)
    bench.pairs("new process", "ms", [(a, GOAL * c) for a, _, c in rounds], "1.3 x eager", 1.0)
