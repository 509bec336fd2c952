"""The daemon under a service manager: a passed socket, the readiness message, units."""

import configparser
import contextlib
import grp
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, ROOT, Daemon, Qmp, has_ended, library, until
from daemonlib import pid_of
from test_control import inherited


class Service(Daemon):
    """A daemon that is given its socket, as by systemd."""

    def __init__(self, tmp, vm_program):
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(tmp / "cairn.sock"))
        self.listening.listen(64)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(tmp / "notify.sock"))
        super().__init__(tmp, vm_program, env={"NOTIFY_SOCKET": str(tmp / "notify.sock")})

    def start(self, fd=None, sockets=1):
        fd = self.listening.fileno() if fd is None else fd
        # LISTEN_PID is known only in the process itself.
        script = f'exec 3<&{fd} {fd}<&-; LISTEN_PID=$$ LISTEN_FDS={sockets} exec "$@"'
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(["/bin/bash", "-c", script, "bash", *self.command()], env=self.env,
                                         stderr=log, pass_fds=[fd])
        if fd == self.listening.fileno():
            assert self.notify.recv(999).startswith(b"READY=1")


@pytest.fixture
def service(tmp_path):
    d = Service(tmp_path, FAKE_VM)
    yield d
    d.close()
    d.listening.close()
    d.notify.close()


def test_clients_wait_at_passed_socket_for_next_daemon(service):
    service.define("vm1")
    service.cairn("start", "vm1")
    pid = pid_of(service, "vm1")
    env = open(f"/proc/{pid}/environ").read()
    assert "LISTEN_" not in env and "NOTIFY_SOCKET" not in env
    assert inherited(service) == []  # nor is the passed socket
    inode = os.stat(service.socket).st_ino
    for sig in (signal.SIGKILL, signal.SIGTERM):
        service.stop(sig)
        if sig == signal.SIGTERM:
            assert service.notify.recv(999) == b"STOPPING=1"
        waits = socket.socket(socket.AF_UNIX)
        waits.connect(service.socket)
        waits.sendall(b'{"execute":"qmp_capabilities"}{"execute":"vm-info","arguments":{"vm":"vm1"}}')
        service.start()
        f = waits.makefile()
        assert '"QMP"' in f.readline() and f.readline() == '{"return":{}}\n'
        assert f'"pid":{pid},' in f.readline()
        waits.close()
    assert os.stat(service.socket).st_ino == inode


def test_socket_mode_follows_permissions(service):
    assert os.stat(service.socket).st_mode & 0o777 == 0o600
    service.cairn("grant", "viewer", "--user", "12345")
    assert os.stat(service.socket).st_mode & 0o777 == 0o666
    service.cairn("revoke", "--user", "12345")


@pytest.mark.parametrize("make, sockets, words", [
    (lambda: socket.socket(socket.AF_INET), 1, "not a listening stream socket"),
    (lambda: socket.create_server(("127.0.0.1", 0)), 1, "not a Unix socket"),
    (lambda: socket.socketpair()[0], 1, "not a listening stream socket"),
    (lambda: open("/dev/null"), 1, "not a listening stream socket"),
    (lambda: open("/dev/null"), 2, "LISTEN_FDS passes 2 sockets; pass one")])
def test_unsuitable_passed_socket_is_refused(service, make, sockets, words):
    service.stop()
    service.notify.recv(999)
    wrong = make()
    service.start(fd=wrong.fileno(), sockets=sockets)
    assert service.proc.wait(50) == 1
    assert words in service.log.read_text()
    wrong.close()
    service.start()


