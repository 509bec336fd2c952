"""Clones of running VMs: they start with their source's memory, vCPUs and devices, share its pages, and diverge.
The guest is the bare-metal interpreter."""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time

import pytest

from conftest import BUILD, Console, QmpError, open_fds, open_files, until
from fuselib import Op, fuse
from mountlib import mounted, tmpfs

MIB = 1 << 20
FILL = 8 << 20
AT = 16 << 20


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    """A running interpreter, src, with 8 MiB of known content."""

    class Vm:
        def __init__(self):
            self.consoles = {}

        def start(self, **keys):
            self.kernel = guest("interp.elf")
            daemon.define("src", debug_exit=True, **{
                "memory": "64M", "boot": {"kernel": guest("interp.elf")}, **keys})
            daemon.cairn("start", "src")
            self.attach("src")
            while self.consoles["src"].line() != "interp":
                pass
            self.run("src", f"fill {AT} {FILL} 1")

        def attach(self, name):
            self.consoles[name] = Console(daemon, name)

        def run(self, name, text):
            if name not in self.consoles:
                self.attach(name)
            return self.consoles[name].run(text)

        def holds(self, name, at, length, seed):
            return self.run(name, f"check {at} {length} {seed}")

        def clone(self, name, *args, **kwargs):
            return daemon.cairn("clone", "--live", "src", name, *args, **kwargs)

        def close(self):
            for c in self.consoles.values():
                c.close()

    v = Vm()
    yield v
    v.close()


def names(daemon, *args):
    return sorted(daemon.cairn("list", "--all", "--name", *args).stdout.split())


def test_clone_continues_with_memory_of_its_source(vm, daemon):
    vm.start()
    r = vm.clone("copy")
    assert r.stdout.splitlines()[0] == "Domain 'src' cloned as 'copy'"
    assert "(restored)" in daemon.cairn("domstate", "--reason", "copy").stdout
    assert "(booted)" in daemon.cairn("domstate", "--reason", "src").stdout
    assert daemon.info("copy")["uuid"] != daemon.info("src")["uuid"]
    vm.holds("src", AT, FILL, 1)
    vm.holds("copy", AT, FILL, 1)
    # Source and clone write independently, to shared pages and to untouched ones.
    vm.run("src", f"fill {AT} {1 << 20} 2")
    vm.run("copy", f"fill {AT} {2 << 20} 3")
    vm.run("copy", f"fill {AT + FILL} {1 << 20} 4")
    vm.holds("src", AT, 1 << 20, 2)
    vm.holds("copy", AT, 2 << 20, 3)
    vm.holds("copy", AT + FILL, 1 << 20, 4)
    # A later clone of the source starts with the source's current content.
    vm.clone("late")
    vm.holds("late", AT, 1 << 20, 2)
    vm.holds("copy", AT, 2 << 20, 3)


def test_clone_has_single_pages_and_the_zeros_between_them(vm, daemon):
    """A fork writes only the pages of a block that are not zero. The guest changes them between two forks."""
    vm.start()
    base, pages = 40 << 20, [0, 2, 3, 15, 16, 33, 47]

    def words(name):
        return [vm.run(name, f"rd64 {base + 4096 * i + off:#x}")[0] for i in range(49) for off in (0, 4088)]

    for i in pages:
        vm.run("src", f"wr64 {base + 4096 * i + (4088 if i % 2 else 0):#x} {i + 1}")
    for name in ("c1", "c2"):
        before = words("src")
        assert sum(int(w, 0) != 0 for w in before) == len(pages)
        vm.clone(name)
        assert words(name) == before
        vm.run("src", f"wr64 {base:#x} 0")
        vm.run("src", f"wr64 {base + 4096:#x} 9")


def counter(vm, name):
    return next(int(l.split("counter=")[1]) for l in vm.run(name, "smp show") if "counter=" in l)


