"""fork: clones of a running VM through the daemon's socket: milliseconds per clone, alone and in a batch, and a
clone's memory before it writes anything.

Each clone creates seven files. An ext4 without a journal skips recently deleted inodes one by one, so earlier runs,
including this benchmark's, affect the result: the daemon's CPU time was 2.1 ms per clone there and 0.35 ms with
TMPDIR=/dev/shm; a clone out of 100 took 2.6 and 1.6 ms."""

import pathlib
import re
import tempfile

import guestlib
from benchlib import need_kvm
from conftest import Console, Daemon

MEMORY = "128M"
BATCH = 100
ONE_MS, EACH_MS = 5.0, 2.0
EACH_KIB = 600
ROUNDS = 5


def clones(daemon, qmp, name, count, paused=False):
    """Return the job's result."""
    args = {"count": count} if count > 1 else {}
    job = qmp.run("vm-fork", vm="src", name=name, paused=paused, **args)["job"]
    qmp.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = [j for j in qmp.run("query-jobs", id=job) if j["id"] == job]
    if "error" in j:
        raise RuntimeError(j["error"])
    return j["result"]


def forget(qmp, name, count):
    for n in [name] if count == 1 else [f"{name}-{i}" for i in range(1, count + 1)]:
        qmp.run("vm-destroy", vm=n)
        qmp.run("vm-undefine", vm=n)


def own_kib(pid):
    """Return the process's private pages, of memory and of its program, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(m) for m in re.findall(r"Private_(?:Dirty|Clean): +(\d+)", f.read()))


def run(bench):
    need_kvm()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        daemon = Daemon(pathlib.Path(folder))
        try:
            daemon.define("src", memory=MEMORY, debug_exit=True, boot={"kernel": guestlib.bare("interp")})
            daemon.cairn("start", "src")
            console = Console(daemon, "src")
            while console.line() != "interp":
                pass
            measure(bench, daemon)
            console.close()
        finally:
            daemon.close()


def measure(bench, daemon):
    qmp = daemon.qmp(timeout=60)

    def each(count):
        total = clones(daemon, qmp, "c", count)["total"] / 1e6 / count
        forget(qmp, "c", count)
        return total

    each(1)  # the first one reads the program from the disk
    bench.compare("one", "ms", lambda: each(1), ONE_MS, "target", 1.0, rounds=ROUNDS)
    bench.compare(f"each of {BATCH}", "ms", lambda: each(BATCH), EACH_MS, "target", 1.0, rounds=ROUNDS)
    clones(daemon, qmp, "m", 10, paused=True)
    kib = [own_kib(daemon.info(f"m-{i}")["pid"]) for i in range(1, 11)]
    bench.pairs("memory of one that has written nothing", "KiB", [(k, EACH_KIB) for k in kib], "target", 1.0)
    forget(qmp, "m", 10)
