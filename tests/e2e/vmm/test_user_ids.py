"""Each VM of root's daemon runs as a user id of its own (cairnd --uid-range)."""

import contextlib
import os
import signal
import subprocess

import pytest

from conftest import BUILD, Console, Daemon, lacks_here, said_to_lack, until
from fuselib import Op, fuse
from plainlib import qcow2

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's VMs run as that user")]

FIRST, LAST = 2000200001, 2147352575
# Ids that no other run of these tests uses at the same time.
MINE = 1000000000 + 100 * os.getpid()


class Ranged(Daemon):
    def __init__(self, tmp, uids, *wrapper):
        self.uids, self.wrapper = uids, wrapper
        super().__init__(tmp)

    def command(self):
        return [*self.wrapper, *super().command(), "--uid-range", self.uids]


@pytest.fixture
def ranged(tmp_path):
    """Return a function that starts a daemon with this range, and closes it after the test."""
    with contextlib.ExitStack() as stack:
        def make(uids, *wrapper):
            d = Ranged(tmp_path, uids, *wrapper)
            stack.callback(d.close)
            return d
        yield make


def ids(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return next([int(n) for n in line.split()[1:]] for line in f if line.startswith(key + ":"))


def uid_of(pid):
    """Return the user id of a process that is this user and this group in every way, and has no other group."""
    users, groups = ids(pid, "Uid"), ids(pid, "Gid")
    assert set(users) == set(groups) and len(set(users)) == 1 and ids(pid, "Groups") == []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # helper threads of io_uring come and go
            assert ids(f"{pid}/task/{task}", "Uid") == users
    return users[0]


def define(daemon, guest, name, **keys):
    daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, **keys)


def start(daemon, guest, name, **keys):
    define(daemon, guest, name, **keys)
    daemon.cairn("start", name)
    return daemon.info(name)["pid"]


def console_of(daemon, name):
    console = Console(daemon, name)
    until(lambda: console.line() == "interp")
    return console


def test_each_vm_has_a_user_id_of_its_own(daemon, guest):
    a, b = (start(daemon, guest, name) for name in ("a", "b"))
    first, second = uid_of(a), uid_of(b)
    assert first != second and FIRST <= first <= LAST and FIRST <= second <= LAST
    o = daemon.sandbox("a")
    assert o["uids"] == o["gids"] == [first] * 4 and o["groups"] == [] and lacks_here(o) == []
    assert int(o["cap-permitted"], 16) == 0
    until(lambda: daemon.kept("a").get("uid") == first)
    assert os.stat(f"/proc/{a}/environ").st_uid == 0  # undumpable
    daemon.cairn("destroy", "a")
    daemon.cairn("start", "a")
    assert uid_of(daemon.info("a")["pid"]) == first


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_user_id_outlives_daemon_and_process(daemon, guest, tmp_path, sig):
    """A restarted daemon and a process that takes the VM over keep it; a clone has another one."""
    uid = uid_of(start(daemon, guest, "a", disks=[qcow2(tmp_path / "a.qcow2", "16M")]))
    console = console_of(daemon, "a")
    for command in ("open 0", "write 0 4096 1", "flush", "fill 0x1000000 1048576 1"):
        console.run(command)
    until(lambda: daemon.kept("a").get("uid") == uid)
    daemon.stop(sig)
    daemon.start()
    pid = daemon.info("a")["pid"]
    daemon.cairn("restart-process", "a")
    assert daemon.info("a")["pid"] != pid and uid_of(daemon.info("a")["pid"]) == uid
    daemon.cairn("snapshot-create-as", "a", "s")
    daemon.cairn("clone", "--live", "a", "b")
    other = uid_of(daemon.info("b")["pid"])
    assert other != uid and FIRST <= other <= LAST
    clone = Console(daemon, "b")
    for c in (console, clone):
        c.run("write 8192 4096 2")
        c.run("verify 0 4096 1")
        c.run("check 0x1000000 1048576 1")
    daemon.cairn("snapshot-create-as", "b", "s")
    daemon.cairn("restart-process", "b")
    assert uid_of(daemon.info("b")["pid"]) == other
    clone.run("verify 8192 4096 2")
    daemon.cairn("snapshot-revert", "a", "s")
    console.run("check 0x1000000 1048576 1")
    clone.close()
    console.close()