def test_batch_of_clones_starts(vm, daemon):
    vm.start(vcpus=2)
    vm.run("src", "smp start 1")
    vm.run("src", "smp count 1")  # forever
    r = vm.clone("c", "--count", "5", "--verbose")
    assert r.stdout.startswith("Domain 'src' cloned 5 times, as 'c-1' to 'c-5'\npaused for ")
    assert names(daemon) == ["c-1", "c-2", "c-3", "c-4", "c-5", "src"]
    generations = set()
    for i, name in enumerate(["src", "c-1", "c-2", "c-3", "c-4", "c-5"]):
        vm.holds(name, AT, FILL, 1)
        vm.run(name, f"fill {AT} {FILL} {i + 10}")
        a, b = (vm.run(name, f"rd64 {at}")[0] for at in (0xff000, 0xff008))
        generations.add((a, b))
    for i, name in enumerate(["src", "c-1", "c-2", "c-3", "c-4", "c-5"]):
        vm.holds(name, AT, FILL, i + 10)
    assert len(generations) == 6
    for name in names(daemon):
        at = counter(vm, name)
        while counter(vm, name) < at + 1_000_000:
            pass
    assert len({daemon.info(n)["uuid"] for n in names(daemon)}) == 6


def test_source_runs_while_its_memory_is_copied(vm, daemon):
    """A vCPU that never stops writing; the clones have every word as of one instant."""
    vm.start(vcpus=2)
    vm.run("src", f"fill {32 << 20} {16 << 20} 5")
    vm.run("src", "smp start 1")
    vm.run("src", "smp count 1")
    for i in range(2):
        before = counter(vm, "src")
        r = json.loads(vm.clone(f"c{i}", "--paused", "--format", "json").stdout)
        while counter(vm, "src") <= before:
            pass
        assert r["ram-bytes-written"] >= 24 << 20
        daemon.cairn("resume", f"c{i}")
        assert before <= counter(vm, f"c{i}")
        vm.run("src", f"fill {32 << 20} {16 << 20} {6 + i}")
        vm.holds(f"c{i}", 32 << 20, 16 << 20, 5 + i)


def test_clones_are_of_one_instant(vm, daemon):
    """Two vCPUs write all the time and keep count of their writes; so they do in each clone."""
    vm.start(vcpus=3)
    vm.run("src", "storm start 2 0x2000000 0x400000")
    source = "src"
    for i in range(4):  # of the VM itself, then of clones
        daemon.cairn("clone", "--live", source, f"c{i}")
        vm.run(f"c{i}", "storm check")
        vm.run(source, "storm check")
        vm.consoles.pop(source).close()
        daemon.cairn("destroy", source)
        source = f"c{i}"


