"""A running VM whose disk lies on a file system that does not answer: FUSE here, a hung NFS elsewhere."""

import contextlib

import pytest

from conftest import Console, until
from fuselib import Op, fuse
from mountlib import mounted
from test_disk_errors import Vm


def overlayfs(tmp_path, lower):
    """Mount an overlayfs over a folder. A file that is only read stays in the lower file system."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    return mounted(tmp_path / "overlay", "-t", "overlay", "-o", options, "none")


def go_on_below(vm, guest, folder):
    """Let the VM continue with its disk on an overlayfs. The disk's thread itself reads the file there."""
    vm.off()
    vm.daemon.cairn("undefine", "vm1")
    vm.daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                     disks=[{"path": str(folder / "disk"), "format": "raw", "readonly": True, "cache": "writeback"}])
    vm.start()


@pytest.fixture(params=["fuse", "overlayfs"])
def hung(daemon, kvm, guest, tmp_path, request):
    """A VM of which a read hangs, its file system, and the console of another VM. The disk is on the file system, or on
    an overlayfs over it."""
    with contextlib.ExitStack() as mounts:
        f = mounts.enter_context(fuse(tmp_path / "fuse", disk=bytes(1 << 20)))
        vm = Vm(daemon, guest, f["disk"], fmt="raw")
        daemon.define("other", boot={"kernel": guest("interp.elf")})
        daemon.cairn("start", "other")
        other = Console(daemon, "other")
        while other.line() != "interp":
            pass
        vm.run("write 0 8 7")
        if request.param == "overlayfs":
            go_on_below(vm, guest, mounts.enter_context(overlayfs(tmp_path, f.folder)))
        f.hang(Op.READ)
        vm.begin("verify 0 8 7")
        until(lambda: Op.READ in f.hanging())
        yield vm, f, other
        f.release()


def test_hung_disk_delays_only_its_vm(hung):
    vm, f, other = hung
    assert other.run("echo here") == ["here"]
    assert "running" in vm.daemon.cairn("domstate", "vm1").stdout
    # A pause waits for the disk's requests; it comes when they are answered, although its client was told of the delay.
    assert "did not answer in time; it may still do what was requested" in vm.daemon.cairn("suspend", "vm1", ok=1).stderr
    assert other.run("echo here") == ["here"]
    f.release()
    until(lambda: vm.daemon.info("vm1")["state"] == "paused")
    vm.daemon.cairn("resume", "vm1")
    assert vm.answer() == "ok"


def test_destroy_of_a_vm_with_a_hung_disk_ends_in_a_sentence(hung):
    vm, f, other = hung
    for _ in range(2):  # the second one kills the process again
        said = vm.daemon.cairn("destroy", "vm1", ok=1).stderr
        assert "was killed, but has not ended" in said and "repair or unmount it" in said, said
    assert other.run("echo here") == ["here"]
    f.release()
    until(lambda: vm.daemon.info("vm1")["state"] == "shutoff")
    assert vm.daemon.info("vm1")["reason"] == "destroyed"
    vm.start()
    vm.run("verify 0 8 7")
