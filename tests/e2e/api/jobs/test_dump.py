"""A guest's memory as an ELF core: dump, QMP's dump-guest-memory, coredump-* and the watchdog's dump."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import BUILD, Console, Qmp, QmpError, has_ended, library, open_files, until
from fuselib import Op, fuse
from guestlib import SANITIZED

AT = 0x2000000
MARK = 0x1122334455667788


def begin(daemon, guest, define=True, **keys):
    if define:
        daemon.define("vm1", **{"memory": "64M", "boot": {"kernel": guest("interp.elf")}, **keys})
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    while console.line() != "interp":
        pass
    return console


def own_socket(daemon):
    return Qmp(daemon.cairn("qmp-path", "vm1").stdout.rstrip("\n"))


def state(daemon):
    return daemon.cairn("domstate", "--reason", "vm1").stdout.rstrip("\n")


def gdb(core, *commands):
    assert shutil.which("gdb"), "gdb is in tests/packages.txt"
    args = ["gdb", "-nx", "-batch"]
    for c in commands:
        args += ["-ex", c]
    return subprocess.run([*args, os.path.join(BUILD, "guests", "interp.elf"), str(core)], text=True, timeout=50,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def word(core, gpa=AT):
    return int(re.search(r":\s+0x([0-9a-f]+)", gdb(core, f"x/gx {gpa}")).group(1), 16)


def storm_of(core):
    """Return the counters of the guest's first storm and the number of each of its pages
    (tests/guests/bare/storm.c)."""
    symbols = subprocess.run(["nm", os.path.join(BUILD, "guests", "interp.elf")], text=True, stdout=subprocess.PIPE,
                             check=True).stdout
    storms = int(re.search(r"([0-9a-f]+) \w storms\n", symbols).group(1), 16)
    with open(core, "rb") as f:
        f.seek(0x1000 + storms + 40)
        pages, npages, _, total, _ = struct.unpack("<5Q", f.read(40))
        assert pages == AT
        f.seek(0x1000 + pages)
        data = f.read(npages * 4096)
    return total, [struct.unpack_from("<Q", data, i)[0] for i in range(0, len(data), 4096)]


def cores(daemon, name="vm1"):
    folder = daemon.state / "vms" / name / "dumps"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


# ---- content ----

def test_dump_of_running_guest_reads_in_gdb(daemon, guest, kvm, tmp_path):
    console = begin(daemon, guest, vcpus=2)
    console.run(f"wr64 {AT} {MARK}")
    core = tmp_path / "core"
    assert daemon.cairn("dump", "vm1", str(core)).stdout.splitlines()[0] == f"Domain 'vm1' dumped to {core}"
    assert [x for x in os.listdir(tmp_path) if x.startswith("core.")] == []
    assert core.stat().st_mode & 0o777 == 0o600
    # Sparse: most memory was never touched.
    assert core.stat().st_size > 64 << 20 and core.stat().st_blocks * 512 < 8 << 20
    text = gdb(core, "info threads", "info registers rip", f"x/gx {AT}")
    assert "LWP 1" in text and "LWP 2" in text
    assert f"{MARK:#x}" in text
    # The vCPU halts or waits for its serial port, in the guest's own code.
    assert re.search(r"rip\s+0x[0-9a-f]+\s+0x[0-9a-f]+ <\w+", text), text
    elf = subprocess.run(["readelf", "-hlnW", str(core)], text=True, stdout=subprocess.PIPE, check=True).stdout
    assert "CORE (Core file)" in elf and elf.count("NT_PRSTATUS") == 2 and elf.count("  QEMU ") == 2
    assert re.search(r"LOAD\s+0x001000 0x0+ 0x0+ 0x4000000 0x4000000", elf)
    # The guest continues undisturbed.
    assert console.run(f"rd64 {AT}") == [f"{MARK:#x}"]
    console.close()


def test_dump_shows_memory_of_one_instant(daemon, guest, kvm, tmp_path):
    """A guest that writes all the time: each write to a page raises its number and the sum of all numbers."""
    console = begin(daemon, guest, vcpus=2)
    console.run(f"storm start 1 {AT} 0x1000000")
    sums = []
    for n in range(3):
        while int(re.search(r" total=(\d+) ", console.run("storm check")[0]).group(1)) <= sum(sums[-1:]):
            pass  # the vCPU gets CPU time at some point
        core = tmp_path / f"live{n}"
        daemon.cairn("dump", "vm1", str(core), "--live", "--memory-only", "--format", "elf")
        total, numbers = storm_of(core)
        assert total <= sum(numbers) <= total + 1
        sums.append(total)
    assert 0 < sums[0] < sums[1] < sums[2]
    console.run("storm check")
    # Two dumps of a paused VM have the same memory, whichever way they were written.
    daemon.cairn("suspend", "vm1")
    daemon.cairn("dump", "vm1", str(tmp_path / "a"))
    daemon.cairn("dump", "vm1", str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert state(daemon) == "paused (user)"
    console.close()


def test_dump_with_crash_or_reset_option(daemon, guest, kvm, tmp_path):
    console = begin(daemon, guest)
    console.run(f"wr64 {AT} {MARK}")
    daemon.cairn("dump", "vm1", str(tmp_path / "a"), "--reset")
    while console.line() != "interp":
        pass
    assert console.run(f"rd64 {AT}") == ["0x0"]
    daemon.cairn("dump", "vm1", str(tmp_path / "b"), "--crash")
    assert state(daemon) == "shut off (destroyed)"
    assert (word(tmp_path / "a"), word(tmp_path / "b")) == (MARK, 0)
    console.close()


def test_dump_after_a_snapshot_and_of_a_clone(daemon, guest, kvm, tmp_path):
    """The memory is tracked after the snapshot, and shared with the source in the clone."""
    console = begin(daemon, guest)
    console.run(f"wr64 {AT} {MARK}")
    daemon.cairn("managedsave", "vm1")
    daemon.cairn("start", "vm1")
    daemon.cairn("dump", "vm1", str(tmp_path / "a"))
    daemon.cairn("clone", "vm1", "copy", "--live")
    daemon.cairn("dump", "copy", str(tmp_path / "b"))
    daemon.cairn("destroy", "copy")
    assert (word(tmp_path / "a"), word(tmp_path / "b")) == (MARK, MARK)
    console.close()


# ---- failures ----

def test_impossible_dumps_are_refused(fake, tmp_path):
    fake.define("vm1")
    core = str(tmp_path / "core")
    assert "a dump or screenshot works when it is running" in fake.cairn("dump", "vm1", core, ok=4).stderr
    fake.cairn("start", "vm1")
    assert "exclude each other" in fake.cairn("dump", "vm1", core, "--crash", "--live", ok=2).stderr
    assert "only ELF" in fake.cairn("dump", "vm1", core, "--format", "kdump-zlib", ok=2).stderr
    r = fake.cairn("dump", "vm1", str(tmp_path), ok=None)
    assert r.returncode and "is not a regular file" in r.stderr
    assert fake.cairn("dump", "none", core, ok=3)
    assert not os.path.exists(core)
    with open(core, "w") as f:
        f.write("mine")
    q = fake.qmp()
    with open(core, "rb+") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": {"vm": "vm1"}}).encode()], [f.fileno()])
        assert q.answer()["error"]["desc"] == "the file is not empty"
    with open(core) as f:
        assert f.read() == "mine"
    with open(core + "2", "ab") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": {"vm": "vm1"}}).encode()], [f.fileno()])
        assert "appending" in q.answer()["error"]["desc"]


def test_failed_or_cancelled_dump_leaves_no_file(fake, tmp_path):
    fake.define("vm1", cmdline="work-fails")
    fake.cairn("start", "vm1")
    core = tmp_path / "core"
    core.write_text("\x7fELF older")
    r = fake.cairn("dump", "vm1", str(core), ok=None)
    assert r.returncode and r.stderr.startswith(f"error: Failed to core dump domain 'vm1' to {core}\n")
    assert core.read_text() == "\x7fELF older" and [x for x in os.listdir(tmp_path) if x.startswith("core.")] == []
    assert state(fake) == "running (booted)"
    ev = fake.qmp().run("query-events", event="DUMP_COMPLETED")["events"][-1]["data"]
    assert ev["result"]["status"] == "failed" and "no space left" in ev["error"]


def test_cancelled_dump_lets_the_vm_run(fake, tmp_path):
    fake.define("vm1", cmdline="work-takes=60000")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    env = {**fake.env}
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "dump", "vm1", str(tmp_path / "core")], env=env,
                         stderr=subprocess.PIPE, text=True)
    job = q.event("JOB_STATUS_CHANGE", vm="vm1", status="running", type="dump")["data"]["id"]
    assert job in fake.cairn("save", "vm1", str(tmp_path / "s"), ok=6).stderr
    p.send_signal(signal.SIGINT)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert p.wait(50) != 0 and "cancelled" in p.stderr.read()
    p.stderr.close()
    assert [x for x in os.listdir(tmp_path) if x.startswith("core")] == []
    assert state(fake) == "running (booted)"


# ---- QMP ----

def test_qmp_dump_guest_memory(daemon, guest, kvm, tmp_path):
    console = begin(daemon, guest)
    console.run(f"wr64 {AT} {MARK}")
    q = own_socket(daemon)
    assert q.run("query-dump") == {"status": "none", "completed": 0, "total": 0}
    assert q.run("query-dump-guest-memory-capability") == {"formats": ["elf"]}
    a, b, c = (str(tmp_path / x) for x in "abc")
    assert q.run("dump-guest-memory", paging=False, protocol=f"file:{a}") == {}
    done = q.event("DUMP_COMPLETED")["data"]
    assert done == {"result": {"status": "completed", "completed": 64 << 20, "total": 64 << 20}}
    assert q.run("query-dump") == done["result"]
    # As libvirt does.
    with open(b, "wb") as f:
        socket.send_fds(q.sock, [b'{"execute":"getfd","arguments":{"fdname":"dump"}}'], [f.fileno()])
        assert q.answer()["return"] == {}
    q.run("dump-guest-memory", paging=False, protocol="fd:dump", detach=True)
    q.event("DUMP_COMPLETED")
    assert word(a) == word(b) == MARK
    with pytest.raises(QmpError, match="'dump' not found"):
        q.run("dump-guest-memory", paging=False, protocol="fd:dump")
    with open(c, "wb") as f:
        socket.send_fds(q.sock, [b'{"execute":"getfd","arguments":{"fdname":"x"}}'], [f.fileno()])
        assert q.answer()["return"] == {}
    assert q.run("closefd", fdname="x") == {}
    for args, why in (({"paging": True}, "paging"), ({"begin": 0, "length": 4096}, "begin, length"),
                      ({"format": "kdump-lzo"}, "kdump-lzo"), ({"protocol": "tcp:x"}, "must start with"),
                      ({"protocol": "file:x"}, "absolute"), ({"protocol": f"file:{a}"}, "not an empty regular file"),
                      ({"protocol": f"file:{tmp_path}/no/x"}, "No such file")):
        with pytest.raises(QmpError, match=why):
            q.run("dump-guest-memory", **{"paging": False, "protocol": f"file:{c}2", **args})
    assert not os.path.exists(c + "2")
    assert q.run("query-jobs") == []
    q.close()
    console.close()


def test_stored_file_belongs_to_its_client(fake, tmp_path):
    """Another client of the VM's socket can neither use, close nor replace a file that getfd has stored, and the file
    is closed when its client disconnects."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    mine, other = own_socket(fake), own_socket(fake)
    for q, path in ((mine, tmp_path / "mine"), (other, tmp_path / "other")):
        with open(path, "wb") as f:
            socket.send_fds(q.sock, [b'{"execute":"getfd","arguments":{"fdname":"x"}}'], [f.fileno()])
            assert q.answer()["return"] == {}
    assert other.run("closefd", fdname="x") == {}
    with pytest.raises(QmpError, match="'x' not found"):
        other.run("dump-guest-memory", paging=False, protocol="fd:x")
    assert mine.run("closefd", fdname="x") == {}
    with open(tmp_path / "mine", "wb") as f:
        socket.send_fds(mine.sock, [b'{"execute":"getfd","arguments":{"fdname":"x"}}'], [f.fileno()])
        assert mine.answer()["return"] == {}
    mine.close()
    until(lambda: not set(fake.all_children()) - set(fake.children()) - {fake.log_process()})


