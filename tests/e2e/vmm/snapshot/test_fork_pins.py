"""Live clones whose disks are overlays on their source's image as of the fork's instant: nothing is copied, and
each VM keeps its own content when the others change."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import uuid

import pytest

from conftest import Daemon, open_files, until
from forkpinlib import MIB, Vms, blocks, img, off, pins_in, snapshots, vms  # noqa: F401 (vms is a fixture)


class Debugged(Daemon):
    def command(self):
        return super().command() + ["--log-level", "debug"]


def test_clones_get_tables_of_both_disks_from_their_sources_process(tmp_path, kvm, guest):
    with contextlib.closing(Debugged(tmp_path)) as daemon, contextlib.closing(Vms(daemon, guest, tmp_path)) as vms:
        vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
        for disk in (0, 1):
            vms.write("src", 0, 1 + disk, disk)
        vms.fork("c")
        assert daemon.log_of("c").count("parts of tables from the memory of the fork's source") == 2


def test_clones_and_source_keep_their_own_content(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    for disk in (0, 1):
        vms.write("src", 0, 1 + disk, disk)
        vms.write("src", 100_000, 3 + disk, disk)
    r = vms.fork("c", "--count", "3")
    assert vms.made(r) == {"vda": "overlay", "vdb": "overlay"}
    assert all(vms.path(f"c-{i}").stat().st_blocks * 512 <= MIB for i in (1, 2, 3))
    # No mapping keeps the memory of the source when a reset gives the clone its own.
    maps = pathlib.Path(f"/proc/{daemon.info('c-1')['pid']}/maps").read_text()
    assert not re.search(r" r--s .* /memfd:cairn-fork", maps)
    for i, name in enumerate(("src", "c-1", "c-2")):
        vms.write(name, 0, 10 + i)
        vms.write(name, 100_100, 20 + i, 1)
    for i, name in enumerate(("src", "c-1", "c-2")):
        vms.holds(name, 0, 10 + i)
        vms.holds(name, 100_000, 3)
        vms.holds(name, 0, 2, 1)
        vms.holds(name, 100_100, 20 + i, 1)
    vms.holds("c-3", 0, 1)
    vms.holds("c-3", 100_000, 4, 1)
    # Pins are hidden from users.
    assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    # All of them can stop, in any order, and start again.
    for name in ("src", "c-1", "c-2", "c-3"):
        vms.leave(name)
        daemon.cairn("destroy", name)
    for name in ("c-2", "src", "c-3"):
        vms.boot(name)
    vms.holds("c-2", 0, 12)
    vms.holds("src", 0, 10)
    vms.holds("c-3", 0, 1)
    vms.write("src", 0, 30)
    vms.holds("c-3", 0, 1)


def test_overlay_that_was_moved_reads_its_pin_after_another_clone_got_its_path(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = daemon.cairn("dumpjson", "c").stdout
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("undefine", "c")
    vms.path("c").rename(tmp_path / "moved.qcow2")
    vms.write("src", 0, 2)
    vms.fork("c")
    vms.holds("c", 0, 2)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("undefine", "c", "--remove-all-storage")
    vms.write("src", 0, 3)
    (tmp_path / "moved.qcow2").rename(vms.path("c"))
    daemon.cairn("define", "-", input=definition, stdin=None)
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_path_of_another_vms_disk_is_refused(vms, daemon):
    """Its image may be elsewhere for a moment."""
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("domrename", "c", "d")
    vms.path("c").unlink()
    assert f"{vms.path('c')}: belongs to VM 'd', so it cannot become the disk of a clone" in daemon.cairn("clone", "--live", "src", "c", ok=4).stderr


@pytest.mark.parametrize("way, by", [("faults", "reset"), ("faults", "revert"), ("log", "revert")])
def test_clone_that_lets_go_of_its_sources_memory_closes_its_file(request, monkeypatch, way, by):
    """The file holds the source's memory and the tables that the clone's disks read. With the base of the memory's
    tracking gone, a revert replaces all memory by either way."""
    monkeypatch.delenv("CAIRN_USERFAULTFD", raising=False)
    if way == "log":
        monkeypatch.setenv("CAIRN_USERFAULTFD", "refuse")
    vms, daemon = request.getfixturevalue("vms"), request.getfixturevalue("daemon")
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    for disk in (0, 1):
        vms.write("src", 0, 1 + disk, disk)
    vms.fork("c")
    pid = daemon.info("c")["pid"]
    daemon.cairn("snapshot-create-as", "c", "s1")
    daemon.cairn("snapshot-create-as", "c", "s2")
    daemon.cairn("snapshot-delete", "c", "s2")
    before = open_files(pid)
    assert before.count("/memfd:cairn-fork (deleted)") == 3  # of the memory, and of each disk
    if by == "reset":
        daemon.cairn("reset", "c")
    else:
        daemon.cairn("snapshot-revert", "c", "s1")
    after = open_files(pid)
    assert "/memfd:cairn-fork (deleted)" not in after
    assert len(after) <= len(before) - 3
    assert "/memfd:cairn-fork" not in pathlib.Path(f"/proc/{pid}/maps").read_text()
    if by == "revert":
        for disk in (0, 1):
            vms.holds("c", 0, 1 + disk, disk)  # read from the image itself


def test_later_forks_have_later_content(vms, daemon):
    vms.start(vms.image("a.qcow2"))
    for i in range(4):
        vms.write("src", 0, 100 + i)
        vms.write("src", 8192, 100 + i)
        vms.fork(f"c{i}", "--paused")
        vms.write("src", 0, 200 + i)
    for i in range(4):
        daemon.cairn("resume", f"c{i}")
        vms.holds(f"c{i}", 0, 100 + i)
        vms.holds(f"c{i}", 8192, 100 + i)


def test_pin_goes_with_the_last_clone(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.write("src", 8192, 1)
    vms.fork("d")
    assert len(snapshots(a)) == 2
    vms.end("c-1")
    vms.end("d")
    until(lambda: len(snapshots(a)) == 1)
    vms.holds("c-2", 0, 1)
    # A source that is off lets go at its next start.
    vms.leave("src")
    daemon.cairn("destroy", "src")
    vms.end("c-2")
    assert len(snapshots(a)) == 1
    vms.boot("src")
    until(lambda: not snapshots(a))
    vms.holds("src", 0, 1)
    vms.leave("src")
    daemon.cairn("destroy", "src")
    subprocess.run(["qemu-img", "check", "-q", a], check=True)


def test_all_pins_of_clones_that_end_at_once_are_deleted(vms, daemon, tmp_path):
    """The source's process cannot answer until all three pins are due."""
    vms.start(vms.image("a.qcow2"))
    for n in range(3):
        vms.write("src", 0, n)
        vms.fork(f"c{n}")
    pid = json.loads(daemon.cairn("dominfo", "src", "--format", "json").stdout)["pid"]
    os.kill(pid, signal.SIGSTOP)
    for n in range(3):
        vms.end(f"c{n}")
    assert len(pins_in(tmp_path / "a.qcow2")) == 3
    os.kill(pid, signal.SIGCONT)
    until(lambda: not pins_in(tmp_path / "a.qcow2"))
    until(lambda: not json.loads((daemon.state / "pins.json").read_text())["due"])


