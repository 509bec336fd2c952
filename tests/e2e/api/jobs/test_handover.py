"""cairn restart-process of a real VM: its process hands the VM over to a new one, and saves it where it cannot."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import time

import pytest

from conftest import BUILD, Console, Daemon, Qmp, QmpError, has_ended, is_vm, open_files, until
from snapshotlib import wait_released

SECTORS = range(0, 16384, 512)


def image(d, name="disk.qcow2", size="64M"):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", name, size], cwd=d.tmp, check=True)
    return {"path": name, "format": "qcow2"}


def checked(d, name=None):
    # QEMU refuses the overlay of a live clone.
    program = os.path.join(BUILD, "cairn-img") if name is None and is_clone(d) else "qemu-img"
    subprocess.run([program, "check", "-q", name or disk(d)], cwd=d.tmp, check=True)


def console(d, name="vm1"):
    """Attach to the console without its earlier output, so that the test does not take old answers for new ones."""
    q = d.qmp()
    q.run("vm-console", vm=name, history=False)
    return Console(d, name, q.fds.pop())


def begin(d, guest, **keys):
    """Start a VM whose memory and disk are a function of address and seed."""
    d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, **{"disks": [image(d)], **keys})
    start_and_fill(d)


def begin_clone(d, guest):
    """Start vm1 as a live clone of a VM with that content."""
    d.define("src", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d)])
    start_and_fill(d, "src")
    d.cairn("clone", "--live", "src", "vm1")


def is_clone(d):
    return (d.state / "vms" / "src").exists()


def disk(d):
    return "vm1-vda.qcow2" if is_clone(d) else "disk.qcow2"


KINDS = {"booted": begin, "clone": begin_clone}
any_kind = pytest.mark.parametrize("held", KINDS, indirect=True)


def source_is_untouched(d):
    c = console(d, "src")
    c.run("check 0x800000 0x300000 1")
    for s in SECTORS:
        c.run(f"verify {s} 8 {s}")
    c.close()


def start_and_fill(d, name="vm1"):
    d.cairn("start", name)
    c = Console(d, name)
    while c.line() != "interp":
        pass
    for command in ["fill 0x800000 0x300000 1", "open 0"] + [f"write {s} 8 {s}" for s in SECTORS] + ["flush"]:
        c.run(command)
    c.close()


def goes_on(d, **changed):
    """Check memory and disk, and change the disk, which a second process that writes would show later."""
    c = console(d)
    c.run("check 0x800000 0x300000 1")
    for s in SECTORS:
        c.run(f"verify {s} 8 {s}")
    for s in SECTORS:
        c.run(f"write {s + 64} 8 {s}")
    c.run("flush")
    for s in SECTORS:
        c.run(f"verify {s + 64} 8 {s}")
    c.close()


def restart(d):
    return json.loads(d.cairn("restart-process", "vm1", "--format", "json").stdout)[0]


@pytest.fixture
def vm(daemon, kvm, guest, request):
    """A VM or, with "clone" as the parameter, a live clone."""
    KINDS[getattr(request, "param", "booted")](daemon, guest)
    return daemon


def test_guest_goes_on_in_new_process(vm):
    pid = vm.info("vm1")["pid"]
    for _ in range(3):
        r = restart(vm)
        assert r["way"] == "handover" and 0 < r["pause"] < 50e9
        assert vm.info("vm1")["pid"] != pid and has_ended(pid)
        assert vm.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"
        pid = vm.info("vm1")["pid"]
        goes_on(vm)
    vm.cairn("destroy", "vm1")
    checked(vm)


def test_paused_vm_stays_paused(vm):
    vm.cairn("suspend", "vm1")
    r = restart(vm)
    assert r["way"] == "handover" and "pause" not in r
    assert vm.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    vm.cairn("resume", "vm1")
    goes_on(vm)


def test_snapshots_before_and_after(vm):
    vm.cairn("snapshot-create-as", "vm1", "s1")
    restart(vm)
    goes_on(vm)
    vm.cairn("snapshot-create-as", "vm1", "s2")
    vm.cairn("snapshot-revert", "vm1", "s1")  # its memory is loaded while the VM runs
    assert restart(vm)["way"] == "handover"
    goes_on(vm)
    vm.cairn("snapshot-revert", "vm1", "s2")
    goes_on(vm)
    vm.cairn("managedsave", "vm1")
    vm.cairn("start", "vm1")
    assert restart(vm)["way"] == "handover"
    goes_on(vm)
    vm.cairn("destroy", "vm1")
    checked(vm)


def writes(d, disk):
    return [x["wr-reqs"] for x in d.figures("vm1")["disks"] if x["id"] == disk][0]


@pytest.mark.seconds(180)  # two vCPUs that compute and 12,000 writes: 50 s at a load of 19
def test_disk_and_memory_are_written_meanwhile(daemon, kvm, guest):
    """One vCPU writes to memory, one to a disk, with 16 requests at a time. A lost request would let the guest wait."""
    begin(daemon, guest, vcpus=2, disks=[image(daemon), image(daemon, "other.qcow2")])
    c = console(daemon)
    c.run("storm start 1 0x1000000 0x400000")
    c.close()
    for n in range(3):
        c = console(daemon)
        c.run("open 1")
        before = writes(daemon, "vdb")
        c.sock.sendall(b"bench randwrite 16 4000 4096 65536 %d\n" % n)
        until(lambda: writes(daemon, "vdb") > before)
        assert restart(daemon)["way"] == "handover"
        c.close()
        c = console(daemon)
        c.sock.sendall(b"echo bench-%d-ended\n" % n)
        while c.line() != f"bench-{n}-ended":
            pass
        assert c.line() == "ok"
        c.run("storm check")
        c.run("open 0")
        c.close()  # it would keep the answers to goes_on() as answers to what comes next
        goes_on(daemon)
    daemon.cairn("destroy", "vm1")
    checked(daemon)
    checked(daemon, "other.qcow2")


def test_image_stays_locked(vm):
    restart(vm)
    r = subprocess.run(["qemu-img", "info", "disk.qcow2"], cwd=vm.tmp, text=True, stderr=subprocess.PIPE)
    assert r.returncode and "lock" in r.stderr


def test_result_is_told(vm):
    out = vm.cairn("restart-process", "vm1").stdout
    assert out.startswith("Domain 'vm1' runs in a new process (handed over, paused ") and out.endswith(" ms)\n")


# ---- each process is killed, while the new one is held ----

@pytest.fixture
def held(tmp_path, kvm, guest, request):
    """A VM, and a program that becomes the new process only when the file `go` exists. Until then the VM is paused, and
    its process has written all that the new one needs; or it is a live clone, and its process waits for the new one."""
    program = tmp_path / "held-vm"
    program.write_text(f"#!/bin/sh\n[ $1 = --take-over ] && until [ -e {tmp_path}/go ]; do sleep 0.02; done\n"
                       f"exec {os.path.join(BUILD, 'cairn-vm')} \"$@\"\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    d = Daemon(tmp_path, vm_program=str(program))
    try:
        KINDS[getattr(request, "param", "booted")](d, guest)
        yield d
        if is_clone(d):
            source_is_untouched(d)
    finally:
        (tmp_path / "go").touch()
        d.close()


def taking_over(d):
    """Return the daemon's processes that become those of VMs, not one that is made ahead meanwhile."""
    found = []
    for pid in d.children():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as f:  # it is gone
            found += [pid] if "\0--take-over\0" in f.read() else []
    return found


