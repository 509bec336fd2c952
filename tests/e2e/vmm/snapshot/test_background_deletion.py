"""While a pin is deleted or the size of a snapshot is computed in the background, no command of a user fails: those
that need the disks wait. The disk is on a file system whose syncs or reads hang then."""

import json
import signal
import subprocess

import pytest

from conftest import open_files, until
from fuselib import Op, fuse
from guestlib import CAIRN
from test_disk_errors import Vm
from test_revert_frees import check


def qcow2(path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"], check=True)
    return path


def add_drives(vm, tmp_path):
    vm.off()
    for target, kind in (("sda", "cdrom"), ("sdb", "disk")):
        vm.daemon.cairn("attach-disk", "vm1", qcow2(tmp_path / target), target, "--targetbus", "scsi", "--subdriver", "qcow2",
                        "--type", kind, "--config")
    vm.start()


@pytest.fixture
def deleting(daemon, kvm, guest, tmp_path, request):
    """A VM that deletes the pin of a clone which is gone, and its file system, where all syncs hang. The VM has the
    snapshot s1, but none with the parameter "plain". With "drives", it has a CD drive sda and a disk sdb, too."""
    empty = qcow2(tmp_path / "empty")
    with fuse(tmp_path / "fuse", vda=empty.read_bytes()) as f:
        vm = Vm(daemon, guest, f["vda"])
        if getattr(request, "param", "") == "drives":
            add_drives(vm, tmp_path)
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


def test_user_is_told_that_a_late_change_may_still_come(deleting):
    """The change comes when the file system answers, and the snapshot can be used as before."""
    vm, f = deleting
    said = vm.daemon.cairn("snapshot-tag", "vm1", "s1", "late", ok=False).stderr
    assert "did not answer in time; it may still do what was requested, so look before you repeat it" in said
    f.release()
    until(lambda: "Tags:           late\n" in vm.daemon.cairn("snapshot-info", "vm1", "s1").stdout)
    vm.daemon.cairn("snapshot-revert", "vm1", "s1")
    check(vm)


ATTACH = ["attach-disk", "vm1", "{}/sdc", "sdc", "--targetbus", "scsi", "--subdriver", "qcow2"]


def drives(vm):
    return [d["id"] for d in json.loads(vm.daemon.cairn("domblklist", "vm1", "--format", "json").stdout)]


def attach_begin(vm, tmp_path):
    """Begin to attach sdc, and return the command when the VM's process has the image."""
    path = str(qcow2(tmp_path / "sdc"))
    command = subprocess.Popen([CAIRN, *[c.format(tmp_path) for c in ATTACH]], env=vm.daemon.env, stderr=subprocess.PIPE, text=True)
    until(lambda: path in open_files(vm.daemon.info("vm1")["pid"]))
    return command


@pytest.mark.parametrize("command, has", [
    (ATTACH, ["vda", "sda", "sdb", "sdc"]), (["detach-disk", "vm1", "sdb"], ["vda", "sda"]),
    (["change-media", "vm1", "sda", "--eject"], ["vda", "sda", "sdb"])])
@pytest.mark.parametrize("deleting", ["drives"], indirect=True)
def test_change_of_a_drive_waits_and_succeeds(deleting, tmp_path, command, has):
    """The VM's process serves other requests meanwhile."""
    vm, f = deleting
    qcow2(tmp_path / "sdc")
    with subprocess.Popen([CAIRN, *[c.format(tmp_path) for c in command]], env=vm.daemon.env) as p:
        with pytest.raises(subprocess.TimeoutExpired):
            p.wait(2)
        vm.daemon.cairn("suspend", "vm1")
        vm.daemon.cairn("resume", "vm1")
        assert p.poll() is None and Op.FSYNC in f.hanging()
        f.release()
        assert p.wait() == 0
    assert drives(vm) == has
    check(vm)


@pytest.mark.parametrize("deleting", ["drives"], indirect=True)
def test_attach_waits_for_a_snapshot_that_began_meanwhile(deleting, tmp_path):
    vm, f = deleting
    with attach_begin(vm, tmp_path) as p:
        with subprocess.Popen([CAIRN, "snapshot-create-as", "vm1", "s2"], env=vm.daemon.env) as snapshot:
            until(lambda: "job" in vm.daemon.info("vm1"))
            f.release()
            assert snapshot.wait() == 0 and p.wait() == 0, p.stderr.read()
    assert drives(vm) == ["vda", "sda", "sdb", "sdc"]
    check(vm)


@pytest.mark.parametrize("deleting", ["drives"], indirect=True)
def test_attach_that_waits_is_dropped_with_its_daemon(deleting, tmp_path):
    """The next daemon finds that the process does not have the disk, so the process must not attach it later."""
    vm, f = deleting
    with attach_begin(vm, tmp_path) as p:
        vm.daemon.stop(signal.SIGKILL)
        assert p.wait() != 0
    vm.daemon.start()
    assert drives(vm) == ["vda", "sda", "sdb"]
    f.release()
    vm.daemon.cairn("snapshot-tag", "vm1", "s1", "keep")  # behind the deletion
    assert str(tmp_path / "sdc") not in open_files(vm.daemon.info("vm1")["pid"])
    vm.daemon.cairn(*[c.format(tmp_path) for c in ATTACH])
    assert drives(vm) == ["vda", "sda", "sdb", "sdc"]
    check(vm)


@pytest.mark.parametrize("command", [["snapshot-list", "vm1"], ["suspend", "vm1"], ["domblkinfo", "vm1", "vda"]])
def test_command_without_need_of_the_snapshots_does_not_wait(deleting, command):
    """Also while another command waits."""
    vm, f = deleting
    with subprocess.Popen([CAIRN, "snapshot-tag", "vm1", "s1", "keep"], env=vm.daemon.env) as p:
        vm.daemon.cairn(*command)
        assert p.poll() is None and Op.FSYNC in f.hanging()
        f.release()
        assert p.wait() == 0


@pytest.fixture
def reading(daemon, kvm, guest, tmp_path):
    """A VM whose snapshot-info waits for the file system of vda, and that file system. The VM has disk sdb, with an
    overlay, and drive sda, too."""
    empty = qcow2(tmp_path / "empty")
    with fuse(tmp_path / "fuse", vda=empty.read_bytes()) as f:
        vm = Vm(daemon, guest, f["vda"])
        vm.run("write 0 8 7")
        daemon.cairn("snapshot-create-as", "vm1", "s1")
        add_drives(vm, tmp_path)
        daemon.cairn("snapshot-create-as", "vm1", "x", "--disk-only", "--diskspec", "vda,snapshot=no", "--diskspec", f"sdb,snapshot=external,file={tmp_path}/over0")
        f.hang(Op.READ)
        with subprocess.Popen([CAIRN, "snapshot-info", "vm1", "s1"], env=vm.daemon.env) as p:
            until(lambda: Op.READ in f.hanging())
            yield vm, f
            f.release()
            assert p.wait() == 0


@pytest.mark.parametrize("command", [
    ["blockresize", "vm1", "sdb", "32M"], ["blockcopy", "vm1", "sdb", "--dest", "{}/copy", "--pivot", "--wait"],
    ["blockcommit", "vm1", "sdb", "--active", "--pivot"],
    ["snapshot-create-as", "vm1", "s2", "--disk-only", "--diskspec", "vda,snapshot=no", "--diskspec", "sdb,snapshot=external,file={}/over"]])
def test_change_of_a_disk_waits_for_snapshot_info(reading, tmp_path, command):
    vm, f = reading
    waits_and_succeeds(vm, f, [c.format(tmp_path) for c in command])


def test_commit_that_waits_can_be_cancelled(reading):
    vm, f = reading
    q = vm.daemon.qmp()
    job = q.run("vm-blockcommit", vm="vm1", disk="sdb", active=True)["job"]
    vm.daemon.cairn("job-cancel", job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    # Before or after the VM's process has the request; only in the former case the disk is named.
    assert q.run("query-jobs", id=job)[0]["error"].startswith("the job was cancelled")
    assert Op.READ in f.hanging()
    f.release()
    vm.daemon.cairn("blockcommit", "vm1", "sdb", "--active", "--pivot")
    check(vm)
