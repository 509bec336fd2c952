"""A VM whose process lost the connection to the daemon continues, and the daemon manages it again. The daemon
kills only a process that does not answer on a new connection."""

import ctypes
import os
import socket
import stat

import pytest

from conftest import Console, until

AGAIN = "VM 'vm1': connected to its process again"
PIDFD_GETFD = 438


def cut(pid):
    """Shut down the connections of a daemon to its VMs, and return their number."""
    libc, pidfd, n = ctypes.CDLL(None), os.pidfd_open(pid), 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        ours = libc.syscall(PIDFD_GETFD, pidfd, int(fd), 0)
        if ours < 0:
            continue  # closed meanwhile
        if not stat.S_ISSOCK(os.fstat(ours).st_mode):
            os.close(ours)
            continue
        with socket.socket(fileno=ours) as s:
            if s.type == socket.SOCK_SEQPACKET and s.getpeername():  # not the pair with cairn-log
                s.shutdown(socket.SHUT_RDWR)
                n += 1
    os.close(pidfd)
    return n


def times_connected(daemon):
    return daemon.log.read_text().count(AGAIN)


def test_vm_goes_on_and_is_managed_when_its_connection_is_cut(daemon, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "vm1")
    console, pid = Console(daemon, "vm1"), daemon.info("vm1")["pid"]
    until(lambda: console.line() == "interp")
    console.run("fill 0x1000000 0x100000 5")
    for n in range(3):
        assert cut(daemon.proc.pid) == 1
        until(lambda n=n: times_connected(daemon) > n)
        console.run("check 0x1000000 0x100000 5")
        daemon.cairn("suspend", "vm1")
        assert daemon.info("vm1")["state"] == "paused"
        daemon.cairn("resume", "vm1")
    daemon.cairn("save", "vm1", str(daemon.tmp / "vm1.save"))
    daemon.cairn("restore", str(daemon.tmp / "vm1.save"))
    assert daemon.info("vm1")["pid"] != pid


def test_request_that_waits_for_the_connection_is_answered(fake):
    fake.define("vm1", cmdline=f"close-after=1 when={fake.tmp}/go")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    (fake.tmp / "go").touch()
    while not times_connected(fake):
        assert fake.info("vm1")["pid"] == pid  # asks the process
        assert "vm1" in fake.cairn("domstats", "vm1").stdout
    fake.cairn("suspend", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    fake.cairn("resume", "vm1")
    assert fake.info("vm1")["pid"] == pid


def test_destroy_reaches_a_process_without_a_connection(fake):
    fake.define("vm1", cmdline=f"close-after=1 when={fake.tmp}/go")
    fake.cairn("start", "vm1")
    (fake.tmp / "go").touch()
    fake.cairn("destroy", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (destroyed)\n"


def test_command_is_told_that_the_vm_was_destroyed_meanwhile(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/never", disks=[{"path": str(fake.tmp / "d.raw"), "format": "raw"}])
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    job = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    until(lambda: q.run("query-jobs", id=job)[0]["current-progress"])  # the process has got its work
    q.run("vm-destroy", vm="vm1")
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("query-jobs", id=job)[0]["error"] == "the VM was destroyed before it answered; see cairn log vm1"


def test_command_is_told_that_the_guest_panicked_meanwhile(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/never panic-after=1 when={fake.tmp}/go", disks=[{"path": str(fake.tmp / "d.raw"), "format": "raw"}])
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    job = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    until(lambda: q.run("query-jobs", id=job)[0]["current-progress"])  # the process has got its work
    (fake.tmp / "go").touch()
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("query-jobs", id=job)[0]["error"] == "the VM ended, because its guest panicked, before it answered; see cairn log vm1"


def test_request_without_a_connection_fails_with_the_end_of_the_process(fake):
    fake.define("vm1", cmdline=f"close-after=1 when={fake.tmp}/go stops-listening")
    fake.cairn("start", "vm1")
    (fake.tmp / "go").touch()
    until(lambda: "connecting again" in fake.log.read_text())
    error = fake.cairn("suspend", "vm1", ok=1).stderr
    # The second one only if this test stood still for 5 s.
    assert "ended (signal 9) before it answered" in error or "crashed" in error


@pytest.mark.parametrize("then", ["stops-listening", "mute"])
def test_process_that_does_not_answer_on_a_new_connection_is_killed(fake, then):
    fake.define("vm1", cmdline=f"close-after=1 when={fake.tmp}/go {then}")
    fake.cairn("start", "vm1")
    (fake.tmp / "go").touch()
    fake.wait("vm1", "crashed")
    assert fake.info("vm1")["reason"] == "killed" and not fake.children()
    assert "killing it" in fake.log.read_text() and not times_connected(fake)


@pytest.mark.parametrize("how, error", [
    ("loses-answer", "the connection to the VM's process was lost before the request was answered"),
    ("close-after=1 when={go} work-until={never}", "the job was cancelled"),
])
def test_job_ends_when_the_connection_is_lost(fake, how, error):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=how.format(go=fake.tmp / "go", never=fake.tmp / "never"),
                disks=[{"path": str(fake.tmp / "d.raw"), "format": "raw"}])
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    pid = fake.info("vm1")["pid"]
    job = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    if how != "loses-answer":
        until(lambda: q.run("query-jobs", id=job)[0]["current-progress"])  # the process has got its work
    (fake.tmp / "go").touch()
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert error in q.run("query-jobs", id=job)[0]["error"]
    # The VM is free for the next request, in the same process.
    q.run("vm-suspend", vm="vm1")
    if how == "loses-answer":
        job = q.run("snapshot-create", vm="vm1", name="s2")["job"]
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        assert [s["name"] for s in q.run("snapshot-list", vm="vm1")["snapshots"]] == ["s1", "s2"]
    assert fake.info("vm1")["pid"] == pid
