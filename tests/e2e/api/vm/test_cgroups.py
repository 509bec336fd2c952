"""Each VM's process has a control group of its own, which limits its memory, threads and processor time."""

import concurrent.futures
import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import uuid

import pytest

import guestlib
from conftest import Console, Daemon, until
from plainlib import qcow2
from test_namespaces import beginning
from test_spare import spare
from test_traitor import victims
from traitorlib import MAIN, NEW_THREADS, VCPU

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a plain user may make no control groups")]

MIB, GIB = 1 << 20, 1 << 30
ALL = {"cpu", "memory", "pids"}


def mount():
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return pathlib.Path(line.split()[1])
    pytest.skip("no control groups of version 2 are mounted here")


def folders_of(group):
    return sorted(p.name for p in group.iterdir() if p.is_dir())


def tree_remove(group):
    for p in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
        p.rmdir()
    group.rmdir()


@pytest.fixture
def group(request):
    """A control group without processes, for --cgroup. Its groups have limits if version 2 has controllers here."""
    path = mount() / f"cairn-test-{os.getpid()}"
    try:
        for c in ALL & set((mount() / "cgroup.controllers").read_text().split()):
            (mount() / "cgroup.subtree_control").write_text(f"+{c}")
        path.mkdir()
    except OSError as e:
        pytest.skip(f"cannot make a control group: {e}")
    yield path
    until(lambda: not (path / "cgroup.events").read_text().startswith("populated 1"))
    tree_remove(path)


@pytest.fixture
def limits(group):
    if not ALL <= set((group / "cgroup.controllers").read_text().split()):
        pytest.skip("version 2 of control groups has not all controllers here; the tests run in the SVM host")


class Grouped(Daemon):
    def __init__(self, tmp, *options, wrapper=(), vm=None, env=None):
        self.options, self.wrapper = options, wrapper
        super().__init__(tmp, vm, env=env)

    def command(self):
        return [*self.wrapper, *super().command(), *map(str, self.options)]


@pytest.fixture
def daemon(tmp_path, group):
    d = Grouped(tmp_path, "--cgroup", group)
    yield d
    d.close()


def start(daemon, guest, name="a", **keys):
    daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, **keys)
    daemon.cairn("start", name)
    return daemon.info(name)["pid"]


