"""A VM process keeps only the privileges that it needs. Read from /proc for every thread."""

import contextlib
import errno
import json
import os
import pty
import signal
import socket
import subprocess
import termios

import pytest

import guestlib
from conftest import BUILD, Daemon, inject_call, open_files, until
from plainlib import NOBODY, plain_folder, qcow2
from test_spawn import REFUSED, steal

pytestmark = pytest.mark.usefixtures("kvm")


def statuses(pid):
    """Return the status of every thread. The kernel's own helper threads come and go."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{tid}/status") as f:
            found.append(dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line))
    return found


def assert_confined(pid):
    for s in statuses(pid):
        if s["Name"].startswith("iou-"):
            continue  # the kernel's own helpers of io_uring
        assert s["Seccomp"] == "2", s["Name"]
        assert s["NoNewPrivs"] == "1", s["Name"]
        for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(s[caps], 16) == 0, (s["Name"], caps)


def test_every_thread_is_confined(sandbox, tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with guestlib.interp(disks=[{"path": str(disk), "format": "raw"}], vcpus=2, rng=True,
                         console={"virtio": True}) as g:
        pid = g.vm_pid()
        ours = {"cairn-vm", "vcpu0", "vcpu1", "vda"}
        while not ours <= {s["Name"] for s in statuses(pid)}:
            pass  # a thread sets its name when it first runs
        assert_confined(pid)
        assert g.command("echo alive") == ["alive"]


def test_vm_process_has_no_foreign_fds(tmp_path):
    """No open folder, and no file of the host except those it was given."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with guestlib.interp(disks=[{"path": str(disk), "format": "raw"}]) as g:
        pid = g.vm_pid()
        targets = open_files(pid)
        assert str(disk) in targets
        for target in targets:
            assert not os.path.isdir(target), target
            if target.startswith("/") and not target.startswith(("/dev/", "/memfd:")):
                assert target in (str(disk), guestlib.bare("interp"), g.log_path), target