def test_clone_that_is_undefined_without_its_image_keeps_the_pin(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = json.loads(daemon.cairn("dumpjson", "c").stdout)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("undefine", "c")
    vms.fork("d")
    vms.end("d")
    until(lambda: len(snapshots(a)) == 1)
    (tmp_path / "c.json").write_text(json.dumps(definition))
    daemon.cairn("define", str(tmp_path / "c.json"))
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.end("c")
    until(lambda: not snapshots(a))


def test_oldest_clone_above_the_limit_without_vm_leaves_the_list_and_keeps_its_content(vms, daemon, tmp_path):
    a, stored = tmp_path / "a.qcow2", daemon.state / "pins.json"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    pins = pins_in(a)
    (tmp_path / "c.json").write_text(daemon.cairn("dumpjson", "c").stdout)
    off(vms, daemon, "c")
    daemon.cairn("undefine", "c")
    vms.leave("src")
    daemon.stop()
    # As if the user had made and undefined 1,000 clones later.
    known = json.loads(stored.read_text())
    assert [r["owner"] for r in known["used"]] == [os.geteuid()]
    known["used"] += [{"pin": str(uuid.uuid4()), "image": str(a), "overlay": f"/zz/{i:04}", "owner": os.geteuid()}
                      for i in range(1000)]
    stored.write_text(json.dumps(known))
    daemon.start()
    vms.write("src", 0, 2)
    vms.fork("d")
    overlays = [r["overlay"] for r in json.loads(stored.read_text())["used"]]
    assert len(overlays) == 1001 and str(vms.path("d")) in overlays and str(vms.path("c")) not in overlays
    until(lambda: f"pins.json forgets {vms.path('c')}; the pin" in daemon.log.read_text())
    vms.holds("d", 0, 2)
    vms.end("d")
    until(lambda: pins_in(a) == pins)
    daemon.cairn("define", tmp_path / "c.json")
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.holds("src", 0, 2)
    vms.end("c")
    assert pins_in(a) == pins


def test_overlay_behind_a_symbolic_link_keeps_its_pin(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = daemon.cairn("dumpjson", "c").stdout
    vms.leave("c")
    daemon.cairn("destroy", "c")
    moved = tmp_path / "moved.qcow2"
    vms.path("c").rename(moved)
    vms.path("c").symlink_to(moved)
    assert "symbolic link" in daemon.cairn("undefine", "c", "--remove-all-storage").stdout
    vms.write("src", 0, 2)
    (tmp_path / "c.json").write_text(definition)
    daemon.cairn("define", tmp_path / "c.json")
    vms.boot("c")
    vms.holds("c", 0, 1)


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_clones_of_a_snapshot_copy_no_disk(vms, daemon, tmp_path, state):
    images = [tmp_path / f"{n}.qcow2" for n in "ab"]
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.write("src", 0, 2, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 3)
    vms.write("src", 0, 4, 1)
    if state == "shut off":
        off(vms, daemon)
    made = vms.fork("c", "--snapshotname", "s1", "--count", "2")
    assert vms.made(made) == {"vda": "overlay", "vdb": "overlay"}
    assert [len(snapshots(i)) for i in images] == [2, 2]
    assert all(vms.path(f"c-{i}").stat().st_blocks * 512 <= MIB for i in (1, 2))
    for i in (1, 2):
        vms.holds(f"c-{i}", 0, 1)
        vms.holds(f"c-{i}", 0, 2, 1)
    # The snapshot may go, and the source may start beside its clones, write and revert.
    daemon.cairn("snapshot-delete", "src", "s1")
    if state == "shut off":
        vms.boot("src")
    vms.write("src", 0, 5)
    vms.holds("c-1", 0, 1)
    vms.write("c-2", 0, 6)
    vms.write("src", 0, 7, 1)
    off(vms, daemon, "c-1")
    vms.boot("c-1")
    vms.holds("c-1", 0, 2, 1)
    vms.holds("c-2", 0, 6)
    assert [len(snapshots(i)) for i in images] == [1, 1]
    for i in (1, 2):
        vms.end(f"c-{i}")
    until(lambda: not snapshots(images[0]) and not snapshots(images[1]))
    vms.holds("src", 0, 5)
    off(vms, daemon)
    for i in images:
        subprocess.run(["qemu-img", "check", "-q", i], check=True)


def test_source_is_protected_while_clones_read_its_image(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.leave("src")
    daemon.cairn("destroy", "src")
    error = daemon.cairn("undefine", "src", "--remove-all-storage", ok=6).stderr
    assert "is used by VM 'c'; undefine that VM first, or keep the images" in error
    # Without its image, the source may go.
    daemon.cairn("undefine", "src")
    vms.holds("c", 0, 1)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_snapshots_of_the_source_and_its_clones_do_not_touch_pins(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 2)
    vms.fork("c")
    vms.write("src", 0, 3)
    daemon.cairn("snapshot-create-as", "src", "s2")
    vms.write("c", 8192, 4)
    daemon.cairn("snapshot-create-as", "c", "s1")
    vms.write("c", 8192, 5)
    daemon.cairn("snapshot-revert", "src", "s1")
    vms.holds("src", 0, 1)
    vms.holds("c", 0, 2)
    daemon.cairn("snapshot-delete", "src", "s1")
    daemon.cairn("snapshot-revert", "c", "s1")
    vms.holds("c", 8192, 4)
    vms.holds("c", 0, 2)
    daemon.cairn("snapshot-revert", "src", "s2")
    vms.holds("src", 0, 3)
    daemon.cairn("snapshot-delete", "src", "s2")
    vms.holds("c", 0, 2)
    assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
    # A VM that holds nothing but pins counts as one without snapshots.
    vms.end("c", "--snapshots-metadata")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))


@pytest.mark.parametrize("state", ["running", "off"])
def test_space_of_clones_and_pins_is_shown(vms, daemon, tmp_path, state):
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    first = blocks(daemon, "src")["vda"]
    assert (first["pins"], first["clones"]) == (1, 2) and "source" not in first
    # The source's write goes to another cluster, and the old one stays for the clones.
    vms.write("src", 0, 2)
    vms.write("c-1", 65536, 3)
    if state == "off":
        off(vms, daemon)
    kept = blocks(daemon, "src")
    assert kept["vda"]["pins-own-size"] >= first["pins-own-size"] + 65536
    assert kept["vdb"]["clones"] == 2 and kept["vdb"]["pins-own-size"] < 65536 * 8
    clone = blocks(daemon, "c-1")["vda"]
    assert clone["source"] == str(tmp_path / "a.qcow2") and (clone["pins"], clone["clones"]) == (0, 0)
    assert clone["allocation"] == vms.path("c-1").stat().st_blocks * 512 > blocks(daemon, "c-2")["vda"]["allocation"]
    head, _, *rows = daemon.cairn("domblkinfo", "src").stdout.splitlines()
    assert head.split() == ["Target", "Capacity", "Allocation", "Physical", "Reads", "Clones", "Kept", "for", "clones"]
    assert rows[0].split()[0] == "vda" and rows[0].split()[7:9] == ["-", "2"]
    for name in ("c-1", "c-2"):
        vms.end(name)
    if state == "running":
        until(lambda: blocks(daemon, "src")["vda"]["pins"] == 0)
    else:
        assert (blocks(daemon, "src")["vda"]["pins"], blocks(daemon, "src")["vda"]["clones"]) == (1, 0)


# ---- other programs ----

def test_qemu_refuses_the_overlay(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    for command in (["qemu-img", "convert", "-O", "raw", vms.path("c"), tmp_path / "raw"],
                    ["qemu-img", "compare", vms.path("c"), tmp_path / "a.qcow2"],
                    ["qemu-io", "-r", "-c", "read 0 64k", vms.path("c")],
                    ["qemu-nbd", "-r", "-f", "qcow2", "-k", tmp_path / "nbd.sock", vms.path("c")]):
        r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode and "cairn-fork" in r.stdout, command
    info = img("info", vms.path("c")).stdout
    assert "cairn-fork:" in info


@pytest.mark.skipif(shutil.which("virt-cat") is None, reason="virt-cat (package guestfs-tools) is missing")
def test_libguestfs_refuses_the_overlay(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    env = {**os.environ, "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_DEBUG": "1", "LIBGUESTFS_CACHEDIR": str(tmp_path),
           "TMPDIR": str(tmp_path)}
    r = subprocess.run(["virt-cat", "-a", vms.path("c"), "/etc/hostname"], env=env, text=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert r.returncode and not r.stdout and "Unknown protocol 'cairn-fork'" in r.stderr