def test_fork_does_not_change_incremental_snapshots(vm, daemon, tmp_path):
    """A fork changes neither what the next snapshot has to write nor what a revert drops."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("snapshot-create-as", "src", "s1")
    vm.run("src", f"fill {AT} {1 << 20} 2")
    vm.clone("c1")
    vm.run("src", f"fill {AT + (2 << 20)} {1 << 20} 3")
    r = json.loads(daemon.cairn("snapshot-create-as", "src", "s2", "--format", "json").stdout)
    assert 2 << 20 <= r["ram-bytes-written"] < 4 << 20  # only what was written since s1
    vm.run("src", f"fill {AT + (4 << 20)} {1 << 20} 4")
    vm.clone("c2")
    daemon.cairn("snapshot-revert", "src", "s2")
    vm.holds("src", AT, 1 << 20, 2)
    vm.holds("src", AT + (1 << 20), 1 << 20, 1)
    vm.holds("src", AT + (2 << 20), 1 << 20, 3)
    vm.holds("src", AT + (3 << 20), FILL - (3 << 20), 1)
    vm.clone("c3")  # right after a revert: memory is not loaded completely
    vm.holds("c3", AT + (2 << 20), 1 << 20, 3)
    daemon.cairn("snapshot-revert", "src", "s1")
    vm.holds("src", AT, FILL, 1)
    vm.holds("c2", AT + (4 << 20), 1 << 20, 4)


def test_clones_share_memory_of_source(vm, daemon):
    vm.start()
    vm.clone("c", "--count", "4", "--paused")
    assert daemon.cairn("domstate", "c-1").stdout == "paused\n"
    for i in range(1, 5):
        text = open(f"/proc/{daemon.info(f'c-{i}')['pid']}/smaps").read()
        private = sum(int(m) for part in text.split("memfd:cairn-fork")[1:]
                      for m in re.findall(r"Private_Dirty: +(\d+)", part.split("VmFlags")[0]))
        assert private <= 64  # KiB that devices and the generation id write
    for i in range(1, 5):
        daemon.cairn("resume", f"c-{i}")
        vm.holds(f"c-{i}", AT, FILL, 1)


def test_clone_can_be_cloned(vm, daemon):
    vm.start()
    vm.clone("a")
    vm.run("a", f"fill {AT + 4096} 4096 7")
    vm.run("a", f"fill {AT + FILL} 4096 8")
    daemon.cairn("clone", "--live", "a", "b")
    daemon.cairn("destroy", "a")
    for n in ("b",):
        vm.holds(n, AT, 4096, 1)
        vm.holds(n, AT + 4096, 4096, 7)
        vm.holds(n, AT + 8192, FILL - 8192, 1)
        vm.holds(n, AT + FILL, 4096, 8)


def test_clone_can_be_saved_and_restored(vm, daemon, tmp_path):
    vm.start()
    vm.clone("a")
    vm.run("a", f"fill {AT + 4096} 4096 7")
    vm.run("a", f"fill {AT + FILL} 4096 8")
    vm.consoles.pop("a").close()
    daemon.cairn("save", "a", str(tmp_path / "a.save"))
    daemon.cairn("restore", str(tmp_path / "a.save"))
    vm.holds("a", AT, 4096, 1)
    vm.holds("a", AT + 4096, 4096, 7)
    vm.holds("a", AT + 8192, FILL - 8192, 1)
    vm.holds("a", AT + FILL, 4096, 8)
    # A reset gives the clone memory of its own; the source is unchanged.
    daemon.cairn("reset", "a")
    daemon.wait("a", "running")
    vm.holds("src", AT, FILL, 1)


def test_clone_of_paused_source(vm, daemon):
    """The clone was paused for as long as its source. Its kvm-clock, which continued, shows that to the guest."""
    vm.start()
    assert "stopped=0" in vm.run("src", "clock")[0]
    daemon.cairn("suspend", "src")
    vm.clone("a")
    assert daemon.cairn("domstate", "src").stdout == "paused\n"
    vm.holds("a", AT, FILL, 1)
    assert "stopped=1" in vm.run("a", "clock")[0]


def unread(sock):
    """Return how much of what was sent its receiver has not read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_input_that_the_guest_has_not_read_stays_with_the_source(vm, daemon):
    """Half a line waits at the source's serial port. The clone's next line is its own."""
    vm.start()
    source = vm.consoles["src"]
    daemon.cairn("suspend", "src")
    source.sock.sendall(b"echo of-the-")
    until(lambda: not unread(source.sock))
    assert vm.clone("copy").returncode == 0
    assert vm.run("copy", "echo of-the-clone") == ["of-the-clone"]
    daemon.cairn("resume", "src")
    assert vm.run("src", "source") == ["of-the-source"]


def test_new_console_takes_no_earlier_answer(vm, daemon):
    """A test's console reads past the output that the guest had before."""
    vm.start()
    vm.attach("src")
    with pytest.raises(AssertionError, match="differs"):
        vm.holds("src", AT, FILL, 2)


def test_refusals_change_nothing(vm, daemon, guest, tmp_path):
    vm.start()
    daemon.define("c-3", debug_exit=True, memory="32M")
    before = daemon.cairn("list", "--all").stdout
    r = vm.clone("c", "--count", "5", ok=4)
    assert r.stderr == ("error: Failed to clone domain 'src'\n"
                        "error: there is a VM 'c-3' already; choose another name\n")
    vm.clone("src", ok=4)
    vm.clone("a/b", ok=2)
    vm.clone("c", "--count", "0", ok=2)
    vm.clone("c", "--count", "1001", ok=2)
    vm.clone("c", "--count", "x", ok=2)
    daemon.cairn("clone", "src", "c", ok=4)
    daemon.cairn("clone", "--live", "none", "c", ok=3)
    assert "clone --live works when it is" in daemon.cairn("clone", "--live", "c-3", "d", ok=4).stderr
    assert daemon.cairn("list", "--all").stdout == before
    assert sorted(os.listdir(daemon.state / "vms")) == ["c-3", "src"]


# ---- disks ----

def image(path, fmt="qcow2", *args):
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *args, path, "16M"], check=True)
    return {"path": str(path), "format": fmt}


def disk_write(vm, name, disk, sector, seed):
    vm.run(name, f"open {disk}")
    vm.run(name, f"write {sector} 128 {seed}")
    vm.run(name, "flush")


