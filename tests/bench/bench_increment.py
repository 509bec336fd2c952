"""increment: what differs between two snapshots of an image with 64 GiB mapped: the time to find it, and the bytes that
a client reads to copy it. The peers are the goals: 50 ms, and the clusters that were written."""

import os
import re
import subprocess

from benchlib import Unfit
from imgbench import ROUNDS, Box

CLUSTER = 65536
WRITES = 2000


def run(bench):
    plugin = os.path.join(os.path.abspath(bench.build), "nbdkit-cairn-plugin.so")
    if not os.path.exists(plugin):
        raise Unfit("no plugin was built: nbdkit is missing")
    with Box(bench, "shm", 512) as box:
        box.create("a", "64G", "preallocation=metadata")
        for n in (1, 2):
            box.run("qemu-img", "snapshot", "-c", f"s{n}", "a")
            # A step of a prime number of clusters: the writes reach all L2 tables.
            box.run(box.ours, "bench", "-w", "-f", "qcow2", "-c", str(WRITES), "-s", "4k", "-o", "16M",
                    "-S", str(CLUSTER * 509), "a")

        def nbdkit(*filters, command):
            return box.run("nbdkit", "-U", "-", *filters, plugin, "a", "snapshot=s2", "since=s1",
                           *(["logfile=log"] if filters else []), "--run", command)

        def plan():
            return 1000 * (nbdkit(command="nbdinfo --map $uri") - nbdkit(command="nbdinfo --size $uri"))
        plan()
        bench.compare("64 GiB mapped, find what differs", "ms", plan, 50, "the goal", 1.0, rounds=ROUNDS)
        box.create("full", "64G")
        nbdkit("--filter=log", command="qemu-img convert -f raw $nbd -B full -F qcow2 -O qcow2 inc")
        with open(box.path("log"), encoding="utf-8") as f:
            read = sum(int(n, 16) for n in re.findall(r" Read id=\d+ offset=\S+ count=(0x[0-9a-f]+)", f.read()))
        changed = WRITES * CLUSTER
        bench.pairs("bytes read to copy it", "MiB", [(read / (1 << 20), changed / (1 << 20))], "the clusters written", 0.99)
        subprocess.run(["qemu-img", "check", "-q", "inc"], check=True, cwd=box.folder.name)
