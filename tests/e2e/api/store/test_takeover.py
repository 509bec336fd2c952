"""The next daemon replaces one that a file system keeps in the kernel, deaf to SIGKILL, and never a healthy one."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from conftest import BUILD, Daemon, children_of, until
from fuselib import Op, fuse

PROGRAM = os.path.join(BUILD, "helpers", "stuck_cairnd")


class Stuck(Daemon):
    """A cairnd of which a thread makes a call on a file when a test wants it (tests/helpers/daemon/stuck.c)."""

    def __init__(self, tmp, **env):
        tmp.mkdir(exist_ok=True)
        self.program = PROGRAM
        self.options = []
        super().__init__(tmp, env={"STUCK": str(tmp / "order"), "CAIRN_LIBEXEC": os.path.abspath(BUILD), **env})

    def command(self):
        return [self.program, *super().command()[1:], *self.options]

    def start(self):
        """A connection to the stuck daemon's socket would wait for a greeting."""
        listening = self.log.read_text().count(" listens on ") if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(self.command(), env=self.env, stderr=log)
        until(lambda: self.log.read_text().count(" listens on ") > listening or self.proc.poll() is not None)
        assert self.proc.poll() is None, self.log.read_text()

    def hang(self, f, thread, what, op):
        """Let a thread hang in a call on the file system f."""
        f.hang(op)
        (self.tmp / "new").write_text(f"{thread} {what} {f['file']}\n")
        os.rename(self.tmp / "new", self.tmp / "order")
        if what == "hold":
            until(lambda: Op.OPEN in f.seen())
        else:
            until(lambda: op in f.hanging())

    def kill(self):
        """Send SIGKILL to the daemon, which does not end, and forget it. Return its process."""
        old = self.proc
        old.kill()
        self.replaced()
        return old

    def replaced(self, *options):
        """Let start() begin an ordinary daemon."""
        (self.tmp / "order").unlink(missing_ok=True)
        self.program = os.path.join(BUILD, "cairnd")
        self.options = list(options)

    def second(self, *options):
        """Start a second daemon, which ends. Return what it says."""
        self.options = list(options)
        r = subprocess.run(self.command(), env=self.env, text=True, capture_output=True, timeout=50)
        assert r.returncode == 6, r.stderr
        return r.stderr


@pytest.fixture
def stuck(tmp_path):
    with fuse(tmp_path / "fuse", file=b"x") as f, contextlib.closing(Stuck(tmp_path / "d")) as d:
        try:
            yield d, f
        finally:
            f.release()


def is_killed(pid):
    """Return whether SIGKILL waits for the process, or has ended it."""
    try:
        status = pathlib.Path("/proc", str(pid), "status").read_text()
    except OSError:
        return True
    return "State:\tZ" in status or int(status.split("SigPnd:")[1].split()[0], 16) >> 8 & 1


@pytest.mark.parametrize("thread,what,op", [
    ("main", "open", Op.OPEN), ("main", "close", Op.FLUSH), ("main", "hold", Op.FLUSH), ("other", "close", Op.FLUSH),
])
def test_next_daemon_takes_over_from_killed_one_that_cannot_end(stuck, thread, what, op):
    d, f = stuck
    d.define("off")
    d.hang(f, thread, what, op)
    old = d.kill()
    until(lambda: op in f.hanging())
    d.start()
    assert old.poll() is None and op in f.hanging()
    assert "off" in d.cairn("list", "--all").stdout
    d.define("new")
    # The lock is the new daemon's now, and the end of the old one does not matter.
    assert f"another cairnd (pid {d.proc.pid}) serves" in d.second()
    f.release()
    old.wait(30)
    assert f"another cairnd (pid {d.proc.pid}) serves" in d.second()
    d.options = []
    assert d.info("new")["state"] == "shutoff"
    d.stop()
    d.start()
    assert d.info("new")["state"] == "shutoff"


