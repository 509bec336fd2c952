"""fork-pause: how long a clone pauses its source, with a disk of 16 MiB and with one of 2 GiB that is full, on a
file system that may not share blocks."""

import pathlib
import statistics
import subprocess
import tempfile

import guestlib
from bench_fork import clones, forget
from benchlib import need_kvm
from conftest import Console, Daemon

TARGET_MS = 10.0
FLAT = 1.5  # the pause with 2 GiB may be this multiple of that with 16 MiB
ROUNDS = 5


def pauses(folder, mib):
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, f"{mib}M"], check=True)
    writes = [x for at in range(0, mib, 1024) for x in ("-c", f"write -P 7 {at}M {min(1024, mib - at)}M")]
    subprocess.run(["qemu-io", *writes, disk], check=True, stdout=subprocess.DEVNULL)
    daemon = Daemon(folder)
    try:
        daemon.define("src", memory="128M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                      disks=[{"path": str(disk), "format": "qcow2"}])
        daemon.cairn("start", "src")
        console = Console(daemon, "src")
        while console.line() != "interp":
            pass
        q = daemon.qmp(timeout=300)
        ms = []
        for _ in range(ROUNDS + 1):
            ms.append(clones(daemon, q, "c", 1)["pause"] / 1e6)
            forget(q, "c", 1)
        console.close()
        return ms[1:]
    finally:
        daemon.close()


def run(bench):
    need_kvm()
    small, large = ([], [])
    for mib, ms in ((16, small), (2048, large)):
        with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
            ms += pauses(pathlib.Path(folder), mib)
    bench.pairs("2 GiB", "ms", [(x, TARGET_MS) for x in large], "target", 1.0)
    bench.pairs("2 GiB against 16 MiB", "ms", [(x, FLAT * statistics.median(small)) for x in large],
                "1.5 x 16 MiB", 1.0)
