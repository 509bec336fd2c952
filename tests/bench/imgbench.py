"""imgbench: shared code of the image benchmarks: places, images, both tools measured alternately."""

import json
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import tempfile
import threading
import time

from benchlib import PEER, Unfit, limit_program

ROUNDS = 5
DEPTH = 32
MIB = 1 << 20
PLACES = {"shm": "/dev/shm", "disk": os.environ.get("CAIRN_BENCH_DISK", "/var/tmp")}


class Box:
    """A temporary folder on one of the places. parent: in this folder, on a disk, instead."""

    def __init__(self, bench, place, need_mib, parent=None):
        if shutil.which("qemu-img") is None:
            raise Unfit("the peer is missing: qemu-img")
        parent = parent or PLACES[place]
        if shutil.disk_usage(parent).free < 2 * need_mib * MIB:
            raise Unfit(f"{parent} has less than {2 * need_mib} MiB free")
        self.build, self.ours, self.place = bench.build, os.path.join(bench.build, "cairn-img"), place
        self.folder = tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *argv):
        """Run a command. Return the seconds that it took."""
        begin = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder.name)
        return time.perf_counter() - begin

    def create(self, name, size, options="", fill=False):
        """Create an image with qemu-img, for both tools. fill: every cluster has data."""
        self.run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), name, size)
        if fill:
            self.run("qemu-io", "-c", f"write -P 165 0 {size}", name)
        return name

    def convert_raw(self, name):
        """Make the file "raw" of an image, without holes."""
        self.run("qemu-img", "convert", "-S", "0", "-f", "qcow2", "-O", "raw", name, "raw")

    def bench_seconds(self, tool, name, *args):
        """Return the seconds that the tool's `bench` reports; both tools have the same options."""
        return self.bench_cost(tool, name, *args)[0]

    def bench_cost(self, tool, name, *args):
        """Return the seconds, and the CPU seconds of the whole process."""
        cache = ["-t", "none" if self.place == "disk" else "writeback"]
        before = cpu_of_children()
        out = subprocess.run([tool, "bench", "-f", "qcow2", "-d", str(DEPTH), *cache, *args, name], check=True,
                             capture_output=True, text=True, cwd=self.folder.name).stdout
        cpu = cpu_of_children() - before
        return float(re.search(r"completed in ([0-9.]+)", out).group(1)), cpu

    def fio_iops(self, name, write, count, *args):
        """Return IOPS of fio's io_uring engine on the raw file, random, with minimal overhead."""
        job = self.fio(name, count, f"--rw=rand{'write' if write else 'read'}", "--bs=4k", "--norandommap",
                       "--io_size=1T", *args)
        return job["write" if write else "read"]["iops"]

    def limit_iops(self, name, write, count, depth=DEPTH, direct=None):
        """Return IOPS at random places of the raw file: of fio with O_DIRECT, which is the default on disk; in the page
        cache, of pread() or pwrite(). Without fio, O_DIRECT has no limit."""
        if direct if direct is not None else self.place == "disk":
            return self.fio_iops(name, write, count, f"--iodepth={depth}") if shutil.which("fio") else None
        program = limit_program(self.build, "cached_limit")
        return program and count * 1e9 / int(subprocess.check_output([program, self.path(name), "write" if write else "read", str(count)]))

    def limit_name(self, direct=None):
        return "fio, io_uring, raw" if (direct if direct is not None else self.place == "disk") else "pread() and pwrite()"

    def fio(self, name, count, *args):
        return self.fio_jobs(f"--iodepth={DEPTH}", "--name=raw", f"--filename={name}", f"--number_ios={count}", *args)[0]

    def fio_jobs(self, *args):
        """Return fio's report of each job. args: of all jobs, up to the first --name."""
        out = subprocess.run(["fio", "--ioengine=io_uring", f"--direct={int(self.place == 'disk')}", "--gtod_reduce=1",
                              "--thread", "--output-format=json", *args], check=True, capture_output=True, text=True,
                             cwd=self.folder.name).stdout
        return json.loads(out)["jobs"]


