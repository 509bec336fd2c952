"""VMs with a flash memory of variables: a firmware of our own programs and erases it (tests/guests/bare/flash_rom.c).
The content survives resets, ends, snapshots, reverts and clones. long_uefi.py boots OVMF
itself."""

import os
import subprocess

import pytest

import guestlib
from conftest import GUESTS, Console
from guestlib import Guest, definition

ROM = os.path.join(GUESTS, "flash_rom.bin")
SECURE = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
VARIABLES = 16384
BASE = (1 << 32) - 65536 - VARIABLES
pytestmark = [pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm")]


class Flash:
    """The firmware's console, and the commands of the flash memory as OVMF gives them."""

    def __init__(self, daemon, name, ready=True):
        self.console = Console(daemon, name)
        if ready:
            self.wait_ready()

    def wait_ready(self):
        while self.console.line() != "flash ready":
            pass

    def read(self, offset):
        self.console.sock.sendall(b"r %x\n" % (BASE + offset))
        return int(self.console.line(), 16)

    def write(self, offset, value):
        self.console.sock.sendall(b"w %x %x\n" % (BASE + offset, value))

    def program(self, offset, value):
        for byte in (0x10, value, 0xff):
            self.write(offset, byte)
        return self.read(offset)

    def erase(self, offset):
        for byte in (0x20, 0xd0, 0xff):
            self.write(offset, byte)
        return self.read(offset)


@pytest.fixture
def uefi(tmp_path):
    template = tmp_path / "template"
    template.write_bytes(bytes([1, 2, 3, 4]) * (VARIABLES // 4))
    return {"firmware": "uefi", "loader": ROM, "nvram_template": str(template)}


def stored(daemon, name, offset):
    return (daemon.state / "vms" / name / "nvram").read_bytes()[offset]


def test_variables_survive_reset_end_snapshot_revert_and_clone(daemon, kvm, tmp_path, uefi):
    disk = {"path": str(tmp_path / "disk.qcow2"), "format": "qcow2"}
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk["path"], "1M"], check=True)
    daemon.define("vm1", memory="16M", boot=uefi, disks=[disk])
    daemon.cairn("start", "vm1")
    f = Flash(daemon, "vm1")
    # The probe of OVMF's driver: neither RAM nor ROM.
    f.write(0, 0x50)
    assert f.read(0) == 1
    f.write(0, 0x70)
    assert f.read(0) == 0
    f.write(0, 0xff)
    assert f.program(5, 0x42) == 0x42 and stored(daemon, "vm1", 5) == 0x42
    f.write(6, 0x10)
    f.write(6, 0x43)
    assert f.read(0) == 0x80
    f.write(6, 0xff)
    assert f.read(6) == 0x43
    assert f.erase(4096) == 0xff and f.read(8191) == 0xff and f.read(8192) == 1
    f.console.sock.sendall(b"k\n")
    f.wait_ready()
    assert f.read(5) == 0x42
    daemon.cairn("snapshot-create-as", "vm1", "one")
    assert f.program(5, 0x50) == 0x50
    daemon.cairn("clone", "--live", "vm1", "vm2")
    clone = Flash(daemon, "vm2", ready=False)
    assert clone.read(5) == 0x50 and clone.program(5, 0x51) == 0x51
    daemon.cairn("snapshot-revert", "vm1", "one")
    assert f.read(5) == 0x42 and stored(daemon, "vm1", 5) == 0x42
    assert clone.read(5) == 0x51 and stored(daemon, "vm2", 5) == 0x51
    assert f.program(5, 0x60) == 0x60
    daemon.cairn("restart-process", "vm1")
    assert f.program(7, 0x61) == 0x61 and f.read(5) == 0x60
    f.console.close()
    daemon.cairn("destroy", "vm1")
    daemon.cairn("clone", "vm1", "vm3")
    for name in ("vm1", "vm3"):
        daemon.cairn("start", name)
        f = Flash(daemon, name)
        assert f.read(5) == 0x60 and f.read(7) == 0x61
        f.console.close()
    daemon.cairn("destroy", "vm3")
    daemon.cairn("managedsave", "vm1")
    assert "which has its UEFI variables" in daemon.cairn("start", "vm1", "--reset-nvram", ok=False).stderr
    daemon.cairn("start", "vm1", "--reset-nvram", "--force-boot")
    f = Flash(daemon, "vm1")
    assert f.read(5) == 2
    # A disk gets a slot before that of the bridge, and a load finds both in their places.
    more = tmp_path / "more"
    more.write_bytes(bytes(1 << 20))
    daemon.cairn("attach-disk", "vm1", str(more), "vdb", "--live")
    assert f.program(5, 0x70) == 0x70
    daemon.cairn("restart-process", "vm1")
    assert f.read(5) == 0x70 and f.program(5, 0x71) == 0x71
    f.console.close()
    clone.console.close()
    daemon.cairn("destroy", "vm2")
    for option in ((), ("--keep-nvram",), ("--nvram", "--keep-nvram")):
        assert "to remove the UEFI variables, use --nvram" in daemon.cairn("undefine", "vm2", *option, ok=False).stderr
    assert stored(daemon, "vm2", 5) == 0x51
    daemon.cairn("undefine", "vm2", "--nvram")
    assert not (daemon.state / "vms" / "vm2").exists()


def imported(daemon, folder, archive, name, *more):
    daemon.cairn("import", archive, *more, "--name", name, "--folder", str(folder))
    daemon.cairn("start", name)
    return Flash(daemon, name)


def test_archive_has_the_firmware_and_the_variables(daemon, kvm, tmp_path, uefi):
    disk = {"path": str(tmp_path / "disk.qcow2"), "format": "qcow2"}
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk["path"], "1M"], check=True)
    daemon.define("vm1", memory="16M", boot=uefi, disks=[disk])
    never, off, mon, tue = (str(tmp_path / f"{n}.tar") for n in ("never", "off", "mon", "tue"))
    daemon.cairn("export", "vm1", never)
    assert not (daemon.state / "vms" / "vm1" / "nvram").exists()
    daemon.cairn("snapshot-create-as", "vm1", "early")
    daemon.cairn("start", "vm1")
    f = Flash(daemon, "vm1")
    f.program(5, 0x42)
    daemon.cairn("snapshot-create-as", "vm1", "mon")
    f.program(5, 0x40)
    daemon.cairn("snapshot-create-as", "vm1", "tue")
    f.program(7, 0x61)
    daemon.cairn("export", "vm1", mon, "--snapshotname", "mon")
    daemon.cairn("export", "vm1", tue, "--snapshotname", "tue", "--since", "mon")
    daemon.cairn("export", "vm1", str(tmp_path / "early.tar"), "--snapshotname", "early")
    f.console.close()
    daemon.cairn("destroy", "vm1")
    daemon.cairn("export", "vm1", off)
    for name, archives, at5, at7 in (("never", [never], 2, 4), ("early", [str(tmp_path / "early.tar")], 2, 4), ("mon", [mon], 0x42, 4),
                                     ("tue", [mon, tue], 0x40, 4), ("off", [off], 0x40, 0x61)):
        f = imported(daemon, tmp_path, archives[0], name, *archives[1:])
        assert (name, f.read(5), f.read(7), f.read(1)) == (name, at5, at7, 2)
        f.console.close()
        daemon.cairn("destroy", name)
        daemon.cairn("undefine", name, "--nvram", "--remove-all-storage", "--snapshots-metadata")
        assert not (tmp_path / name).exists()