def disk_holds(vm, name, disk, sector, seed):
    vm.run(name, f"open {disk}")
    vm.run(name, f"verify {sector} 128 {seed}")


def check(*paths):
    """Check images, by QEMU where it opens them: it refuses overlays on a pin."""
    for p in paths:
        with open(p, "rb") as f:
            is_overlay = b"cairn-fork:" in f.read(4096)
        program = os.path.join(BUILD, "cairn-img") if is_overlay else "qemu-img"
        subprocess.run([program, "check", "-q", "-U", p], check=True)


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


def concluded(q, job):
    """Wait for the job's end. Return its row of query-jobs."""
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    return j


def forget_clones(vm, daemon):
    for name in names(daemon):
        if name != "src":
            vm.consoles.pop(name).close()
            daemon.cairn("destroy", name)
            daemon.cairn("undefine", name, "--remove-all-storage")


def qemu_snapshots(path):
    """Return qemu-img's table of all snapshots; empty if there are none."""
    while True:
        r = subprocess.run(["qemu-img", "snapshot", "-l", "-U", path], text=True, stdout=subprocess.PIPE)
        if not r.returncode:  # otherwise the VM's process replaced the list between two reads of qemu-img's
            return r.stdout


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


# ---- failures, with fake_vm ----

def left(fake):
    """Return names of VMs and of their folders."""
    return names(fake), sorted(os.listdir(fake.state / "vms"))


def processes(fake):
    """Return the processes of VMs. The one that the daemon makes ahead of the next fork of one clone is none; fake_vm
    refuses to be that, and ends."""
    return [p for p in os.listdir("/proc") if p.isdigit() and _environ(p, fake.socket)]


def _environ(pid, path):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f, open(f"/proc/{pid}/comm") as c, open(f"/proc/{pid}/cmdline", "rb") as a:
            return path.encode() in f.read() and c.read().strip() in ("fake_vm", "cairn-vm") and b"\0--spare\0" not in a.read()
    except OSError:
        return False


ALONE = (["src"], ["src"])


@pytest.mark.parametrize("dies", ["c-1", "c-7", "c-20"])
def test_dying_clone_fails_whole_batch(fake, dies):
    fake.define("src", cmdline=f"clone-dies={dies}")
    fake.cairn("start", "src")
    q = fake.qmp()
    r = fake.cairn("clone", "--live", "src", "c", "--count", "20", ok=1)
    assert r.stderr.startswith("error: Failed to clone domain 'src'\nerror: the VM's process ended")
    assert left(fake) == ALONE
    assert len(processes(fake)) == 1
    made = {q.event("VM_DEFINED")["data"]["vm"]}
    while (ev := q.read())["event"] != "JOB_STATUS_CHANGE" or ev["data"]["status"] != "concluded":
        if ev["event"] == "VM_DEFINED":
            made.add(ev["data"]["vm"])
        if ev["event"] == "VM_UNDEFINED":
            made.remove(ev["data"]["vm"])
    assert not made and fake.cairn("domstate", "src").stdout != "shut off\n"
    # The names are free again.
    fake.cairn("clone", "--live", "src", "d")


def test_fork_fails_when_source_refuses(fake):
    fake.define("src", cmdline="work-fails")
    fake.cairn("start", "src")
    r = fake.cairn("clone", "--live", "src", "c", "--count", "3", ok=1)
    assert "no space left on the device" in r.stderr
    assert left(fake) == ALONE


def test_fork_fails_when_source_dies(fake):
    fake.define("src", cmdline="work-takes=60000")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def first_process(fake, source):
    """Wait for the process that the daemon spawns for the first clone before the source has answered."""
    until(lambda: len(processes(fake)) == 2)
    (pid,) = set(processes(fake)) - {str(source)}
    return int(pid)


def test_first_clone_uses_the_process_spawned_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    pid = first_process(fake, fake.info("src")["pid"])
    assert fake.info("c-1")["state"] == "shutoff"
    (fake.tmp / "go").touch()
    concluded(q, job)
    assert fake.info("c-1")["pid"] == pid and len(processes(fake)) == 4


def test_clone_starts_when_its_process_ended_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c")["job"]
    pid = first_process(fake, fake.info("src")["pid"])
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(processes(fake)) == 1)
    (fake.tmp / "go").touch()
    assert "error" not in concluded(q, job)
    assert fake.info("c")["pid"] != pid and len(processes(fake)) == 2


