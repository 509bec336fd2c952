"""blockresize: a disk grows while its guest uses it. The guest `interp` reads the size from its device."""

import os
import subprocess

import pytest

import guestlib
from conftest import QmpError, until
from guestlib import fields
from test_hotplug import Guest, image, machine
from test_qmp_device import own

pytestmark = pytest.mark.usefixtures("kvm")

MIB = 1 << 20
SECTORS = MIB // 512


def qcow2(path, size="4M"):
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return {"path": str(path), "format": "qcow2"}


def raw(path, size=4 * MIB):
    return {"path": image(path, size), "format": "raw"}


def sectors(g):
    return int(fields(g.run("info")[0])["sectors"])


def size(daemon):
    return daemon.figures("a")["disks"][0]["size"]


def resize(daemon, *args):
    assert daemon.cairn("blockresize", *args).stdout == f"Block device '{args[1]}' is resized\n"


@pytest.mark.parametrize("make", [raw, qcow2])
def test_disk_grows_while_the_guest_writes(daemon, guest, tmp_path, make):
    g = machine(daemon, guest, disks=[make(tmp_path / "a")])
    g.run("open 0")
    g.run("write 0 64 1")
    g.sock.sendall(b"bench randwrite 8 3000 4096 4096 1\n")
    until(lambda: daemon.figures("a")["disks"][0]["wr-reqs"] > 10)
    resize(daemon, "a", "vda", "8M")
    work = fields(g.line())
    assert (work["requests"], work["errors"]) == (3000, 0) and g.line() == "ok"
    assert sectors(g) == 8 * SECTORS
    g.run(f"write {6 * SECTORS} 64 2")
    g.run(f"verify {6 * SECTORS} 64 2")
    assert size(daemon) == 8 * MIB
    # KiB, as with virsh; by path; the size that it has.
    resize(daemon, "a", str(tmp_path / "a"), "9216")
    resize(daemon, "a", "vda", "9M")
    assert sectors(g) == 9 * SECTORS
    # A process that takes the VM over finds it, and so does the next start.
    g.close()
    daemon.cairn("restart-process", "a")
    g = Guest(daemon, "a")
    assert sectors(g) == 9 * SECTORS
    g.run(f"verify {6 * SECTORS} 64 2")
    resize(daemon, "a", "vda", "10M")
    assert sectors(g) == 10 * SECTORS
    g.run("flush")
    g.close()
    daemon.cairn("destroy", "a")
    daemon.cairn("start", "a")
    g = Guest(daemon, "a")
    g.run("open 0")
    assert sectors(g) == 10 * SECTORS
    g.run(f"verify {6 * SECTORS} 64 2")
    g.close()


def test_scsi_disk_and_attached_disk_grow(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[raw(tmp_path / "a"), {**raw(tmp_path / "b"), "id": "sda", "bus": "scsi"}])
    daemon.cairn("attach-disk", "a", raw(tmp_path / "c")["path"], "vdc", "--live")
    g.run("open 1")
    resize(daemon, "a", "vdc", "6M")
    assert sectors(g) == 6 * SECTORS
    g.run("sopen 0 512")
    resize(daemon, "a", "sda", "6M")
    assert fields(g.run("scsi 000000000000")[-1])["sense"] == "0x6/0x2a/0x9"  # the capacity has changed
    capacity = fields(g.run("scsi 25000000000000000000 8")[-1])["data"]
    assert int(capacity[:8], 16) == 6 * SECTORS - 1
    g.run(f"write {5 * SECTORS} 8 3")
    g.run(f"verify {5 * SECTORS} 8 3")
    g.close()


def test_revert_restores_the_size(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[qcow2(tmp_path / "a")])
    g.run("open 0")
    g.run("write 0 64 1")
    daemon.cairn("snapshot-create-as", "a", "small")
    resize(daemon, "a", "vda", "8M")
    g.run(f"write {6 * SECTORS} 64 2")
    g.run("write 0 64 3")
    daemon.cairn("snapshot-create-as", "a", "large")
    daemon.cairn("snapshot-revert", "a", "small")
    assert sectors(g) == 4 * SECTORS
    g.run("verify 0 64 1")
    with pytest.raises(AssertionError):
        g.run(f"write {6 * SECTORS} 64 4")
    daemon.cairn("snapshot-revert", "a", "large")
    assert sectors(g) == 8 * SECTORS
    g.run("verify 0 64 3")
    g.run(f"verify {6 * SECTORS} 64 2")
    g.close()
    daemon.cairn("destroy", "a")
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "check", "-q", str(tmp_path / "a")], check=True)


