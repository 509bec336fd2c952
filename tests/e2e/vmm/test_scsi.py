"""Disks with bus scsi: a bare-metal guest drives the controller; SeaBIOS boots a disk and a CD of our own (El Torito)
from it."""

import json
import os
import resource
import struct

import pytest

import guestlib
from test_bios import ROM, attach, count, qcow2, read_until, write_disk
from conftest import GUESTS, Console, QmpError, until
from test_bare import image  # noqa: F401 (a fixture)
from guestlib import GuestError, disk, fields, interp

BLOCK = 2048
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm"),
    pytest.mark.seconds(240),
]
needs_bios = pytest.mark.skipif(not os.path.exists(ROM), reason="no package seabios")


def both(fmt_bytes, value):
    """A number in both byte orders, as ISO 9660 has it."""
    code = {2: "H", 4: "I"}[fmt_bytes]
    return struct.pack("<" + code, value) + struct.pack(">" + code, value)


def write_iso(path):
    """Write an ISO 9660 image that boots our boot sector without emulation (El Torito 1.0)."""
    with open(os.path.join(GUESTS, "boot_sector.bin"), "rb") as f:
        sector = f.read()
    root = struct.pack("BB", 34, 0) + both(4, 20) + both(4, BLOCK) + bytes(7) + b"\2\0\0" + both(2, 1) + b"\1\0"
    volume = bytearray(BLOCK)
    volume[0:7] = b"\1CD001\1"
    volume[40:72] = b"CAIRN".ljust(32)
    volume[80:88] = both(4, 24)
    volume[128:132] = both(2, BLOCK)
    volume[156:190] = root
    record = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", 19)
    validation = bytearray(struct.pack("<BBH24sHBB", 1, 0, 0, b"CAIRN", 0, 0x55, 0xaa))
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xffff)
    initial = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 21)
    blocks = {16: volume, 17: record, 18: b"\xffCD001\1", 19: bytes(validation) + initial, 20: b"", 21: sector}
    with open(path, "wb") as f:
        for n, content in blocks.items():
            f.seek(n * BLOCK)
            f.write(content)
        f.truncate(24 * BLOCK)
    return str(path)


@pytest.mark.parametrize("size, queues, without, depth", [(0, 1, 0, 32), (64, 2, 3 << 28, 32)])
def test_guest_reads_writes_flushes_and_unmaps(image, size, queues, without, depth):
    """With and without indirect descriptors and event indices. The first disk is another one, so a command for the
    wrong target fails."""
    other = f"{image}.other"
    with open(other, "wb") as f:
        f.truncate(4096)
    with interp(vcpus=2, disks=[disk(other, id="sda", bus="scsi"), disk(image, id="sdb", bus="scsi", serial="cairn-7")]) as g:
        g.command(f"sopen 1 512 {size} {queues} {without:#x}")
        assert g.values("scsi 12018000ff 255")["data"][8:] == b"cairn-7".hex()
        g.command("write 7 200 42")
        g.command("flush")
        g.command("verify 7 200 42")
        with open(image, "rb") as f:
            f.seek(64 * 512)
            assert any(f.read(4096))
            g.command("discard 64 64")
            f.seek(64 * 512)
            assert not any(f.read(4096))
        g.command("verify 7 57 42")
        g.command("verify 128 79 42")
        for command in ("write 32767 2 5", "sum 32768 1", "discard 32767 2"):
            with pytest.raises(GuestError, match="unsupported"):  # an illegal request: beyond the end
                g.command(command)
        work = g.values(f"bench randwrite {depth} 1000 4096 16384 1")
        assert (work["requests"], work["errors"]) == (1000, 0)
        assert g.values("scsi 000000000000")["status"] == 0
        g.command("sopen 2 512")
        assert g.values("scsi 000000000000")["response"] == 3  # no such target


def test_revert_goes_on_with_commands_in_flight(daemon, kvm, tmp_path):
    """By its limit, the disk has 32 commands that wait when the snapshot is made. After the revert, each gets one
    answer."""
    daemon.define("vm1", disks=[{**qcow2(tmp_path / "a", b""), "bus": "scsi", "iops": 4}], boot={"kernel": guestlib.bare("interp")})
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    assert console.line() == "interp"
    console.run("sopen 0 512")
    console.run("write 8 1 6")
    console.sock.sendall(b"bench randwrite 32 1500 4096 2048 1\n")
    until(lambda: daemon.figures("vm1")["disks"][0]["wr-reqs"] > 2)
    daemon.cairn("snapshot-create-as", "vm1", "one")
    daemon.cairn("snapshot-revert", "vm1", "one")
    daemon.cairn("blkdeviotune", "vm1", "sda", "--total-iops-sec", "0", "--live")
    work = fields(console.line())
    assert (work["requests"], work["errors"]) == (1500, 0) and console.line() == "ok"
    console.run("write 8 1 7")
    console.run("verify 8 1 7")
    console.close()


