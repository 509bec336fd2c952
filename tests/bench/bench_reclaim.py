"""reclaim: idle guests after a revert: memory that goes back to the host, bytes written to their images, and the time
until the first answer of each, which faults its memory back in. GUESTS in the environment sets their number."""

import contextlib
import os
import time

import guestlib
from benchlib import need_kvm
from clonelib import own_kib
from conftest import Console
from plainlib import qcow2
from snapbench import FILL_AT, daemon_of

GUESTS = int(os.environ.get("GUESTS", "100"))
FILLED_MIB = 32
TARGET_MS = 20.0
TARGET_GIVEN = 0.9
AS_PLAIN_USER = True


def start(daemon, name):
    daemon.define(name, memory="64M", boot={"kernel": guestlib.bare("interp")}, disks=[qcow2(daemon.tmp / f"{name}.qcow2", "1G")])
    daemon.cairn("start", name)
    console = Console(daemon, name)
    while console.line() != "interp":
        pass
    console.run(f"fill {FILL_AT:#x} {FILLED_MIB << 20:#x} 1")
    daemon.cairn("snapshot-create-as", name, "s1")
    daemon.cairn("snapshot-revert", name, "s1", "--eager")
    return console


def written(daemon, names):
    total = 0
    for name in names:
        with open(daemon.tmp / f"{name}.qcow2", "rb") as f:
            f.read(1)  # the time of the first read after a write is written, too
        with open(f"/proc/{daemon.info(name)['pid']}/io") as f:
            total += int(dict(line.split(": ") for line in f)["write_bytes"])
    return total


def run(bench):
    need_kvm()
    names = [f"vm{i}" for i in range(GUESTS)]
    with daemon_of(bench.uid) as daemon, contextlib.ExitStack() as stack:
        consoles = [stack.enter_context(contextlib.closing(start(daemon, n))) for n in names]
        before, wrote = [own_kib(daemon, n) for n in names], written(daemon, names)
        daemon.cairn("reclaim", "--all")
        given = [(b - own_kib(daemon, n)) / (FILLED_MIB << 10) for b, n in zip(before, names)]
        wrote, ms = written(daemon, names) - wrote, []
        for console in consoles:
            begin = time.perf_counter_ns()
            console.run("echo here")
            ms.append((time.perf_counter_ns() - begin) / 1e6)
    bench.pairs("memory given back, of what is filled", "", [(g, TARGET_GIVEN) for g in given], "target", 1.0, rate=True)
    bench.pairs("bytes written, plus 1", "B", [(wrote + 1, 1)], "target", 1.0)
    bench.pairs("first answer", "ms", [(x, TARGET_MS) for x in ms], "target", 1.0)
