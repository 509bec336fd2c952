"""Faults of the host: docs/faults.md has the outcome of each."""

import contextlib
import os
import pathlib
import re
import resource
import signal
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, ROOT, Console, Daemon, QmpError, all_vms, library
from daemonlib import audit, pid_of
from mountlib import tmpfs
from plainlib import qcow2


@pytest.mark.parametrize("page", ["faults.md", "threat-model.md"])
def test_each_test_of_the_page_exists(page):
    names = re.findall(r"`(tests/[\w/.]+)`[^|`]*?((?:`\w+`(?:, )?)+)", pathlib.Path(ROOT, "docs", page).read_text())
    assert len(names) > 20
    for path, tests in names:
        text = pathlib.Path(ROOT, path).read_text()
        for test in re.findall(r"\w+", tests):
            assert re.search(rf"\b{test}\b\(", text), (path, test)


def test_daemon_without_free_fds_answers_and_recovers(fake):
    fake.define("runs")
    fake.define("a")
    fake.cairn("start", "runs")
    q = fake.qmp()
    pid = fake.proc.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    with pytest.raises(QmpError, match="Too many open files"):
        for _ in range(used):  # there may be free numbers below the highest
            q.run("vm-start", vm="a")
            q.run("vm-destroy", vm="a")
    assert q.run("vm-info", vm="runs")["state"] == "running"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    q.run("vm-start", vm="a")
    assert fake.info("a")["state"] == fake.info("runs")["state"] == "running"


def may_exceed_limits():
    """CAP_SYS_RESOURCE."""
    held = re.search(r"CapEff:\s+(\w+)", pathlib.Path("/proc/self/status").read_text()).group(1)
    return bool(int(held, 16) >> 24 & 1)


class FewFiles(Daemon):
    def command(self):
        return ["prlimit", "--nofile=1024:1024", *super().command()]


@pytest.mark.skipif(not may_exceed_limits(), reason="needs CAP_SYS_RESOURCE")
def test_daemon_of_root_exceeds_the_hard_limit_of_open_files(tmp_path):
    with contextlib.closing(FewFiles(tmp_path, vm_program=FAKE_VM)) as d:
        assert resource.prlimit(d.proc.pid, resource.RLIMIT_NOFILE) == (524288, 524288)


class FewFilesWithoutRights(Daemon):
    def command(self):
        drop = ["setpriv", "--bounding-set", "-sys_resource"] if os.geteuid() == 0 else []
        return [*drop, "prlimit", "--nofile=256:256", *super().command()]


def test_helper_processes_start_with_a_small_limit_of_open_files(tmp_path):
    """cairn-log keeps running, and cairn-archive starts."""
    with contextlib.closing(FewFilesWithoutRights(tmp_path, vm_program=FAKE_VM)) as d:
        assert resource.prlimit(d.proc.pid, resource.RLIMIT_NOFILE) == (256, 256)
        qcow2(tmp_path / "a.qcow2", "1M")
        d.define("a", disks=[{"path": "a.qcow2", "format": "qcow2"}])
        d.cairn("start", "a")
        d.cairn("destroy", "a")
        d.cairn("export", "a", tmp_path / "a.tar")
        assert "cairn-log has ended" not in d.log.read_text()


@pytest.mark.parametrize("files", [48, 64, 80, 128])
def test_more_open_files_allow_no_fewer_starts(tmp_path, files):
    class Few(FewFilesWithoutRights):
        def command(self):
            return [f"--nofile={files}:{files}" if "--nofile" in str(x) else x for x in super().command()]
    with contextlib.closing(Few(tmp_path, vm_program=FAKE_VM)) as d:
        assert resource.prlimit(d.proc.pid, resource.RLIMIT_NOFILE) == (files, files)
        d.define("a")
        d.cairn("start", "a")


class SmallStack(Daemon):
    def command(self):
        return ["prlimit", "--stack=262144:", *super().command()]


def test_daemon_raises_a_small_limit_of_its_stack(tmp_path):
    """The daemon's main thread needs more than 256 KiB, and so do its children."""
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    wanted = 8 << 20 if most == resource.RLIM_INFINITY else min(8 << 20, most)
    with contextlib.closing(SmallStack(tmp_path, vm_program=FAKE_VM)) as d:
        assert resource.prlimit(d.proc.pid, resource.RLIMIT_STACK) == (wanted, most)


