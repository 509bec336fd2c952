"""Guests that boot from a network of Cairn, with the real cairn-net and dnsmasq: `make check-long`, part "net-svm",
which runs this file in the emulated SVM host. The firmware asks by DHCP, and gets all by TFTP."""

import os
import shutil
import tempfile

import pytest

import guestlib
from conftest import GUESTS, Console
from test_bios import NETWORK_ROM, ROM, read_until
from test_network_ports import lan, real  # noqa: F401

SECONDS = 1800
UEFI = "/usr/share/OVMF/OVMF_CODE_4M.fd"

pytestmark = [pytest.mark.seconds(SECONDS),
              pytest.mark.skipif("CAIRN_IN_SVMHOST" not in os.environ, reason="a start of Linux takes ten seconds elsewhere")]


@pytest.fixture
def root():
    """Yield a folder that dnsmasq's user can read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        yield folder


def serve(real, root, boot_file):  # noqa: F811
    real.cairn("net-destroy", "lan")
    real.define_net(ipv4={"address": "192.168.122.1", "prefix": 24, "tftp_root": root, "dhcp": {
        "ranges": [{"start": "192.168.122.2", "end": "192.168.122.99"}], "boot_file": boot_file}})
    real.cairn("net-start", "lan")


def console_of(real, **more):  # noqa: F811
    real.define("vm1", disks=[], rng=True, interfaces=[{"type": "network", "source": "lan", "boot_order": 1}], **more)
    real.cairn("start", "vm1")
    console = Console(real, "vm1")
    console.sock.settimeout(SECONDS)
    return console


@pytest.mark.skipif(not os.path.exists(ROM) or not os.path.exists(NETWORK_ROM), reason="no package seabios or ipxe-qemu")
def test_bios_guest_gets_a_script_and_linux(real, root):  # noqa: F811
    shutil.copy(os.path.join(guestlib.linux_kernel(), "bzImage"), f"{root}/linux")
    shutil.copy(guestlib.linux_initrd(), f"{root}/initrd")
    for name in "linux", "initrd":
        os.chmod(f"{root}/{name}", 0o644)
    os.mkdir(f"{root}/scripts", 0o755)
    with open(f"{root}/scripts/boot.ipxe", "w") as f:
        f.write(f"#!ipxe\necho script of ${{next-server}}\nkernel /linux {guestlib.linux_cmdline()} cairn.port=ttyS0\ninitrd /initrd\nboot\n")
    serve(real, root, "scripts/boot.ipxe")
    console = console_of(real, memory="128M", boot={"firmware": "bios"})
    said = read_until(console, "cairn-guest: ready")
    assert "script of 192.168.122." in said
    console.close()


@pytest.mark.skipif(not os.path.exists(UEFI), reason="no package ovmf")
def test_uefi_guest_gets_a_program(real, root):  # noqa: F811
    shutil.copy(os.path.join(GUESTS, "efi_app.efi"), f"{root}/boot.efi")
    os.chmod(f"{root}/boot.efi", 0o644)
    serve(real, root, "boot.efi")
    console = console_of(real, memory="128M", boot={"firmware": "uefi"})
    assert "Start PXE over IPv4" in read_until(console, "efi app")
    console.close()
