"""The daemon: VM processes that die, daemons that die, state that survives."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from conftest import BUILD, FAKE_VM, Daemon, QmpError, has_ended, open_files, until


def pid_of(daemon, name):
    return daemon.info(name)["pid"]


# ---- a VM process that fails ----

def test_killed_vm_process_leaves_other_vms(fake):
    fake.define("vm1")
    fake.define("vm2")
    fake.cairn("start", "vm1", "vm2")
    q = fake.qmp()
    os.kill(pid_of(fake, "vm1"), signal.SIGKILL)
    ev = q.event("VM_STATE_CHANGE", vm="vm1")
    assert ev["data"]["state"] == "crashed" and ev["data"]["reason"] == "killed"
    info = fake.info("vm1")
    assert info["exit-signal"] == 9 and info["id"] == -1
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed)\n"
    assert fake.cairn("domstate", "vm2").stdout == "running\n"
    fake.cairn("suspend", "vm2")
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["state"] == "running"


@pytest.mark.parametrize("how, cls, words", [
    ("die-at-config", "GenericError", "exit status 5"),
    ("kill-at-config", "GenericError", "signal 9"),
    ("refuse", "Busy", "vda: is locked by another process"),
    ("garbage-at-config", "GenericError", "before it answered"),
])
def test_failed_start_is_reported_and_can_be_repeated(fake, how, cls, words):
    fake.define("vm1", cmdline=how)
    fake.define("ok")
    q = fake.qmp()
    with pytest.raises(QmpError) as e:
        q.run("vm-start", vm="vm1")
    assert e.value.cls == cls and words in e.value.desc
    info = q.run("vm-info", vm="vm1")
    assert info["state"] == "shutoff" and info["reason"] == "failed" and words in info["detail"]
    q.run("vm-start", vm="ok")
    for _ in range(10):  # each answer comes when the process has ended
        with pytest.raises(QmpError) as e:
            q.run("vm-start", vm="vm1")
        assert e.value.cls == cls and words in e.value.desc
        assert fake.children() == [fake.info("ok")["pid"]]
    q.run("vm-undefine", vm="vm1")


@contextlib.contextmanager
def held_at_exit(pid):
    """Keep a process from ending, also after SIGKILL, as the kernel does with one that waits for a dead disk."""
    seize, detach, trace_exit, wall = 0x4206, 17, ctypes.c_void_p(1 << 6), 1 << 30
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(seize, pid, None, trace_exit):
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.waitpid(pid, wall)  # until it stops at its exit
        libc.ptrace(detach, pid, None, None)


def test_failed_start_is_answered_although_its_process_does_not_end(fake):
    fake.define("vm1", cmdline=f"refuse lingers-until={fake.tmp}/never")
    starter, q = fake.qmp(), fake.qmp()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    with held_at_exit(fake.children()[0]):
        assert "vda: is locked by another process" in starter.answer()["error"]["desc"]  # 5 s after SIGKILL
        for command in ("vm-start", "vm-undefine"):
            with pytest.raises(QmpError) as e:
                q.run(command, vm="vm1")
            assert e.value.cls == "Busy" and "its old process is still ending" in e.value.desc
        assert "was killed, but has not ended" in fake.log.read_text()
    until(lambda: not fake.children())
    fake.define("vm1")
    q.run("vm-start", vm="vm1")


def test_start_fails_when_program_is_missing_or_dies(tmp_path):
    d = Daemon(tmp_path, vm_program="/nonexistent/cairn-vm")
    try:
        d.define("vm1")
        r = d.cairn("start", "vm1", ok=7)
        assert "Failed to start domain 'vm1'" in r.stderr and "/nonexistent/cairn-vm" in r.stderr
    finally:
        d.close()
    d = Daemon(tmp_path, vm_program="/bin/false")
    try:
        assert "exit status 1" in d.cairn("start", "vm1", ok=1).stderr
    finally:
        d.close()


def test_process_that_dies_before_its_configuration_is_sent_or_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VM", "die-at-start")
    d = Daemon(tmp_path, vm_program=os.path.join(BUILD, "helpers", "fake_vm"))
    try:
        d.define("vm1")
        for _ in range(20):
            assert "the VM's process ended (exit status 9)" in d.cairn("start", "vm1", ok=1).stderr
    finally:
        d.close()


def test_destroy_ends_hanging_start(fake):
    fake.define("vm1", cmdline="silent-at-config")
    starter, q = fake.qmp(), fake.qmp()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    # Queries are answered meanwhile, and requests that exclude a start say so.
    assert q.run("vm-info", vm="vm1")["state"] == "shutoff"
    for command in ("vm-start", "vm-undefine"):
        with pytest.raises(QmpError) as e:
            q.run(command, vm="vm1")
        assert e.value.cls == "Busy" and "is being started" in e.value.desc
    q.run("vm-destroy", vm="vm1")
    assert starter.answer()["error"]["class"] == "Cancelled"
    q.run("vm-undefine", vm="vm1")


def test_start_continues_when_client_disconnects(fake):
    fake.define("vm1", cmdline="silent-at-config")
    q = fake.qmp()
    q.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    q.close()
    other = fake.qmp()
    other.run("vm-destroy", vm="vm1")
    assert other.run("vm-info", vm="vm1")["state"] == "shutoff"


def test_garbage_from_vm_process_ends_vm(fake):
    fake.define("vm1", cmdline="garbage-after=50")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    assert "violated the protocol" in fake.info("vm1")["detail"]
    assert "violated the protocol" in fake.log.read_text()


def test_destroy_kills_process_that_ignores_quit(fake):
    fake.define("vm1", cmdline="stubborn")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    fake.cairn("destroy", "vm1")
    assert has_ended(pid)
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (destroyed)\n"


@pytest.mark.parametrize("how, shown, reason, state", [
    ("off-after=30", "shut off", "shutdown", "shutoff"),
    ("exit-after=30:42", "shut off", "debug exit", "shutoff"),
    ("panic-after=30", "crashed", "guest panicked", "crashed"),
    ("kill-after=30", "crashed", "killed", "crashed"),
    ("crash-after=30", "crashed", "triple fault", "preserved"),
])
def test_each_kind_of_end_is_reported(fake, how, shown, reason, state):
    """Events, vm-info, vm-list and the state folder have one word for a state; people read virsh's."""
    fake.define("vm1", cmdline=how)
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state=state)
    info = q.run("vm-info", vm="vm1")
    assert (info["state"], info["reason"], info["word"]) == (state, reason, state)
    assert [(vm["state"], vm["word"]) for vm in q.run("vm-list")["vms"]] == [(state, state)]
    assert fake.cairn("domstate", "vm1").stdout == shown + "\n"
    assert f" {shown}\n" in fake.cairn("list", "--all").stdout
    assert json.loads(fake.cairn("domstate", "vm1", "--format", "json").stdout)["state"] == state
    if "exit" in how:
        assert info["value"] == 42 and info["exit-status"] == 42
    if state != "preserved":
        until(lambda: (fake.kept("vm1").get("state"), fake.kept("vm1").get("reason")) == (state, reason))
        assert fake.kept("vm1")["version"] == 2