# Ways out of the process: number, arguments, or the errno (negative) with which a call fails instead of being deadly.
FORBIDDEN = {
    # files
    "open": [2, "=/etc/passwd", 0], "openat": [257, -100, "=/etc/passwd", 0], "openat2": [437, -100, "=/etc/passwd", 0, 24],
    "creat": [85, "=/tmp/x", 0o600], "open_by_handle_at": [304, 3, 0, 0], "name_to_handle_at": [303, -100, "=/", 0, 0, 0],
    "unlink": [87, "=/tmp/x"], "unlinkat": [263, -100, "=/tmp/x", 0], "rename": [82, "=/tmp/x", "=/tmp/y"],
    "mkdir": [83, "=/tmp/x", 0o700], "mknod": [133, "=/tmp/x", 0o20600, 0x101], "symlink": [88, "=/etc", "=/tmp/x"],
    "link": [86, "=/etc/passwd", "=/tmp/x"], "chmod": [90, "=/etc", 0o777], "chown": [92, "=/etc", 1, 1],
    "truncate": [76, "=/tmp/x", 0], "readlink": [89, "=/proc/self/exe", 0, 0], "chdir": [80, "=/"],
    "chroot": [161, "=/"], "pivot_root": [155, "=/", "=/"], "mount": [165, "=none", "=/mnt", "=tmpfs", 0, 0],
    "umount2": [166, "=/mnt", 2], "open_tree": [428, -100, "=/", 0], "fsopen": [430, "=tmpfs", 0],
    "inotify_init1": [294, 0], "fanotify_init": [300, 0, 0], "statx of a path": [332, -100, "=/etc/passwd", 0, 0x7ff, 0],
    # sockets
    "a socket": [41, 1, 1, 0], "a raw socket": [41, 2, 3, 1], "a pair of raw sockets": [53, 2, 3, 0, 0], "setsockopt": [54, 0, 1, 7, 0, 0], "connect": [42, 0, 0, 0],
    "bind": [49, 0, 0, 0], "listen": [50, 0, 1],
    # processes
    "fork": [57], "vfork": [58], "clone without a thread's flags": [56, 17, 0, 0, 0, 0], "execve": [59, "=/bin/sh", 0, 0],
    "execveat": [322, -100, "=/bin/sh", 0, 0, 0], "ptrace": [101, 16, 1, 0, 0], "process_vm_readv": [310, 1, 0, 0, 0, 0, 0],
    "process_vm_writev": [311, 1, 0, 0, 0, 0, 0], "pidfd_open": [434, 1, 0], "pidfd_getfd": [438, 3, 0, 0],
    "pidfd_send_signal": [424, 3, 9, 0, 0], "kill": [62, 1, 0], "tkill": [200, 1, 0], "kcmp": [312, 1, 1, 0, 0, 0],
    "a signal to somebody else": [234, 2, 2, 0], "rt_sigqueueinfo": [129, 1, 1, 0], "setpriority": [141, 0, 0, 0],
    "sched_setaffinity": [203, 0, 0, 0], "a real-time policy": [144, 0, 1, 0], "somebody else's policy": [144, 1, 3, 0], "somebody else's slice": [314, 1, 0, 0], "prlimit64 of somebody else": [302, 1, 7, 0, 0],
    # memory that can be executed
    "mmap": [9, 0, 4096, 5, 0x22, -1, 0], "mprotect": [10, 0, 4096, 5], "pkey_mprotect": [329, 0, 4096, 5, 0],
    "personality": [135, 0x400000],
    # privileges
    "setuid": [105, 1], "setresuid": [117, 1, 1, 1], "setgroups": [116, 0, 0], "unshare": [272, 0x10000000],
    "setns": [308, 0, 0], "dumpable": [157, 4, 1, 0, 0, 0], "the handler of forbidden calls": [13, 31, 0, 0, 8], "keyctl": [250, 0, 0, 0, 0, 0], "add_key": [248, 0, 0, 0, 0, 0],
    # the kernel
    "bpf": [321, 0, 0, 0], "perf_event_open": [298, 0, 0, 0, 0, 0], "userfaultfd": [323, 0], "init_module": [175, 0, 0, 0],
    "kexec_load": [246, 0, 0, 0, 0], "reboot": [169, 0, 0, 0, 0], "iopl": [172, 3], "ioperm": [173, 0, 1, 1],
    "shmget": [29, 0, 4096, 0], "mq_open": [240, "=/x", 0, 0, 0], "splice": [275, 0, 0, 1, 0, 1, 0], "vmsplice": [278, 0, 0, 0, 0],
    # of open files
    "a file's signals to somebody else": [72, 0, 8, 1],  # F_SETOWN
    "which signal a file sends": [72, 0, 10, 9],  # F_SETSIG
    "typing at the terminal": [16, 0, 0x5412, 0],  # TIOCSTI
    "a terminal's line discipline": [16, 0, 0x5423, 0],  # TIOCSETD
    "a tap's owner": [16, 0, 0x400454cc, 0],  # TUNSETOWNER
    "immutable files": [16, 0, 0x40086602, 0],  # FS_IOC_SETFLAGS
}
# Permitted only while the VM is built.
FORBIDDEN_LATER = {"memfd_create": [319, "=x", 0], "io_uring_setup": [425, 8, 0], "capset": [126, 0, 0], "a filter for all threads": [317, 1, 1, 0], "a filter that another process answers": [317, 1, 8, 0],
                   "signalfd4": [289, -1, 0, 8, 0], "rt_sigaction": [13, 10, 0, 0, 8], "socketpair": [53, 1, 1, 0, 0], "prlimit64": [302, 0, 7, 0, 0],
                   "the terminal": [16, 0, 0x5402, 0]}  # TCSETS
SYSINFO = 99

# Calls that the main thread may make, and those of each other kind of thread may not. None has an open file.
ACCEPT, SENDMSG, RECVMSG, PREAD, FCNTL = [288, -1, 0, 0, 0], [46, -1, 0, 0], [47, -1, 0, 0], [17, -1, 0, 0, 0], [72, -1, 1]
RUN_OTHER, NEW_VM = [16, -1, 0xae80, 0], [16, -1, 0xae01, 0]  # KVM_RUN, KVM_CREATE_VM
FORBIDDEN_IN_THREAD = [("vcpu1", ACCEPT), ("vcpu1", RECVMSG), ("vcpu1", PREAD), ("vcpu1", FCNTL), ("vcpu1", RUN_OTHER),
                       ("vcpu1", NEW_VM), ("vda", ACCEPT), ("vda", SENDMSG), ("vda", RUN_OTHER), ("net0", ACCEPT),
                       ("net0", PREAD), ("net0", RUN_OTHER), ("tracker", ACCEPT), ("tracker", SENDMSG), ("tracker", RUN_OTHER),
                       ("worker", ACCEPT)]


def confined(pid):
    """Return whether the process has its filter, besides those of a container, which this process has as well."""
    ours, theirs = (int(statuses(p)[0]["Seccomp_filters"]) for p in (os.getpid(), pid))
    return theirs == ours + 1


