"""Snapshots that are incomplete, damaged or truncated, and kills of the VM's process."""

import os
import random
import signal
import subprocess
import time

import pytest

from conftest import until
from snapshotlib import BLOCK, check, find, flip, lazy, qemu_names, vm, wait_released  # noqa: F401 (vm is a fixture)
from statelib import crc32c


def test_incomplete_snapshot_is_rolled_back(vm, tmp_path):
    """A crash between two disks: the second disk has its part, but the first, with the tree, does not."""
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.daemon.cairn("undefine", "vm1")
    vm.define()
    vm.start()
    vm.snapshot("s1")
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", vm.disks[0]], check=True)
    vm.start()
    assert vm.names() == []
    vm.run("write 0 8 5")
    vm.snapshot("s1")
    vm.run("write 0 8 6")
    vm.revert("s1")
    vm.run("verify 0 8 5")
    vm.stop()
    for d in vm.disks:
        check(d)
        assert qemu_names(d) == ["s1"]


def test_failed_snapshot_is_no_base(vm):
    """The previous snapshot is no base either, because the tracker does not report the changes in between again."""
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    vm.snapshot("s1")
    vm.run("fill 0x1000000 0x100000 6")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="slow", rate=1000, job_id="j")
    until(lambda: [j for j in q.jobs() if j["id"] == "j"][0]["current-progress"])  # memory is being written
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    vm.snapshot("s2")
    vm.run("fill 0x1000000 0x100000 7")
    for name, seed in (("s2", 6), ("s1", 5), ("s2", 6)):
        vm.revert(name)
        vm.run(f"check 0x1000000 0x100000 {seed}")
    vm.stop()
    check(vm.disks[0])


def test_damaged_state_is_refused_and_the_vm_untouched(vm):
    vm.start()
    vm.run("wr64 0x900000 0x55")
    vm.snapshot("s1")
    vm.run("wr64 0x900000 0x66")
    flip(vm.disks[0], find(vm.disks[0], b"CAIRNVMS") + 4096 + 40)  # in its first section
    r = vm.revert("s1", ok=None)
    assert r.returncode != 0 and "snapshot 's1'" in r.stderr and "checksum" in r.stderr
    assert vm.run("rd64 0x900000") == ["0x66"]