def test_daemon_with_a_stack_that_stays_small_does_not_start(tmp_path):
    r = subprocess.run(["prlimit", "--stack=262144:262144", os.path.join(BUILD, "cairnd"), "--state-dir", tmp_path, "--socket", tmp_path / "s"],
                       capture_output=True, text=True)
    assert r.returncode == 7 and "the stack is limited to 256 KiB; cairnd needs 1024: raise the hard limit (ulimit -s)" in r.stderr, r.stderr


def test_full_state_folder_refuses_changes_and_recovers(tmp_path):
    with tmpfs(tmp_path / "disk", "4M") as disk, contextlib.closing(Daemon(disk, vm_program=FAKE_VM)) as d:
        d.define("runs")
        d.cairn("start", "runs")
        rest = disk / "rest"
        fd = os.open(rest, os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(fd, bytes(4096))
        os.close(fd)
        q = d.qmp()
        with pytest.raises(QmpError, match="NoSpace"):
            q.run("vm-define", definition={"name": "b", "memory": "32M", "boot": {"kernel": str(disk / "kernel")}})
        assert q.run("vm-info", vm="runs")["state"] == "running"
        assert [v["name"] for v in q.run("vm-list")["vms"]] == ["runs"]
        rest.unlink()
        d.define("c")
        d.stop()
        d.start()
        assert [v["name"] for v in d.qmp().run("vm-list")["vms"]] == ["c", "runs"]
        assert [x["vm"] for x in audit(d) if x["outcome"] == "ok"] == ["runs", "runs", "c"]


def test_limit_of_file_sizes_refuses_changes_and_ends_no_daemon(fake):
    pid = fake.proc.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (256, resource.RLIM_INFINITY))
    said = fake.cairn("define", fake.write("a", description="x" * 300), ok=False).stderr
    assert "File too large; the limit of file sizes may be reached: raise it (ulimit -f, or LimitFSIZE= of the service)" in said, said
    assert all_vms(fake.qmp()) == []
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    fake.define("a")
    assert all_vms(fake.qmp()) == ["a"]


def test_stopped_vm_process_delays_nobody_else(fake):
    for n in ("stopped", "other"):
        fake.define(n)
        fake.cairn("start", n)
    pid = pid_of(fake, "stopped")
    os.kill(pid, signal.SIGSTOP)
    asks, q = fake.qmp(), fake.qmp()
    asks.send(b'{"execute":"vm-suspend","arguments":{"vm":"stopped"}}')
    q.run("vm-suspend", vm="other")
    q.run("vm-resume", vm="other")
    q.run("vm-destroy", vm="stopped")
    assert "error" in asks.answer()
    assert fake.info("stopped")["state"] == "shutoff" and fake.info("other")["state"] == "running"


@pytest.fixture
def unreadable(tmp_path):
    """A daemon, and a function that restarts it with a file that cannot be read; None: all can."""
    if "asan" in BUILD:
        pytest.skip("fail_read.so has to come behind a sanitizer")
    which = tmp_path / "which"
    d = Daemon(tmp_path, vm_program=FAKE_VM, env={"LD_PRELOAD": library("fail_read"), "READ_FAIL": str(which)})
    for name in ("a", "other"):
        d.define(name)
    d.cairn("grant", "owner", "a", "--user", "1234")

    def restart(end):
        d.stop()
        which.unlink(missing_ok=True)
        if end:
            which.write_text(end)
        d.start()
        return d
    yield restart
    which.unlink(missing_ok=True)
    d.close()


def test_unreadable_definition_is_kept(unreadable):
    """The daemon does not replace it by that of a new VM; with a disk that works, the VM is there again."""
    d = unreadable("/vms/a/definition.json")
    path = d.state / "vms/a/definition.json"
    before = path.read_bytes()
    assert [v["name"] for v in d.qmp().run("vm-list")["vms"]] == ["other"]
    for args in (["define", d.write("a")], ["dominfo", "a"], ["domrename", "other", "a"]):
        said = d.cairn(*args, ok=None)
        assert said.returncode and "Input/output error; the file is not changed. Next: repair" in said.stderr, said
    assert path.read_bytes() == before and not list(path.parent.glob("*.damaged"))
    d = unreadable(None)
    assert [v["name"] for v in d.qmp().run("vm-list")["vms"]] == ["a", "other"]


def test_unreadable_permissions_are_kept(unreadable):
    d = unreadable("/permissions.json")
    said = d.cairn("grant", "owner", "other", "--user", "1234", ok=None)
    assert said.returncode and "Input/output error; the file is not changed. Next: repair" in said.stderr, said
    d = unreadable(None)
    assert [(p["user"], p["vm"]) for p in d.qmp().run("query-permissions")["permissions"]] == [(1234, "a")]