READ, READY, LOCK, ASKED, OPEN = "28000000000000000100", "000000000000", "1e0000000100", "4a010000100000000800", "1b0000000200"
CHANGED = "0x6/0x28/0x0"


class Drive:
    """vm1 with an ISO of 0xab in its CD drive sdb, another ISO of 0xcd, and a qcow2 disk."""

    def __init__(self, daemon, folder):
        self.ab, self.cd = (str(folder / f"{c}.iso") for c in ("ab", "cd"))
        for path in (self.ab, self.cd):
            with open(path, "wb") as f:
                f.write(bytes.fromhex(path[-6:-4]) * 65536)
        self.daemon = daemon
        daemon.define("vm1", disks=[qcow2(folder / "a", b""), {"id": "sdb", "device": "cdrom", "bus": "scsi", "path": self.ab, "format": "raw"}],
                      boot={"kernel": guestlib.bare("interp")})
        daemon.cairn("start", "vm1")
        self.console = Console(daemon, "vm1")
        assert self.console.line() == "interp"
        self.console.run("sopen 0 2048")

    def scsi(self, command, size=0):
        return fields(self.console.run(f"scsi {command} {size}")[-1])

    def content(self):
        return self.scsi(READ, 2048)["data"][:2]

    def change(self, *args, ok=True):
        return self.daemon.cairn("change-media", "vm1", "sdb", *args, ok=ok)

    def source(self, *more):
        return json.loads(self.daemon.cairn("domblklist", "vm1", "--format", "json", *more).stdout)[1].get("path")

    def tray_open(self):
        return self.daemon.figures("vm1")["disks"][1]["tray-open"]


def test_medium_is_changed_while_the_guest_runs(daemon, kvm, tmp_path):
    d = Drive(daemon, tmp_path)
    assert d.content() == "ab" and not d.tray_open()
    # The guest keeps the tray locked, and is asked for the medium.
    assert d.scsi(LOCK)["status"] == 0
    assert "the guest keeps the tray of sdb locked" in d.change(d.cd, ok=False).stderr
    assert d.source() == d.ab and d.content() == "ab"
    assert d.scsi(ASKED, 8)["data"][8:10] == "01"
    assert d.change(d.cd, "--force").stdout == "Successfully updated media.\n"
    assert d.scsi(READY)["sense"] == CHANGED
    assert d.content() == "cd" and d.source() == d.cd and d.source("--inactive") == d.ab
    # No medium, and one again.
    assert d.change("--eject").stdout == "Successfully ejected media.\n"
    assert d.scsi(READY)["sense"] == CHANGED and d.scsi(READY)["sense"] == "0x2/0x3a/0x0"
    assert d.source() is None and "doesn't have media" in d.change("--eject", ok=False).stderr
    for words, args in [("No such file", [str(tmp_path / "none.iso")]), ("is a qcow2 image", [str(tmp_path / "a")])]:
        assert words in d.change(*args, ok=False).stderr
    assert d.source() is None
    d.change(d.ab, "--insert")
    assert d.scsi(READY)["sense"] == CHANGED and d.content() == "ab"
    # The guest opens the tray, and a change closes it.
    q = daemon.qmp()
    assert d.scsi(OPEN)["status"] == 0
    q.event("DEVICE_TRAY_MOVED", **{"tray-open": True})
    assert d.tray_open()
    d.change(d.cd, "--live", "--config")
    assert d.source() == d.source("--inactive") == d.cd
    q.event("DEVICE_TRAY_MOVED", **{"tray-open": False})
    assert not d.tray_open()
    # A new process and a new daemon know the medium.
    daemon.cairn("restart-process", "vm1")
    assert d.scsi(READY)["sense"] == CHANGED and d.content() == "cd"
    assert "The disk device 'vda' is not removable" in daemon.cairn("change-media", "vm1", "vda", d.ab, ok=False).stderr
    d.console.close()


def reverted(daemon, name, *more):
    return json.loads(daemon.cairn("snapshot-revert", "vm1", name, "--format", "json", *more).stdout)


