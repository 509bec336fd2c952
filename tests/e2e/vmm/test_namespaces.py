"""The processes of root's daemon leave the host's file systems, network, IPC objects and host name before they read
anything."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from conftest import Console, Daemon, has_cgroups, lacks_here, open_files, said_to_lack, until
from plainlib import NOBODY, PlainDaemon, plain_folder, qcow2

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a plain user may make no namespaces")]

SHARED, OWN, KEPT = ("mnt", "net"), ("ipc", "uts", "pid"), ("user", "cgroup")


def spaces(pid):
    return {n: os.readlink(f"/proc/{pid}/ns/{n}") for n in (*SHARED, *OWN, *KEPT)}


def assert_caged(pid, user=False, pids=True):
    """The process sees one file system, which is empty and read-only, and a loopback device that is down. user: it is
    in a user namespace, too; pids: in a pid namespace."""
    with open(f"/proc/{pid}/mountinfo") as f:
        (mount,) = f.readlines()
    root, options, kind = mount.split()[4], mount.split()[5], mount.split(" - ")[1].split()
    assert root == "/" and {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(",")) and kind[0] == "tmpfs", mount
    assert os.listdir(f"/proc/{pid}/root/") == [] and os.readlink(f"/proc/{pid}/cwd") == "/"
    with open(f"/proc/{pid}/net/dev") as f:
        assert [line.split(":")[0].strip() for line in f.readlines()[2:]] == ["lo"]
    with open(f"/proc/{pid}/net/if_inet6") as f:
        assert f.read() == ""  # lo has an address once it is up
    ours, its = spaces("self"), spaces(pid)
    assert {n for n in ours if ours[n] != its[n]} == {*SHARED, "ipc", "uts"} | {n for n, own in (("user", user), ("pid", pids)) if own}
    assert not [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.path.isdir(f"/proc/{pid}/fd/{fd}")]
    assert not [t for t in open_files(pid) if t.startswith(("mnt:", "net:", "user:"))]


def start(daemon, guest, name, **keys):
    daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, **keys)
    daemon.cairn("start", name)
    return daemon.info(name)["pid"]


def test_processes_have_an_empty_root_and_no_interfaces(daemon, guest):
    a, b = (start(daemon, guest, name) for name in ("a", "b"))
    assert_caged(a)
    assert_caged(b)
    first, second = spaces(a), spaces(b)
    assert {n for n in first if first[n] == second[n]} == {*SHARED, *KEPT}
    assert lacks_here(daemon.sandbox("a")) == []
    assert said_to_lack(daemon.log.read_text()) == []


def test_process_is_alone_in_its_pid_namespace(daemon, guest):
    """A process in it sees the VM's process as the first one, and can name no other, such as that of another VM."""
    a, b = (start(daemon, guest, name) for name in ("a", "b"))
    with open(f"/proc/{a}/status") as f:
        assert next(line.split()[1:] for line in f if line.startswith("NSpid:")) == [str(a), "1"]
    inside = subprocess.run(["nsenter", "--pid", "--target", str(a), "unshare", "--mount", "sh", "-c",
                             f"mount -t proc proc /proc; for p in {a} {b} {daemon.proc.pid}; do kill -0 $p; done; "
                             "grep -s . /proc/[0-9]*/comm"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert [line.split(":")[1] for line in inside.stdout.splitlines()][:1] == ["cairn-vm"]
    assert {line.split(":")[1] for line in inside.stdout.splitlines()} <= {"cairn-vm", "sh", "grep"}
    assert inside.stderr.count("No such process") == 3, inside.stderr


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_signal_from_outside_ends_the_process(daemon, guest, sig):
    """Although the first process of a pid namespace may ignore signals; the daemon says which it was."""
    os.kill(start(daemon, guest, "a"), sig)
    until(lambda: daemon.info("a")["state"] == "crashed")
    o = daemon.info("a")
    assert (o["reason"], o["detail"]) == ("killed", f"its process was killed by signal {sig.value} ({signal.strsignal(sig)})")


def test_restarted_process_and_clone_are_caged(daemon, guest, tmp_path):
    """A process that takes a VM over, and that of a live clone; the guest and its disk continue."""
    pid = start(daemon, guest, "a", disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    console = Console(daemon, "a")
    until(lambda: console.line() == "interp")
    for command in ("open 0", "write 0 4096 1", "flush", "fill 0x1000000 1048576 1"):
        console.run(command)
    daemon.cairn("restart-process", "a")
    assert (successor := daemon.info("a")["pid"]) != pid
    assert_caged(successor)
    daemon.cairn("clone", "--live", "a", "b")
    assert_caged(daemon.info("b")["pid"])
    clone = Console(daemon, "b")
    for c in (console, clone):
        c.run("verify 0 4096 1")
        c.run("check 0x1000000 1048576 1")
    clone.close()
    console.close()


def test_next_daemon_makes_its_own(daemon, guest):
    """VMs continue in the namespaces of a daemon that has ended."""
    old = start(daemon, guest, "a")
    daemon.stop()
    daemon.start()
    assert_caged(old)
    assert daemon.info("a")["pid"] == old
    assert_caged(start(daemon, guest, "b"))


class Without(Daemon):
    """A daemon whose host lacks something."""

    def __init__(self, tmp, *wrapper, options=()):
        self.wrapper, self.options = wrapper, options
        super().__init__(tmp)

    def command(self):
        return [*self.wrapper, *super().command(), *self.options]


# Answers landlock_create_ruleset() with EOPNOTSUPP, as a kernel does in which landlock is switched off.
NO_LANDLOCK = """
import ctypes, os, struct, sys
code = b"".join(struct.pack("HBBI", *x) for x in ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50000 | 95), (6, 0, 0, 0x7fff0000)))
buffer = ctypes.create_string_buffer(code)
assert ctypes.CDLL(None).prctl(22, 2, struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""
# A user namespace with the first $0 ids of the host: its root may do what root may, and its limits are its own.
IDS = """
(while [ /proc/$$/ns/user -ef /proc/self/ns/user ]; do :; done
for m in gid_map uid_map; do echo 0 0 $0 >/proc/$$/$m; done) &
exec unshare --user sh -c 'until grep -q . /proc/self/uid_map; do :; done; exec "$@"' sh "$@"
"""
REFUSED = "Operation not permitted"
LACKING = {
    "no right to make namespaces": (["setpriv", "--bounding-set", "-sys_admin", "--"], [], ", ".join(
        f"{n} namespace ({REFUSED})" for n in (*SHARED, *OWN))),
    "no right to end other users' processes": (["setpriv", "--bounding-set", "-kill", "--"], [], f"own user id ({REFUSED})"),
    "no range of ids": ([], ["--uid-range", "none"], "own user id (cairnd runs with --uid-range none)"),
    "no landlock": ([sys.executable, "-c", NO_LANDLOCK], [], "landlock: this kernel has none, or it is switched off"),
    "a user namespace without these ids": (["sh", "-c", IDS, "65536"], [],
                                           "own user id (the daemon's user namespace lacks these ids; see --uid-range)"),
    "a limit": (["sh", "-c", IDS, "4294967295"], [], "own IPC namespace: No space left on device"),
    "a limit of pid namespaces": (["sh", "-c", IDS, "4294967295"], [], "in a pid namespace of its own: No space left on device"),
}


def lacks_of(daemon, guest):
    try:
        pid = start(daemon, guest, "a")
        return pid, daemon.sandbox("a"), daemon.log.read_text()
    finally:
        daemon.close()


def test_lacking_right_to_make_namespaces_is_said(guest, tmp_path):
    d = Without(tmp_path, "setpriv", "--bounding-set", "-sys_admin", "--")
    _, o, log = lacks_of(d, guest)
    refused = "Operation not permitted"
    assert [x for x in o["lacks"] if "namespace" in x] == [f"{n} namespace: {refused}" for n in (*SHARED, *OWN)]
    assert o["mounts"] > 1
    assert "warning cairnd/sandbox: the sandboxes of VMs lack " + ", ".join(
        f"{n} namespace ({refused})" for n in (*SHARED, *OWN)) in log


def test_lacking_namespace_is_said_and_others_are_used(guest, tmp_path):
    """The limit is that of a user namespace of the daemon's own."""
    d = Without(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c",
                'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"', "sh")
    _, o, log = lacks_of(d, guest)
    full = "net namespace: No space left on device"
    assert [x for x in o["lacks"] if "namespace" in x] == [full]
    assert {n: w for n, w in o["namespaces"].items() if n in (*SHARED, *OWN)} == {
        "mnt": "own", "net": "daemon", "ipc": "own", "uts": "own", "pid": "own"}
    assert o["mounts"] == 1
    assert "the sandboxes of VMs lack net namespace (No space left on device)" in log


def limit_namespaces(d, kind):
    """The host reaches its limit of such namespaces after the daemon's start."""
    subprocess.run(["nsenter", "--user", "--target", str(d.proc.pid), "sh", "-c", f"echo 0 >/proc/sys/user/max_{kind}_namespaces"],
                   check=True, timeout=60)


def test_process_that_reaches_the_limit_of_pid_namespaces_goes_on_and_says_so(guest, tmp_path):
    d = Without(tmp_path, "unshare", "--user", "--map-root-user")
    limit_namespaces(d, "pid")
    pid, o, log = lacks_of(d, guest)
    assert "pid namespace: see the daemon's log; an older version of Cairn may have started the process" in o["lacks"]
    assert o["namespaces"]["pid"] == "daemon" and o["namespaces"]["ipc"] == "own"
    assert re.search("warning cairnd/sandbox: .* runs without .*pid namespace of its own: .*: No space left on device", log), log


def beginning(pid):
    """State that the process has got from the daemon: its fds, session, signals and arguments."""
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    fds = {}
    for fd in ("0", "1", "2", "3"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        fds[fd] = target.split(":")[0] if target.startswith(("socket", "anon_inode", "pipe")) else os.path.basename(target)
    args = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    if "--user" in args:
        args[args.index("--user") + 1] = "N"
    own = 3 << 31  # two signals of the C library, which posix_spawn() ignores
    for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGTERM):
        own |= 1 << sig - 1  # those for which the first process of a pid namespace has handlers
    return ([int(status[k], 16) & ~own for k in ("SigBlk", "SigIgn", "SigCgt", "NoNewPrivs")], fds, args, int(fields[3]) == pid,
            sorted(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")))


def test_process_begins_as_one_of_posix_spawn(guest, tmp_path):
    """The daemon creates a process without a control group and a pid namespace in this way."""
    d = Without(tmp_path, "unshare", "--user", "--map-root-user", options=["--cgroup", "none"])
    try:
        its = beginning(start(d, guest, "a"))
        limit_namespaces(d, "pid")
        assert beginning(start(d, guest, "b")) == its
        assert "a VM runs without a pid namespace of its own: " in d.log.read_text()
    finally:
        d.close()


def test_process_that_reaches_a_limit_goes_on_and_says_so(guest, tmp_path):
    """The host reached its limit of IPC namespaces after the daemon's start."""
    d = Without(tmp_path, "unshare", "--user", "--map-root-user")
    limit_namespaces(d, "ipc")
    _, o, log = lacks_of(d, guest)
    assert "ipc namespace" not in log
    assert o["lacks"][0] == "ipc namespace: see the VM's log; an older version of Cairn may have started the process"
    until(lambda: "warning a: the sandbox lacks own IPC namespace: No space left on device" in d.log_of("a"))


@pytest.mark.parametrize("wrapper, options, what", LACKING.values(), ids=LACKING)
def test_required_sandbox_that_lacks_a_part_starts_no_vm(request, guest, tmp_path, wrapper, options, what):
    """No process works on the images of a VM that is off, either. The error names the part."""
    if "(" not in what and not has_cgroups():
        pytest.skip("the daemon starts no process, because of the missing control group; the SVM host has one")
    d = Without(tmp_path, *wrapper, options=["--require-sandbox", *options])
    try:
        if "limit" in request.node.callspec.id:
            limit_namespaces(d, "ipc" if "IPC" in what else "pid")
        d.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, disks=[qcow2(tmp_path / "a.qcow2", "16M")])
        for command in (["start", "a"], ["snapshot-list", "a"]):
            r = d.cairn(*command, ok=7)
            assert (what in r.stderr if "pid" in what else
                    f"cairnd runs with --require-sandbox, and the sandbox {'would lack' if '(' in what else 'lacks'} {what}" in r.stderr)
        assert d.cairn("domstate", "a").stdout == "shut off\n"
        said = f"{what}; no VM starts, because of --require-sandbox"
        assert (said in said_to_lack(d.log.read_text())) == ("(" in what)
    finally:
        d.close()


@pytest.mark.skipif(not has_cgroups(), reason="control groups are missing; the SVM host has them")
def test_required_sandbox_that_is_complete(guest, tmp_path):
    d = Without(tmp_path, options=["--require-sandbox"])
    try:
        pid = start(d, guest, "a", disks=[qcow2(tmp_path / "a.qcow2", "16M")])
        d.cairn("restart-process", "a")
        assert d.info("a")["pid"] != pid and d.sandbox("a")["lacks"] == []
        assert "sandbox" not in d.log.read_text()
    finally:
        d.close()


def test_running_vm_stays_in_its_process_if_the_new_one_lacks_a_part(guest, tmp_path):
    d = Without(tmp_path, sys.executable, "-c", NO_LANDLOCK)
    try:
        pid = start(d, guest, "a")
        assert "the sandbox lacks landlock: this kernel has none" in d.log_of("a")
        assert lacks_here(d.sandbox("a")) == ["landlock: the kernel has none, or it is switched off"]
        d.stop()
        d.options = ["--require-sandbox"]
        d.start()
        r = d.cairn("restart-process", "a", ok=False)
        assert "--require-sandbox" in r.stdout + r.stderr
        assert d.info("a")["pid"] == pid and d.info("a")["state"] == "running"
        assert json.loads(d.cairn("dominfo", "a", "--sandbox", "--format", "json").stdout)["pid"] == pid
    finally:
        d.close()


# ---- a plain user's VMs ----

class Chrooted(PlainDaemon):
    """A daemon that the kernel forbids to make user namespaces, because it runs in a chroot. Some hosts forbid it to
    all plain users."""

    options = ()

    def command(self):
        unshare, m, sh, c, script, *rest = super().command()
        script = script.replace('exec "$@"', 'mount --rbind / "${0%/*}/root" && exec chroot "${0%/*}/root" "$@"')
        return [unshare, m, sh, c, script, *rest, *self.options]


def test_vms_of_plain_user_are_caged(guest):
    """The daemon makes the namespaces in a user namespace, in which only the user exists."""
    with plain_folder() as folder:
        d = PlainDaemon(folder, folder / "denied")
        try:
            pid = start(d, guest, "a", disks=[qcow2(folder / "a.qcow2", "16M")])
            console = Console(d, "a")
            until(lambda: console.line() == "interp")
            for command in ("open 0", "write 0 4096 1", "flush"):
                console.run(command)
            assert_caged(pid, user=True, pids=False)
            with open(f"/proc/{pid}/uid_map") as f:
                assert f.read().split() == [str(NOBODY), str(NOBODY), "1"]
            with open(f"/proc/{pid}/status") as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            assert status["CapPrm"] == status["CapEff"] == "0" * 16 and status["Uid"].split() == [str(NOBODY)] * 4
            d.cairn("snapshot-create-as", "a", "s")
            d.cairn("restart-process", "a")
            assert_caged(d.info("a")["pid"], user=True, pids=False)
            console.run("verify 0 4096 1")
            d.cairn("clone", "--live", "a", "b")
            assert_caged(d.info("b")["pid"], user=True, pids=False)
            console.close()
            assert "namespace" not in " ".join(lacks_here(d.sandbox("a")))
        finally:
            d.close()


def test_plain_user_on_a_host_that_forbids_namespaces(guest):
    """VMs run without; with --require-sandbox they do not, and the error names what lacks."""
    with plain_folder() as folder:
        (folder / "root").mkdir()
        d = Chrooted(folder, folder / "denied")
        try:
            start(d, guest, "a")
            lacks = lacks_here(d.sandbox("a"))
            assert lacks[:5] == [f"{n} namespace: {REFUSED}" for n in ("user", *SHARED, "ipc", "uts")]
            said = ", ".join(f"{n} namespace ({REFUSED})" for n in ("user", *SHARED, "ipc", "uts"))
            assert said_to_lack(d.log.read_text()) == [said]
            d.cairn("destroy", "a")
            d.stop()
            d.options = ["--require-sandbox"]
            d.start()
            assert f"the sandbox would lack {said}" in d.cairn("start", "a", ok=False).stderr
        finally:
            d.close()
