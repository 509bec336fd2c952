"""Linux's drivers for devices that come and go while it runs: SCSI disks and CD drives, disks that are attached by ACPI
hot-plug, the balloon. Few tests, because each starts Linux."""

import os
import subprocess

import pytest

import guestlib
from clonelib import own_kib
from conftest import until
from test_linux import begin

KIND = guestlib.host_kind()
MIB = 1 << 20
pytestmark = [
    pytest.mark.skipif(KIND == "none", reason="no usable /dev/kvm"),
    pytest.mark.skipif(KIND == "pvm", reason="one start of Linux is enough where a kernel runs in an emulator; "
                                             "test_svmhost.py runs this one"),
    pytest.mark.seconds(300),
]


def filled(path, byte, size=MIB):
    with open(path, "wb") as f:
        f.write(bytes([byte]) * size)
    return str(path)


def qcow2(path, size="32M"):
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return {"path": str(path), "format": "qcow2"}


def names(console):
    """Return the disks that Linux has."""
    return sorted(line.split()[0] for line in console.run("block"))


def grow(daemon, console, disk, mib):
    """Linux sees the disk's new size without any action in the guest."""
    daemon.cairn("blockresize", "linux", disk, f"{mib}M")
    until(lambda: any(line.startswith(f"{disk} sectors {mib << 11} ") for line in console.run("block")))


def test_scsi_disk_and_cd_drive(daemon, tmp_path):
    """Unmap; a medium that is locked, changed, ejected by the host and by the guest, and inserted."""
    disk, cd, other = (filled(tmp_path / n, b, size) for n, b, size in (("disk", 1, 8 * MIB), ("cd", 2, MIB), ("other", 3, 2 * MIB)))
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-b", "4096", cd], check=True)
    console = begin(daemon, disks=[
        {"path": disk, "format": "raw", "bus": "scsi", "serial": "cairn-7"},
        {"id": "sdb", "device": "cdrom", "bus": "scsi", "path": cd, "format": "raw"}])
    assert names(console) == ["sda", "sr0"]
    console.run("fill /dev/sda 0 4M 5 direct")
    console.run("verify /dev/sda 0 4M 5 direct")
    grow(daemon, console, "sda", 12)
    console.run("discard /dev/sda 1M 1M")
    console.run("zeroout /dev/sda 2M 1M")
    with open(disk, "rb") as f:
        f.seek(MIB)
        assert f.read(2 * MIB) == bytes(2 * MIB)
    assert os.stat(disk).st_blocks * 512 <= 7 * MIB
    one = console.run("sum /dev/sr0")
    assert one[0].split()[2] == str(MIB) and console.run("tray /dev/sr0") == ["disc"]
    # A mounted medium.
    console.run("mount /dev/sr0 /mnt ext2 ro")
    assert "keeps the tray of sdb locked" in daemon.cairn("change-media", "linux", "sdb", other, ok=False).stderr
    console.run("umount /mnt")
    daemon.cairn("change-media", "linux", "sdb", other)
    assert console.run("sum /dev/sr0")[0].split()[2] == str(2 * MIB)
    daemon.cairn("change-media", "linux", "sdb", "--eject")
    assert console.run("tray /dev/sr0") == ["empty"]
    daemon.cairn("change-media", "linux", "sdb", cd, "--insert")
    assert console.run("sum /dev/sr0") == one
    # The guest opens the tray, and closes it.
    q = daemon.qmp()
    console.run("eject /dev/sr0")
    q.event("DEVICE_TRAY_MOVED", **{"tray-open": True})
    assert console.run("tray /dev/sr0") == ["open"] and daemon.figures("linux")["disks"][1]["tray-open"]
    console.run("eject /dev/sr0 close")
    q.event("DEVICE_TRAY_MOVED", **{"tray-open": False})
    assert console.run("sum /dev/sr0") == one
    console.close()


