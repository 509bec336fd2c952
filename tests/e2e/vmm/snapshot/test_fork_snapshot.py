"""Clones of a snapshot: they start with its memory and disks, whatever the VM does meanwhile, even if it is off."""

import json
import os
import random
import signal

import pytest

from conftest import until
from forklib import AT, FILL, check, disk_holds, disk_write, image, names, vm  # noqa: F401 (vm is a fixture)


def prepare(vm, daemon, tmp_path):
    """s1: memory 1, disks 1 and 2; then everything is overwritten."""
    vm.start(disks=[image(tmp_path / "a.qcow2"), image(tmp_path / "b.qcow2"),
                    {**image(tmp_path / "r.qcow2"), "readonly": True}])
    disk_write(vm, "src", 0, 0, 1)
    disk_write(vm, "src", 1, 0, 2)
    daemon.cairn("snapshot-create-as", "src", "s1")
    overwrite(vm, 9)


def overwrite(vm, seed):
    vm.run("src", f"fill {AT} {FILL} {seed}")
    for disk in (0, 1):
        disk_write(vm, "src", disk, 0, seed)


def holds_s1(vm, name):
    vm.holds(name, AT, FILL, 1)
    disk_holds(vm, name, 0, 0, 1)
    disk_holds(vm, name, 1, 0, 2)


def holds_now(vm, name, seed=9):
    vm.holds(name, AT, FILL, seed)
    for disk in (0, 1):
        disk_holds(vm, name, disk, 0, seed)


def off(vm, daemon):
    if "src" in vm.consoles:
        vm.consoles.pop("src").close()
    daemon.cairn("destroy", "src")


@pytest.mark.parametrize("state", ["running", "paused", "shut off"])
def test_clones_of_snapshot_have_its_memory_and_disks(vm, daemon, tmp_path, state):
    prepare(vm, daemon, tmp_path)
    if state == "paused":
        daemon.cairn("suspend", "src")
    if state == "shut off":
        off(vm, daemon)
    q = daemon.qmp()
    r = daemon.cairn("clone", "--live", "src", "c", "--snapshotname", "s1", "--count", "2", "--verbose")
    assert r.stdout.startswith("Domain 'src' cloned 2 times, as 'c-1' to 'c-2'\n") and "paused" not in r.stdout
    # The source is unchanged and was not stopped.
    assert daemon.cairn("domstate", "src").stdout.replace("idle", "running") == state + "\n"
    seen = []
    while not seen or seen[-1]["data"].get("status") != "concluded":
        seen.append(q.read())
    assert not [e for e in seen if e["event"] in ("STOP", "RESUME") and e["data"]["vm"] == "src"]
    for name in ("c-1", "c-2"):
        holds_s1(vm, name)
        assert daemon.cairn("snapshot-list", name, "--name").stdout.split() == []
        disk_write(vm, name, 0, 128, 5)
    if state == "paused":
        daemon.cairn("resume", "src")
    if state != "shut off":
        holds_now(vm, "src")
    a, b = (tuple(vm.run(n, f"rd64 {at}")[0] for at in (0xff000, 0xff008)) for n in ("c-1", "c-2"))
    assert a != b
    # A clone has its own snapshots and reverts to them.
    daemon.cairn("snapshot-create-as", "c-1", "mine")
    vm.run("c-1", f"fill {AT} {FILL} 7")
    disk_write(vm, "c-1", 1, 0, 7)
    daemon.cairn("snapshot-revert", "c-1", "mine")
    holds_s1(vm, "c-1")
    daemon.cairn("destroy", "c-1", "c-2")
    if state == "shut off":
        daemon.cairn("start", "src")
    else:
        off(vm, daemon)
        daemon.cairn("start", "src")
    daemon.cairn("snapshot-revert", "src", "s1")
    vm.run("src", f"rd64 {AT}")  # part of its start's output may precede the answer
    holds_s1(vm, "src")
    off(vm, daemon)
    check(tmp_path / "a.qcow2", *(tmp_path / f"c-{i}-vd{d}.qcow2" for i in (1, 2) for d in "ab"))


