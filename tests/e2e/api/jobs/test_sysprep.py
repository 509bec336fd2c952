"""--reset-identity with the real virt-sysprep, which runs in a machine emulated by QEMU."""

import json
import os
import re
import subprocess

import pytest

import guestlib
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
    pytest.mark.seconds(1500),  # the first test that needs a kernel builds it
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


def booted(daemon, name):
    console = Console(daemon, name)
    console.sock.settimeout(180)
    while console.line() != "cairn-guest: ready":
        pass
    console.run("mount /dev/vda /mnt ext4")
    return console


def read(console, name):
    return console.run(f"read /mnt/{name}")[0]


def listed(console, folder):
    return " ".join(console.run(f"ls /mnt/{folder}"))


def test_clone_with_reset_identity_runs_beside_its_source(kvm, appliance, golden, daemon):
    """Another machine-id, host name and MAC, as seen by the guests."""
    keys = {k: v for k, v in guestlib.linux_definition().items() if k != "name"}
    daemon.define("golden", **keys, disks=[{"path": str(golden), "format": "qcow2"}],
                  interfaces=[{"type": "user", "mac": MAC}])
    before = golden.read_bytes()
    q = daemon.qmp()
    job = daemon.cairn("clone", "golden", "web_2", "--reset-identity", "--no-wait").stdout.split()[-1]
    q.sock.settimeout(300)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert [j.get("error") for j in q.jobs() if j["id"] == job] == [None]
    assert golden.read_bytes() == before
    daemon.cairn("start", "golden", "web_2")
    source, clone = (booted(daemon, n) for n in ("golden", "web_2"))
    assert [read(source, f"etc/{f}") for f in ("machine-id", "hostname")] == [ID, "golden"]
    new = read(clone, "etc/machine-id")
    assert re.fullmatch("[0-9a-f]{32}", new) and new != ID
    assert read(clone, "etc/hostname") == "web-2" and read(clone, "etc/hosts") == "127.0.1.1 web-2"
    assert "rsa_key" in listed(source, "etc/ssh") and "persistent" in listed(source, "etc/udev/rules.d")
    assert "rsa_key" not in listed(clone, "etc/ssh") and "sshd_config" in listed(clone, "etc/ssh")
    assert "persistent" not in listed(clone, "etc/udev/rules.d") and read(clone, "srv/data") == "stays"
    mac = json.loads(daemon.cairn("dumpjson", "web_2").stdout)["interfaces"][0]["mac"]
    assert mac != MAC
    assert MAC in " ".join(source.run("net")) and mac in " ".join(clone.run("net"))
    for console in (source, clone):
        console.close()