def need_fio():
    if shutil.which("fio") is None:
        raise Unfit("the peer is missing: fio")


def cpu_of_children():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def in_place(bench, write, goals):
    """Measure 4 KiB requests in place, depth 32, every cluster allocated. goals: place to (IOPS, CPU time)."""
    for place, (goal, goal_cpu) in goals.items():
        with Box(bench, place, 1024) as box:
            name, count, args = box.create("a", "256M", fill=True), 80000, ["-w"] if write else []
            box.convert_raw(name)
            # A step of a prime number of clusters covers the whole image, in the same order for both tools.
            args += ["-s", "4k", "-S", str(4096 * 7919), "-c", str(count)]
            for tool in (box.ours, "qemu-img"):
                box.bench_seconds(tool, name, *args)
            both, limits = [], []
            for _ in range(ROUNDS):
                both.append([box.bench_cost(tool, name, *args) for tool in (box.ours, "qemu-img")])
                limits.append(box.limit_iops("raw", write, count))
            bench.pairs(f"4 KiB in place, {place}", "IOPS", [[count / t for t, _ in pair] for pair in both],
                        "qemu-img bench", goal, rate=True, limit=limits, limit_name=box.limit_name())
            bench.pairs(f"CPU time of each, {place}", "us", [[cpu / count * 1e6 for _, cpu in pair] for pair in both],
                        "qemu-img bench", goal_cpu)


def against_fio(bench, cases):
    """Measure random 4 KiB requests in place, compared with fio on a raw file of the same length."""
    need_fio()
    for place, write, count, goal in cases:
        with Box(bench, place, 1024) as box:
            name, args = box.create("a", "256M", fill=True), ["-w"] if write else []
            box.convert_raw(name)
            args += ["--random", "-s", "4k", "-c", str(count)]

            def ours():
                return count / box.bench_seconds(box.ours, name, *args)
            ours(), box.fio_iops("raw", write, count)
            bench.compare(f"4 KiB random {'write' if write else 'read'}, {place}", "IOPS", ours,
                          lambda: box.fio_iops("raw", write, count), "fio, io_uring, raw", goal, rate=True, rounds=ROUNDS,
                          limit=PEER if place == "disk" else lambda: box.limit_iops("raw", write, count),
                          limit_name=box.limit_name())


