"""A VM's process that its guest has taken over tries to leave. Each attempt fails, costs at most this VM, and
the daemon says which call of which thread it was."""

import contextlib
import errno
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

import guestlib
from conftest import Console, Daemon, open_files, until
from plainlib import PlainDaemon, plain_folder, qcow2
from test_sandbox import FORBIDDEN, FORBIDDEN_IN_THREAD, FORBIDDEN_LATER
from traitorlib import CONTROL_FD, DISK, MAIN, NET, NEW_THREADS, OTHER_MODE, PROGRAM, RING, TRACKER, VCPU, WORKER, Traitor

pytestmark = pytest.mark.usefixtures("kvm", "sandbox")

NAMES = {MAIN: "cairn-vm", VCPU: "vcpu0", DISK: "vda", NET: "net0", TRACKER: "tracker", WORKER: "worker"}
CLONE, IOCTL, SENDTO, SENDMSG, POLL, SIGPROCMASK, TGKILL = 56, 16, 44, 46, 7, 14, 234


class Victims:
    """A daemon, its VM "honest", and its VM "a", whose process obeys a Traitor."""

    def __init__(self, daemon, traitor, guest):
        self.daemon, self.traitor = daemon, traitor
        self.kernel = guest("interp.elf")
        daemon.define("honest", debug_exit=True, boot={"kernel": self.kernel})
        daemon.cairn("start", "honest")
        self.pid = daemon.info("honest")["pid"]
        self.console = Console(daemon, "honest")
        until(lambda: self.console.line() == "interp")
        self.q = daemon.qmp()
        self.deaths = 0
        self.kick = None

    def define(self, **keys):
        self.daemon.define("a", debug_exit=True, boot={"kernel": self.kernel}, **keys)

    def start(self, thread):
        self.traitor.arm(thread)
        self.q.run("vm-start", vm="a")
        assert self.traitor.taken()

    def wake(self):
        """Let the worker or the tracker begin: the VM's first work makes them."""
        # The snapshot may be complete before the thread obeys, so each has its own name.
        self.q.run("snapshot-create", vm="a", name=f"s{self.deaths}")

    def order(self, thread, *calls, awake=False, **more):
        """Order the calls, and let the thread do something. awake: wake() was called."""
        if thread == VCPU:
            self.q.run("vm-console", vm="a")
            self.kick = Console(self.daemon, "a", self.q.fds.pop())
            until(lambda: self.kick.line() == "interp")
        self.traitor.order(*calls, **more)
        if thread in (TRACKER, WORKER) and not awake:
            self.wake()
        elif thread == VCPU:
            self.kick.sock.sendall(b"echo x\n")

    def ends(self, may_go_on=False):
        """Return why the process of "a" ended. may_go_on: it may have completed its orders before."""
        until(lambda: (self.traitor.done() and not may_go_on) or self.q.run("vm-info", vm="a")["state"] == "crashed")
        assert may_go_on or not self.traitor.done(), self.traitor.results(1)
        e = self.q.event("VM_STATE_CHANGE", vm="a", state="crashed")["data"]
        if self.kick:
            self.kick.close()
        self.deaths += 1
        return e["reason"], e["detail"]

    def dies_of(self, thread, call):
        """A thread of a running VM makes a forbidden call: the VM dies, and the daemon says why."""
        self.start(thread)
        self.order(thread, call)
        said = f"its thread '{NAMES[thread]}' made a forbidden system call: {call[0]}"
        if call[0] == IOCTL:
            said += f" (ioctl {call[2]:#x})"
        assert self.ends() == ("killed", said), call
        assert f"VM 'a': crashed (killed): {said}\n" in self.daemon.log.read_text()
        return said

    def check(self):
        """The others have noticed nothing."""
        assert self.console.run("echo alive") == ["alive"]
        assert self.daemon.info("honest")["pid"] == self.pid
        assert self.daemon.log.read_text().count(": crashed (") == self.deaths


@contextlib.contextmanager
def victims(tmp_path, guest, make=Daemon, copies=False):
    """copies: the daemon's user reaches neither the build folder nor files of this one."""
    (shutil.copy if copies else os.symlink)(PROGRAM, tmp_path / "cairn-vm")
    with Traitor(tmp_path / "orders") as t:
        os.chmod(t.path, 0o666)
        with contextlib.closing(make(tmp_path, str(tmp_path / "cairn-vm"), t.env)) as d:
            v = Victims(d, t, guest)
            yield v
            v.console.close()


