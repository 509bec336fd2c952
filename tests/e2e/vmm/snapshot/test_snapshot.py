"""Snapshots of real VMs: memory, disks and tree revert; qemu-img agrees; damage and crashes are survived. The guest
is the bare-metal interpreter; the disk's content is its pattern by seed."""

import contextlib
import ctypes
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time

import pytest

import guestlib
from conftest import BUILD, ROOT, Console, Qmp, is_vm, until
from mountlib import tmpfs
from statelib import State, crc32c

BLOCK = 65536
EMULATED = "CAIRN_IN_SVMHOST" in os.environ  # where a guest fills some 10 MiB a second
lazy = pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    """A running interpreter with a qcow2 disk; `vm.console` talks to it."""

    class Vm:
        def __init__(self):
            self.disks = [tmp_path / "vda.qcow2"]
            self.define()

        def define(self, **keys):
            for d in self.disks:
                if not d.exists():
                    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", d, "64M"], check=True)
            daemon.define("vm1", debug_exit=True, **{
                "boot": {"kernel": guest("interp.elf")}, "memory": "64M",
                "disks": [{"path": str(d), "format": "qcow2"} for d in self.disks], **keys})

        def start(self):
            daemon.cairn("start", "vm1")
            self.attach()
            while self.console.line() != "interp":
                pass
            self.run("open 0")

        def attach(self):
            self.console = Console(daemon, "vm1")

        def run(self, text):
            return self.console.run(text)

        def snapshot(self, name, *args):
            r = daemon.cairn("snapshot-create-as", "vm1", name, "--format", "json", *args)
            return json.loads(r.stdout)

        def revert(self, name, *args, **kwargs):
            return daemon.cairn("snapshot-revert", "vm1", name, *args, **kwargs)

        def names(self):
            return daemon.cairn("snapshot-list", "vm1", "--name").stdout.split()

        def pid(self):
            return daemon.info("vm1")["pid"]

        def stop(self):
            self.console.close()
            daemon.cairn("destroy", "vm1")

    v = Vm()
    v.daemon, v.guest = daemon, guest
    yield v


def check(image, leaks_allowed=False):
    """Check with qemu-img. Leaks may also show as COPIED errors: qemu-img reports a cluster with refcount 2 and one
    reference (docs/qcow2.md, "Between two syncs")."""
    r = subprocess.run(["qemu-img", "check", image], capture_output=True, text=True)
    errors = [line for line in r.stdout.splitlines() + r.stderr.splitlines() if line.startswith("ERROR")]
    if leaks_allowed and r.returncode == 2 and all("OFLAG_COPIED" in line for line in errors):
        r = subprocess.run([BUILD + "/cairn-img", "check", image], capture_output=True, text=True)
    assert r.returncode in ((0, 3) if leaks_allowed else (0,)), r.stdout + r.stderr


def wait_released(image):
    """A killed process's io_uring, or its asynchronous I/O on epoll, releases its files a moment after the process."""
    while subprocess.run(["qemu-img", "info", image], capture_output=True).returncode:
        time.sleep(0.02)


def qemu_names(image):
    out = subprocess.run(["qemu-img", "snapshot", "-l", image], capture_output=True, text=True,
                         check=True).stdout
    return [line.split()[1] for line in out.splitlines()[2:]]


def vm_clocks(vm):
    """Each snapshot's VM clock in seconds, as the daemon and as qemu-img read it."""
    ours = {s["name"]: s["vm-clock"] / 1e9
            for s in json.loads(vm.daemon.cairn("snapshot-list", "vm1", "--format", "json").stdout)}
    out = subprocess.run(["qemu-img", "info", "-U", "--output=json", vm.disks[0]], capture_output=True, check=True)
    theirs = {s["name"]: s["vm-clock-sec"] + s["vm-clock-nsec"] / 1e9 for s in json.loads(out.stdout)["snapshots"]}
    assert ours == pytest.approx(theirs)
    return ours


def test_vm_clock_counts_the_time_that_the_guest_ran(vm):
    began = time.monotonic()
    vm.start()
    time.sleep(1.5)
    vm.snapshot("a")
    a = vm_clocks(vm)["a"]
    assert 1.5 <= a <= time.monotonic() - began
    vm.daemon.cairn("suspend", "vm1")
    time.sleep(1.5)
    vm.daemon.cairn("resume", "vm1")
    vm.snapshot("b")
    paused = time.monotonic() - began - 1.5
    assert a < vm_clocks(vm)["b"] <= paused  # not while it was paused
    at = time.monotonic()
    vm.revert("a")
    before_c = time.monotonic()
    vm.snapshot("c")
    c = vm_clocks(vm)["c"]
    assert a <= c <= a + time.monotonic() - at  # back to what it was
    vm.console.close()
    vm.daemon.cairn("managedsave", "vm1")
    time.sleep(1.5)
    vm.daemon.cairn("start", "vm1")
    vm.attach()
    vm.snapshot("d")
    # Not while it was saved. The guest ran on after snapshot c, so the bound begins before it.
    assert c <= vm_clocks(vm)["d"] <= c + time.monotonic() - before_c - 1.5
    vm.stop()
    vm.snapshot("off")
    assert vm_clocks(vm)["off"] == 0


def test_snapshot_info_shows_the_guests_memory(vm):
    vm.start()
    vm.snapshot("s")
    out = vm.daemon.cairn("snapshot-info", "vm1", "s").stdout
    assert re.search(r"^Memory: +64\.0 MiB$", out, re.M), out
    vm.stop()


def test_revert_restores_page_tables(vm, guest):
    """KVM's shadow page tables of the state before the revert must not be used."""
    vm.start()
    names = subprocess.run(["nm", guest("interp.elf")], capture_output=True, text=True, check=True).stdout
    a, b, at = 0x2a00000, 0x2c00000, 0x3000000
    entry = int(re.search(r"(\w+) . pd$", names, re.M).group(1), 16) + 8 * (at >> 21)  # of 2 MiB
    vm.run(f"fill {a:#x} 4096 5")
    vm.run(f"fill {b:#x} 4096 6")
    words = [vm.run(f"rd64 {page:#x}") for page in (a, b)]
    vm.run(f"wr64 {entry:#x} {a | 0xe7:#x}")
    assert vm.run(f"rd64 {at:#x}") == words[0]
    vm.snapshot("s1")
    vm.run(f"wr64 {entry:#x} {b | 0xe7:#x}")
    assert vm.run(f"rd64 {at:#x}") == words[1]
    vm.revert("s1")
    assert vm.run(f"rd64 {at:#x}") == words[0]
    vm.stop()