def test_failed_qmp_dump_removes_its_file(fake, tmp_path):
    fake.define("vm1", cmdline="work-fails")
    fake.cairn("start", "vm1")
    q = own_socket(fake)
    with pytest.raises(QmpError, match="no space left"):
        q.run("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/core")
    assert q.run("query-dump")["status"] == "failed"
    assert "error" in q.event("DUMP_COMPLETED")["data"]
    until(lambda: not os.path.exists(tmp_path / "core"))
    q.close()


# ---- on_crash and the watchdog ----

@pytest.mark.parametrize("how, reason", [("triple", "triple fault"), ("panic", "guest panicked"),
                                         ("emulation", "emulation failure")])
def test_coredump_destroy_dumps_and_ends_vm(daemon, guest, kvm, how, reason):
    console = begin(daemon, guest, on_crash="coredump-destroy")
    console.run(f"wr64 {AT} {MARK}")
    q = daemon.qmp()
    console.sock.sendall(f"crash {how}\n".encode())
    done = q.event("DUMP_COMPLETED", vm="vm1")["data"]
    daemon.wait("vm1", "crashed")
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    assert state(daemon) == f"crashed ({reason})"
    assert cores(daemon) == [os.path.basename(done["path"])]
    assert re.fullmatch(r"vm1-\d{8}T\d{6}Z\.core", cores(daemon)[0])
    assert word(done["path"]) == MARK
    until(lambda: daemon.children() == [])
    console.close()
    # No progress event: the dump was too short.
    (job,) = daemon.qmp().jobs()
    assert job["status"] == "concluded" and job["current-progress"] == job["total-progress"] > 0
    daemon.cairn("undefine", "vm1")
    until(lambda: not (daemon.state / "vms" / "vm1").exists())