class Unconfigured:
    """A VM's process that waits for its configuration, and has read nothing from outside."""

    def __init__(self):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([os.path.join(BUILD, "cairn-vm"), "--channel", str(theirs.fileno())],
                                            pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        until(lambda: confined(self.process.pid))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ours.close()
        self.process.kill()
        self.process.communicate()


def test_process_is_confined_before_it_reads_anything(sandbox):
    with Unconfigured() as p:
        s, = statuses(p.process.pid)
        assert s["NoNewPrivs"] == "1"
        # CAP_IPC_LOCK, until its rings exist, where root may not raise the limit of locked memory
        assert all(int(s[caps], 16) & ~(1 << 14) == 0 for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        with open(f"/proc/{p.process.pid}/limits") as f:
            limits = {line[:26].strip(): line[26:47].strip() for line in f}
        assert limits["Max core file size"] == "0" and int(limits["Max open files"]) <= 4096
        assert os.stat(f"/proc/{p.process.pid}/environ").st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_process_of_plain_user_is_confined_before_it_reads_anything(sandbox):
    """The user's other processes can neither read it nor take its fds."""
    with plain_folder() as folder:
        program = str(folder / "cairn-vm")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, subprocess.Popen([program, "--channel", str(theirs.fileno())], pass_fds=[theirs.fileno()], user=NOBODY,
                                            group=NOBODY, extra_groups=[], stderr=subprocess.PIPE) as p:
            until(lambda: confined(p.pid))
            assert int(statuses(p.pid)[0]["CapEff"], 16) == 0
            assert steal(p.pid) == REFUSED
            p.kill()


@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
def test_no_way_out_before_configuration(sandbox, call):
    with Unconfigured() as p:
        assert inject_call(p.process.pid, *call) is None
        assert p.process.wait() == -signal.SIGSYS


@pytest.mark.parametrize("call", [*FORBIDDEN.values(), *FORBIDDEN_LATER.values()], ids=[*FORBIDDEN, *FORBIDDEN_LATER])
def test_no_way_out_of_running_vm(sandbox, call):
    with guestlib.interp() as g:
        assert inject_call(g.vm_pid(), *call) is None
        assert g.wait() == -signal.SIGSYS


def test_calls_that_libc_makes_rarely_are_allowed(sandbox):
    """sysinfo(), by which qsort() of a list of 1 KiB learns the host's memory: a commit of many tables sorts one."""
    with Unconfigured() as p:
        assert inject_call(p.process.pid, SYSINFO, 0) == -errno.EFAULT
    with guestlib.interp() as g:
        assert inject_call(g.vm_pid(), SYSINFO, 0) == -errno.EFAULT


def test_run_at_terminal_and_agent_port_are_confined(sandbox, tmp_path):
    """The sandbox allows the calls that create these devices."""
    master, slave = pty.openpty()
    definition = guestlib.definition(guest="interp", guest_agent=True, console={"virtio": True}, rng=True)
    (tmp_path / "vm.json").write_text(json.dumps(definition))
    p = subprocess.Popen([guestlib.CAIRN, "run", str(tmp_path / "vm.json")], stdin=slave, stdout=slave, start_new_session=True)
    os.close(slave)
    output = b""
    while b"interp" not in output:
        output += os.read(master, 1000)
    assert not termios.tcgetattr(master)[3] & termios.ICANON
    p.kill()
    p.wait()
    os.close(master)


@pytest.mark.parametrize("call", [FORBIDDEN["fork"], FORBIDDEN["openat"]], ids=["fork", "openat"])
def test_forbidden_system_call_kills_only_that_vm(sandbox, daemon, guest, call):
    for name in ("a", "b"):
        daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")})
        daemon.cairn("start", name)
    assert inject_call(daemon.info("a")["pid"], *call) is None
    daemon.wait("a", "crashed")
    assert "VM 'a': crashed (killed)" in daemon.log.read_text()
    assert daemon.cairn("domstate", "b").stdout.strip() in ("running", "idle")


def test_calls_of_a_back_end_that_no_loop_has_are_forbidden(sandbox, daemon, guest):
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "a")
    pid = daemon.info("a")["pid"]
    kinds = {k for k in ("io_uring", "eventpoll") if any(k in target for target in open_files(pid))}
    calls = {"io_uring": [426, -1, 0, 0, 0, 0, 0], "eventpoll": [233, -1, 2, 0, 0]}  # io_uring_enter, epoll_ctl
    assert len(kinds) == 1
    assert inject_call(pid, *calls.pop(*kinds)) == -errno.EBADF
    assert inject_call(pid, *calls.popitem()[1]) is None
    daemon.wait("a", "crashed")


@pytest.fixture
def threads(daemon, guest, tmp_path):
    """Return the ids of the threads of a VM that has one of each kind, by name. Its snapshot made the tracker."""
    if os.geteuid():
        pytest.skip("only root may trace a process that is not dumpable")
    daemon.define("vm1", vcpus=2, boot={"kernel": guest("interp.elf")}, interfaces=[{"type": "user"}],
                  disks=[qcow2(tmp_path / "vda.qcow2", "64M")])
    daemon.cairn("start", "vm1")
    daemon.cairn("snapshot-create-as", "vm1", "one")
    pid = daemon.info("vm1")["pid"]
    until(lambda: {"vcpu1", "vda", "net0", "tracker", "worker"} <= filtered_threads(pid).keys())
    return {"cairn-vm": pid, **filtered_threads(pid)}


def filtered_threads(pid):
    """Return the ids of the threads that have installed a filter of their own, by name: the oldest one of each name,
    because a new thread has its creator's name and filter until it has set its own name."""
    main, *others = statuses(pid)
    assert int(main["Pid"]) == pid
    filtered = [s for s in others if int(s["Seccomp_filters"]) > int(main["Seccomp_filters"])]
    return {s["Name"]: int(s["Pid"]) for s in reversed(filtered)}


def test_threads_that_work_creates_are_confined(sandbox, threads):
    assert {"tracker", "worker"} <= {s["Name"] for s in statuses(threads["cairn-vm"])}
    assert_confined(threads["cairn-vm"])


@pytest.mark.parametrize("name,call", FORBIDDEN_IN_THREAD)
def test_threads_have_filters_of_their_own(sandbox, daemon, threads, name, call):
    assert inject_call(threads["cairn-vm"], *call) == -errno.EBADF
    assert inject_call(threads[name], *call) is None
    daemon.wait("vm1", "crashed")
    assert "VM 'vm1': crashed (killed)" in daemon.log.read_text()


def test_violation_of_thread_that_calls_files_is_reported(sandbox, guest, tmp_path):
    """A loop on epoll creates such threads with all other signals blocked. The VM is the init of a pid namespace."""
    with contextlib.closing(Daemon(tmp_path, env={"CAIRN_LOOP": "epoll"})) as d:
        d.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[qcow2(tmp_path / "vda.qcow2", "64M")])
        d.cairn("start", "vm1")
        d.cairn("snapshot-create-as", "vm1", "one")
        pid = d.info("vm1")["pid"]
        until(lambda: "loop-io" in filtered_threads(pid))
        assert inject_call(filtered_threads(pid)["loop-io"], *ACCEPT) is None
        d.wait("vm1", "crashed")
        assert f"its thread 'loop-io' made a forbidden system call: {ACCEPT[0]}" in d.log.read_text()
        d.cairn("start", "vm1")
        d.cairn("snapshot-create-as", "vm1", "two")
        pid = d.info("vm1")["pid"]
        until(lambda: "loop-io" in filtered_threads(pid))
        said = crash(pid, filtered_threads(pid)["loop-io"])
        d.wait("vm1", "crashed")
        assert f"its thread 'loop-io' {said}" in d.log.read_text()


