"""VMs with SeaBIOS: a boot sector of our own starts from a virtio disk, with all output on the serial console; it
survives snapshots, forks and resets. The boot sector's commands: tests/guests/bare/boot_sector.S."""

import os
import subprocess
import sys
import zlib

import pytest

import guestlib
from conftest import GUESTS, Console, until
from guestlib import Guest, definition, disk
from statelib import State

ROM = "/usr/share/seabios/bios-256k.bin"
NETWORK_ROM = "/usr/lib/ipxe/qemu/pxe-virtio.rom"
BOOT_SECONDS = 100  # where KVM emulates kernel mode, SeaBIOS takes seconds, on a busy machine many
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm"),
    pytest.mark.skipif(not os.path.exists(ROM), reason="no package seabios"),
    pytest.mark.seconds(240),
]


def write_disk(path, text=b"second sector", bootable=True):
    with open(os.path.join(GUESTS, "boot_sector.bin"), "rb") as f:
        sector = f.read()
    assert len(sector) == 512
    with open(path, "wb") as f:
        if bootable:
            f.write(sector + text + b"\r\n\0")
        f.truncate(1 << 20)
    return str(path)


def qcow2(path, text):
    """Make a qcow2 disk with the boot sector; return it as a definition has it."""
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", write_disk(f"{path}.raw", text), path], check=True)
    return {"path": str(path), "format": "qcow2"}


def read_until(console, end):
    text = ""
    while end not in text:
        text += console.line() + "\n"
    return text


def count(console):
    console.sock.sendall(b"n")
    return read_until(console, "count=").split("count=")[1][0]


def attach(daemon, name):
    console = Console(daemon, name)
    console.sock.settimeout(BOOT_SECONDS)
    return console


def test_boot_snapshot_revert_fork_and_reset(daemon, kvm, tmp_path):
    """The second disk comes first in the boot order. Beside it, a VM starts from its cdrom drive, by the boot menu. The
    saved state has the ROM: a clone resets to the ROM of its source, although the ROM's file is another one by then."""
    rom = tmp_path / "rom"
    with open(ROM, "rb") as f:
        rom.write_bytes(f.read())
    daemon.define("vm1", memory="64M", boot={"firmware": "bios", "loader": str(rom)}, disks=[
        {**qcow2(tmp_path / "a", b"disk a"), "boot_order": 2}, {**qcow2(tmp_path / "b", b"disk b"), "boot_order": 1}])
    daemon.define("vm3", memory="64M", boot=None, disks=[
        {"path": write_disk(tmp_path / "c", b"disk c"), "format": "raw"}, {"device": "cdrom", "path": write_disk(tmp_path / "d", b"cd d"), "format": "raw"}])
    daemon.cairn("start", "vm3", "--boot", "cdrom", "--bootmenu")
    daemon.cairn("start", "vm1")
    console, other = attach(daemon, "vm1"), attach(daemon, "vm3")
    said = read_until(console, "boot sector ready")
    assert "SeaBIOS (version" in said and "Booting from Hard Disk" in said and "disk b" in said
    assert [count(console) for _ in range(2)] == ["1", "2"]
    said = read_until(other, "boot sector ready")
    assert "Press ESC for boot menu" in said and "cd d" in said and "disk c" not in said
    log = daemon.log_of("vm1")
    assert "firmware: SeaBIOS (version" in log and "firmware: Running on QEMU (i440fx)" in log
    daemon.cairn("destroy", "vm3")
    daemon.cairn("snapshot-create-as", "vm1", "two")
    assert count(console) == "3"
    daemon.cairn("snapshot-revert", "vm1", "two")
    assert count(console) == "3"
    rom.write_bytes(rom.read_bytes().replace(b"SeaBIOS (version", b"Another (version"))
    daemon.cairn("clone", "--live", "vm1", "vm2")
    clone = attach(daemon, "vm2")
    assert count(clone) == "4" and count(console) == "4"
    # A reset starts the ROM, of which a clone maps its source's copy until then, and clears memory.
    clone.sock.sendall(b"k")
    said = read_until(clone, "boot sector ready")
    assert "disk b" in said and "SeaBIOS (version" in said and "Another" not in said
    assert count(clone) == "1" and count(console) == "5"
    for c in (console, other, clone):
        c.close()


def test_disk_that_the_firmware_boots_from_stays(daemon, kvm, tmp_path):
    """A CD drive before it in the boot order may go, as after an installation."""
    disks = [disk(write_disk(tmp_path / n), id=f"vd{n}") for n in "abc"]
    disks[1]["boot_order"] = 2
    disks[2].update(device="cdrom", boot_order=1)
    daemon.define("vm1", memory="64M", boot={"firmware": "bios"}, disks=disks)
    daemon.cairn("start", "vm1", "--paused")
    for target, words in (("vda", "of"), ("vdb", "in the boot order of")):
        assert f"{target} is the first disk {words} VM 'vm1', from which its guest runs; shut the VM down, and detach the disk with " \
            "--config" in daemon.cairn("detach-disk", "vm1", target, "--live", ok=False).stderr
    assert "has not released vdc" in daemon.cairn("detach-disk", "vm1", "vdc", "--live", "--timeout", "1", ok=False).stderr
    daemon.cairn("destroy", "vm1")
    daemon.cairn("detach-disk", "vm1", "vdb", "--config")