def test_coredump_restart_keeps_two_dumps(daemon, guest, kvm):
    q = daemon.qmp()
    console = begin(daemon, guest, on_crash="coredump-restart")
    paths = []
    for n in range(3):
        console.sock.sendall(b"crash triple\n")
        paths.append(q.event("DUMP_COMPLETED", vm="vm1")["data"]["path"])
        q.event("VM_STATE_CHANGE", vm="vm1", state="running")
        console.close()
        console = Console(daemon, "vm1")
        while console.line() != "interp":
            pass
        until(lambda: int(time.time()) != int(os.stat(paths[-1]).st_mtime))  # so that the next one has another name
    until(lambda: cores(daemon) == sorted(os.path.basename(p) for p in paths[1:]))
    console.close()


def test_older_dumps_stay_until_the_new_one_is_stored(fake):
    """Nothing below the folder of dumps is stored before the file `go` exists."""
    if SANITIZED:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    go, dumps = fake.tmp / "go", fake.state / "vms/vm1/dumps"
    fake.stop()
    fake.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "/dumps", "SLOW_SYNC_UNTIL": str(go)}
    fake.start()
    fake.define("vm1", cmdline="crash-after=1", on_crash="coredump-destroy")
    dumps.mkdir()
    for n in range(2):
        (dumps / f"vm1-{n}.core").touch()
        os.utime(dumps / f"vm1-{n}.core", (n, n))
    q = fake.qmp()
    fake.cairn("start", "vm1")
    new = os.path.basename(q.event("DUMP_COMPLETED", vm="vm1")["data"]["path"])
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    assert sorted(cores(fake)) == sorted(["vm1-0.core", "vm1-1.core", new])
    go.touch()
    until(lambda: sorted(cores(fake)) == sorted(["vm1-1.core", new]))


