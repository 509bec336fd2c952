"""Debian on a partitioned qcow2 disk, which mmdebstrap and grub-install have made (tests/guests/debian/disk.sh), boots
by SeaBIOS and by OVMF. `make check-long`, part "debian-svm" on the emulated host. CAIRN_DEBIAN_DISK is the folder of
the disk."""

import os
import re
import subprocess

import pytest

import guestlib
from conftest import BUILD
from long_bios import SECONDS, attach

DISK = os.path.join(os.environ.get("CAIRN_DEBIAN_DISK", ""), "disk.qcow2")
FORKS, FORKS_AT_ONCE = 20, 5  # the emulated host has 4 GiB
TABLES = {"APIC", "DSDT", "FACP"}
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() in ("none", "pvm"), reason="a distribution takes hours where kernel mode is emulated"),
    pytest.mark.skipif(not os.path.exists(DISK), reason="no disk of Debian: see what tests/guests/debian/disk.sh says"),
    pytest.mark.seconds(2 * SECONDS),
]


def define(daemon, tmp_path, firmware):
    disk = str(tmp_path / "disk.qcow2")
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", DISK, "-F", "qcow2", disk], check=True)
    daemon.define("vm1", memory="512M", boot={"firmware": firmware}, guest_agent=True, rng=True, disks=[
        {"path": disk, "format": "qcow2", "backing": [{"path": DISK, "format": "qcow2"}]}])


def boot(daemon, name, console):
    """Wait for the login prompt and the agent; return what the console said."""
    said = b""
    while b"debian login:" not in said:
        data = console.sock.recv(65536)
        assert data, "the console ended"
        print(data.decode(errors="replace"), end="", flush=True)
        said += data
    agent(daemon, name)
    return said.decode(errors="replace")


def agent(daemon, name):
    while daemon.cairn("wait", name, "--for", "agent", "--timeout", "60", ok=None).returncode:
        assert daemon.info(name)["state"] == "running"


def run(daemon, name, *argv):
    while True:
        r = daemon.cairn("exec", name, "--", *argv, ok=None)
        if not any(words in r.stderr for words in ("did not answer within", "agent was busy")):
            assert r.returncode == 0, r
            return r.stdout


def check_acpi(daemon, name, uefi):
    """The kernel has taken the tables that the firmware passed on, without complaint, and knows that firmware."""
    assert TABLES <= set(run(daemon, name, "ls", "/sys/firmware/acpi/tables").split())
    messages = run(daemon, name, "dmesg")
    for table in TABLES:
        assert re.search(rf"ACPI: {table} 0x[0-9A-F]+ ", messages), messages
    assert not re.search("ACPI (BIOS )?(Error|Warning)|ACPI: Unable", messages), messages
    assert ("efi: EFI v" in messages) == uefi


def power_off_by_button(daemon, name):
    daemon.cairn("shutdown", name, "--mode", "acpi")
    daemon.wait(name, "shutoff", SECONDS)


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_acpi_of_each_firmware(daemon, kvm, tmp_path, firmware):
    """The kernel takes the tables that the firmware passes on, and the power button turns the VM off."""
    define(daemon, tmp_path, firmware)
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    said = boot(daemon, "vm1", console)
    assert "GRUB" in said or "Loading Linux" in said
    check_acpi(daemon, "vm1", firmware == "uefi")
    power_off_by_button(daemon, "vm1")
    console.close()


def entries(daemon, name):
    """Return the number of the boot entry in use, and {name: number} of all."""
    said = run(daemon, name, "efibootmgr")
    return (re.search(r"^BootCurrent: (\w{4})", said, re.M)[1],
            {m[2].strip(): m[1] for m in re.finditer(r"^Boot(\w{4})\*? ([^\t\n]*)", said, re.M)})


def test_uefi_boot_entry_survives_revert_and_clone(daemon, kvm, tmp_path):
    """grub-install in the guest makes the boot entry."""
    define(daemon, tmp_path, "uefi")
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    boot(daemon, "vm1", console)
    assert "debian" not in entries(daemon, "vm1")[1]
    run(daemon, "vm1", "grub-install", "--bootloader-id=debian")
    own = entries(daemon, "vm1")[1]["debian"]
    daemon.cairn("reboot", "vm1", "--mode", "agent")  # by the button, the daemon would start another process
    boot(daemon, "vm1", console)
    assert entries(daemon, "vm1")[0] == own
    daemon.cairn("snapshot-create-as", "vm1", "one")
    run(daemon, "vm1", "efibootmgr", "-q", "-b", own, "-B")
    assert "debian" not in entries(daemon, "vm1")[1]
    daemon.cairn("snapshot-revert", "vm1", "one")
    agent(daemon, "vm1")
    assert entries(daemon, "vm1")[1]["debian"] == own
    power_off_by_button(daemon, "vm1")
    console.close()
    daemon.cairn("clone", "vm1", "vm2")
    daemon.cairn("start", "vm2")
    console = attach(daemon, "vm2")
    boot(daemon, "vm2", console)
    assert entries(daemon, "vm2")[0] == own
    console.close()


FIO = ["fio", "--name=v", "--filename=/var/tmp/v", "--size=16M", "--rw=randwrite", "--bs=16k", "--verify=crc32c", "--direct=1",
       "--ioengine=psync"]


def test_bios_boots_reverts_under_fio_and_forks(daemon, kvm, tmp_path):
    define(daemon, tmp_path, "bios")
    daemon.cairn("start", "vm1")
    console = attach(daemon, "vm1")
    said = boot(daemon, "vm1", console)
    assert "SeaBIOS (version" in said and "GRUB" in said
    assert run(daemon, "vm1", "systemctl", "is-active", "multi-user.target") == "active\n"
    run(daemon, "vm1", "systemd-run", "--unit=v", "--property=RemainAfterExit=yes", *FIO, "--loops=3")
    daemon.cairn("snapshot-create-as", "vm1", "one")
    run(daemon, "vm1", "sleep", "3")
    daemon.cairn("snapshot-revert", "vm1", "one")
    agent(daemon, "vm1")
    while run(daemon, "vm1", "systemctl", "show", "-P", "SubState", "v").strip() == "running":
        run(daemon, "vm1", "sleep", "1")
    assert run(daemon, "vm1", "systemctl", "show", "-P", "Result", "v") == "success\n"
    run(daemon, "vm1", "sh", "-c", "echo here >/var/tmp/here")
    for first in range(0, FORKS, FORKS_AT_ONCE):
        names = [f"clone{first + i}" for i in range(FORKS_AT_ONCE)]
        for name in names:
            daemon.cairn("clone", "--live", "vm1", name)
        for name in names:
            agent(daemon, name)
            assert run(daemon, name, "cat", "/var/tmp/here") == "here\n"
        for name in names:
            daemon.cairn("destroy", name)
    run(daemon, "vm1", *FIO, "--verify_only=1")
    power_off_by_button(daemon, "vm1")
    console.close()