@pytest.fixture
def taken(tmp_path, guest):
    with victims(tmp_path, guest) as v:
        yield v
        v.check()


# Attempts that each other kind of thread makes; a vCPU's thread makes all.
SOME = ["openat", "a socket", "connect", "fork", "execve", "ptrace", "process_vm_readv", "kill", "mmap", "mprotect", "setns",
        "bpf", "the handler of forbidden calls", "a tap's owner"]


def test_no_way_out_of_a_vcpu(taken):
    """A guest takes over a vCPU's thread first."""
    taken.define()
    for call in {**FORBIDDEN, **FORBIDDEN_LATER}.values():
        taken.dies_of(VCPU, call)


@pytest.mark.parametrize("thread,keys", [
    (MAIN, {}), (DISK, {"disks": 1}), (WORKER, {"disks": 1}), (TRACKER, {"disks": 1}), (NET, {"interfaces": [{"type": "user"}]}),
], ids=["main", "disk", "worker", "tracker", "net"])
def test_no_way_out_of_a_thread(taken, tmp_path, thread, keys):
    if "disks" in keys:
        keys = {"disks": [qcow2(tmp_path / "vda.qcow2", "64M")]}
    if thread == TRACKER and not guestlib.has_userfaultfd():
        pytest.skip("VMs of this user get no userfaultfd, so they have no such thread")
    taken.define(**keys)
    for name in SOME:
        taken.dies_of(thread, FORBIDDEN[name])
    for name, call in FORBIDDEN_IN_THREAD:
        if name == NAMES[thread]:
            taken.dies_of(thread, call)


def test_calls_of_another_processor_mode_kill_the_whole_process(taken, tmp_path):
    """int 0x80, of which the numbers mean other calls, and x32. The kernel ends the process without a report of its
    own. (A kernel without the first one raises SIGSEGV.)"""
    taken.define(disks=[qcow2(tmp_path / "vda.qcow2", "64M")])
    for thread, call, act in ((MAIN, [20], OTHER_MODE), (VCPU, [3, -1, 0, 0], OTHER_MODE), (WORKER, [20], OTHER_MODE),
                              (MAIN, [0x40000000 | 39], 0)):
        taken.start(thread)
        taken.order(thread, call, act=act)
        reason, detail = taken.ends()
        assert reason == "killed" and any(f"signal {s} " in detail for s in (signal.SIGSYS, signal.SIGSEGV)), detail


def files_of(pid):
    """Return the open files of a process: fd, device and inode."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            st = os.stat(f"/proc/{pid}/fd/{fd}")
            found.append((int(fd), (st.st_dev, st.st_ino)))
    return found


def fd_of(pid, path):
    st = os.stat(path)
    return next(fd for fd, file in files_of(pid) if file == (st.st_dev, st.st_ino))


THREAD = 0x50f00  # the flags of a thread
# Calls that are allowed and must fail: number, arguments, errno.
FAILING = {
    "a thread in a new user namespace": ([CLONE, THREAD | 0x10000000], errno.EINVAL),
    "a thread in a new pid namespace": ([CLONE, THREAD | 0x20000000], errno.EINVAL),
    "a thread in a new network namespace": ([CLONE, THREAD | 0x40000000], errno.EPERM),
    "a thread with a host name of its own": ([CLONE, THREAD | 0x04000000], errno.EPERM),
    "a thread in a new cgroup namespace": ([CLONE, THREAD | 0x02000000], errno.EPERM),
    "a process by clone3": ([435, bytes(88), 88], errno.ENOSYS),
    "a filter that lets a call through": ([317, 1, 0, 0], errno.EFAULT),
}


def test_calls_that_are_allowed_and_fail(taken):
    taken.define()
    taken.start(MAIN)
    assert taken.traitor.make(*(call for call, _ in FAILING.values())) == [-e for _, e in FAILING.values()]
    assert taken.daemon.info("a")["state"] == "running"


@pytest.mark.skipif(os.geteuid() != 0, reason="VMs of a plain user's daemon have no pid namespace of their own")
def test_process_names_no_other(taken):
    """It is alone in its pid namespace: to the calls that it may make, its own number is 1, and that of another VM's
    process, or of one of the host, is nobody's."""
    taken.define()
    taken.start(MAIN)
    others = (taken.pid, taken.daemon.proc.pid, os.getpid(), os.getppid())
    assert taken.traitor.make([39], *([234, 1, pid, 0] for pid in others)) == [1, *[-errno.ESRCH] * len(others)]
    assert taken.daemon.info("a")["state"] == "running"