@contextlib.contextmanager
def dump_that_hangs(q, tmp_path, **options):
    """Begin a dump of vm1 whose file reaches the disk only after release()."""
    with fuse(tmp_path / "fuse", core=b"") as f:
        f.hang(Op.FSYNC)
        with open(f["core"], "r+b", buffering=0) as core:
            socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": {"vm": "vm1", **options}}).encode()], [core.fileno()])
        until(lambda: f.hanging())
        yield f


def test_dump_is_stored_before_its_job_ends(daemon, guest, kvm, tmp_path):
    console, q = begin(daemon, guest), daemon.qmp()
    with dump_that_hangs(q, tmp_path) as f:
        assert [j["status"] for j in daemon.qmp().run("query-jobs")] == ["running"]
        console.run(f"wr64 {AT} {MARK}")  # the guest runs meanwhile
        f.release()
        q.event("JOB_STATUS_CHANGE", status="concluded")
        assert "error" not in q.run("query-jobs")[0]
    console.close()


def test_crash_without_daemon_is_dumped_by_next_daemon(daemon, guest, kvm):
    console = begin(daemon, guest, on_crash="coredump-destroy")
    pid = daemon.info("vm1")["pid"]
    daemon.stop(signal.SIGKILL)
    console.sock.sendall(b"crash triple\n")
    console.close()
    log = daemon.state / "vms" / "vm1" / "log"
    until(lambda: "triple fault" in log.read_text())
    assert os.path.exists(f"/proc/{pid}")
    daemon.start()
    daemon.wait("vm1", "crashed")
    until(lambda: state(daemon) == "crashed (triple fault)" and has_ended(pid))
    assert len(cores(daemon)) == 1 and cores(daemon)[0].endswith(".core")


