"""Clones of running VMs whose disks are copied instead of overlays: isolated ones, and images that can have no pin."""

import json
import os
import re
import subprocess

import pytest

from conftest import open_files, until
from forkpinlib import MIB, off, snapshots, told, vms  # noqa: F401 (vms is a fixture)


def test_isolated_clone_of_a_snapshot_is_copied(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    assert vms.made(vms.fork("c", "--snapshotname", "s1", "--isolated")) == {"vda": "copy"}
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    vms.holds("c", 0, 1)
    # An image that linked clones have open is not written.
    off(vms, daemon)
    daemon.cairn("clone", "--linked", "src", "linked")
    assert vms.made(vms.fork("d", "--snapshotname", "s1")) == {"vda": "copy"}
    vms.holds("d", 0, 1)


def test_copies_of_a_clone_that_is_off_outlive_it(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.write("c", 8192, 2)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("clone", "c", "full")
    daemon.cairn("clone", "c", "image", "--snapshots")
    vms.end("c")
    vms.write("src", 0, 3)
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    for name in ("full", "image"):
        vms.boot(name)
        vms.holds(name, 0, 1)
        vms.holds(name, 8192, 2)
    vms.end("image")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))
    vms.holds("full", 0, 1)


def test_isolated_clones_get_copies(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    assert vms.made(vms.fork("c", "--isolated")) == {"vda": "copy"}
    assert not snapshots(tmp_path / "a.qcow2")
    (disk,) = json.loads(daemon.cairn("dumpjson", "c").stdout)["disks"]
    assert "backing" not in disk
    files = set(open_files(daemon.info("c")["pid"]))
    assert str(tmp_path / "a.qcow2") not in files and str(vms.path("c")) in files
    vms.write("src", 0, 2)
    vms.holds("c", 0, 1)


@pytest.mark.parametrize("of", ["running VM", "snapshot", "snapshot of a VM that is off"])
def test_isolated_clone_of_a_clone_reads_no_other_image(vms, daemon, tmp_path, of):
    """Its disk has the content of all layers: of a plain backing file, of two pins, and what came after them."""
    base = vms.image("base.qcow2")
    subprocess.run(["qemu-io", "-c", "write -q -P 7 8M 1M", base["path"]], check=True)
    vms.start({**vms.image("a.qcow2", "64M", "-F", "qcow2", "-b", base["path"]), "backing": [base]})
    vms.write("src", 0, 1)
    vms.fork("b")
    vms.write("src", 0, 99)
    vms.write("b", 1000, 2)
    vms.fork("c", source="b")
    vms.write("b", 1000, 99)
    vms.write("c", 0, 3)
    vms.write("c", 2000, 4)
    args = []
    if of != "running VM":
        daemon.cairn("snapshot-create-as", "c", "s1")
        vms.write("c", 2000, 99)
        args = ["--snapshotname", "s1"]
    if of == "snapshot of a VM that is off":
        off(vms, daemon, "c")
    assert vms.made(vms.fork("d", "--isolated", "--count", "2", *args, source="c")) == {"vda": "copy"}
    if of == "running VM":
        vms.write("c", 2000, 99)
    (disk,) = json.loads(daemon.cairn("dumpjson", "d-1").stdout)["disks"]
    assert "backing" not in disk
    pid = daemon.info("d-1")["pid"]
    files = set(open_files(pid))
    assert [f for f in files if f.endswith(".qcow2")] == [str(vms.path("d-1"))]
    overlays = json.loads((daemon.state / "pins.json").read_text())["used"]
    assert sorted(os.path.basename(o["overlay"]) for o in overlays) == ["b-vda.qcow2", "c-vda.qcow2"]
    for name in ("c", "b", "src"):
        if (name, of) != ("c", "snapshot of a VM that is off"):
            off(vms, daemon, name)
        daemon.cairn("undefine", name, "--remove-all-storage", "--snapshots-metadata")
    for name in ("d-1", "d-2"):
        vms.holds(name, 0, 3)
        vms.holds(name, 1000, 2)
        vms.holds(name, 2000, 4)
        off(vms, daemon, name)
        subprocess.run(["qemu-img", "check", "-q", vms.path(name)], check=True)
        subprocess.run(["qemu-io", "-r", "-c", "read -q -P 7 8M 1M", vms.path(name)], check=True)
        vms.boot(name)
        vms.holds(name, 0, 3)


def test_isolated_clone_of_an_unknown_overlay_is_refused(vms, daemon, tmp_path):
    """The daemon's list lacks the overlay, but the VM's process sees the pin."""
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.close()
    daemon.stop()
    pins = daemon.state / "pins.json"
    pins.write_text(json.dumps({**json.loads(pins.read_text()), "used": []}))
    daemon.start()
    error = daemon.cairn("clone", "--live", "c", "d", "--isolated", ok=False).stderr
    assert "disk vda reads the image of another VM, and the daemon's list of pins lacks it" in error
    assert sorted(daemon.cairn("list", "--all", "--name").stdout.split()) == ["c", "src"]


def test_reason_of_each_copy_is_told(vms, daemon, tmp_path):
    raw = tmp_path / "b.raw"
    raw.write_bytes(bytes(MIB))
    vms.start(vms.image("a.qcow2"), {"path": str(raw), "format": "raw"}, vms.image("c.qcow2", "64M", "-o", "refcount_bits=1"))
    vms.write("src", 0, 1, 1)
    narrow = "refcounts of fewer than 8 bits"
    disks = vms.fork("c")["disks"]
    files = [vms.path("c"), tmp_path / "c-vdb.raw", vms.path("c", "vdc")]
    assert all(0 < d.pop("bytes") <= f.stat().st_blocks * 512 for d, f in zip(disks, files))
    assert disks == [{"id": "vda", "made": "overlay"}, {"id": "vdb", "made": "copy", "reason": "raw image"},
                     {"id": "vdc", "made": "copy", "reason": narrow}]
    vms.holds("c", 0, 1, 1)
    said = re.sub(r"[0-9.]+ [KM]iB", "N", told(daemon, "src", "d"))
    assert said == ("Domain 'src' cloned as 'd'\ncopied: disk vdb, N for each clone (raw image)\n"
                    f"copied: disk vdc, N for each clone ({narrow})\n")
    said = re.sub(r"[0-9.]+ [KM]iB", "N", daemon.cairn("clone", "--live", "src", "e", "--isolated", "--verbose").stdout)
    assert "disks: vda copy N (isolated), vdb copy N (raw image), vdc copy N (isolated)\n" in said
    assert "copied:" not in said


def test_image_with_narrow_refcounts_is_copied(vms, daemon, tmp_path):
    """The daemon cannot know that, and stores the clones' definitions again."""
    vms.start(vms.image("a.qcow2", "64M", "-o", "refcount_bits=1"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.write("src", 0, 2, 1)
    assert vms.made(vms.fork("c")) == {"vda": "copy", "vdb": "overlay"}
    vms.write("src", 0, 3)
    vms.write("src", 0, 4, 1)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.stop()
    daemon.start()
    disks = json.loads(daemon.cairn("dumpjson", "c").stdout)["disks"]
    assert "backing" not in disks[0] and [b["path"] for b in disks[1]["backing"]] == [str(tmp_path / "b.qcow2")]
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.holds("c", 0, 2, 1)


def test_disk_with_a_data_file_is_refused_in_words(vms, daemon, tmp_path):
    disk = vms.image("a.qcow2", "64M", "-o", f"data_file={tmp_path}/a.data")
    vms.start({**disk, "data_file": str(tmp_path / "a.data")})
    error = daemon.cairn("clone", "--live", "src", "c", ok=False).stderr
    assert "disks[0]: has an external data file; live clones cannot copy it" in error
    assert daemon.cairn("list", "--all", "--name").stdout.split() == ["src"]
