"""cairn start --foreground: a process that follows a VM, for a service manager."""

import contextlib
import os
import signal
import socket
import subprocess

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, Daemon, library, until
from daemonlib import pid_of


@pytest.fixture
def fake(tmp_path):
    with contextlib.closing(Daemon(tmp_path, FAKE_VM)) as d:
        yield d


class Follower:
    """`cairn start VM --foreground` under a service manager, which is this test."""

    def __init__(self, daemon, vm="vm1"):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = daemon.tmp / f"notify-{vm}.sock"
        self.manager.bind(str(path))
        self.manager.settimeout(30 * guestlib.SLOW)
        self.proc = subprocess.Popen([os.path.join(BUILD, "cairn"), "start", vm, "--foreground"], text=True,
                                     env={**daemon.env, "NOTIFY_SOCKET": str(path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def told(self, words):
        """Wait for a message to the service manager that has these words."""
        while words not in (m := self.manager.recv(999).decode()):
            pass
        return m

    def end(self):
        out, err = self.proc.communicate(timeout=30 * guestlib.SLOW)
        self.manager.close()
        return self.proc.returncode, out, err


def test_follower_tells_states_and_ends_with_the_vm(fake):
    fake.define("vm1")
    f = Follower(fake)
    assert f.told("READY=1").splitlines() == ["READY=1", "STATUS=running (booted)"]
    fake.cairn("suspend", "vm1")
    assert f.told("paused") == "STATUS=paused (user)"
    fake.cairn("resume", "vm1")
    f.told("running")
    fake.cairn("shutdown", "vm1")
    assert f.end() == (0, "Domain 'vm1' started\n", "")


@pytest.mark.parametrize("cmdline, status", [
    ("off-after=50", 0), ("panic-after=50", 10), ("crash-after=50", None), ("kill-after=50", 11)])
def test_exit_status_gives_the_reason_of_the_end(fake, cmdline, status):
    fake.define("vm1", boot={"kernel": str(fake.tmp / "kernel"), "cmdline": cmdline})
    f = Follower(fake)
    if status is None:  # the process stays for inspection
        f.told("STATUS=crashed")
        fake.cairn("destroy", "vm1")
        status = 13
    code, _, err = f.end()
    assert code == status, err
    assert ("has crashed" in err) == (code in (10, 11))


def test_follower_outlives_the_daemon(fake):
    fake.define("vm1")
    f = Follower(fake)
    f.told("READY=1")
    pid = pid_of(fake, "vm1")
    for sig in (signal.SIGKILL, signal.SIGTERM):
        fake.stop(sig)
        f.told("the daemon does not answer")
        fake.start()
        f.told("STATUS=running")
    assert pid_of(fake, "vm1") == pid
    fake.cairn("destroy", "vm1")
    assert f.end()[0] == 13


def test_signals_shut_down_and_then_destroy(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")  # a VM that runs already is followed
    f = Follower(fake)
    f.told("READY=1")
    f.proc.send_signal(signal.SIGTERM)
    assert f.end() == (0, "", "")
    assert "shut off" in fake.cairn("domstate", "vm1").stdout
    fake.define("deaf", boot={"kernel": str(fake.tmp / "kernel"), "cmdline": "deaf"})
    f = Follower(fake, "deaf")
    f.told("READY=1")
    f.proc.send_signal(signal.SIGTERM)
    f.told("in shutdown")
    f.proc.send_signal(signal.SIGTERM)
    assert f.end()[0] == 13


def test_stop_without_a_daemon_says_so(fake):
    fake.define("vm1")
    f = Follower(fake)
    f.told("READY=1")
    fake.stop()
    f.told("the daemon does not answer")
    f.proc.send_signal(signal.SIGTERM)
    code, _, err = f.end()
    assert code == 1 and "Failed to stop domain 'vm1'" in err and "systemctl start cairnd" in err
    fake.start()
    assert "running" in fake.cairn("domstate", "vm1").stdout


@pytest.mark.parametrize("delay", [0, 1])
def test_restart_policy_keeps_the_follower(fake, delay):
    """The follower ends when the daemon gives up, with the status of the last end."""
    fake.define("vm1", boot={"kernel": str(fake.tmp / "kernel"), "cmdline": "panic-after=300"}, on_crash="restart",
                restart={"delay": delay, "tries": 2})
    f = Follower(fake)
    f.told("READY=1")
    code, _, err = f.end()
    assert code == 10 and "restart limit" in err, err
    assert len(fake.qmp().run("query-events", event="RESTART_SCHEDULED")["events"]) == 2


def test_follower_ends_when_a_reboot_fails(fake):
    fake.define("vm1")
    f = Follower(fake)
    f.told("READY=1")
    (fake.tmp / "kernel").rename(fake.tmp / "elsewhere")
    fake.cairn("reboot", "vm1")
    assert f.end()[0] == 1
    info = fake.info("vm1")
    assert (info["state"], info["reason"]) == ("shutoff", "failed") and "kernel" in info["detail"]
    changes = fake.qmp().run("query-events", event="VM_STATE_CHANGE")["events"]
    assert [e["data"]["reason"] for e in changes][-2:] == ["shutdown", "failed"]


@pytest.mark.skipif(guestlib.SANITIZED, reason="slow_sync.so has to come behind a sanitizer")
@pytest.mark.parametrize("command", [["restart-process", "vm1"], ["managedsave", "vm1"]])
def test_follower_waits_for_the_end_of_a_job(fake, command):
    """A restart of the VM's process by a save stores the saved state before it starts the VM from it."""
    go, work = fake.tmp / "go", fake.tmp / "work"
    go.touch()
    fake.stop()
    fake.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "/vms/vm1", "SLOW_SYNC_UNTIL": str(go)}
    fake.start()
    fake.define("vm1", cmdline=f"work-until={work}")
    f = Follower(fake)
    f.told("READY=1")
    fake.cairn(*command, "--no-wait")
    f.told("paused")
    go.unlink()
    work.touch()
    assert f.told("saved") == "STATUS=saved (saved)"
    go.touch()
    if "managedsave" in command:
        assert f.end()[0] == 0
        return
    f.told("STATUS=running")
    fake.cairn("destroy", "vm1")
    assert f.end()[0] == 13


@pytest.mark.parametrize("args, words", [
    (["vm1", "vm2"], "takes one VM"), (["vm*"], "takes one VM"), (["vm1", "--console"], "takes one VM"),
    (["--all"], "takes one VM")])
def test_foreground_refuses_several_vms(fake, args, words):
    r = fake.cairn("start", "--foreground", *args, ok=2)
    assert words in r.stderr


def test_vm_that_does_not_exist(fake):
    r = fake.cairn("start", "--foreground", "nothing", ok=3)
    assert "nothing" in r.stderr and not r.stdout