@pytest.mark.parametrize("then", ["--reset", "--crash"])
def test_vm_runs_if_its_dump_ends_without_a_daemon(daemon, guest, kvm, tmp_path, then):
    """The dump has left the VM paused, and no daemon knows what is to follow."""
    begin(daemon, guest).close()
    with fuse(tmp_path / "fuse") as f:
        f.hang(Op.FSYNC)
        core, pid = f["core"], daemon.info("vm1")["pid"]
        with subprocess.Popen([os.path.join(BUILD, "cairn"), "dump", "vm1", core, then], env=daemon.env) as p:
            until(lambda: Op.FSYNC in f.hanging())
            assert daemon.info("vm1")["state"] == "paused"
            daemon.stop(signal.SIGKILL)
            f.release()  # with Linux 6.1, the end of a process that has the file open waits for this
            assert p.wait() != 0
        until(lambda: not any(path.startswith(core) for path in open_files(pid)))
        daemon.start()
        assert daemon.info("vm1")["state"] == "running"
        daemon.cairn("destroy", "vm1")


def test_failed_dump_does_not_block_on_crash_action(fake):
    fake.define("vm1", cmdline="crash-after=300 work-fails", on_crash="coredump-destroy")
    q = fake.qmp()
    fake.cairn("start", "vm1")
    assert q.event("DUMP_COMPLETED", vm="vm1")["data"]["result"]["status"] == "failed"
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    assert cores(fake) == []


def test_dump_that_cannot_begin_does_not_block_on_crash_action(fake):
    fake.define("vm1", cmdline="crash-after=300", on_crash="coredump-destroy")
    (fake.state / "vms/vm1/dumps").write_text("in the way")
    q = fake.qmp()
    fake.cairn("start", "vm1")
    assert q.event("DUMP_COMPLETED", vm="vm1")["data"]["result"]["status"] == "failed"
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")


def test_dump_after_crash_waits_for_end_of_work(fake, tmp_path):
    """The dump waits for the end of the work."""
    fake.define("vm1", cmdline=f"crash-after=1 when={tmp_path}/crash work-until={tmp_path}/go",
                on_crash="coredump-destroy")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    fake.cairn("dump", "vm1", str(tmp_path / "core"), "--no-wait")
    (tmp_path / "crash").touch()
    q.event("VM_STATE_CHANGE", vm="vm1", state="preserved")
    (tmp_path / "go").touch()
    assert "path" not in q.event("DUMP_COMPLETED", vm="vm1")["data"] or cores(fake) == []
    assert q.event("DUMP_COMPLETED", vm="vm1")["data"]["path"].endswith(".core")
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    assert len(cores(fake)) == 1