def test_firmware_waits_only_for_vcpus_that_are_there(daemon, kvm, tmp_path):
    """SeaBIOS starts all others by INIT and SIPI, and waits until as many as it was told of have answered."""
    daemon.define("vm1", memory="64M", vcpus=1, max_vcpus=3, boot={"firmware": "bios"},
                  disks=[{"path": write_disk(tmp_path / "a"), "format": "raw"}])
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    read_until(console, "boot sector ready")
    daemon.cairn("setvcpus", "vm1", "2", "--live")
    console.sock.sendall(b"k")
    read_until(console, "boot sector ready")
    assert "firmware: Found 1 cpu(s) max supported 3 cpu(s)" in daemon.log_of("vm1")
    assert "firmware: Found 2 cpu(s) max supported 3 cpu(s)" in daemon.log_of("vm1")
    console.close()


# CRC-32 of each device's section at power-on; of the ROM, its length
MACHINE = {
    "serial serial0 1": 0x31960640, "i8042 i8042 1": 0xc0278534, "vmgenid vmgenid 1": 0x0, "pvpanic pvpanic 1": 0x0,
    "fw_cfg fw_cfg 1": 0xe38a6876, "debugcon debugcon 1": 0x0, "rom rom 1": 0x40000, "pci-hotplug pci-hotplug 1": 0x6522df69, "pci pci 1": 0x5a252d26,
    "virtio-blk vda 1": 0x20318627, "virtio-console virtio-console0 1": 0x12149eec,
    "virtio-console guest-agent0 1": 0x98d4864d, "virtio-rng rng0 1": 0x790ef9e9, "i6300esb watchdog0 1": 0x64494b5c,
    "virtio-net net0 2": 0x96bea456,
}


@pytest.mark.parametrize("version", [4, 8])
def test_machine_versions_have_these_devices(daemon, kvm, tmp_path, version):
    """A change of what the guest sees needs a new machine version. The golden states of these versions are those of
    another firmware, and have no interface."""
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../data"))
    import golden
    devices = golden.devices(tmp_path)
    write_disk(devices["disks"][0]["path"])
    daemon.define("vm1", memory="16M", boot={"firmware": "bios"}, machine=version, uuid=golden.UUID, **devices,
                  interfaces=[{"type": "user", "mac": "52:54:00:12:34:56", "link": "down"}])
    daemon.cairn("start", "vm1", "--paused")
    daemon.cairn("save", "vm1", str(tmp_path / "saved"))
    state = State((tmp_path / "saved").read_bytes())
    skipped = ("machine", "cpu", "vcpu", "irqchip", "pit", "clock", "rtc", "acpi-pm")
    now = {f"{name} {instance} {version}": len(content) if name == "rom" else zlib.crc32(content)
           for name, instance, version, content in state.sections if name not in skipped}
    assert now == MACHINE


def test_start_of_a_disk_for_uefi_fails(daemon, kvm, tmp_path):
    """sfdisk writes a boot sector without code, with which a BIOS would do nothing at all."""
    for table, label in (("gpt", ""), ("dos", "start=2048, type=ef"), ("dos", "start=2048, type=83")):
        path = tmp_path / "a"
        with open(path, "wb") as f:
            f.truncate(16 << 20)
        subprocess.run(["/sbin/sfdisk", "-q", path], input=f"label: {table}\n{label}\n", text=True, check=True)
        daemon.define("vm1", memory="64M", boot=None, disks=[{"path": str(path), "format": "raw"}])
        if label.endswith("83"):
            daemon.cairn("start", "vm1")
            daemon.cairn("destroy", "vm1")
        else:
            said = daemon.cairn("start", "vm1", ok=False).stderr
            assert 'no disk has a boot sector with code (vda); vda boots by UEFI: give the VM "firmware": "uefi" in "boot" (cairn edit)' in said


def test_start_without_boot_sector_fails(daemon, kvm, tmp_path):
    """The VM does not run, and its error names the disks and the ways out. Where the network boots, disks may be
    empty."""
    empty = {"path": write_disk(tmp_path / "a", bootable=False), "format": "raw"}
    daemon.define("vm1", memory="64M", boot=None, disks=[empty, {"device": "cdrom"}], interfaces=[{"type": "user"}])
    r = daemon.cairn("start", "vm1", ok=False)
    assert "no disk has a boot sector (vda, vdb): write a system's image to a disk, boot from the network" in r.stderr
    assert daemon.cairn("domstate", "vm1").stdout == "shut off\n"
    if os.path.exists(NETWORK_ROM):
        daemon.cairn("start", "vm1", "--boot", "network", "--paused")
        daemon.cairn("destroy", "vm1")
    else:
        assert "install the package ipxe-qemu" in daemon.cairn("start", "vm1", "--boot", "network", ok=False).stderr


