"""trends: what recording trends costs the daemon, in percent of a core, with 100 and 200 running VMs; the wake-ups of
an idle VM; how many idle VMs have a file; the bytes of a file that was written; and how long it takes to advise about
all VMs, with two years of trends each."""

import os
import shutil
import time

import freshfs
import guestlib
import trendlib
from bench_fork import clones
from bench_idle import use
from benchlib import ROUNDS, need_kvm
from conftest import Console
from snapbench import daemon_of

FEW, MANY, SECONDS = 100, 200, 20
TARGET_PERCENT, FILE_BYTES, ADVISE_SECONDS = 1.0, 4 << 20, 0.5


def percent(pid):
    before = use(pid)[0]
    time.sleep(SECONDS)
    return 100 * (use(pid)[0] - before) / SECONDS


def files(daemon):
    folders = daemon.state / "vms"
    return [os.stat(folders / name / "trends").st_size for name in os.listdir(folders) if (folders / name / "trends").exists()]


def wake_ups(pid):
    before = use(pid)[1]
    time.sleep(SECONDS)
    return use(pid)[1] - before


def advise(qmp):
    begin, after = time.monotonic(), {}
    while True:
        answer = qmp.run("advise", **after)
        if "next" not in answer:
            return time.monotonic() - begin
        after = {"after": answer["next"]}


def measure(bench, daemon):
    qmp = daemon.qmp(timeout=300)
    rounds = min(ROUNDS, 3)
    clones(None, qmp, "a", FEW - 1)
    time.sleep(5)  # each process gets its page
    bench.pairs(f"{FEW} VMs", "%", [(percent(daemon.proc.pid), TARGET_PERCENT) for _ in range(rounds)], "target", 1.0)
    clones(None, qmp, "b", MANY - FEW)
    time.sleep(5)
    bench.pairs(f"{MANY} VMs", "%", [(percent(daemon.proc.pid), TARGET_PERCENT) for _ in range(rounds)], "target", 1.0)
    bench.pairs(f"wake-ups of an idle VM in {SECONDS} s", "", [(wake_ups(daemon.info("src")["pid"]), 1)], "target", 1.0)
    bench.pairs("files of idle VMs", "", [(len(files(daemon)), 1)], "target", 1.0)
    made = daemon.state / "two-years"
    trendlib.write(made, [trendlib.busy()] * 2 * 366 * 24)
    for name in os.listdir(daemon.state / "vms"):
        shutil.copy(made, daemon.state / "vms" / name / "trends")
    bench.pairs(f"advise about {MANY} VMs", "s", [(advise(qmp), ADVISE_SECONDS) for _ in range(rounds)], "target", 1.0)
    daemon.cairn("destroy", "src")
    time.sleep(1)
    bench.pairs("largest file of a VM", "bytes", [(max(files(daemon), default=0), FILE_BYTES)], "target", 1.0)
    qmp.close()


def run(bench):
    need_kvm()
    with freshfs.folder(bench, 4096) as place, daemon_of(bench.uid, place) as daemon:
        daemon.define("src", memory="16M", boot={"kernel": guestlib.bare("idle")})
        daemon.cairn("start", "src")
        console = Console(daemon, "src")
        while console.line() != "idle":
            pass
        console.close()
        measure(bench, daemon)