def test_disk_comes_and_goes(daemon, tmp_path):
    """A disk of the start goes. Another one comes and goes, with I/O, a snapshot, a revert, and a revert to before the
    disk came."""
    console = begin(daemon, disks=[qcow2(tmp_path / "a"), qcow2(tmp_path / "c")])
    plugged = qcow2(tmp_path / "b")["path"]
    console.run("fill /dev/vdb 0 4M 4 direct")
    assert daemon.cairn("detach-disk", "linux", "vdb", "--timeout", "60").stdout == "Disk detached successfully\n"
    console.run("await /dev/vdb gone")
    daemon.cairn("snapshot-create-as", "linux", "before")
    q = daemon.qmp()
    for _ in range(2):
        daemon.cairn("attach-disk", "linux", plugged, "vdb", "--live", "--subdriver", "qcow2")
        console.run("await /dev/vdb")
        console.run("fill /dev/vdb 0 4M 5 direct")
        console.run("verify /dev/vdb 0 4M 5 direct")
        assert daemon.cairn("detach-disk", "linux", "vdb", "--timeout", "60").stdout == "Disk detached successfully\n"
        q.event("DEVICE_DELETED", device="vdb")
        console.run("await /dev/vdb gone")
    daemon.cairn("attach-disk", "linux", plugged, "vdb", "--live", "--subdriver", "qcow2")
    console.run("await /dev/vdb")
    grow(daemon, console, "vdb", 40)
    console.run("fill /dev/vdb 36M 1M 6 direct")
    console.run("verify /dev/vdb 36M 1M 6 direct")
    console.run("fill-ram 4 3")
    daemon.cairn("snapshot-create-as", "linux", "with")
    console.run("fill /dev/vdb 0 4M 6 direct")
    daemon.cairn("snapshot-revert", "linux", "with")
    console.run("verify /dev/vdb 0 4M 5 direct")
    console.run("verify-ram 3")
    daemon.cairn("snapshot-revert", "linux", "before")
    q.event("DEVICE_DELETED", device="vdb")
    assert names(console) == ["vda"]
    console.run("fill /dev/vda 0 4M 7 direct")
    console.run("verify /dev/vda 0 4M 7 direct")
    console.close()


def test_scsi_disk_comes_and_goes(daemon, tmp_path):
    """The controller comes with its first disk. Further disks and a CD drive come and go by its events, also while the
    VM is paused, with I/O under way, a snapshot, a revert, and a revert to before the disks came. The controller goes
    at last."""
    console = begin(daemon, disks=[qcow2(tmp_path / "a")])
    one, two = qcow2(tmp_path / "b")["path"], qcow2(tmp_path / "c")["path"]
    cd = filled(tmp_path / "cd", 2)

    def attach(path, target, *more):
        daemon.cairn("attach-disk", "linux", path, target, "--targetbus", "scsi", "--live", *more)

    daemon.cairn("snapshot-create-as", "linux", "before")
    q = daemon.qmp()
    attach(one, "sda", "--subdriver", "qcow2")
    console.run("await /dev/sda")
    console.run("fill /dev/sda 0 4M 5 direct")
    for i in range(3):
        attach(two, "sdb", "--subdriver", "qcow2")
        console.run("await /dev/sdb")
        if i:
            console.run(f"verify /dev/sdb 0 4M {i} direct")
        console.run(f"fill /dev/sdb 0 4M {i + 1} direct")
        assert daemon.cairn("detach-disk", "linux", "sdb").stdout == "Disk detached successfully\n"
        q.event("DEVICE_DELETED", device="sdb")
        console.run("await /dev/sdb gone")
    attach(cd, "sdc", "--type", "cdrom")
    console.run("await /dev/sr0")
    assert console.run("sum /dev/sr0")[0].split()[2] == str(MIB)
    # The guest is paused: it learns at the resume that it has missed events.
    daemon.cairn("suspend", "linux")
    daemon.cairn("detach-disk", "linux", "sdc")
    attach(two, "sdb", "--subdriver", "qcow2")
    daemon.cairn("resume", "linux")
    console.run("await /dev/sr0 gone")
    console.run("await /dev/sdb")
    console.run("verify /dev/sdb 0 4M 3 direct")
    grow(daemon, console, "sdb", 40)
    console.run("fill-ram 4 3")
    daemon.cairn("snapshot-create-as", "linux", "with")
    console.run("fill /dev/sdb 0 4M 6 direct")
    daemon.cairn("snapshot-revert", "linux", "with")
    console.run("verify /dev/sdb 0 4M 3 direct")
    console.run("verify-ram 3")
    assert names(console) == ["sda", "sdb", "vda"]
    # A disk of several, while the guest writes to it; then the controller with the last one.
    console.sock.sendall(b"fill /dev/sda 0 32M 7 direct\n")
    assert daemon.cairn("detach-disk", "linux", "sda").stdout == "Disk detached successfully\n"
    until(lambda: console.line().startswith(("error: ", "ok")))  # the error of a request, or of a disk that is gone
    until(lambda: names(console) == ["sdb", "vda"])
    console.run("verify /dev/sdb 0 4M 3 direct")
    assert daemon.cairn("detach-disk", "linux", "sdb", "--timeout", "60").stdout == "Disk detached successfully\n"
    console.run("await /dev/sdb gone")
    daemon.cairn("snapshot-revert", "linux", "before")
    assert names(console) == ["vda"]
    attach(one, "sda", "--subdriver", "qcow2")
    console.run("await /dev/sda")
    console.run("fill /dev/vda 0 4M 7 direct")
    console.run("verify /dev/vda 0 4M 7 direct")
    console.close()


