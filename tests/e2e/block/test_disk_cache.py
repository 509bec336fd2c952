"""The key `cache` of a disk: O_DIRECT or the host's page cache, and whether a flush syncs the image, as the kernel
tells. Every other way in which a VM opens an image keeps the mode."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

import guestlib
from carrylib import carry
from conftest import Daemon, Qmp, QmpError, open_files, until
from test_hotplug import Guest, image, machine, qcow2

pytestmark = pytest.mark.usefixtures("kvm")

MODES = {"none": (True, False), "writeback": (False, False), "unsafe": (False, True)}


def is_direct(pid, path):
    fds = [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.path.realpath(f"/proc/{pid}/fd/{fd}") == os.path.realpath(path)]
    flags = {int(re.search(r"^flags:\t(\d+)$", pathlib.Path(f"/proc/{pid}/fdinfo/{fd}").read_text(), re.M)[1], 8) for fd in fds}
    assert len({f & os.O_DIRECT for f in flags}) == 1, f"{path}: {fds}"
    return bool(flags.pop() & os.O_DIRECT)


def knows_direct(folder):
    """Return whether the file system has direct I/O; a tmpfs may have none, and then all modes use the page cache."""
    try:
        os.close(os.open(folder / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
        return True
    except OSError:
        return False


def disk(path, cache, bus="virtio", **keys):
    format = str(path).rsplit(".", 1)[1]
    return {"path": str(path), "format": format, "bus": bus, **({"cache": cache} if cache != "none" else {}), **keys}


def made(tmp_path, name):
    return qcow2(tmp_path / name)["path"] if name.endswith(".qcow2") else image(tmp_path / name)


def modes_of(daemon, vm="a"):
    """Return what query-block says of each disk: (direct, no-flush)."""
    q = Qmp(daemon.cairn("qmp-path", vm).stdout.rstrip("\n"))
    with contextlib.closing(q):
        caches = {x["qdev"]: x["inserted"]["cache"] for x in q.run("query-block")}
    assert all(c["writeback"] for c in caches.values())
    return {disk: (c["direct"], c["no-flush"]) for disk, c in caches.items()}


def opened(g, bus, index=0):
    g.run(f"sopen {index} 512" if bus == "scsi" else f"open {index}")


@contextlib.contextmanager
def syncs(pid, log):
    """Record the calls of fdatasync; yields a function that returns how many there were."""
    with subprocess.Popen(["strace", "-f", "-o", log, "-e", "trace=fdatasync", "-p", str(pid)], stderr=subprocess.PIPE, text=True) as strace:
        try:
            # It says so when it has stopped all threads, and a call that was under way before is not counted.
            if " attached" not in strace.stderr.readline():
                pytest.skip("strace may not trace the VM's process")
            yield lambda: pathlib.Path(log).read_text().count("fdatasync(")
        finally:
            strace.send_signal(signal.SIGINT)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
@pytest.mark.parametrize("cache,bus,format", [*itertools.product(MODES, ("virtio", "scsi"), ("raw", "qcow2"))])
def test_flush_syncs_the_image_unless_unsafe(tmp_path, guest, cache, bus, format):
    # With io_uring, a sync is no system call. The loop on epoll makes the calls itself.
    with contextlib.closing(Daemon(tmp_path, env={"CAIRN_LOOP": "epoll"})) as d:
        path = made(tmp_path, f"a.{format}")
        g = machine(d, guest, disks=[disk(path, cache, bus)])
        pid = d.info("a")["pid"]
        opened(g, bus)
        g.run("write 0 8 1")
        direct, no_flush = MODES[cache]
        assert modes_of(d) == {("sda" if bus == "scsi" else "vda"): (direct and knows_direct(tmp_path), no_flush)}
        assert is_direct(pid, path) == (direct and knows_direct(tmp_path))
        with syncs(pid, tmp_path / "calls") as count:
            before = count()
            g.run("flush" if bus == "virtio" else "scsi 35000000000000000000")
            assert (count() > before) == (not no_flush)
        g.run("verify 0 8 1")
        g.close()
        d.cairn("destroy", "a")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
@pytest.mark.parametrize("cache", MODES)
def test_flush_syncs_a_block_device_unless_unsafe(tmp_path, guest, cache):
    """Devices lie in a tmpfs, whose own files need no sync."""
    r = subprocess.run(["losetup", "-f", "--show", image(tmp_path / "a")], capture_output=True, text=True)
    if r.returncode:
        pytest.skip("no loop device: " + r.stderr.strip())
    device = r.stdout.strip()
    try:
        with contextlib.closing(Daemon(tmp_path, env={"CAIRN_LOOP": "epoll"})) as d:
            g = machine(d, guest, disks=[{**disk("/x.raw", cache), "path": device}])
            pid = d.info("a")["pid"]
            opened(g, "virtio")
            assert is_direct(pid, device) == (cache == "none")
            with syncs(pid, tmp_path / "calls") as count:
                g.run("write 0 8 1")
                g.run("flush")
                assert (count() > 0) == (cache != "unsafe")
            g.run("verify 0 8 1")
            g.close()
            d.cairn("destroy", "a")
            until(lambda: d.info("a")["state"] == "shutoff")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("cache,format", [*itertools.product(("writeback", "unsafe"), ("raw", "qcow2"))])
def test_killed_process_loses_no_write(daemon, guest, tmp_path, cache, format):
    """The page cache is the host's: a write survives the VM's process in each mode."""
    path = made(tmp_path, f"a.{format}")
    g = machine(daemon, guest, disks=[disk(path, cache)])
    opened(g, "virtio")
    for i in range(0, 4096, 256):
        g.run(f"write {i} 16 {i + 1}")
    g.run("flush")
    g.close()
    os.kill(daemon.info("a")["pid"], signal.SIGKILL)
    until(lambda: daemon.cairn("domstate", "a").stdout.strip() != "running")
    if format == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=50)
    daemon.cairn("start", "a")
    g = Guest(daemon, "a")
    opened(g, "virtio")
    for i in range(0, 4096, 256):
        g.run(f"verify {i} 16 {i + 1}")
    g.close()


@pytest.mark.parametrize("cache,bus", [*itertools.product(MODES, ("virtio", "scsi"))])
def test_snapshots_and_clones_work_in_each_mode(daemon, guest, tmp_path, cache, bus):
    path = made(tmp_path, "a.qcow2")
    g = machine(daemon, guest, disks=[disk(path, cache, bus)])
    opened(g, bus)
    g.run("write 0 64 1")
    g.run("fill 0x1000000 65536 1")
    daemon.cairn("snapshot-create-as", "a", "s1")
    g.run("write 32 64 2")
    g.run("fill 0x1000000 65536 2")
    daemon.cairn("clone", "--live", "a", "b")
    g.run("write 64 64 3")
    g.close()
    b = Guest(daemon, "b")
    b.run("verify 0 32 1")
    b.run("verify 32 64 2")
    b.run("check 0x1000000 65536 2")
    b.run("write 0 8 9")
    b.close()
    assert set(modes_of(daemon, "b").values()) == {(MODES[cache][0] and knows_direct(tmp_path), MODES[cache][1])}
    daemon.cairn("destroy", "b")
    g = Guest(daemon, "a")
    g.run("verify 64 64 3")
    g.close()
    daemon.cairn("snapshot-revert", "a", "s1")
    g = Guest(daemon, "a")
    g.run("verify 0 64 1")
    g.run("check 0x1000000 65536 1")
    g.close()
    daemon.cairn("managedsave", "a")
    subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=50)
    daemon.cairn("start", "a")
    g = Guest(daemon, "a")
    g.run("verify 0 64 1")
    g.close()
    assert is_direct(daemon.info("a")["pid"], path) == (MODES[cache][0] and knows_direct(tmp_path))


@pytest.mark.parametrize("cache", MODES)
def test_snapshot_is_durable_before_it_succeeds(tmp_path, guest, cache):
    """With unsafe, nothing is: docs/definition.md says so."""
    if not shutil.which("strace"):
        pytest.skip("strace is missing")
    with contextlib.closing(Daemon(tmp_path, env={"CAIRN_LOOP": "epoll"})) as d:
        path = made(tmp_path, "a.qcow2")
        g = machine(d, guest, disks=[disk(path, cache)])
        opened(g, "virtio")
        g.run("write 0 64 1")
        with syncs(d.info("a")["pid"], tmp_path / "calls") as count:
            d.cairn("snapshot-create-as", "a", "s1")
            assert (count() > 0) == (cache != "unsafe")
        g.close()
        d.cairn("destroy", "a")


@pytest.mark.parametrize("cache", MODES)
def test_every_open_of_a_running_disk_keeps_the_mode(daemon, guest, tmp_path, cache):
    """An external snapshot, a pull, a copy to another file, a new process for the VM."""
    want = MODES[cache][0] and knows_direct(tmp_path)
    path, copy = made(tmp_path, "a.qcow2"), str(tmp_path / "copy.raw")
    g = machine(daemon, guest, disks=[disk(path, cache)])
    opened(g, "virtio")
    g.run("write 0 64 1")

    def check(image):
        g.run("write 64 64 2")
        g.run("flush")
        g.run("verify 0 64 1")
        pid = daemon.info("a")["pid"]
        until(lambda: image in open_files(pid))
        assert is_direct(pid, image) == want and modes_of(daemon) == {"vda": (want, MODES[cache][1])}

    daemon.cairn("snapshot-create-as", "a", "s1", "--disk-only", "--external", "--diskspec", f"vda,file={tmp_path / 'over.qcow2'}")
    check(str(tmp_path / "over.qcow2"))
    daemon.cairn("blockpull", "a", "vda", "--wait")
    check(str(tmp_path / "over.qcow2"))
    daemon.cairn("restart-process", "a")
    check(str(tmp_path / "over.qcow2"))
    daemon.cairn("blockcopy", "a", "vda", "--dest", copy, "--wait", "--pivot")
    check(copy)
    g.close()


def test_vm_that_moves_keeps_the_mode(daemon, guest, tmp_path):
    """A new process gets the old one's open file, with its flags."""
    path = made(tmp_path, "a.raw")
    g = machine(daemon, guest, disks=[disk(path, "writeback")])
    g.close()
    for _ in carry(daemon, tmp_path):
        assert not is_direct(daemon.info("a")["pid"], path)


