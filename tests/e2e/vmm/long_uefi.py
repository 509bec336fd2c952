"""A disk that boots under OVMF. `make check-long`, part "uefi-svm" on the emulated host, where OVMF takes minutes.
kvm-pvm refuses UEFI."""

import os
import subprocess

import pytest

import efidisk
import guestlib
from conftest import GUESTS
from long_bios import SECONDS, attach
from test_bios import read_until
from test_screen import shot

CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() in ("none", "pvm"), reason="UEFI does not run here"),
    pytest.mark.skipif(not os.path.exists(CODE), reason="no package ovmf"),
    pytest.mark.seconds(4 * SECONDS),
]


def boot(console, *said):
    text = read_until(console, "efi app")
    assert all(s in text for s in said), text


def ask(console, character):
    console.sock.sendall(character)
    assert console.line() == "set"


@pytest.mark.parametrize("screen", [False, True], ids=["serial", "screen"])
def test_boot_entry_survives_revert_reset_and_clone(daemon, kvm, tmp_path, screen):
    disk = str(tmp_path / "disk.qcow2")
    efidisk.make(tmp_path / "raw", os.path.join(GUESTS, "efi_app.efi"))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", disk], check=True)
    daemon.define("vm1", memory="128M", boot={"firmware": "uefi"}, screen=screen, disks=[{"path": disk, "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    boot(console, "var=no boot=no")
    ask(console, b"b")
    ask(console, b"7")
    daemon.cairn("snapshot-create-as", "vm1", "one")
    ask(console, b"8")
    daemon.cairn("snapshot-revert", "vm1", "one")
    console.sock.sendall(b"r")
    boot(console, "var=7 boot=yes")
    console.sock.sendall(b"o")
    daemon.wait("vm1", "shutoff")
    console.close()
    daemon.cairn("clone", "vm1", "vm2")
    daemon.cairn("start", "vm2")
    console = attach(daemon, "vm2")
    boot(console, "var=7 boot=yes")
    console.close()


@pytest.mark.parametrize("first", ["network", "cdrom"])
def test_disk_without_order_boots_after_devices_with_one(daemon, kvm, tmp_path, first):
    """The user network and the empty drive have nothing to boot."""
    network = first == "network"
    efidisk.make(tmp_path / "raw", os.path.join(GUESTS, "efi_app.efi"))
    daemon.define("vm1", memory="128M", boot={"firmware": "uefi"}, rng=True,
                  interfaces=[{"type": "user", "boot_order": 2}] if network else [],
                  disks=[{"path": str(tmp_path / "raw"), "format": "raw"},
                         {"id": "cd", "device": "cdrom", "bus": "scsi", "boot_order": 1}])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    boot(console, *(["Start PXE over IPv4"] if network else []))
    console.close()


def write_efi_iso(path):
    """Write an ISO as those of installers, with a FAT image that UEFI boots (El Torito)."""
    efidisk.make(path / "raw", os.path.join(GUESTS, "efi_app.efi"))
    (path / "iso").mkdir()
    with open(path / "raw", "rb") as f:
        f.seek(efidisk.FIRST * efidisk.SECTOR)
        (path / "iso" / "efi.img").write_bytes(f.read(efidisk.SECTORS * efidisk.SECTOR))
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", path / "cd.iso", "-e", "efi.img", "-no-emul-boot", path / "iso"], check=True)
    return {"id": "cd", "device": "cdrom", "path": str(path / "cd.iso"), "format": "raw"}


@pytest.mark.parametrize("bus", ["scsi", "virtio"])
@pytest.mark.parametrize("way", ["order", "option", "empty disk"])
def test_cd_boots(daemon, kvm, tmp_path, bus, way):
    """The CD comes first by boot_order or `start --boot cdrom`, or because the disk before it boots nothing."""
    with open(tmp_path / "empty", "wb") as f:
        f.truncate(1 << 20)
    cd = {**write_efi_iso(tmp_path), "bus": bus, **({"boot_order": 1} if way == "order" else {})}
    daemon.define("vm1", memory="128M", boot={"firmware": "uefi"}, disks=[{"path": str(tmp_path / "empty"), "format": "raw"}, cd])
    daemon.cairn("start", "vm1", *(["--boot", "cdrom"] if way == "option" else []))
    console = attach(daemon, "vm1")
    boot(console, "var=no")
    console.close()


def read_raw(console, end):
    """Read until the console says `end`; a prompt has no newline."""
    said = ""
    while end not in said:
        data = console.sock.recv(65536)
        assert data, "the console ended"
        said += data.decode(errors="replace")
    return said


def test_shell_reads_the_keyboard_and_writes_to_the_screen(daemon, kvm, tmp_path):
    """Without a disk that boots, OVMF runs its shell, on the screen and on the serial console. Its driver reads the
    PS/2 keyboard."""
    with open(tmp_path / "raw", "wb") as f:
        f.truncate(1 << 20)
    daemon.define("vm1", memory="128M", boot={"firmware": "uefi"}, screen=True, disks=[{"path": str(tmp_path / "raw"), "format": "raw"}])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    read_raw(console, "Shell>")
    before = shot(daemon, "vm1", tmp_path)
    for key in ("KEY_V", "KEY_E", "KEY_R", "KEY_ENTER"):
        daemon.cairn("send-key", "vm1", key)
    assert "UEFI Interactive Shell v" in read_raw(console, "Shell>")
    assert any(before.rgb) and shot(daemon, "vm1", tmp_path).rgb != before.rgb
    console.close()


def test_shell_comes_with_vcpus_that_are_absent(daemon, kvm, tmp_path):
    """OVMF waits for those that it is told of, also after a vCPU has come."""
    daemon.define("vm1", memory="128M", vcpus=1, max_vcpus=3, boot={"firmware": "uefi"})
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    read_raw(console, "Shell>")
    daemon.cairn("setvcpus", "vm1", "2", "--live")
    daemon.cairn("reset", "vm1")
    assert "UEFI Interactive Shell v" in read_raw(console, "Shell>")
    assert daemon.info("vm1")["vcpus"] == 2
    console.close()