def group_of(pid):
    """The folder of the process's group, whose path the kernel gives below the mount."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return mount() / line[4:]
    return None


def sandbox(daemon, name="a"):
    return daemon.qmp().run("vm-sandbox", vm=name)


def lack_of_group(o):
    return [x for x in o["lacks"] if x.startswith("control group")]


def budget(memory, disks=0):
    """docs/definition.md, "Limits"."""
    return 2 * memory + memory // 8 + GIB + 512 * MIB * disks


def test_process_is_in_group_of_its_vm(daemon, guest, group):
    pid = start(daemon, guest)
    its = group / daemon.info("a")["uuid"]
    assert group_of(pid) == its
    # KVM's own thread for the VM is in the group, too.
    others = set((its / "cgroup.procs").read_text().split()) - {str(pid)}
    assert all(pathlib.Path(f"/proc/{p}/comm").read_text().startswith("kvm") for p in others)
    assert f"0::/{its.relative_to(mount())}" in sandbox(daemon)["cgroups"]
    assert group_of(daemon.proc.pid) != its
    b = start(daemon, guest, "b")
    assert group_of(b) != its
    daemon.cairn("destroy", "a")
    until(lambda: not its.exists())
    assert folders_of(group) == [daemon.info("b")["uuid"]]


def test_process_begins_as_without_a_group(daemon, guest):
    """The process has the same fds, session, signals and arguments."""
    its = beginning(start(daemon, guest))
    daemon.cairn("destroy", "a")
    daemon.stop()
    daemon.options = ("--cgroup", "none")
    daemon.start()
    daemon.cairn("start", "a")
    assert beginning(daemon.info("a")["pid"]) == its


def test_group_survives_the_daemon(daemon, guest, group):
    pid = start(daemon, guest)
    its = group_of(pid)
    daemon.stop()
    daemon.start()
    assert daemon.info("a")["pid"] == pid and group_of(pid) == its
    assert start(daemon, guest, "b") and its.exists()
    daemon.cairn("destroy", "a")
    until(lambda: not its.exists())


def test_process_that_takes_over_joins_the_group(daemon, guest, group):
    pid = start(daemon, guest)
    its = group_of(pid)
    daemon.cairn("restart-process", "a")
    assert (successor := daemon.info("a")["pid"]) != pid
    assert group_of(successor) == its


def test_clone_and_process_on_images_have_groups(daemon, guest, group, tmp_path):
    start(daemon, guest, disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    daemon.cairn("clone", "--live", "a", "b")
    assert group_of(daemon.info("b")["pid"]) == group / daemon.info("b")["uuid"]
    daemon.cairn("destroy", "b")
    daemon.cairn("snapshot-list", "b")
    daemon.cairn("undefine", "b", "--remove-all-storage")
    # The fork was followed by a process that is made ahead, in a group of its own.
    ahead = group_of(spare(daemon)).name
    until(lambda: folders_of(group) == sorted([daemon.info("a")["uuid"], ahead]))


def test_process_made_ahead_is_in_group_of_its_vm(daemon, guest, group):
    """The group bears the UUID of the clone that gets the process, and goes when no clone comes."""
    start(daemon, guest)
    daemon.cairn("clone", "--live", "a", "b")
    pid = spare(daemon)
    its = group_of(pid)
    assert its.parent == group and its.name not in [daemon.info(name)["uuid"] for name in ("a", "b")]
    daemon.cairn("clone", "--live", "a", "c")
    assert daemon.info("c")["pid"] == pid and group_of(pid) == its == group / daemon.info("c")["uuid"]
    pid = spare(daemon)
    left = group_of(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not left.exists())


@pytest.mark.usefixtures("limits")
def test_process_made_ahead_has_the_limits_of_its_vm(daemon, guest, group):
    start(daemon, guest, memory="40M")
    daemon.cairn("clone", "--live", "a", "b")
    its = group_of(spare(daemon))
    daemon.cairn("clone", "--live", "a", "c")
    b = group / daemon.info("b")["uuid"]
    assert its == group / daemon.info("c")["uuid"] and int((its / "memory.max").read_text()) == budget(40 * MIB)
    for name in ("memory.max", "pids.max", "cpu.weight", "cpu.max"):
        assert (its / name).read_text() == (b / name).read_text()


def test_next_daemon_removes_groups_without_processes(daemon, guest, group):
    pid = start(daemon, guest)
    start(daemon, guest, "b")
    its = group_of(pid)
    b = group / daemon.info("b")["uuid"]
    daemon.stop()
    # The VM ends while no daemon runs. A VM that no daemon knows has left the other group.
    (b / "cgroup.kill").write_text("1")
    stray, other = group / str(uuid.uuid4()), group / "other"
    stray.mkdir()
    other.mkdir()
    daemon.start()
    until(lambda: folders_of(group) == sorted([its.name, "other"]))
    assert daemon.info("a")["pid"] == pid


def test_failed_start_says_what_failed(daemon, tmp_path):
    """The program cannot be run: the error is that of execve()."""
    daemon.stop()
    program = tmp_path / "cairn-vm"
    program.write_text("no program")
    program.chmod(0o755)
    daemon.options = (*daemon.options, "--vm-program", program)
    daemon.start()
    daemon.define("a")
    r = daemon.cairn("start", "a", ok=False)
    assert f"cannot start {program}" in r.stderr and "Exec format error" in r.stderr
    assert "runs without" not in daemon.log.read_text()


def test_refused_group_leaves_the_pid_namespace(daemon, guest, group):
    """The host's limit of control groups is reached after the daemon's start."""
    (group / "cgroup.max.descendants").write_text("0")
    pid = start(daemon, guest)
    assert folders_of(group) == [] and lack_of_group(sandbox(daemon))
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    said = [line for line in daemon.log.read_text().splitlines() if "runs without" in line]
    assert len(said) == 1 and f"VM {daemon.info('a')['uuid']} runs without limits: " in said[0]


@pytest.mark.usefixtures("limits")
def test_limits_follow_the_definition(daemon, guest, tmp_path):
    name = tmp_path / "a.raw"
    with open(name, "wb") as f:
        f.truncate(MIB)
    pid = start(daemon, guest, memory="64M", cpu_shares=2048, cpu_quota=150)
    its = group_of(pid)
    values = {f: (its / f).read_text().strip() for f in ("memory.max", "pids.max", "cpu.weight", "cpu.max")}
    assert values == {"memory.max": str(budget(64 * MIB)), "pids.max": "16384", "cpu.weight": "200", "cpu.max": "150000 100000"}
    o = sandbox(daemon)
    assert o["cgroup-limits"] == values and lack_of_group(o) == []
    text = daemon.cairn("dominfo", "a", "--sandbox").stdout
    assert all(f"Group limit:    {f} {v}\n" in text for f, v in values.items())
    assert "sandboxes of VMs lack" not in daemon.log.read_text()
    pid = start(daemon, guest, "b", memory="64M")
    values = {f: (group_of(pid) / f).read_text().strip() for f in ("cpu.weight", "cpu.max")}
    assert values == {"cpu.weight": "100", "cpu.max": "max 100000"}
    daemon.cairn("clone", "--live", "b", "d", "--memory-max", "96M", "--cpus", "0.5")
    values = {f: (group_of(daemon.info("d")["pid"]) / f).read_text().strip() for f in ("memory.max", "cpu.max")}
    assert values == {"memory.max": str(96 * MIB), "cpu.max": "50000 100000"}
    daemon.define("c", cpu_shares=2)
    assert json.loads(daemon.cairn("dumpjson", "c").stdout)["cpu_shares"] == 2


def image_on_disk(size):
    """A loop device, which is no file in memory, whatever the host's file systems are; or None."""
    path = pathlib.Path(f"/tmp/cairn-disk-{os.getpid()}")
    with open(path, "wb") as f:
        f.truncate(size)
    r = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True)
    path.unlink()
    return r.stdout.strip() if r.returncode == 0 else None