def crash(pid, tid):
    """Let a thread execute the program's first page, which is no code. Returns what the process says of it."""
    with open(f"/proc/{pid}/maps") as f:
        base = int(next(line for line in f if line.endswith("/cairn-vm\n")).split("-")[0], 16)
    inject_call(tid, "jump", base + 0x10)
    return f"was killed by signal {signal.SIGSEGV.value} ({signal.strsignal(signal.SIGSEGV)}) at cairn-vm+0x10"


@pytest.mark.parametrize("name", ["cairn-vm", "vcpu1", "vda", "net0", "tracker", "worker"])
def test_process_that_crashes_says_where(sandbox, daemon, threads, name):
    said = f"its thread '{name}' {crash(threads['cairn-vm'], threads[name])}"
    daemon.wait("vm1", "crashed")
    o = daemon.info("vm1")
    assert (o["reason"], o["detail"]) == ("killed", said)
    assert f"VM 'vm1': crashed (killed): {said}\n" in daemon.log.read_text()


def test_run_that_crashes_says_where(sandbox):
    with guestlib.interp() as g:
        said = crash(g.vm_pid(), g.vm_pid())
        assert g.wait() == -signal.SIGSEGV
        assert f"its thread 'cairn-vm' {said}\n" in g.log()


def test_run_that_aborts_says_so(sandbox):
    """A run says so, too, if another process sends the signal."""
    with guestlib.interp() as g:
        os.kill(g.vm_pid(), signal.SIGABRT)
        assert g.wait() == -signal.SIGABRT
        assert f"its thread 'cairn-vm' was killed by signal 6 ({signal.strsignal(signal.SIGABRT)})\n" in g.log()