def test_revert_gives_the_drive_the_medium_of_the_snapshot(daemon, kvm, tmp_path):
    """Both media have the same size. The medium of the next start stays as it is."""
    d = Drive(daemon, tmp_path)
    assert d.content() == "ab"
    daemon.cairn("snapshot-create-as", "vm1", "ab")
    assert not reverted(daemon, "ab")["stopped"] and d.content() == "ab"
    d.change("--eject")
    daemon.cairn("snapshot-create-as", "vm1", "none")
    d.change(d.cd)
    daemon.cairn("snapshot-create-as", "vm1", "cd")
    d.console.close()
    for off in (False, True):
        for name, medium in (("ab", d.ab), ("none", None), ("cd", d.cd)):
            if off:
                daemon.cairn("destroy", "vm1")
            would = reverted(daemon, name, "--dry-run")
            assert would["stopped"] == (not off) and would["disks-lost"] == ["vda"]
            r = reverted(daemon, name)
            assert (r["state"], r["stopped"]) == ("running", not off) and "warnings" not in r
            assert d.source() == medium and d.source("--inactive") == d.ab
            d.console = Console(daemon, "vm1")
            if medium:
                assert d.scsi(READY)["sense"] in (None, "0x0/0x0/0x0", CHANGED)
                assert d.content() == medium[-6:-4]
            else:
                assert d.scsi(READY)["sense"] in (CHANGED, "0x2/0x3a/0x0") and d.scsi(READY)["sense"] == "0x2/0x3a/0x0"
            d.console.close()
    assert not reverted(daemon, "cd")["stopped"]


def test_pause_of_a_revert_has_the_start_of_a_new_process(daemon, kvm, tmp_path):
    """The guest stands from the end of the old process on."""
    d = Drive(daemon, tmp_path)
    daemon.cairn("snapshot-create-as", "vm1", "ab")
    d.change(d.cd)
    q = daemon.qmp()
    job = q.run("snapshot-revert", vm="vm1", name="ab")["job"]
    result = q.run("job-wait", id=job)["result"]
    at = {e["data"]["state"]: e["timestamp"]["seconds"] * 1000000 + e["timestamp"]["microseconds"]
          for e in q.events if e["event"] == "VM_STATE_CHANGE"}
    assert result["stopped"] and result["pause"] >= (at["running"] - at["shutoff"]) * 1000 > 0
    d.console.close()


def test_revert_empties_the_drive_if_the_medium_is_gone(daemon, kvm, tmp_path):
    d = Drive(daemon, tmp_path)
    daemon.cairn("snapshot-create-as", "vm1", "ab")
    d.change(d.cd)
    os.rename(d.ab, d.ab + ".moved")
    text = f"the CD drive sdb is empty, because the file of its medium is gone: {d.ab}"
    assert reverted(daemon, "ab", "--dry-run")["warnings"] == [text]
    assert d.source() == d.cd
    r = daemon.cairn("snapshot-revert", "vm1", "ab")
    assert r.stderr == f"warning: {text}\n"
    assert d.source() is None and d.source("--inactive") == d.ab
    d.console.close()
    d.console = Console(daemon, "vm1")
    assert d.scsi(READY)["sense"] == CHANGED and d.scsi(READY)["sense"] == "0x2/0x3a/0x0"
    d.console.close()
    # So is that of a VM that is off.
    daemon.cairn("destroy", "vm1")
    d.change(d.cd, "--config")
    assert reverted(daemon, "ab")["warnings"] == [text] and d.source() is None
    # With the file, the drive has its medium again.
    os.rename(d.ab + ".moved", d.ab)
    assert "warnings" not in reverted(daemon, "ab") and d.source() == d.ab and d.source("--inactive") == d.cd


def test_revert_that_cannot_look_at_the_medium_is_refused(daemon, kvm, tmp_path):
    """Without free fds, no process can look whether its file is there. The CD drive is the last disk."""
    d = Drive(daemon, tmp_path)
    daemon.cairn("snapshot-create-as", "vm1", "ab")
    d.change(d.cd)
    q, pid = daemon.qmp(), daemon.proc.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 12
    refused = 0
    for free in range(24):  # some of these let the revert begin, and then have too few
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most - free, limits[1]))
        try:
            job = q.run("snapshot-revert", vm="vm1", name="ab", dry_run=True)["job"]
            error = q.run("job-wait", id=job).get("error")
            q.run("job-dismiss", id=job)
        except QmpError as e:
            error = str(e)
        assert not error or "Too many open files" in error
        refused += error is not None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert 0 < refused < 24 and d.source() == d.cd and daemon.proc.poll() is None
    reverted(daemon, "ab")
    assert d.source() == d.ab
    d.console.close()


