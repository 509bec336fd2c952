"""Files of a definition are opened with the groups that their author has when they are opened, not with the
groups at the define. The daemon runs in a mount namespace with a user database of its own."""

import grp
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import BUILD, FAKE_VM, Daemon, until
from daemonlib import NOBODY, as_nobody

GROUP = 4242
PROGRAM = os.path.join(BUILD, "cairn-groups")
MOUNT = 'for f in passwd group nsswitch.conf; do mount --bind "$1/$f" "/etc/$f" || exit; done; shift; exec "$@"'


class Host(Daemon):
    """A daemon that other users reach, with a user database of its own."""

    def command(self):
        return ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(self.tmp), *super().command()]

    def members_are(self, *names):
        """Change the group in place: the mount would still show the old file if a new one replaced it."""
        own = f"cairn-test:x:{GROUP}:{','.join(names)}\n"
        (self.tmp / "group").write_text(pathlib.Path("/etc/group").read_text() + own)

    def mount(self, source, target):
        subprocess.run(["nsenter", "-m", "-t", str(self.proc.pid), "mount", "--bind", source, target], check=True)

    def define_as_nobody(self, name, disk):
        """Define a VM as nobody in a process that is in the group."""
        (self.tmp / "kernel").touch()
        d = {"name": name, "memory": "32M", "boot": {"kernel": str(self.tmp / "kernel")},
             "disks": [{"path": str(disk), "format": "raw"}]}
        a, = as_nobody(self, ["vm-define", {"definition": d}], groups=[GROUP])
        assert "return" in a, a

    def restart(self):
        self.stop()
        self.start()


@pytest.fixture
def host():
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        folder = pathlib.Path(folder)
        os.chmod(folder, 0o711)
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", folder)
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\n")
        r = subprocess.run(["unshare", "-m", "sh", "-c", MOUNT, "sh", folder, "true"], stderr=subprocess.PIPE, text=True)
        if r.returncode:
            pytest.skip("may not mount files of its own: " + r.stderr.strip())
        d = Host(folder, vm_program=FAKE_VM)
        d.members_are("nobody")
        d.cairn("grant", "admin", "--user", str(NOBODY))
        yield d
        d.close()


@pytest.fixture
def disk(host):
    """A file for the group, in a folder where only the group may make files."""
    folder = host.tmp / "disks"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    os.chmod(folder, 0o775)
    (folder / "disk.raw").write_bytes(bytes(65536))
    os.chown(folder / "disk.raw", 0, GROUP)
    os.chmod(folder / "disk.raw", 0o660)
    return folder / "disk.raw"


LEFT = (f"(for user {NOBODY}, who defined the VM and was in group {GROUP} then, but is not now; let root "
        "add the user to the group again)")


def start_fails(host, name="v"):
    """Start the VM. Return the error, or "" after a start that succeeded; then the VM is off again."""
    r = host.cairn("start", name, ok=None)
    if r.returncode == 0:
        host.cairn("destroy", name)
        return ""
    assert r.returncode == 5, r.stderr
    return r.stderr


@pytest.mark.seconds(180)  # it waits until an answer is stale, twice
def test_start_fails_after_definer_left_the_group(host, disk):
    host.define_as_nobody("v", disk)
    assert start_fails(host) == ""
    host.members_are()
    until(lambda: start_fails(host))  # an answer is used for a while
    error = start_fails(host)
    assert f"disks[0].path: {disk}: Permission denied; " in error and LEFT in error
    assert LEFT in host.info("v")["detail"]
    host.members_are("nobody")
    until(lambda: not start_fails(host))
    # The next daemon looks the groups up, too.
    host.members_are()
    host.restart()
    assert LEFT in start_fails(host)


def test_other_work_on_files_has_the_present_groups(host, disk):
    host.define_as_nobody("v", disk)
    host.cairn("start", "v")
    host.cairn("clone", "--live", "v", "before")
    assert os.stat(disk.parent / "before-vda.raw").st_uid == NOBODY
    host.cairn("destroy", "before")
    host.members_are()
    host.restart()
    assert LEFT in host.cairn("clone", "--live", "v", "c", ok=5).stderr
    host.cairn("destroy", "v")
    assert LEFT in host.cairn("snapshot-list", "v", ok=5).stderr
    assert LEFT in host.cairn("clone", "v", "d", ok=5).stderr
    assert sorted(os.listdir(disk.parent)) == ["before-vda.raw", "disk.raw"]
    # Root's definition is checked with the definer's groups, one by the definer with those of the definer's process. A
    # change that gives the guest no file more is not checked.
    d = json.loads(host.cairn("dumpjson", "v").stdout)
    (host.tmp / "v.json").write_text(json.dumps(d))
    assert LEFT in host.cairn("define", str(host.tmp / "v.json"), ok=5).stderr
    host.cairn("desc", "v", "by root")
    a, = as_nobody(host, ["vm-define", {"definition": d}], groups=[GROUP])
    assert "return" in a, a
    assert LEFT in start_fails(host)


