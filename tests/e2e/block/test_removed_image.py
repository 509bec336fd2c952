"""The image of a running VM is removed, or another file takes its name. The VM's process still has the file, so nothing
is lost before the VM ends: until then, a save or a snapshot that would be lost is refused, and the disk can be copied."""

import json
import os

import pytest

from conftest import Console
from test_disk_errors import Vm, run


def make(tmp_path, layered):
    """Create an image, or one with a backing file. Returns both paths; the first is the disk."""
    disk, base = tmp_path / "disk.qcow2", tmp_path / "base.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(base), "8M")
    run("qemu-io", "-c", "write -P 7 1M 64k", str(base))
    if layered:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(disk))
    else:
        base.rename(disk)
    return disk, base


def start(daemon, guest, disk, base, layered):
    """Start a VM that has the disk and, if layered, its backing file. The guest changes the first sector."""
    vm = Vm(daemon, guest, disk, backing=[base] if layered else [])
    vm.run("write 0 8 9")
    return vm


def refused(daemon, tmp_path, why):
    """Check that nothing is saved, and that the VM runs on."""
    for verb in (["managedsave", "vm1"], ["save", "vm1", str(tmp_path / "saved")], ["snapshot-create-as", "vm1", "s2"]):
        assert why in daemon.cairn(*verb, ok=1).stderr
    assert not (tmp_path / "saved").exists()
    assert "s2" not in daemon.cairn("snapshot-list", "vm1", "--name").stdout.split()
    assert daemon.cairn("domstate", "vm1").stdout == "running\n"


@pytest.mark.parametrize("replaced", [False, True])
def test_disk_whose_image_was_removed_is_rescued(daemon, kvm, guest, tmp_path, replaced):
    disk, base = make(tmp_path, False)
    vm = start(daemon, guest, disk, base, False)
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    if replaced:
        run("qemu-img", "create", "-q", "-f", "qcow2", str(base), "8M")
        base.rename(disk)
    else:
        disk.unlink()
    refused(daemon, tmp_path, "disk vda: its image was removed while the VM runs, and its content is lost when the VM ends; "
            "copy it before: cairn blockcopy VM vda --dest FILE --pivot")
    daemon.cairn("snapshot-delete", "vm1", "s1")
    rescued = tmp_path / "rescued.qcow2"
    daemon.cairn("blockcopy", "vm1", "vda", "--dest", str(rescued), "--pivot")
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    vm.console.close()
    daemon.cairn("managedsave", "vm1")
    run("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 7 1M 64k", str(rescued))
    assert os.path.exists(disk) == replaced
    daemon.cairn("start", "vm1")
    vm.console = Console(daemon, "vm1")
    vm.run("verify 0 8 9")
    vm.off()


LOST = "disk vda: its image was removed while the VM runs"
LOST_BELOW = "disk vda: a backing file was removed while the VM runs"


def test_new_process_knows_that_the_image_was_removed(daemon, kvm, guest, tmp_path):
    disk, base = make(tmp_path, False)
    vm = start(daemon, guest, disk, base, False)
    disk.unlink()
    vm.console.close()
    assert json.loads(daemon.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    refused(daemon, tmp_path, LOST)


def test_disk_with_other_layers_knows_that_its_backing_file_was_removed(daemon, kvm, guest, tmp_path):
    disk, base = make(tmp_path, True)
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(top))
    Vm(daemon, guest, top, backing=[disk, base])
    aside = tmp_path / "aside"
    base.rename(aside)  # the name stays usable for the commit, and the file that the VM has is not the one with the name
    base.write_bytes(aside.read_bytes())
    aside.unlink()
    refused(daemon, tmp_path, LOST_BELOW)
    daemon.cairn("blockcommit", "vm1", "vda", "--base", str(disk), "--pivot")
    refused(daemon, tmp_path, LOST_BELOW)


def test_disk_whose_backing_file_was_removed_is_made_independent(daemon, kvm, guest, tmp_path):
    disk, base = make(tmp_path, True)
    vm = start(daemon, guest, disk, base, True)
    base.unlink()
    refused(daemon, tmp_path, "disk vda: a backing file was removed while the VM runs, and its content is lost when the VM ends; "
            "copy it into the image before: cairn blockpull VM vda")
    daemon.cairn("blockpull", "vm1", "vda", "--wait")
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    vm.off()
    run("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 7 1M 64k", str(disk))
    vm.start()
    vm.run("verify 0 8 9")
    vm.off()


def test_start_names_the_backing_file_that_the_definition_lacks(daemon, kvm, guest, tmp_path):
    disk, base = make(tmp_path, True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": str(disk), "format": "qcow2"}])
    assert f"vda: the image has the backing file '{base}', which the definition lacks; add it to \"backing\" of the disk (cairn edit)" \
        in daemon.cairn("start", "vm1", ok=2).stderr
