"""restart-process: for how long an idle VM of 1 GiB, with 512 MiB filled, stands still while it gets a new process."""

from benchlib import need_kvm
from snapbench import running

AS_PLAIN_USER = True
TARGET_MS, ROUNDS = 50.0, 9


def pause_ms(q, n):
    id = q.run("vm-restart-process", vm="vm", job_id=f"r{n}")["job"]
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    result = [j for j in q.jobs() if j["id"] == id][0]["result"]
    assert result["way"] == "handover", result
    return result["pause"] / 1e6


def run(bench):
    need_kvm()
    with running(bench.uid, 1024, 512) as vm:
        q = vm.daemon.qmp()
        bench.pairs("1 GiB", "ms", [(pause_ms(q, n), TARGET_MS) for n in range(ROUNDS)], "target", 1.0)