def test_bad_sizes_change_nothing(daemon, guest, tmp_path):
    cd = {**raw(tmp_path / "d"), "id": "cd", "device": "cdrom", "bus": "scsi"}
    g = machine(daemon, guest, memory="64M", disks=[
        raw(tmp_path / "a"), {**raw(tmp_path / "b"), "readonly": True}, cd, {**raw(tmp_path / "e"), "logical_block_size": 4096}])
    before = g.run("open 0"), sectors(g)

    def refused(words, *args):
        assert words in daemon.cairn("blockresize", *args, ok=False).stderr

    refused("disk vda has 4194304 bytes, and a disk that a guest uses does not get smaller; shut the VM down", "a", "vda", "2M")
    refused("the size of disk vda must be a multiple of 512 bytes", "a", "vda", "4194305B")
    refused("the size of disk vdd must be a multiple of 4096 bytes", "a", "vdd", "4194816B")
    refused("disk vdb is read-only", "a", "vdb", "8M")
    refused("disk cd is a CD drive", "a", "cd", "8M")
    refused("has no disk 'vdx'", "a", "vdx", "8M")
    # The process may write files of twice its memory and 1 GiB.
    refused("at most 1152 MiB large", "a", "vda", "8G")
    refused("the image of disk vda is not a block device", "a", "vda", "--capacity")
    refused("give SIZE, or --capacity", "a", "vda")
    refused("exclude each other", "a", "vda", "8M", "--capacity")
    refused('"big" is not a size', "a", "vda", "big")
    assert before[1] == sectors(g) and os.stat(tmp_path / "a").st_size == 4 * MIB
    g.run("write 0 64 1")
    g.run("verify 0 64 1")
    g.close()
    daemon.cairn("destroy", "a")
    refused("VM 'a' is shut off; use cairn-img resize", "a", "vda", "8M")


def test_qmp(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[raw(tmp_path / "a")])
    g.run("open 0")
    q = own(daemon)
    assert q.run("block_resize", device="vda", size=8 * MIB) == {}
    assert q.run("query-block")[0]["inserted"]["image"]["virtual-size"] == 8 * MIB
    node = q.run("query-block")[0]["inserted"]["node-name"]
    assert q.run("block_resize", **{"node-name": node, "size": 9 * MIB}) == {}
    assert sectors(g) == 9 * SECTORS
    for args, words in (({"device": "vdx", "size": 1}, "Cannot find device='vdx'"), ({"device": "vda", "node-name": node, "size": 1}, "either"),
                        ({"size": 1}, "either"), ({"device": "vda", "size": 0}, "at least 1"), ({"device": "vda", "size": MIB}, "smaller")):
        with pytest.raises(QmpError) as e:
            q.run("block_resize", **args)
        assert words in e.value.desc
    g.close()


def test_block_device_is_followed(daemon, guest, tmp_path):
    p = subprocess.run(["losetup", "-f", "--show", image(tmp_path / "a")], capture_output=True, text=True)
    if p.returncode:
        pytest.skip("no loop device: " + p.stderr.strip())
    device = p.stdout.strip()
    try:
        g = machine(daemon, guest, disks=[{"path": device, "format": "raw"}])
        g.run("open 0")
        assert "is a block device of 4194304 bytes; change the size of the device first" in daemon.cairn(
            "blockresize", "a", "vda", "8M", ok=False).stderr
        image(tmp_path / "a", 8 * MIB)
        subprocess.run(["losetup", "-c", device], check=True)
        resize(daemon, "a", "vda", "--capacity")
        assert sectors(g) == 8 * SECTORS
        g.run(f"write {6 * SECTORS} 64 2")
        g.run(f"verify {6 * SECTORS} 64 2")
        g.close()
        daemon.cairn("destroy", "a")
        until(lambda: daemon.info("a")["state"] == "shutoff")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_work_on_the_disk_excludes_a_resize(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[qcow2(tmp_path / "a", "64M")])
    daemon.cairn("blockcopy", "a", "vda", "--dest", str(tmp_path / "copy.qcow2"))
    r = daemon.cairn("blockresize", "a", "vda", "128M", ok=False)
    assert "is being mirrored to a copy" in r.stderr, r.stderr
    daemon.cairn("blockjob", "a", "vda", "--abort")
    resize(daemon, "a", "vda", "128M")
    g.close()
    assert size(daemon) == 128 * MIB
