"""group: the time between the first and the last instant of a group's snapshots and of its live clones, in
milliseconds, the longest pause of a VM, and the time until all clones run. Bare-metal guests of 64 MiB, one vCPU each,
with a qcow2 disk each."""

import os
import subprocess
import time

import freshfs
from benchlib import ROUNDS, need_kvm
from snapbench import daemon_of

GUEST = "guests/idle.elf"
SPREAD_MS = 1.0
PAUSE_MS = 20.0
CLONE_MS = 50.0
VMS = 16


def snapshot(q, names, i):
    """Return the spread and the longest pause, in ms."""
    job = q.run("group-snapshot", vms=names, name=f"s{i}")["job"]
    done = q.run("job-wait", id=job)
    q.run("job-dismiss", id=job)
    result = done["result"]
    return result["spread"] / 1e6, max(vm["pause"] for vm in result["vms"]) / 1e6


def clone(q, names, i):
    """Return the spread, the longest pause and the whole duration, in ms. The clones are gone at return."""
    job = q.run("group-clone", vms=names, **{"name-pattern": f"c{i}-%s", "ephemeral": True})["job"]
    result = q.run("job-wait", id=job)["result"]
    q.run("job-dismiss", id=job)
    for c in result["clones"]:
        q.run("vm-destroy", vm=c["name"])
    while len(q.run("vm-list")["vms"]) > VMS:
        time.sleep(0.02)
    return result["spread"] / 1e6, max(c["pause"] for c in result["clones"]) / 1e6, result["total"] / 1e6


def run(bench):
    need_kvm()
    with freshfs.folder(bench, 2048) as place, daemon_of(bench.uid, place) as daemon:
        q = daemon.qmp()
        names = [f"vm{i}" for i in range(VMS)]
        for name in names:
            subprocess.run([os.path.join(bench.build, "cairn-img"), "create", "-f", "qcow2", place / f"{name}.qcow2", "64M"], check=True,
                           stdout=subprocess.DEVNULL)
            daemon.define(name, memory="64M", boot={"kernel": os.path.join(bench.build, GUEST)},
                          disks=[{"path": str(place / f"{name}.qcow2"), "format": "qcow2"}])
            daemon.cairn("start", name)
        for n in (4, VMS):
            rounds = [snapshot(q, names[:n], f"{n}-{i}") for i in range(ROUNDS)]
            bench.pairs(f"{n} VMs: spread", "ms", [(spread, SPREAD_MS) for spread, _ in rounds], "target", 1.0)
            bench.pairs(f"{n} VMs: longest pause", "ms", [(pause, PAUSE_MS) for _, pause in rounds], "target", 1.0)
            rounds = [clone(q, names[:n], f"{n}-{i}") for i in range(ROUNDS)]
            bench.pairs(f"{n} VMs cloned: spread", "ms", [(spread, SPREAD_MS) for spread, *_ in rounds], "target", 1.0)
            bench.pairs(f"{n} VMs cloned: longest pause", "ms", [(pause, PAUSE_MS) for _, pause, _ in rounds], "target", 1.0)
            bench.pairs(f"{n} VMs cloned: until all run", "ms", [(total, n * CLONE_MS) for *_, total in rounds], "target", 1.0)