def test_definer_who_joined_a_group_has_it(host, disk):
    host.members_are()
    own = host.tmp / "own.raw"
    own.write_bytes(bytes(65536))
    os.chown(own, NOBODY, NOBODY)
    os.symlink(own, host.tmp / "link.raw")
    host.define_as_nobody("v", host.tmp / "link.raw")
    os.unlink(host.tmp / "link.raw")
    os.symlink(disk, host.tmp / "link.raw")
    assert LEFT in start_fails(host)
    host.members_are("nobody")
    host.restart()
    assert start_fails(host) == ""


def define_two(host, disk):
    """Let nobody define two VMs: v on a disk of the group, own on a disk of nobody's."""
    own = host.tmp / "own.raw"
    own.write_bytes(bytes(65536))
    os.chown(own, NOBODY, NOBODY)
    os.chmod(own, 0o600)
    host.define_as_nobody("v", disk)
    host.define_as_nobody("own", own)


def test_unknown_user_keeps_own_files_only(host, disk):
    define_two(host, disk)
    lines = (host.tmp / "passwd").read_text().splitlines(keepends=True)
    (host.tmp / "passwd").write_text("".join(x for x in lines if x.split(":")[2] != str(NOBODY)))
    host.restart()
    assert start_fails(host, "own") == ""
    assert f"was in group {GROUP} then; the user database does not know the user, so only group {NOBODY} counts" in \
        start_fails(host)


def looking_up(host):
    """Return the pids of the daemon's processes that look up groups."""
    return [pid for pid, name in host.all_children().items() if name == "cairn-groups"]


def test_database_that_hangs_does_not_stop_the_daemon(host, disk):
    define_two(host, disk)
    host.define("roots")
    host.restart()
    os.mkfifo(host.tmp / "fifo")
    host.mount(host.tmp / "fifo", "/etc/group")  # open() waits for a writer
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "start", "v"], env=host.env, stderr=subprocess.PIPE,
                          text=True) as waiting:
        until(lambda: looking_up(host))
        # The daemon does what needs no groups, and a second user of the look-up shares it.
        host.cairn("start", "roots")
        pid, = looking_up(host)
        def confined():  # it does this first
            status = open(f"/proc/{pid}/status").read()
            return re.search(r"(?m)^CapEff:\t0+$", status) and re.search(r"(?m)^NoNewPrivs:\t1$", status)
        until(confined)
        assert waiting.poll() is None
        host.cairn("start", "own")
        error = waiting.communicate(timeout=50)[1]
    assert waiting.returncode == 5
    assert f"{disk}: Permission denied; " in error and f"(for user {NOBODY}, who defined the VM; the user's other groups do not count, because they " \
        "could not be looked up: the user database does not answer; try again later)" in error
    assert f"user {NOBODY}: the groups could not be looked up: the user database does not answer" in host.log.read_text()
    until(lambda: not looking_up(host))
    host.cairn("destroy", "own", "roots")


def test_program_prints_groups():
    def run(*args):
        r = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=50)
        return r.returncode, r.stdout

    used = {u.pw_uid for u in pwd.getpwall()}
    for user in [pwd.getpwuid(uid) for uid in sorted(used)]:
        status, line = run(str(user.pw_uid))
        word, primary, *others = line.split()
        assert (status, word, int(primary)) == (0, "groups", user.pw_gid)
        assert {user.pw_gid, *map(int, others)} == set(os.getgrouplist(user.pw_name, user.pw_gid))
        assert len(others) == len(set(others)) and primary not in others
    assert any(g.gr_mem for g in grp.getgrall()) or len(used) > 1  # the host has somebody to look at
    free = next(uid for uid in range(60000, 1 << 31) if uid not in used)
    assert run(str(free)) == (0, "none\n")
    for args in ((), ("x",), ("-1",), ("4294967295",), ("1", "2"), ("",)):
        assert run(*args) == (2, "")