@pytest.mark.usefixtures("limits")
def test_image_in_memory_leaves_memory_without_limit(daemon, guest):
    """The pages of such an image count as the VM's memory, and the kernel cannot drop them."""
    path, other = (pathlib.Path(f"/dev/shm/cairn-test-{os.getpid()}-{i}.raw") for i in range(2))
    for p in (path, other):
        with open(p, "wb") as f:
            f.truncate(MIB)
    device = image_on_disk(MIB)
    try:
        pid = start(daemon, guest, disks=[{"path": str(path), "format": "raw"}])
        assert (group_of(pid) / "memory.max").read_text() == "max\n"
        assert (group_of(pid) / "pids.max").read_text() == "16384\n"
        pid = start(daemon, guest, "b", disks=[{"path": str(other), "format": "raw", "readonly": True}], memory="32M")
        assert (group_of(pid) / "memory.max").read_text() == f"{budget(32 * MIB, 1)}\n"
        if device:
            pid = start(daemon, guest, "c", disks=[{"path": device, "format": "raw"}], memory="32M")
            assert (group_of(pid) / "memory.max").read_text() == f"{budget(32 * MIB, 1)}\n"
    finally:
        daemon.close()
        path.unlink()
        other.unlink()
        if device:
            subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.usefixtures("limits")
def test_process_beyond_its_memory_is_killed_alone(daemon, guest):
    pid = start(daemon, guest, memory="64M")
    other = start(daemon, guest, "b", memory="64M")
    console = Console(daemon, "a")
    until(lambda: console.line() == "interp")
    (group_of(pid) / "memory.max").write_text(str(32 * MIB))
    console.sock.sendall(b"fill 0x1000000 41943040 1\n")
    until(lambda: daemon.info("a")["state"] == "crashed")
    assert daemon.info("a")["detail"] == "the kernel killed its process at the memory limit of its control group"
    assert daemon.info("b")["pid"] == other
    # The next run has its own count.
    daemon.cairn("start", "a")
    os.kill(daemon.info("a")["pid"], 9)
    until(lambda: daemon.info("a")["state"] == "crashed")
    assert "signal 9" in daemon.info("a")["detail"]


@pytest.mark.usefixtures("limits")
def test_process_killed_at_the_limit_of_all_vms_says_so(daemon, guest, group):
    """As with `docker run -m` or MemoryMax= of a slice: the VM stays below its own limit."""
    pid = start(daemon, guest, memory="256M")
    other = start(daemon, guest, "b", memory="64M")
    console = Console(daemon, "a")
    until(lambda: console.line() == "interp")
    assert int((group_of(pid) / "memory.max").read_text()) > GIB
    (group / "memory.max").write_text(str(96 * MIB))
    console.sock.sendall(b"fill 0x1000000 209715200 1\n")
    until(lambda: daemon.info("a")["state"] == "crashed")
    info = daemon.info("a")
    assert info["reason"] == "killed"
    assert info["detail"] == "the kernel killed its process, because the host, or a control group above the VM's, had no memory left"
    assert daemon.info("b")["pid"] == other