def test_a_preserved_crash_is_started_only_after_destroy(fake):
    fake.define("vm1", cmdline="crash-after=10")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    r = fake.cairn("start", "vm1", ok=4)
    assert "its process is kept" in r.stderr and "Next: cairn destroy vm1" in r.stderr
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm1")


def test_io_error_pauses_with_its_reason(fake):
    fake.define("vm1", cmdline="io-error-after=30")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    ev = q.event("BLOCK_IO_ERROR", vm="vm1")
    assert ev["data"]["device"] == "vda" and ev["data"]["nospace"] is True
    q.event("STOP", vm="vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (I/O error)\n"
    fake.cairn("resume", "vm1")


def test_text_from_vm_process_is_sanitized(fake):
    fake.define("vm1", cmdline="rude-after=10")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    assert fake.info("vm1")["detail"] == "?[2J??("
    fake.stop()
    fake.start()  # its state file is valid
    assert fake.info("vm1")["reason"] == "guest panicked"
    assert "damaged" not in fake.log.read_text()


def test_hanging_vm_process_times_out(fake):
    fake.define("silent", cmdline="silent-at-config")
    fake.define("mute", cmdline="mute")
    q, starter, suspender = fake.qmp(), fake.qmp(), fake.qmp()

    def reported_soon():
        """The daemon reports its own knowledge, without the process's answer."""
        asked = time.monotonic()
        assert q.run("vm-info", vm="mute")["state"] == "running"
        return time.monotonic() - asked < 9

    begin = time.monotonic()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"silent"}}')
    q.run("vm-start", vm="mute")
    suspender.send(b'{"execute":"vm-suspend","arguments":{"vm":"mute"}}')
    until(reported_soon)  # at once, unless the machine stands still
    e = suspender.answer()["error"]
    assert e["class"] == "Timeout" and "did not answer in time" in e["desc"]
    suspended = time.monotonic()
    assert 9 < suspended - begin
    e = starter.answer()["error"]
    assert e["class"] == "Timeout"
    assert 29 < time.monotonic() - begin and suspended < time.monotonic() - 9
    assert q.run("vm-info", vm="silent")["reason"] == "failed"
    assert q.run("vm-info", vm="mute")["state"] == "running"
    q.run("vm-destroy", vm="mute")


# ---- policies ----

def test_on_crash_restart_gives_up(fake):
    fake.define("vm1", cmdline="kill-after=5", on_crash="restart")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for _ in range(3):  # at once, after 1 s, after 2 s
        q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
        q.event("VM_STATE_CHANGE", vm="vm1", state="running")
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    q.run("vm-undefine", vm="vm1")  # also while a restart is pending
    assert q.run("vm-list")["vms"] == []