@pytest.mark.parametrize("cache,bus", [*itertools.product(MODES, ("virtio", "scsi"))])
def test_attached_disk_has_its_mode(daemon, guest, tmp_path, cache, bus):
    a, b = made(tmp_path, "a.raw"), made(tmp_path, "b.raw")
    g = machine(daemon, guest, disks=[disk(a, "none", bus)])
    name = "sdb" if bus == "scsi" else "vdb"
    daemon.cairn("attach-disk", "a", b, name, "--live", "--targetbus", bus, "--cache", cache)
    opened(g, bus, 1)
    g.run("write 0 8 3")
    g.run("verify 0 8 3")
    want = MODES[cache][0] and knows_direct(tmp_path), MODES[cache][1]
    assert modes_of(daemon)[name] == want and is_direct(daemon.info("a")["pid"], b) == want[0]
    assert re.search(rf" {name} +{b} +{cache}$", daemon.cairn("domblklist", "a", "--details").stdout, re.M)
    r = daemon.cairn("attach-disk", "a", b, "vdz", "--live", "--cache", "writethrough", ok=2)
    assert "--cache must be none, writeback or unsafe" in r.stderr
    g.close()


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
@pytest.mark.parametrize("ns,kept", [(0, 0), (32768, 33000), (50000, 50000)])
def test_length_of_polls_is_kept(daemon, guest, tmp_path, bus, ns, kept):
    """In a new process and after a restart, too."""
    g = machine(daemon, guest, disks=[disk(made(tmp_path, "a.raw"), "none", bus, poll_max_ns=ns)])
    opened(g, bus)
    g.run("bench randread 1 2000 4096 4096")
    g.close()
    for _ in carry(daemon, tmp_path):
        assert json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][0]["poll_max_ns"] == kept
        g = Guest(daemon, "a")
        g.run("bench randwrite 1 2000 4096 4096")
        g.close()