def test_revert_restores_memory_and_disk(vm):
    vm.start()
    vm.run("fill 0x1000000 0x1000000 5")
    vm.run("write 0 64 11")
    vm.snapshot("s1")
    vm.run("fill 0x1000000 0x800000 6")
    vm.run("write 0 64 12")
    vm.snapshot("s2")
    vm.run("fill 0x1000000 0x1000000 7")
    vm.run("write 0 64 13")
    for name, first, second, disk in (("s1", 5, None, 11), ("s2", 6, None, 12), ("s1", 5, None, 11)):
        vm.revert(name)
        vm.run(f"check 0x1000000 0x800000 {first}")
        vm.run(f"verify 0 64 {disk}")
    vm.run("check 0x1000000 0x1000000 5")
    assert vm.names() == ["s1", "s2"]
    vm.stop()
    check(vm.disks[0])
    assert qemu_names(vm.disks[0]) == ["s1", "s2"]


def test_second_snapshot_writes_changed_memory_only(vm):
    vm.start()
    vm.run("fill 0x1000000 0x2000000 5")
    first = vm.snapshot("s1")
    assert first["ram-bytes-written"] >= 0x2000000 and first["ram-bytes-shared"] == 0
    vm.run("fill 0x1000000 0x40000 6")
    second = vm.snapshot("s2")
    # 256 KiB, and the blocks that the program uses.
    assert second["ram-bytes-written"] <= 0x40000 + 24 * BLOCK
    assert second["ram-bytes-shared"] >= 0x2000000
    vm.daemon.cairn("snapshot-delete", "vm1", "s1")
    vm.run("fill 0x1000000 0x2000000 7")
    vm.revert("s2")  # shared before, its own now
    vm.run("check 0x1000000 0x40000 6")
    vm.stop()
    check(vm.disks[0])


def test_snapshot_after_revert_writes_changed_memory_only(vm):
    """The base survives a revert to any snapshot, whether or not memory is loaded completely."""
    vm.start()
    vm.run("fill 0x1000000 0x2000000 5")
    vm.snapshot("s1")
    vm.run("fill 0x1000000 0x800000 6")
    vm.snapshot("s2")
    for i, (name, seed) in enumerate((("s1", 5), ("s2", 6), ("s1", 5))):
        vm.revert(name, *(["--eager"] if i == 2 else []))
        vm.run(f"fill 0x2000000 0x40000 {i + 7}")
        r = vm.snapshot(f"n{i}")
        assert r["ram-bytes-written"] <= 0x40000 + 24 * BLOCK
        assert r["ram-bytes-shared"] >= 0x2000000
    for i, seed in enumerate((5, 6, 5)):
        vm.revert(f"n{i}")
        vm.run(f"check 0x1000000 0x800000 {seed}")
        vm.run("check 0x1800000 0x800000 5")
        vm.run(f"check 0x2000000 0x40000 {i + 7}")
        vm.run("check 0x2040000 0xfc0000 5")
    for name in ("s1", "s2"):
        vm.daemon.cairn("snapshot-delete", "vm1", name)
    vm.revert("n1")
    vm.run("check 0x1000000 0x800000 6")
    vm.stop()
    check(vm.disks[0])


def test_deleted_current_root_leaves_no_current_snapshot(vm):
    def current():
        r = vm.daemon.cairn("snapshot-current", "vm1", "--name", ok=None)
        return r.stdout.strip() if r.returncode == 0 else None

    vm.snapshot("s1")
    vm.snapshot("s2")
    vm.revert("s1")
    vm.daemon.cairn("snapshot-delete", "vm1", "s1")
    assert current() is None
    vm.revert("s2")
    assert current() == "s2"
    vm.snapshot("s3")
    assert current() == "s3" and vm.daemon.cairn("snapshot-parent", "vm1", "s3").stdout == "s2\n"


def test_snapshot_after_deleted_base_writes_all_memory(vm):
    """The id of the deleted base may be another snapshot's name by then."""
    vm.start()
    vm.run("fill 0x1000000 0x1000000 5")
    vm.snapshot("s1")
    vm.snapshot("s2")
    vm.revert("s2")
    vm.daemon.cairn("snapshot-delete", "vm1", "s2")
    vm.daemon.cairn("snapshot-rename", "vm1", "s1", "2")
    r = vm.snapshot("s3")
    assert r["ram-bytes-shared"] == 0 and r["ram-bytes-written"] >= 0x1000000
    vm.run("fill 0x1000000 0x1000000 6")
    vm.revert("s3")
    vm.run("check 0x1000000 0x1000000 5")
    vm.stop()
    check(vm.disks[0])


def test_snapshot_while_memory_is_loading(vm):
    """Blocks not loaded yet are shared with the base, so the snapshot does not wait for them."""
    vm.daemon.cairn("undefine", "vm1")
    vm.define(memory="192M")
    vm.start()
    vm.run("fill 0x1000000 0x6000000 5")
    vm.snapshot("s0")
    q = vm.daemon.qmp()

    def job(verb, name):
        q.run(verb, vm="vm1", name=name, job_id=f"{verb}-{name}")
        q.event("JOB_STATUS_CHANGE", id=f"{verb}-{name}", status="concluded")
        job = [j for j in q.run("query-jobs") if j["id"] == f"{verb}-{name}"][0]
        assert "error" not in job, job
        q.run("job-dismiss", id=f"{verb}-{name}")
        return job

    for i in range(6):
        job("snapshot-revert", f"s{i}")
        vm.run(f"fill {0x1000000 + i * 0x1000000:#x} 0x10000 {i + 6}")
        job("snapshot-create", f"s{i + 1}")
    for name in ("s0", "s3"):
        vm.daemon.cairn("snapshot-delete", "vm1", name)
    for name in ("s6", "s1", "s5"):
        job("snapshot-revert", name)
        for i in range(6):
            at = 0x1000000 + i * 0x1000000
            vm.run(f"check {at:#x} 0x10000 {i + 6 if i < int(name[1]) else 5}")
            vm.run(f"check {at + 0x10000:#x} 0xff0000 5")
    vm.stop()
    check(vm.disks[0])


def test_disk_write_from_unloaded_memory_does_not_deadlock(vm):
    """The kernel holds the image's lock while a write waits for a guest page, and that page has to be read from the
    same image."""
    vm.daemon.cairn("undefine", "vm1")
    vm.define(memory="192M")
    vm.start()
    for seed in (1, 2):
        vm.run(f"write 0 8192 {seed}")  # the buffer is in memory as well
        vm.run(f"fill 0x1000000 {0x3000000 if EMULATED else 0x6000000:#x} {seed}")
        vm.snapshot(f"s{seed}")
    for seed in (1, 2):
        vm.revert(f"s{seed}")
        assert vm.run("bench write 16 64 65536 65536")[0].startswith("requests=64 errors=0 ")
        vm.run(f"check 0x1000000 0x1000000 {seed}")
    vm.stop()
    check(vm.disks[0])


def test_snapshot_reports_its_pause(vm):
    vm.start()
    r = vm.snapshot("s1")
    assert 0 < r["pause"] < 50e9  # only a plausibility check; the benchmark has the goal