def test_damage_in_each_region_of_state_is_refused(vm):
    """A revert to a state with one wrong byte outside of memory is refused, and the VM continues unchanged."""
    vm.start()
    vm.run("wr64 0x900000 0x55")
    vm.snapshot("s1")
    vm.run("wr64 0x900000 0x66")
    vm.run("write 0 8 7")
    image = vm.disks[0]
    header = find(image, b"CAIRNVMS")
    sections = int.from_bytes(image.read_bytes()[header + 24:header + 32], "little")
    # 64 MiB: the table has 1,024 checksums of 4 bytes, most of them of 64 KiB of zeros.
    zero = crc32c(bytes(BLOCK)).to_bytes(4, "little")
    table = find(image, zero * 64)
    for at in (0, 7, 8, 12, 16, 24, 32, 40, 48, 56, 72, 2048, 4092,
               4096, 4096 + sections // 3, 4096 + sections - 1):
        flip(image, header + at)
        assert vm.revert("s1", ok=None).returncode != 0, at
        assert vm.run("rd64 0x900000") == ["0x66"]
        flip(image, header + at)
    flip(image, table + 8)
    r = vm.revert("s1", "--verify", ok=None)
    assert r.returncode != 0, r.stdout
    assert vm.run("rd64 0x900000") == ["0x66"]
    flip(image, table + 8)
    vm.run("verify 0 8 7")
    vm.revert("s1", "--verify")
    assert vm.run("rd64 0x900000") == ["0x55"]


def test_snapshot_after_a_damaged_one_names_it_and_succeeds_without_it(vm):
    vm.start()
    vm.snapshot("s1")
    header = find(vm.disks[0], b"CAIRNVMS")
    flip(vm.disks[0], header + 40)
    r = vm.daemon.cairn("snapshot-create-as", "vm1", "s2", ok=False)
    assert "disk vda: memory of snapshot 1: " in r.stderr
    vm.daemon.cairn("snapshot-delete", "vm1", "s1")
    vm.run("wr64 0x900000 0x55")
    vm.snapshot("s2")
    vm.run("wr64 0x900000 0x66")
    vm.revert("s2")
    assert vm.run("rd64 0x900000") == ["0x55"]


@pytest.mark.parametrize("size", [4096, 1 << 20, 1 << 24, 1 << 62])
def test_truncated_state_is_refused(vm, size):
    """The length in the entry does not fit the actual state."""
    vm.start()
    vm.snapshot("s1")
    vm.stop()
    wait_released(vm.disks[0])
    with open(vm.disks[0], "r+b") as f:
        f.seek(64)
        entry = int.from_bytes(f.read(8), "big")
        f.seek(entry + 40)  # after the fixed part: QEMU's 64-bit size
        f.write(size.to_bytes(8, "big"))
    vm.start()
    vm.run("wr64 0x900000 0x66")
    r = vm.revert("s1", ok=None)
    assert r.returncode != 0 and "s1" in r.stderr
    assert vm.run("rd64 0x900000") == ["0x66"]


@lazy
def test_damaged_memory_block_is_detected(vm):
    vm.start()
    for i in range(64):  # a block that the program does not use itself
        vm.run(f"wr64 {0x2000000 + 8 * i:#x} 0x6b6f6f6c426e7261")
    vm.snapshot("s1")
    flip(vm.disks[0], find(vm.disks[0], b"arnBlook" * 8) + 8)
    r = vm.revert("s1", "--verify", ok=None)
    assert r.returncode != 0 and "damaged" in r.stderr
    vm.run("echo untouched")
    vm.revert("s1")  # memory that is unchanged is not read
    assert vm.run("rd64 0x2000000") == ["0x6b6f6f6c426e7261"]
    vm.run("wr64 0x2000000 1")
    vm.revert("s1")
    vm.daemon.wait("vm1", "paused")
    assert "I/O error" in vm.daemon.cairn("domstate", "vm1", "--reason").stdout
    r = vm.daemon.cairn("resume", "vm1", ok=None)
    assert r.returncode != 0 and "memory" in r.stderr
    # A snapshot, a save and a fork of memory with missing blocks fail.
    for args in (["snapshot-create-as", "vm1", "s2"], ["managedsave", "vm1"], ["clone", "--live", "vm1", "copy"]):
        assert "memory" in vm.daemon.cairn(*args, ok=False).stderr
    assert vm.names() == ["s1"]


@pytest.mark.seconds(120)
def test_many_reverts_keep_memory_and_disk_consistent(vm):
    """Memory and disk match after every revert, at any moment."""
    rng = random.Random(1)
    vm.start()
    state, current = {}, None
    for step in range(40):
        action = rng.choice(["change", "snapshot", "revert", "revert"])
        if action == "change" or not state:
            current = rng.randrange(1, 1 << 30)
            vm.run(f"fill {0x1000000 + 0x10000 * rng.randrange(64):#x} 0x20000 {current}")
            vm.run(f"fill 0x1800000 0x30000 {current}")
            vm.run(f"write 0 16 {current}")
            if not state:
                action = "snapshot"
        if action == "snapshot":
            vm.snapshot(f"n{step}")
            state[f"n{step}"] = current
        if action == "revert":
            name = rng.choice(sorted(state))
            vm.revert(name, *rng.choice([(), ("--eager",)]))
            current = state[name]
        vm.run(f"check 0x1800000 0x30000 {current}")
        vm.run(f"verify 0 16 {current}")
    vm.stop()
    check(vm.disks[0])


@pytest.mark.seconds(120)
def test_killed_vm_process_leaves_complete_snapshots(vm):
    """kill -9 of the VM's process: the image has leaks at most, every listed snapshot is complete, and the VM
    starts."""
    rng = random.Random(2)
    vm.start()
    vm.run("fill 0x1000000 0x800000 1")
    vm.run("write 0 16 1")
    vm.snapshot("base")
    for i in range(12):
        vm.run(f"fill 0x1000000 0x800000 {i + 2}")
        verb = ["snapshot-create", "snapshot-delete", "snapshot-revert"][i % 3]
        name = {"snapshot-create": f"k{i}", "snapshot-delete": f"k{i - 1}",
                "snapshot-revert": "base"}[verb]
        if verb == "snapshot-delete" and name not in vm.names():
            verb, name = "snapshot-revert", "base"
        pid = vm.pid()
        vm.daemon.qmp().run(verb, vm="vm1", name=name)  # the job has begun
        time.sleep(rng.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        vm.daemon.wait("vm1", "crashed")
        wait_released(vm.disks[0])
        check(vm.disks[0], leaks_allowed=True)
        assert qemu_names(vm.disks[0])[0] == "base"
        vm.start()
        assert vm.names()[0] == "base"
        vm.revert("base")
        vm.run("check 0x1000000 0x800000 1")
        vm.run("verify 0 16 1")
    vm.stop()


def touched(vm):
    """Return the file of working sets: {time of the state: blocks}."""
    path, = vm.daemon.state.rglob("touched")
    raw = path.read_bytes()
    assert raw[:8] == b"CAIRNWS1"
    assert int.from_bytes(raw[8:12], "little") == crc32c(raw[12:])
    sets, at = {}, 16
    for _ in range(int.from_bytes(raw[12:16], "little")):
        key, n = int.from_bytes(raw[at:at + 8], "little"), int.from_bytes(raw[at + 8:at + 12], "little")
        sets[key] = [int.from_bytes(raw[i:i + 4], "little") for i in range(at + 12, at + 12 + 4 * n, 4)]
        at += 12 + 4 * n
    assert at == len(raw)
    return sets


@lazy
@pytest.mark.parametrize("damage", [False, True])
def test_working_set_is_kept_for_next_process(vm, damage):
    """The file passes the working set from one process to the next; a malformed file does no harm."""
    far = [0x18000000 - i * 0x310000 for i in range(8)]  # where the background load comes last
    vm.define(memory="512M")
    vm.start()
    vm.run("fill 0x1000000 0x17800000 5")
    words = [vm.run(f"rd64 {at:#x}") for at in far]
    vm.snapshot("s1")
    vm.stop()
    before = set()
    for round in range(3):
        wait_released(vm.disks[0])
        if round == 2 and damage:
            path, = vm.daemon.state.rglob("touched")
            path.write_bytes(b"CAIRNWS1" + bytes(range(256)) * 300)
            before = set()
        vm.start()
        vm.revert("s1")
        assert [vm.run(f"rd64 {at:#x}") for at in far] == words
        vm.stop()
        wait_released(vm.disks[0])
        blocks, = touched(vm).values()
        assert len(set(blocks)) == len(blocks) and max(blocks) < 512 * 16
        assert set(blocks) >= before | {far[0] // BLOCK}
        before = set(blocks)