@pytest.mark.usefixtures("kvm")
def test_running_vm_goes_over_to_the_next_daemon(stuck, guest):
    """The VM's process drops the connection of the stuck daemon, which is still open."""
    d, f = stuck
    d.define("a", boot={"kernel": guest("interp.elf")})
    d.cairn("start", "a")
    pid = d.info("a")["pid"]
    d.hang(f, "main", "close", Op.FLUSH)
    old = d.kill()
    d.start()
    assert d.info("a")["pid"] == pid and d.info("a")["state"] == "running"
    d.cairn("suspend", "a")
    assert d.info("a")["state"] == "paused"
    assert old.poll() is None
    d.cairn("resume", "a")
    f.release()
    old.wait(30)
    d.cairn("suspend", "a")
    d.cairn("destroy", "a")
    d.wait("a", "shutoff")


def test_takeover_kills_helper_processes(stuck):
    """The kernel kills them when their daemon has ended."""
    d, f = stuck
    f.hang(Op.GETATTR)
    q = d.qmp()
    definition = {"name": "a", "memory": "32M", "boot": {"kernel": f["file"]}}
    q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": definition}}).encode())
    until(lambda: Op.GETATTR in f.hanging())
    helper = next(pid for pid, name in children_of(d.proc.pid).items() if name == "stuck_cairnd")
    d.hang(f, "main", "close", Op.FLUSH)
    d.kill()
    assert not is_killed(helper)
    d.start()
    until(lambda: is_killed(helper))


def script(path, text):
    path.with_suffix(".new").write_text("#!/bin/sh\n" + text)
    path.with_suffix(".new").chmod(0o755)
    path.with_suffix(".new").rename(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon asks for scopes")
def test_takeover_kills_helper_programs(tmp_path):
    """Those of the stuck daemon, and none of another process. Stand-ins of the programs never end."""
    names = ["cairn-diff", "cairn-net", "cairn-scope"]
    libexec = tmp_path / "libexec"
    libexec.mkdir()
    for program in pathlib.Path(BUILD).resolve().glob("cairn-*"):
        (libexec / program.name).symlink_to(program)
    for name in names:
        script(libexec / name, "while :; do sleep 1; done")
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "s", image], check=True)
    foreign = subprocess.Popen([libexec / "cairn-diff"], start_new_session=True)
    helpers = {}
    try:
        with fuse(tmp_path / "fuse", file=b"x") as f, \
                contextlib.closing(Stuck(tmp_path / "d", CAIRN_LIBEXEC=str(libexec))) as d:
            d.define("off", disks=[{"path": str(image), "format": "qcow2"}])
            d.define("on", systemd_scope=True)
            (tmp_path / "net.json").write_text(json.dumps({"name": "lan", "ipv4": {"address": "10.77.0.1", "prefix": 24}}))
            d.cairn("net-define", str(tmp_path / "net.json"))
            # Without KVM, the start fails, and its cairn-scope stays for 10 s.
            for command, arguments in (("snapshot-diff", {"vm": "off", "from": "s"}), ("net-start", {"network": "lan"}),
                                       ("vm-start", {"vm": "on"})):
                d.qmp().send(json.dumps({"execute": command, "arguments": arguments}).encode())
            until(lambda: set(names) <= set(d.all_children().values()))
            helpers = {pid: name for pid, name in d.all_children().items() if name in names}
            d.hang(f, "main", "close", Op.FLUSH)
            d.kill()
            assert not any(is_killed(pid) for pid in helpers)
            for name in names:
                script(libexec / name, "exit 1")
            d.start()
            until(lambda: all(is_killed(pid) for pid in helpers))
            assert foreign.poll() is None
            f.release()
    finally:
        for pid in [foreign.pid, *(pid for pid in helpers if not is_killed(pid))]:
            os.killpg(pid, signal.SIGKILL)
        foreign.wait()


@pytest.mark.parametrize("thread,what,op,why", [
    ("store", "close", Op.FLUSH, "its thread 'store', which writes to the state folder"),
    ("other", "create", Op.OPEN, "its thread 'other' waits in system call 257, which may still change a file"),
])
def test_daemon_that_may_still_write_is_not_replaced(stuck, thread, what, op, why):
    d, f = stuck
    d.hang(f, thread, what, op)
    old = d.kill()
    for options in ([], ["--replace"]):
        said = d.second(*options)
        assert f"cannot take over from the stuck cairnd (pid {old.pid}), which was killed: {why}" in said, said
    f.release()
    old.wait(30)
    d.options = []
    d.start()