def mapped_image(box, name, size_gib, data_mib, scattered):
    """Make a qcow2 image with all 64 KiB clusters mapped, to fewer data clusters than it has: for reading only.
    Adjacent clusters are adjacent in the file (as far as possible), or scattered."""
    cluster, entries, data = 64 << 10, 8192, data_mib * 16
    tables = size_gib * 2
    l1, l2 = 2, 3  # in clusters; the header and an empty refcount table come first
    first = l2 + tables
    order = list(range(data))
    if scattered:
        random.Random(1).shuffle(order)
    places = struct.pack(f">{data}Q", *((first + i) * cluster for i in order))
    with open(box.path(name), "wb") as f:
        f.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size_gib << 30, 0, tables, l1 * cluster,
                            cluster, 1, 0, 0, 0, 0, 0, 4, 104))
        f.seek(l1 * cluster)
        f.write(struct.pack(f">{tables}Q", *((l2 + i) * cluster for i in range(tables))))
        f.seek(l2 * cluster)
        f.write((places * (1 + tables * entries // data))[:tables * cluster])
        for _ in range(data_mib):
            f.write(b"\xa5" * MIB)
    return name


COPYING = "the copying alone"


def copying_seconds(box, count):
    """Return the minimum time of a small write into a shared cluster: read most of a cluster, and write a new one.
    On a tmpfs by one thread; on disk by fio, one for one."""
    if box.place == "disk":
        job = box.fio("raw", 2 * count, "--rw=rw", "--bs=64k", "--overwrite=1", f"--size={2 * count * 64}k")
        return job["job_runtime"] / 1000
    cluster, old = memoryview(bytearray(64 << 10)), memoryview(bytearray(60 << 10))
    fd = os.open(box.path("raw"), os.O_RDWR | os.O_CREAT)
    for i in range(count):
        os.pwrite(fd, cluster, i << 16)
    begin = time.perf_counter()
    for i in range(count):
        os.preadv(fd, [old], (i << 16) + 4096)
        os.pwritev(fd, [cluster[:4096], old], (count + i) << 16)
    took = time.perf_counter() - begin
    os.close(fd)
    os.unlink(box.path("raw"))
    return took


def fresh_seconds(box, count):
    """Return the seconds in which fio writes 4 KiB to each 64 KiB of a new raw file."""
    if not shutil.which("fio"):
        return None
    os.sync()
    job = box.fio("raw", count, "--rw=write:60k", "--bs=4k", "--fallocate=native", f"--size={count * 64}k")
    os.unlink(box.path("raw"))
    return job["job_runtime"] / 1000


def allocating(bench, snapshot, cases):
    """Measure 4 KiB writes, one into each cluster; the image is recreated for every round."""
    for place, count, options, peer, goal in cases:
        if place == "disk" and peer == COPYING:
            need_fio()
        with Box(bench, place, 3072) as box:
            def once(tool, which):
                name, size = f"{which}.qcow2", f"{count * 64}k"
                box.create(name, size, options if which == "qemu" else "", fill=snapshot)
                if snapshot:
                    box.run("qemu-img", "snapshot", "-c", "s", name)
                if box.place == "disk":
                    os.sync()
                t = box.bench_seconds(tool, name, "-w", "-s", "4k", "-S", "64k", "-c", str(count))
                os.unlink(box.path(name))
                return t
            limit = (lambda: fresh_seconds(box, count)) if not snapshot else PEER if peer == COPYING else None
            bench.compare(f"4 KiB a cluster, {place}", "s", lambda: once(box.ours, "ours"),
                          lambda: copying_seconds(box, count) if peer == COPYING else once("qemu-img", "qemu"),
                          peer, goal, rounds=ROUNDS, limit=limit, limit_name="fio, io_uring, raw")


def raw_disk(box, name, data_mib, hole_mib):
    """Write text and random data alternately, then a hole."""
    noise, text = random.Random(1).randbytes(MIB), (b"the quick brown fox jumps over the lazy dog %d " * 40000)[:MIB]
    with open(box.path(name), "wb") as f:
        for i in range(data_mib):
            f.write(noise if i % 2 else text)
        f.truncate((data_mib + hole_mib) * MIB)
    return name


def copy_seconds(box, name, mib):
    """Return the seconds in which a thread for each CPU copies its part of the file's first MiB to a new file."""
    source, target = os.open(box.path(name), os.O_RDONLY), os.open(box.path("copy"), os.O_RDWR | os.O_CREAT)
    parts = len(os.sched_getaffinity(0))

    def copy(part):
        piece = memoryview(bytearray(MIB))
        for at in range(mib * part // parts, mib * (part + 1) // parts):
            os.preadv(source, [piece], at * MIB)
            os.pwritev(target, [piece], at * MIB)
    threads = [threading.Thread(target=copy, args=(part,)) for part in range(parts)]
    begin = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.perf_counter() - begin
    os.close(source)
    os.close(target)
    os.unlink(box.path("copy"))
    return took


def converting(bench, cases, size_mib, goal, plain=True):
    """plain: the target's data are the source's, so the least is to copy them."""
    for case, args in cases:
        with Box(bench, "shm", 4 * size_mib) as box:
            raw_disk(box, "src.raw", size_mib, 8 * size_mib)
            box.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "src.raw", "src.qcow2")

            def once(tool):
                t = box.run(tool, "convert", *args, "target")
                os.unlink(box.path("target"))
                return t
            once(box.ours), once("qemu-img")
            bench.compare(case, "s", lambda: once(box.ours), lambda: once("qemu-img"), "qemu-img convert", goal,
                          rounds=ROUNDS, limit=(lambda: copy_seconds(box, "src.raw", size_mib)) if plain else None,
                          limit_name="pread() and pwrite() on all CPUs")