@pytest.mark.parametrize("option, ends", [(None, "running"), ("crash", "shutoff"), ("reset", "running")])
def test_next_daemon_adopts_dump(fake, tmp_path, option, ends):
    """The VM's process continues the dump, and the next daemon performs the action that the user wanted
    afterwards."""
    go, core = tmp_path / "go", tmp_path / "core"
    fake.define("vm1", cmdline=f"work-until={go}", on_crash="destroy")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    with open(core, "wb") as f:
        args = {"vm": "vm1", **({"then": option} if option else {})}
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": args}).encode()], [f.fileno()])
        was = q.answer()["return"]["job"]
    until(lambda: q.jobs()[-1]["current-progress"] > 0)  # the process has the request
    for _ in range(2):
        fake.stop(signal.SIGKILL)
        fake.start()
        q = fake.qmp()
        until(lambda: fake.info("vm1").get("job") == was)  # the daemon has adopted the process
        assert q.jobs()[-1]["status"] == "running"
    with pytest.raises(QmpError, match=f"job {was} "):
        q.run("vm-managed-save", vm="vm1")
    go.touch()
    assert q.event("DUMP_COMPLETED", vm="vm1")["data"]["result"]["status"] == "completed"
    q.event("JOB_STATUS_CHANGE", id=was, status="concluded")
    assert core.read_text() == "core" and "error" not in q.jobs()[-1]
    fake.wait("vm1", ends)
    assert bool(option == "reset") == bool(q.run("query-events", event="RESET")["events"])


def test_next_daemon_adopts_dump_of_a_guest(daemon, guest, kvm, tmp_path):
    console, q = begin(daemon, guest), daemon.qmp()
    with dump_that_hangs(q, tmp_path, then="reset") as f:
        daemon.stop(signal.SIGKILL)
        daemon.start()
        q = daemon.qmp()
        assert [(j["type"], j["status"]) for j in q.run("query-jobs")] == [("dump", "running")]
        f.release()
        q.event("RESET", vm="vm1")
        q.event("JOB_STATUS_CHANGE", status="concluded")
        assert "error" not in q.run("query-jobs")[0]
    console.close()


def test_next_daemon_adopts_dump_by_policy(fake, tmp_path):
    """The daemon does not repeat the dump, and ends the process only when the dump is complete."""
    go = tmp_path / "go"
    fake.define("vm1", cmdline=f"crash-after=1 work-until={go}", on_crash="coredump-destroy")
    fake.cairn("start", "vm1")
    until(lambda: [n for n in cores(fake) if n.endswith(".tmp")])
    (name,) = cores(fake)
    fake.stop(signal.SIGKILL)
    fake.start()
    q = fake.qmp()
    assert fake.info("vm1")["job"] and cores(fake) == [name]
    go.touch()
    assert q.event("DUMP_COMPLETED", vm="vm1")["data"]["path"].endswith(name[:-len(".tmp")])
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    assert cores(fake) == [name[:-len(".tmp")]]
    assert len(q.run("query-events", event="DUMP_COMPLETED")["events"]) == 1


def test_watchdog_dump_lets_the_vm_run_on(daemon, guest, kvm):
    console = begin(daemon, guest, watchdog={"action": "dump"})
    vm, q = own_socket(daemon), daemon.qmp()
    console.run("watchdog start 40")
    assert q.event("WATCHDOG", vm="vm1")["data"]["action"] == "dump"
    path = q.event("DUMP_COMPLETED", vm="vm1")["data"]["path"]
    q.event("RESUME", vm="vm1")
    assert os.path.basename(path) in cores(daemon)
    assert [vm.event(e)["data"] for e in ("WATCHDOG", "STOP")] == [{"action": "pause"}, {}]
    vm.event("RESUME")
    console.run("watchdog show")
    vm.close()
    console.close()


@pytest.mark.parametrize("keys, words", [({"on_crash": "coredump-restart"}, "on_crash"),
                                         ({"watchdog": {"action": "dump"}}, "watchdog.action")])
def test_coredump_actions_need_a_daemon(fake, keys, words):
    r = fake.cairn("run", fake.write("vm1", **keys), ok=None)
    assert r.returncode and words in r.stderr and "daemon" in r.stderr
