"""clone-linked: linked clones of a VM that is off, through the daemon's socket: one, and a hundred in one job."""

import pathlib
import tempfile

from benchlib import Unfit
from conftest import Daemon
from imgbench import Box

ONE_MS, EACH_MS = 20.0, 15.0  # a hundred in 1.5 s
BATCH = 100
ROUNDS = 5


def clones(qmp, count, kind):
    """Return the job's result; undefine the clones with their disks."""
    args = {"count": count} if count > 1 else {}
    job = qmp.run("vm-clone", vm="src", name="c", kind=kind, **args)["job"]
    qmp.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = [j for j in qmp.run("query-jobs", id=job) if j["id"] == job]
    if "error" in j:
        raise Unfit(j["error"])
    qmp.run("job-dismiss", id=job)
    for n in ["c"] if count == 1 else [f"c-{i}" for i in range(1, count + 1)]:
        qmp.run("vm-undefine", vm=n, remove_all_storage=True)
    return j["result"]


def run(bench):
    with Box(bench, "disk", 64) as box:
        box.create("src.qcow2", "64G")
        with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=box.folder.name) as folder:
            daemon = Daemon(pathlib.Path(folder))
            try:
                daemon.define("src", disks=[{"path": box.path("src.qcow2"), "format": "qcow2"}])
                qmp = daemon.qmp(timeout=60)
                clones(qmp, 1, "linked")  # the first one reads the program from the disk
                bench.compare("one", "ms", lambda: clones(qmp, 1, "linked")["total"] / 1e6, ONE_MS, "target", 1.0,
                              rounds=ROUNDS)
                bench.compare(f"each of {BATCH}", "ms", lambda: clones(qmp, BATCH, "linked")["total"] / 1e6 / BATCH,
                              EACH_MS, "target", 1.0, rounds=ROUNDS)
            finally:
                daemon.close()
