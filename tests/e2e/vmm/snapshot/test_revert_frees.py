"""After a revert the guest runs, and the command has ended, while the clusters of the disk's old content are freed.
The disk is on a file system whose syncs hang then."""

import json
import os
import signal
import subprocess

import pytest

from conftest import Console, until
from fuselib import Op, fuse
from guestlib import CAIRN
from test_disk_errors import IMG, Vm

SYNCS = 3  # of a revert until the image has the snapshot's content: the dirty bit, the tables, the header


@pytest.fixture
def reverted(daemon, kvm, guest, tmp_path):
    """A VM that has just been reverted, and its file system, where all further syncs hang."""
    empty = tmp_path / "empty"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "16M"], check=True)
    with fuse(tmp_path / "fuse", vda=empty.read_bytes()) as f:
        vm = Vm(daemon, guest, f["vda"])
        vm.run("write 0 8 7")
        daemon.cairn("snapshot-create-as", "vm1", "s1")
        vm.run("write 0 8 9")
        vm.run("flush")
        f.hang(Op.FSYNC, after=SYNCS)
        daemon.cairn("snapshot-revert", "vm1", "s1")
        until(lambda: Op.FSYNC in f.hanging())
        vm.console.close()
        vm.console = Console(daemon, "vm1")
        yield vm, f
        f.release()


def check(vm):
    """Stop the VM; its image has no errors and no leaks."""
    if vm.daemon.info("vm1")["state"] == "running":
        vm.off()
    r = subprocess.run([IMG, "check", "--output", "json", vm.path], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "leaks" not in json.loads(r.stdout)


def test_guest_runs_meanwhile(reverted):
    vm, f = reverted
    vm.run("verify 0 8 7")
    assert Op.FSYNC in f.hanging()
    f.release()
    vm.run("write 8 8 5")
    vm.run("verify 0 8 7")
    check(vm)


@pytest.mark.parametrize("command", [
    ["snapshot-create-as", "vm1", "s2"], ["snapshot-revert", "vm1", "s1"], ["snapshot-delete", "vm1", "s1"],
    ["snapshot-info", "vm1", "s1"], ["blockresize", "vm1", "vda", "32M"], ["restart-process", "vm1"],
    ["clone", "vm1", "vm2", "--live"], ["managedsave", "vm1"]])
def test_next_operation_waits_and_succeeds(reverted, command):
    vm, f = reverted
    with subprocess.Popen([CAIRN, *command], env=vm.daemon.env) as p:
        with pytest.raises(subprocess.TimeoutExpired):
            p.wait(1)
        f.release()
        assert p.wait() == 0
    check(vm)


def test_failed_sync_is_an_error_of_the_disk(reverted):
    """The revert has succeeded, so the VM does not end; it pauses as after any error of a disk."""
    vm, f = reverted
    f.fail()
    vm.daemon.wait("vm1", "paused")
    assert "next start frees the space" in vm.daemon.log_of("vm1")
    vm.off()
    vm.start()
    vm.run("verify 0 8 7")
    check(vm)


def test_killed_process_leaves_the_snapshots_content(reverted):
    vm, f = reverted
    os.kill(vm.daemon.children()[0], signal.SIGKILL)
    f.release()
    vm.daemon.wait("vm1", "crashed")
    vm.start()
    vm.run("verify 0 8 7")
    check(vm)