def test_reboot_restarts_vm(fake):
    fake.define("vm1")
    q = fake.qmp()
    first = q.run("vm-start", vm="vm1")["id"]
    q.run("vm-reboot", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    q.event("VM_STATE_CHANGE", vm="vm1", state="running")
    assert q.run("vm-info", vm="vm1")["id"] > first


# ---- daemons that end ----

def test_definitions_survive_daemon(fake):
    fake.define("vm1", title="the first")
    fake.define("vm2")
    before = fake.cairn("dumpjson", "vm1").stdout
    assert fake.stop() == 0
    assert not os.path.exists(fake.socket)
    fake.start()
    assert fake.cairn("dumpjson", "vm1").stdout == before
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\nvm2\n"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_vms_survive_daemon(fake, sig):
    for name in ("vm1", "vm2", "vm3"):
        fake.define(name)
    fake.cairn("start", "vm1", "vm2")
    fake.cairn("suspend", "vm2")
    pids = [pid_of(fake, "vm1"), pid_of(fake, "vm2")]
    fake.stop(sig)
    assert not any(map(has_ended, pids))
    fake.start()
    assert [pid_of(fake, "vm1"), pid_of(fake, "vm2")] == pids
    assert fake.cairn("domstate", "vm1").stdout == "running\n"
    assert fake.cairn("domstate", "--reason", "vm2").stdout == "paused (user)\n"
    assert fake.cairn("domstate", "vm3").stdout == "shut off\n"
    fake.cairn("resume", "vm2")
    # The VM's death is noticed although it is no child of this daemon.
    q = fake.qmp()
    os.kill(pids[0], signal.SIGKILL)
    ev = q.event("VM_STATE_CHANGE", vm="vm1")
    assert (ev["data"]["state"], ev["data"]["reason"]) == ("crashed", "killed")
    fake.cairn("destroy", "vm2")


@pytest.mark.parametrize("how, state", [
    ("off-after=1", "shut off (shutdown)"),
    ("exit-after=1:3", "shut off (debug exit)"),
    ("panic-after=1", "crashed (guest panicked)"),
    ("kill-after=1", "crashed (killed)"),
])
def test_end_without_daemon_is_known_to_next_daemon(fake, how, state):
    fake.define("vm1", cmdline=f"{how} when={fake.tmp}/go")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    until(lambda: has_ended(pid))
    fake.start()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == state + "\n"
    fake.cairn("start", "vm1")


def test_a_second_daemon_is_refused(fake, tmp_path):
    cairnd = os.path.join(BUILD, "cairnd")
    # Refused: the same state folder with another socket.
    r = subprocess.run([cairnd, "--state-dir", str(fake.state), "--socket", str(tmp_path / "o.sock")],
                       capture_output=True, text=True)
    assert r.returncode == 6 and f"another cairnd (pid {fake.proc.pid})" in r.stderr
    # Refused: another state folder with the same socket.
    r = subprocess.run([cairnd, "--state-dir", str(tmp_path / "other"), "--socket", fake.socket],
                       capture_output=True, text=True)
    assert r.returncode == 6 and "another daemon listens" in r.stderr
    assert fake.qmp().run("query-version")


def test_stale_socket_is_replaced_but_no_other_file(fake, tmp_path):
    fake.stop(signal.SIGKILL)
    assert os.path.exists(fake.socket)
    fake.start()
    fake.stop()
    open(fake.socket, "w").close()
    r = subprocess.run(fake.command(), env=fake.env, capture_output=True, text=True)
    assert r.returncode != 0 and "is not a socket" in r.stderr
    os.unlink(fake.socket)
    fake.start()


def test_socket_is_private(fake):
    assert os.stat(fake.socket).st_mode & 0o777 == 0o600
    assert os.stat(fake.state / "run").st_mode & 0o777 == 0o700
    assert os.stat(fake.state / "vms").st_mode & 0o777 == 0o700


def test_user_without_role_learns_nothing(shared):
    shared.define("secret")
    # The user can connect, but the socket's mode is not the only guard.
    os.chmod(shared.socket, 0o666)
    script = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r}); s.recv(9999)\n"
        "s.sendall(b'{\"execute\":\"qmp_capabilities\"}'); s.recv(9999)\n"
        "for c in sys.argv[1:]:\n"
        "    s.sendall(b'{\"execute\":\"' + c.encode() + b'\",\"arguments\":{\"vm\":\"secret\"}}')\n"
        "    print(s.recv(9999).decode().strip())\n")
    names = [c["name"] for c in shared.qmp().run("query-commands") if c["name"].startswith("vm-")]
    names.remove("vm-list")
    r = subprocess.run(["/usr/bin/python3", "-c", script, *names], user=65534,
                       group=65534, extra_groups=[], capture_output=True, text=True)
    lines = r.stdout.splitlines()
    assert len(lines) == len(names), r.stderr
    for name, line in zip(names, lines):
        e = json.loads(line)["error"]
        assert e["class"] == "PermissionDenied" and e["desc"].startswith(name + " requires the role ")
        # Nobody can be made an admin for one VM.
        assert name == "vm-define" or ("the role admin" in e["desc"]) <= ("for all VMs" in e["desc"])


def test_too_long_socket_path_is_refused(tmp_path):
    path = str(tmp_path / ("x" * 120))
    for program, args in (("cairnd", ["--state-dir", str(tmp_path / "s"), "--socket", path]),
                          ("cairn", ["-c", path, "list"])):
        r = subprocess.run([os.path.join(BUILD, program), *args], capture_output=True, text=True)
        assert r.returncode != 0 and "at most 107 bytes" in r.stderr


def test_long_vm_names_and_deep_folders_work(tmp_path):
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    d = Daemon(tmp_path, vm_program=os.path.join(BUILD, "helpers", "fake_vm"))
    d.stop()
    d.state = deep / "state"
    d.start()
    try:
        names = ["n" * 255, "n" * 254 + "m", "ä ö"]
        for n in names:
            d.define(n)
        d.cairn("start", *names)
        assert len(d.cairn("list", "--name").stdout.splitlines()) == 3
        d.stop(signal.SIGKILL)
        d.start()
        assert len(d.cairn("list", "--name").stdout.splitlines()) == 3
    finally:
        d.close()


def old_socket_name(name):
    """Return the name that older daemons gave the socket of a VM with a long name: its 64-bit FNV-1a hash."""
    h = 0xcbf29ce484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001b3 & (1 << 64) - 1
    return f"{h:016x}"


def test_no_vm_gets_socket_of_another(fake):
    """A VM may have the hash of a long name as its name, or a part of the long name."""
    long = "n" * 200
    names = [long, old_socket_name(long), long[:72], long[:73], long[:144], long[72:] + "m"]
    for n in names:
        fake.define(n)
    fake.cairn("start", *names)
    pids = [pid_of(fake, n) for n in names]
    fake.stop(signal.SIGKILL)
    fake.start()
    assert [pid_of(fake, n) for n in names] == pids and len(set(pids)) == len(pids)
    fake.cairn("destroy", *names)
    assert list((fake.state / "run").iterdir()) == []


def sockets(fake):
    return [p for p in (fake.state / "run").rglob("*") if p.is_socket()]