def test_no_image_is_read_as_root(daemon, guest, tmp_path):
    """Neither a VM's process nor a process that works on the images of a VM that is off runs as root."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "image"), "1M"], check=True)
    with fuse(tmp_path / "fuse", image=(tmp_path / "image").read_bytes()) as f:
        define(daemon, guest, "a", disks=[{"path": f["image"], "format": "qcow2"}])
        daemon.cairn("snapshot-list", "a")
        offline = f.users("image", Op.READ)
        assert len(offline) == 1 and FIRST <= min(offline) <= LAST
        daemon.cairn("start", "a")
        assert f.users("image", Op.READ) == offline == {uid_of(daemon.info("a")["pid"])}
        daemon.cairn("destroy", "a")


def test_image_on_fuse_without_allow_other_is_refused_with_the_reason(daemon, guest, tmp_path):
    with fuse(tmp_path / "fuse", allow_other=False, disk=bytes(65536)) as f:
        define(daemon, guest, "a", disks=[{"path": f["disk"], "format": "raw"}])
        r = daemon.cairn("start", "a", ok=5)
        assert "vda: its file system refuses this process's user" in r.stderr and "option allow_other" in r.stderr


def test_ids_are_never_shared(ranged, guest):
    """No other VM and no process of the host has a VM's id. A start that finds no free id says so."""
    sleeper = subprocess.Popen(["sleep", "1000"], user=MINE + 1)
    try:
        d = ranged(f"{MINE}-{MINE + 2}")
        assert {uid_of(start(d, guest, name)) for name in ("a", "b")} == {MINE, MINE + 2}
        define(d, guest, "c")
        r = d.cairn("start", "c", ok=False)
        assert f"all user ids from {MINE} to {MINE + 2} are in use by other VMs or processes" in r.stderr
    finally:
        sleeper.kill()
        sleeper.wait()
    d.cairn("start", "c")
    assert uid_of(d.info("c")["pid"]) == MINE + 1


def test_ids_of_vms_that_are_off_are_lent(ranged, guest):
    d = ranged(f"{MINE}-{MINE}")
    start(d, guest, "a")
    d.cairn("destroy", "a")
    assert uid_of(start(d, guest, "b")) == MINE
    assert "in use" in d.cairn("start", "a", ok=False).stderr


def test_without_range_processes_run_as_root(ranged, guest):
    d = ranged("none")
    assert uid_of(start(d, guest, "a")) == 0
    assert lacks_here(d.sandbox("a")) == ["own user id: cairnd runs with --uid-range none"]


def test_vm_that_runs_as_root_gets_an_id_with_its_next_process(ranged, guest):
    """An older version of Cairn started the VM."""
    d = ranged("none")
    assert uid_of(start(d, guest, "a")) == 0
    console = console_of(d, "a")
    console.run("fill 0x1000000 1048576 1")
    d.stop()
    d.uids = f"{MINE}-{MINE + 9}"
    d.start()
    assert lacks_here(d.sandbox("a")) == ["own user id: an older version of Cairn started the process"]
    d.cairn("restart-process", "a")
    assert MINE <= uid_of(d.info("a")["pid"]) <= MINE + 9
    console.run("check 0x1000000 1048576 1")
    console.close()


@pytest.mark.parametrize("right", ["setuid", "setgid", "kill"])
def test_lacking_right_is_said(ranged, guest, right):
    """Without CAP_KILL the daemon could not end processes of other users."""
    d = ranged(f"{MINE}-{MINE + 9}", "setpriv", "--bounding-set", f"-{right}", "--")
    assert ids(start(d, guest, "a"), "Uid") == [0] * 4
    assert lacks_here(d.sandbox("a")) == ["own user id: Operation not permitted"]
    assert said_to_lack(d.log.read_text()) == ["own user id (Operation not permitted)"]


@pytest.mark.parametrize("uids", ["", "0-5", "5", "7-6", "1-4294967295", "-1-5", "1-5x", "1--5"])
def test_wrong_range_is_refused(uids):
    r = subprocess.run([os.path.join(BUILD, "cairnd"), "--uid-range", uids], capture_output=True, text=True, timeout=60)
    assert r.returncode == 2 and f'--uid-range takes two user ids such as 2000200001-2147352575, or none, not "{uids}"' in r.stderr