def hold(d):
    """Begin a handover, and return its job and the pids of the old process and of the new one."""
    old = d.info("vm1")["pid"]
    id = d.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
    # A clone runs until the new process has read most of its memory.
    until(lambda: d.info("vm1")["reason"] == "handing over" or is_clone(d))
    until(lambda: taking_over(d))
    new, = taking_over(d)
    return id, old, new


def job_of(d, id):
    q = d.qmp()

    def job():
        return [j for j in q.jobs() if j["id"] == id][0]
    until(lambda: job()["status"] == "concluded")
    return job()


@any_kind
def test_killed_successor_leaves_vm_running(held):
    id, old, new = hold(held)
    os.kill(new, signal.SIGKILL)
    assert "the new process ended before it took the VM over" in job_of(held, id)["error"]
    assert held.info("vm1")["pid"] == old
    reason = "restored" if is_clone(held) else "booted"
    assert held.cairn("domstate", "--reason", "vm1").stdout == f"running ({reason})\n"
    goes_on(held)
    (held.tmp / "go").touch()
    assert restart(held)["way"] == "handover"
    goes_on(held)
    held.cairn("destroy", "vm1")
    checked(held)


@any_kind
def test_cancelled_handover_leaves_vm_running(held):
    id, old, new = hold(held)
    held.qmp().run("job-cancel", id=id)
    (held.tmp / "go").touch()
    assert job_of(held, id)["error-class"] == "Cancelled"
    assert held.info("vm1")["pid"] == old
    goes_on(held)


@any_kind
def test_killed_vm_ends_as_by_crash(held):
    id, old, new = hold(held)
    os.kill(old, signal.SIGKILL)
    assert "the VM ended before its new process ran" in job_of(held, id)["error"]
    assert held.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed)\n"
    until(lambda: has_ended(new))
    (held.tmp / "go").touch()
    if not is_clone(held):
        wait_released(held.tmp / "disk.qcow2")
        checked(held)
    held.cairn("start", "vm1")