def test_passed_sockets_of_other_process_are_ignored(tmp_path):
    d = Daemon(tmp_path, FAKE_VM, env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    d.close()
    assert not os.path.exists(d.socket)


def unit_of(path):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(path)
    return unit


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """The folder of an installation."""
    folder = tmp_path_factory.mktemp("prefix")
    subprocess.run(["make", "-s", f"BUILD={os.path.relpath(BUILD, ROOT)}", f"PREFIX={folder}", "install"], cwd=ROOT, check=True,
                   timeout=55, stdout=subprocess.DEVNULL)
    return folder


def test_installed_units(prefix):
    units = prefix / "lib/systemd/system"
    service = unit_of(units / "cairnd.service")
    assert service["Service"]["KillMode"] == "process"  # otherwise a restart would end the VMs
    assert service["Service"]["RuntimeDirectoryPreserve"] == "yes"
    assert service["Service"]["OOMPolicy"] == "continue"  # otherwise a VM killed by the OOM killer would end the daemon
    for key in ("WatchdogSec", "OOMScoreAdjust", "TimeoutStopSec", "ProtectKernelModules", "RestrictRealtime"):
        assert key in service["Service"], key
    for key in ("ProtectHome", "ProtectSystem", "PrivateTmp", "PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock",
                "RestrictNamespaces", "ProtectControlGroups", "ProtectKernelTunables", "NoNewPrivileges"):
        assert key not in service["Service"], key  # VMs need what these take away
    program = service["Service"]["ExecStart"]
    assert subprocess.run([program, "--version"], stdout=subprocess.PIPE).stdout.startswith(b"cairnd ")
    assert "@" not in (units / "cairnd.service").read_text()
    web = (units / "cairn-web.service").read_text()
    assert "Requires=cairn-web.socket\n" in web and "--pam" in web and "@" not in web
    assert (prefix / "lib/sysusers.d/cairn-web.conf").read_text().splitlines()[-1].startswith("u cairn-web ")
    assert "pam_nologin" in (prefix / "etc/pam.d/cairn-web").read_text()
    guests = unit_of(units / "cairn-guests.service")
    assert "Requires" not in guests["Unit"]  # otherwise a restart of the daemon would stop the VMs
    assert "cairnd.service" in guests["Unit"]["After"]
    assert guests["Service"]["TimeoutStopSec"] != "infinity"  # otherwise a VM could hold the host's shutdown
    program = guests["Service"]["ExecStop"].split()
    assert subprocess.run([*program, "--help"], stdout=subprocess.PIPE).stdout.startswith(b"cairn daemon-stop")
    assert (prefix / "share/bash-completion/completions/cairn").exists()
    assert (prefix / "share/bash-completion/completions/cairn-img").exists()
    assert (prefix / "share/zsh/site-functions/_cairn").exists() and (prefix / "share/fish/vendor_completions.d/cairn.fish").exists()
    assert (prefix / "lib/udev/rules.d/60-cairn.rules").read_text().splitlines()[-1].startswith('SUBSYSTEM=="misc"')
    if shutil.which("systemd-analyze"):
        r = subprocess.run(["systemd-analyze", "--man=no", "verify", units / "cairnd.service",
                            units / "cairnd.socket", units / "cairn-guests.service", units / "cairn-web.socket",
                            units / "cairn-web.service"], capture_output=True, text=True)
        assert "cairn" not in r.stderr, r.stderr


def test_installed_units_of_users(prefix, tmp_path):
    units = prefix / "lib/systemd/user"
    service, guests = unit_of(units / "cairnd.service"), unit_of(units / "cairn-guests.service")
    program, option, seconds = service["Service"]["ExecStart"].split()
    assert subprocess.run([program, "--version"], stdout=subprocess.PIPE).stdout.startswith(b"cairnd ")
    assert service["Service"]["KillMode"] == "process"
    # user@.service has 120 s, for the VMs and then for the daemon.
    assert option == "--shutdown-limit" and int(seconds) < int(guests["Service"]["TimeoutStopSec"].rstrip("s")) < 120
    assert guests["Unit"]["After"] == "cairnd.service" and "Requires" not in guests["Unit"]
    assert subprocess.run([*guests["Service"]["ExecStop"].split(), "--help"], stdout=subprocess.PIPE).stdout.startswith(b"cairn daemon-stop")
    assert "%t/cairn/cairn.sock" in (units / "cairnd.socket").read_text()
    if shutil.which("systemd-analyze"):
        (tmp_path / "run").mkdir(mode=0o700)
        r = subprocess.run(["systemd-analyze", "--user", "--man=no", "verify", *units.iterdir()], capture_output=True, text=True,
                           env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")})
        assert r.returncode == 0 and "cairn" not in r.stderr, r.stderr


def test_daemons_of_the_tests_are_protected_as_the_unit(fake):
    """as_unit.c, in which the tests run the daemon, has what the unit's last part has."""
    with open(os.path.join(ROOT, "tools/systemd/cairnd.service")) as f:
        protections = f.read().partition("# Protections.")[2].partition("[Install]")[0]
    rows = [row for row in protections.splitlines()[1:] if row and row[0] != "#"]
    dropped = sorted(name for row in rows if row.startswith("CapabilityBoundingSet=~") for name in row.partition("~")[2].split())
    assert [row for row in rows if not row.startswith("CapabilityBoundingSet=~")] == [
        "ProtectKernelModules=yes", "ProtectKernelLogs=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "SystemCallArchitectures=native",
        "LockPersonality=yes", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    with open(os.path.join(ROOT, "tests/helpers/as_unit.c")) as f:
        assert sorted(re.findall(r"\bCAP_\w+", f.read())) == dropped
    with open(f"/proc/{fake.proc.pid}/status") as f:
        assert "\nSeccomp:\t2\n" in f.read()


def test_unit_protects_the_host(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "cairnd.service"
    with open(os.path.join(ROOT, "tools/systemd/cairnd.service")) as f:
        unit.write_text(f.read().replace("@SBINDIR@", os.path.abspath(BUILD)))
    r = subprocess.run(["systemd-analyze", "--no-pager", "security", "--offline=true", unit], capture_output=True, text=True)
    if "unrecognized option" in r.stderr or "Unknown" in r.stderr:
        pytest.skip("systemd-analyze is too old to judge a unit that is not installed")
    rows = {row.split()[1]: row.split()[0] for row in r.stdout.splitlines() if len(row.split()) > 2}
    for name in ("ProtectKernelModules=", "ProtectKernelLogs=", "RestrictRealtime=", "RestrictSUIDSGID=", "LockPersonality=",
                 "CapabilityBoundingSet=~CAP_SYS_BOOT", "CapabilityBoundingSet=~CAP_SYS_MODULE",
                 "CapabilityBoundingSet=~CAP_SYS_RAWIO", "RestrictAddressFamilies=~AF_PACKET"):
        assert rows.get(name) == "\u2713", (name, r.stdout + r.stderr)


# ---- the watchdog ----

class Watched(Service):
    def __init__(self, tmp, env):
        self.watchdog = env
        super().__init__(tmp, FAKE_VM)

    def start(self, **kwargs):
        self.env |= self.watchdog
        super().start(**kwargs)

    def beat(self):
        """Wait for the next beat."""
        while (m := self.notify.recv(999)) != b"WATCHDOG=1":
            assert m == b"READY=1", m


def test_beats_go_on_while_the_disk_hangs(tmp_path):
    """The manager's limit is 900 ms, so a beat comes each 300 ms. A killed daemon could not release its lock."""
    preload = library("slow_sync")
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    go = tmp_path / "go"
    d = Watched(tmp_path, {"WATCHDOG_USEC": "900000", "LD_PRELOAD": preload, "SLOW_SYNC_OF": "vms/slow", "SLOW_SYNC_UNTIL": str(go)})
    with contextlib.closing(d), contextlib.ExitStack() as stack:
        stack.callback(go.touch)
        q = Qmp(d.socket)
        d.write("slow")
        q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": {
            "name": "slow", "memory": "32M", "boot": {"kernel": str(tmp_path / "kernel")}}}}).encode())
        until(lambda: "writes to the state folder have not ended" in d.log.read_text())
        d.notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # read the beats that came before the stall
            while True:
                d.notify.recv(999)
        d.notify.settimeout(None)
        for _ in range(5):
            d.beat()
        assert Qmp(d.socket).run("vm-list")["vms"] is not None
        go.touch()
        assert "return" in q.answer()
        until(lambda: "the disk of the state folder works again" in d.log.read_text())
        assert d.log.read_text().count("writes to the state folder have not ended") == 1
        d.cairn("start", "slow")
        assert "WATCHDOG" not in open(f"/proc/{pid_of(d, 'slow')}/environ").read()


