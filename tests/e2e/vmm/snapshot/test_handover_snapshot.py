"""The first snapshot after a handover (cairn restart-process) writes only what the guest wrote since the last one, in
whichever process it wrote."""

import json

import pytest

import guestlib
from conftest import until
from snapshotlib import BLOCK, check, vm  # noqa: F401 (vm is a fixture)

WAYS = {"faults": "userfaultfd", "log": "dirty-log"}
PIECE = 0x40000
# Several pieces, and the blocks that the program and the devices use.
OWN = 24 * BLOCK


@pytest.fixture(params=["faults", "log"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.delenv("CAIRN_USERFAULTFD", raising=False)
    if request.param == "log":
        monkeypatch.setenv("CAIRN_USERFAULTFD", "refuse")
    elif not guestlib.has_userfaultfd():
        pytest.skip("VMs of this user get no userfaultfd")
    return WAYS[request.param]


def restart(vm):  # noqa: F811
    r = json.loads(vm.daemon.cairn("restart-process", "vm1", "--format", "json").stdout)[0]
    assert r["way"] == "handover", r


def filled(vm, **keys):  # noqa: F811
    vm.daemon.cairn("undefine", "vm1")
    vm.define(**keys)
    vm.start()
    vm.run("fill 0x1000000 0x2000000 5")


def test_snapshot_writes_what_both_processes_dirtied(vm, way):  # noqa: F811
    filled(vm)
    assert vm.snapshot("s1")["ram-bytes-written"] >= 0x2000000
    vm.run(f"fill 0x1000000 {PIECE:#x} 6")
    restart(vm)
    vm.run(f"fill 0x1400000 {PIECE:#x} 7")
    restart(vm)
    vm.run(f"fill 0x1800000 {PIECE:#x} 8")
    s2 = vm.snapshot("s2")
    assert s2["memory-tracking"] == way
    assert 3 * PIECE <= s2["ram-bytes-written"] <= 3 * PIECE + OWN
    assert s2["ram-bytes-shared"] >= 0x2000000 - 3 * PIECE
    vm.run(f"fill 0x1c00000 {PIECE:#x} 9")
    s3 = vm.snapshot("s3")
    assert PIECE <= s3["ram-bytes-written"] <= PIECE + OWN
    vm.run("fill 0x1000000 0x2000000 10")
    vm.revert("s2")
    for at, seed in (0x1000000, 6), (0x1400000, 7), (0x1800000, 8):
        vm.run(f"check {at:#x} {PIECE:#x} {seed}")
    vm.revert("s1")
    vm.run("check 0x1000000 0x2000000 5")
    vm.stop()
    check(vm.disks[0])


@pytest.mark.parametrize("way", ["faults"], indirect=True)  # KVM's dirty log has pages that the guest reads, too
def test_memory_that_is_read_is_not_written(vm, way):  # noqa: F811
    filled(vm)
    vm.snapshot("s1")
    restart(vm)
    until(lambda: "userfaultfd tracks memory again" in (vm.daemon.state / "vms" / "vm1" / "log").read_text())
    vm.run("check 0x1000000 0x2000000 5")
    vm.run(f"fill 0x1400000 {PIECE:#x} 7")
    assert PIECE <= vm.snapshot("s2")["ram-bytes-written"] <= PIECE + OWN
    vm.run("fill 0x1000000 0x2000000 10")
    vm.revert("s2")
    vm.run("check 0x1000000 0x400000 5")
    vm.run(f"check 0x1400000 {PIECE:#x} 7")


def test_memory_is_written_during_handovers(vm):  # noqa: F811
    """Each write of the two busy processors counts in a sum, so that a page that a snapshot lacks shows up."""
    filled(vm, vcpus=3)
    vm.run("storm start 2 0x3000000 0x200000")
    vm.snapshot("s0")
    for n in range(1, 5):
        restart(vm)
        r = vm.snapshot(f"s{n}")
        assert r["ram-bytes-shared"] >= 0x2000000 and r["ram-bytes-written"] <= 2 * 0x200000 * 8
        vm.run("storm check")
    for n in range(4, -1, -1):
        vm.revert(f"s{n}")
        vm.run("storm check")
        vm.run("check 0x1000000 0x2000000 5")
    vm.stop()
    check(vm.disks[0])


def test_revert_after_handover(vm, tmp_path):  # noqa: F811
    """A dump begins to track memory by userfaultfd: what was written before is known from the handover only."""
    filled(vm)
    vm.snapshot("s1")
    vm.run(f"fill 0x1000000 {PIECE:#x} 6")
    restart(vm)
    vm.run(f"fill 0x1400000 {PIECE:#x} 7")
    vm.daemon.cairn("dump", "vm1", tmp_path / "core")
    vm.run(f"fill 0x1800000 {PIECE:#x} 8")
    vm.revert("s1")
    vm.run(f"fill 0x1400000 {PIECE:#x} 9")
    r = vm.snapshot("s2")
    assert PIECE <= r["ram-bytes-written"] <= PIECE + OWN
    vm.run("fill 0x1000000 0x2000000 10")
    vm.revert("s2")
    vm.run(f"check 0x1400000 {PIECE:#x} 9")
    vm.run("check 0x1000000 0x400000 5")
    vm.run("check 0x1800000 0x1000000 5")
    vm.stop()
    check(vm.disks[0])


def test_base_is_deleted_after_handover(vm):  # noqa: F811
    filled(vm)
    vm.snapshot("s1")
    restart(vm)
    vm.daemon.cairn("snapshot-delete", "vm1", "s1")
    r = vm.snapshot("s2")
    assert r["ram-bytes-shared"] == 0 and r["ram-bytes-written"] >= 0x2000000


def test_reset_after_handover(vm):  # noqa: F811
    """The memory after a reset has nothing of the snapshot's."""
    filled(vm)
    vm.snapshot("s1")
    restart(vm)
    vm.daemon.cairn("reset", "vm1")
    while vm.console.line() != "interp":
        pass
    vm.run(f"fill 0x1400000 {PIECE:#x} 9")
    assert vm.snapshot("s2")["ram-bytes-shared"] == 0
    vm.run("fill 0x1000000 0x2000000 10")
    vm.revert("s2")
    vm.run(f"check 0x1400000 {PIECE:#x} 9")
