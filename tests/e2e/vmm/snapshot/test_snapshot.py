"""Snapshots of real VMs: memory, vCPUs, clocks and the tree come back at a revert. The guest is the bare-metal
interpreter; the disk's content is its pattern by seed."""

import contextlib
import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import time

import pytest

import guestlib
from conftest import Console, Qmp, is_vm, until
from snapshotlib import BLOCK, check, lazy, qemu_names, vm  # noqa: F401 (vm is a fixture)

EMULATED = "CAIRN_IN_SVMHOST" in os.environ  # where a guest fills some 10 MiB a second


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
