"""While a pin is deleted in the background, no command of a user fails: those that need the disk's snapshots wait.
The disk is on a file system whose syncs hang then."""

import subprocess

import pytest

from conftest import until
from fuselib import Op, fuse
from guestlib import CAIRN
from test_disk_errors import Vm
from test_revert_frees import check


@pytest.fixture
def deleting(daemon, kvm, guest, tmp_path, request):
    """A VM that deletes the pin of a clone which is gone, and its file system, where all syncs hang. The VM has the
    snapshot s1, but none with the parameter "plain"."""
    empty = tmp_path / "empty"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "16M"], check=True)
    with fuse(tmp_path / "fuse", vda=empty.read_bytes()) as f:
        vm = Vm(daemon, guest, f["vda"])
        vm.run("write 0 8 7")
        if getattr(request, "param", "") != "plain":
            daemon.cairn("snapshot-create-as", "vm1", "s1")
        daemon.cairn("clone", "--live", "vm1", "vm2")
        daemon.cairn("destroy", "vm2")
        f.hang(Op.FSYNC, after=1)  # of the undefine
        daemon.cairn("undefine", "vm2", "--remove-all-storage")
        until(lambda: Op.FSYNC in f.hanging())
        yield vm, f
        f.release()


def waits_and_succeeds(vm, f, command):
    with subprocess.Popen([CAIRN, *command], env=vm.daemon.env) as p:
        with pytest.raises(subprocess.TimeoutExpired):
            p.wait(1)
        f.release()
        assert p.wait() == 0
    check(vm)


@pytest.mark.parametrize("command", [
    ["snapshot-tag", "vm1", "s1", "keep"], ["snapshot-info", "vm1", "s1"], ["snapshot-create-as", "vm1", "s2"],
    ["snapshot-delete", "vm1", "s1"], ["snapshot-revert", "vm1", "s1"], ["clone", "--live", "vm1", "vm3"],
    ["blockresize", "vm1", "vda", "32M"], ["restart-process", "vm1"], ["managedsave", "vm1"]])
def test_command_waits_and_succeeds(deleting, command):
    waits_and_succeeds(*deleting, command)


@pytest.mark.parametrize("command", [
    ["blockcopy", "vm1", "vda", "--dest", "{}/copy", "--pivot", "--wait"],
    ["snapshot-create-as", "vm1", "s2", "--disk-only", "--diskspec", "vda,snapshot=external,file={}/over"]])
@pytest.mark.parametrize("deleting", ["plain"], indirect=True)
def test_change_of_the_image_waits_and_succeeds(deleting, tmp_path, command):
    waits_and_succeeds(*deleting, [c.format(tmp_path) for c in command])


@pytest.mark.parametrize("command", [["snapshot-list", "vm1"], ["suspend", "vm1"], ["domblkinfo", "vm1", "vda"]])
def test_command_without_need_of_the_snapshots_does_not_wait(deleting, command):
    """Also while another command waits."""
    vm, f = deleting
    with subprocess.Popen([CAIRN, "snapshot-tag", "vm1", "s1", "keep"], env=vm.daemon.env) as p:
        vm.daemon.cairn(*command)
        assert p.poll() is None and Op.FSYNC in f.hanging()
        f.release()
        assert p.wait() == 0