def slices(pid):
    """Return the slice of each of a process's threads in ns, by the thread's name (base/short_slice.h)."""
    attr, found = ctypes.create_string_buffer(48), {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the kernel's own helper threads come and go
            with open(f"/proc/{pid}/task/{task}/comm") as f:
                name = f.read().rstrip()
            if ctypes.CDLL(None).syscall(315, int(task), attr, 48, 0) == 0:  # sched_getattr
                found[name] = struct.unpack_from("<Q", attr, 24)[0]
    return found


@lazy
def test_tracker_has_a_short_slice(vm):
    """vCPUs wait for it. The main thread has one in the pause only, and hands it to no thread."""
    vm.start()
    usual = set(slices(vm.pid()).values())
    if usual == {0}:
        pytest.skip("this kernel does not tell the slice of a thread")
    assert len(usual) == 1
    vm.snapshot("s1")
    found = slices(vm.pid())
    assert found.pop("tracker") == 100000 and set(found.values()) == usual


def test_snapshot_covers_two_disks(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.daemon.cairn("undefine", "vm1")
    vm.define()
    vm.start()
    vm.run("write 0 8 1")
    vm.run("open 1")
    vm.run("write 0 8 2")
    vm.snapshot("s1")
    vm.run("write 0 8 3")
    vm.run("open 0")
    vm.run("write 0 8 4")
    vm.revert("s1")
    vm.run("verify 0 8 2")  # disk 1 was open
    vm.run("open 0")
    vm.run("verify 0 8 1")
    vm.stop()
    for d in vm.disks:
        check(d)
        assert qemu_names(d) == ["s1"]


def test_revert_of_one_disk_only(vm, tmp_path):
    vm.daemon.cairn("snapshot-create-as", "vm1", "s0")
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define()
    vm.start()
    for disk, seed in ((0, 11), (1, 12)):
        vm.run(f"open {disk}")
        vm.run(f"write 0 64 {seed}")
    vm.snapshot("s1")
    vm.snapshot("s2", "--disk-only")
    for disk, seed in ((0, 21), (1, 22)):
        vm.run(f"open {disk}")
        vm.run(f"write 0 64 {seed}")
    vm.revert("s1", "--disk", "vdb", ok=2)  # with memory, all or nothing reverts
    vm.revert("s1", "--disks-only", "--disk", "vdx", ok=3)
    for more in ([], ["--disk", "vdb"]):
        assert "disk vdb has no snapshot 's0'" in vm.revert("s0", "--disks-only", *more, ok=3).stderr
    vm.run("verify 0 64 22")  # and it kept running
    vm.revert("s1", "--disks-only", "--disk", "vdb")
    assert vm.daemon.cairn("snapshot-current", "vm1", "--name").stdout == "s2\n"
    vm.start()
    vm.run("verify 0 64 21")
    vm.run("open 1")
    vm.run("verify 0 64 12")
    vm.stop()
    for d in vm.disks:
        check(d)


def test_a_scheduled_snapshot(vm):
    """A run is missed while no daemon runs, caught up while the guest runs, and reverted to."""
    d = vm.daemon
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    d.cairn("snapshot-schedule", "vm1", "--every", "1w", "--min-free", "0")
    d.stop()
    path = d.state / "vms" / "vm1" / "state.json"
    state = json.loads(path.read_text())
    state["schedule"]["last_s"] -= 7 * 86400
    path.write_text(json.dumps(state))
    d.start()
    while "taken: auto-" not in d.cairn("snapshot-schedule", "vm1").stdout:
        time.sleep(0.02)
    name, = vm.names()
    vm.run("fill 0x1000000 0x100000 6")
    vm.revert(name)
    vm.run("check 0x1000000 0x100000 5")
    vm.stop()
    check(vm.disks[0])
    assert qemu_names(vm.disks[0]) == [name]


def test_incomplete_snapshot_is_rolled_back(vm, tmp_path):
    """A crash between two disks: the second disk has its part, but the first, with the tree, does not."""
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.daemon.cairn("undefine", "vm1")
    vm.define()
    vm.start()
    vm.snapshot("s1")
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", vm.disks[0]], check=True)
    vm.start()
    assert vm.names() == []
    vm.run("write 0 8 5")
    vm.snapshot("s1")
    vm.run("write 0 8 6")
    vm.revert("s1")
    vm.run("verify 0 8 5")
    vm.stop()
    for d in vm.disks:
        check(d)
        assert qemu_names(d) == ["s1"]


def test_slow_snapshot_can_be_cancelled_at_once(vm):
    vm.start()
    vm.run("fill 0x1000000 0x1000000 5")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="slow", rate=1000, job_id="j")
    vm.run("fill 0x1000000 0x1000000 6")  # the guest does not wait for it
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert vm.names() == []
    size = os.stat(vm.disks[0]).st_blocks
    vm.run("check 0x1000000 0x1000000 6")
    vm.daemon.cairn("snapshot-create-as", "vm1", "after", "--rate", "fast", ok=2)
    # Nothing is in its way, and its space has been freed.
    r = vm.snapshot("after", "--rate", "32M")
    assert r["ram-bytes-written"] >= 1 << 24 and r["total"] >= 0.8e9 * r["ram-bytes-written"] / (32 << 20)
    vm.daemon.cairn("snapshot-delete", "vm1", "after")
    assert os.stat(vm.disks[0]).st_blocks <= size + 2048
    vm.run("check 0x1000000 0x1000000 6")
    vm.stop()
    check(vm.disks[0])


def test_reset_while_vcpu_waits_for_memory(vm):
    """A vCPU sleeps for a page of the state before the reset, and starts again all the same. Most rounds find it
    asleep."""
    vm.define(memory="128M")
    vm.start()
    vm.run("fill 0x1000000 0x5000000 5")
    vm.console.sock.sendall(b"check 0x1000000 0x5000000 5\n" * 50)
    vm.snapshot("s1")
    q = vm.daemon.qmp()
    for _ in range(5 if EMULATED else 15):
        job = q.run("snapshot-revert", vm="vm1", name="s1")["job"]
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        q.run("vm-reset", vm="vm1")
        while not vm.console.line().endswith("interp"):
            pass
    vm.stop()


def test_end_while_memory_is_loaded(vm):
    """The process ends although KVM waits for a page that was not loaded (async page fault)."""
    vm.define(memory="128M")
    vm.start()
    vm.run("fill 0x1000000 0x5000000 5")
    vm.console.sock.sendall(b"check 0x1000000 0x5000000 5\n" * 50)
    vm.snapshot("s1")
    for _ in range(1 if EMULATED else 8):
        pid = vm.daemon.info("vm1")["pid"]
        vm.stop()
        until(lambda: not is_vm(pid))
        vm.revert("s1")
        vm.attach()
    vm.stop()


def test_failed_snapshot_is_no_base(vm):
    """The previous snapshot is no base either, because the tracker does not report the changes in between again."""
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    vm.snapshot("s1")
    vm.run("fill 0x1000000 0x100000 6")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="slow", rate=1000, job_id="j")
    until(lambda: [j for j in q.jobs() if j["id"] == "j"][0]["current-progress"])  # memory is being written
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    vm.snapshot("s2")
    vm.run("fill 0x1000000 0x100000 7")
    for name, seed in (("s2", 6), ("s1", 5), ("s2", 6)):
        vm.revert(name)
        vm.run(f"check 0x1000000 0x100000 {seed}")
    vm.stop()
    check(vm.disks[0])


