"""Snapshots of three disks: complete or absent, whichever process is killed when; QEMU's changes to the images in
between; a full file system on one of them. tests/unit/vmm/snapshot/test_snapshot_set.c covers every write; these
tests use the real processes.

CAIRN_KILL_ROUNDS and CAIRN_KILL_SEED make the first test longer."""

import os
import random
import signal
import struct
import subprocess
import time

import pytest

from conftest import Console, until
from snapshotlib import check, qemu_names, wait_released
from statelib import crc32c
from test_disk_errors import Small

ROUNDS = int(os.environ.get("CAIRN_KILL_ROUNDS", "6"))
SEED = int(os.environ.get("CAIRN_KILL_SEED", "3"))
DISKS = 3
RAM = 0x1000000


class Vm:
    """A small interpreter with three disks. Fills are in memory and on all disks."""

    def __init__(self, daemon, guest, paths):
        self.daemon = daemon
        self.disks = paths
        for p in paths:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", p, "16M"], check=True)
        self.console = None
        daemon.define("vm1", memory="32M", debug_exit=True, boot={"kernel": guest("interp.elf")},
                      disks=[{"path": str(p), "format": "qcow2"} for p in paths])

    def start(self):
        if self.console:
            self.console.close()
        self.daemon.cairn("start", "vm1")
        self.console = Console(self.daemon, "vm1")
        while self.console.line() != "interp":
            pass

    def run(self, text):
        return self.console.run(text)

    def each_disk(self, command):
        for i in range(DISKS):
            self.run(f"open {i}")
            self.run(command.format(i=i))
        self.run("open 0")

    def fill(self, seed):
        self.run(f"fill {RAM:#x} 0x200000 {seed}")
        self.each_disk(f"write 0 16 {seed}{{i}}")

    def disks_hold(self, seed):
        try:
            self.each_disk(f"verify 0 16 {seed}{{i}}")
        except AssertionError:
            return False
        return True

    def check(self, seed):
        self.run(f"check {RAM:#x} 0x200000 {seed}")
        self.each_disk(f"verify 0 16 {seed}{{i}}")

    def take(self, name, *args):
        return self.daemon.cairn("snapshot-create-as", "vm1", name, *args)

    def names(self):
        return self.daemon.cairn("snapshot-list", "vm1", "--name").stdout.split()

    def pid(self):
        return self.daemon.info("vm1")["pid"]

    def off(self):
        self.console.close()
        self.console = None
        self.daemon.cairn("destroy", "vm1")
        for d in self.disks:
            wait_released(d)

    def is_clean(self, leaks_allowed=False):
        for d in self.disks:
            check(d, leaks_allowed)


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    return Vm(daemon, guest, [tmp_path / f"vd{c}.qcow2" for c in "abc"])


def settled_names(vm):
    """The process continues without its daemon. It takes one piece of work at a time: this one fails because of its
    name as soon as the other ends."""
    while True:
        r = vm.daemon.cairn("snapshot-create-as", "vm1", "base", ok=None)
        if "already" in r.stderr:
            return vm.names()
        assert "under way" in r.stderr, r.stderr
        time.sleep(0.01)


@pytest.mark.seconds(60 + 10 * ROUNDS)
def test_killed_process_leaves_whole_snapshots(vm):
    rng = random.Random(SEED)
    vm.start()
    vm.fill(1)
    vm.take("base")
    seeds = {"base": 1}
    for i in range(2, 2 + ROUNDS):
        vm.fill(i)
        vm.each_disk("flush")
        verb = ["snapshot-create", "snapshot-revert", "snapshot-delete"][i % 3]
        deletable = sorted(set(seeds) - {"base"})
        name = f"k{i}" if verb == "snapshot-create" else rng.choice(sorted(seeds))
        if verb == "snapshot-delete":
            if not deletable:
                continue
            name = rng.choice(deletable)
        before, now = dict(seeds), i
        after = {**seeds, name: i} if verb == "snapshot-create" else seeds
        if verb == "snapshot-delete":
            after = {k: v for k, v in seeds.items() if k != name}
        target = vm.pid()
        the_daemon = rng.random() < 0.3
        vm.daemon.qmp().run(verb, vm="vm1", name=name)  # the job has begun
        time.sleep(rng.random() * 0.03)
        if the_daemon:
            vm.daemon.stop(signal.SIGKILL)
            vm.daemon.start()
            vm.daemon.wait("vm1", "running")
            names = settled_names(vm)
        else:
            os.kill(target, signal.SIGKILL)
            vm.daemon.wait("vm1", "crashed")
            for d in vm.disks:
                wait_released(d)
            vm.is_clean(leaks_allowed=True)
            vm.start()
            names = vm.names()
        assert sorted(names) in (sorted(before), sorted(after)), (verb, name)
        for d in vm.disks:
            assert sorted(qemu_names_of_open(d)) == sorted(names)
        seeds = {n: {**before, **after}[n] for n in names}
        reverted = verb == "snapshot-revert" and not vm.disks_hold(now)
        if reverted:
            now = seeds[name]
        assert vm.disks_hold(now), (verb, name)
        back = rng.choice(sorted(seeds))
        vm.daemon.cairn("snapshot-revert", "vm1", back)
        vm.check(seeds[back])
    vm.off()
    vm.is_clean(leaks_allowed=True)


