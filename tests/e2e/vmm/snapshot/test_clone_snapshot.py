"""Snapshots, saves, dumps and forks of clones: their memory is a private view of their source's, at any depth, and
stays one. Each VM has its own content, and stands still only for as long as a job reports."""

import json
import mmap
import os
import signal
import time

import pytest

from clonelib import Clock, own_kib
from conftest import Qmp, open_fds
from forklib import AT, FILL, MIB, check, disk_holds, disk_write, image, vm  # noqa: F401 (vm is a fixture)

DEPTH = 4
PIECE = MIB  # each generation writes one of its own


def snapshot(daemon, name, snap):
    return json.loads(daemon.cairn("snapshot-create-as", name, snap, "--format", "json").stdout)


def end(vm, daemon, name):
    vm.consoles.pop(name).close()
    daemon.cairn("destroy", name)


class Generation:
    """A clone with its expected content: a seed for each piece of memory, and one for the disk."""

    def __init__(self, vm, name, pieces, disk):
        self.vm, self.name, self.pieces, self.disk = vm, name, list(pieces), disk

    def write(self, piece, seed):
        self.vm.run(self.name, f"fill {AT + piece * PIECE} {PIECE} {seed}")
        self.pieces[piece] = seed
        disk_write(self.vm, self.name, 0, 0, seed)
        self.disk = seed

    def content(self):
        return list(self.pieces), self.disk

    def holds(self, content=None):
        pieces, disk = content or self.content()
        for i, seed in enumerate(pieces):
            self.vm.holds(self.name, AT + i * PIECE, PIECE, seed)
        disk_holds(self.vm, self.name, 0, 0, disk)
        self.pieces, self.disk = list(pieces), disk


def generation(vm, daemon, parent, name):
    daemon.cairn("clone", "--live", parent.name, name)
    return Generation(vm, name, parent.pieces, parent.disk)