@any_kind
@pytest.mark.parametrize("again", [False, True])
def test_handover_outlives_daemon(held, again):
    """again: the next daemon starts while the old process still has the VM."""
    id, old, new = hold(held)
    held.stop(signal.SIGKILL)
    if again:
        held.start()
        assert held.info("vm1")["pid"] == old
    (held.tmp / "go").touch()
    until(lambda: has_ended(old))
    if not again:
        held.start()
    until(lambda: held.info("vm1")["state"] == "running")
    assert held.info("vm1")["pid"] == new
    goes_on(held)
    held.cairn("destroy", "vm1")
    until(lambda: has_ended(new))
    checked(held)


@any_kind
@pytest.mark.parametrize("first", ["daemon", "old"])
def test_successor_ends_with_daemon_and_old_process(held, first):
    """Nobody is left to tell the new process that the VM is its own."""
    id, old, new = hold(held)
    assert old in holders(held)
    pids = [held.proc.pid, old]
    for pid in pids if first == "daemon" else reversed(pids):
        os.kill(pid, signal.SIGKILL)
    held.proc.wait()
    (held.tmp / "go").touch()
    until(lambda: has_ended(old) and has_ended(new))
    assert holders(held) == []
    held.start()
    assert held.info("vm1")["state"] == "crashed"
    held.cairn("start", "vm1")


def test_vm_is_destroyed_meanwhile(held):
    id, old, new = hold(held)
    held.cairn("destroy", "vm1")
    assert has_ended(old) and held.info("vm1")["state"] == "shutoff"
    assert "the VM ended" in job_of(held, id)["error"]
    (held.tmp / "go").touch()
    until(lambda: has_ended(new))
    checked(held)


def test_requests_are_refused_meanwhile(held):
    hold(held)
    r = held.cairn("reset", "vm1", ok=False)
    assert "the VM is being handed over to a new process; try again in a moment" in r.stderr


# ---- kill -9 at any moment ----

def holders(d):
    """The processes that have vm1's image open."""
    path = str(d.tmp / disk(d))
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and is_vm(p) and path in open_files(p)]


def is_free(d):
    """Return whether no handover is under way. While a clone's memory is copied, a new daemon sees no sign of that but
    the refusals."""
    q = Qmp(d.socket)
    try:
        q.run("vm-console", vm="vm1")
        return True
    except QmpError:
        return False
    finally:
        for fd in q.fds:
            os.close(fd)
        q.close()


def has_settled(d, killed):
    """The VM has crashed, or runs in a process that was not killed: the daemon learns of a death later."""
    info = d.info("vm1")
    runs = info["state"] == "running" and "job" not in info and info.get("pid") not in killed
    return info["state"] == "crashed" or (runs and is_free(d))


def begin_again(d):
    if is_clone(d):
        d.cairn("undefine", "vm1", "--remove-all-storage")
        d.cairn("clone", "--live", "src", "vm1")
        return
    d.cairn("start", "vm1")
    c = Console(d, "vm1")
    while c.line() != "interp":
        pass
    c.run("fill 0x800000 0x300000 1")
    c.run("open 0")
    c.close()


@pytest.mark.seconds(120)  # ten handovers, and as many daemons: 6 s at a load of 9, 24 at 15
@pytest.mark.parametrize("vm", KINDS, indirect=True)
@pytest.mark.parametrize("victim", ["old", "new", "daemon"])
def test_process_is_killed_at_any_moment(vm, victim):
    """The VM runs in one process afterwards, or has ended; its image is whole, and has what the guest flushed."""
    for ms in range(0, 80, 8):
        if vm.info("vm1")["state"] != "running":
            begin_again(vm)
        old, before = vm.info("vm1")["pid"], vm.children()
        q = vm.qmp()
        q.run("vm-restart-process", vm="vm1")
        time.sleep(ms / 1000)  # a moment, not a wait: each one is fine
        new = [p for p in vm.children() if p not in before]
        pids = {"old": [old], "new": new, "daemon": [vm.proc.pid]}[victim]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if victim == "daemon":
            vm.proc.wait()
            vm.start()
        until(lambda: all(has_ended(p) for p in pids))
        until(lambda: has_settled(vm, pids))
        until(lambda: holders(vm) == ([vm.info("vm1")["pid"]] if vm.info("vm1")["state"] == "running" else []))
        if vm.info("vm1")["state"] == "running":
            goes_on(vm)
    vm.cairn("destroy", "vm1", ok=None)
    checked(vm)
    if is_clone(vm):
        source_is_untouched(vm)