def test_snapshot_on_full_file_system_names_the_disk(vm, tmp_path):
    """The snapshot is not listed. With more space the next one succeeds, and the guest continues."""
    with tmpfs(tmp_path / "small", "16M") as small:
        vm.disks = [small / "vda.qcow2"]
        vm.daemon.cairn("undefine", "vm1")
        vm.define()
        vm.start()
        vm.run("write 0 8 1")
        vm.run("fill 0x1000000 0x2000000 5")
        error = vm.daemon.cairn("snapshot-create-as", "vm1", "s1", ok=False).stderr
        assert "cannot write the VM's memory into vda: No space left on device" in error
        assert vm.names() == []
        subprocess.run(["mount", "-o", "remount,size=128M", small], check=True)
        vm.snapshot("s1")
        # Meanwhile the image's tables could not be written; that pauses the VM, and is known before the next answer.
        vm.daemon.cairn("resume", "vm1", ok=None)
        vm.run("check 0x1000000 0x2000000 5")
        vm.run("write 10000 8 2")
        vm.run("verify 10000 8 2")
        vm.run("verify 0 8 1")
        vm.stop()
        check(vm.disks[0])


def test_next_daemon_adopts_slow_snapshot(vm):
    vm.start()
    vm.run("fill 0x1000000 0x1000000 5")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="slow", rate=1000, job_id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="running")
    vm.names()  # answered after the process has begun
    vm.daemon.stop(signal.SIGKILL)
    vm.daemon.start()
    assert vm.daemon.info("vm1")["job"] == "j"
    q = vm.daemon.qmp()
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert "cancelled" in next(j for j in q.jobs() if j["id"] == "j")["error"]
    assert vm.names() == []
    vm.snapshot("after")


