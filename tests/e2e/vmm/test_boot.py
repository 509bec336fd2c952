"""Kernels by each boot protocol, started without a firmware. tests/guests/bare/kernel32_main.c prints what it gets."""

import os

import pytest

import guestlib
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
    if not os.path.exists(MEMTEST[bits]):
        pytest.skip("no package memtest86+")
    with Guest(definition(memory="16M", boot={"kernel": MEMTEST[bits], "cmdline": "console=ttyS0,115200"})) as g:
        if KIND == "pvm":
            assert g.wait() == guestlib.EXIT_CRASHED
            assert "emulates kernel mode (kvm-pvm) and does not know this instruction" in g.log()
        else:
            g.expect("Memtest86", 60 * guestlib.SLOW)


def test_kernel_that_starts_in_real_mode_is_refused():
    kernel = "/usr/lib/grub/i386-pc/lnxboot.img"
    if not os.path.exists(kernel):
        pytest.skip("no package grub-pc-bin")
    with Guest(definition(boot={"kernel": kernel})) as g:
        assert g.wait() == guestlib.EXIT_CONFIG
        assert 'starts in real mode (boot protocol 2.3; ' in g.log() and 'boot that with "firmware": "bios"' in g.log()
