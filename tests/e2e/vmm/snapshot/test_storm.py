"""Snapshots and reverts at random moments, while several vCPUs write memory and the disk is written.
CAIRN_STORM_ROUNDS: a snapshot and a revert each."""

import os
import random
import time

import pytest

from snapshotlib import check, vm  # noqa: F401 (vm is a fixture)

ROUNDS = int(os.environ.get("CAIRN_STORM_ROUNDS", 10))
SEED = int(os.environ.get("CAIRN_STORM_SEED", 1))
SNAPSHOTS = 6
SECTORS = 1024
FILL_AT, FILL_BLOCKS, FILL_BYTES = 0x1000000, 64, 0x8000
WAIT_MS = 12


class Storm:
    """The guest and its expected content: fills by block, and the disk's seed, or two possible ones."""

    def __init__(self, vm, rng):
        self.vm, self.rng, self.q = vm, rng, vm.daemon.qmp()
        self.fills, self.disk, self.n = {}, {0}, 0

    def job(self, verb, name):
        self.n += 1
        job = f"j{self.n}"
        self.q.run(verb, vm="vm1", name=name, job_id=job)
        self.q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        end = [j for j in self.q.run("query-jobs") if j["id"] == job][0]
        assert "error" not in end, end
        self.q.run("job-dismiss", id=job)

    def sync(self):
        """The revert may have cut a command in two: the x makes the rest invalid."""
        self.n += 1
        console = self.vm.console
        console.sock.sendall(f" x\necho token{self.n}\n".encode())
        while not (line := console.line()).endswith(f"token{self.n}"):
            assert "no answer" not in line
        assert console.line() == "ok"

    def fill(self):
        block, seed = self.rng.randrange(FILL_BLOCKS), self.rng.randrange(1, 1 << 30)
        self.vm.run(f"fill {FILL_AT + block * FILL_BYTES:#x} {FILL_BYTES:#x} {seed}")
        self.fills[block] = seed

    def write_begin(self):
        seed = self.rng.randrange(1, 1 << 30)
        self.vm.console.sock.sendall(f"write 0 {SECTORS} {seed}\n".encode())
        self.disk = self.disk | {seed}
        return seed

    def verify(self):
        for block in self.rng.sample(sorted(self.fills), min(4, len(self.fills))):
            self.vm.run(f"check {FILL_AT + block * FILL_BYTES:#x} {FILL_BYTES:#x} {self.fills[block]}")
        self.vm.run("storm check")
        for seed in sorted(self.disk):
            try:
                self.vm.run(f"verify 0 {SECTORS} {seed}")
                self.disk = {seed}
                return
            except AssertionError:
                if seed == max(self.disk):
                    raise


@pytest.mark.seconds(60 + ROUNDS)
def test_random_snapshots_and_reverts_during_writes(vm):  # noqa: F811
    rng = random.Random(SEED)
    vm.daemon.cairn("undefine", "vm1")
    vm.define(vcpus=3)
    vm.start()
    vm.run("storm start 2 0x2000000 0x400000")
    s = Storm(vm, rng)
    s.disk = {s.write_begin()}
    s.sync()
    saved = {}
    for i in range(ROUNDS):
        s.fill()
        seed = s.write_begin()
        time.sleep(rng.random() * WAIT_MS / 1000)
        s.job("snapshot-create", f"n{i}")
        saved[f"n{i}"] = (dict(s.fills), s.disk)
        s.sync()
        s.disk = {seed}
        if rng.random() < 0.3:
            s.fill()
        time.sleep(rng.random() * WAIT_MS / 1000)
        if len(saved) > SNAPSHOTS:
            name = rng.choice(sorted(saved))
            del saved[name]
            s.job("snapshot-delete", name)
        name = rng.choice(sorted(saved))
        s.job("snapshot-revert", name)
        s.fills, s.disk = dict(saved[name][0]), saved[name][1]
        if rng.random() < 0.8:  # otherwise the next snapshot comes at once
            s.sync()
            s.verify()
            saved[name] = (saved[name][0], s.disk)
        else:
            s.sync()
    s.verify()
    vm.stop()
    check(vm.disks[0])