@pytest.mark.parametrize("name", ["vm1", "n" * 100, "n" * 255], ids=len)
def test_vms_of_older_daemon_are_found_by_old_socket_name(fake, name):
    fake.define(name)
    fake.cairn("start", name)
    pid = pid_of(fake, name)
    fake.stop(signal.SIGKILL)
    run = fake.state / "run"
    found, = sockets(fake)
    found.rename(run / ((name if len(name) <= 72 else old_socket_name(name)) + ".vm"))
    fake.start()
    assert pid_of(fake, name) == pid
    fake.cairn("destroy", name)
    # A socket with a hash in its name stays: another VM may have it.
    assert len(sockets(fake)) == (len(name) > 72)
    fake.cairn("start", name)
    pid = pid_of(fake, name)
    fake.stop(signal.SIGKILL)
    fake.start()
    assert pid_of(fake, name) == pid


def test_socket_of_older_daemons_vm_is_no_other_vms(fake):
    """A VM whose name is the hash of a long name neither adopts the process with that socket nor removes the socket."""
    long = "n" * 200
    short = old_socket_name(long)
    fake.define(long)
    fake.define(short)
    fake.cairn("start", long)
    pid = pid_of(fake, long)
    fake.stop()
    old, = sockets(fake)
    old = old.rename(fake.state / "run" / (short + ".vm"))
    for _ in range(2):
        fake.start()
        assert pid_of(fake, long) == pid
        assert fake.info(short)["state"] == "shutoff"
        fake.cairn("start", short)
        assert pid_of(fake, short) != pid
        fake.cairn("destroy", short)
        assert old.exists()
        fake.cairn("start", short)
        own = pid_of(fake, short)
        fake.stop()
        fake.start()
        assert (pid_of(fake, long), pid_of(fake, short)) == (pid, own)
        fake.cairn("destroy", short)
        fake.stop()
    fake.start()


def test_socket_that_two_vms_may_have_is_neither_ones(fake):
    """Both ran under an older daemon, which gave both sockets the same name."""
    long = "n" * 200
    names = [long, old_socket_name(long)]
    for name in names:
        fake.define(name)
    fake.cairn("start", *names)
    pids = [pid_of(fake, name) for name in names]
    fake.stop()
    for socket in sockets(fake):
        socket.rename(fake.state / "run" / (names[1] + ".vm"))
    fake.start()
    assert [fake.info(name).get("pid") for name in names] == [None, None]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_damaged_files_are_quarantined(fake):
    for n in ("good", "bad", "worse", "odd"):
        fake.define(n)
    fake.stop()
    vms = fake.state / "vms"
    (vms / "bad/definition.json").write_text('{"version":1,"name":"bad"')
    (vms / "worse/definition.json").write_text('{"version":1,"name":"worse","memory":0}')
    (vms / "odd/definition.json").write_text((vms / "good/definition.json").read_text())
    (vms / "good/state.json").write_text("\0\0\0\0")
    fake.start()
    r = fake.cairn("list", "--all", "--name")
    assert r.stdout == "good\n" and r.stderr.count("is not loaded: ") == 3
    assert "domain 'worse' is not loaded: " in r.stderr and "memory: 0 is too little" in r.stderr
    for p in ("bad/definition.json", "worse/definition.json", "odd/definition.json",
              "good/state.json"):
        assert (vms / (p + ".damaged")).exists()
        assert not (vms / p).exists()
    log = fake.log.read_text()
    assert "bad/definition.json is damaged" in log and "memory: 0 is too little" in log
    fake.stop()
    fake.start()  # reported as long as it is so
    assert fake.cairn("list", "--all", "--name").stderr.count("is not loaded: ") == 3
    fake.define("bad")
    assert fake.cairn("list", "--all", "--name").stderr.count("is not loaded: ") == 2
    fake.cairn("start", "good", "bad")


def test_damaged_definition_of_running_vm_is_reported(fake):
    """The VM's process is unmanaged until the file is repaired; the log says so."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid, path = pid_of(fake, "vm1"), fake.state / "vms/vm1/definition.json"
    until(lambda: fake.kept("vm1").get("state") == "running")
    fake.stop(signal.SIGKILL)
    whole = path.read_text()
    path.write_text(whole[:-5])
    fake.start()
    assert fake.cairn("list", "--all", "--name").stdout.strip() == ""
    assert "VM 'vm1' runs unmanaged" in fake.log.read_text() and not has_ended(pid)
    fake.stop()
    path.with_name("definition.json.damaged").unlink()
    path.write_text(whole)
    fake.start()
    assert pid_of(fake, "vm1") == pid and fake.info("vm1")["state"] == "running"


@pytest.mark.parametrize("version", [3, 0], ids=["newer", "too-old"])
def test_vm_process_of_another_version_is_left_running(fake, version):
    """The daemon neither kills the process nor takes it for ended, and tells clients what to do. One that is too old
    is of a release before the oldest whose version this daemon speaks; that release's daemon wrote the end file."""
    fake.define("vm1", cmdline=f"other-version={version}")
    fake.cairn("start", "vm1")
    until(lambda: fake.kept("vm1").get("state") == "running")
    pid = fake.children()[0]
    fake.stop(signal.SIGKILL)
    with open(fake.state / "vms/vm1/end", "r+b") as f:
        os.pwrite(f.fileno(), struct.pack("<Q", version), 4104)  # VM_END_VERSION
    fake.start()
    assert fake.info("vm1")["state"] == "running" and not has_ended(pid)
    what = f"speaks version {version} of the protocol, this cairnd versions 1 to 2; the process keeps running unmanaged. " \
           "Next: shut the guest down from within, or run the cairnd that started the VM"
    assert what in fake.log.read_text()
    for verb, more in (("suspend", []), ("save", [fake.tmp / "x"]), ("restart-process", [])):
        assert what in fake.cairn(verb, "vm1", *more, ok=False).stderr
    fake.cairn("start", "vm1", ok=4)
    fake.cairn("destroy", "vm1")
    until(lambda: has_ended(pid))
    fake.cairn("start", "vm1")