MMAP, READ_WRITE, FRESH = 9, 3, 0x8022  # private, anonymous, filled at once


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("thread", (MAIN, VCPU), ids=("main", "vcpu"))
def test_taken_over_process_takes_memory_until_its_limit(tmp_path, group, guest, thread):
    """It allocates without end: the kernel kills it, and no other VM. The limit is lowered, because filling the real
    one takes long here."""
    with victims(tmp_path, guest, lambda tmp, vm, env: Grouped(tmp, "--cgroup", group, vm=vm, env=env)) as v:
        v.define(memory="32M")
        v.start(thread)
        its = group_of(v.daemon.info("a")["pid"])
        assert int((its / "memory.max").read_text()) == budget(32 * MIB)
        (its / "memory.max").write_text(str(int((its / "memory.current").read_text()) + 64 * MIB))
        v.order(thread, [MMAP, 0, 8 * MIB, READ_WRITE, FRESH, -1, 0], repeat=1 << 20)
        assert v.ends() == ("killed", "the kernel killed its process at the memory limit of its control group")
        assert "VM 'a': crashed (killed): the kernel killed its process at the memory limit" in v.daemon.log.read_text()
        v.check()


@pytest.mark.usefixtures("limits")
def test_taken_over_process_makes_threads_until_its_limit(tmp_path, group, guest):
    with victims(tmp_path, guest, lambda tmp, vm, env: Grouped(tmp, "--cgroup", group, vm=vm, env=env)) as v:
        v.define()
        v.start(MAIN)
        its = group_of(v.daemon.info("a")["pid"])
        assert (its / "pids.max").read_text() == "16384\n"
        (its / "pids.max").write_text("100")
        assert v.traitor.make([0], act=NEW_THREADS, rounds=1000) == [-errno.EAGAIN]
        assert v.daemon.figures("a")["state"] == "running"
        assert int((its / "pids.current").read_text()) == 100
        v.daemon.cairn("destroy", "a")
        v.check()


def highest(file, work):
    """Return the highest number that a file has while work() runs."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        working, most = pool.submit(work), 0
        while not working.done():
            most = max(most, int(file.read_text()))
        working.result()
        return most


@pytest.mark.usefixtures("limits")
def test_full_vm_is_forked_and_its_clone_takes_a_snapshot(daemon, guest, group, tmp_path):
    """A fork's file counts as memory of its source as long as clones live, so each fork raises the limit."""
    size, at = 40 * MIB, 0x1000000
    start(daemon, guest, memory="40M")
    console = Console(daemon, "a")
    until(lambda: console.line() == "interp")
    fill = size - at - MIB
    console.run(f"fill {at} {fill} 1")
    source = group / daemon.info("a")["uuid"]
    for i in range(2):
        before, now = (int((source / f).read_text()) for f in ("memory.max", "memory.current"))
        raised = highest(source / "memory.max", lambda: daemon.cairn("clone", "--live", "a", f"clone{i}"))
        assert raised >= max(before, now + budget(size) - MIB)  # the source may have freed a little since
        clone = group / daemon.info(f"clone{i}")["uuid"]
        assert int((clone / "memory.max").read_text()) == budget(size)
    assert int((source / "memory.current").read_text()) > 3 * fill
    c = Console(daemon, "clone0")
    c.run(f"fill {at} {fill} 2")
    c.run(f"check {at} {fill} 2")
    dump = f"/dev/shm/cairn-test-dump-{os.getpid()}"
    daemon.cairn("dump", "clone0", dump)
    os.unlink(dump)
    c.run(f"check {at} {fill} 2")
    # The limit falls after the jobs, and to its first value when the clones have ended, whose files are freed then.
    until(lambda: budget(size) < int((source / "memory.max").read_text()) < raised)
    console.run(f"check {at} {fill} 1")
    for g in (source, clone):
        assert "\noom_kill 0\n" in (g / "memory.events").read_text()
    c.close()
    daemon.cairn("destroy", "clone0", "clone1")
    until(lambda: int((source / "memory.max").read_text()) == budget(size))
    console.run(f"check {at} {fill} 1")
    console.close()


@pytest.mark.usefixtures("limits")
def test_daemon_without_systemd_makes_a_tree(tmp_path, guest, kvm):
    if group_of(os.getpid()) != mount():
        pytest.skip("this process is not in the root group")
    d = Grouped(tmp_path)
    try:
        pid = start(d, guest)
        tree = group_of(pid).parent
        assert tree.parent == mount() and tree.name.startswith("cairn-vms-")
        assert lack_of_group(sandbox(d)) == []
        d.stop()
        d.start()
        assert d.info("a")["pid"] == pid and group_of(pid).parent == tree
        assert group_of(start(d, guest, "b")).parent == tree
        d.cairn("destroy", "a")
        d.cairn("destroy", "b")
        until(lambda: folders_of(tree) == [])
        d.stop()
        assert not tree.exists()
    finally:
        d.close()