def tids_of(pid, name):
    """Return the ids of the process's threads of this name, in its own pid namespace."""
    tasks = []
    for t in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the kernel's own helper threads come and go
            tasks.append(Path(f"/proc/{pid}/task/{t}/status").read_text().splitlines())
    return [int(line.split()[-1]) for lines in tasks if lines[0].split()[1] == name
            for line in lines if line.startswith("NSpid:")]


@pytest.mark.skipif(os.geteuid() != 0, reason="VMs of a plain user's daemon have no pid namespace of their own")
@pytest.mark.parametrize("thread", [MAIN, VCPU, DISK, WORKER, NET], ids=["main", "vcpu", "disk", "worker", "net"])
def test_abort_of_each_thread_ends_the_process(taken, tmp_path, thread):
    """Its handler runs in the thread that calls abort(), whose own filter has to allow what the handler does."""
    taken.define(disks=[qcow2(tmp_path / "vda.qcow2", "64M")], interfaces=[{"type": "user"}])
    taken.start(thread)
    pid = taken.daemon.info("a")["pid"]
    if thread == WORKER:
        taken.wake()
    until(lambda: tids_of(pid, NAMES[thread]))
    # A thread that has not set its name yet has that of the main one, which is the first.
    tid = min(tids_of(pid, NAMES[thread]))
    taken.order(thread, [SIGPROCMASK, signal.SIG_UNBLOCK, struct.pack("<Q", 1 << signal.SIGABRT - 1), 0, 8],
                [TGKILL, 1, tid, signal.SIGABRT], awake=True)
    assert taken.ends() == ("killed", "its process was killed by signal 6 (Aborted)")


def credentials(data, pid, uid):
    """Return the struct msghdr of a message with the credentials of somebody else."""
    control = struct.pack("<QiiIII4x", 28, 1, 2, pid, uid, uid)
    iov = struct.pack("<QQ", data(b"x"), 1)
    return struct.pack("<QQQQQQQ", 0, 0, data(iov), 1, data(control), len(control), 0)


def test_process_cannot_claim_to_be_another(taken):
    """The daemon learns from the credentials of a message which process has sent it."""
    taken.define()
    taken.start(MAIN)
    t = taken.traitor
    for pid, uid in ((1, 0), (taken.pid, 0), (taken.daemon.proc.pid, os.geteuid())):
        t.used = 0
        header = credentials(t.data, pid, uid)
        refused = {-errno.EPERM} if uid == os.geteuid() else {-errno.EPERM, -errno.EINVAL}  # a user namespace lacks others
        assert set(t.make([SENDMSG, CONTROL_FD, header, 0x4040], keep=True)) <= refused


@pytest.mark.skipif("os.environ.get('CAIRN_LOOP') == 'epoll'", reason="the loops are on epoll")
def test_ring_does_nothing_but_read_write_and_poll(taken):
    """Operations of a ring are no system calls."""
    taken.define()
    taken.start(MAIN)
    if not any("io_uring" in target for target in open_files(taken.daemon.info("a")["pid"])):
        pytest.skip("the host refuses io_uring")
    t = taken.traitor
    t.order(act=RING)
    until(t.done)
    results = t.results(256)
    assert t.counts(256) == [1] * 256
    allowed = {0, 1, 2, 3, 6, 7, 17, 22, 23}  # nop, readv, writev, fsync, poll, fallocate, read, write
    assert results[0] == 0
    assert {op for op, r in enumerate(results) if r not in (-errno.EACCES, -errno.EINVAL)} <= allowed
    assert results[18] == results[28] == results[16] == -errno.EACCES  # openat, openat2, connect


