"""VMs with SeaBIOS: a boot sector of our own starts from a virtio disk, with all output on the serial console; it
survives snapshots, forks and resets. The boot sector's commands: tests/guests/bare/boot_sector.S."""

import os
import subprocess

import pytest

import guestlib
from conftest import GUESTS, Console
from guestlib import Guest, definition, disk

ROM = "/usr/share/seabios/bios-256k.bin"
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


def bios(*paths, orders=(), **boot):
    disks = [disk(p, id=f"vd{'ab'[i]}", **({"boot_order": orders[i]} if orders else {})) for i, p in enumerate(paths)]
    return definition(memory="64M", boot={"firmware": "bios", **boot}, disks=disks)


def test_boot_sector_starts_and_resets(tmp_path):
    """The second disk comes first in the boot order. Beside it, a VM whose disk does not boot says so."""
    first, second = write_disk(tmp_path / "a", b"disk a"), write_disk(tmp_path / "b", b"disk b")
    empty = write_disk(tmp_path / "c", bootable=False)
    with Guest(bios(first, second, orders=(2, 1)), ["--log-level", "info"]) as g, Guest(bios(empty)) as none:
        assert "SeaBIOS (version" in g.expect("Booting from Hard Disk", BOOT_SECONDS)
        assert "disk b" in g.expect("boot sector ready", BOOT_SECONDS)
        g.send("n")
        g.expect("count=1")
        none.expect("not a bootable disk", BOOT_SECONDS)
        none.expect("No bootable device", BOOT_SECONDS)
        g.send("r")
        assert "disk b" in g.expect("boot sector ready", BOOT_SECONDS)
        g.send("n")
        g.expect("count=1")  # memory was cleared
        log = g.log()
        assert "firmware: SeaBIOS (version" in log and "Running on QEMU (i440fx)" in log


def read_until(console, end):
    text = ""
    while end not in text:
        text += console.line() + "\n"
    return text


def test_snapshot_revert_and_fork_in_the_boot_sector(daemon, kvm, tmp_path):
    image = write_disk(tmp_path / "raw")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, tmp_path / "vda.qcow2"], check=True)
    daemon.define("vm1", memory="64M", boot={"firmware": "bios"},
                  disks=[{"path": str(tmp_path / "vda.qcow2"), "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    console.sock.settimeout(BOOT_SECONDS)

    def count(c):
        c.sock.sendall(b"n")
        return read_until(c, "count=").split("count=")[1][0]

    read_until(console, "boot sector ready")
    assert [count(console) for _ in range(2)] == ["1", "2"]
    daemon.cairn("snapshot-create-as", "vm1", "two")
    assert count(console) == "3"
    daemon.cairn("snapshot-revert", "vm1", "two")
    assert count(console) == "3"
    daemon.cairn("clone", "--live", "vm1", "vm2")
    clone = Console(daemon, "vm2")
    assert count(clone) == "4" and count(console) == "4"
    # The keyboard controller's reset goes through the ROM, whose copy in RAM a clone maps from its source.
    clone.sock.settimeout(BOOT_SECONDS)
    clone.sock.sendall(b"k")
    read_until(clone, "boot sector ready")
    assert count(clone) == "1" and count(console) == "5"
    console.close()
    clone.close()


@pytest.mark.parametrize("content, why", [
    (b"x" * 4096, "boot.loader: the file has 4096 bytes; a BIOS has 128 or 256 KiB"),
    (None, "No such file or directory"),
], ids=["size", "missing"])
def test_wrong_rom_is_refused(tmp_path, content, why):
    rom = tmp_path / "rom"
    if content:
        rom.write_bytes(content)
    with Guest(bios(write_disk(tmp_path / "a"), loader=str(rom))) as g:
        assert g.wait() != 0
        assert why in g.log()