def test_cd_drive_has_its_mode_with_each_medium(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[disk(a, "writeback", "scsi", device="cdrom", id="cd")])
    assert not is_direct(daemon.info("a")["pid"], a)
    daemon.cairn("change-media", "a", "cd", b, "--live")
    assert not is_direct(daemon.info("a")["pid"], b)
    g.close()


def added(q, name, path, **args):
    """Add a disk as libvirt does, and return its cache mode."""
    q.run("blockdev-add", driver="raw", node_name=f"n-{name}", **({"file": {"driver": "file", "filename": path}} | args))
    q.run("device_add", driver="virtio-blk-pci", id=name, drive=f"n-{name}")
    return next((c["direct"], c["no-flush"]) for c in [x["inserted"]["cache"] for x in q.run("query-block") if x["qdev"] == name])


def test_blockdev_add_takes_the_mode(daemon, guest, tmp_path):
    paths = [made(tmp_path, f"{n}.raw") for n in "abcdefg"]
    g = machine(daemon, guest, disks=[disk(paths[0], "none")])
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    direct = knows_direct(tmp_path)
    assert added(q, "d1", paths[1]) == (direct, False)
    assert added(q, "d2", paths[2], cache={"direct": True}) == (direct, False)
    assert added(q, "d3", paths[3], cache={"direct": False, "no-flush": True}) == (False, True)
    assert added(q, "d4", paths[4], cache={}) == (False, False)
    # A node takes the mode of its file.
    q.run("blockdev-add", driver="file", node_name="file", filename=paths[5], cache={"no-flush": True})
    assert added(q, "d5", paths[5], file="file") == (False, True)
    assert added(q, "d6", paths[6], file={"driver": "file", "filename": paths[6], "cache": {"direct": False}}) == (False, False)
    for wrong, says in (({"direct": True, "no-flush": True}, "direct with no-flush is not supported"), ({"writeback": True}, "must be an object"),
                        ({"direct": "on"}, "must be an object")):
        with pytest.raises(QmpError, match=says):
            q.run("blockdev-add", driver="raw", node_name="x", file={"driver": "file", "filename": "/x"}, cache=wrong)
    with pytest.raises(QmpError, match="must be an object"):
        q.run("blockdev-add", driver="raw", node_name="x", file={"driver": "file", "filename": "/x", "cache": "none"})
    q.close()
    g.close()


@pytest.mark.parametrize("cache", ["writeback", "unsafe"])
def test_storm_of_requests_and_snapshots(daemon, guest, tmp_path, cache):
    """Requests at depth 32 while snapshots are taken; then the image is whole."""
    path = made(tmp_path, "a.qcow2")
    g = machine(daemon, guest, disks=[disk(path, cache)])
    opened(g, "virtio")
    end = time.monotonic() + 3
    for n in itertools.count():
        g.sock.sendall(b"bench randwrite 32 3000 4096 4096\n")
        daemon.cairn("snapshot-create-as", "a", f"s{n}")
        assert guestlib.fields(g.line())["errors"] == 0 and g.line() == "ok"
        g.run(f"write 6000 64 {n + 1}")
        g.run(f"verify 6000 64 {n + 1}")
        if n >= 3 and time.monotonic() > end:
            break
    g.close()
    daemon.cairn("snapshot-revert", "a", "s1")
    g = Guest(daemon, "a")
    g.run("verify 6000 64 1")
    g.close()
    daemon.cairn("destroy", "a")
    subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=50)