# A host that systemd runs, as far as the daemon can see.
BOOTED = ["unshare", "-m", "sh", "-c", 'mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec "$@"', "sh"]
# In the shell: Python takes seconds to start in an emulated host.
SYSTEMD_RUN = """#!/bin/sh
set -e
[ "$1 $2 $3" = "--scope --quiet --collect" ]
while :; do
	case $1 in
	--slice=*) slice=${1#*=} ;;
	--unit=*) unit=${1#*=} ;;
	--property=Delegate=yes) delegates=1 ;;
	--property=Before=cairnd.service) before=1 ;;
	-*) ;;
	*) break ;;
	esac
	shift
done
[ "$delegates$before" = 11 ]
folder=GROUP/$slice/$unit
if [ -e "$folder" ]; then
	echo "Unit $unit was already loaded" >&2
	exit 1
fi
mkdir -p "$folder"
for path in GROUP "GROUP/$slice"; do
	for c in cpu memory pids; do
		echo "+$c" >"$path/cgroup.subtree_control"
	done
done
echo 0 >"$folder/cgroup.procs"
exec "$@"
"""


@pytest.mark.usefixtures("limits")
def test_daemon_of_systemd_asks_for_a_scope(tmp_path, guest, group):
    """In the place of systemd, a script that makes the scope's group."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "systemd-run"
    fake.write_text(SYSTEMD_RUN.replace("GROUP", str(group)))
    fake.chmod(0o755)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    d = Grouped(tmp_path, wrapper=BOOTED, env={"NOTIFY_SOCKET": str(tmp_path / "notify"),
                                               "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    try:
        pid = start(d, guest)
        scope = group_of(pid).parent
        assert scope.parent == group / "machine.slice" and scope.name.startswith("cairn-vms-") and scope.suffix == ".scope"
        assert lack_of_group(sandbox(d)) == []
        holder = (scope / "holder" / "cgroup.procs").read_text().split()
        assert len(holder) == 1
        d.stop()
        # The scope stays with its VM; the next daemon continues to use it.
        until(lambda: (scope / "holder" / "cgroup.procs").read_text() == "")
        assert group_of(pid).parent == scope
        d.start()
        assert d.info("a")["pid"] == pid and group_of(start(d, guest, "b")).parent == scope
        assert (scope / "holder" / "cgroup.procs").read_text().split() != holder
        d.cairn("destroy", "a")
        d.cairn("destroy", "b")
        until(lambda: folders_of(scope) == ["holder"])
        d.stop()
        # systemd ends the empty scope.
        until(lambda: "populated 0" in (scope / "cgroup.events").read_text())
        tree_remove(scope)
        d.start()
        d.cairn("start", "a")
        assert group_of(d.info("a")["pid"]).parent == scope
    finally:
        d.close()
        notify.close()


def test_daemon_that_systemd_has_not_started_asks_for_none(tmp_path):
    d = Grouped(tmp_path, wrapper=BOOTED)
    try:
        text = d.log.read_text()
    finally:
        d.close()
    assert "control group (" in text and ("has not started cairnd; see --cgroup" in text or "no controllers" in text)


@pytest.mark.parametrize("options, why", [
    (["--cgroup", "none"], "cairnd runs with --cgroup none"),
    (["--cgroup", "/nowhere/at/all"], "/nowhere/at/all: No such file or directory"),
    (["--cgroup", "/tmp"], "cannot create a process in a control group in /tmp: Bad file descriptor"),
])
def test_host_without_groups_runs_vms_and_says_so(tmp_path, guest, options, why):
    d = Grouped(tmp_path, *options)
    try:
        start(d, guest)
        o = sandbox(d)
        assert lack_of_group(o) == [f"control group: {why}"] and "cgroup-limits" not in o
        assert f"Lacks:          control group: {why}\n" in d.cairn("dominfo", "a", "--sandbox").stdout
        lines = [line for line in d.log.read_text().splitlines() if f"control group ({why})" in line]
        assert len(lines) == 1 and "warning cairnd/sandbox: the sandboxes of VMs lack" in lines[0]
        d.cairn("destroy", "a")
        d.stop()
        d.options = [*options, "--require-sandbox"]
        d.start()
        r = d.cairn("start", "a", ok=7)
        assert "cairnd runs with --require-sandbox, and the sandbox would lack" in r.stderr and f"control group ({why})" in r.stderr
    finally:
        d.close()


def test_cgroup_option_is_checked(daemon):
    r = subprocess.run([f"{guestlib.BUILD}/cairnd", "--cgroup", "here"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 2
    assert r.stderr.startswith('error: --cgroup takes the absolute path of a control group, or none, not "here"\n')
