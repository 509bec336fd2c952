"""The attacks of the review of commit 823e769: each works against the programs of that commit, which are built from
git's history, and fails against this tree's. docs/threat-model.md lists them. make check-long runs this file (part
`attacks`); its name keeps it out of make check.

Most are tests of this tree, run a second time with the older programs. Those that need commands, options or helpers
that the older programs lack have their core here."""

import array
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

import pytest

import guestlib
import schemalib
from conftest import BUILD, ROOT, Console, Daemon, Qmp, until
from daemonlib import as_nobody
from fuselib import Op, fuse
from oldlib import old_build
from otherslib import as_user
from test_bounds import define_as_nobody, dump_begun
from test_policy import boot_anew
from test_spawn import steal

OLD = "823e769"
MIB = 1 << 20
GROUP = 4242

# Tests of this tree, and what they say with the older programs: the attack has worked, nothing else has failed.
TESTS = {
    "numerous values of one text": ("api/wire/test_limits.py::test_command_with_too_many_values_is_not_parsed",
                                    r"1020101 \+ 2\) <= 65535"),
    "processes that hang for users who hang up": (
        "api/access/test_hung_files.py::test_hung_processes_of_a_user_who_hangs_up_are_limited",
        r"(?s)>? *assert is_refused\(d, \"vm-define\".*assert False"),
    "root's rights for an owner's link": ("api/access/test_authors.py::test_edit_by_root_lends_no_rights", "DID NOT RAISE"),
    "role revoked during a define": (
        "api/access/test_hung_files.py::test_role_is_checked_again_when_a_define_takes_effect[role revoked]", "KeyError: 'error'"),
    "VM replaced during a define": (
        "api/access/test_hung_files.py::test_role_is_checked_again_when_a_define_takes_effect[VM replaced]", "KeyError: 'error'"),
    # One of two VMs has no process any more, or has that of the other one: this depends on which one listened last.
    "socket of another VM": ("api/vm/test_next_daemon.py::test_no_vm_gets_socket_of_another", r"KeyError: 'pid'|assert \(\[\d+, .*\] == \[\d+, "),
    "grant that is not stored": ("api/access/test_permission_writes.py::test_grant_that_is_not_stored_is_not_in_force",
                                 r"assert not True\nE +\+  where True = may_start"),
    "permission that returns with a name": (
        "api/access/test_permission_writes.py::test_permission_of_undefined_vm_does_not_return_with_its_name",
        r"assert not True\nE +\+  where True = may_start"),
    "audit log wiped": ("api/access/test_audit.py::test_refused_calls_do_not_wipe_the_log", r"assert \[\] == \['vm-define'"),
    "deadline at the host's shutdown": ("api/policy/test_bounds.py::test_deadlines_are_bounded_when_the_host_shuts_down",
                                        r" a +shutdown +wou.* 86400 s, destroyed"),
    "memory for snapshots of a small image": (
        "tools/img/test_img_budget.py::test_thousand_snapshots_take_little_memory[create-far]", r"or \d{9,} < \(256"),
    "commit of a guest's header": ("tools/img/test_img_trust.py::test_probed_image_does_not_write_to_its_backing_file",
                                   "'commit', 'disk'.*Image committed"),
    "control characters in a title": ("tools/cairn/test_terminal.py::test_definition_with_control_characters_is_refused[title]",
                                      "Input: 'NotFound: boot.kernel: /kernel: No such file"),
    "control characters on the terminal": (
        "tools/cairn/test_terminal.py::test_stored_texts_are_shown_without_control_characters[list --all --title]", r"not {'\\x9b'}"),
}


class Programs:
    """The programs that are attacked: those of OLD or this tree's."""

    def __init__(self, which):
        self.old = which == OLD
        self.build = str(old_build(OLD, all_programs=True)) if self.old else BUILD

    def __getitem__(self, name):
        return os.path.join(self.build, name)

    def judge(self, worked, said=""):
        assert worked == self.old, f"the attack {'worked' if worked else 'failed'}: {said}"


@pytest.fixture(params=[OLD, "this tree"])
def programs(request, monkeypatch):
    if request.param == OLD:
        monkeypatch.setattr(schemalib, "schemas", lambda: ())  # answers of that commit fit a schema of their own
    return Programs(request.param)


