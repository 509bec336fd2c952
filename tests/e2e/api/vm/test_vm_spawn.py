"""VM processes are spawned on threads: the daemon answers while the host loads their program."""

import os
import signal
from pathlib import Path

import pytest

from conftest import BUILD, Daemon, QmpError, until
from fuselib import Op, fuse


@pytest.fixture
def slow(tmp_path):
    """A daemon whose VM program lies on a file system that may stop answering."""
    program = f'#!/bin/sh\nexec "{BUILD}/helpers/fake_vm" "$@"\n'.encode()
    with fuse(tmp_path / "programs", vm=program) as files:
        d = Daemon(tmp_path, vm_program=files["vm"])
        d.files = files
        d.define("vm1")
        try:
            yield d
        finally:
            files.release()
            d.close()


def restart_hangs(slow):
    """Begin a restart-process whose new process does not get as far as its program. Return the client."""
    slow.define("vm1", cmdline="hands-over")
    slow.cairn("start", "vm1")
    slow.files.hang(Op.LOOKUP)
    q = slow.qmp()
    q.send(b'{"execute":"vm-restart-process","arguments":{"vm":"vm1"}}')
    until(lambda: Op.LOOKUP in slow.files.hanging())
    return q


def start_hangs(slow):
    """Begin a start whose process does not get as far as its program. Return the client."""
    slow.files.hang(Op.LOOKUP)
    q = slow.qmp()
    q.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(lambda: Op.LOOKUP in slow.files.hanging())
    return q


def test_daemon_answers_while_a_program_is_loaded(slow):
    q = start_hangs(slow)
    slow.define("vm2")
    assert slow.info("vm1")["state"] == "shutoff"
    with pytest.raises(QmpError, match="is being started"):
        slow.qmp().run("vm-undefine", vm="vm1")
    slow.files.release()
    assert "return" in q.answer()
    assert slow.info("vm1")["state"] == "running" and len(slow.children()) == 1


def targets_of_children(d):
    """Return what the open files of the daemon's children are; None: a thread or a child ended meanwhile."""
    try:
        pids = [pid for task in os.listdir(f"/proc/{d.proc.pid}/task")
                for pid in Path(f"/proc/{d.proc.pid}/task/{task}/children").read_text().split() if int(pid) != d.log_process()]
        return [os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None


def test_process_that_loads_its_program_keeps_no_file_of_the_daemon(slow):
    """Otherwise clients' sockets and the daemon's locks would stay until the program is loaded."""
    def has_only_its_channel():
        targets = targets_of_children(slow)
        return targets and [t.split(":")[0] for t in targets if t.startswith(("socket:", "anon_inode:"))] == ["socket"]
    start = start_hangs(slow)
    until(has_only_its_channel)
    slow.files.release()
    assert "return" in start.answer()


def test_vm_can_be_destroyed_while_its_program_is_loaded(slow):
    start, q = start_hangs(slow), slow.qmp()
    q.send(b'{"execute":"vm-destroy","arguments":{"vm":"vm1"}}')
    for _ in range(2):  # the daemon has read what came before
        assert slow.info("vm1")["state"] == "shutoff"
    slow.files.release()
    assert "return" in q.answer()
    start.answer()  # a success, if the process was ready before it was killed
    assert slow.info("vm1")["state"] == "shutoff" and not slow.children()


def test_program_that_cannot_be_loaded_fails_the_start(slow):
    q = start_hangs(slow)
    slow.files.ask("forget", "vm")
    slow.files.release()
    error = q.answer()["error"]["desc"]
    assert "programs/vm: No such file or directory" in error
    assert slow.info("vm1")["state"] == "shutoff" and not slow.children()
    slow.qmp().run("vm-undefine", vm="vm1")


def ended(q, job):
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    return q.run("query-jobs", id=job)[0]


def test_daemon_answers_and_vm_runs_while_the_program_of_a_successor_is_loaded(slow):
    q = restart_hangs(slow)
    pid = slow.info("vm1")["pid"]
    slow.define("vm2")
    assert slow.info("vm1")["state"] == "running"
    slow.files.release()
    assert "error" not in ended(q, q.answer()["return"]["job"])
    assert slow.info("vm1")["state"] == "running" and slow.info("vm1")["pid"] != pid


def test_successor_that_cannot_be_loaded_fails_the_restart_alone(slow):
    q = restart_hangs(slow)
    pid = slow.info("vm1")["pid"]
    slow.files.ask("forget", "vm")
    slow.files.release()
    assert "programs/vm: No such file or directory" in ended(q, q.answer()["return"]["job"])["error"]
    slow.cairn("suspend", "vm1")
    assert slow.info("vm1")["pid"] == pid and slow.children() == [pid]


def test_restart_is_cancelled_while_the_program_is_loaded(slow):
    q, other = restart_hangs(slow), slow.qmp()
    pid = slow.info("vm1")["pid"]
    job = slow.info("vm1")["job"]
    other.run("job-cancel", id=job)
    assert "cancelled" in ended(other, job)["error"]
    slow.files.release()
    assert q.answer()["return"]["job"] == job
    until(lambda: slow.children() == [pid])
    slow.cairn("restart-process", "vm1")
    assert slow.info("vm1")["pid"] != pid


@pytest.mark.parametrize("how", ["destroyed", "killed"])
def test_vm_ends_while_the_program_of_its_successor_is_loaded(slow, how):
    q, other = restart_hangs(slow), slow.qmp()
    job = slow.info("vm1")["job"]
    if how == "destroyed":
        slow.cairn("destroy", "vm1")
    else:
        os.kill(slow.info("vm1")["pid"], signal.SIGKILL)
    assert "the VM ended" in ended(other, job)["error"]
    slow.files.release()
    assert q.answer()["return"]["job"] == job
    until(lambda: not slow.children())
    slow.cairn("start", "vm1")
