"""diff: snapshot-diff of an image with 100 GiB mapped, where clusters of 50 MiB all over the disk were written, and of
an ext4 file system of that size, to which files of 50 MiB came. The peer is the goal, 2 s."""

import pathlib
import subprocess
import tempfile
import time

from conftest import Daemon
from imgbench import PLACES, ROUNDS, Box

CLUSTER, WRITES, GOAL_S = 65536, 800, 2.0


def seconds(daemon, *args):
    begin = time.perf_counter()
    daemon.cairn("snapshot-diff", "vm", "s1", "s2", *args)
    return time.perf_counter() - begin


def run(bench):
    with Box(bench, "shm", 1024) as box, tempfile.TemporaryDirectory(dir=PLACES["shm"]) as folder:
        box.create("a", "100G", "preallocation=metadata")
        box.run("qemu-img", "snapshot", "-c", "s1", "a")
        # A step of a prime number of clusters: the writes reach all L2 tables.
        box.run(box.ours, "bench", "-w", "-f", "qcow2", "-c", str(WRITES), "-s", "4k", "-S", str(CLUSTER * 2039), "a")
        box.run("qemu-img", "snapshot", "-c", "s2", "a")
        filesystem(box)
        daemon = Daemon(pathlib.Path(folder))
        try:
            for name, args, case in (("a", [], "50 MiB of 100 GiB"), ("a", ["--extents", "--limit", "0"], "the same, each range listed"),
                                     ("b", ["--files"], "files of ext4, 2,000 of 30,000 are new")):
                daemon.define("vm", disks=[{"path": box.path(name), "format": "qcow2"}])
                seconds(daemon, *args)
                bench.compare(case, "s", lambda a=args: seconds(daemon, *a), GOAL_S, "the goal", 1.0, rounds=ROUNDS)
                daemon.cairn("undefine", "vm", "--snapshots-metadata")
        finally:
            daemon.close()


def filesystem(box):
    """Make b: an ext4 file system of 100 GiB with 28,000 files, to which 2,000 of 25 KiB come."""
    top = pathlib.Path(box.path("tree"))
    for n in range(280):
        (top / f"d{n}").mkdir(parents=True)
        for k in range(100):
            (top / f"d{n}" / f"f{k}").write_bytes(b"x" * 100)
    with open(box.path("b.raw"), "wb") as f:
        f.truncate(100 << 30)
    box.run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", str(top), "b.raw")
    box.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "b.raw", "b")
    box.run("qemu-img", "snapshot", "-c", "s1", "b")
    (top / "new").write_bytes(b"y" * 25600)
    script = "mkdir /new\ncd /new\n" + "".join(f"write {top}/new n{n}\n" for n in range(2000))
    subprocess.run(["debugfs", "-w", "-f", "-", box.path("b.raw")], input=script, text=True, check=True, capture_output=True)
    box.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", "b.raw", "b")
    box.run("qemu-img", "snapshot", "-c", "s2", "b")