def test_killed_daemon_leaves_no_process_spawned_ahead(fake):
    fake.define("src", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    fake.qmp().run("vm-fork", vm="src", name="c")
    first_process(fake, fake.info("src")["pid"])
    fake.stop(signal.SIGKILL)
    fake.start()
    until(lambda: left(fake) == ALONE)
    until(lambda: len(processes(fake)) == 1)


def test_process_without_configuration_ends_with_its_client(tmp_path):
    path = str(tmp_path / "vm.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(path)
            fd = listening.fileno()
            p = subprocess.Popen([os.path.join(BUILD, "cairn-vm"), "--listen", str(fd)], pass_fds=[fd],
                                 stderr=subprocess.PIPE, text=True)
            os.unlink(path)
        assert "the client sent no configuration" in p.communicate(timeout=60)[1] and p.returncode == 2


@pytest.mark.parametrize("reaped", [False, True])
def test_process_without_configuration_ends_although_its_clients_socket_is_open(tmp_path, reaped):
    path = str(tmp_path / "vm.sock")
    with (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
          socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client):
        listening.bind(path)
        listening.listen()
        connects = ("import socket, sys\n"
                    f"socket.socket(fileno={client.fileno()}).connect(sys.argv[1])\n"
                    "print(flush=True)\ninput()")
        d = subprocess.Popen([sys.executable, "-c", connects, path], pass_fds=[client.fileno()], text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        assert d.stdout.readline() == "\n"
        if reaped:
            d.communicate("\n")
        fd = listening.fileno()
        p = subprocess.Popen([os.path.join(BUILD, "cairn-vm"), "--listen", str(fd)], pass_fds=[fd], stderr=subprocess.PIPE,
                             text=True)
        if not reaped:
            with pytest.raises(subprocess.TimeoutExpired):
                p.wait(1)
            d.communicate("\n")
        assert "the client sent no configuration" in p.communicate(timeout=60)[1] and p.returncode == 2


@pytest.fixture
def ready(fake):
    """A fork whose clones run, while the source has not answered yet: (client, job)."""
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=6)["job"]
    running = set()
    while len(running) < 6:
        data = q.event("VM_STATE_CHANGE", state="running")["data"]
        running.add(data["vm"])
    return q, job


def test_fork_succeeds_when_source_has_answered(fake, ready):
    q, job = ready
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running" and len(list(fake.state.glob("batches/*.json"))) == 1
    for args in (("clone", "--live", "src", "d"), ("undefine", "c-6")):
        assert fake.cairn(*args, ok=None).returncode in (4, 6)
    (fake.tmp / "go").touch()
    j = concluded(q, job)
    assert "error" not in j
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 7


def test_source_that_dies_ends_clones_that_run(fake, ready):
    q, job = ready
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def test_source_that_fails_ends_clones_that_start(fake):
    fake.define("src", cmdline=f"fork-ready work-fails work-until={fake.tmp}/go clone-until={fake.tmp}/never:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    assert {q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(2)} == {"c-1", "c-3"}
    (fake.tmp / "go").touch()
    assert "no space left" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_cancel_ends_clones_that_run(fake, ready):
    q, job = ready
    q.run("job-cancel", id=job)
    (fake.tmp / "go").touch()
    concluded(q, job)
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_cancel_ends_clones_that_start(fake):
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go clone-until={fake.tmp}/never:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    assert {q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(2)} == {"c-1", "c-3"}
    q.run("job-cancel", id=job)
    until(lambda: "VM 'c-2': the VM was destroyed while starting" in fake.log.read_text())
    (fake.tmp / "go").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


@pytest.mark.seconds(120)
def test_clone_waits_for_a_source_that_is_slower_than_a_start_may_be(fake):
    fake.define("src", cmdline=f"fork-ready work-until={fake.tmp}/go clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=2)["job"]
    q.event("VM_STATE_CHANGE", state="running", vm="c-1")
    time.sleep(32)  # a start has 30 s
    assert q.run("query-jobs", id=job)[0]["status"] == "running"
    (fake.tmp / "go").touch()
    assert "error" not in concluded(q, job) and set(names(fake)) == {"src", "c-1", "c-2"}


UNUSED = 14 << 20  # of a state; the sections, the definition, checksums and memory lie elsewhere


def have_state(fake):
    """Return the processes that have the file of a fork's state open."""
    return [p for p in processes(fake) if any("memfd:cairn-fork" in target for target in open_files(p))]


@pytest.fixture
def begun(fake):
    """A fork whose first clone has its configuration and waits for the source's state: (client, job)."""
    fake.define("src", cmdline=f"fork-stages work-until={fake.tmp}/go answer-until={fake.tmp}/end")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=6)["job"]
    until(lambda: len(have_state(fake)) == 2)
    return q, job


def test_first_clone_starts_before_the_state_is_written(fake, begun):
    q, job = begun
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running" and fake.info("c-1")["state"] == "shutoff" and len(processes(fake)) == 2
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))  # all is on stable storage
    (j,) = q.run("query-jobs", id=job)
    assert j["status"] == "running"
    fake.cairn("destroy", "c-6")
    (fake.tmp / "end").touch()
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 6


def test_clones_may_go_before_the_source_has_answered(fake, begun):
    q, job = begun
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))  # all is on stable storage
    uuids = [fake.info(f"c-{i}")["uuid"] for i in range(1, 7)]
    for name in ("c-6", "c-1"):
        fake.cairn("destroy", name)
        fake.cairn("undefine", name)
    (fake.tmp / "end").touch()
    result = concluded(q, job)["result"]
    assert [(c["name"], c["uuid"]) for c in result["clones"]] == [(f"c-{i + 1}", uuid) for i, uuid in enumerate(uuids)]
    assert result["pause"] == 1500000 and set(names(fake)) == {"src", *(f"c-{i}" for i in range(2, 6))}


def test_first_clone_begins_after_the_pause(vm, daemon, tmp_path):
    """A raw disk is copied within the pause, which lasts here until its file system answers."""
    with fuse(tmp_path / "fuse", vda=bytes(64 << 10)) as files:
        vm.start(disks=[{"path": files["vda"], "format": "raw"}])
        q = daemon.qmp()
        files.hang(Op.READ)
        job = q.run("vm-fork", vm="src", name="c")["job"]
        until(files.hanging)
        time.sleep(0.5)  # the daemon would configure a clone within milliseconds
        assert len(have_state(daemon)) == 1
        files.release()
        assert "error" not in concluded(q, job)
        assert len(have_state(daemon)) == 1 and names(daemon) == ["c", "src"]
        daemon.cairn("destroy", "c", "src")


def test_source_that_dies_ends_clone_that_waits_for_its_state(fake, begun):
    q, job = begun
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "signal 9" in concluded(q, job)["error"]
    assert left(fake) == ALONE and processes(fake) == []


def test_cancel_ends_clone_that_waits_for_the_state(fake, begun):
    q, job = begun
    q.run("job-cancel", id=job)
    (fake.tmp / "end").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_source_that_dies_after_all_is_stored_does_not_fail_the_fork(fake, begun):
    q, job = begun
    (fake.tmp / "go").touch()
    assert len({q.event("VM_STATE_CHANGE", state="running")["data"]["vm"] for _ in range(6)}) == 6
    until(lambda: not list(fake.state.glob("batches/*.json")))
    os.kill(fake.info("src")["pid"], signal.SIGKILL)
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))} and len(processes(fake)) == 6


def test_killed_daemon_ends_clone_that_waits_for_the_state(fake, begun):
    fake.stop(signal.SIGKILL)
    until(lambda: len(processes(fake)) == 1)
    fake.start()
    until(lambda: left(fake) == ALONE and not list(fake.state.glob("batches/*")))


def sealing_or_over(j):
    return j["unit"] == "clones" or j["status"] == "concluded"


@pytest.fixture
def in_use(fake, begun):
    """As begun, once the source has written the state, of which the kernel uses a page: (client, job, release)."""
    q, job = begun
    pid = fake.info("src")["pid"]
    (fd,) = [f for f, target in open_fds(pid).items() if "memfd:cairn-fork" in target]
    with open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0) as state:
        os.pwrite(state.fileno(), b"x", UNUSED)
        out, pipe = os.pipe()
        assert os.splice(state.fileno(), pipe, 1, offset_src=UNUSED) == 1
    (fake.tmp / "go").touch()
    until(lambda: sealing_or_over(q.run("query-jobs", id=job)[0]))
    yield q, job, lambda: os.read(out, 1)
    os.close(out)
    os.close(pipe)


def test_fork_waits_for_pages_of_the_state_that_the_kernel_uses(fake, in_use):
    q, job, release = in_use
    time.sleep(0.5)  # the kernel waits 0.15 s
    assert q.run("query-jobs", id=job)[0]["status"] == "running" and fake.info("c-1")["state"] == "shutoff"
    release()
    (fake.tmp / "end").touch()
    assert "error" not in concluded(q, job)
    assert set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 7))}


def test_cancel_ends_fork_whose_state_the_kernel_uses(fake, in_use):
    q, job, _ = in_use
    q.run("job-cancel", id=job)
    (fake.tmp / "end").touch()
    assert "cancelled" in concluded(q, job)["error"]
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_clones_in_progress_refuse_other_operations(fake):
    """No other operation touches the clones before the fork is complete."""
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=8)["job"]
    fake.cairn("clone", "--live", "src", "d", ok=6)
    for args in (("start", "c-8"), ("undefine", "c-8")):  # the clone may already run
        assert fake.cairn(*args, ok=None).returncode in (4, 6)
    assert fake.cairn("destroy", "c-1", ok=None).returncode in (0, 4, 6)
    (fake.tmp / "go").touch()
    error = concluded(q, job).get("error")
    if error:  # c-1 did not run yet, so the fork has failed
        assert "the VM was destroyed while starting" in error and names(fake) == ["src"]
    else:
        assert "d" not in names(fake) and set(names(fake)) == {"src", *(f"c-{i}" for i in range(1, 9))}
    fake.cairn("clone", "--live", "src", "d")


def test_cancelled_fork_leaves_nothing(fake):
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-2")
    fake.cairn("start", "src")
    q = fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=30)["job"]
    q.event("VM_DEFINED", vm="c-3")
    q.run("job-cancel", id=job)
    concluded(q, job)
    assert left(fake) == ALONE and len(processes(fake)) == 1


def test_killed_daemon_leaves_no_partial_clones(fake):
    fake.define("src", cmdline=f"clone-until={fake.tmp}/go:c-4")
    fake.cairn("start", "src")
    q = fake.qmp()
    q.run("vm-fork", vm="src", name="c", count=5)
    q.event("VM_STATE_CHANGE", vm="c-5", state="running")
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    assert len(list(fake.state.glob("batches/*.json"))) == 1
    fake.start()
    until(lambda: left(fake) == ALONE and not list(fake.state.glob("batches/*")))
    assert len(processes(fake)) == 1
    fake.cairn("clone", "--live", "src", "c", "--count", "3")


def test_daemon_killed_at_last_step_leaves_all_clones_or_none(fake):
    """The clones already run, and nobody was notified."""
    fake.define("src")
    fake.cairn("start", "src")
    rnd = random.Random(6)
    seen = set()
    for i in range(12):
        q = fake.qmp()
        q.run("vm-fork", vm="src", name="c", count=4)
        q.event("VM_STATE_CHANGE", vm=f"c-{i % 4 + 1}", state="running")
        time.sleep(rnd.random() * 0.004)
        fake.stop(signal.SIGKILL)
        fake.start()
        until(lambda: not list(fake.state.glob("batches/*")))
        clones = [n for n in names(fake) if n != "src"]
        seen.add(len(clones))
        if clones:
            fake.cairn("destroy", *clones)
            fake.cairn("undefine", *clones)
        assert left(fake) == ALONE and len(processes(fake)) == 1
    assert seen <= {0, 4}


def test_clones_survive_daemon(fake):
    fake.define("src")
    fake.cairn("start", "src")
    fake.cairn("clone", "--live", "src", "c", "--count", "3")
    assert not list(fake.state.glob("batches/*"))
    before = {n: fake.info(n)["uuid"] for n in names(fake)}
    fake.stop(signal.SIGKILL)
    fake.start()
    assert {n: fake.info(n)["uuid"] for n in names(fake)} == before and len(before) == 4
    assert all(fake.info(n)["state"] != "shutoff" for n in before)


def test_fork_is_audited(fake):
    fake.define("src")
    fake.cairn("start", "src")
    fake.cairn("clone", "--live", "src", "c")
    lines = json.loads(fake.cairn("audit", "--format", "json").stdout)
    assert any(l["command"] == "vm-fork" and l["vm"] == "src" for l in lines)
