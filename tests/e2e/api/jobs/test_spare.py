"""Processes made ahead: after a fork of one clone, the daemon keeps a process that is loaded and confined, and the next
fork's clone of the same user gets it."""

import contextlib
import os
import pwd
import re
import shutil
import signal

import pytest

import guestlib
from conftest import BUILD, Console, Daemon, library, until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from plainlib import qcow2

AT, FILL = 16 << 20, 1 << 20
pytestmark = pytest.mark.usefixtures("kvm")


def spare(daemon, n=1):
    """Wait until there are n processes made ahead. Return the pid of the one, or the pids."""
    until(lambda: len(daemon.spares()) == n)
    return daemon.spares()[0] if n == 1 else set(daemon.spares())


def start(daemon, guest, name="src", **keys):
    daemon.define(name, debug_exit=True, **{"memory": "64M", "boot": {"kernel": guest("interp.elf")}, **keys})
    daemon.cairn("start", name)
    with contextlib.closing(Console(daemon, name)) as c:
        while c.line() != "interp":
            pass
        c.run(f"fill {AT} {FILL} 1")


def holds(daemon, name):
    with contextlib.closing(Console(daemon, name)) as c:
        c.run(f"check {AT} {FILL} 1")


def clone(daemon, name, *args, source="src"):
    """Clone the running VM; return the clone's pid."""
    daemon.cairn("clone", "--live", source, name, *args)
    holds(daemon, name if "--count" not in args else f"{name}-1")
    return daemon.info(name)["pid"] if "--count" not in args else None


@pytest.fixture
def first(daemon, guest):
    """A daemon with a running VM, src, of which one clone was made, c1; and so a spare."""
    start(daemon, guest)
    clone(daemon, "c1")
    return daemon


@pytest.fixture
def replaceable(tmp_path):
    """A daemon whose VM program is a copy in the test's folder."""
    program = tmp_path / "program"
    shutil.copy(os.path.join(BUILD, "cairn-vm"), program)
    d = Daemon(tmp_path, vm_program=str(program))
    yield d, program
    d.close()


def test_next_clone_is_the_process_made_ahead(first):
    pid = spare(first)
    with open(f"/proc/{pid}/comm") as f:
        assert f.read() == "cairn-spare\n"
    assert clone(first, "c2") == pid
    with open(f"/proc/{pid}/comm") as f:
        assert f.read() == "cairn-vm\n"
    holds(first, "src")
    next_one = spare(first)
    assert next_one != pid and clone(first, "c3") == next_one
    first.cairn("destroy", "c3")
    first.cairn("start", "c3")  # a start from the images gets a process of its own
    assert first.info("c3")["pid"] != spare(first)