def test_files_cannot_be_written_that_are_open_for_reading(taken, tmp_path):
    """A clone's process has its source's image and memory open; that of an isolated clone has neither."""
    d, t = taken.daemon, taken.traitor
    image = tmp_path / "vda.qcow2"
    d.define("source", debug_exit=True, boot={"kernel": taken.kernel}, disks=[qcow2(image, "16M")])
    d.cairn("start", "source")
    t.arm(MAIN)
    d.cairn("clone", "--live", "source", "a")
    assert t.taken()
    pid = d.info("a")["pid"]
    shared = {f for _, f in files_of(d.info("source")["pid"])} & {f for _, f in files_of(pid)}
    for path, size in ((image, None), (taken.kernel, None)):
        fd, before = fd_of(pid, path), os.stat(path)
        shared.discard((before.st_dev, before.st_ino))
        assert t.make([18, fd, b"x", 1, 0], [77, fd, 0], [285, fd, 0, 0, 4096], [9, 0, 4096, 3, 1, fd, 0], [72, fd, 4, 2],
                      [18, fd, b"x", 1, 0], [IOCTL, fd, 0x40049409, fd]) == [
            -errno.EBADF, -errno.EINVAL, -errno.EBADF, -errno.EACCES, 0, -errno.EBADF, -errno.EBADF]
        assert os.stat(path).st_mtime_ns == before.st_mtime_ns or path == image
    d.cairn("clone", "--live", "--isolated", "source", "b")
    st = os.stat(image)
    assert (st.st_dev, st.st_ino) not in {f for _, f in files_of(d.info("b")["pid"])}


class PlainTraitors(PlainDaemon):
    def __init__(self, folder, vm_program, env):
        self.orders = env
        super().__init__(folder, folder / "permitted")

    def start(self):
        self.env.update(self.orders)
        super().start()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_no_way_out_of_a_plain_users_vm(guest):
    """Its process has no user id of its own."""
    with plain_folder() as folder:
        os.remove(folder / "cairn-vm")
        with victims(folder, guest, PlainTraitors, copies=True) as v:
            v.define()
            for name in SOME:
                v.dies_of(VCPU, FORBIDDEN[name])
            v.check()


# ---- exhaustion ----

def test_fds_run_out_in_that_process_only(taken):
    taken.define()
    taken.start(MAIN)
    assert taken.traitor.make([290, 0, 0], repeat=100000) == [-errno.EMFILE]
    assert 3000 < taken.traitor.counts(1)[0] < 4096
    assert taken.daemon.figures("a")["state"] == "running"


MOST = 4 << 20  # bytes of a VM's log file; one older file stays


def logged(d, name):
    """Return the sizes of a VM's log and of the older file."""
    sizes = sizes_of(d.state / "vms" / name)
    return [sizes.get(d.state / "vms" / name / f, 0) for f in ("log", "log.1")]


def sizes_of(folder):
    """Return the sizes of all files below a folder. The daemon and cairn-log rename and remove some meanwhile."""
    sizes = {}
    for f in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if f.is_file():
                sizes[f] = f.stat().st_size
    return sizes


def test_log_without_end_takes_bounded_space(taken):
    """The process writes some 200 MB. cairn-log takes a few of them, and says so; the others do not notice."""
    d = taken.daemon
    taken.define()
    taken.start(MAIN)
    line = b"\x1b]0;x\x07" + b"y" * 4087 + b"\n"

    def kept():
        return "".join((d.state / "vms" / "a" / f).read_text() for f in ("log.1", "log") if (d.state / "vms" / "a" / f).exists())

    def is_held_back():
        assert taken.traitor.make([1, 2, line, len(line)], repeat=5000) in ([-errno.EAGAIN], [len(line)])
        d.log_of("a")
        return "warning a: the process writes more than 64 KiB of lines in a second: further ones are lost\n" in kept()

    until(is_held_back)
    taken.traitor.make([1, 2, line, len(line)], repeat=50000)
    d.log_of("a")
    sizes, text = logged(d, "a"), kept()
    assert 0 < sizes[0] <= MOST and 0 < sizes[1] <= MOST, sizes
    assert "?]0;x?yyy" in text and not set(text) & set("\x1b\x07")
    d.cairn("suspend", "honest")
    assert "info honest: paused (user)\n" in d.log_of("honest")
    d.cairn("resume", "honest")
    d.cairn("destroy", "a")
    d.cairn("undefine", "a")
    assert not os.path.exists(d.state / "vms" / "a")


