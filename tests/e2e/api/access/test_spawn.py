"""A program that Cairn runs with a user's rights is this user's process, but the user cannot take its fds: some are the
daemon's."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

import archivelib
import guestlib
import slirplib
from conftest import BUILD, until
from daemonlib import NOBODY, shared  # noqa: F401

THIEF = """
import ctypes, os, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
pidfd, got = os.pidfd_open(pid), []
for fd in range(8):
    n = libc.syscall(438, pidfd, fd, 0)  # pidfd_getfd
    got.append(ctypes.get_errno() if n < 0 else 0)
try:
    got.append(len(os.listdir(f"/proc/{pid}/fd")) * 0)
except OSError as e:
    got.append(e.errno)
print(*got)
"""


def steal(pid):
    """Return the errnos of nobody's attempts to take the fds 0 to 7 of the process and to list them; 0: it worked."""
    r = subprocess.run([sys.executable, "-c", THIEF, str(pid)], user=NOBODY, group=NOBODY, extra_groups=[],
                       capture_output=True, text=True, timeout=50, check=True)
    return [int(word) for word in r.stdout.split()]


REFUSED = [errno.EPERM] * 8 + [errno.EACCES]


def as_spawned():
    """Change the user and group ids as the daemon does before it executes a program."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(0, NOBODY, NOBODY)


def ids(pid):
    with open(f"/proc/{pid}/status") as f:
        return {m[1]: m[2].split() for m in re.finditer(r"(?m)^(Uid|Gid|NoNewPrivs|CapEff):\t(.*)$", f.read())}


def test_thief_succeeds_with_ordinary_process():
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with subprocess.Popen(["sleep", "100"], user=NOBODY, group=NOBODY, extra_groups=[]) as p:
        until(lambda: ids(p.pid)["Uid"][0] == str(NOBODY) and open(f"/proc/{p.pid}/comm").read() == "sleep\n")
        got = steal(p.pid)
        p.kill()
    assert got[:3] == [0] * 3 and got[-1] == 0


def test_user_cannot_take_fds_before_first_instruction(shared):  # noqa: F811
    """The program of this test does not protect itself, so only the daemon's measures at its start protect it."""
    program = shared.tmp / "cairn-archive"
    shared.cairn("grant", "admin", "--user", "nobody")
    script = ("import json, socket, sys\n"
              f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r})\n"
              "f = s.makefile(); f.readline()\n"
              "s.sendall(b'{\"execute\":\"qmp_capabilities\"}'); f.readline()\n"
              "message = json.dumps({'execute': 'vm-import', 'arguments': {'folder': '/tmp'}})\n"
              "x = open('/etc/passwd'); socket.send_fds(s, [message.encode()], [x.fileno()])\n"
              "print(f.readline())\n")
    child = f"/proc/{shared.proc.pid}/task/{shared.proc.pid}/children"

    def take(body):
        program.write_text("#!/usr/bin/python3\nimport os, time\n" + body)
        return subprocess.Popen([sys.executable, "-c", script], user=NOBODY, group=NOBODY, extra_groups=[],
                                stdout=subprocess.PIPE, text=True)

    def archiver():
        for pid in map(int, open(child).read().split()):
            with contextlib.suppress(OSError):
                if open(f"/proc/{pid}/comm").read() == "cairn-archive\n":
                    return pid
        return None

    with take("time.sleep(1000)\n") as client:
        until(archiver)
        pid = archiver()
        assert ids(pid)["Uid"] == ["0", *[str(NOBODY)] * 3] and int(ids(pid)["CapEff"][0], 16) == 0
        assert steal(pid) == REFUSED
        os.kill(pid, 9)
        assert "cairn-archive ended early\"" in client.communicate(timeout=50)[0]
    # Its output on stderr is bounded, does not block the process, and does not reach the daemon's log.
    with take("try:\n    while True: os.write(2, b'forged\\n' * 100)\nexcept BlockingIOError: pass\n") as client:
        assert "cairn-archive ended early: forged\"" in client.communicate(timeout=50)[0]
    assert "forged" not in shared.log.read_text().replace("cairn-archive ended early: forged", "")


def check_confined(pid):
    """The program has taken the user's ids for good, and the user still cannot take its fds."""
    until(lambda: ids(pid)["Uid"] == [str(NOBODY)] * 4)
    until(lambda: ids(pid)["NoNewPrivs"] == ["1"])
    assert ids(pid)["Gid"] == [str(NOBODY)] * 4
    assert steal(pid) == REFUSED


@pytest.fixture
def spawnable(sandbox):
    """Return a function that copies a program to where others reach it: the build folder may be closed to them."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o755)
        yield lambda name: shutil.copy(os.path.join(BUILD, name), folder)


def test_user_cannot_take_fds_of_cairn_archive(spawnable):
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        definition = {"name": "x", "memory": "32M", "boot": {"kernel": "kernel"}, "disks": []}
        archive, kernel = os.path.join(folder, "x.tar"), guestlib.bare("interp")
        assert archivelib.export(archive, definition, [("kernel", kernel, {})]).end()[1] == 0
        os.chmod(folder, 0o777)
        fd = archivelib.high(archive)
        job = archivelib.Archive("import", {"input": fd, "name": "new", "folder": folder}, [fd], before=as_spawned,
                                 executable=spawnable("cairn-archive"))
        assert "ready" in job.until("ready", "error")
        check_confined(job.process.pid)
        job.end(b"keep\n")
        assert os.stat(os.path.join(folder, "new/kernel")).st_uid == NOBODY


def test_user_cannot_take_fds_of_cairn_slirp(spawnable, tmp_path):
    """Its output in the daemon's log is bounded."""
    log = tmp_path / "log"
    log.write_bytes(bytes(5000))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open(log, "ab") as out, ours, theirs, subprocess.Popen(
            [slirplib.PROGRAM, "--frames", str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=out,
            preexec_fn=as_spawned, executable=spawnable("cairn-slirp")) as p:
        check_confined(p.pid)
        until(lambda: "Seccomp:\t2" in open(f"/proc/{p.pid}/status").read())
        with open(f"/proc/{p.pid}/limits") as f:
            limits = {line[:26].strip(): line[26:47].strip() for line in f}
        assert limits["Max file size"] == str(5000 + (1 << 20))
        p.kill()