@pytest.mark.parametrize("way", ["poweroff", "reset cf9"])
@pytest.mark.parametrize("suspended", [False, True])
def test_guest_reset_waits_for_snapshot(vm, way, suspended):
    """The guest wants to reset while its memory is being read; the reset waits for the end."""
    vm.define(on_poweroff="restart")
    vm.start()
    vm.run("fill 0x1000000 0x1000000 5")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="slow", rate=1000, job_id="j")
    until(lambda: [j for j in q.jobs() if j["id"] == "j"][0]["current-progress"])  # memory is being written
    pid = vm.pid()
    vm.console.sock.sendall(way.encode() + b"\n")
    vm.console.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while vm.console.line() != "interp":
            pass
    vm.console.sock.settimeout(100 * guestlib.SLOW)
    if suspended:
        vm.daemon.cairn("suspend", "vm1")
    q.run("job-cancel", id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    if suspended:
        vm.daemon.cairn("resume", "vm1")
    while vm.console.line() != "interp":
        pass
    vm.run("open 0")
    vm.snapshot("after")
    assert vm.names() == ["after"] and vm.pid() == pid
    vm.stop()
    check(vm.disks[0])


def test_a_raw_disk_is_refused_by_name(vm, tmp_path):
    raw = tmp_path / "extra.raw"
    raw.write_bytes(bytes(1 << 20))
    vm.daemon.cairn("undefine", "vm1")
    vm.define(disks=[{"path": str(vm.disks[0]), "format": "qcow2"},
                     {"path": str(raw), "format": "raw"}])
    vm.start()
    r = vm.daemon.cairn("snapshot-create-as", "vm1", "s1", ok=None)
    assert r.returncode != 0
    assert "disk vdb is raw; internal snapshots need qcow2: shut the VM down and convert it" in r.stderr
    vm.daemon.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--external")  # the other way out
    vm.run("echo alive")


def test_a_read_only_raw_disk_is_left_out(vm, tmp_path):
    raw = tmp_path / "cd.raw"
    raw.write_bytes(bytes(1 << 20))
    vm.daemon.cairn("undefine", "vm1")
    vm.define(disks=[{"path": str(vm.disks[0]), "format": "qcow2"},
                     {"path": str(raw), "format": "raw", "readonly": True}])
    vm.start()
    assert vm.snapshot("s1")["disks-left-out"] == ["vdb"]
    r = vm.daemon.cairn("snapshot-create-as", "vm1", "s2")
    assert "left out (read-only): vdb" in r.stdout
    assert vm.names() == ["s1", "s2"]


def test_copied_image_has_tree_and_memory(vm, tmp_path):
    """The tree is in the image; the memory is valid for a VM with the same uuid and size."""
    d = vm.daemon
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    vm.run("write 0 64 11")
    vm.snapshot("s1", "all is well", "--tag", "keep")
    vm.snapshot("s2")
    vm.revert("s1")
    vm.snapshot("s3", "--disk-only")
    vm.run("write 0 64 12")
    vm.stop()
    wait_released(vm.disks[0])
    copy = tmp_path / "copy.qcow2"
    copy.write_bytes(vm.disks[0].read_bytes())
    uuid = json.loads(d.cairn("dumpjson", "vm1").stdout)["uuid"]

    def other(name, **keys):
        d.define(name, debug_exit=True, boot={"kernel": vm.guest("interp.elf")},
                 disks=[{"path": str(copy), "format": "qcow2"}], **keys)

    def refused(name, why):
        assert why in d.cairn("snapshot-revert", name, "s1", ok=False).stderr
        assert d.cairn("snapshot-current", name, "--name").stdout == "s3\n"

    other("copied", memory="64M")
    for args in (("--tree",), ("--parent",)):
        assert d.cairn("snapshot-list", "copied", *args).stdout == d.cairn("snapshot-list", "vm1", *args).stdout
    info = d.cairn("snapshot-info", "copied", "s1").stdout
    assert "all is well\n" in info and re.search("Tags: +keep\n", info) and re.search("Children: +2\n", info)
    shown = subprocess.run([BUILD + "/cairn-img", "vmstate-info", copy, "s1"], capture_output=True, text=True).stdout
    assert f"uuid: {uuid}\n" in shown and "ram-bytes: 67108864\n" in shown
    assert re.search(r"virtio-blk +vda +1 ", shown) and re.search(r"vcpu +0 +1 ", shown)
    refused("copied", "belongs to another VM")
    d.cairn("snapshot-revert", "copied", "s1", "--disks-only", "--running")
    console = Console(d, "copied")
    assert console.line() == "interp"  # it boots; earlier output is lost
    console.run("open 0")
    console.run("verify 0 64 11")
    d.cairn("destroy", "copied")
    d.cairn("undefine", "copied", "--snapshots-metadata")
    d.cairn("undefine", "vm1", "--snapshots-metadata")
    copy.write_bytes(vm.disks[0].read_bytes())
    other("larger", memory="96M", uuid=uuid)
    refused("larger", "was taken with 64 MiB of memory; this VM has 96 MiB; change that while the VM is off, with cairn setmaxmem, or revert "
            "with --disks-only")
    d.cairn("setmaxmem", "larger", "64M")
    d.cairn("snapshot-revert", "larger", "s1")
    d.cairn("destroy", "larger")
    d.cairn("undefine", "larger", "--snapshots-metadata")
    other("moved", memory="64M", uuid=uuid)
    d.cairn("snapshot-revert", "moved", "s1")
    Console(d, "moved").run("check 0x1000000 0x100000 5")
    d.cairn("destroy", "moved")
    check(copy)


def test_qemu_applies_snapshot_of_vm_that_is_off(vm):
    vm.start()
    vm.run("write 0 64 11")
    vm.snapshot("s1")
    vm.run("write 0 64 12")
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-a", "s1", vm.disks[0]], check=True)
    check(vm.disks[0])
    vm.start()
    vm.run("verify 0 64 11")
    assert vm.names() == ["s1"]
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", vm.disks[0]], check=True)
    check(vm.disks[0])
    assert vm.names() == []


@pytest.mark.parametrize("size", ["16M", "128M"])
def test_revert_restores_disk_size(vm, size):
    """A revert restores the size, for the guest as well."""
    vm.start()
    vm.run("write 100000 8 5")
    vm.run("flush")
    vm.snapshot("s1")
    vm.stop()
    wait_released(vm.disks[0])
    subprocess.run([BUILD + "/cairn-img", "resize", "-q", "--shrink", vm.disks[0], size], check=True)
    vm.start()
    assert vm.run("info")[0].startswith(f"sectors={int(size[:-1]) * 2048} ")
    vm.revert("s1")
    assert vm.run("info")[0].startswith("sectors=131072 ")
    vm.run("verify 100000 8 5")
    vm.run("write 131064 8 6")
    vm.stop()
    check(vm.disks[0])


def test_revert_starts_vm_that_is_off(vm):
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    vm.snapshot("s1")
    vm.stop()
    assert vm.names() == ["s1"]
    vm.revert("s1")
    vm.daemon.wait("vm1", "running")
    vm.attach()
    vm.run("check 0x1000000 0x100000 5")
    vm.stop()


def own_size(vm, name):
    info = json.loads(vm.daemon.cairn("snapshot-info", "vm1", name, "--format", "json").stdout)
    return info["own-size"]


def in_use(image):
    """Return the bytes in clusters with a refcount above 0 (16 bits, 64 KiB)."""
    data = image.read_bytes()
    table = int.from_bytes(data[48:56], "big")
    blocks = [int.from_bytes(data[at:at + 8], "big") for at in range(table, table + 65536, 8)]
    return sum(65536 for b in blocks if b for at in range(b, b + 65536, 2) if any(data[at:at + 2]))


def test_snapshot_info_shows_own_size(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define()
    vm.start()
    vm.run("write 0 512 11")
    vm.snapshot("s1", "--disk-only")
    assert own_size(vm, "s1") == 0
    vm.run("write 0 512 12")
    # The guest's 256 KiB, and the L2 table.
    assert own_size(vm, "s1") == 5 * 65536
    vm.run("open 1")
    vm.run("write 0 128 13")
    assert own_size(vm, "s1") == 5 * 65536
    vm.snapshot("s2")
    vm.run("write 0 128 14")
    # Memory, and 64 KiB on the second disk with their table.
    assert own_size(vm, "s2") > 2 * 65536
    assert "Own size:       320.0 KiB\n" in vm.daemon.cairn("snapshot-info", "vm1", "s1").stdout
    vm.stop()
    for name in ("s1", "s2"):
        own = own_size(vm, name)
        before = sum(in_use(d) for d in vm.disks)
        copies = []
        for d in vm.disks:
            copies.append(tmp_path / f"copy-{d.name}")
            copies[-1].write_bytes(d.read_bytes())
            subprocess.run(["qemu-img", "snapshot", "-d", name, copies[-1]], check=True)
        # Each disk also frees an L1 table of one cluster.
        assert own == before - sum(in_use(c) for c in copies) - 2 * 65536
    vm.daemon.cairn("snapshot-info", "vm1", "s9", ok=3)


def test_snapshot_of_suspended_vm(vm):
    vm.start()
    vm.run("wr64 0x900000 0x77")
    vm.daemon.cairn("suspend", "vm1")
    vm.snapshot("s1")
    vm.daemon.cairn("resume", "vm1")
    vm.run("wr64 0x900000 0x78")
    vm.revert("s1")
    assert vm.daemon.cairn("domstate", "vm1").stdout == "paused\n"
    vm.daemon.cairn("resume", "vm1")
    assert vm.run("rd64 0x900000") == ["0x77"]


def test_revert_sends_stop_and_resume_events(vm):
    """On both sockets, as QEMU reports a load; a shutdown request from before the revert is void."""
    vm.start()
    vm.snapshot("s1")
    own = Qmp(vm.daemon.cairn("qmp-path", "vm1").stdout.strip())
    q = vm.daemon.qmp()
    own.run("snapshot-load", job_id="j", tag="s1", vmstate="vda", devices=["vda"])
    for event in ("STOP", "RESUME"):
        own.event(event)
        q.event(event, vm="vm1")
    vm.run("button init")
    vm.daemon.cairn("shutdown", "vm1")
    assert vm.daemon.cairn("domstate", "vm1").stdout == "in shutdown\n"
    vm.revert("s1")
    assert vm.daemon.cairn("domstate", "vm1").stdout in ("running\n", "idle\n")
    vm.daemon.cairn("suspend", "vm1")
    own.events.clear()
    own.run("snapshot-load", job_id="k", tag="s1", vmstate="vda", devices=["vda"])
    own.event("JOB_STATUS_CHANGE", id="k", status="concluded")
    assert vm.daemon.cairn("domstate", "vm1").stdout == "paused\n"
    own.close()


def flip(image, at):
    """Change a byte of a file that a VM has open, as a failing disk would."""
    with open(image, "r+b") as f:
        f.seek(at)
        b = f.read(1)
        f.seek(at)
        f.write(bytes([b[0] ^ 0xff]))


def find(image, pattern):
    data = image.read_bytes()
    at = data.find(pattern)
    assert at >= 0
    return at


def counters(vm):
    return [int(line.split("counter=")[1]) for line in vm.run("smp show") if "counter=" in line]


def count_on(vm):
    """Wait until every vCPU has counted further; return the counters."""
    at = counters(vm)
    while True:
        now = counters(vm)
        if min(b - a for a, b in zip(at, now)) >= 3_000_000:
            return now


def test_snapshot_of_several_vcpus(vm):
    vm.daemon.cairn("undefine", "vm1")
    vm.define(vcpus=3)
    vm.start()
    vm.run("smp start 2")
    vm.run("smp count 2")  # both others count forever
    vm.snapshot("s1")

    def are_back():
        """Return whether a revert takes all back. It does not show when the machine stands still before the answer."""
        later = count_on(vm)
        vm.revert("s1")
        return all(b < c for b, c in zip(counters(vm), later))
    until(are_back)
    count_on(vm)


def test_each_revert_has_new_generation_id(vm, tmp_path):
    """VMGenID: no two runs that start with the same memory have the same id."""
    def generation(console=None):
        return tuple((console or vm.console).run(f"rd64 {at:#x}")[0] for at in (0xff000, 0xff008))

    vm.start()
    seen = [generation()]
    vm.snapshot("s1")
    assert generation() == seen[0]  # a resume keeps the id
    for args in ((), ("--eager",)):
        vm.revert("s1", *args)
        seen.append(generation())
    vm.console.close()
    vm.daemon.cairn("save", "vm1", str(tmp_path / "saved"))
    vm.daemon.cairn("restore", str(tmp_path / "saved"))
    vm.attach()
    seen.append(generation())
    vm.console.close()
    vm.daemon.cairn("managedsave", "vm1")
    vm.daemon.cairn("start", "vm1")
    vm.attach()
    seen.append(generation())
    vm.daemon.cairn("clone", "--live", "--count", "2", "vm1", "copy")
    assert generation() == seen[-1]
    seen += [generation(Console(vm.daemon, f"copy-{i}")) for i in (1, 2)]
    vm.daemon.cairn("clone", "--live", "--snapshotname", "s1", "vm1", "old")
    seen.append(generation(Console(vm.daemon, "old")))
    assert len(set(seen)) == len(seen) and ("0x0", "0x0") not in seen
    for name in ("copy-1", "copy-2", "old"):
        vm.daemon.cairn("destroy", name)
    vm.stop()


def clocks(vm):
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", " ".join(vm.run("clock")))}


def rtc_seconds(vm):
    """Return the time of day of the CMOS clock, in seconds, and the host's times around the reading."""
    def register(n):
        vm.run(f"outb 0x70 {n}")
        return int(vm.run("inb 0x71")[0], 16)

    while True:
        before, mode = time.time(), register(0xb)
        minute, second, again = [register(n) for n in (4, 2)], register(0), [register(n) for n in (4, 2)]
        if minute == again:  # each reading takes its time, so the second may change between two
            h, m, s = [v if mode & 4 else (v >> 4) * 10 + (v & 15) for v in (*minute, second)]
            return h * 3600 + m * 60 + s, before, time.time()


@pytest.mark.parametrize("gap", [3, 0.4])
def test_clocks_after_revert(vm, gap):
    """Monotonic clocks continue from their saved values; the time of day includes the gap. KVM must not take a TSC that
    is less than a second away from the present one for an attempt to synchronize vCPUs."""
    vm.start()
    first = clocks(vm)
    time.sleep(0.2)
    begun = time.monotonic()
    before = clocks(vm)
    vm.snapshot("s1")
    run = time.monotonic() - begun
    for _ in range(2):
        time.sleep(gap)
        begun = time.monotonic()
        vm.revert("s1")
        after = clocks(vm)
        passed = run + time.monotonic() - begun
        assert before["ns"] <= after["ns"] < before["ns"] + passed * 1e9
        if guestlib.host_kind() != "pvm":  # there the TSC is the host's
            rate = (before["tsc"] - first["tsc"]) / (before["ns"] - first["ns"])
            assert before["tsc"] <= after["tsc"] < before["tsc"] + passed * 1e9 * rate * 1.05
    rtc, earliest, latest = rtc_seconds(vm)
    assert (rtc - int(earliest)) % 86400 <= int(latest) - int(earliest)


def test_kvm_clock_tells_of_a_long_stop(vm, tmp_path):
    """Linux then takes the time for no lockup. A saved VM may have stood for long."""
    vm.start()
    assert clocks(vm)["stopped"] == 0
    vm.daemon.cairn("suspend", "vm1")
    time.sleep(1.1)
    vm.daemon.cairn("resume", "vm1")
    assert [clocks(vm)["stopped"] for _ in range(2)] == [1, 0]
    if vm.snapshot("s1")["pause"] < 5e8:
        assert clocks(vm)["stopped"] == 0
    vm.console.close()
    vm.daemon.cairn("save", "vm1", str(tmp_path / "saved"))
    vm.daemon.cairn("restore", str(tmp_path / "saved"))
    vm.attach()
    assert clocks(vm)["stopped"] == 1


def test_damaged_state_is_refused_and_the_vm_untouched(vm):
    vm.start()
    vm.run("wr64 0x900000 0x55")
    vm.snapshot("s1")
    vm.run("wr64 0x900000 0x66")
    flip(vm.disks[0], find(vm.disks[0], b"CAIRNVMS") + 4096 + 40)  # in its first section
    r = vm.revert("s1", ok=None)
    assert r.returncode != 0 and "snapshot 's1'" in r.stderr and "checksum" in r.stderr
    assert vm.run("rd64 0x900000") == ["0x66"]


def test_damage_in_each_region_of_state_is_refused(vm):
    """A revert to a state with one wrong byte outside of memory is refused, and the VM continues unchanged."""
    vm.start()
    vm.run("wr64 0x900000 0x55")
    vm.snapshot("s1")
    vm.run("wr64 0x900000 0x66")
    vm.run("write 0 8 7")
    image = vm.disks[0]
    header = find(image, b"CAIRNVMS")
    sections = int.from_bytes(image.read_bytes()[header + 24:header + 32], "little")
    # 64 MiB: the table has 1,024 checksums of 4 bytes, most of them of 64 KiB of zeros.
    zero = crc32c(bytes(BLOCK)).to_bytes(4, "little")
    table = find(image, zero * 64)
    for at in (0, 7, 8, 12, 16, 24, 32, 40, 48, 56, 72, 2048, 4092,
               4096, 4096 + sections // 3, 4096 + sections - 1):
        flip(image, header + at)
        assert vm.revert("s1", ok=None).returncode != 0, at
        assert vm.run("rd64 0x900000") == ["0x66"]
        flip(image, header + at)
    flip(image, table + 8)
    r = vm.revert("s1", "--verify", ok=None)
    assert r.returncode != 0, r.stdout
    assert vm.run("rd64 0x900000") == ["0x66"]
    flip(image, table + 8)
    vm.run("verify 0 8 7")
    vm.revert("s1", "--verify")
    assert vm.run("rd64 0x900000") == ["0x55"]


@pytest.mark.parametrize("size", [4096, 1 << 20, 1 << 24, 1 << 62])
def test_truncated_state_is_refused(vm, size):
    """The length in the entry does not fit the actual state."""
    vm.start()
    vm.snapshot("s1")
    vm.stop()
    wait_released(vm.disks[0])
    with open(vm.disks[0], "r+b") as f:
        f.seek(64)
        entry = int.from_bytes(f.read(8), "big")
        f.seek(entry + 40)  # after the fixed part: QEMU's 64-bit size
        f.write(size.to_bytes(8, "big"))
    vm.start()
    vm.run("wr64 0x900000 0x66")
    r = vm.revert("s1", ok=None)
    assert r.returncode != 0 and "s1" in r.stderr
    assert vm.run("rd64 0x900000") == ["0x66"]


@lazy
def test_damaged_memory_block_is_detected(vm):
    vm.start()
    for i in range(64):  # a block that the program does not use itself
        vm.run(f"wr64 {0x2000000 + 8 * i:#x} 0x6b6f6f6c426e7261")
    vm.snapshot("s1")
    flip(vm.disks[0], find(vm.disks[0], b"arnBlook" * 8) + 8)
    r = vm.revert("s1", "--verify", ok=None)
    assert r.returncode != 0 and "damaged" in r.stderr
    vm.run("echo untouched")
    vm.revert("s1")  # memory that is unchanged is not read
    assert vm.run("rd64 0x2000000") == ["0x6b6f6f6c426e7261"]
    vm.run("wr64 0x2000000 1")
    vm.revert("s1")
    vm.daemon.wait("vm1", "paused")
    assert "I/O error" in vm.daemon.cairn("domstate", "vm1", "--reason").stdout
    r = vm.daemon.cairn("resume", "vm1", ok=None)
    assert r.returncode != 0 and "memory" in r.stderr
    # A snapshot, a save and a fork of memory with missing blocks fail.
    for args in (["snapshot-create-as", "vm1", "s2"], ["managedsave", "vm1"], ["clone", "--live", "vm1", "copy"]):
        assert "memory" in vm.daemon.cairn(*args, ok=False).stderr
    assert vm.names() == ["s1"]


@pytest.mark.seconds(120)
def test_many_reverts_keep_memory_and_disk_consistent(vm):
    """Memory and disk match after every revert, at any moment."""
    rng = random.Random(1)
    vm.start()
    state, current = {}, None
    for step in range(40):
        action = rng.choice(["change", "snapshot", "revert", "revert"])
        if action == "change" or not state:
            current = rng.randrange(1, 1 << 30)
            vm.run(f"fill {0x1000000 + 0x10000 * rng.randrange(64):#x} 0x20000 {current}")
            vm.run(f"fill 0x1800000 0x30000 {current}")
            vm.run(f"write 0 16 {current}")
            if not state:
                action = "snapshot"
        if action == "snapshot":
            vm.snapshot(f"n{step}")
            state[f"n{step}"] = current
        if action == "revert":
            name = rng.choice(sorted(state))
            vm.revert(name, *rng.choice([(), ("--eager",)]))
            current = state[name]
        vm.run(f"check 0x1800000 0x30000 {current}")
        vm.run(f"verify 0 16 {current}")
    vm.stop()
    check(vm.disks[0])


@pytest.mark.seconds(120)
def test_killed_vm_process_leaves_complete_snapshots(vm):
    """kill -9 of the VM's process: the image has leaks at most, every listed snapshot is complete, and the VM
    starts."""
    rng = random.Random(2)
    vm.start()
    vm.run("fill 0x1000000 0x800000 1")
    vm.run("write 0 16 1")
    vm.snapshot("base")
    for i in range(12):
        vm.run(f"fill 0x1000000 0x800000 {i + 2}")
        verb = ["snapshot-create", "snapshot-delete", "snapshot-revert"][i % 3]
        name = {"snapshot-create": f"k{i}", "snapshot-delete": f"k{i - 1}",
                "snapshot-revert": "base"}[verb]
        if verb == "snapshot-delete" and name not in vm.names():
            verb, name = "snapshot-revert", "base"
        pid = vm.pid()
        vm.daemon.qmp().run(verb, vm="vm1", name=name)  # the job has begun
        time.sleep(rng.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        vm.daemon.wait("vm1", "crashed")
        wait_released(vm.disks[0])
        check(vm.disks[0], leaks_allowed=True)
        assert qemu_names(vm.disks[0])[0] == "base"
        vm.start()
        assert vm.names()[0] == "base"
        vm.revert("base")
        vm.run("check 0x1000000 0x800000 1")
        vm.run("verify 0 16 1")
    vm.stop()


def test_managed_save_keeps_memory_and_disk(vm):
    vm.start()
    vm.run("fill 0x1000000 0x400000 9")
    vm.run("write 0 8 9")
    vm.console.close()
    vm.daemon.cairn("managedsave", "vm1")
    assert re.search(r"Managed save:\s+yes", vm.daemon.cairn("dominfo", "vm1").stdout)
    check(vm.disks[0])
    vm.daemon.cairn("start", "vm1")
    vm.attach()
    vm.run("check 0x1000000 0x400000 9")
    vm.run("verify 0 8 9")
    vm.stop()


# ---- states of earlier format versions ----

DATA = os.path.join(ROOT, "tests", "data")


@pytest.fixture(params=["1", "1-devices", "2", "2-devices", "2bios-devices", "3", "3-devices", "4-devices", "5-devices",
                        "6", "6-devices", "7", "7-devices", "7-plug", "7-pae", "8-devices", "9-devices"])
def golden(daemon, kvm, guest, tmp_path, request):
    """A state of an earlier or of this format version, of this kind of host, as a file; and its VM: the smallest, or
    one with each device."""
    version, _, devices = request.param.partition("-")
    return golden_state(daemon, guest, tmp_path, guestlib.host_kind(), version, devices and "-" + devices)


def golden_state(daemon, guest, tmp_path, kind, version, devices):
    sys.path.insert(0, DATA)
    import golden as tool
    path = os.path.join(DATA, f"vmstate-{version}-{kind}{devices}.hex")
    if not os.path.exists(path):
        pytest.skip(f"there is no golden state of a host of this kind: {os.path.basename(path)}")
    tool.unpack(open(path).read(), tmp_path / "golden")
    firmware = {"2bios": "bios", "4": "bios", "5": "uefi", "8": "bios", "9": "uefi"}.get(version)
    daemon.define("golden", uuid=tool.UUID, **tool.boot(tmp_path, firmware, guest(tool.kernel_name(devices == "-pae"))),
                  machine=int(version) if version in "3456789" else None if firmware else 1,  # format 2 with a BIOS: a guest keeps machine version 2
                  **({"-devices": tool.devices(tmp_path), "-plug": tool.PLUG}.get(devices, {})))
    return tmp_path / "golden"


@pytest.mark.skipif(guestlib.host_kind() != "pvm", reason="this host virtualises CPUID, and restores the state")
@pytest.mark.parametrize("devices", ["", "-devices"])
def test_golden_state_of_baseline_is_refused_by_name(daemon, kvm, guest, tmp_path, devices):
    state = golden_state(daemon, guest, tmp_path, "svm", "2", devices)
    error = daemon.cairn("restore", str(state), ok=False).stderr
    assert "saved on a host whose KVM virtualises CPUID; this host's does not, and the guest would see the processor " \
        "itself (more than it knows: " in error
    assert daemon.info("golden")["word"] in ("shutoff", "crashed")


GENERATION_IDS = 0xff000, 0xaf000  # address of the 16 bytes that each restore and each start change; with a firmware
TIMES = ("machine", "cpu", "vcpu", "pit", "clock", "rtc", "acpi-pm")  # sections that depend on the host or hold a time


def hardware(path):
    """Return what a guest sees that has only written a byte: memory with the ACPI tables, and each device's state."""
    state = State(path.read_bytes())
    at, size = (int.from_bytes(state.data[i:i + 8], "little") for i in (40, 48))
    ram = state.data[at:at + size]
    for gpa in GENERATION_IDS:
        ram[gpa:gpa + 16] = bytes(16)
    return {"memory": bytes(ram), "names": [s[:2] for s in state.sections if s[0] != "cpu"],
            **{f"{s[0]} {s[1]}": s[2:] for s in state.sections if s[0] not in TIMES}}


@pytest.mark.parametrize("golden", ["2", "2-devices", "3", "3-devices", "4-devices", "5-devices", "6", "6-devices", "7", "7-devices", "7-plug", "7-pae",
                                    "8-devices", "9-devices"], indirect=True)
def test_machine_is_that_of_golden_states_of_its_version(daemon, golden, tmp_path):
    """A change of what the guest sees needs a new machine version, with golden states of its own."""
    then = hardware(golden)
    daemon.cairn("start", "golden")
    assert Console(daemon, "golden").sock.recv(1) == b"A"
    daemon.cairn("save", "golden", str(tmp_path / "new"))
    now = hardware(tmp_path / "new")
    assert [name for name in {**then, **now} if then.get(name) != now.get(name)] == []


def test_restored_golden_state_is_saved_again(daemon, golden, tmp_path):
    """The saved state has the same registers, memory and devices."""
    daemon.cairn("restore", str(golden), "--paused")
    daemon.cairn("save", "golden", str(tmp_path / "again"))
    then, now = hardware(golden), hardware(tmp_path / "again")
    assert [name for name in {**then, **now} if then.get(name) != now.get(name)] == []
    registers = 4 + 18 * 8 + 8 * 23 + 2 * 10 + 7 * 8  # up to apic_base (docs/vmstate.md)
    vcpus = [State(p.read_bytes()).section("vcpu")[3][:registers] for p in (golden, tmp_path / "again")]
    assert vcpus[0] == vcpus[1]


def test_a_golden_state_is_restored(daemon, golden):
    daemon.cairn("restore", str(golden))
    assert daemon.cairn("domstate", "golden", "--reason").stdout in (
        "idle (restored)\n", "running (restored)\n")
    time.sleep(0.2)
    assert daemon.info("golden")["word"] in ("idle", "running")
    daemon.cairn("destroy", "golden")
    daemon.cairn("restore", str(golden), "--eager", "--paused")
    assert daemon.cairn("domstate", "golden").stdout == "paused\n"


def test_a_golden_state_with_page_directory_pointers_goes_on(daemon, kvm, guest, tmp_path):
    state = golden_state(daemon, guest, tmp_path, guestlib.host_kind(), "7", "-pae")
    assert State(state.read_bytes()).section("vcpu")[2] == 3
    daemon.cairn("restore", str(state))
    console = Console(daemon, "golden").sock
    console.sendall(b"x")
    while console.recv(1) != b"x":
        pass
    daemon.cairn("destroy", "golden")


def test_a_damaged_golden_state_is_refused(daemon, golden):
    def status():
        return daemon.cairn("restore", str(golden), "--eager", ok=None).returncode

    whole = golden.read_bytes()
    # Header, a section, the checksums, memory (which --eager reads first); each truncated as well.
    for at in (8, 50, 4096 + 30, 4096 + 5000, 0x1000000, min(0x1200000 + 0x100000, len(whole) - 4096)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        golden.write_bytes(damaged)
        assert status() in (1, 7), at
        assert daemon.info("golden")["word"] in ("shutoff", "crashed"), at
        golden.write_bytes(whole[:at])
        assert status() in ((2,) if at < 4096 else (1, 7)), at  # without a complete header it is no saved state
    golden.write_bytes(whole)
    assert status() == 0


def touched(vm):
    """Return the file of working sets: {time of the state: blocks}."""
    path, = vm.daemon.state.rglob("touched")
    raw = path.read_bytes()
    assert raw[:8] == b"CAIRNWS1"
    assert int.from_bytes(raw[8:12], "little") == crc32c(raw[12:])
    sets, at = {}, 16
    for _ in range(int.from_bytes(raw[12:16], "little")):
        key, n = int.from_bytes(raw[at:at + 8], "little"), int.from_bytes(raw[at + 8:at + 12], "little")
        sets[key] = [int.from_bytes(raw[i:i + 4], "little") for i in range(at + 12, at + 12 + 4 * n, 4)]
        at += 12 + 4 * n
    assert at == len(raw)
    return sets


@lazy
@pytest.mark.parametrize("damage", [False, True])
def test_working_set_is_kept_for_next_process(vm, damage):
    """The file passes the working set from one process to the next; a malformed file does no harm."""
    far = [0x18000000 - i * 0x310000 for i in range(8)]  # where the background load comes last
    vm.define(memory="512M")
    vm.start()
    vm.run("fill 0x1000000 0x17800000 5")
    words = [vm.run(f"rd64 {at:#x}") for at in far]
    vm.snapshot("s1")
    vm.stop()
    before = set()
    for round in range(3):
        wait_released(vm.disks[0])
        if round == 2 and damage:
            path, = vm.daemon.state.rglob("touched")
            path.write_bytes(b"CAIRNWS1" + bytes(range(256)) * 300)
            before = set()
        vm.start()
        vm.revert("s1")
        assert [vm.run(f"rd64 {at:#x}") for at in far] == words
        vm.stop()
        wait_released(vm.disks[0])
        blocks, = touched(vm).values()
        assert len(set(blocks)) == len(blocks) and max(blocks) < 512 * 16
        assert set(blocks) >= before | {far[0] // BLOCK}
        before = set(blocks)
