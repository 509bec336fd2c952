"""fork: clones of a running VM through the daemon's socket: milliseconds per clone, alone and in a batch, and a
clone's memory before it writes anything. The same for a VM with a disk that holds 2 GiB, with a write of 4 KiB before
each fork or without, and the KiB that the file system holds for a clone's disk. Forks of one without a write between
share the pin of the clone before. A clone that is made while the source deletes the pin of earlier clones waits for
that, so each round begins after the deletion.

The daemon makes a process ahead of the next clone (api/vm/vm_spare.h). The rows of one clone wait until it has; the
rows "none made ahead" kill it first, as for a fork that follows another one at once.

tests/helpers/fork_floor.c measures the limit of one with a disk: it makes two files, a pin's three syncs in order, and
beside them a VM of KVM in a process that runs already, and removes one file, on stable storage. Without a process made
ahead, it also starts cairn-vm --version in namespaces of its own.

All files are on a new file system (freshfs). Each clone creates seven files, and one more for each disk; a fork two.

A batch is bound by the processors. The least work was measured with a C program that makes and syncs the same files and
starts a static program of 0.9 MiB, which builds an empty VM of 128 MiB. Each of 100 took 1.2 to 1.3 ms of CPU time in
the new processes, of which 0.65 ms before main(). The parent took 0.4 ms in a quiet folder, 1.1 to 2.4 ms where files
were deleted just before, and 0.12 ms in /dev/shm."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import freshfs
import guestlib
from benchlib import need_kvm
from conftest import Console, until
from plainlib import qcow2
from snapbench import daemon_of

MEMORY = "128M"
BATCH = 100
ONE_MS, EACH_MS = 5.0, 2.0
DISK_GIB = 2
DISK_ONE_MS, DISK_EACH_MS, DISK_EACH_KIB = 3.0, 2.0, 1024
EACH_KIB = 600
AS_PLAIN_USER = True
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
        qmp.run("vm-undefine", vm=n, **{"remove-all-storage": True})


def pins_wait(daemon):
    """Wait until no pin is left to delete but the newest, which waits for a further fork."""
    while len(json.loads((daemon.state / "pins.json").read_text())["due"]) > 1:
        time.sleep(0.001)


def own_kib(pid):
    """Return the process's private pages, of memory and of its program, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(m) for m in re.findall(r"Private_(?:Dirty|Clean): +(\d+)", f.read()))


def run(bench):
    need_kvm()
    with freshfs.folder(bench, DISK_GIB + 2 << 10) as place:
        run_at(bench, place)


def run_at(bench, place):
    with daemon_of(bench.uid, place) as daemon:
        source_start(daemon, [])
        measure(bench, daemon)
    with daemon_of(bench.uid, place) as daemon:
        disk = qcow2(daemon.tmp / "a.qcow2", f"{2 * DISK_GIB}G")
        for gib in range(DISK_GIB):
            subprocess.run(["qemu-io", "-c", f"write -P 7 {gib}G 1G", disk["path"]], check=True, stdout=subprocess.DEVNULL)
        source_start(daemon, [disk])
        measure_disk(bench, daemon)


def source_start(daemon, disks):
    daemon.define("src", memory=MEMORY, debug_exit=True, boot={"kernel": guestlib.bare("interp")}, disks=disks)
    daemon.cairn("start", "src")
    console = Console(daemon, "src")
    while console.line() != "interp":
        pass
    console.close()


def spare_wait(daemon, wanted):
    """Wait until a process is made ahead; or kill it."""
    until(daemon.spares)
    if not wanted:
        for pid in daemon.spares():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not daemon.spares())


def limit_of(bench, daemon, program):
    """Return a function that measures the limit in ms; see above."""
    folder = daemon.tmp / "floor"
    folder.mkdir(exist_ok=True)
    if bench.uid:
        os.chown(folder, bench.uid, bench.uid)
    helper = shutil.copy(os.path.join(bench.build, "helpers", "fork_floor"), daemon.tmp)
    user = {"user": bench.uid, "group": os.stat("/dev/kvm").st_gid, "extra_groups": []} if bench.uid else {}
    return lambda: float(subprocess.run([helper, folder, program], check=True, capture_output=True, **user).stdout) / 1e6


def each(daemon, qmp, count, ahead=True):
    if count == 1:
        spare_wait(daemon, ahead)
    total = clones(daemon, qmp, "c", count)["total"] / 1e6 / count
    forget(qmp, "c", count)
    return total


def first(daemon, qmp):
    """The first fork reads the program from the disk, and has no process made ahead."""
    clones(daemon, qmp, "c", 1)
    forget(qmp, "c", 1)


def measure_disk(bench, daemon):
    qmp = daemon.qmp(timeout=60)

    console = Console(daemon, "src")
    console.run("open 0")
    seeds = iter(range(1, 1000))

    def once(count, writes=False, ahead=True):
        if writes:
            console.run(f"bench randwrite 1 1 4096 {DISK_GIB << 21} {next(seeds)}")
        ms = each(daemon, qmp, count, ahead)
        pins_wait(daemon)
        return ms
    first(daemon, qmp)
    pins_wait(daemon)
    disk = f"{DISK_GIB} GiB on its disk"
    program = daemon.vm_program or os.path.join(bench.build, "cairn-vm")
    for case, writes, ahead, goal in (("", False, True, 1.0), (", written before each fork", True, True, 1.0), (", none made ahead", False, False, 0.0)):
        bench.compare(f"one, {disk}{case}", "ms", lambda w=writes, a=ahead: once(1, w, a), DISK_ONE_MS, "target", goal, rounds=ROUNDS,
                      limit=limit_of(bench, daemon, "ahead" if ahead else program), limit_name="the pin's syncs, and an empty VM")
    bench.compare(f"each of {BATCH}, {disk}", "ms", lambda: once(BATCH), DISK_EACH_MS, "target", 1.0, rounds=ROUNDS)
    console.close()
    clones(daemon, qmp, "m", 10, paused=True)
    kib = [os.stat(daemon.tmp / f"m-{i}-vda.qcow2").st_blocks / 2 for i in range(1, 11)]
    bench.pairs("disk of one that has written nothing", "KiB", [(k, DISK_EACH_KIB) for k in kib], "target", 1.0)
    forget(qmp, "m", 10)


def measure(bench, daemon):
    qmp = daemon.qmp(timeout=60)
    first(daemon, qmp)
    bench.compare("one", "ms", lambda: each(daemon, qmp, 1), ONE_MS, "target", 1.0, rounds=ROUNDS)
    bench.compare("one, none made ahead", "ms", lambda: each(daemon, qmp, 1, False), ONE_MS, "target", 0.0, rounds=ROUNDS)
    bench.compare(f"each of {BATCH}", "ms", lambda: each(daemon, qmp, BATCH), EACH_MS, "target", 1.0, rounds=ROUNDS)
    clones(daemon, qmp, "m", 10, paused=True)
    kib = [own_kib(daemon.info(f"m-{i}")["pid"]) for i in range(1, 11)]
    bench.pairs("memory of one that has written nothing", "KiB", [(k, EACH_KIB) for k in kib], "target", 1.0)
    forget(qmp, "m", 10)