WRITE, FTRUNCATE, FALLOCATE, PWRITE = 1, 77, 285, 18


def test_no_file_of_the_daemon_grows(taken, tmp_path):
    """The process makes each file that it holds as large as it can: none is the daemon's."""
    d = taken.daemon
    taken.define(disks=[qcow2(tmp_path / "disk.qcow2", "1M")])
    taken.start(MAIN)
    before = sizes_of(d.state)
    fds = [fd for fd, _ in files_of(d.info("a")["pid"])]
    calls = [call for fd in fds for call in ([FTRUNCATE, fd, 1 << 30], [FALLOCATE, fd, 0, 0, 1 << 28], [PWRITE, fd, b"x", 1, 1 << 29])]
    taken.traitor.make(*calls)
    d.log_of("a")
    grown = [f for f, size in sizes_of(d.state).items() if size > before.get(f, 0) + (64 << 10)]
    assert grown == []
    d.cairn("destroy", "a")  # the daemon keeps what the process has written of its list of memory blocks
    assert not os.path.exists(d.state / "vms" / "a" / "touched") or os.stat(d.state / "vms" / "a" / "touched").st_size < 262288


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_disks_without_snapshots_cannot_fill_the_host(taken, tmp_path, format):
    """No file of a VM whose disks are raw grows beyond twice its RAM or largest disk, and 1 GiB. A qcow2 image grows
    with each snapshot, so a VM that has one has no limit."""
    path = tmp_path / f"disk.{format}"
    subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "1M"], check=True)
    size = os.stat(path).st_size
    taken.define(disks=[{"path": str(path), "format": format}])
    taken.start(MAIN)
    fd, far = fd_of(taken.daemon.info("a")["pid"], path), 1 << 40
    calls = [FTRUNCATE, fd, far + 1], [FALLOCATE, fd, 0, far, 4096], [PWRITE, fd, b"x", 1, far]
    if format == "raw":
        assert taken.traitor.make(*calls) == [-errno.EFBIG] * 3
        assert os.stat(path).st_size == size
    else:
        assert taken.traitor.make(calls[0]) == [0]
    assert taken.daemon.figures("a")["state"] == "running"


class SmallFiles(Daemon):
    """A daemon with a limit of file sizes, as `LimitFSIZE=` of its unit makes it."""

    def command(self):
        return ["prlimit", "--fsize=1073741824", *super().command()]


def test_file_size_that_the_operator_gives_holds_for_qcow2(tmp_path, guest):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    with victims(tmp_path, guest, make=SmallFiles) as v:
        v.define(disks=[{"path": str(path), "format": "qcow2"}])
        v.start(MAIN)
        fd, far = fd_of(v.daemon.info("a")["pid"], path), 1 << 30
        calls = [FTRUNCATE, fd, far + 1], [FALLOCATE, fd, 0, far, 4096], [PWRITE, fd, b"x", 1, far]
        assert v.traitor.make(*calls) == [-errno.EFBIG] * 3
        assert v.daemon.figures("a")["state"] == "running"
        v.check()


class Limited(Daemon):
    """A daemon with a limit of processes, which binds its VMs and not root. Cairn's own is 16384."""

    def command(self):
        return ["prlimit", "--nproc=100", *super().command()]


@pytest.mark.skipif(os.geteuid() != 0, reason="VMs of a plain user's daemon have no user id, and no limit, of their own")
def test_threads_run_out_in_that_process_only(tmp_path, guest):
    with victims(tmp_path, guest, Limited) as v:
        v.define()
        v.start(MAIN)
        assert v.traitor.make([0], act=NEW_THREADS, rounds=1000) == [-errno.EAGAIN]
        assert 0 < v.traitor.counts(1)[0] < 100
        assert v.daemon.figures("a")["state"] == "running"
        v.daemon.cairn("destroy", "a")
        v.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="VMs of a plain user's daemon have no user id, and no limit, of their own")
def test_each_vm_has_a_limit_of_threads(taken):
    with open(f"/proc/{taken.pid}/limits") as f:
        assert [line.split()[2:4] for line in f if line.startswith("Max processes")] == [["16384", "16384"]]
