"""blkdeviotune: a limited disk against its limit, with a guest that always has more requests: requests, bytes, reads
and writes alone, larger requests that count as several, and a burst. Each within 5 % of the limit in both directions."""

import contextlib
import re

import guestlib
from benchlib import need_kvm
from conftest import Console
from snapbench import daemon_of

# The keys of the disk; kind and bytes of the requests; how many; the seconds that they take by the limits, since the
# requests of a tenth of a second pass at once.
ROWS = {
    "500 requests a second": ({"iops": 500}, "randread", 4096, 2550, 5.0),
    "8 MiB a second": ({"bps": 8 << 20}, "randwrite", 16384, 2611, 5.0),
    "300 reads a second": ({"iops_rd": 300, "iops_wr": 1}, "randread", 4096, 1530, 5.0),
    "2 MiB of writes a second": ({"bps_rd": 4096, "bps_wr": 2 << 20}, "randwrite", 4096, 2611, 5.0),
    "500 a second, 16 KiB count as 4": ({"iops": 500, "iops_size": 4096}, "randread", 16384, 637, 5.0),
    "1000 a second for 3 s, then 100": ({"iops": 100, "iops_max": 1000, "iops_max_length": 3}, "randwrite", 4096, 3200, 5.0),
}
WITHIN = 0.95


def seconds_of(daemon, name, keys, kind, size, requests):
    image = daemon.tmp / f"{name}.raw"
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    daemon.define(name, memory="64M", boot={"kernel": guestlib.bare("interp")}, disks=[{"path": str(image), "format": "raw", **keys}])
    daemon.cairn("start", name)
    with contextlib.closing(Console(daemon, name)) as console:
        while console.line() != "interp":
            pass
        console.run("open 0")
        line, = console.run(f"bench {kind} 16 {requests} {size} 100000")
    daemon.cairn("destroy", name)
    return int(re.search(r" ns=(\d+)", line)[1]) / 1e9


def run(bench):
    need_kvm()
    with daemon_of(bench.uid) as daemon:
        for i, (case, (keys, kind, size, requests, want)) in enumerate(ROWS.items()):
            took = seconds_of(daemon, f"vm{i}", keys, kind, size, requests)
            bench.pairs(case, "s", [(took, want)], "the limit", WITHIN)
            bench.pairs(f"{case}, not faster", "s", [(took, want)], "the limit", WITHIN, rate=True)