def test_choice_of_start_is_checked(daemon, kvm, tmp_path):
    daemon.define("vm1", memory="64M", boot=None, disks=[{"path": write_disk(tmp_path / "a"), "format": "raw"}])
    for kind, device in (("cdrom", "cdrom drive"), ("network", "interface")):
        r = daemon.cairn("start", "vm1", "--boot", kind, ok=False)
        assert f"the VM has no {device} to boot from; add one to its definition" in r.stderr
    assert "must be hd, cdrom or network" in daemon.cairn("start", "vm1", "--boot", "fd", ok=2).stderr
    daemon.cairn("start", "vm1", "--paused", "--boot", "hd")
    daemon.cairn("managedsave", "vm1")
    assert "resumes its saved state, so it does not boot" in daemon.cairn("start", "vm1", "--boot", "hd", ok=False).stderr
    assert daemon.cairn("domstate", "vm1").stdout == "saved\n"
    daemon.cairn("start", "vm1", "--paused", "--boot", "hd", "--force-boot")
    daemon.define("vm2", memory="64M")
    assert "the VM boots a kernel without a firmware" in daemon.cairn("start", "vm2", "--bootmenu", ok=False).stderr


def test_fill_of_memory_by_the_firmware(daemon, kvm, tmp_path):
    """Where KVM emulates kernel mode, the assist carries out SeaBIOS' memset() in few steps. It takes all debug
    exceptions meanwhile, and gives those back that are the guest's. tests/guests/bare/rom.S."""
    daemon.define("vm1", memory="64M", boot={"firmware": "bios", "loader": os.path.join(GUESTS, "rom.bin")}, assist="on",
                  disks=[disk(write_disk(tmp_path / "a"))])
    daemon.cairn("start", "vm1", "--paused")
    console = attach(daemon, "vm1")
    daemon.cairn("resume", "vm1")
    assert [console.line().strip() for _ in range(3)] == ["memset ok", "step ok", "memset ok"]
    console.close()
    if guestlib.host_kind() == "pvm":
        assert daemon.figures("vm1")["assist"]["instructions"] >= 4


def test_last_words_of_a_guest_that_halts_are_logged(daemon, kvm, tmp_path):
    """KVM collects what the firmware writes to its debug port, and a halted guest does not exit any more."""
    daemon.define("vm1", memory="64M", boot={"firmware": "bios", "loader": os.path.join(GUESTS, "rom.bin")}, assist="on",
                  disks=[disk(write_disk(tmp_path / "a"))])
    daemon.cairn("start", "vm1", "--paused")
    console = attach(daemon, "vm1")
    daemon.cairn("resume", "vm1")
    for starts in (1, 2):
        assert [console.line().strip() for _ in range(3)] == ["memset ok", "step ok", "memset ok"]
        console.sock.sendall(b"h")
        until(lambda: daemon.log_of("vm1").count("firmware: the guest halts\n") == starts)
        daemon.cairn("reset", "vm1")
    console.close()


@pytest.mark.parametrize("boot, version", [({"firmware": "bios"}, 2), ({"kernel": guestlib.bare("interp")}, 1)], ids=["bios", "kernel"])
def test_screen_has_a_rom_for_a_bios_only(daemon, kvm, tmp_path, boot, version):
    """A VM that boots a kernel shows the guest the same screen as before. long_bios.py uses the ROM."""
    daemon.define("vm1", memory="64M", screen=True, disks=[disk(write_disk(tmp_path / "a"))], boot=boot)
    daemon.cairn("start", "vm1", "--paused")
    daemon.cairn("save", "vm1", str(tmp_path / "saved"))
    sections = State((tmp_path / "saved").read_bytes()).sections
    assert [v for name, _, v, _ in sections if name == "bochs-display"] == [version]
    daemon.cairn("restore", str(tmp_path / "saved"), "--paused")
    daemon.cairn("restart-process", "vm1")
    assert "the host lacks vgabios-bochs-display.bin" not in daemon.log_of("vm1")


@pytest.mark.parametrize("content, why", [
    (b"x" * 4096, "boot.loader: the file has 4096 bytes; a BIOS has 128 or 256 KiB"),
    (None, "No such file or directory"),
], ids=["size", "missing"])
def test_wrong_rom_is_refused(tmp_path, content, why):
    rom = tmp_path / "rom"
    if content:
        rom.write_bytes(content)
    boot = {"firmware": "bios", "loader": str(rom)}
    with Guest(definition(memory="64M", boot=boot, disks=[disk(write_disk(tmp_path / "a"))])) as g:
        assert g.wait() != 0
        assert why in g.log()