def test_beats_follow_the_loop(tmp_path):
    d = Watched(tmp_path, {"WATCHDOG_USEC": "900000"})
    with contextlib.closing(d):
        for _ in range(3):
            d.beat()
        # A daemon whose loop stands still sends none.
        d.proc.send_signal(signal.SIGSTOP)
        d.notify.settimeout(3)
        with pytest.raises(TimeoutError):
            while True:
                d.beat()
        d.notify.settimeout(None)
        d.proc.send_signal(signal.SIGCONT)
        d.beat()


def test_daemon_sends_no_beats_that_nobody_asked_for(tmp_path):
    d = Watched(tmp_path, {"WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
    with contextlib.closing(d):
        d.define("a")
        d.stop()
        assert d.notify.recv(999) == b"STOPPING=1"
        d.start()  # the socket of the manager accepts connections as before, and close() wants an answer


def oom_score(pid):
    with open(f"/proc/{pid}/oom_score_adj") as f:
        return int(f.read())


def test_processes_of_vms_give_up_the_daemons_protection(daemon, kvm, guest):
    if os.geteuid():
        pytest.skip("needs root, to protect the daemon")
    daemon.stop()
    # The daemon inherits the value from here, as it does from the service manager.
    with open("/proc/self/oom_score_adj", "r+") as f:
        before = f.read()
        try:
            os.pwrite(f.fileno(), b"-900", 0)
            daemon.start()
        except PermissionError:
            pytest.skip("needs the right to lower oom_score_adj")
        finally:
            os.pwrite(f.fileno(), before.encode(), 0)
    assert oom_score(daemon.proc.pid) == -900
    daemon.define("v", boot={"kernel": guest("idle.elf")})
    daemon.cairn("start", "v")
    assert oom_score(pid_of(daemon, "v")) == 0


def test_udev_rule_lets_group_kvm_open_userfaultfd():
    device = "/sys/class/misc/userfaultfd"
    if os.geteuid() or not shutil.which("udevadm") or not os.path.exists(device) or not os.path.isdir("/etc/udev/rules.d"):
        pytest.skip("needs root, udevadm and a kernel with /dev/userfaultfd")
    # `udevadm test` prints owner and mode. That of systemd 252 also applies them, so it gets its own /dev and /run.
    script = ('mount -t tmpfs none /run && mount --bind "$1" /etc/udev/rules.d && mount -t tmpfs none /dev || exit 1\n'
              'mknod -m 666 /dev/null c 1 3 && mknod -m 600 /dev/userfaultfd c $(tr : " " <"$2"/dev) || exit 1\n'
              'udevadm test --action=add "$2" 2>&1')
    before = os.stat("/dev/userfaultfd")
    r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", os.path.join(ROOT, "tools/udev"), device],
                       capture_output=True, text=True)
    assert re.findall(r"60-cairn\.rules:\d+ (.*)", r.stdout) == [f"GROUP {grp.getgrnam('kvm').gr_gid}", "MODE 0660"], r.stdout + r.stderr
    after = os.stat("/dev/userfaultfd")
    assert (before.st_mode, before.st_gid) == (after.st_mode, after.st_gid)


def test_uninstall_removes_installed_files(tmp_path):
    root = tmp_path / "root"
    foreign = root / "usr/local/share/man/man1/other.1"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("somebody else's")
    for target in ("install", "uninstall"):
        subprocess.run(["make", "-s", f"BUILD={os.path.relpath(BUILD, ROOT)}", f"DESTDIR={root}", target], cwd=ROOT, check=True, timeout=55,
                       stdout=subprocess.DEVNULL)
        assert os.path.exists(root / "usr/local/bin/cairn") == (target == "install")
    assert [p for p in root.rglob("*") if not p.is_dir()] == [foreign]
    assert sorted(os.listdir(root / "usr/local")) == ["share"] and os.listdir(root / "usr/local/share") == ["man"]


def test_vm_end_between_two_daemons_is_reported(service):
    """As `systemctl restart` does: only the main process gets SIGTERM, and the next one gets the same socket."""
    for vm in ("runs", "killed"):
        service.define(vm)
        service.cairn("start", vm)
    pids = {vm: pid_of(service, vm) for vm in ("runs", "killed")}
    last = service.qmp().run("query-events", since=0)["last"]
    service.stop()
    assert service.notify.recv(999) == b"STOPPING=1"
    os.kill(pids["killed"], signal.SIGKILL)
    until(lambda: has_ended(pids["killed"]))
    service.start()
    assert pid_of(service, "runs") == pids["runs"] and service.info("killed")["reason"] == "killed"
    events = service.qmp().run("query-events", since=last)["events"]
    assert [(e["data"]["vm"], e["data"]["state"]) for e in events if e["event"] == "VM_STATE_CHANGE"] == [
        ("killed", "crashed")] and [e["seq"] for e in events] == list(range(last + 1, last + 1 + len(events)))
    service.cairn("start", "killed")


def test_ready_message_follows_adoption_of_vms(service):
    for i in range(5):
        service.define(f"vm{i}")
        service.cairn("start", f"vm{i}")
    service.stop(signal.SIGKILL)
    service.start()  # returns at READY=1
    log = service.log.read_text().split("listens on")
    assert len(log) == 3 and log[1].count("adopted") == 5 and "adopted" not in log[2]
    q = Qmp(service.socket)
    assert [v["state"] for v in q.run("vm-list")["vms"]] == ["running"] * 5
    q.close()
