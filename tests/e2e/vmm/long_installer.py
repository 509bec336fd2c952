"""Debian's installer boots from an ISO in the CD drive and asks its first question. `make check-long`, part
"installer-svm" on the emulated host. CAIRN_INSTALLER is the folder with the installer's kernel and initrd
(tests/guests/debian/installer.sh)."""

import os
import shutil
import subprocess

import pytest

import grublib
import guestlib
from long_bios import SECONDS, attach
from test_bios import ROM, read_until

INSTALLER = os.environ.get("CAIRN_INSTALLER", "")
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() in ("none", "pvm"), reason="an installer takes hours where kernel mode is emulated"),
    pytest.mark.seconds(SECONDS),
]


@pytest.mark.skipif(not INSTALLER, reason="Debian's installer cannot be fetched: tests/guests/debian/installer.sh")
@pytest.mark.skipif(not os.path.exists(ROM), reason="no package seabios")
@pytest.mark.skipif(grublib.missing() is not None or not shutil.which("grub-mkrescue") or not shutil.which("xorriso"),
                    reason="no grub-mkrescue, no xorriso, or no GRUB for BIOS")
def test_installer_asks_its_first_question(daemon, kvm, tmp_path):
    """The VM boots GRUB, the kernel and the initrd of the CD drive. The disk is empty."""
    tree = tmp_path / "tree"
    (tree / "boot" / "grub").mkdir(parents=True)
    for name in ("linux", "initrd.gz"):
        shutil.copy(os.path.join(INSTALLER, name), tree / name)
    (tree / "boot" / "grub" / "grub.cfg").write_text(
        "serial --unit=0\nterminal_output serial\n"
        "linux /linux console=ttyS0 DEBIAN_FRONTEND=text mitigations=off random.trust_cpu=on\ninitrd /initrd.gz\nboot\n")
    iso, disk = str(tmp_path / "a.iso"), str(tmp_path / "disk")
    subprocess.run(["grub-mkrescue", "-o", iso, "--directory=/usr/lib/grub/i386-pc", "--fonts=", "--themes=", "--locales=", str(tree)],
                   check=True, capture_output=True)
    with open(disk, "wb") as f:
        f.truncate(1 << 30)
    daemon.define("vm1", memory="1G", boot=None, rng=True, disks=[
        {"path": disk, "format": "raw"}, {"device": "cdrom", "path": iso, "format": "raw"}])
    daemon.cairn("start", "vm1", "--boot", "cdrom")
    console = attach(daemon, "vm1")
    said = read_until(console, "Select a language")
    assert "GRUB" in said and "SeaBIOS (version" in said
    read_until(console, "English")
    console.close()
