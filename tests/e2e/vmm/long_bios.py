"""Disks that boot under SeaBIOS as on a PC: GRUB with Linux, an ISO, the network. `make check-long`, parts "bios" on
this host and "bios-svm" on the emulated one. Where KVM emulates kernel mode, each takes minutes."""

import os
import re
import shutil
import subprocess

import pytest

import grublib
import guestlib
from conftest import Console
from test_bios import NETWORK_ROM, ROM, read_until, write_disk
from test_screen import shot

SECONDS = 1800
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm"),
    pytest.mark.skipif(not os.path.exists(ROM), reason="no package seabios"),
    pytest.mark.seconds(SECONDS),
]
needs_grub = pytest.mark.skipif(grublib.missing() is not None, reason=str(grublib.missing()))


def attach(daemon, name):
    console = Console(daemon, name)
    console.sock.settimeout(SECONDS)
    return console


@needs_grub
def test_grub_boots_linux_that_reverts_and_reboots(daemon, kvm, tmp_path):
    """A partitioned qcow2 disk, with no kernel in the definition. GRUB reads the texts of SMBIOS. A reboot by the guest
    goes through SeaBIOS and GRUB again."""
    grublib.write_disk(f"{tmp_path}/raw", {"Linux": [
        "smbios --type 1 --get-string 7 --set serial", "smbios --type 11 --get-string 4 --set oem", "echo serial=$serial oem=$oem",
        f"linux /boot/vmlinuz {guestlib.linux_cmdline()} cairn.port=ttyS0", "initrd /boot/initrd"]}, {
            "boot/vmlinuz": os.path.join(guestlib.linux_kernel(), "bzImage"), "boot/initrd": guestlib.linux_initrd()})
    disk = str(tmp_path / "disk.qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", f"{tmp_path}/raw", disk], check=True)
    daemon.define("vm1", memory="128M", boot=None, disks=[{"path": disk, "format": "qcow2"}], rng=True,
                  sysinfo={"serial": "S-17", "oem_strings": ["hello"]})
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    said = read_until(console, "cairn-guest: ready")
    assert "SeaBIOS (version" in said and "GNU GRUB" in said and "serial=S-17 oem=hello" in said
    console.run("fill-ram 8 7")
    daemon.cairn("snapshot-create-as", "vm1", "one")
    console.run("free-ram")
    daemon.cairn("snapshot-revert", "vm1", "one")
    console.run("verify-ram 7")
    console.sock.sendall(b"reboot\n")
    said = read_until(console, "cairn-guest: ready")
    assert "SeaBIOS (version" in said and "GNU GRUB" in said
    console.close()


def test_bios_uses_screen_and_keyboard(daemon, kvm, tmp_path):
    """The boot menu is on the screen, and a key opens it. The VGA BIOS draws white signs on black."""
    daemon.define("vm1", memory="64M", boot={"firmware": "bios", "menu": True, "menu_timeout": 60000}, screen=True, disks=[
        {"path": write_disk(tmp_path / name, name.encode()), "format": "raw"} for name in ("disk a", "disk b")])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    read_until(console, "Press ESC for boot menu")
    picture = shot(daemon, "vm1", tmp_path)
    lines = [any(picture.rgb[3 * picture.width * 16 * i:3 * picture.width * 16 * (i + 1)]) for i in range(picture.height // 16)]
    assert lines[0] and not lines[-1]
    daemon.cairn("send-key", "vm1", "KEY_ESC")
    read_until(console, "Select boot device:")
    daemon.cairn("send-key", "vm1", "KEY_2")
    assert "disk b" in read_until(console, "boot sector ready")
    console.close()


@needs_grub
@pytest.mark.skipif(not shutil.which("grub-mkrescue") or not shutil.which("xorriso"), reason="no grub-mkrescue or no xorriso")
def test_iso_with_a_boot_sector_boots_from_the_cdrom_drive(daemon, kvm, tmp_path):
    tree = tmp_path / "tree" / "boot" / "grub"
    tree.mkdir(parents=True)
    (tree / "grub.cfg").write_text("serial --unit=0\nterminal_output serial\necho from the cdrom drive\n")
    iso = str(tmp_path / "a.iso")
    subprocess.run(["grub-mkrescue", "-o", iso, "--directory=/usr/lib/grub/i386-pc", "--fonts=", "--themes=", "--locales=", str(tmp_path / "tree")],
                   check=True, capture_output=True)
    daemon.define("vm1", memory="64M", boot=None, disks=[
        {"path": write_disk(tmp_path / "a", b"disk a"), "format": "raw"}, {"device": "cdrom", "path": iso, "format": "raw"}])
    daemon.cairn("start", "vm1", "--boot", "cdrom")
    console = attach(daemon, "vm1")
    assert "disk a" not in read_until(console, "from the cdrom drive")
    console.close()


@pytest.mark.skipif(not os.path.exists(NETWORK_ROM), reason="no package ipxe-qemu")
def test_network_boots_before_the_disk(daemon, kvm, tmp_path):
    """iPXE gets an address of the user network and finds nothing to boot there, so the BIOS continues with
    the disk."""
    daemon.define("vm1", memory="64M", boot=None, disks=[{"path": write_disk(tmp_path / "a", b"disk a"), "format": "raw"}],
                  interfaces=[{"type": "user", "boot_order": 1}])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    assert "disk a" not in read_until(console, "iPXE initialising devices")
    if guestlib.host_kind() != "pvm":  # there, iPXE waits at its prompt
        said = read_until(console, "boot sector ready")
        assert re.search(r"Configuring \(net0 [0-9a-f:]+\)\.* ok", said) and "disk a" in said
    console.close()