def qemu_names_of_open(image):
    out = subprocess.run(["qemu-img", "snapshot", "-U", "-l", image], capture_output=True, text=True,
                         check=True).stdout
    return [line.split()[1] for line in out.splitlines()[2:]]


# ---- states after a crash, made by hand ----

WHOLE, MAKING, DELETING, REVERTING = range(4)


def mark(image, name, value):
    """Set the mark of the set in the snapshot's entry (snapshot/tree.h)."""
    with open(image, "r+b") as f:
        f.seek(60)
        count, at = struct.unpack(">IQ", f.read(12))
        for _ in range(count):
            f.seek(at)
            _, _, id_len, name_len, *_, extra = struct.unpack(">QIHHIIQII", f.read(40))
            f.seek(at + 40)
            data = f.read(extra)
            f.seek(at + 40 + extra + id_len)
            if f.read(name_len).decode() == name:
                where = data.index(b"CRS1")
                block = bytearray(data[where:where + 44])
                block[6] = value
                block[40:] = struct.pack("<I", crc32c(block[:40]))
                f.seek(at + 40 + where)
                f.write(block)
                return
            at += -(-(40 + extra + id_len + name_len) // 8) * 8
    raise AssertionError(f"{image} has no {name}")


def recoveries(daemon):
    return [(e["data"]["device"], e["data"]["snapshot"], e["data"]["action"])
            for e in daemon.qmp().run("query-events")["events"] if e["event"] == "SNAPSHOT_RECOVERED"]


@pytest.fixture
def two(vm):
    """Off, with s1 (content 1), its child s2 (content 2), and content 3."""
    vm.start()
    for seed, name in ((1, "s1"), (2, "s2")):
        vm.fill(seed)
        vm.take(name)
    vm.fill(3)
    vm.each_disk("flush")
    vm.off()
    return vm


def test_interrupted_revert_is_completed_before_guest_runs(two):
    mark(two.disks[0], "s1", REVERTING)
    subprocess.run(["qemu-img", "snapshot", "-a", "s1", two.disks[1]], check=True)
    two.start()
    assert two.disks_hold(1)
    assert recoveries(two.daemon) == [("vda", "s1", "reverted")]
    assert two.daemon.cairn("snapshot-current", "vm1", "--name").stdout.strip() == "s1"
    two.off()
    two.start()
    assert len(recoveries(two.daemon)) == 1
    two.off()
    two.is_clean()


def test_interrupted_revert_is_refused_under_saved_state(two, tmp_path):
    """The saved memory fits the disks' old content: the start is refused, and nothing is changed."""
    saved = str(tmp_path / "saved")
    two.start()
    two.console.close()
    two.console = None
    two.daemon.cairn("save", "vm1", saved)
    for d in two.disks:
        wait_released(d)
    mark(two.disks[0], "s1", REVERTING)
    assert "a revert of the disks to snapshot 's1' was interrupted" in two.daemon.cairn("restore", saved, ok=False).stderr
    assert recoveries(two.daemon) == []
    until(lambda: not two.daemon.children())
    two.start()
    assert two.disks_hold(1)
    assert recoveries(two.daemon) == [("vda", "s1", "reverted")]


def test_interrupted_delete_is_completed_by_list(two):
    mark(two.disks[0], "s1", DELETING)
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", two.disks[2]], check=True)
    assert two.names() == ["s2"]  # the VM is off
    assert recoveries(two.daemon) == [("vda", "s1", "deleted")]
    for d in two.disks:
        wait_released(d)
        assert qemu_names(d) == ["s2"]
    two.is_clean()
    assert two.daemon.cairn("snapshot-info", "vm1", "s2").stdout.count("s1") == 0
    two.start()
    two.daemon.cairn("snapshot-revert", "vm1", "s2")
    two.check(2)


def test_snapshot_missing_on_first_disk_is_rolled_back(two):
    """The first disk's entry was never written; the other disks have theirs."""
    for d in two.disks[1:]:
        mark(d, "s2", MAKING)
    subprocess.run(["qemu-img", "snapshot", "-d", "s2", two.disks[0]], check=True)
    two.start()
    assert two.names() == ["s1"]
    assert recoveries(two.daemon) == [("vdb", "s2", "rolled-back"), ("vdc", "s2", "rolled-back")]
    assert two.disks_hold(3)
    two.off()
    for d in two.disks:
        assert qemu_names(d) == ["s1"]
    two.is_clean()


def test_snapshot_on_all_disks_is_kept(two):
    mark(two.disks[2], "s2", MAKING)
    two.start()
    assert two.names() == ["s1", "s2"]
    assert recoveries(two.daemon) == [("vdc", "s2", "taken")]
    two.daemon.cairn("snapshot-revert", "vm1", "s2")
    two.check(2)


def test_snapshots_of_another_vms_disk_are_left_alone(two, tmp_path, guest):
    """Its snapshots have the same names but are no part of this VM's, and its unfinished snapshot is not rolled
    back here."""
    d = two.daemon
    d.cairn("undefine", "vm1", "--snapshots-metadata")
    other = Vm(d, guest, [tmp_path / f"other{i}.qcow2" for i in range(2)])
    d.cairn("undefine", "vm1")
    mark(two.disks[2], "s2", MAKING)
    other.disks.append(two.disks[2])
    d.define("vm1", memory="32M", debug_exit=True, boot={"kernel": guest("interp.elf")},
             disks=[{"path": str(p), "format": "qcow2"} for p in other.disks])
    other.start()
    assert recoveries(d) == []
    r = d.cairn("snapshot-create-as", "vm1", "s2", ok=4)
    assert "disk vdc has a snapshot 's2' of another VM or program" in r.stderr
    other.take("s3")
    d.cairn("snapshot-revert", "vm1", "s3")
    other.off()
    assert qemu_names(other.disks[0]) == ["s3"]
    assert qemu_names(two.disks[2]) == ["s1", "s2", "s3"]


def test_missing_part_is_listed(two):
    subprocess.run(["qemu-img", "snapshot", "-d", "s2", two.disks[1]], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "s2", two.disks[1]], check=True)  # the name alone makes it no part
    two.start()
    listed = {n["name"]: n for n in two.daemon.qmp().run("snapshot-list", vm="vm1")["snapshots"]}
    assert listed["s2"]["disks-missing"] == 1 and "disks-missing" not in listed["s1"]
    assert "incomplete" in two.daemon.cairn("snapshot-list", "vm1").stdout
    assert "Disks missing:  1" in two.daemon.cairn("snapshot-info", "vm1", "s2").stdout
    r = two.daemon.cairn("snapshot-revert", "vm1", "s2", ok=3)
    assert "disk vdb has no snapshot 's2': the disk was not in the VM" in r.stderr
    two.daemon.cairn("snapshot-delete", "vm1", "s2")
    two.daemon.cairn("snapshot-revert", "vm1", "s1")
    two.check(1)
    two.off()
    assert qemu_names(two.disks[1]) == ["s1", "s2"]
    two.is_clean()


