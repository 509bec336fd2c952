"""Clones, clones of clones, snapshots and reverts at random, while their vCPUs write: each VM has its own memory
and disk, to the last word. CAIRN_FORK_STEPS steps from CAIRN_FORK_SEED."""

import json
import os
import random
import subprocess

import pytest

from conftest import BUILD, Console

STEPS = int(os.environ.get("CAIRN_FORK_STEPS", 30))
SEED = int(os.environ.get("CAIRN_FORK_SEED", 1))
AT, PIECE, PIECES = 16 << 20, 1 << 20, 12
VMS_MAX = 5


class Family:
    """VMs with their expected content: a seed for each piece of memory, and one for the disk."""

    def __init__(self, daemon, kernel, image):
        self.daemon, self.rng, self.serial = daemon, random.Random(SEED), 1
        self.holds, self.snapshots, self.consoles = {}, {}, {}
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
        daemon.define("first", memory="64M", vcpus=2, debug_exit=True, boot={"kernel": kernel},
                      disks=[{"path": str(image), "format": "qcow2"}])
        daemon.cairn("start", "first")
        self.consoles["first"] = Console(daemon, "first")
        while self.consoles["first"].line() != "interp":
            pass
        for command in ("open 0", f"fill {AT} {PIECES * PIECE} 1", "write 0 128 1", "flush", "smp start 1",
                        "smp count 1"):
            self.run("first", command)
        self.add("first", ([1] * PIECES, 1))

    def add(self, name, holds):
        self.holds[name], self.snapshots[name] = holds, {}

    def run(self, name, text):
        if name not in self.consoles:
            self.consoles[name] = Console(self.daemon, name)
        return self.consoles[name].run(text)

    def next(self):
        self.serial += 1
        return self.serial

    def memory(self, name):
        i, seed = self.rng.randrange(PIECES), self.next()
        self.run(name, f"fill {AT + i * PIECE} {PIECE} {seed}")
        pieces, disk = self.holds[name]
        self.holds[name] = ([*pieces[:i], seed, *pieces[i + 1:]], disk)

    def disk(self, name):
        seed = self.next()
        self.run(name, f"write 0 128 {seed}")
        self.run(name, "flush")
        self.holds[name] = (self.holds[name][0], seed)

    def fork(self, name):
        if len(self.holds) >= VMS_MAX:
            return
        new, count = f"c{self.next()}", self.rng.choice((1, 2))
        self.daemon.cairn("clone", "--live", name, new, "--count", str(count))
        for i in range(1, count + 1):
            self.add(f"{new}-{i}", self.holds[name])

    def snapshot(self, name):
        if len(self.snapshots[name]) < 4:
            s = f"s{self.next()}"
            self.daemon.cairn("snapshot-create-as", name, s)
            self.snapshots[name][s] = self.holds[name]

    def revert(self, name):
        if self.snapshots[name]:
            s = self.rng.choice(sorted(self.snapshots[name]))
            self.daemon.cairn("snapshot-revert", name, s)
            self.holds[name] = self.snapshots[name][s]

    def end(self, name):
        if len(self.holds) == 1:
            return
        if name in self.consoles:
            self.consoles.pop(name).close()
        self.daemon.cairn("destroy", name)
        (disk,) = json.loads(self.daemon.cairn("dumpjson", name).stdout)["disks"]
        subprocess.run([os.path.join(BUILD, "cairn-img"), "check", "-q", disk["path"]], check=True)
        self.daemon.cairn("undefine", name, "--snapshots-metadata")
        del self.holds[name], self.snapshots[name]

    def check(self, name):
        pieces, disk = self.holds[name]
        for i, seed in enumerate(pieces):
            self.run(name, f"check {AT + i * PIECE} {PIECE} {seed}")
        self.run(name, f"verify 0 128 {disk}")

    def step(self):
        what = self.rng.choice((self.memory, self.memory, self.memory, self.disk, self.fork, self.snapshot,
                                self.revert, self.check, self.end))
        what(self.rng.choice(sorted(self.holds)))

    def close(self):
        for c in self.consoles.values():
            c.close()


@pytest.mark.seconds(60 + STEPS)
def test_random_clones_and_reverts_keep_their_content(daemon, kvm, guest, tmp_path):
    family = Family(daemon, guest("interp.elf"), tmp_path / "first.qcow2")
    try:
        for _ in range(STEPS):
            family.step()
        for name in sorted(family.holds):
            family.check(name)
    finally:
        family.close()
