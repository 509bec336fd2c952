"""Kernels by each boot protocol, started without a firmware. tests/guests/bare/kernel32_main.c prints what it gets."""

import glob
import os
import struct
import uuid

import pytest

import guestlib
from conftest import Console
from guestlib import Guest, definition

KIND = guestlib.host_kind()
pytestmark = [
    pytest.mark.skipif(KIND == "none", reason="no usable /dev/kvm"),
    pytest.mark.seconds(240),
]
MEMTEST = {"ia32": "/boot/memtest86+ia32.bin", "x64": "/boot/memtest86+x64.bin"}
KERNELS = [("multiboot.elf", 0x2badb002), ("multiboot.bin", 0x2badb002), ("multiboot2.elf", 0x36d76289), ("bzimage32.bin", 0)]


def kernel32(kernel, cmdline, **boot):
    return Guest(definition(memory="16M", boot={"kernel": os.path.join(guestlib.GUESTS, kernel), "cmdline": cmdline, **boot}))


@pytest.mark.parametrize("kernel, magic", KERNELS)
def test_32_bit_kernel_starts(kernel, magic, tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"module " * 100)
    with kernel32(kernel, "first second", initrd=str(initrd)) as g:
        assert g.wait() == 5
        text = g.output.decode()
    assert f"kernel32 eax={magic:08x} " in text
    assert "cmdline=first second end" in text
    assert f"initrd={700:08x}module m" in text
    assert " ram=00000000+0009fc00 ram=00100000+00f00000" in text


@pytest.mark.parametrize("paging", ["32", "pae"])
def test_32_bit_kernel_turns_paging_on(paging):
    """Where KVM emulates kernel mode this cannot work, and the reason of the end says so."""
    with kernel32("multiboot.elf", f"paging={paging}") as g:
        if KIND == "pvm":
            assert g.wait() == guestlib.EXIT_CRASHED
            assert "in 32-bit mode, where this host's KVM, which emulates kernel mode (kvm-pvm), has no paging" in g.log()
        else:
            assert g.wait() == 5
            assert b" paging end" in g.output


@pytest.mark.parametrize("bits", MEMTEST)
def test_memtest86_starts(bits):
    """A kernel that nobody here wrote, without and with a 64-bit entry. It needs floating point."""
    if KIND == "pvm" and bits == "x64":
        pytest.skip("it measures the processor for a long time where kernel mode runs in an emulator")
    with Guest(definition(memory="16M", boot={"kernel": MEMTEST[bits], "cmdline": "console=ttyS0,115200"})) as g:
        if KIND == "pvm":
            assert g.wait() == guestlib.EXIT_CRASHED
            assert "emulates kernel mode (kvm-pvm) and does not know this instruction" in g.log()
        else:
            g.expect("Memtest86", 60 * guestlib.SLOW)


def test_kernel_that_starts_in_real_mode_is_refused():
    with Guest(definition(boot={"kernel": "/usr/lib/grub/i386-pc/lnxboot.img"})) as g:
        assert g.wait() == guestlib.EXIT_CONFIG
        assert 'starts in real mode (boot protocol 2.3; ' in g.log() and 'boot that with "firmware": "bios"' in g.log()


# ---- SMBIOS without a firmware ----

UUID = "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"


def smbios(command):
    """Return the structures that a guest finds by the entry point, by their types, as (bytes, texts).
    command: runs a command in the guest and returns the lines of the answer."""
    def memory(gpa, n):
        return b"".join(struct.pack("<Q", int(command(f"rd64 {gpa + i:#x}")[-1], 0)) for i in range(0, n, 8))[:n]

    entry = memory(0xf0000, 31)
    assert entry[:4] == b"_SM_" and sum(entry) % 256 == 0 and entry[16:21] == b"_DMI_" and sum(entry[16:]) % 256 == 0
    length, table, count = struct.unpack_from("<HIH", entry, 22)
    data, found = memory(table, length), {}
    while data:
        end = data.index(b"\0\0", data[1]) + 2
        found[data[0]] = (data[:data[1]], [t.decode() for t in data[data[1]:end - 2].split(b"\0")])
        data = data[end:]
    assert len(found) == count and found[127]
    return found


def test_smbios_without_firmware():
    """Linux shows these texts in /sys/class/dmi/id, the UUID as product_uuid."""
    sysinfo = {"serial": "S-1", "chassis": {"asset": "rack 7"}, "oem_strings": ["hello"]}
    with guestlib.interp(uuid=UUID, sysinfo=sysinfo) as g:
        found = smbios(g.command)
    assert found[1][0][8:24] == uuid.UUID(UUID).bytes_le
    assert found[1][1] == ["Cairn", "Cairn VM", "S-1"]
    assert found[3][1] == ["Cairn", "rack 7"]
    assert found[11][1] == ["hello"]
    assert found[0][1] == ["Cairn", "1", "01/01/2026"]


def test_clone_has_its_own_uuid_in_smbios(daemon):
    daemon.define("vm1", memory="16M", uuid=UUID, boot={"kernel": guestlib.bare("interp")})
    daemon.cairn("clone", "vm1", "vm2")
    daemon.cairn("start", "vm2")
    console = Console(daemon, "vm2")
    while console.line() != "interp":
        pass
    own = uuid.UUID(daemon.info("vm2")["uuid"])
    assert own != uuid.UUID(UUID)
    assert smbios(console.run)[1][0][8:24] == own.bytes_le
    console.close()


@pytest.mark.skipif(KIND == "pvm", reason="a distribution's kernel takes minutes where it runs in an emulator")
def test_linux_shows_smbios():
    """The stock kernel of Debian, which the emulated SVM host itself runs."""
    cache = os.environ.get("CAIRN_CACHE", os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "cairn"))
    kernels = glob.glob(os.path.join(cache, "svmhost-*", "vmlinux"))
    if not kernels:
        pytest.skip("no kernel of the SVM host")
    boot = {"kernel": kernels[0], "initrd": guestlib.linux_initrd(), "cmdline": guestlib.linux_cmdline() + " cairn.port=ttyS0"}
    with Guest(definition(memory="256M", boot=boot, uuid=UUID, sysinfo={"chassis": {"asset": "rack 7"}})) as g:
        g.expect("cairn-guest: ready", 180)
        g.line()
        for name, text in (("product_uuid", UUID), ("product_name", "Cairn VM"), ("chassis_asset_tag", "rack 7")):
            assert g.command(f"read /sys/class/dmi/id/{name}") == [text]