def balloon(daemon):
    return daemon.figures("linux")["balloon"]


def test_balloon(daemon):
    """Inflation, statistics, deflation by the host and for want of memory; reports of free pages."""
    console = begin(daemon, memory="256M", balloon=True)
    console.run("fill-ram 160 1")
    console.run("free-ram")
    before = own_kib(daemon, "linux")
    daemon.cairn("dommemstat", "linux", "--period", "1", "--live")
    until(lambda: "available" in balloon(daemon))
    stats = dict(l.split() for l in daemon.cairn("dommemstat", "linux").stdout.splitlines())
    assert 200 << 10 < int(stats["usable"]) <= int(stats["available"]) <= int(stats["actual"]) == 256 << 10
    daemon.cairn("setmem", "linux", "96M", "--live")
    until(lambda: daemon.figures("linux")["used-memory"] == 96 * MIB)
    assert before - own_kib(daemon, "linux") > 64 << 10
    # Linux takes pages out of the balloon before it kills a process.
    console.run("fill-ram 112 2")
    console.run("verify-ram 2")
    assert daemon.figures("linux")["used-memory"] > 112 * MIB
    daemon.cairn("setmem", "linux", "256M", "--live")
    until(lambda: daemon.figures("linux")["used-memory"] == 256 * MIB)
    console.run("verify-ram 2")
    full, reported = own_kib(daemon, "linux"), balloon(daemon)["reported"]
    console.run("free-ram")
    until(lambda: balloon(daemon)["reported"] - reported >= 32 * MIB)
    until(lambda: full - own_kib(daemon, "linux") >= 32 << 10)
    console.run("fill-ram 96 4")
    console.run("verify-ram 4")
    console.close()


def vcpus_set(daemon, console, n):
    """Linux gets the vCPUs, or releases them; it takes new ones online when it is told to."""
    daemon.cairn("setvcpus", "linux", str(n), "--timeout", "45")
    for i in range(1, n):
        console.run(f"await /sys/devices/system/cpu/cpu{i}/online")
        console.run(f"cpu {i} on")
    assert console.run("cpus")[0] == str(n)


def test_vcpus_come_and_go(daemon):
    console = begin(daemon, vcpus=1, max_vcpus=3, boot=guestlib.linux_definition(variant="smp")["boot"])
    assert console.run("cpus")[0] == "1"
    vcpus_set(daemon, console, 3)
    assert len(console.run("run-cpus 300")) == 3
    q = daemon.qmp()
    vcpus_set(daemon, console, 2)
    q.event("DEVICE_DELETED", device="vcpu2")
    console.run("await /sys/devices/system/cpu/cpu2/online gone")
    vcpus_set(daemon, console, 3)
    assert len(console.run("run-cpus 300")) == 3
    vcpus_set(daemon, console, 1)
    # After a reboot, Linux boots with what it has.
    vcpus_set(daemon, console, 2)
    console.sock.sendall(b"reboot\n")
    until(lambda: console.line() == "cairn-guest: ready")
    assert console.run("cpus")[0] == "2"
    assert daemon.info("linux")["vcpus"] == 2
    console.close()