@pytest.fixture(scope="session")
def old_tests():
    """A build folder for tests with the older programs: their own fake_vm, this tree's guests and other helpers."""
    build = old_build(OLD, all_programs=True)
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        folder = pathlib.Path(folder)
        (folder / "helpers").mkdir()
        (folder / "guests").symlink_to(os.path.join(BUILD, "guests"))
        (folder / "gen").mkdir()
        (folder / "gen" / "api.json").write_text('{"daemon": [], "vm": []}')  # no answer is compared with a schema
        (folder / "cairn-diff").symlink_to(os.path.join(BUILD, "cairn-diff"))  # fixtures copy it; no older daemon runs it
        for source in pathlib.Path(BUILD, "helpers"), build / "helpers", build:
            for p in source.iterdir():
                target = folder / ("" if source == build else "helpers") / p.name
                if p.is_file() and os.access(p, os.X_OK):
                    target.unlink(missing_ok=True)
                    target.symlink_to(p)
        yield str(folder)


def test_run(build, test, folder):
    """Run one test of this tree with the programs of a build folder. Returns its exit status and output."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CAIRN_TESTS_", "PYTEST"))}
    r = subprocess.run([sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={folder}",
                        os.path.join(ROOT, "tests", "e2e", test)], env={**env, "CAIRN_BUILD": build},
                       capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


test_run.__test__ = False


@pytest.mark.seconds(1800)
@pytest.mark.parametrize("name", TESTS)
def test_attack_of_a_test_of_this_tree(old_tests, tmp_path, name):
    test, works = TESTS[name]
    status, said = test_run(old_tests, test, tmp_path / "old")
    assert status == 1 and re.search(works, said), said
    status, said = test_run(BUILD, test, tmp_path / "new")
    assert status == 0 and " passed" in said, said


# ---- a daemon that others reach ----

class Attacked(Daemon):
    def __init__(self, folder, programs, vm_program):
        self.programs, self.options = programs, []
        super().__init__(folder, vm_program=vm_program, env={"CAIRN_LIBEXEC": str(folder)})

    def command(self):
        vm = ["--vm-program", self.vm_program] if self.vm_program else []
        return [self.programs["cairnd"], "--state-dir", str(self.state), *vm, *self.options]

    def cairn(self, *args, ok=True, **kwargs):
        r = subprocess.run([self.programs["cairn"], *args], env=self.env, text=True, timeout=50, capture_output=True, **kwargs)
        assert ok is None or (r.returncode == 0) == ok, f"{args}: {r.stdout}{r.stderr}"
        return r


@contextlib.contextmanager
def attacked(programs, real=False):
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        for name in ("cairn-archive", "cairn-slirp", "cairn-groups", "cairn-log"):
            if os.path.exists(programs[name]):
                shutil.copy(programs[name], folder)
        d = Attacked(pathlib.Path(folder), programs, None if real else programs["helpers/fake_vm"])
        os.chmod(d.socket, 0o666)  # the admin lets everybody connect
        try:
            yield d
        finally:
            d.close()


@pytest.fixture
def host(programs):
    """A daemon with the VMs `mine` and `other`, whose processes are fake_vm."""
    with attacked(programs) as d:
        for n in ("mine", "other"):
            d.define(n)
        yield d


@pytest.fixture
def real(programs, kvm, guest):
    """A daemon whose VM `mine` runs the interpreter."""
    with attacked(programs, real=True) as d:
        yield d


def interp_start(d, **keys):
    d.define("mine", boot={"kernel": guestlib.bare("interp")}, debug_exit=True, **keys)
    d.cairn("start", "mine")
    console = Console(d, "mine")
    console.sock.settimeout(None)  # the test has a time limit
    until(lambda: console.line() == "interp")
    return console


# ---- the daemon ----

def spent_ns(pid):
    """The processor time of a process's first thread."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_one_strangers_commands_delay_others(programs, host):
    """How much of the stranger's commands the daemon runs before root's one, which came after them: the least of some
    tries, because on a busy host the daemon runs on until this process gets a processor and sees root's answer."""
    pid, many, tries = host.proc.pid, 12, 10  # the answers to many commands fit into the daemon's queue for a client
    go, w = os.pipe()

    def stranger(say):
        q = Qmp(host.socket, longest=MIB)
        q.run("query-version")
        for _ in range(tries):
            say("ready")
            os.read(go, 1)
            q.send(b'{"execute":"query-qmp-schema"}' * many)
            say("sent")
            for _ in range(many):
                q.answer()
            say("answered")
    found = []
    with as_user(stranger) as lines:
        root = host.qmp()
        root.run("query-version")
        for _ in range(tries):
            assert lines.readline() == '"ready"\n'
            host.proc.send_signal(signal.SIGSTOP)
            os.write(w, b"x")
            assert lines.readline() == '"sent"\n'
            root.send(b'{"execute":"query-version"}')
            begin = spent_ns(pid)
            host.proc.send_signal(signal.SIGCONT)
            root.answer()
            before = spent_ns(pid) - begin
            assert lines.readline() == '"answered"\n'
            found.append((before, spent_ns(pid) - begin))
    os.close(go)
    os.close(w)
    programs.judge(min(before / whole for before, whole in found) > 0.5, f"(ns before root's answer, ns in all): {found}")


