"""A live clone gets a new process (cairn restart-process) while it shares its memory: its content, its snapshots and
clones afterwards, and what its source and the other clones see of it. (test_handover.py kills the processes.)"""

import json
import os
import re
import stat

import pytest

from clonelib import Clock, own_kib
from conftest import BUILD, Daemon, until
from test_clone_snapshot import GAP_FILL, PIECE, copying_ms, end, generations, snapshot
from forklib import AT, FILL, MIB, check, disk_holds, disk_write, image, vm  # noqa: F401 (vm is a fixture)
from forkpinlib import snapshots

OWN = 32 * 65536  # blocks that the program and the devices use, and a part of a piece
DEPTH = 3
TRIES = 20
PIECES = 40 * MIB  # more than the old process copies at a time
LEFT = 4 * MIB  # at most so much is copied in the pause, unless the guest writes a lot


@pytest.fixture(params=["faults", "log"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.delenv("CAIRN_USERFAULTFD", raising=False)
    if request.param == "log":
        monkeypatch.setenv("CAIRN_USERFAULTFD", "refuse")


@pytest.fixture
def daemon(tmp_path):
    """A daemon whose VMs find no successor while the file `refuse` exists."""
    program = tmp_path / "refusing-vm"
    program.write_text(f"#!/bin/sh\n[ $1 = --take-over ] && [ -e {tmp_path}/refuse ] && exit 1\n"
                       f"exec {os.path.join(BUILD, 'cairn-vm')} \"$@\"\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    d = Daemon(tmp_path, vm_program=str(program))
    yield d
    d.close()


def restart(daemon, name):
    r = json.loads(daemon.cairn("restart-process", name, "--format", "json").stdout)[0]
    assert r["way"] == "handover", r
    return r


def copied_in_pause(daemon, name):
    """Return the bytes that the latest handover copied in the pause."""
    log = daemon.log_of(name)
    return int(re.findall(r"copied for its new process, (\d+) KiB of them in the pause", log)[-1]) * 1024


@pytest.mark.parametrize("own", [MIB, PIECES])
def test_clone_has_its_own_and_its_shared_memory(vm, daemon, tmp_path, own):  # noqa: F811
    fill = PIECES + 8 * MIB
    vm.start(memory="128M", vcpus=2, disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} {fill} 1")
    disk_write(vm, "src", 0, 0, 1)
    vm.clone("c", "--count", "2")
    vm.run("c-1", f"fill {AT + 4096} {own} 2")
    vm.run("c-1", f"fill {AT + fill} 4096 3")  # a hole of what it shares
    for i in range(3):
        restart(daemon, "c-1")
        vm.holds("c-1", AT, 4096, 1)
        vm.holds("c-1", AT + 4096, own, 2)
        vm.holds("c-1", AT + 4096 + own, fill - own - 4096, 1)
        vm.holds("c-1", AT + fill, 4096, 3)
        disk_holds(vm, "c-1", 0, 0, 1)
        assert own_kib(daemon, "c-1") * 1024 < own + MIB
        assert copied_in_pause(daemon, "c-1") <= LEFT
    vm.run("c-1", f"fill {AT} {fill} 9")
    vm.run("src", f"fill {AT} {MIB} 8")
    vm.holds("c-2", AT, fill, 1)
    vm.holds("src", AT + MIB, fill - MIB, 1)
    for name in ("src", "c-2"):
        restart(daemon, name)
    vm.holds("c-1", AT, fill, 9)
    vm.holds("c-2", AT, fill, 1)
    vm.holds("src", AT, MIB, 8)
    vm.run("c-1", "smp start 1")
    daemon.cairn("reset", "c-1")
    while not vm.consoles["c-1"].line().endswith("interp"):
        pass
    disk_holds(vm, "c-1", 0, 0, 1)


def test_paused_clone_stays_paused(vm, daemon, tmp_path):  # noqa: F811
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    vm.clone("c")
    vm.run("c", f"fill {AT} 4096 2")
    daemon.cairn("suspend", "c")
    for _ in range(2):
        assert "pause" not in restart(daemon, "c")
        assert copied_in_pause(daemon, "c") == 0
    daemon.cairn("resume", "c")
    vm.holds("c", AT, 4096, 2)
    vm.holds("c", AT + 4096, FILL - 4096, 1)


@pytest.mark.parametrize("sources", ["live", "die"])
def test_each_generation_has_snapshots_and_its_own_content(vm, daemon, tmp_path, sources):  # noqa: F811
    for depth, g in generations(vm, daemon, tmp_path, sources, DEPTH):
        g.write(depth, 10 * depth)
        restart(daemon, g.name)
        g.holds()
        snapshot(daemon, g.name, "s1")
        was = g.content()
        g.write(depth + 1, 10 * depth + 1)
        restart(daemon, g.name)
        g.write(depth + 2, 10 * depth + 2)
        restart(daemon, g.name)
        second, then = snapshot(daemon, g.name, "s2"), g.content()
        assert 2 * PIECE <= second["ram-bytes-written"] <= 2 * PIECE + OWN
        g.write(0, 10 * depth + 3)
        third = snapshot(daemon, g.name, "s3")
        assert PIECE <= third["ram-bytes-written"] <= PIECE + OWN
        now = g.content()
        if depth % 2:  # the next generation comes from a clone that was reverted, or from one that was not
            for name, content in (("s1", was), ("s2", then), ("s3", now)):
                daemon.cairn("snapshot-revert", g.name, name)
                g.holds(content)
            restart(daemon, g.name)
        g.holds()


def test_memory_is_written_during_handovers(vm, daemon, tmp_path):  # noqa: F811
    """Each write of the two busy vCPUs counts in a sum, so that a page that the new process lacks shows up."""
    vm.start(vcpus=3, disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", "storm start 2 0x2000000 0x400000")
    vm.clone("c")
    for n in range(3):
        restart(daemon, "c")
        vm.run("c", "storm check")
    for n in range(2):
        snapshot(daemon, "c", f"s{n}")
        restart(daemon, "c")
        vm.run("c", "storm check")
    daemon.cairn("clone", "--live", "c", "d")
    restart(daemon, "d")
    for name in ("d", "c", "src"):
        vm.run(name, "storm check")
    for n in range(2):
        daemon.cairn("snapshot-revert", "c", f"s{n}")
        vm.run("c", "storm check")


def test_source_of_live_clones_is_handed_over(vm, daemon, tmp_path):  # noqa: F811
    """Its clones read the pin in its image, and the new process deletes the pin after them."""
    disk = tmp_path / "a.qcow2"
    vm.start(disks=[image(disk)])
    disk_write(vm, "src", 0, 0, 1)
    vm.clone("c", "--count", "2")
    disk_write(vm, "src", 0, 0, 2)
    restart(daemon, "src")
    disk_write(vm, "src", 0, 256, 3)
    vm.clone("d")
    assert len(snapshots(disk)) == 2
    restart(daemon, "c-1")
    for name, seed in (("c-1", 1), ("c-2", 1), ("d", 2), ("src", 2)):
        disk_holds(vm, name, 0, 0, seed)
        vm.holds(name, AT, FILL, 1)
    for name in ("c-2", "c-1", "d"):
        end(vm, daemon, name)
        daemon.cairn("undefine", name, "--remove-all-storage")
    until(lambda: not snapshots(disk))
    disk_holds(vm, "src", 0, 0, 2)
    disk_holds(vm, "src", 0, 256, 3)
    end(vm, daemon, "src")
    check(disk)


def test_failed_handover_leaves_clone_as_it_was(vm, daemon, tmp_path):  # noqa: F811
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    vm.clone("c")

    def fails():
        (tmp_path / "refuse").touch()
        r = daemon.cairn("restart-process", "c", ok=False)
        assert "the new process ended before it took the VM over" in r.stderr
        (tmp_path / "refuse").unlink()

    fails()
    vm.run("c", f"fill {AT} {MIB} 2")
    fails()
    assert own_kib(daemon, "c") < 2 * MIB // 1024
    snapshot(daemon, "c", "s1")
    vm.run("c", f"fill {AT + MIB} {PIECE} 3")
    fails()
    vm.run("c", f"fill {AT + MIB + PIECE} {PIECE} 4")
    r = snapshot(daemon, "c", "s2")
    assert 2 * PIECE <= r["ram-bytes-written"] <= 2 * PIECE + OWN
    restart(daemon, "c")
    fails()
    vm.run("c", f"fill {AT + MIB + 2 * PIECE} {PIECE} 5")
    r = snapshot(daemon, "c", "s3")
    assert PIECE <= r["ram-bytes-written"] <= PIECE + OWN
    for name, pieces in (("s1", [2, 1, 1, 1]), ("s2", [2, 3, 4, 1]), ("s3", [2, 3, 4, 5])):
        daemon.cairn("snapshot-revert", "c", name)
        for i, seed in enumerate(pieces):
            vm.holds("c", AT + i * PIECE, PIECE, seed)


@pytest.mark.seconds(240)  # it tries until the host lets it measure: 60 s at a load of 15
@pytest.mark.parametrize("own", [0, 64 * MIB])
def test_clone_stands_still_only_for_the_reported_pause(vm, daemon, tmp_path, own):  # noqa: F811
    """The pause is about that of a VM that shares nothing: a copy of the memory would take much longer."""
    vm.start(memory="512M", vcpus=2, disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} {GAP_FILL} 1")
    vm.run("src", "gap start")
    clock, seen = Clock(vm, daemon, "src"), []
    for i in range(TRIES):
        slack, name = copying_ms() / 3, f"t{i}"
        ordinary = restart(daemon, "src")["pause"] / 1e6
        vm.clone(name)
        if own:
            vm.run(name, f"fill {AT} {own} 2")
        clock.move(name)
        clock.show()
        reported = restart(daemon, name)["pause"] / 1e6
        stood = clock.show()[0] / clock.per_ms
        seen.append([round(ms, 2) for ms in (stood, reported, ordinary, slack)])
        if stood <= reported + slack and reported <= ordinary + slack:
            return
        end(vm, daemon, name)
    raise AssertionError(f"stood still, reported, a VM that shares nothing, slack: {seen} ms")