def test_unreadable_state_is_replaced(unreadable):
    d = unreadable("/vms/a/state.json")
    d.cairn("start", "a")
    assert d.info("a")["state"] == "running"
    d = unreadable(None)
    assert d.info("a")["state"] == "running"


def memory_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_daemon_without_memory_loses_nothing(fake):
    """Each request fails or succeeds, or the daemon ends. The next daemon knows the VMs and the effect of each answered
    request."""
    if "asan" in BUILD or "tsan" in BUILD:
        pytest.skip("a sanitizer reserves address space")
    fake.define("runs")
    fake.cairn("start", "runs")
    run, defined, ends, failed = pid_of(fake, "runs"), {"runs"}, 0, 0
    long = "x" * 4000
    for i in range(40):
        # So many KiB more than the daemon has: what it takes is another thing each time.
        resource.prlimit(fake.proc.pid, resource.RLIMIT_AS, (memory_bytes(fake.proc.pid) + i * 4096, resource.RLIM_INFINITY))
        definition = {"name": f"v{i}", "memory": "32M", "boot": {"kernel": str(fake.tmp / "kernel")}, "description": long}
        try:
            clients = [fake.qmp() for _ in range(8)]
            q = clients[i % 8]
            q.run("vm-define", definition=definition)
            defined.add(f"v{i}")
            q.run("vm-start", vm=f"v{i}")
            q.run("vm-destroy", vm=f"v{i}")
        except (QmpError, OSError, EOFError):
            failed += 1
        if fake.proc.poll() is None:
            resource.prlimit(fake.proc.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            continue
        ends += 1
        fake.start()
    assert failed, f"{ends} ends, {len(defined)} of 41 VMs"
    fake.stop(signal.SIGKILL)
    fake.start()
    q = fake.qmp()
    assert not defined - set(all_vms(q))
    assert pid_of(fake, "runs") == run and fake.info("runs")["state"] == "running"
    assert fake.cairn("doctor", ok=None).stdout


def test_vm_process_without_memory_fails_a_command_or_ends_alone(daemon, kvm, guest, tmp_path):
    """All flushed data of the guest is there, and the image has no fault."""
    if "asan" in BUILD:
        pytest.skip("a sanitizer reserves address space")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", "64M"], check=True)
    for name, disks in ("a", [{"path": str(tmp_path / "a.qcow2"), "format": "qcow2"}]), ("other", []):
        daemon.define(name, boot={"kernel": guest("interp.elf")}, disks=disks)
        daemon.cairn("start", name)
    other, outcomes = pid_of(daemon, "other"), set()
    c = booted(daemon)
    c.run("write 0 64 7")
    c.run("flush")
    for i in range(16):
        pid = pid_of(daemon, "a")
        limit_memory(pid, memory_bytes(pid) + i * 65536)
        for verb in ("snapshot-create-as", "save"):
            said = daemon.cairn(verb, "a", f"s{i}" if verb != "save" else str(tmp_path / f"s{i}"), ok=None)
            outcomes.add(said.returncode)
        if daemon.info("a").get("pid") == pid:
            limit_memory(pid, "unlimited")
        assert pid_of(daemon, "other") == other and daemon.info("other")["state"] == "running"
        if daemon.info("a")["state"] != "running":
            daemon.cairn("start", "a")
            c = booted(daemon)
        c.run("verify 0 64 7")
    daemon.cairn("destroy", "a")
    subprocess.run(["qemu-img", "check", "-q", tmp_path / "a.qcow2"], check=True)
    assert outcomes - {0}, "no command lacked memory"


def limit_memory(pid, limit):
    """Only the process's own user and a user with CAP_SYS_RESOURCE may do that."""
    ids = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    uid, gid = (int(ids[k].split()[0]) for k in ("Uid", "Gid"))
    become = {} if os.geteuid() else {"user": uid, "group": gid, "extra_groups": []}
    subprocess.run(["prlimit", f"--as={limit}:unlimited", "--pid", str(pid)], check=True, **become)


def booted(daemon):
    c = Console(daemon, "a")
    while c.line() != "interp":
        pass
    c.run("open 0")
    return c


def test_start_on_a_read_only_file_system_names_the_remedy(fake, tmp_path):
    with tmpfs(tmp_path / "m", "1m") as place:
        (place / "d").write_bytes(bytes(4096))
        fake.define("a", disks=[{"path": str(place / "d"), "format": "raw"}])
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert "Read-only file system; mount it for writing, or if the guest" in fake.cairn("start", "a", ok=False).stderr
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        fake.cairn("start", "a")