def generations(vm, daemon, tmp_path, sources, count):
    """Make a line of `count` live clones, each of the one before, which then ends if sources is "die". Yields each with
    its depth. Afterwards, those that still run have their content, and all images are whole."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    disk_write(vm, "src", 0, 0, 1)
    line = [Generation(vm, "src", [1] * (FILL // PIECE) + [1], 1)]
    line[0].write(FILL // PIECE, 1)  # behind the filled part, where clones have holes at first
    for depth in range(1, count + 1):
        g = generation(vm, daemon, line[-1], f"c{depth}")
        if sources == "die":
            end(vm, daemon, line[-1].name)
            line.pop()
        yield depth, g
        line.append(g)
    for g in line:
        g.holds()
        daemon.cairn("destroy", g.name)
    check(*tmp_path.glob("*.qcow2"))


@pytest.mark.parametrize("sources", ["live", "die"])
def test_each_generation_has_snapshots_and_its_own_content(vm, daemon, tmp_path, sources):
    for depth, g in generations(vm, daemon, tmp_path, sources, DEPTH):
        g.holds()
        g.write(depth, 10 * depth)
        first, was = snapshot(daemon, g.name, "s1"), g.content()
        g.write(depth + 1, 10 * depth + 1)
        second, then = snapshot(daemon, g.name, "s2"), g.content()
        assert first["ram-bytes-written"] >= FILL
        assert PIECE <= second["ram-bytes-written"] <= 2 * PIECE
        g.write(0, 10 * depth + 2)
        if depth % 2:  # the next generation comes from a clone that was reverted, or from one that was not
            daemon.cairn("snapshot-revert", g.name, "s1")
            g.holds(was)
            daemon.cairn("snapshot-revert", g.name, "s2")
            g.holds(then)
        g.holds()


def test_last_generation_is_saved_restored_and_reverted(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    disk_write(vm, "src", 0, 0, 1)
    g = Generation(vm, "src", [1] * (FILL // PIECE), 1)
    for depth in range(1, DEPTH + 1):
        g = generation(vm, daemon, g, f"c{depth}")
        g.write(depth, 10 * depth)
    snapshot(daemon, g.name, "s1")
    was = g.content()
    g.write(0, 99)
    own = own_kib(daemon, g.name)
    vm.consoles.pop(g.name).close()
    daemon.cairn("save", g.name, str(tmp_path / "saved"))
    daemon.cairn("restore", str(tmp_path / "saved"))
    g.holds()
    assert own < 4 * PIECE // 1024
    daemon.cairn("snapshot-revert", g.name, "s1")
    g.holds(was)
    daemon.cairn("reset", g.name)
    while not vm.consoles[g.name].line().endswith("interp"):  # a revert would cut its output
        pass
    daemon.cairn("snapshot-revert", g.name, "s1")
    g.holds(was)


def test_paused_clone_is_saved_and_dumped(vm, daemon, tmp_path):
    """In one case a snapshot has started the tracking of memory, in the other none has."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    for name, tracked in (("a", False), ("b", True)):
        vm.clone(name)
        if tracked:
            snapshot(daemon, name, "s1")
        vm.run(name, f"fill {AT + 4096} 4096 7")
        vm.run(name, f"fill {AT + FILL} 4096 8")
        daemon.cairn("dump", name, str(tmp_path / f"{name}.live"), "--live", "--memory-only", "--format", "elf")
        daemon.cairn("suspend", name)
        daemon.cairn("dump", name, str(tmp_path / f"{name}.core"), "--memory-only", "--format", "elf")
        with open(tmp_path / f"{name}.core", "rb") as core, open(tmp_path / f"{name}.live", "rb") as live:
            core.seek(0x1000 + AT)  # RAM begins in the second page of the file
            live.seek(0x1000 + AT)
            assert core.read(2 * FILL) == live.read(2 * FILL)
        assert own_kib(daemon, name) < 1024
        vm.consoles.pop(name).close()
        daemon.cairn("save", name, str(tmp_path / f"{name}.save"))
        daemon.cairn("restore", str(tmp_path / f"{name}.save"), "--running")
        vm.holds(name, AT, 4096, 1)
        vm.holds(name, AT + 4096, 4096, 7)
        vm.holds(name, AT + 8192, FILL - 8192, 1)
        vm.holds(name, AT + FILL, 4096, 8)


