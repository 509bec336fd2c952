"""VMs whose disk's image has persistent bitmaps: QEMU finds in them what the guest has written."""
import os
import shutil
import signal

import pytest

from conftest import Console
from test_img import box  # noqa: F401 (a fixture)
from test_img_bitmaps import dirty, specific

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

KIB64 = 64 << 10


@pytest.fixture
def vm(daemon, kvm, guest, box):  # noqa: F811
    box.qemu("create", "-q", "-f", "qcow2", "disk", "8M")
    box.img("bitmap", "--add", "-g", "65536", "disk", "backup")
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True,
                  disks=[{"path": str(box.path / "disk"), "format": "qcow2"}])
    return daemon


def start(vm):
    vm.cairn("start", "vm1")
    c = Console(vm, "vm1")
    while c.line() != "interp":
        pass
    c.run("open 0")
    return c


def flags(box):  # noqa: F811
    return specific(box, box.img, "disk")["bitmaps"][0]["flags"]


def test_bitmap_records_guest_over_handovers(vm, box):  # noqa: F811
    c = start(vm)
    for i in range(3):
        c.run(f"write {i * 512} 8 {i + 1}")
        c.run("flush")
        vm.cairn("restart-process", "vm1")
    c.run("discard 8192 128")
    c.close()
    vm.cairn("destroy", "vm1")
    assert flags(box) == ["auto"]
    assert dirty(box, "disk", "backup") == [(0, KIB64), (4 * KIB64, KIB64), (8 * KIB64, KIB64), (64 * KIB64, KIB64)]
    box.qemu("check", "disk")


def test_bitmap_of_killed_vm_is_not_believed(vm, box):  # noqa: F811
    start(vm).close()
    vm.cairn("destroy", "vm1")
    assert flags(box) == ["auto"] and not dirty(box, "disk", "backup")
    c = start(vm)
    c.run("write 0 8 1")
    c.run("flush")
    os.kill(vm.info("vm1")["pid"], signal.SIGKILL)
    vm.wait("vm1", "crashed")
    c.close()
    assert flags(box) == ["in-use", "auto"]
    c = start(vm)
    c.run("verify 0 8 1")
    c.run("write 0 8 2")
    c.close()
    vm.cairn("destroy", "vm1")
    assert flags(box) == ["in-use", "auto"]
    box.qemu("check", "disk")
