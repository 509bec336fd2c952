"""Clones, clones of clones to depth 4, snapshots, reverts and handovers at random, while vCPUs and disks write and the
processes of VMs and the daemon are killed: each VM has its own memory and disk, to the last word. CAIRN_FORK_STEPS
steps from CAIRN_FORK_SEED."""

import json
import os
import random
import signal
import subprocess

import pytest

from conftest import BUILD, Console, until

STEPS = int(os.environ.get("CAIRN_FORK_STEPS", 30))
SEED = int(os.environ.get("CAIRN_FORK_SEED", 1))
AT, PIECE, PIECES = 16 << 20, 1 << 20, 12
DISK, SCRATCH = "0 128", "4096 2048"  # sectors of the disk: first and count
DEPTH = 4
VMS_MAX = DEPTH + 4
IMG = os.path.join(BUILD, "cairn-img")
LEAKS = 3  # exit status of a check


class Family:
    """VMs with their expected content: a seed for each piece of memory, one for DISK and one for SCRATCH. The last is
    None after a kill during the write. All else is flushed, since a killed process has tables that it has not written."""

    def __init__(self, daemon, kernel, image):
        self.daemon, self.rng, self.serial = daemon, random.Random(SEED), 1
        self.holds, self.snapshots, self.consoles = {}, {}, {}
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
        daemon.define("first", memory="64M", vcpus=2, debug_exit=True, boot={"kernel": kernel},
                      disks=[{"path": str(image), "format": "qcow2"}])
        self.boot("first")
        self.add("first", (self.fill("first"), 1, None))
        self.run("first", f"write {DISK} 1")
        self.run("first", "flush")
        source = "first"
        for i in range(1, DEPTH + 1):
            daemon.cairn("clone", "--live", source, f"g{i}")
            self.add(f"g{i}", self.holds[source])
            source = f"g{i}"

    def boot(self, name):
        self.daemon.cairn("start", name)
        self.consoles[name] = Console(self.daemon, name)
        while self.consoles[name].line() != "interp":
            pass
        for command in ("open 0", "smp start 1", "smp count 1"):
            self.run(name, command)

    def fill(self, name):
        seed = self.next()
        self.run(name, f"fill {AT} {PIECES * PIECE} {seed}")
        return [seed] * PIECES

    def add(self, name, holds):
        self.holds[name], self.snapshots[name] = holds, {}

    def leave(self, name):
        if name in self.consoles:
            self.consoles.pop(name).close()

    def run(self, name, text):
        if name not in self.consoles:
            # Without the output so far, in which old answers look like new ones.
            q = self.daemon.qmp()
            q.run("vm-console", vm=name, history=False)
            self.consoles[name] = Console(self.daemon, name, q.fds.pop())
        return self.consoles[name].run(text)

    def next(self):
        self.serial += 1
        return self.serial

    def memory(self, name):
        i, seed = self.rng.randrange(PIECES), self.next()
        self.run(name, f"fill {AT + i * PIECE} {PIECE} {seed}")
        pieces, *disks = self.holds[name]
        self.holds[name] = ([*pieces[:i], seed, *pieces[i + 1:]], *disks)

    def disk(self, name):
        seed = self.next()
        self.run(name, f"write {DISK} {seed}")
        self.run(name, "flush")
        self.holds[name] = (self.holds[name][0], seed, self.holds[name][2])

    def write(self, victim=None):
        """Let all VMs write at once, and kill the process of one of them meanwhile."""
        seeds = {name: self.next() for name in sorted(self.holds)}
        pid = self.daemon.info(victim)["pid"] if victim else None
        for name, seed in seeds.items():
            self.run(name, "open 0")
            self.consoles[name].sock.sendall(f"write {SCRATCH} {seed}\n".encode())
        if victim:
            os.kill(pid, signal.SIGKILL)
            self.leave(victim)
            seeds[victim] = None
        for name, seed in seeds.items():
            while seed and (line := self.consoles[name].line()) != "ok":
                assert not line.startswith(("err ", "error: ")), f"{name}: {line}"
            if seed:
                self.run(name, "flush")
            self.holds[name] = (*self.holds[name][:2], seed)

    def write_all(self, name):
        self.write()

    def kill(self, name):
        """Kill a VM's process during the writes of all. Its disk keeps what was flushed."""
        self.write(name)
        self.revive(name)

    def revive(self, name):
        self.daemon.wait(name, "crashed")
        # The kernel releases the files of a killed process a moment after its end.
        until(lambda: subprocess.run([IMG, "check", "-q", self.image(name)]).returncode in (0, LEAKS))
        self.boot(name)
        self.holds[name] = (self.fill(name), *self.holds[name][1:])

    def image(self, name):
        (disk,) = json.loads(self.daemon.cairn("dumpjson", name).stdout)["disks"]
        return disk["path"]

    def kill_during_fork(self, name):
        """Kill the source's process or the daemon: all clones are there, or none."""
        if len(self.holds) + 2 > VMS_MAX:
            return
        new = f"c{self.next()}"
        q = self.daemon.qmp()
        q.run("vm-fork", vm=name, name=new, count=2)
        if self.rng.random() < 0.5:
            os.kill(self.daemon.info(name)["pid"], signal.SIGKILL)
            self.leave(name)
            self.daemon.wait(name, "crashed")
            until(lambda: all(j["status"] == "concluded" for j in q.jobs()))
        else:
            self.close()
            self.daemon.stop(signal.SIGKILL)
            self.daemon.start()
            # The source gives up once it has noticed the daemon's end.
            until(lambda: self.daemon.cairn("snapshot-create-as", name, "settled", ok=None).returncode != 6)
            self.daemon.cairn("snapshot-delete", name, "settled")
        until(lambda: not list(self.daemon.state.glob("batches/*")))
        names = self.daemon.cairn("list", "--all", "--name").stdout.split()
        clones = sorted(n for n in names if n not in self.holds)
        assert set(names) == {*self.holds, *clones} and clones in ([], [f"{new}-1", f"{new}-2"])
        for clone in clones:
            self.add(clone, self.holds[name])
        if name not in self.consoles and self.daemon.info(name)["word"] == "crashed":
            self.revive(name)

    def fork(self, name):
        """Fork a VM once, or twice without a write between: then both read the same pin of its disk."""
        for _ in range(self.rng.choice((1, 2))):
            if len(self.holds) + 2 > VMS_MAX:
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

    def restart(self, name):
        """Hand the VM over to a new process."""
        r = json.loads(self.daemon.cairn("restart-process", name, "--format", "json").stdout)[0]
        assert r["way"] == "handover", r

    def end(self, name):
        if len(self.holds) == 1:
            return
        self.leave(name)
        self.daemon.cairn("destroy", name)
        # The process may have been killed before.
        assert subprocess.run([IMG, "check", "-q", self.image(name)]).returncode in (0, LEAKS)
        # The image stays if a clone reads it; else its pin goes when no other overlay reads the pin.
        if self.daemon.cairn("undefine", name, "--snapshots-metadata", "--remove-all-storage", ok=None).returncode:
            self.daemon.cairn("undefine", name, "--snapshots-metadata")
        del self.holds[name], self.snapshots[name]

    def check(self, name):
        pieces, disk, scratch = self.holds[name]
        for i, seed in enumerate(pieces):
            self.run(name, f"check {AT + i * PIECE} {PIECE} {seed}")
        self.run(name, "open 0")
        self.run(name, f"verify {DISK} {disk}")
        if scratch:
            self.run(name, f"verify {SCRATCH} {scratch}")

    def step(self):
        what = self.rng.choice((self.memory, self.memory, self.memory, self.disk, self.write_all, self.fork, self.snapshot,
                                self.revert, self.check, self.end, self.kill, self.kill_during_fork, self.restart,
                                self.restart))
        what(self.rng.choice(sorted(self.holds)))

    def close(self):
        for name in list(self.consoles):
            self.leave(name)


@pytest.mark.seconds(60 + 3 * STEPS)
def test_random_clones_and_reverts_keep_their_content(daemon, kvm, guest, tmp_path):
    family = Family(daemon, guest("interp.elf"), tmp_path / "first.qcow2")
    try:
        for _ in range(STEPS):
            family.step()
        for name in sorted(family.holds):
            family.check(name)
    finally:
        family.close()