def test_interrupted_rename_is_harmless(two):
    """A part is identified by its set's id, not its name."""
    two.daemon.cairn("snapshot-rename", "vm1", "s1", "t1")
    for d in two.disks:
        wait_released(d)
        assert qemu_names(d) == ["t1", "s2"]
    two.start()
    two.daemon.cairn("snapshot-revert", "vm1", "t1")
    two.check(1)


# ---- QEMU in between ----

def test_snapshots_survive_writes_by_qemu(two):
    for d in two.disks:
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 64k", "-c", "write -q -P 8 8M 1M", d],
                       check=True)
        subprocess.run(["qemu-img", "snapshot", "-c", "by-qemu", d], check=True)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 1M", d], check=True)
    two.is_clean()
    assert sorted(two.names()) == ["by-qemu", "s1", "s2"]
    assert "s1" in two.daemon.cairn("snapshot-parent", "vm1", "s2").stdout
    two.start()
    for name, seed in (("s1", 1), ("s2", 2), ("s1", 1)):
        two.daemon.cairn("snapshot-revert", "vm1", name)
        two.check(seed)
    two.off()
    two.is_clean()
    subprocess.run(["qemu-img", "snapshot", "-a", "by-qemu", two.disks[0]], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -q -P 9 0 64k", "-c", "read -q -P 8 8M 1M", two.disks[0]],
                   check=True)
    for d in two.disks:
        subprocess.run(["qemu-img", "snapshot", "-d", "s1", d], check=True)
    two.is_clean()
    assert sorted(two.names()) == ["by-qemu", "s2"]
    two.start()
    two.daemon.cairn("snapshot-revert", "vm1", "s2")
    two.check(2)


# ---- full file system ----

def test_full_last_disk_leaves_no_parts(daemon, kvm, guest, tmp_path):
    """The other disks' parts exist by then, and are deleted."""
    small = Small(tmp_path / "small", "8m")
    try:
        vm = Vm(daemon, guest, [tmp_path / "a", tmp_path / "b", small.path / "c"])
        vm.start()
        vm.fill(1)
        vm.each_disk("flush")
        small.fill()
        for args in ((), ("--disk-only",)):
            assert "No space" in vm.daemon.cairn("snapshot-create-as", "vm1", "s1", *args, ok=1).stderr
            assert vm.names() == []
            for d in vm.disks:
                assert qemu_names_of_open(d) == []
        assert daemon.cairn("domstate", "vm1").stdout in ("running\n", "idle\n")
        vm.check(1)
        small.empty()
        vm.take("s1")
        vm.fill(2)
        daemon.cairn("snapshot-revert", "vm1", "s1")
        vm.check(1)
        vm.off()
        vm.is_clean()
    finally:
        daemon.cairn("destroy", "vm1", ok=None)
        small.close()
