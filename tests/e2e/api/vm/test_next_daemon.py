"""What the next daemon finds after the end of a daemon: definitions, VMs, sockets, and damaged or older files."""

import json
import os
import signal
import socket
import struct
import subprocess

import pytest

from conftest import BUILD, Daemon, has_ended, until
from daemonlib import pid_of


def test_definitions_survive_daemon(fake):
    fake.define("vm1", title="the first")
    fake.define("vm2")
    before = fake.cairn("dumpjson", "vm1").stdout
    assert fake.stop() == 0
    assert not os.path.exists(fake.socket)
    fake.start()
    assert fake.cairn("dumpjson", "vm1").stdout == before
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\nvm2\n"


def test_daemon_keeps_a_vm_whose_process_is_newer(fake):
    """As after the return to an earlier release: the process's answers are longer than the daemon knows."""
    fake.define("vm1", cmdline="longer-answers")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    assert fake.figures("vm1")["vcpus"] == 1
    fake.stop(signal.SIGKILL)
    fake.start()
    assert pid_of(fake, "vm1") == pid and fake.figures("vm1")["vcpus"] == 1 and not has_ended(pid)


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
    for path in sockets(fake):
        path.rename(fake.state / "run" / (names[1] + ".vm"))
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


def test_state_file_with_an_unknown_state_is_put_aside(fake):
    """The next save would lose what else the file has."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("destroy", "vm1")
    fake.wait("vm1", "shutoff")
    fake.stop()
    path = fake.state / "vms/vm1/state.json"
    o = json.loads(path.read_text())
    text = json.dumps({**o, "state": "dreaming"})
    assert o["run"] == 1
    path.write_text(text)
    fake.start()
    assert path.with_name("state.json.damaged").read_text() == text
    assert "vm1/state.json is damaged (its state is missing or unknown)" in fake.log.read_text()
    assert fake.info("vm1")["state"] == "shutoff"
    fake.cairn("start", "vm1")


@pytest.mark.parametrize("key,value", [("laser", True), ("on_crash", "sing"), ("machine", 99)])
def test_definition_of_a_newer_release_is_left_to_it(fake, key, value):
    """A new key, word or machine does not change the file's version."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    fake.stop(signal.SIGKILL)
    path = fake.state / "vms/vm1/definition.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, key: value}))
    fake.start()
    assert fake.cairn("list", "--all", "--name").stdout == "" and "the newer Cairn" in fake.log.read_text()
    assert "VM 'vm1' runs unmanaged" in fake.log.read_text()
    fake.stop()
    assert json.loads(path.read_text())[key] == value
    path.write_text(json.dumps(good))
    fake.start()
    assert pid_of(fake, "vm1") == pid


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