@pytest.fixture
def hung(host):
    """A file system with an empty file, whose FLUSH hangs: every close() of the file waits."""
    with fuse(host.tmp / "fuse", file=b"", kernel=b"not a kernel\n") as f:
        yield f
        f.release()


@contextlib.contextmanager
def sent_files(host, f, n):
    """A stranger sends n files, each on a connection of its own, and hangs up. The daemon may hang up first."""
    def run(say):
        fd = os.open(f["file"], os.O_RDWR)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(n)]
        for s in clients:
            s.connect(host.socket)
            s.recv(4096)
        say("connected")
        for s in clients:
            with contextlib.suppress(OSError):
                s.sendmsg([b"} "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            s.shutdown(socket.SHUT_WR)
        say("sent")
        signal.pause()
    f.hang(Op.FLUSH)  # first: the daemon may close a file at once
    with as_user(run) as lines:
        assert lines.readline() == '"connected"\n'
        assert lines.readline() == '"sent"\n'
        try:
            yield
        finally:
            f.release()


def threads(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/task"))


def test_files_of_strangers_keep_threads(programs, host, hung):
    idle = threads(host)
    with sent_files(host, hung, 60):
        if programs.old:
            until(lambda: threads(host) >= idle + 50)
        else:
            host.qmp().run("vm-list")  # all clients have been served before this one
        programs.judge(threads(host) >= idle + 50, f"{threads(host)} threads, {idle} before")


def test_file_of_a_stranger_keeps_the_next_daemon_away(programs, host, hung):
    """close() waits in the daemon, deaf to SIGKILL, and keeps the lock of the state folder."""
    with sent_files(host, hung, 1):
        if programs.old:
            until(lambda: Op.FLUSH in hung.hanging())
        else:
            host.qmp().run("vm-list")
        host.proc.kill()
        if not programs.old:
            host.proc.wait()
        with open(host.log, "ab") as log:
            second = subprocess.Popen(host.command(), env=host.env, stderr=log)

        def greets():
            with contextlib.suppress(OSError, EOFError):
                Qmp(host.socket, timeout=5).close()
                return True
        until(lambda: second.poll() is not None or greets())
        refused = second.poll() is not None
        hung.release()
        host.proc.wait()
        if not refused:
            host.proc = second
        programs.judge(refused, host.log.read_text()[-300:])


def test_groups_of_the_define_stay(programs, host):
    """The definer was in a group when the VM was defined, and is not when it starts."""
    disk = host.tmp / "disk.raw"
    disk.write_bytes(bytes(65536))
    os.chown(disk, 0, GROUP)
    os.chmod(disk, 0o660)
    host.cairn("grant", "admin", "--user", "nobody")
    definition = {"name": "v", "memory": "32M", "boot": {"kernel": str(host.tmp / "kernel")},
                  "disks": [{"path": str(disk), "format": "raw"}]}
    defined, = as_nobody(host, ["vm-define", {"definition": definition}], groups=[GROUP])
    assert "return" in defined, defined
    r = host.cairn("start", "v", ok=None)
    programs.judge(r.returncode == 0, r.stderr)


def test_viewer_of_a_reused_name_reads_events_of_the_old_vm(programs, host):
    host.cairn("start", "mine")
    host.cairn("destroy", "mine")
    host.cairn("undefine", "mine")
    host.define("mine")
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    answer, = as_nobody(host, ["query-events", {"vm": "mine"}])
    seen = [e["event"] for e in answer["return"]["events"]]
    programs.judge("VM_UNDEFINED" in seen, seen)


def test_console_stays_open_after_a_revoke(programs, real):
    interp_start(real).close()
    real.cairn("grant", "operator", "mine", "--user", "nobody")
    go, w = os.pipe()

    def hold(say):
        q = Qmp(real.socket)
        q.run("vm-console", vm="mine")
        console = socket.socket(fileno=q.fds.pop())
        say("opened")
        os.read(go, 1)
        with contextlib.suppress(OSError):  # it has ended
            console.sendall(b"echo typed\n")
            got = b""
            while b"typed\nok" not in got.replace(b"\r", b"") and (more := console.recv(4096)):
                got += more
            say("typed" in got.decode())
            return
        say(False)
    with as_user(hold) as lines:
        assert json.loads(lines.readline()) == "opened"
        real.cairn("revoke", "mine", "--user", "nobody")
        os.write(w, b"x")
        programs.judge(json.loads(lines.readline()))
    os.close(go)
    os.close(w)


def test_start_delay_of_a_user_holds_other_vms(programs, host):
    define_as_nobody(host, "a", "b", start_delay=86400, order=0)
    host.cairn("autostart", "mine")
    boot_anew(host)
    host.start()
    q = host.qmp()
    # "a" starts at once, and the next VM in the order waits for its delay.
    until(lambda: "a" in [e["data"]["vm"] for e in q.run("query-events", event="AUTOSTART")["events"]])
    if not programs.old:
        until(lambda: host.info("mine")["state"] == "running")
    programs.judge(host.info("mine")["state"] != "running")


def test_save_at_shutdown_gives_up_beside_a_job(programs, host):
    host.define("v", cmdline=f"work-until={host.tmp}/go", stop_action="save")
    host.cairn("start", "v")
    job = dump_begun(host)
    q, stopper = host.qmp(), host.qmp()
    stopper.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    if not programs.old:
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        (host.tmp / "go").touch()
    outcome, = stopper.answer()["return"]["vms"]
    programs.judge(outcome["outcome"] != "saved", outcome)


def test_watchdog_floods_events(programs, real):
    """A guest whose watchdog expires again and again makes POWERDOWN events, which push out those of others."""
    console = interp_start(real, watchdog={"action": "shutdown"})
    for _ in range(40):
        console.run("watchdog start 2")
        while "reload=0x0" in console.run("watchdog show")[0]:
            pass
        console.run("watchdog clear")
    n = len(real.qmp().run("query-events", event="POWERDOWN", vm="mine")["events"])
    console.close()
    programs.judge(n > 30, f"{n} events")


# ---- a VM's process ----

def test_image_is_read_with_privileges(programs, kvm, tmp_path, monkeypatch):
    """The first byte of an image reaches a process that has everything that root has."""
    monkeypatch.setattr(guestlib, "CAIRN", programs["cairn"])
    with fuse(tmp_path / "fuse", disk=bytes(MIB)) as f:
        f.hang(Op.READ)
        g = guestlib.Guest(guestlib.definition(disks=[guestlib.disk(f["disk"])]))
        try:
            until(lambda: Op.READ in f.hanging())
            status = pathlib.Path(f"/proc/{g.vm_pid()}/status").read_text()
        finally:
            f.release()
            g.close()
    capabilities = int(re.search(r"CapEff:\t(\w+)", status)[1], 16)
    programs.judge(capabilities & ~(1 << 14) != 0, f"{capabilities:x}")  # CAP_IPC_LOCK: see docs/threat-model.md


def test_user_takes_files_of_cairn_slirp(programs, host):
    """Its log, which root's daemon has opened."""
    define_as_nobody(host, "v", interfaces=[{"type": "user"}])
    host.cairn("start", "v")

    def slirps():
        return [pid for pid, name in host.all_children().items() if name == "cairn-slirp"]

    def is_ready():
        return int(re.search(r"Seccomp:\t(\d)", pathlib.Path(f"/proc/{slirps()[0]}/status").read_text())[1]) == 2
    until(lambda: slirps() and is_ready())
    got = steal(slirps()[0])
    programs.judge(got[2] == 0, got)


@pytest.fixture
def disk_guest(programs, kvm, tmp_path, monkeypatch):
    """Return a function that starts the interpreter with a disk; it ends with the test."""
    monkeypatch.setattr(guestlib, "CAIRN", programs["cairn"])
    with contextlib.ExitStack() as stack:
        def start(**disk):
            g = stack.enter_context(guestlib.interp(memory="64M", disks=[guestlib.disk(str(tmp_path / "disk"), **disk)]))
            g.command("open 0")
            return g
        yield start


def peak_bytes(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def test_misaligned_requests_take_memory(programs, disk_guest, tmp_path):
    """16 reads of 64 MiB each, into the same 4 MiB of the guest."""
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(64 * MIB)
    g = disk_guest()
    assert g.values("flood 0 16 16 0x3ffe00 0x1000003")["status"] == 0
    peak = peak_bytes(g.vm_pid())
    programs.judge(peak > 512 * MIB, f"{peak >> 20} MiB")


def fragmented(path, clusters):
    """Make a qcow2 image of clusters of 512 bytes, in reverse order, so that no two can be read together."""
    l2_tables = clusters // 64
    l1, l2 = 512, 512 + l2_tables * 8
    data = l2 + l2_tables * 512
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 9, clusters * 512, 0, l2_tables, l1,
                         data + clusters * 512, 1, 0, 0, 0, 0, 0, 4, 104)
    with open(path, "wb") as f:
        f.write(header.ljust(512, b"\0"))
        f.write(b"".join(struct.pack(">Q", 1 << 63 | l2 + i * 512) for i in range(l2_tables)))
        f.write(b"".join(struct.pack(">Q", 1 << 63 | data + (clusters - 1 - i) * 512) for i in range(clusters)))
        f.write(b"x" * (clusters * 512 + 512))


def test_fragmented_clusters_take_memory(programs, disk_guest, tmp_path):
    """16 reads of 4 MiB each, in 8,192 parts, each of which had room for all 256 segments of the request."""
    fragmented(tmp_path / "disk", 8192)
    g = disk_guest(format="qcow2", readonly=True)
    for _ in range(2):  # the second time, the tables are in memory
        assert g.values("flood 0 16 256 0x4000 0x1000000")["status"] == 0
    peak = peak_bytes(g.vm_pid())
    programs.judge(peak > 256 * MIB, f"{peak >> 20} MiB")


def test_request_above_one_gib_pauses_the_vm(programs, disk_guest, tmp_path):
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(4 << 30)
    g = disk_guest()
    g.send("flood 0 1 90 0xf00000 0x1000000\n")
    if programs.old:
        until(lambda: "paused (I/O error)" in g.log())
    else:
        assert guestlib.fields(g.answer()[-1])["status"] == 1
    programs.judge("paused" in g.log(), g.log())


@pytest.mark.seconds(300)
def test_disk_reads_during_a_snapshot_take_memory(programs, real):
    """A read of 512 MiB into memory that a slow snapshot has not saved yet."""
    subprocess.run([programs["cairn-img"], "create", "-f", "qcow2", str(real.tmp / "disk"), "512M"], check=True,
                   stdout=subprocess.DEVNULL)
    console = interp_start(real, memory="768M", disks=[{"path": "disk", "format": "qcow2"}])
    console.run("fill 0x8000000 0x20000000 1 4096")
    console.run("open 0")
    pid, q = real.info("mine")["pid"], real.qmp()
    q.run("snapshot-create", vm="mine", name="slow", rate=1000, job_id="j")
    until(lambda: q.run("query-jobs", id="j")[0]["current-progress"] > 0)

    def anonymous():
        return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
    before = peak_bytes(pid)
    console.sock.sendall(b"flood 0 1 128 0x400000 0x8000000 0x400000\n")
    until(lambda: anonymous() > 48 * MIB)
    if not programs.old:
        q.run("job-cancel", id="j")  # the read waits
    until(lambda: "status=0" in console.line())
    peak = peak_bytes(pid) - before
    console.close()
    programs.judge(peak > 400 * MIB, f"{peak >> 20} MiB")