def test_vm_process_answers_with_its_version(daemon, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("idle.elf")})
    daemon.cairn("start", "vm1")
    pid = pid_of(daemon, "vm1")
    until(lambda: daemon.kept("vm1").get("state") == "running")
    daemon.stop(signal.SIGKILL)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(str(daemon.state / "run/vm1.sock"))
    s.send(struct.pack("<HHIQ", 3, 17, 0, 5))
    version, _, _, seq = struct.unpack("<HHIQ", s.recv(65536)[:16])
    assert (version, seq) == (2, 5) and s.recv(65536) == b""
    s.close()
    daemon.start()
    assert pid_of(daemon, "vm1") == pid


# ---- defining ----

def test_uuids_are_unique_and_kept(fake):
    uuid = "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"
    fake.define("vm1", uuid=uuid)
    r = fake.cairn("define", fake.write("vm2", uuid=uuid), ok=4)
    assert r.stderr.endswith("error: uuid: is taken by VM 'vm1'; omit it to have one generated\n")
    r = fake.cairn("define", fake.write("vm1", uuid=uuid.replace("2f", "3f")), ok=4)
    assert "uuid: VM 'vm1' exists with another UUID" in r.stderr
    fake.define("vm1", memory="64M")  # without a uuid it keeps its own
    assert fake.info("vm1")["uuid"] == uuid and fake.info("vm1")["memory"] == 64 * 2**20
    assert fake.info(uuid)["name"] == "vm1"
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\n"


def test_start_fails_when_disk_is_in_use(fake, tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(4096))
    os.link(tmp_path / "d.raw", tmp_path / "same.raw")
    for n, p in (("vm1", "d.raw"), ("vm2", "same.raw")):
        fake.define(n, disks=[{"path": p, "format": "raw"}])
    fake.cairn("start", "vm1")
    r = fake.cairn("start", "vm2", ok=6)
    assert "disks[0].path: " in r.stderr and "is in use by VM 'vm1'" in r.stderr
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm2")