@needs_bios
def test_bios_boots_disk_and_cd_of_the_controller(daemon, kvm, tmp_path):
    """vm1 boots its second SCSI disk; vm2 has an empty disk, a SCSI disk without a boot sector and a CD, and boots the
    CD. A snapshot continues after a revert."""
    empty = {"path": write_disk(tmp_path / "e", bootable=False), "format": "raw"}
    daemon.define("vm1", memory="64M", boot=None, disks=[
        {**qcow2(tmp_path / "a", b"disk a"), "bus": "scsi"}, {**qcow2(tmp_path / "b", b"disk b"), "bus": "scsi", "boot_order": 1}])
    daemon.define("vm2", memory="64M", boot=None, disks=[
        empty, {"path": write_disk(tmp_path / "f", bootable=False), "format": "raw", "bus": "scsi"},
        {"device": "cdrom", "bus": "scsi", "path": write_iso(tmp_path / "cd.iso"), "format": "raw"}])
    daemon.cairn("start", "vm1")
    daemon.cairn("start", "vm2", "--boot", "cdrom")
    console, cd = attach(daemon, "vm1"), attach(daemon, "vm2")
    said = read_until(console, "boot sector ready")
    assert "disk b" in said and "disk a" not in said
    assert count(console) == "1"
    daemon.cairn("snapshot-create-as", "vm1", "one")
    assert count(console) == "2"
    daemon.cairn("snapshot-revert", "vm1", "one")
    assert count(console) == "2"
    stats = daemon.figures("vm1")["disks"]
    assert [d["id"] for d in stats] == ["sda", "sdb"] and "rd" in str(stats[1]), stats
    said = read_until(cd, "boot sector ready")
    assert "Booting from DVD/CD" in said
    for c in (console, cd):
        c.close()


@needs_bios
def test_start_says_how_a_cd_image_boots(daemon, kvm, tmp_path):
    """The only boot record is that of a CD in a drive with bus virtio or on a disk; an image that is a qcow2."""
    iso = write_iso(tmp_path / "cd.iso")
    with open(iso, "r+b") as f:
        f.write(bytes(512))
    image = qcow2(tmp_path / "q", b"q")
    for n, (one, want) in enumerate([
            ({"device": "cdrom", "path": iso}, 'vda has the boot record of a CD: give it "device": "cdrom" and "bus": "scsi"'),
            ({"bus": "scsi", "path": iso}, 'sda has the boot record of a CD: give it "device": "cdrom" and "bus": "scsi"'),
            ({"device": "cdrom", "path": image["path"]}, 'vda is a qcow2 image: give it "format": "qcow2"'),
            ({"device": "cdrom", "bus": "scsi", "path": image["path"]}, 'sda is a qcow2 image: give it "format": "qcow2"')]):
        daemon.define(f"vm{n}", memory="64M", boot=None, disks=[{**one, "format": "raw"}])
        assert want in daemon.cairn("start", f"vm{n}", ok=False).stderr
        assert daemon.cairn("domstate", f"vm{n}").stdout == "shut off\n"


@needs_bios
def test_cd_without_boot_record_is_named(daemon, kvm, tmp_path):
    path = tmp_path / "cd.iso"
    with open(path, "wb") as f:
        f.truncate(1 << 20)
    daemon.define("vm1", memory="64M", boot=None, disks=[{"device": "cdrom", "bus": "scsi", "path": str(path), "format": "raw"}])
    assert "no disk has a boot sector (sda)" in daemon.cairn("start", "vm1", ok=False).stderr


@pytest.mark.parametrize("device", ["cdrom", "disk"])
def test_raw_image_with_format_qcow2_is_refused(daemon, kvm, tmp_path, device):
    """The reverse of a qcow2 image whose format is raw. The image stays as it is, also as a medium."""
    iso, before = write_iso(tmp_path / "cd.iso"), (tmp_path / "cd.iso").read_bytes()
    daemon.define("vm1", disks=[{"device": device, "bus": "scsi", "path": iso, "format": "qcow2"}])
    assert "not a qcow2 image" in daemon.cairn("start", "vm1", ok=False).stderr
    assert daemon.cairn("domstate", "vm1").stdout == "shut off\n"
    assert (tmp_path / "cd.iso").read_bytes() == before
