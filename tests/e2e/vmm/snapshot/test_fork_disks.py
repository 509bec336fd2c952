"""Disks of clones of running VMs: copies and overlays, which diverge from the source's."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import QmpError, until
from forklib import AT, FILL, MIB, check, disk_holds, disk_write, image, names, qemu_snapshots, vm  # noqa: F401 (vm is a fixture)
from mountlib import mounted, tmpfs


def test_disks_are_copied_and_diverge(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2"), image(tmp_path / "b.raw", "raw"),
                    {**image(tmp_path / "r.qcow2"), "readonly": True}])
    disk_write(vm, "src", 0, 0, 1)
    disk_write(vm, "src", 1, 0, 2)
    vm.clone("c", "--count", "3", "--isolated")
    for name, seed in (("src", 10), ("c-1", 20), ("c-3", 30)):
        disk_write(vm, name, 0, 0, seed)
        disk_write(vm, name, 1, 256, seed + 1)
    for name, seed in (("src", 10), ("c-1", 20), ("c-3", 30)):
        disk_holds(vm, name, 0, 0, seed)
        disk_holds(vm, name, 1, 0, 2)
        disk_holds(vm, name, 1, 256, seed + 1)
    disk_holds(vm, "c-2", 0, 0, 1)
    disk_holds(vm, "c-2", 1, 0, 2)
    files = [tmp_path / f"c-{i}-vda.qcow2" for i in (1, 2, 3)]
    assert all(os.stat(f).st_mode & 0o777 == 0o600 for f in files)
    daemon.cairn("destroy", "c-1", "c-2", "c-3", "src")
    check(tmp_path / "a.qcow2", *files)
    # They are ordinary VMs with definitions that name their own disks.
    d = json.loads(daemon.cairn("dumpjson", "c-2").stdout)
    assert [x["path"] for x in d["disks"]] == [
        str(tmp_path / "c-2-vda.qcow2"), str(tmp_path / "c-2-vdb.raw"), str(tmp_path / "r.qcow2")]
    daemon.cairn("start", "c-2")


def test_an_overlay_shares_its_backing_file(vm, daemon, tmp_path):
    base = image(tmp_path / "base.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base["path"],
                    tmp_path / "top.qcow2"], check=True)
    vm.start(disks=[{"path": str(tmp_path / "top.qcow2"), "format": "qcow2", "backing": [base]}])
    vm.clone("c", "--isolated")
    disk_write(vm, "c", 0, 0, 5)
    disk_write(vm, "src", 0, 0, 6)
    disk_holds(vm, "c", 0, 0, 5)
    check(tmp_path / "c-vda.qcow2", tmp_path / "top.qcow2")
    info = json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", tmp_path / "c-vda.qcow2"],
                                     check=True, stdout=subprocess.PIPE).stdout)
    assert info["full-backing-filename"] == base["path"]


def test_snapshots_of_source_and_clone_after_a_fork(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    disk_write(vm, "src", 0, 0, 1)
    daemon.cairn("snapshot-create-as", "src", "before")
    vm.clone("c")
    for name, seed in (("src", 10), ("c", 20)):
        vm.run(name, f"fill {AT} 65536 {seed}")
        disk_write(vm, name, 0, 0, seed)
        daemon.cairn("snapshot-create-as", name, "s1")
        vm.run(name, f"fill {AT} {FILL} {seed + 1}")
        disk_write(vm, name, 0, 0, seed + 1)
        daemon.cairn("snapshot-create-as", name, "s2")
        vm.run(name, f"fill {AT} {FILL} {seed + 2}")
    for name, seed in (("src", 10), ("c", 20)):
        daemon.cairn("snapshot-revert", name, "s1")
        vm.holds(name, AT, 65536, seed)
        vm.holds(name, AT + 65536, FILL - 65536, 1)
        disk_holds(vm, name, 0, 0, seed)
        daemon.cairn("snapshot-revert", name, "s2")
        vm.holds(name, AT, FILL, seed + 1)
        disk_holds(vm, name, 0, 0, seed + 1)
    daemon.cairn("snapshot-revert", "src", "before")
    vm.holds("src", AT, FILL, 1)
    disk_holds(vm, "src", 0, 0, 1)
    # A clone starts without its source's snapshots.
    assert daemon.cairn("snapshot-list", "c", "--name").stdout.split() == ["s1", "s2"]
    daemon.cairn("snapshot-revert", "c", "before", ok=3)
    vm.holds("c", AT, FILL, 21)
    daemon.cairn("destroy", "src", "c")
    check(tmp_path / "a.qcow2", tmp_path / "c-vda.qcow2")


def full(path, mib):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, f"{mib}M"], check=True)
    subprocess.run(["qemu-io", "-c", f"write -P 7 0 {mib}M", path], check=True, stdout=subprocess.DEVNULL)
    return {"path": str(path), "format": "qcow2"}


def shares_blocks(folder):
    return subprocess.run(["cp", "--reflink=always", folder / "a.qcow2", folder / "try"],
                          stderr=subprocess.DEVNULL).returncode == 0


def forked(q, folder, count):
    """Start a job that copies the disks and wait for the first copied bytes: the instant of the clones is over."""
    job = q.run("vm-fork", vm="src", name="c", count=count, isolated=True)["job"]
    first = folder / "c-1-vda.qcow2"
    while not first.exists() or first.stat().st_blocks * 512 < MIB:
        assert "error" not in q.run("query-jobs", id=job)[0]
    return job


def progress(q, job):
    """Return all progress reports, up to the end."""
    told = []
    while True:
        e = q.events.pop(0) if q.events else q.read()
        if e["data"].get("id") == job and e["event"] == "JOB_PROGRESS":
            told.append(e["data"])
        if e["data"].get("id") == job and e["data"].get("status") == "concluded":
            return told


def forget_clones(vm, daemon):
    for name in names(daemon):
        if name != "src":
            vm.consoles.pop(name).close()
            daemon.cairn("destroy", name)
            daemon.cairn("undefine", name, "--remove-all-storage")


def test_the_source_writes_while_its_disk_is_copied(vm, daemon, tmp_path):
    vm.start(disks=[full(tmp_path / "a.qcow2", 128)])
    q = daemon.qmp()
    was_running = False
    while not was_running:  # a fast machine may have finished: try again
        forget_clones(vm, daemon)
        disk_write(vm, "src", 0, 0, 1)
        disk_write(vm, "src", 0, 250_000, 1)
        job = forked(q, tmp_path, 2)
        vm.run("src", "write 0 128 2")
        was_running = q.run("query-jobs", id=job)[0]["status"] == "running" or shares_blocks(tmp_path)
        disk_write(vm, "src", 0, 250_000, 2)
        told = [t for t in progress(q, job) if t["unit"] == "bytes"]  # then come the clones
        assert shares_blocks(tmp_path) or all(t["total"] >= (64 + 2 * 128) * MIB for t in told)
        for name in ("c-1", "c-2"):
            disk_holds(vm, name, 0, 0, 1)
            disk_holds(vm, name, 0, 250_000, 1)
        disk_holds(vm, "src", 0, 0, 2)
    daemon.cairn("destroy", "src", "c-1", "c-2")
    check(tmp_path / "a.qcow2", tmp_path / "c-1-vda.qcow2", tmp_path / "c-2-vda.qcow2")
    assert qemu_snapshots(tmp_path / "a.qcow2") == ""


def test_temporary_fork_snapshot_is_hidden_and_removed(vm, daemon, tmp_path):
    """No such snapshot stays after the daemon or a process was killed, or the fork was cancelled."""
    paths = [tmp_path / "a.qcow2", tmp_path / "b.qcow2"]
    vm.start(disks=[full(p, 128) for p in paths])

    def fork_and(act):
        """Act while the disks are copied, which takes seconds. If all clones were complete before: again."""
        while True:
            job = forked(daemon.qmp(), tmp_path, 4)
            act(job)
            clones = [n for n in names(daemon) if n.startswith("c-")]
            if not clones:
                return
            daemon.cairn("destroy", *clones)
            daemon.cairn("undefine", *clones, "--remove-all-storage")

    def wait_concluded(job):
        client = daemon.qmp()
        until(lambda: client.run("query-jobs", id=job)[0]["status"] == "concluded")

    def cancel(job):
        assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
        with contextlib.suppress(QmpError):  # it has concluded
            daemon.qmp().run("job-cancel", id=job)
        wait_concluded(job)

    def kill_daemon(_):
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not list(daemon.state.glob("batches/*")))

    def kill_source(job):
        os.kill(daemon.info("src")["pid"], signal.SIGKILL)
        wait_concluded(job)
        daemon.wait("src", "crashed")
        daemon.cairn("start", "src")

    fork_and(cancel)
    assert names(daemon) == ["src"] and not [p for p in paths if qemu_snapshots(p)]
    fork_and(kill_daemon)
    until(lambda: not [p for p in paths if qemu_snapshots(p)])
    # A source whose daemon was killed gives up, but only once it has noticed.
    until(lambda: vm.clone("d", "--isolated", ok=None).returncode != 6)
    fork_and(kill_source)
    assert names(daemon) == ["d", "src"] and not [p for p in paths if qemu_snapshots(p)]


def test_fork_fails_when_disk_cannot_be_copied(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2"), image(tmp_path / "b.qcow2")])
    there = sorted(os.listdir(tmp_path))

    def refused(*args, **kwargs):
        r = vm.clone(*args, **kwargs)
        assert names(daemon) == ["src"] and sorted(os.listdir(tmp_path)) == there
        return r.stderr

    assert "count: at most 62 clones at a time, because the VM writes to 2 disks" in refused("c", "--count", "63", ok=2)
    (tmp_path / "c-2-vdb.qcow2").write_text("mine")
    there = sorted(os.listdir(tmp_path))
    assert "c-2-vdb.qcow2: exists, so it cannot become the disk of a clone" in refused("c", "--count", "2", ok=4)
    assert (tmp_path / "c-2-vdb.qcow2").read_text() == "mine"
    # The VM runs with another definition.
    image(tmp_path / "other.qcow2")
    there = sorted(os.listdir(tmp_path))
    daemon.define("src", memory="64M", debug_exit=True, boot={"kernel": vm.kernel}, disks=[
        {"path": str(tmp_path / "a.qcow2"), "format": "qcow2"},
        {"path": str(tmp_path / "other.qcow2"), "format": "qcow2"}])
    there = sorted(os.listdir(tmp_path))
    assert "disk vdb: the running VM uses another image than its definition names" in refused("c", ok=2)
    vm.holds("src", AT, FILL, 1)


def test_copies_share_blocks_on_capable_file_system(vm, daemon, tmp_path):
    """On a file system that shares blocks, ten copies of 32 MiB fit into 300 MiB, the least that mkfs.xfs accepts."""
    if not shutil.which("mkfs.xfs"):
        pytest.skip("mkfs.xfs is missing: make deps")
    subprocess.run(["truncate", "-s", "300M", tmp_path / "xfs.img"], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", tmp_path / "xfs.img"], check=True)
    with mounted(tmp_path / "xfs", "-o", "loop", tmp_path / "xfs.img"):
        path = tmp_path / "xfs/a.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=full", path, "32M"],
                       check=True)
        vm.start(disks=[{"path": str(path), "format": "qcow2"}])
        disk_write(vm, "src", 0, 0, 1)
        vm.clone("c", "--count", "10", "--isolated")
        disk_write(vm, "c-7", 0, 0, 2)
        disk_holds(vm, "src", 0, 0, 1)
        disk_holds(vm, "c-8", 0, 0, 1)
        daemon.cairn("destroy", "src", *(f"c-{i}" for i in range(1, 11)))
        check(*(path.parent / f"c-{i}-vda.qcow2" for i in range(1, 11)))


def test_fork_on_full_file_system_leaves_nothing(vm, daemon, tmp_path):
    """No space for a copy: nothing is left, and the source runs on."""
    with tmpfs(tmp_path / "small", "24M") as small:
        vm.start(disks=[image(small / "a.raw", "raw", "-o", "preallocation=full")])
        disk_write(vm, "src", 0, 0, 1)
        assert "No space left" in vm.clone("c", "--count", "2", ok=False).stderr
        assert names(daemon) == ["src"] and os.listdir(small) == ["a.raw"]
        disk_holds(vm, "src", 0, 0, 1)
        daemon.cairn("destroy", "src")