def test_snapshots_of_clone_are_of_one_instant(vm, daemon, tmp_path):
    """Two vCPUs write all the time and keep count of their writes, in pages that the clone shares at first."""
    vm.start(vcpus=3, disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", "storm start 2 0x2000000 0x400000")
    for depth, source in enumerate(("src", "c0")):
        name = f"c{depth}"
        daemon.cairn("clone", "--live", source, name)
        vm.attach(name)
        end(vm, daemon, source) if source in vm.consoles else daemon.cairn("destroy", source)
        for i in range(3):
            snapshot(daemon, name, f"s{i}")
            vm.run(name, "storm check")
        for i in (0, 2, 1):
            daemon.cairn("snapshot-revert", name, f"s{i}")
            vm.run(name, "storm check")


def test_snapshots_and_forks_leave_clone_small(vm, daemon, tmp_path):
    vm.start(memory="256M", disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} {64 * MIB} 1")
    vm.clone("a")
    before = own_kib(daemon, "a")
    assert before < 512
    snapshot(daemon, "a", "s1")
    vm.run("a", f"fill {AT} {MIB} 2")
    vm.run("a", f"fill {AT + 128 * MIB} {MIB} 3")  # a hole of what it shares
    snapshot(daemon, "a", "s2")
    daemon.cairn("clone", "--live", "a", "b")
    daemon.cairn("dump", "a", str(tmp_path / "core"), "--live", "--memory-only", "--format", "elf")
    vm.holds("a", AT, MIB, 2)
    assert own_kib(daemon, "a") < before + 3 * 1024
    assert own_kib(daemon, "b") < 512
    # Holes of the shared file are still holes, after the clone's memory was read three times.
    pid = daemon.info("a")["pid"]
    shared, = {os.stat(f"/proc/{pid}/fd/{fd}").st_blocks * 512 for fd, target in open_fds(pid).items() if "memfd:cairn-fork" in target}
    assert shared < 72 * MIB


def test_clone_killed_during_its_snapshot_harms_nobody(vm, daemon, tmp_path):
    vm.start(memory="256M", disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} {64 * MIB} 1")
    disk_write(vm, "src", 0, 0, 1)
    vm.clone("a", "--count", "4")
    q = Qmp(daemon.socket)
    for i in range(1, 4):
        name = f"a-{i}"
        vm.run(name, f"fill {AT} {MIB} {i + 1}")
        q.run("snapshot-create", vm=name, name="s1")
        time.sleep(0.02 * i)
        os.kill(daemon.info(name)["pid"], signal.SIGKILL)
        daemon.wait(name, "crashed")
        vm.consoles.pop(name).close()
    q.close()
    vm.holds("a-4", AT, 64 * MIB, 1)
    snapshot(daemon, "a-4", "s1")
    vm.run("a-4", f"fill {AT} {MIB} 9")
    daemon.cairn("snapshot-revert", "a-4", "s1")
    vm.holds("a-4", AT, 64 * MIB, 1)
    vm.holds("src", AT, 64 * MIB, 1)
    for i in range(1, 4):
        disk = tmp_path / f"a-{i}-vda.qcow2"
        daemon.cairn("start", f"a-{i}")  # recovers what the snapshot left behind
        vm.attach(f"a-{i}")
        while vm.consoles[f"a-{i}"].line() != "interp":
            pass
        disk_holds(vm, f"a-{i}", 0, 0, 1)
        daemon.cairn("destroy", f"a-{i}")
        check(disk)


# ---- the guest's own clock ----

GAP_FILL = 384 * MIB
TRIES = 12


def copying_ms():
    """Return for how long a copy of GAP_FILL takes here and now: on a busy host all that is measured takes longer."""
    block, began = b"x" * MIB, time.monotonic()
    with mmap.mmap(-1, GAP_FILL) as copy:
        while copy.tell() < GAP_FILL:
            copy.write(block)
    return (time.monotonic() - began) * 1e3


@pytest.mark.seconds(180)  # it tries until the host lets it measure
@pytest.mark.parametrize("depth", [0, 1, DEPTH])
@pytest.mark.parametrize("job", ["snapshot", "fork"])
def test_guest_stands_still_only_for_the_reported_pause(vm, daemon, tmp_path, job, depth):
    """Depth 0: a VM that is no clone."""
    vm.start(memory="512M", vcpus=2, disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} {GAP_FILL} 1")
    vm.run("src", "gap start")
    clock, source, seen = Clock(vm, daemon, "src"), "src", []
    for i in range(1, depth):
        daemon.cairn("clone", "--live", source, f"c{i}")
        daemon.cairn("destroy", source)
        source = f"c{i}"
    if depth:
        daemon.cairn("suspend", source)
    for i in range(TRIES):  # each with a fresh clone: what matters is its first job
        slack = copying_ms() / 3
        name = f"t{i}" if depth else source
        if depth:
            daemon.cairn("clone", "--live", source, name, "--paused")
            daemon.cairn("resume", name)
            clock.move(name)
        stood, waited, slept, reported = clock.measure({
            "snapshot": lambda: snapshot(daemon, name, f"s{i}"),
            "fork": lambda: json.loads(daemon.cairn("clone", "--live", name, f"{name}-c{i}", "--paused", "--format",
                                                    "json").stdout)}[job])
        seen.append([round(ms, 2) for ms in (stood, waited, slept, reported, slack)])
        if stood <= reported + waited + slack and slept <= reported + slack and reported <= slack:
            return
        if depth:
            end(vm, daemon, name)
    raise AssertionError(f"stood still, waited for a processor, slept, reported, slack: {seen} ms")
