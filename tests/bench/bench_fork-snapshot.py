"""fork-snapshot: the pause of a clone's first snapshot and of its first fork, for how long one of its vCPUs did not run
during the whole job, and the memory that the clone has for itself afterwards: with 1 GiB of memory, 512 MiB of them
filled, a clone of a VM and a clone of the fourth generation.

A vCPU also waits for each of its first writes to a block. The time in which the host gives this machine no processor
counts as well, so a virtual machine on a busy host misses that target."""

import json
import pathlib
import subprocess
import tempfile

import guestlib
from benchlib import need_kvm
from clonelib import Clock, own_kib
from conftest import Console, Daemon

PAUSE_MS, STOPPED_MS, OWN_KIB = 1.0, 3.0, 1024
FILL_AT, FILL_MIB = 0x4000000, 512
ROUNDS = 5


class Family:
    """A VM that measures its own gaps, and its clones. All but the measured one are paused."""

    def __init__(self, folder):
        self.daemon, self.consoles, self.n = Daemon(folder), {}, 0
        disk = folder / "src.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
        self.daemon.define("src", memory="1G", vcpus=2, debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                           disks=[{"path": str(disk), "format": "qcow2"}])
        self.daemon.cairn("start", "src")
        self.consoles["src"] = Console(self.daemon, "src")
        while self.consoles["src"].line() != "interp":
            pass
        self.run("src", f"fill {FILL_AT:#x} {FILL_MIB << 20:#x} 1")
        self.run("src", "gap start")
        self.clock = Clock(self, self.daemon, "src")
        self.daemon.cairn("suspend", "src")

    def run(self, name, text):
        if name not in self.consoles:
            self.consoles[name] = Console(self.daemon, name)
        return self.consoles[name].run(text)

    def clone(self, source, name):
        return json.loads(self.daemon.cairn("clone", "--live", source, name, "--paused", "--format", "json").stdout)

    def first_job(self, source, job):
        """Run a job of a new clone of source; return the reported pause and for how long its vCPU did not run, in ms,
        and its own memory in KiB."""
        self.n += 1
        name, child = f"t{self.n}", f"u{self.n}"
        self.clone(source, name)
        self.daemon.cairn("resume", name)
        self.clock.move(name)
        _, _, slept, reported = self.clock.measure(lambda: job(self, name, child))
        own = own_kib(self.daemon, name)
        self.consoles.pop(name).close()
        self.daemon.cairn("destroy", name, *([child] if job is fork else []))
        return reported, slept, own

    def close(self):
        for console in self.consoles.values():
            console.close()
        self.daemon.close()


def snapshot(family, name, child):
    return json.loads(family.daemon.cairn("snapshot-create-as", name, "s1", "--format", "json").stdout)


def fork(family, name, child):
    return family.clone(name, child)


def run(bench):
    need_kvm()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        family = Family(pathlib.Path(folder))
        try:
            for depth, parents in ((1, []), (4, ["c1", "c2", "c3"])):
                source = "src"
                for name in parents:
                    family.clone(source, name)
                    source = name
                for job in (snapshot, fork):
                    found = [family.first_job(source, job) for _ in range(ROUNDS)]
                    case = f"first {job.__name__}, depth {depth}"
                    for text, unit, i, target in (("pause of", "ms", 0, PAUSE_MS), ("not run during", "ms", 1, STOPPED_MS),
                                                  ("own memory after", "KiB", 2, OWN_KIB)):
                        bench.pairs(f"{text} {case}", unit, [(x[i], target) for x in found], "target", 1.0)
        finally:
            family.close()