def test_spare_of_a_vm_with_disks_works_as_any_process(daemon, guest, tmp_path):
    """The process takes a snapshot, reverts, hands its VM over and is forked."""
    start(daemon, guest, disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    with contextlib.closing(Console(daemon, "src")) as c:
        for command in ("open 0", "write 0 4096 1", "flush"):
            c.run(command)
    clone(daemon, "c1")
    pid = spare(daemon)
    assert clone(daemon, "c2") == pid
    daemon.cairn("snapshot-create-as", "c2", "s")
    with contextlib.closing(Console(daemon, "c2")) as c:
        c.run("verify 0 4096 1")
        c.run("write 0 4096 2")
        c.run(f"fill {AT} {FILL} 2")
    daemon.cairn("snapshot-revert", "c2", "s")
    daemon.cairn("restart-process", "c2")
    assert daemon.info("c2")["pid"] != pid
    with contextlib.closing(Console(daemon, "c2")) as c:
        c.run("verify 0 4096 1")
    spare(daemon)
    clone(daemon, "c3", source="c2")


def assisted(daemon, name, on):
    """Write LSTAR, as a kernel does when it boots, and make system calls where the assist may have to complete them.
    Return what the guest reads and how many calls the assist has completed."""
    with contextlib.closing(Console(daemon, name)) as c:
        c.run("wrmsr 0xc0000082 0x123000")
        value = c.run("rdmsr 0xc0000082")
        if on:
            c.run("syscall 50")
    return value, daemon.figures(name).get("assist", {}).get("syscalls")


@pytest.mark.parametrize("assist", ["auto", "on", "off"])
def test_spare_has_the_assist_that_its_vm_asks_for(daemon, guest, assist):
    """The VM of a spare is created, with the assist's MSR filter, before the definition is known."""
    start(daemon, guest, assist=assist)
    clone(daemon, "c1")
    pid = spare(daemon)
    assert clone(daemon, "c2") == pid
    ordinary, made = (assisted(daemon, name, assist != "off") for name in ("c1", "c2"))
    assert ordinary == made and ordinary[0] == ["0x123000"]


def namespaces(pid):
    return {n: os.readlink(f"/proc/{pid}/ns/{n}") for n in os.listdir(f"/proc/{pid}/ns") if not n.endswith("_for_children")}


def test_spare_is_confined_as_any_process(first):
    """The sandbox of a VM whose process was made ahead is that of a VM whose process was not."""
    if guestlib.SANITIZED:
        pytest.skip("a sanitized process has no namespaces of its own")
    pid = spare(first)
    assert clone(first, "c2") == pid
    ordinary, made = (first.sandbox(name) for name in ("c1", "c2"))
    own = ("pid", "uids", "gids", "cgroups", "namespaces", "threads")
    assert {k: v for k, v in ordinary.items() if k not in own} == {k: v for k, v in made.items() if k not in own}
    assert sorted(ordinary) == sorted(made)
    if os.geteuid() == 0:
        assert not set(ordinary["uids"]) & set(made["uids"])
    a, b = namespaces(first.info("c1")["pid"]), namespaces(pid)
    of_daemon = namespaces(first.proc.pid)
    assert {n for n in a if a[n] != of_daemon[n]} == {n for n in b if b[n] != of_daemon[n]}
    assert {n for n in a if a[n] == b[n]} >= {"mnt", "net"} and a["ipc"] != b["ipc"] and a["uts"] != b["uts"]
    # Its stdout and stderr are its log.
    assert {os.readlink(f"/proc/{pid}/fd/{fd}")[:5] for fd in (1, 2)} == {"pipe:"}
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"


def test_spare_shares_no_addresses(first):
    """The daemon executes each process, so the kernel chooses other addresses for each."""
    if guestlib.SANITIZED:
        pytest.skip("the sanitizer's runtime turns the kernel's choice off")
    pids = [first.info("src")["pid"], first.info("c1")["pid"], spare(first)]
    starts = [re.match(r"[0-9a-f]+", open(f"/proc/{pid}/maps").read())[0] for pid in pids]
    stacks = [re.search(r"^([0-9a-f]+).*\[stack\]$", open(f"/proc/{pid}/maps").read(), re.M)[1] for pid in pids]
    assert len(set(stacks)) == 3 and (len(set(starts)) == 3 or set(starts) == {"00400000"})


def test_spare_has_nothing_of_another_vm(first):
    """While the spare waits, it has no file, disk or memory of a VM."""
    links = sorted(os.readlink(f"/proc/{spare(first)}/fd/{fd}") for fd in os.listdir(f"/proc/{spare(first)}/fd"))
    known = re.compile(r"/dev/null|/dev/kvm|/dev/userfaultfd|socket:.*|anon_inode:.*|/proc/[0-9]+/pagemap|/dev/zero")
    assert [link for link in links if not known.fullmatch(link)] == []
    assert len([link for link in links if link.startswith("socket:")]) == 1


def test_killed_spare_is_replaced(first):
    pid = spare(first)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert clone(first, "c2") != pid
    assert spare(first) != pid


def test_spare_that_hangs_is_not_used(first):
    pid = spare(first)
    os.kill(pid, signal.SIGSTOP)
    other = clone(first, "c2")
    assert other != pid
    until(lambda: not os.path.exists(f"/proc/{pid}"))  # killed and reaped
    assert f"the one made ahead (pid {pid}) does not answer" in first.log.read_text()
    assert clone(first, "c3") != other


def test_failed_fork_ends_the_spare_that_was_promised(daemon, guest, tmp_path):
    """Its clone's UUID is not given to another VM."""
    start(daemon, guest, disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    clone(daemon, "c1")
    pid = spare(daemon)
    (tmp_path / "c2-vda.qcow2").write_bytes(b"in the way")
    daemon.cairn("clone", "--live", "src", "c2", ok=False)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert clone(daemon, "c3") != pid


def test_spare_ends_after_an_idle_minute(tmp_path, guest):
    if guestlib.SLOW > 1:
        pytest.skip("later_clock.so has to come behind a sanitizer")
    ahead = tmp_path / "ahead"
    d = Daemon(tmp_path, env={"LD_PRELOAD": library("later_clock"), "CLOCK_AHEAD": str(ahead)})
    with contextlib.closing(d):
        start(d, guest)
        clone(d, "c1")
        pid = spare(d)
        ahead.write_text("40")
        d.cairn("list")
        assert clone(d, "c2") == pid
        pid = spare(d)  # its minute begins when it is made
        ahead.write_text("80")
        d.cairn("list")
        assert d.spares() == [pid]
        ahead.write_text("101")
        d.cairn("list")  # wakes the daemon
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert clone(d, "c3") != pid


def users_vm_start(daemon, kernel, name, uid):
    """Have a user define a VM, and start it."""
    d = {"name": name, "memory": "64M", "debug_exit": True, "boot": {"kernel": kernel}}
    assert "return" in as_nobody(daemon, ["vm-define", {"definition": d}], user=uid, group=uid)[0]
    daemon.cairn("start", name)
    with contextlib.closing(Console(daemon, name)) as c:
        while c.line() != "interp":
            pass
        c.run(f"fill {AT} {FILL} 1")


@pytest.fixture
def of_users(shared, guest):  # noqa: F811
    """A daemon of root with a running VM of each of five users, which are called as the users."""
    shared.stop()
    shared.vm_program = None
    shared.start()
    folder = shared.tmp / "users"
    folder.mkdir(mode=0o755)
    kernel = shutil.copy(guest("interp.elf"), folder)
    os.chmod(kernel, 0o644)
    names = ("daemon", "bin", "sys", "games", "nobody")
    for name in names:
        shared.cairn("grant", "admin", "--user", name)
        users_vm_start(shared, kernel, name, pwd.getpwnam(name).pw_uid)
    return shared, names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon has VMs of several users")
def test_host_has_four_spares_at_most(of_users):
    """The fifth user's fork makes none, until another one has ended."""
    d, (*four, fifth) = of_users
    for n, name in enumerate(four, 1):
        clone(d, f"c-{name}", source=name)
        spares = spare(d, n)
    clone(d, "e1", source=fifth)
    assert clone(d, "d1", source=four[0]) in spares  # and another one is made, later than one of e1's user would be
    now = spare(d, 4)
    assert len(now - spares) == 1 and clone(d, "e2", source=fifth) not in now
    gone = min(now)
    os.kill(gone, signal.SIGKILL)
    until(lambda: gone not in d.all_children())
    clone(d, "e3", source=fifth)
    now = spare(d, 4)
    assert clone(d, "e4", source=fifth) in now


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon has VMs of several users")
def test_spare_serves_its_own_user_only(shared, guest):  # noqa: F811
    shared.stop()
    shared.vm_program = None
    shared.start()
    shared.cairn("grant", "admin", "--user", "nobody")
    folder = shared.tmp / "nobodys"
    folder.mkdir(mode=0o755)
    kernel = shutil.copy(guest("interp.elf"), folder)
    os.chmod(kernel, 0o644)
    users_vm_start(shared, kernel, "theirs", NOBODY)
    start(shared, guest)
    clone(shared, "c1")
    of_root = spare(shared)
    assert clone(shared, "t1", source="theirs") != of_root
    both = spare(shared, 2)
    assert of_root in both
    assert clone(shared, "t2", source="theirs") == (both - {of_root}).pop()
    assert of_root in spare(shared, 2)
    assert clone(shared, "c2") == of_root


def test_replaced_program_ends_the_spare(replaceable, guest):
    d, program = replaceable
    start(d, guest)
    clone(d, "c1")
    pid = spare(d)
    new = program.with_name("new")
    shutil.copy(program, new)
    new.rename(program)
    assert clone(d, "c2") != pid
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert clone(d, "c3") != pid


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_spare_ends_with_the_daemon(first, sig):
    pid, vm = spare(first), first.info("c1")["pid"]
    first.stop(sig)
    until(lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z")
    first.start()
    assert first.info("c1")["pid"] == vm
    clone(first, "c2")
    assert clone(first, "c3") and first.info("c2")["state"] == "running"


def test_one_spare_for_each_user(first):
    pid = spare(first)
    clone(first, "b", "--count", "3")
    assert len({first.info(f"b-{i}")["pid"] for i in (1, 2, 3)} | {pid}) == 3  # the batch's first clone took it
    assert not first.spares()  # a batch makes none
    assert clone(first, "c2") != pid
    spare(first)


def test_isolated_and_paused_clones_take_it_too(first):
    pid = spare(first)
    first.cairn("clone", "--live", "src", "c2", "--isolated", "--paused")
    assert first.info("c2")["pid"] == pid and first.info("c2")["state"] == "paused"
    first.cairn("resume", "c2")
    holds(first, "c2")


def test_vms_with_a_scope_get_no_spare(daemon, guest):
    """The process of such a VM is created in its scope."""
    start(daemon, guest)
    clone(daemon, "c1")
    pid = spare(daemon)
    start(daemon, guest, "scoped", systemd_scope=True)
    assert clone(daemon, "s1", source="scoped") != pid
    assert spare(daemon) == pid