def test_export_redoes_a_write_that_was_cut_off(daemon, kvm, tmp_path, uefi):
    """Its record in the journal is complete, the content is not (devices/legacy/flash_file.h)."""
    daemon.define("vm1", memory="16M", boot=uefi)
    daemon.cairn("start", "vm1")
    f = Flash(daemon, "vm1")
    f.program(5, 0x42)
    f.console.close()
    daemon.cairn("destroy", "vm1")
    with open(daemon.state / "vms" / "vm1" / "nvram", "r+b") as n:
        n.seek(5)
        n.write(b"\xee")
    daemon.cairn("export", "vm1", str(tmp_path / "a.tar"))
    f = imported(daemon, tmp_path, str(tmp_path / "a.tar"), "vm2")
    assert f.read(5) == 0x42
    f.console.close()


@pytest.mark.parametrize("nvram, why", [
    (b"x" * 4096, "is truncated: it has 4096 bytes instead of 16384"),
    (b"x" * 40000, "is of another size (40000 bytes) than its template (16384 bytes)"),
], ids=["truncated", "size"])
def test_damaged_variables_are_refused(daemon, kvm, uefi, nvram, why):
    daemon.define("vm1", memory="16M", boot=uefi)
    (daemon.state / "vms" / "vm1" / "nvram").write_bytes(nvram)
    assert why in daemon.cairn("start", "vm1", ok=False).stderr
    assert (daemon.state / "vms" / "vm1" / "nvram").read_bytes() == nvram
    daemon.cairn("start", "vm1", "--reset-nvram")
    f = Flash(daemon, "vm1")
    assert f.read(1) == 2
    f.console.close()


@pytest.mark.parametrize("key, content, why", [
    ("loader", b"x" * 4096, "boot.loader: the file has 4096 bytes; a UEFI has at least 64 KiB"),
    ("loader", None, "No such file or directory"),
    ("nvram_template", b"x" * 5000, "boot.nvram_template: the file has 5000 bytes"),
    ("nvram_template", None, "No such file or directory"),
], ids=["rom-size", "rom-missing", "template-size", "template-missing"])
def test_wrong_files_are_refused(tmp_path, kvm, uefi, key, content, why):
    path = tmp_path / "file"
    if content:
        path.write_bytes(content)
    with Guest(definition(memory="16M", boot={**uefi, key: str(path)})) as g:
        assert g.wait() != 0
        assert why in g.log()


@pytest.mark.skipif(guestlib.host_kind() != "pvm", reason="UEFI runs here")
def test_uefi_is_refused_where_kvm_emulates_kernel_mode(daemon, kvm, tmp_path, uefi):
    volume = tmp_path / "rom"
    volume.write_bytes(bytes(40) + b"_FVH" + bytes(65536 - 44))
    daemon.define("vm1", memory="64M", boot={**uefi, "loader": str(volume)})
    said = daemon.cairn("start", "vm1", ok=False).stderr
    assert "UEFI does not run on this host, whose KVM emulates kernel mode (kvm-pvm)" in said and 'boot with firmware "bios"' in said
    assert daemon.cairn("domstate", "vm1").stdout == "shut off\n"


@pytest.mark.skipif(not os.path.exists(SECURE), reason="no package ovmf")
def test_uefi_with_smm_is_refused(daemon, uefi):
    said = daemon.cairn("define", daemon.write("vm1", memory="64M", boot={**uefi, "loader": SECURE}), ok=False).stderr
    assert f"boot.loader: {SECURE} needs system management mode" in said