def test_redefinition_applies_at_next_start(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.define("vm1", vcpus=2)
    assert fake.info("vm1")["vcpus"] == 1
    fake.cairn("destroy", "vm1")
    assert fake.info("vm1")["vcpus"] == 2
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["vcpus"] == 2


def test_twenty_vms_start_at_once(fake):
    names = [f"vm{i}" for i in range(20)]
    for n in names:
        fake.define(n)
    clients = [fake.qmp() for _ in names]
    for q, n in zip(clients, names):
        q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": n}}).encode())
    assert all("return" in q.answer() for q in clients)
    for q, n in zip(clients, names):
        q.send(json.dumps({"execute": "vm-destroy", "arguments": {"vm": n}}).encode())
    assert all("return" in q.answer() for q in clients)
    assert fake.cairn("list", "--name").stdout == ""


def test_daemon_and_vms_leak_no_fds(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("destroy", "vm1")
    fds = f"/proc/{fake.proc.pid}/fd"
    before = len(os.listdir(fds))
    for _ in range(20):
        fake.cairn("start", "vm1")
        fake.cairn("destroy", "vm1")
    until(lambda: len(os.listdir(fds)) <= before + 1)
    # A VM process inherits none of the daemon's fds.
    fake.cairn("start", "vm1")
    links = open_files(pid_of(fake, "vm1"))
    assert links and not [x for x in links if "lock" in x or "anon_inode" in x]


# ---- with KVM ----

def test_real_vm_starts_and_stops(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.define("vm2", boot={"kernel": guest("idle.elf")})
    daemon.cairn("start", "vm1", "vm2")
    daemon.cairn("suspend", "vm1")
    daemon.cairn("resume", "vm1")
    pid = pid_of(daemon, "vm1")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert pid_of(daemon, "vm1") == pid
    os.kill(pid, signal.SIGKILL)
    daemon.wait("vm1", "crashed")
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed)\n"
    assert daemon.info("vm2")["state"] in ("running", "idle")
    daemon.cairn("destroy", "vm2")
    daemon.cairn("start", "vm1")


def test_debug_exit_of_guest_is_reported(daemon, kvm, guest):
    daemon.define("vm1", debug_exit=True,
                  boot={"kernel": guest("interp.elf"), "cmdline": "exit 21"})
    q = daemon.qmp()
    q.run("vm-start", vm="vm1")
    ev = q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    assert ev["data"]["reason"] == "debug exit"
    info = q.run("vm-info", vm="vm1")
    assert info["value"] == info["exit-status"]


@pytest.mark.parametrize("how, reason", [("triple", "triple fault"), ("panic", "guest panicked")])
def test_crash_of_guest_is_reported(daemon, kvm, guest, how, reason):
    daemon.define("vm1", boot={"kernel": guest("interp.elf"), "cmdline": f"crash {how}"},
                  on_reboot="destroy")
    daemon.cairn("start", "vm1")
    daemon.wait("vm1", "crashed")
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == f"crashed ({reason})\n"


def test_start_fails_with_invalid_kernel(daemon, kvm):
    daemon.define("vm1")
    r = daemon.cairn("start", "vm1", ok=None)
    assert r.returncode != 0 and "kernel" in r.stderr
    assert daemon.info("vm1")["reason"] == "failed"


# ---- missed events ----

def kept_events(fake, **args):
    q = fake.qmp()
    found, since = [], args.pop("since", 0)
    while True:
        page = q.run("query-events", since=since, **args)
        assert len(json.dumps(page)) < 65536
        found += page["events"]
        since = page["next"]
        if not page["more"]:
            return found


def test_missed_events_can_be_fetched(fake):
    q = fake.qmp()
    fake.define("vm1")
    fake.cairn("start", "vm1")
    last = q.event("VM_STATE_CHANGE", vm="vm1")["seq"]
    q.close()
    fake.cairn("suspend", "vm1")
    fake.define("vm2")
    want = [("STOP", "vm1"), ("VM_STATE_CHANGE", "vm1"), ("VM_DEFINED", "vm2")]
    assert [(e["event"], e["data"]["vm"]) for e in kept_events(fake, since=last)] == want
    pid = pid_of(fake, "vm1")
    fake.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    while not has_ended(pid):
        time.sleep(0.01)
    fake.start()
    # The next daemon reports what happened while none ran.
    got = kept_events(fake, since=last)
    assert [(e["event"], e["data"]["vm"]) for e in got] == want + [("VM_STATE_CHANGE", "vm1")]
    assert got[-1]["data"]["state"] == "crashed"
    assert [e["seq"] for e in got] == list(range(last + 1, last + 5))
    assert [e["event"] for e in kept_events(fake, vm="vm2")] == ["VM_DEFINED"]
    assert [e["data"]["vm"] for e in kept_events(fake, event="VM_DEFINED")] == ["vm1", "vm2"]
    out = fake.cairn("event", "--since", str(last), "--event", "STOP", "--format", "json").stdout
    assert json.loads(out) == got[0]
    assert fake.cairn("event", "--since", str(last), "--loop", "--timeout", "0.1").stdout.count(
        "event '") == 4
    fake.cairn("event", "--since", "x", ok=2)


def test_event_is_sent_although_daemon_is_killed_before_state_is_stored(fake):
    """A state is reported at once and written soon after, so a daemon that was killed in between has reported too
    much."""
    for n in ("vm1", "vm2"):
        fake.define(n)
        fake.cairn("start", n)
        until(lambda: fake.kept(n).get("state") == "running")
    fake.stop(signal.SIGKILL)
    events = fake.state / "events.jsonl"
    lines = events.read_text().splitlines()
    ev = json.loads(next(l for l in reversed(lines) if "VM_STATE_CHANGE" in l and "vm1" in l))
    ev["data"].update({"from": "running", "state": "in-shutdown"})
    ev["seq"] = json.loads(lines[-1])["seq"] + 1
    events.write_text("\n".join(lines + [json.dumps(ev)]) + "\n")
    fake.start()
    got = kept_events(fake, since=ev["seq"])
    assert [(e["event"], e["data"]["vm"], e["data"]["from"], e["data"]["state"]) for e in got] == [
        ("VM_STATE_CHANGE", "vm1", "in-shutdown", "running")]
    fake.stop(signal.SIGKILL)
    fake.start()
    assert kept_events(fake, since=got[0]["seq"]) == []


def test_event_numbers_are_never_reused(fake):
    seen = []
    for i in range(8):
        q = fake.qmp()
        fake.define(f"vm{i}")
        seen.append(q.event("VM_DEFINED")["seq"])
        fake.stop(signal.SIGKILL)
        fake.start()
    assert seen == sorted(set(seen))
    assert [e["seq"] for e in kept_events(fake)] == seen
    # A power cut: another boot, half a line, and unsynced data is missing.
    fake.stop(signal.SIGKILL)
    f = fake.state / "events.jsonl"
    lines = f.read_text().replace('{"boot":"', '{"boot":"another').splitlines()
    at = next(i for i, l in enumerate(lines) if "vm6" in l)
    f.write_text("\n".join(lines[:at] + [lines[at][:20]]))
    fake.start()
    assert len(kept_events(fake)) == 6
    q = fake.qmp()
    fake.define("after")
    assert q.event("VM_DEFINED")["seq"] > seen[-1] + 1000


def test_last_ten_thousand_events_are_kept(fake):
    fake.stop()
    line = '{"timestamp":{"seconds":1,"microseconds":1},"event":"STOP","data":{"vm":"vm1"},"seq":%d}\n'
    (fake.state / "events.old.jsonl").write_text("".join(line % i for i in range(1, 10001)))
    (fake.state / "events.jsonl").write_text("".join(line % i for i in range(10001, 20000)))
    fake.start()
    fake.define("vm1")
    fake.define("vm2")  # and the file is rotated
    q = fake.qmp()
    page = q.run("query-events", since=5)
    assert page["lost"] is True
    assert page["events"][0]["seq"] > 10000 and page["last"] > 20000
    got = kept_events(fake)
    assert len(got) == 10000 and got[-1]["data"]["vm"] == "vm2"
    assert not q.run("query-events", since=got[0]["seq"])["lost"]
    fake.stop()
    assert len((fake.state / "events.jsonl").read_text().splitlines()) < 100
    fake.start()
    assert kept_events(fake) == got


# ---- audit ----

def audit(fake, *args):
    return json.loads(fake.cairn("audit", "--format", "json", *args).stdout)


def test_audit_log_records_changes(fake):
    begin = time.time_ns()
    fake.define("vm1")
    fake.cairn("list")
    fake.cairn("start", "vm1")
    fake.cairn("resume", "vm1", ok=4)
    fake.qmp().run("vm-console", vm="vm1")  # console input
    fake.cairn("destroy", fake.info("vm1")["uuid"])
    fake.cairn("undefine", "nope", ok=3)
    rows = audit(fake)
    assert [(r["command"], r["vm"], r["outcome"]) for r in rows] == [
        ("vm-define", "vm1", "ok"), ("vm-start", "vm1", "ok"), ("vm-resume", "vm1", "WrongState"),
        ("vm-console", "vm1", "ok"), ("vm-destroy", "vm1", "ok"), ("vm-undefine", "nope", "NotFound")]
    assert all(r["uid"] == os.getuid() and r["pid"] > 0 and r["duration"] > 0 for r in rows)
    assert all(begin < r["time"] < time.time_ns() for r in rows)
    assert rows[0]["arguments"]["definition"]["name"] == "vm1"
    assert "VM 'vm1' is running" in rows[2]["error"]
    fake.stop(signal.SIGKILL)
    fake.start()
    assert audit(fake) == rows
    assert len(audit(fake, "--vm", "nope")) == 1
    assert audit(fake, "--user", str(os.getuid() + 1)) == [] == audit(fake, "--since", "2099-01-01")
    assert audit(fake, "--since", "1h", "--user", str(os.getuid())) == rows
    for bad in (["--since", "soon"], ["--user", "nobody at all"], ["--since", "5y"]):
        fake.cairn("audit", *bad, ok=2)
    table = fake.cairn("audit", "--vm", "vm1").stdout
    assert table.startswith(" Time ") and "   vm-resume    vm1      " in table and "WrongState\n" in table
    assert os.stat(fake.state / "audit.log").st_mode & 0o777 == 0o600


def test_audit_masks_secrets_and_bounds_lines(fake):
    q = fake.qmp()
    for definition in ({"name": "a", "password": "xyzzy", "list": [{"Secret-Key": "xyzzy"}]},
                       {"name": "b", "description": "x" * 20000}):
        with pytest.raises(QmpError, match="InvalidArgument"):
            q.run("vm-define", definition=definition)
    text = (fake.state / "audit.log").read_text()
    assert "xyzzy" not in text and text.count("(masked)") == 2
    assert len(text) < 4000 and '"description":"xxx' in text and 'x...(20000 bytes)"' in text


def test_audit_log_is_rotated(fake):
    fake.stop()
    line = '{"time":%d,"uid":7,"pid":1,"command":"vm-start","vm":"old","outcome":"ok","duration":1}\n'
    first = '{"base":5000}\n' + "".join(line % i for i in range(100000))
    (fake.state / "audit.log").write_text(first)
    assert len(first) > 8 << 20
    fake.start()
    fake.define("vm1")
    fake.define("vm2")
    assert (fake.state / "audit.log.1").read_text() == first
    assert (fake.state / "audit.log").read_text().startswith('{"base":%d}\n' % (5000 + len(first)))
    assert [r["vm"] for r in audit(fake, "--since", "1d")] == ["vm1", "vm2"]
    q = fake.qmp()
    page = q.run("query-audit", uid=7)
    assert len(page["lines"]) > 20 and len(json.dumps(page)) < 65536 and page["more"]
    more = q.run("query-audit", **{"from": page["next"]})
    assert more["lines"][0]["time"] == page["lines"][-1]["time"] + 1
    # A file of another format is renamed, not appended to.
    fake.stop()
    (fake.state / "audit.log").write_text("hello\n")
    fake.start()
    fake.define("vm3")
    assert (fake.state / "audit.log.1").read_text() == "hello\n"
    assert [r["vm"] for r in audit(fake, "--since", "1d")] == ["vm3"]


# ---- permissions ----

NOBODY = 65534


@pytest.fixture
def shared():
    """A daemon that other users can reach, outside pytest's folder, which the next pytest of the same user makes
    private."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        # The programs that the daemon runs as another user: the build folder may be closed to that one.
        for program in ("cairn-archive", "cairn-diff", "cairn-img"):
            shutil.copy(os.path.join(BUILD, program), folder)
        d = Daemon(pathlib.Path(folder), vm_program=FAKE_VM, env={"CAIRN_LIBEXEC": folder})
        for n in ("mine", "other"):
            d.define(n)
        yield d
        d.close()


def as_nobody(fake, *commands, user=NOBODY, group=NOBODY, groups=()):
    """Return that user's answers to [command, args], and the events that come meanwhile."""
    script = (
        "import json, socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({fake.socket!r})\n"
        "f = s.makefile(); f.readline()\n"
        "for c, a in [['qmp_capabilities', {}]] + json.loads(sys.argv[1]):\n"
        "    s.sendall(json.dumps({'execute': c, 'arguments': a}).encode())\n"
        "    line = f.readline()\n"
        "    while '\"event\"' in line[:200] and '\"return\"' not in line[:12]:\n"
        "        line = f.readline()\n"
        "    print(line.strip())\n")
    r = subprocess.run(["/usr/bin/python3", "-c", script, json.dumps(commands)], user=user,
                       group=group, extra_groups=list(groups), capture_output=True, text=True,
                       timeout=50)
    assert not r.stderr, r.stderr
    answers = [json.loads(line) for line in r.stdout.splitlines()[1:]]
    assert len(answers) == len(commands)
    return answers


def allowed(answer):
    return answer.get("error", {}).get("class") != "PermissionDenied"


@pytest.mark.parametrize("grant, role", [
    (["viewer"], "viewer"), (["operator"], "operator"), (["admin"], "admin"),
    (["viewer", "mine"], "viewer"), (["operator", "mine"], "operator"), (["owner", "mine"], "admin")])
def test_each_command_needs_its_role(shared, grant, role):
    """The matrix from the schema, for the VM with a permission and for another one."""
    ranks = ["nobody", "viewer", "guest", "operator", "admin"]
    schema = shared.qmp().run("query-qmp-schema")
    args = {o["name"]: [m["name"] for m in o.get("members", [])] for o in schema}
    commands = [(o["name"], o["role"], args[o["arg-type"]]) for o in schema
                if o["meta-type"] == "command" and o["name"] != "qmp_capabilities"]
    shared.cairn("grant", "--user", "nobody", *grant)
    filtered = {"vm-list", "query-events", "event-filter", "query-jobs", "query-snapshot-schedules", "query-schedules", "query-thresholds",
                "query-quotas", "net-list", "vm-stats", "query-permissions-review", "advise",
                "query-requests", "query-web-hooks", "request-approve", "request-deny", "group-snapshot"}
    asked, want = [], []
    for vm in ("mine", "other"):
        for name, needs, takes in commands:
            # An unknown argument keeps a permitted call from having an effect.
            about = {"vm": vm} if takes[:1] == ["vm"] else {"definition": {"name": vm}} if name == "vm-define" else {}
            asked.append([name, {**about, "no-such": 1}])
            here = len(grant) == 1 or (about and vm == "mine")
            want.append(ranks.index(needs) <= (ranks.index(role) if here else 0) or name in filtered)
    answers = as_nobody(shared, *asked)
    for (name, a), w, answer in zip(asked, want, answers):
        assert allowed(answer) == w, (name, a, answer)
    assert any(want) and (role == "admin" or not all(want))


def test_schedules_of_other_vms_are_hidden(shared):
    """A user with one VM learns nothing of another VM's schedule, not even whether it exists."""
    for vm in ("mine", "other"):
        shared.cairn("snapshot-schedule", vm, "--every", "1h")
    shared.cairn("grant", "--user", "nobody", "viewer", "mine")
    seen, one, none = as_nobody(shared, ["query-snapshot-schedules", {}],
                                ["query-snapshot-schedules", {"vm": "other"}],
                                ["query-snapshot-schedules", {"vm": "nothing"}])
    assert [s["vm"] for s in seen["return"]["schedules"]] == ["mine"]
    assert one["error"]["desc"].replace("other", "nothing") == none["error"]["desc"]


def test_denial_names_the_users_role(shared):
    """The role for this VM, not the one for all VMs."""
    shared.cairn("grant", "--user", "nobody", "viewer", "mine")
    for answer, has in zip(as_nobody(shared, ["vm-destroy", {"vm": "mine"}], ["vm-destroy", {"vm": "other"}]),
                           ("the role viewer", "no role")):
        assert answer["error"]["desc"] == (f"vm-destroy requires the role operator, and you have {has}; "
                                           "an admin can change your role with cairn grant")


def test_grants_survive_daemon_and_can_be_revoked(shared):
    ask = (["vm-list", {}], ["vm-info", {"vm": "mine"}], ["vm-info", {"vm": "other"}],
           ["vm-info", {"vm": "none"}])
    assert os.stat(shared.socket).st_mode & 0o777 == 0o600
    assert shared.cairn("grant", "viewer", "mine", "--group", str(NOBODY)).stdout == (
        f"group {NOBODY} is now viewer of mine\n")
    assert os.stat(shared.socket).st_mode & 0o777 == 0o666
    for restart in (False, True):
        if restart:
            shared.stop(signal.SIGKILL)
            shared.start()
        a = as_nobody(shared, *ask)
        # The user does not even learn names: an existing VM is denied like a missing one.
        assert [v["name"] for v in a[0]["return"]["vms"]] == ["mine"] and "next" not in a[0]["return"]
        assert "return" in a[1] and not allowed(a[2])
        assert a[2] == a[3]
        assert as_nobody(shared, *ask, group=7, groups=[NOBODY])[1] == a[1]
        assert not any(map(allowed, as_nobody(shared, *ask, group=7)))
    assert shared.cairn("permissions").stdout.splitlines()[2].split() == [
        "group", "nogroup", "viewer", "mine"]
    page = as_nobody(shared, ["query-events", {}])[0]["return"]["events"]
    assert {e["data"]["vm"] for e in page} == {"mine"}
    shared.cairn("revoke", "other", "--group", str(NOBODY), ok=3)
    shared.cairn("revoke", "mine", "--group", "nogroup")
    assert os.stat(shared.socket).st_mode & 0o777 == 0o600
    assert json.loads(shared.cairn("permissions", "--format", "json").stdout) == []


def test_invalid_grants_are_refused(shared):
    for args, code in ((["owner", "--user", "nobody"], 2), (["admin", "mine", "--user", "nobody"], 2),
                       (["king", "--user", "nobody"], 2), (["viewer", "none", "--user", "nobody"], 3),
                       (["viewer"], 2), (["viewer", "--user", "a", "--group", "b"], 2),
                       (["viewer", "--user", "no such user"], 2)):
        shared.cairn("grant", *args, ok=code)
    assert "use viewer, guest, operator or admin; owner is for one VM" in shared.cairn("grant", "owner", "--user", "nobody", ok=2).stderr
    for role in ("viewer", "guest", "operator", "admin"):
        shared.cairn("grant", role, "--user", "nobody")
    shared.cairn("revoke", "--user", "nobody")
    # A new VM of the same name does not inherit permissions.
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    answers = as_nobody(shared, ["vm-start", {"vm": "mine"}], ["vm-destroy", {"vm": "mine"}],
                        ["vm-undefine", {"vm": "mine"}], ["vm-list", {}])
    assert ["return" in a for a in answers[:3]] == [True] * 3
    assert [r["uid"] for r in audit(shared, "--user", "nobody")] == [NOBODY] * 3
    shared.define("mine")
    os.chmod(shared.socket, 0o666)
    assert not any(map(allowed, as_nobody(shared, ["vm-info", {"vm": "mine"}], ["vm-list", {}])))
    # A damaged table denies everything.
    shared.cairn("grant", "admin", "--user", "nobody")
    shared.stop()
    p = shared.state / "permissions.json"
    p.write_text(p.read_text()[:-3])
    shared.start()
    os.chmod(shared.socket, 0o666)
    assert not any(map(allowed, as_nobody(shared, ["vm-list", {}])))


def test_user_gets_events_of_visible_vms_only(shared):
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    script = (
        "import socket\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r})\n"
        "f = s.makefile(); f.readline()\n"
        "s.sendall(b'{\"execute\":\"qmp_capabilities\"}')\n"
        "print(f.readline(), flush=True)\n"
        "print(f.readline(), flush=True)\n")
    p = subprocess.Popen(["/usr/bin/python3", "-c", script], user=NOBODY, group=NOBODY,
                         extra_groups=[], stdout=subprocess.PIPE, text=True)
    p.stdout.readline(), p.stdout.readline()
    shared.cairn("start", "other")
    shared.cairn("start", "mine")
    ev = json.loads(p.stdout.readline())
    assert ev["data"]["vm"] == "mine"
    p.stdout.close()
    p.wait()
