"""daemonlib: what tests ask a daemon about VMs, events and audit lines, and a daemon that other users reach."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest import BUILD, FAKE_VM, Daemon


def pid_of(daemon, name):
    return daemon.info(name)["pid"]


@contextlib.contextmanager
def held_at_exit(pid):
    """Keep a process from ending, also after SIGKILL, as the kernel does with one that waits for a dead disk."""
    seize, detach, trace_exit, wall = 0x4206, 17, ctypes.c_void_p(1 << 6), 1 << 30
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(seize, pid, None, trace_exit):
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.waitpid(pid, wall)  # until it stops at its exit
        libc.ptrace(detach, pid, None, None)


def kept_events(fake, **args):
    q = fake.qmp()
    found, since = [], args.pop("since", 0)
    while True:
        page = q.run("query-events", since=since, **args)
        assert len(json.dumps(page)) < 65536
        found += page["events"]
        since = page["next"]
        if not page["more"]:
            return found


def audit(fake, *args):
    return json.loads(fake.cairn("audit", "--format", "json", *args).stdout)


NOBODY = 65534


def open_folder():
    """Return the folder for temporary folders that other users reach: TMPDIR, unless it is closed to them."""
    folder = pathlib.Path(tempfile.gettempdir())
    return folder if all(p.stat().st_mode & 0o001 for p in (folder, *folder.parents)) else "/tmp"


@pytest.fixture
def shared():
    """A daemon that other users can reach, outside pytest's folder, which the next pytest of the same user makes
    private."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-", dir=open_folder()) as folder:
        os.chmod(folder, 0o711)
        # The programs that the daemon runs as another user: the build folder may be closed to that one.
        for program in ("cairn-archive", "cairn-diff", "cairn-img"):
            shutil.copy(os.path.join(BUILD, program), folder)
        d = Daemon(pathlib.Path(folder), vm_program=FAKE_VM, env={"CAIRN_LIBEXEC": folder})
        for n in ("mine", "other"):
            d.define(n)
        yield d
        d.close()


def as_nobody(fake, *commands, user=NOBODY, group=NOBODY, groups=()):
    """Return that user's answers to [command, args], and the events that come meanwhile."""
    script = (
        "import json, socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({fake.socket!r})\n"
        "f = s.makefile(); f.readline()\n"
        "for c, a in [['qmp_capabilities', {}]] + json.loads(sys.argv[1]):\n"
        "    s.sendall(json.dumps({'execute': c, 'arguments': a}).encode())\n"
        "    line = f.readline()\n"
        "    while '\"event\"' in line[:200] and '\"return\"' not in line[:12]:\n"
        "        line = f.readline()\n"
        "    print(line.strip())\n")
    r = subprocess.run(["/usr/bin/python3", "-c", script, json.dumps(commands)], user=user,
                       group=group, extra_groups=list(groups), capture_output=True, text=True,
                       timeout=50)
    assert not r.stderr, r.stderr
    answers = [json.loads(line) for line in r.stdout.splitlines()[1:]]
    assert len(answers) == len(commands)
    return answers


def allowed(answer):
    return answer.get("error", {}).get("class") != "PermissionDenied"