def test_healthy_daemon_is_never_replaced(stuck):
    """A daemon whose main thread works, and of which another thread is stuck, is not replaced, either."""
    d, f = stuck
    begin = time.monotonic()
    for hangs in (False, True):
        if hangs:
            d.hang(f, "other", "close", Op.FLUSH)
        assert f"another cairnd (pid {d.proc.pid}) serves" in d.second()
        assert "and answers, so --replace does not kill it" in d.second("--replace")
        assert d.cairn("list").returncode == 0
    assert time.monotonic() - begin < 40  # none waits for 10 s, four times


def test_healthy_daemon_is_asked_where_it_listens(tmp_path):
    """Its socket's path is relative, and the second daemon starts in another folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    command = [os.path.abspath(os.path.join(BUILD, "cairnd")), "--state-dir", str(tmp_path / "state"), "--socket", "socket"]
    env = {**os.environ, "CAIRN_LIBEXEC": os.path.abspath(BUILD)}
    with open(tmp_path / "log", "w+b") as log:
        d = subprocess.Popen(command, cwd=tmp_path / "here", env=env, stderr=log)
        try:
            until(lambda: b" listens on " in (tmp_path / "log").read_bytes() or d.poll() is not None)
            r = subprocess.run([*command, "--replace"], cwd=tmp_path / "there", env=env, text=True, capture_output=True, timeout=50)
            assert r.returncode == 6 and f"another cairnd (pid {d.pid}) serves" in r.stderr and "and answers" in r.stderr
            assert d.poll() is None
        finally:
            d.kill()
            d.wait()


def test_daemons_that_do_not_answer_are_replaced(tmp_path):
    """One is stuck in a file system; the other one was stopped, and is replaced on demand. Both at once, because each
    takes 10 s."""
    with fuse(tmp_path / "fuse", file=b"x") as f, contextlib.closing(Stuck(tmp_path / "stuck")) as d, \
            contextlib.closing(Stuck(tmp_path / "stopped")) as s:
        try:
            d.hang(f, "main", "open", Op.OPEN)
            s.proc.send_signal(signal.SIGSTOP)
            assert f"another cairnd (pid {s.proc.pid}) serves" in s.second()
            old = [d.proc, s.proc]
            d.replaced()
            s.replaced("--replace")
            with open(s.log, "ab") as log:
                other = subprocess.Popen(s.command(), env=s.env, stderr=log)
            d.start()
            s.proc = other
            until(lambda: s.log.read_text().count(" listens on ") == 2)
            assert old[1].wait(30) == -signal.SIGKILL and old[0].poll() is None
            assert d.cairn("list").returncode == s.cairn("list").returncode == 0
        finally:
            f.release()


@pytest.fixture
def freezer():
    """A group of the version 1 freezer."""
    mounts = [line.split() for line in open("/proc/self/mounts")]
    at = [m[1] for m in mounts if m[2] == "cgroup" and "freezer" in m[3].split(",")]
    if not at or not os.access(at[0], os.W_OK):
        pytest.skip("no freezer of control groups version 1")
    group = pathlib.Path(at[0], f"cairn-test-{os.getpid()}")
    group.mkdir()
    yield group
    (group / "freezer.state").write_text("THAWED")
    for pid in (group / "cgroup.procs").read_text().split():
        pathlib.Path(at[0], "cgroup.procs").write_text(pid)
    group.rmdir()


def test_frozen_daemon_is_not_replaced(tmp_path, freezer):
    with contextlib.closing(Stuck(tmp_path / "d")) as d:
        d.define("a")
        (freezer / "cgroup.procs").write_text(str(d.proc.pid))
        (freezer / "freezer.state").write_text("FROZEN")
        until(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n")
        says = d.second()
        assert f"another cairnd (pid {d.proc.pid}) serves" in says and "waits for a file system" not in says
        (freezer / "freezer.state").write_text("THAWED")
        assert d.info("a")["state"] == "shutoff"