def test_clone_of_snapshot_while_source_writes(vm, daemon, tmp_path):
    """The source's vCPUs and disk are busy; the clones match the snapshot all the same."""
    vm.start(vcpus=2, disks=[image(tmp_path / "a.qcow2")])
    disk_write(vm, "src", 0, 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vm.run("src", "smp start 1")
    vm.run("src", "smp count 1")
    q = daemon.qmp()
    for i in range(4):
        job = q.run("vm-fork", vm="src", name=f"c{i}", snapshot="s1")["job"]
        disk_write(vm, "src", 0, 0, 20 + i)
        vm.run("src", f"fill {AT} {FILL} {i + 2}")
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        vm.holds(f"c{i}", AT, FILL, 1)
        disk_holds(vm, f"c{i}", 0, 0, 1)
        disk_holds(vm, "src", 0, 0, 20 + i)


def test_impossible_clones_of_snapshot_are_refused(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("snapshot-create-as", "src", "disks", "--disk-only")
    there = sorted(os.listdir(tmp_path))

    def refused(ok, *args):
        r = daemon.cairn("clone", "--live", "src", "c", *args, ok=ok)
        assert names(daemon) == ["src"] and sorted(os.listdir(tmp_path)) == there
        return r.stderr

    assert "snapshot 'disks' holds disks only" in refused(4, "--snapshotname", "disks")
    assert "there is no snapshot 'none'" in refused(3, "--snapshotname", "none")
    assert "snapshot: 1 to 255 bytes" in refused(2, "--snapshotname", "x" * 256)
    off(vm, daemon)
    assert "holds disks only, and live clones need memory" in refused(4, "--snapshotname", "disks")
    assert "there is no snapshot 'none'" in refused(3, "--snapshotname", "none")
    assert "clone --live works when it is running or paused" in refused(4)


def test_clone_of_snapshot_with_other_memory_says_what_to_do(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("snapshot-create-as", "src", "s1")
    size = json.loads(daemon.cairn("dumpjson", "src").stdout)["memory"]
    daemon.cairn("setmaxmem", "src", "96M")
    r = daemon.cairn("clone", "--live", "src", "c", "--snapshotname", "s1", ok=False)
    assert "the VM's definition has 96 MiB; give the definition the first size (cairn setmaxmem)" in r.stderr
    assert names(daemon) == ["src"]
    daemon.cairn("setmaxmem", "src", size)
    daemon.cairn("clone", "--live", "src", "c", "--snapshotname", "s1")


def test_damaged_memory_is_refused(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    vm.run("src", f"fill {AT} 65536 77")
    known = bytes(vm_memory(vm, "src", AT, 32))
    daemon.cairn("snapshot-create-as", "src", "s1")
    off(vm, daemon)
    data = (tmp_path / "a.qcow2").read_bytes()
    at = data.index(known)
    with open(tmp_path / "a.qcow2", "r+b") as f:
        f.seek(at)
        f.write(b"\xff")
    r = daemon.cairn("clone", "--live", "src", "c", "--snapshotname", "s1", ok=None)
    assert r.returncode and "checksum" in r.stderr, r.stderr
    assert names(daemon) == ["src"]


def vm_memory(vm, name, at, n):
    words = [int(vm.run(name, f"rd64 {at + i}")[0], 0) for i in range(0, n, 8)]
    return b"".join(w.to_bytes(8, "little") for w in words)


@pytest.mark.parametrize("whose", ["daemon", "vm", "images"])
def test_killed_process_leaves_no_clone_and_no_copy(vm, daemon, tmp_path, whose):
    """Whichever process dies, no clone and no copy is left, and the source's images have no faults."""
    rng = random.Random(whose)
    prepare(vm, daemon, tmp_path)
    if whose == "images":
        off(vm, daemon)
    there = sorted(os.listdir(tmp_path))
    for _ in range(3):
        q = daemon.qmp()
        q.run("vm-fork", vm="src", name="c", count=3, snapshot="s1")
        for _ in range(rng.randrange(1, 4)):
            q.event("VM_DEFINED")
        if whose == "daemon":
            daemon.stop(signal.SIGKILL)
            daemon.start()
        elif whose == "vm":
            os.kill(daemon.info("src")["pid"], signal.SIGKILL)
        else:
            kill_images(daemon)
        until(lambda: not list(daemon.state.glob("batches/*")))
        if len(names(daemon)) > 1:  # they were complete before it died
            forget(daemon, tmp_path, "c-1", "c-2", "c-3")
        assert names(daemon) == ["src"] and sorted(os.listdir(tmp_path)) == there
        if whose == "vm":
            daemon.wait("src", "crashed")
            for console in (vm.consoles.pop(n) for n in list(vm.consoles)):
                console.close()
            daemon.cairn("start", "src")
    # A source whose daemon was killed gives up, but only once it has noticed.
    until(lambda: daemon.cairn("clone", "--live", "src", "d", "--snapshotname", "s1", ok=None).returncode != 6)
    holds_s1(vm, "d")
    if daemon.info("src")["state"] != "shutoff":
        off(vm, daemon)
    if whose != "vm":  # a killed writer leaves leaks
        check(tmp_path / "a.qcow2", tmp_path / "b.qcow2")


def forget(daemon, tmp_path, *clones):
    """Remove the clones. The signal may have met the new process of a clone that was complete, which then crashes."""
    for name in clones:
        daemon.cairn("destroy", name, ok=None)
        until(lambda: daemon.info(name)["state"] in ("shutoff", "crashed"))
    daemon.cairn("undefine", *clones)
    for f in tmp_path.glob("c-*"):
        f.unlink()


def kill_images(daemon):
    """Kill the process that works on the images of a VM that is off, if it still runs."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f, open(f"/proc/{pid}/stat") as s:
                if f.read().strip() == "cairn-vm" and int(s.read().rsplit(")")[1].split()[1]) == daemon.proc.pid:
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass
