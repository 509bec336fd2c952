"""Disks with bus scsi: SeaBIOS boots a disk and a CD of our own (El Torito) from the controller."""

import os
import struct

import pytest

import guestlib
from test_bios import ROM, attach, count, qcow2, read_until, write_disk
from conftest import GUESTS

BLOCK = 2048
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm"),
    pytest.mark.skipif(not os.path.exists(ROM), reason="no package seabios"),
    pytest.mark.seconds(240),
]


def both(fmt_bytes, value):
    """A number in both byte orders, as ISO 9660 has it."""
    code = {2: "H", 4: "I"}[fmt_bytes]
    return struct.pack("<" + code, value) + struct.pack(">" + code, value)


def write_iso(path):
    """Write an ISO 9660 image that boots our boot sector without emulation (El Torito 1.0)."""
    with open(os.path.join(GUESTS, "boot_sector.bin"), "rb") as f:
        sector = f.read()
    root = struct.pack("BB", 34, 0) + both(4, 20) + both(4, BLOCK) + bytes(7) + b"\2\0\0" + both(2, 1) + b"\1\0"
    volume = bytearray(BLOCK)
    volume[0:7] = b"\1CD001\1"
    volume[40:72] = b"CAIRN".ljust(32)
    volume[80:88] = both(4, 24)
    volume[128:132] = both(2, BLOCK)
    volume[156:190] = root
    record = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", 19)
    validation = bytearray(struct.pack("<BBH24sHBB", 1, 0, 0, b"CAIRN", 0, 0x55, 0xaa))
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xffff)
    initial = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 21)
    blocks = {16: volume, 17: record, 18: b"\xffCD001\1", 19: bytes(validation) + initial, 20: b"", 21: sector}
    with open(path, "wb") as f:
        for n, content in blocks.items():
            f.seek(n * BLOCK)
            f.write(content)
        f.truncate(24 * BLOCK)
    return str(path)


def test_bios_boots_disk_and_cd_of_the_controller(daemon, kvm, tmp_path):
    """vm1 boots its second SCSI disk; vm2 has an empty disk, a SCSI disk without a boot sector and a CD, and boots the
    CD. A snapshot with commands in flight goes on after a revert."""
    empty = {"path": write_disk(tmp_path / "e", bootable=False), "format": "raw"}
    daemon.define("vm1", memory="64M", boot=None, disks=[
        {**qcow2(tmp_path / "a", b"disk a"), "bus": "scsi"}, {**qcow2(tmp_path / "b", b"disk b"), "bus": "scsi", "boot_order": 1}])
    daemon.define("vm2", memory="64M", boot=None, disks=[
        empty, {"path": write_disk(tmp_path / "f", bootable=False), "format": "raw", "bus": "scsi"},
        {"device": "cdrom", "bus": "scsi", "path": write_iso(tmp_path / "cd.iso"), "format": "raw"}])
    daemon.cairn("start", "vm1")
    daemon.cairn("start", "vm2", "--boot", "cdrom")
    console, cd = attach(daemon, "vm1"), attach(daemon, "vm2")
    said = read_until(console, "boot sector ready")
    assert "disk b" in said and "disk a" not in said
    assert count(console) == "1"
    daemon.cairn("snapshot-create-as", "vm1", "one")
    assert count(console) == "2"
    daemon.cairn("snapshot-revert", "vm1", "one")
    assert count(console) == "2"
    stats = daemon.info("vm1")["disks"]
    assert [d["id"] for d in stats] == ["sda", "sdb"] and "rd" in str(stats[1]), stats
    said = read_until(cd, "boot sector ready")
    assert "Booting from DVD/CD" in said
    for c in (console, cd):
        c.close()


def test_cd_without_boot_record_is_named(daemon, kvm, tmp_path):
    path = tmp_path / "cd.iso"
    with open(path, "wb") as f:
        f.truncate(1 << 20)
    daemon.define("vm1", memory="64M", boot=None, disks=[{"device": "cdrom", "bus": "scsi", "path": str(path), "format": "raw"}])
    assert "no disk has a boot sector (sda)" in daemon.cairn("start", "vm1", ok=False).stderr
