"""fork-disk: the disks of a VM and of its clones, which read the VM's image: bytes written for a clone, a clone's first
read in comparison with the VM's, reads with depth 32, and the VM's writes of 4 KiB to clusters that it shares with a
clone. Each of these copies a cluster from a random place of the image to space that is new in the file. The peer, fio,
reads and writes as much in the same way, but no write waits for its read.

After the first round, most of the VM's new clusters are those that the deletion of the last clone's pin has freed. Their
space went back to the file system, so that each of 967 of 1000 writes has a thread of the kernel allocate it; 59 of 1000
in the first round, which writes to the end of the file. At load 7 the times of both were alike.

The guest polls its ring, which takes one CPU for all of the time. So there are two peers: fio alone, and fio beside a
process that keeps a CPU busy. With two CPUs, the poll is most of the difference. Medians of 15 turns in one CPU group of
the highest weight, beside a load of 30:

Cairn                                                                  0.29 s
an engine built for this that leaves freed clusters their space        0.27 s
fio alone; beside a process that polls                                 0.17; 0.28 s
a C program with io_uring, each write after its read; beside a spin    0.21; 0.27 s"""

import contextlib
import os
import pathlib
import subprocess
import sys

import freshfs
import guestlib
from bench_fork import clones, forget
from benchlib import PEER, need_kvm
from conftest import Console, Daemon
from imgbench import DEPTH, PLACES, Box, need_fio

IMAGE, DISK_MIB = "a.qcow2", 1024
SECTORS = DISK_MIB << 11
WRITTEN_KIB, FIRST, READS, WRITES = 1024, 1.1, 0.9, 0.8
BATCH = 10
READ_COUNT, WRITE_COUNT = 20000, 1000  # few enough writes that nearly all go to different clusters
ROUNDS = 5


class Source:
    """A VM whose disk has data in every cluster, and one clone of it."""

    def __init__(self, folder, disk):
        self.daemon = Daemon(folder)
        self.daemon.define("src", memory="128M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                           disks=[{"path": disk, "format": "qcow2"}])
        self.q = self.daemon.qmp(timeout=60)
        self.seed = 0
        self.start()

    def start(self):
        """Start the VM in a new process."""
        self.daemon.cairn("start", "src")
        self.console = Console(self.daemon, "src")
        while self.console.line() != "interp":
            pass
        self.console.run("open 0")

    def destroy(self):
        self.console.close()
        self.daemon.cairn("destroy", "src")

    def bench(self, console, what, depth, count):
        """Return the nanoseconds that requests to random places took."""
        self.seed += 1
        (line,) = console.run(f"bench {what} {depth} {count} 4096 {SECTORS} {self.seed}")
        return int(dict(x.split("=") for x in line.split())["ns"])

    def clone(self):
        clones(self.daemon, self.q, "c", 1)
        return Console(self.daemon, "c")

    def forget(self, console):
        console.close()
        forget(self.q, "c", 1)

    def close(self):
        self.console.close()
        self.daemon.close()


def written_kib(daemon, names):
    """Return what the daemon and the VMs' processes have given to file systems with storage."""
    total = 0
    for pid in [daemon.proc.pid, *(daemon.info(n)["pid"] for n in names)]:
        io = pathlib.Path(f"/proc/{pid}/io").read_text()
        total += int(dict(line.split(": ") for line in io.splitlines())["write_bytes"])
    return total / 1024


def written(src):
    """Return the KiB written for each clone of a batch."""
    before = written_kib(src.daemon, ["src"])
    clones(src.daemon, src.q, "m", BATCH)
    kib = written_kib(src.daemon, ["src", *(f"m-{i}" for i in range(1, BATCH + 1))]) - before
    forget(src.q, "m", BATCH)
    return kib / BATCH


def first_reads(src):
    """Return the nanoseconds of the first read of a clone, and of its source in a new process."""
    console = src.clone()
    console.run("flush")  # the guest's driver takes its memory and the disk's thread runs, as in a new process
    ours = src.bench(console, "randread", 1, 1)
    src.forget(console)
    src.destroy()
    src.start()
    src.console.run("flush")
    return ours, FIRST * src.bench(src.console, "randread", 1, 1)


def reads(src, box):
    """Return the reads per second of a clone, of its source, and of fio in the same image."""
    console, rounds = src.clone(), []
    for _ in range(ROUNDS):
        rounds.append([READ_COUNT * 1e9 / src.bench(c, "randread", 32, READ_COUNT) for c in (console, src.console)] +
                      [box.limit_iops(IMAGE, False, READ_COUNT)])
    src.forget(console)
    return rounds


@contextlib.contextmanager
def poller():
    """Keep a CPU busy, as the guest does while it polls its ring."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as p:
        try:
            yield
        finally:
            p.kill()


def copying_seconds(box):
    """Return the seconds in which fio reads clusters at random places of the image and writes as many to new space."""
    new = box.path("new")
    jobs = box.fio_jobs("--bs=64k", f"--iodepth={DEPTH // 2}", f"--number_ios={WRITE_COUNT}", "--fallocate=native",
                        "--name=read", f"--filename={box.path(IMAGE)}", "--rw=randread", f"--size={DISK_MIB}m",
                        "--name=write", f"--filename={new}", "--rw=write", f"--size={WRITE_COUNT * 64}k")
    os.unlink(new)
    return max(j["job_runtime"] for j in jobs) / 1000


def writes(src, box):
    """Return the seconds of writes to shared clusters, and of copying as many clusters: alone, and beside a poller."""
    console = src.clone()
    ours = src.bench(src.console, "randwrite", DEPTH, WRITE_COUNT) / 1e9
    src.forget(console)
    alone = copying_seconds(box)
    with poller():
        return ours, alone, copying_seconds(box)


def run(bench):
    need_kvm()
    need_fio()
    with freshfs.folder(bench, 3 * DISK_MIB, PLACES["disk"]) as place, Box(bench, "disk", DISK_MIB, place) as box:
        src = Source(place, box.path(box.create(IMAGE, f"{DISK_MIB}M", fill=True)))
        try:
            bench.pairs(f"written for each of {BATCH}", "KiB", [(written(src), WRITTEN_KIB) for _ in range(ROUNDS)],
                        "target", 1.0)
            bench.pairs("first read", "ns", [first_reads(src) for _ in range(2 * ROUNDS + 1)], "1.1 x the source", 1.0)
            read = reads(src, box)
            bench.pairs("reads, depth 32", "IOPS", read, "the source", READS, rate=True, limit=[r[2] for r in read], limit_name=box.limit_name())
            took = [writes(src, box) for _ in range(ROUNDS)]
            bench.pairs("the source's writes after it", "s", [(ours, alone) for ours, alone, _ in took],
                        "fio copies clusters to new space", WRITES, limit=PEER)
            bench.pairs("the same beside a process that polls", "s", [(ours, beside) for ours, _, beside in took],
                        "fio copies clusters to new space", WRITES, limit=PEER)
        finally:
            src.close()
