"""--reset-identity with the real virt-sysprep, which runs in a machine emulated by QEMU: part "sysprep" of
`make check-long`. test_clone.py has the same with a virt-sysprep that only pretends."""

import json
import os
import re
import subprocess

import pytest

from conftest import ROOT, Console

ID = "0123456789abcdef0123456789abcdef"
# Files by which libguestfs recognizes a Debian, and its identity.
FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/debian_version": "12.0\n", "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "usr/bin/none": "", "bin/none": "", "var/lib/none": "",
    "etc/machine-id": ID + "\n", "etc/hostname": "golden\n", "etc/hosts": "127.0.1.1 golden\n",
    "etc/ssh/ssh_host_rsa_key": "a secret\n", "etc/ssh/sshd_config": "Port 22\n",
    "etc/udev/rules.d/70-persistent-net.rules": "SUBSYSTEM==\"net\"\n", "srv/data": "stays\n",
}
MAC = "52:54:00:00:00:07"

pytestmark = [
    pytest.mark.skipif("CAIRN_IN_SVMHOST" in os.environ, reason="its machine would be emulated twice over"),
    pytest.mark.seconds(1500),  # the emulated machine computes for half a minute, of which a busy host makes ten
]


@pytest.fixture
def appliance(tmp_path, monkeypatch):
    subprocess.run([os.path.join(ROOT, "tests/helpers/appliance.sh"), tmp_path / "appliance"], check=True)
    monkeypatch.setenv("LIBGUESTFS_PATH", str(tmp_path / "appliance"))
    # A KVM that emulates kernel mode cannot run libguestfs's kernel.
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")


@pytest.fixture
def golden(tmp_path):
    """A minimal disk that is recognized as a Debian."""
    root, raw, qcow2 = tmp_path / "root", tmp_path / "golden.raw", tmp_path / "golden.qcow2"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    raw.touch()
    os.truncate(raw, 64 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", root, raw], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return qcow2


def files_of(image, folder):
    """Copy the files of a disk to a folder."""
    raw = folder / "raw"
    folder.mkdir()
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    subprocess.run(["/sbin/debugfs", "-R", f"rdump / {folder}", raw], check=True, stderr=subprocess.DEVNULL)
    return folder


def mac_of(console):
    """Return the MAC that the guest reads from its network device."""
    while console.line() != "interp":
        pass
    console.run("net open 0")
    return re.search(r"mac=(\S+)", console.run("net show")[0]).group(1)


def test_clone_with_reset_identity_runs_beside_its_source(kvm, guest, appliance, golden, daemon, tmp_path):
    """The clone has another machine-id, host name and MAC. test_linux.py has Linux guests that see them."""
    daemon.define("golden", boot={"kernel": guest("interp.elf")}, disks=[{"path": str(golden), "format": "qcow2"}],
                  interfaces=[{"type": "user", "mac": MAC}])
    before = golden.read_bytes()
    q = daemon.qmp(timeout=None)
    job = daemon.cairn("clone", "golden", "web_2", "--reset-identity", "--no-wait").stdout.split()[-1]
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert [j.get("error") for j in q.jobs() if j["id"] == job] == [None]
    assert golden.read_bytes() == before
    definition = json.loads(daemon.cairn("dumpjson", "web_2").stdout)
    clone = files_of(definition["disks"][0]["path"], tmp_path / "clone")
    new = (clone / "etc/machine-id").read_text().strip()
    assert re.fullmatch("[0-9a-f]{32}", new) and new != ID
    assert (clone / "etc/hostname").read_text() == "web-2\n" and (clone / "etc/hosts").read_text() == "127.0.1.1 web-2\n"
    assert os.listdir(clone / "etc/ssh") == ["sshd_config"] and os.listdir(clone / "etc/udev/rules.d") == []
    assert (clone / "srv/data").read_text() == "stays\n"
    mac = definition["interfaces"][0]["mac"]
    assert mac != MAC
    daemon.cairn("start", "golden", "web_2")
    consoles = [Console(daemon, name) for name in ("golden", "web_2")]
    assert [mac_of(c) for c in consoles] == [MAC, mac]
    for console in consoles:
        console.close()
