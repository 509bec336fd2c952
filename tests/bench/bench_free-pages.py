"""free-pages: in the SVM host, what a snapshot writes of memory that a Linux guest has used and freed so many seconds
before: free page reporting has given it back by then, or not yet. The difference to 0 is all that free page hinting,
which asks the guest for its free blocks of 4 MiB at each snapshot, could leave out beyond that."""

import contextlib
import json
import os
import sys
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import pairs_in_svmhost, print_pairs
from conftest import Console
from plainlib import qcow2
from snapbench import daemon_of

MIB = 1 << 20
FREED_MIB = 96
SECONDS = 0, 4, 36
INSIDE_SECONDS = 600
START_SECONDS = 120


def written_mib(daemon, console, seconds):
    """Return the MiB that a snapshot writes, so many seconds after the memory was freed."""
    console.run(f"fill-ram {FREED_MIB} {seconds + 1}")
    console.run("free-ram")
    time.sleep(seconds)
    made = json.loads(daemon.cairn("snapshot-create-as", "vm", f"s{seconds}", "--format", "json").stdout)
    return made["ram-bytes-written"] / MIB


def measure(kernel):
    with daemon_of(None) as daemon:
        d = {"name": "vm", "memory": "256M", "vcpus": 1, "rng": True, "balloon": True,
             "boot": {"kernel": kernel, "initrd": guestlib.linux_initrd(), "cmdline": guestlib.linux_cmdline() + " cairn.port=ttyS0"},
             "disks": [qcow2(daemon.tmp / "vda.qcow2", "1G")]}
        (daemon.tmp / "vm.json").write_text(json.dumps(d))
        daemon.cairn("define", str(daemon.tmp / "vm.json"))
        daemon.cairn("start", "vm")
        with contextlib.closing(Console(daemon, "vm")) as console:
            console.sock.settimeout(START_SECONDS)
            while console.line() != "cairn-guest: ready":
                pass
            daemon.cairn("snapshot-create-as", "vm", "first")  # the ones below write only what changes
            return [(written_mib(daemon, console, seconds), FREED_MIB) for seconds in SECONDS]


def run(bench):
    pairs = pairs_in_svmhost(__file__, INSIDE_SECONDS, os.path.join(guestlib.linux_kernel(), "vmlinux"))
    for seconds, pair in zip(SECONDS, pairs):
        # Reporting is slow by design: only at the end is a goal.
        bench.pairs(f"written of {FREED_MIB} MiB freed {seconds} s before", "MiB", [pair], "freed", 4.0 if seconds == SECONDS[-1] else 0.0)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
