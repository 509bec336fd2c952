"""revert-work: from the command until the guest has gone through a 64 MiB working set and answered, lazily against
eagerly; to the snapshot that memory counts from, and to another one by turns."""

import time

from benchlib import ROUNDS, need_kvm
from snapbench import FILL_AT, running

SET_MIB, GOAL = 64, 1.3


def work_ms(vm, q, name, eager):
    begin = time.perf_counter_ns()
    q.run("snapshot-revert", vm="vm", name=name, job_id="r", eager=eager)
    q.event("JOB_STATUS_CHANGE", id="r", status="concluded")
    vm.console.run(f"check {FILL_AT:#x} {SET_MIB << 20:#x} {name[1:]}")
    ms = (time.perf_counter_ns() - begin) / 1e6
    q.run("job-dismiss", id="r")
    return ms


def run(bench):
    need_kvm()
    with running(512, 0) as vm:
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
