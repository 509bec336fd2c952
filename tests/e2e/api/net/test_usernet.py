"""User networks as the daemon sees them: forwards, their ports, and VMs that a connection wakes. The peer of the
interface is tests/helpers/slirp.py, which turns a connection into frames that the bare-metal guest knows.
cairn-slirp itself has tests of its own (test_slirp.py), and runs with Linux at the end of this file."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, ROOT, Console, Daemon, free_port, open_files, until
from daemonlib import NOBODY, as_nobody
from guestlib import fields
from netlib import payload
from slirplib import readable
from test_idle import asleep
from test_linux import one_start
from test_net import LanDaemon, echo, figures, goes_through, lan, opened  # noqa: F401
from test_slow_disk import PRELOAD

pytestmark = pytest.mark.usefixtures("kvm")

MAC = "52:54:00:00:00:01"
GUEST = "net open 0"
STAND_IN = os.path.join(ROOT, "tests/helpers/slirp.py")


@pytest.fixture
def libexec(tmp_path):
    d = tmp_path / "libexec"
    d.mkdir()
    (d / "cairn-slirp").symlink_to(STAND_IN)
    return {"CAIRN_LIBEXEC": str(d)}


@pytest.fixture
def host(tmp_path, libexec):
    d = Daemon(tmp_path, env=libexec)
    yield d
    d.close()


def user(*ports, **more):
    return {"type": "user", "mac": MAC, "forwards": [p if isinstance(p, dict) else {"port": p, "to": 22} for p in ports],
            **more}


def define(daemon, name, *interfaces, guest="interp", **more):
    path = daemon.tmp / f"{name}.json"
    path.write_text(json.dumps(guestlib.definition(name, guest, interfaces=list(interfaces), **more)))
    return daemon.cairn("define", str(path))


def start(daemon, name, *interfaces, **more):
    define(daemon, name, *interfaces, **more)
    daemon.cairn("start", name)
    c = Console(daemon, name)
    assert c.line() == "interp"
    opened(c)
    return c


def connect(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.settimeout(30)
    return s


def listens(port):
    """Return whether the port accepts connections. Ignores a listener that ends during the connect."""
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        connect(port).close()
        return True
    return False


def awaits(daemon, port):
    """Return whether the daemon itself listens at the port of a sleeping VM: not the daemon before it, nor a
    cairn-slirp that is ending, which would take a connection with them."""
    with open("/proc/net/tcp", encoding="ascii") as f:
        inodes = [w[9] for w in map(str.split, f) if w[1].endswith(f":{port:04X}") and w[3] == "0A"]
    return any(f"socket:[{i}]" in open_files(daemon.proc.pid) for i in inodes)


def answers(c, s, seed):
    """Data passes from the host to the guest and back."""
    s.sendall(payload(100, seed))
    assert fields(c.run(f"net recv {seed}")[-1])["bytes"] == 100
    c.run(f"net send 50 {seed + 1}")
    assert s.recv(1000) == payload(50, seed + 1)


def slirps(daemon):
    """Return the daemon's cairn-slirp processes that have not ended."""
    return [pid for pid, name in daemon.all_children().items() if name == "cairn-slirp"]


def slirp(daemon):
    """Return the daemon's only cairn-slirp. A new one loads its program while the VM starts and runs."""
    until(lambda: len(slirps(daemon)) == 1)
    return slirps(daemon)[0]


def log(daemon, name):
    return daemon.log_of(name)


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


# ---- a network ----

def test_denials_are_counted_and_shown(daemon, tmp_path):
    """The next daemon counts them, too. An interface without rules has no such figures."""
    c = start(daemon, "a", user(egress={}), user(mac="52:54:00:00:00:02", network="10.0.3.0/24"))
    opened(c)
    assert "egress" not in figures(daemon, "a", 1)

    def denied():
        lines = dict(x.split()[1:] for x in daemon.cairn("domifstat", "a", "net0").stdout.splitlines())
        assert "egress_denied_packets" not in daemon.cairn("domifstat", "a", "net1").stdout
        return lines["egress_denied_packets"], lines["egress_denied_names"]
    assert denied() == ("0", "0")
    for i in range(3):  # a frame of a type that no rule allows
        c.run(f"net send 60 {i}")
    until(lambda: denied() == ("3", "0"))
    assert figures(daemon, "a")["egress"] == {"denied-packets": 3, "denied-questions": 0}
    daemon.stop(signal.SIGKILL)
    daemon.start()
    until(lambda: denied() == ("3", "0"))
    text = log(daemon, "a")
    assert "egress: denied" in text


def test_live_clones_answer_on_their_own_published_ports(daemon):
    """A guest that answers datagrams is forked; with egress rules that deny everything, too."""
    c = start(daemon, "a", user(egress={}))
    opened(c)
    c.run("pit 100")
    c.sock.sendall(b"net serve\n")
    r = json.loads(daemon.cairn("clone", "--live", "a", "c", "--count", "3", "--publish", "udp:auto:7", "--format",
                                "json").stdout)
    ports = [p["port"] for p in r["published"]]
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.connect(("127.0.0.1", port))
            s.send(b"%d" % port)
            until(lambda s=s: readable(s) or s.send(b"%d" % port) == 0)
            assert s.recv(100) == b"%d" % port
    for i in range(1, 4):
        daemon.cairn("destroy", f"c-{i}")
    for port in ports:  # nobody holds it
        def free(port=port):
            with socket.socket(type=socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return True
        until(free)


def test_egress_rules_reach_cairn_slirp(host):
    """The definition's JSON and XML have the rules, too. Forwards still reach the guest."""
    rules = {"default": "deny", "rules": [{"allow": "*.example.org", "protocol": "tcp", "ports": "443,8000-8100"},
                                          {"deny": "10.0.0.0/8"}, {"allow": "2001:db8::/32"}]}
    port = free_port()
    c = start(host, "a", user(port, egress=rules))
    until(lambda: "--egress deny;allow tcp 443,8000-8100 *.example.org;deny any - 10.0.0.0/8;allow any - 2001:db8::/32"
          in log(host, "a"))
    opened(c)
    with connect(port) as s:
        answers(c, s, 1)
    assert json.loads(host.cairn("dumpjson", "a").stdout)["interfaces"][0]["egress"] == rules
    (host.tmp / "a.xml").write_text(host.cairn("dumpxml", "a").stdout)
    host.cairn("destroy", "a")
    host.cairn("define", str(host.tmp / "a.xml"))
    assert json.loads(host.cairn("dumpjson", "a").stdout)["interfaces"][0]["egress"] == rules


def test_egress_rules_of_a_running_vm_change(host):
    """domif-egress replaces and removes them; the running VM's and those of the next start are each shown; the next
    daemon knows the running VM's, too."""
    def egress(*args, **more):
        return host.cairn("domif-egress", "a", "net0", *args, **more)
    start(host, "a", user())
    assert egress().stdout == "allow\n" and json.loads(egress("--format", "json").stdout or "null") is None
    assert egress("allow tcp 443 *.example.org", "deny 10.0.0.0/8", "deny").stdout == "Egress rules changed successfully\n"
    until(lambda: "slirp: egress deny;allow tcp 443 *.example.org;deny any - 10.0.0.0/8" in log(host, "a"))
    shown = "allow tcp 443 *.example.org\ndeny 10.0.0.0/8\ndeny\n"
    assert egress().stdout == shown and egress("--config").stdout == "allow\n"
    assert json.loads(egress("--format", "json").stdout) == {"default": "deny", "rules": [
        {"allow": "*.example.org", "protocol": "tcp", "ports": "443"}, {"deny": "10.0.0.0/8"}]}
    egress("--config", "--live", "allow 192.0.2.0/24", "allow")
    assert egress().stdout == egress("--config").stdout == "allow 192.0.2.0/24\nallow\n"
    host.stop(signal.SIGKILL)
    host.start()
    assert egress().stdout == "allow 192.0.2.0/24\nallow\n"
    egress("--clear")
    until(lambda: "slirp: egress none" in log(host, "a"))
    assert egress().stdout == "allow\n" and egress("--config").stdout == "allow 192.0.2.0/24\nallow\n"
    for args, code, sentence in ((["maybe"], 2, "a rule must be like"), (["allow 10.0.0.1/8"], 2, "has bits beyond"),
                                 (["--clear", "deny"], 2, "either --clear or rules")):
        assert sentence in egress(*args, ok=code).stderr
    assert egress().stdout == "allow\n"
    assert "has no interface 'net7'" in host.cairn("domif-egress", "a", "net7", "deny", ok=3).stderr
    host.cairn("destroy", "a")
    assert "change its definition instead, with --config" in egress("--live", "deny", ok=4).stderr
    assert egress("deny").stdout and egress().stdout == "deny\n"  # of the next start


def test_only_the_author_and_root_change_rules_of_a_running_vm(lan, libexec):  # noqa: F811
    """cairn-slirp has the author's rights, so another admin cannot take the rules away; he may limit an interface."""
    with daemon_for_all(lan) as d:
        d.cairn("grant", "admin", "--user", "nobody")
        for name, more in (("ruled", {"egress": {}}), ("free", {"mac": "52:54:00:00:00:02"})):
            (d.tmp / f"{name}.json").write_text(json.dumps(guestlib.definition(
                name, interfaces=[user(**more)], boot={"kernel": str(d.tmp / "interp.elf")})))
            d.cairn("define", str(d.tmp / f"{name}.json"))
            d.cairn("start", name)
        e, ok, gone, = as_nobody(d, ["vm-set-interface", {"vm": "ruled", "interface": "net0", "no-egress": True}],
                                 ["vm-set-interface", {"vm": "free", "interface": "net0", "egress": {}}],
                                 ["vm-set-interface", {"vm": "free", "interface": "net0", "no-egress": True}])
        reason = "another user wrote the rules"
        assert reason in e["error"]["desc"] and "return" in ok and reason in gone["error"]["desc"]
        d.cairn("domif-egress", "ruled", "net0", "--clear")
        d.cairn("domif-egress", "free", "net0", "--clear")


def test_forward_reaches_guest_and_survives_restart(host):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    c = start(host, "a", user(tcp, {"protocol": "udp", "port": udp, "to": 53, "guest": "10.9.0.20"}, network="10.9.0.0/24",
                              restrict=True, host_loopback=True))
    shown = fields(c.run("net show")[-1])
    assert (shown["link"], shown["mtu"]) == (1, 65520) and opened(c)["features"] & 0x7fff == 1 << 5 | 1 << 3
    until(lambda: ("slirp: --frames 3 --control 4 --network 10.9.0.0/24 --mtu 65520 --hostname a --restrict --host-loopback "
                   "--forward tcp:5:-:22 --forward udp:6:10.9.0.20:53") in log(host, "a"))
    with connect(tcp) as s:
        answers(c, s, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(30)
        s.connect(("127.0.0.1", udp))
        answers(c, s, 3)
    i = figures(host, "a")
    assert (i["link"], i["rx-packets"], i["tx-packets"]) == ("up", 2, 2) and "target" not in i
    pid = slirp(host)
    host.cairn("destroy", "a")
    until(lambda: gone(pid))
    assert not listens(tcp)
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", udp))
        s.send(b"x")
        s.settimeout(30)
        s.recv(1)


def test_forward_and_bridge_are_of_one_vm(lan, libexec, tmp_path):  # noqa: F811
    lan.ip("link", "set", "lo", "up")
    other = "52:54:00:00:00:02"
    d = LanDaemon(tmp_path, lan, before=["env", f"CAIRN_LIBEXEC={libexec['CAIRN_LIBEXEC']}"])
    try:
        c = start(d, "a", user(8080, 8081), {"type": "bridge", "source": "br0", "mac": other})
        for seed, port in enumerate((8080, 8081)):
            answers(c, lan.inside(lambda port=port: connect(port)), 2 * seed)
        assert opened(c, 1)["mac"] == other
        goes_through(c, lan.socket(), 200, 5, other)
    finally:
        d.close()


def test_end_of_cairn_slirp_sets_link_down_only(host):
    port = free_port()
    c = start(host, "a", user(port))
    q = host.qmp()
    pid = slirp(host)
    os.kill(pid, signal.SIGKILL)
    assert q.event("LINK_LOST", vm="a")["data"] == {
        "vm": "a", "vm-uuid": host.info("a")["uuid"], "device": "net0", "detail": "the process of its network has ended"}
    assert fields(c.run("net show")[-1])["link"] == 0
    until(lambda: gone(pid))
    assert figures(host, "a")["link"] == "down" and not listens(port)
    assert "its cairn-slirp ended with signal 9" in host.log.read_text()
    c.run("net send 50 1")
    # A new start gets all ports again, even if the old process has not closed them yet.
    host.cairn("destroy", "a")
    host.cairn("start", "a")
    c = Console(host, "a")
    c.line()
    opened(c)
    with connect(port) as s:
        answers(c, s, 1)


def test_forwards_survive_kill_of_daemon(host):
    port = free_port()
    c = start(host, "a", user(port))
    pid = slirp(host)
    with connect(port) as s:
        answers(c, s, 1)
        host.stop(signal.SIGKILL)
        answers(c, s, 3)
        host.start()
        answers(c, s, 5)
        with connect(port) as t:
            answers(c, t, 7)
    assert slirps(host) == []  # no second process
    # A later daemon, too, ends the process with its VM, and the next start gets the port at once.
    host.cairn("destroy", "a")
    host.cairn("start", "a")
    until(lambda: gone(pid))
    assert slirp(host) and listens(port)


def test_saved_vm_starts_with_changed_forwards(host):
    was, port = free_port(), free_port()
    c = start(host, "a", user(was))
    c.close()
    host.cairn("managedsave", "a")
    assert "managed save" in define(host, "a", {"type": "bridge", "source": "br0", "mac": MAC, "link": "down"}).stderr
    r = host.cairn("start", "a", ok=2)
    assert re.search(r"other device features \(0x0 is gone, 0x[1-9a-f]\w* is new\).*; restore the definition,.* start --force-boot", r.stderr)
    assert host.info("a")["state"] == "saved"
    define(host, "a", user(was))
    # The guest does not notice; the definition change is accepted with the managed save.
    assert "managed save" not in define(host, "a", user(port, egress={}), on_crash="restart", shutdown={"deadline": 7}).stderr
    until(lambda: host.cairn("start", "a", ok=None).returncode == 0)  # the process of the last try may still be ending
    with connect(port) as s:
        answers(Console(host, "a"), s, 1)
    assert not listens(was)


def test_cairn_run_starts_and_ends_cairn_slirp(libexec):
    """cairn run: the process belongs to the VM and ends with it."""
    port = free_port()
    d = guestlib.definition(interfaces=[user(port)])
    with guestlib.Guest(d, env={**os.environ, **libexec}) as g:
        g.expect("interp\n")
        g.command("net open 0")
        with connect(port) as s:
            s.sendall(payload(100, 1))
            assert g.values("net recv 1")["bytes"] == 100
            g.command("net send 50 2")
            assert s.recv(1000) == payload(50, 2)
    until(lambda: not listens(port))


def test_stuck_cairn_slirp_is_killed(host):
    """A stopped cairn-slirp holds its port after the end of the VM, so the daemon kills it."""
    port = free_port()
    start(host, "a", user(port))
    pid = slirp(host)
    os.kill(pid, signal.SIGSTOP)
    host.cairn("destroy", "a")
    host.cairn("start", "a")
    until(lambda: gone(pid))
    assert listens(port)
    pid = slirp(host)
    os.kill(pid, signal.SIGSTOP)
    host.cairn("destroy", "a")
    until(lambda: gone(pid))  # also when nobody needs the port


@pytest.mark.parametrize("ended", ["before", "meanwhile", "afterwards"])
def test_stuck_cairn_slirp_of_earlier_daemon_is_killed(daemon, ended):
    port = free_port()
    start(daemon, "a", user(port))
    pid = slirp(daemon)
    vm = daemon.info("a")["pid"]
    if ended == "before":
        os.kill(pid, signal.SIGSTOP)
        daemon.cairn("destroy", "a")
    daemon.stop(signal.SIGKILL)  # whose end continues stopped processes of an orphaned process group
    if ended != "before":
        os.kill(pid, signal.SIGSTOP)
    if ended == "meanwhile":
        os.kill(vm, signal.SIGKILL)
        until(lambda: gone(vm))
    daemon.start()
    if ended == "afterwards":
        daemon.cairn("destroy", "a")
    until(lambda: gone(pid))
    until(lambda: not list((daemon.state / "run").glob("..0-*")))
    daemon.cairn("start", "a")
    assert listens(port)


def test_start_fails_when_cairn_slirp_is_missing(tmp_path, guest):
    (tmp_path / "cairn-slirp").write_text("not a program")
    d = Daemon(tmp_path, env={"CAIRN_LIBEXEC": str(tmp_path), "PATH": "/"})
    try:
        d.stop()
        os.chmod(tmp_path / "cairn-slirp", 0o755)
        d.start()
        os.unlink(tmp_path / "cairn-slirp")
        define(d, "a", user())
        assert "interfaces[0]: cannot start " in d.cairn("start", "a", ok=False).stderr
        assert d.info("a")["state"] == "shutoff"
    finally:
        d.close()


# ---- ports ----

def test_start_fails_when_port_is_taken(host):
    port = free_port()
    c = start(host, "a", user(port))
    define(host, "b", user({"address": "0.0.0.0", "port": port, "to": 80}, mac="52:54:00:00:00:02"))
    r = host.cairn("start", "b", ok=6)
    assert (f"interfaces[0].forwards[0]: tcp 0.0.0.0:{port} is forwarded to VM 'a'; shut that VM down first, or choose another port"
            in r.stderr)
    assert host.info("b")["state"] == "shutoff"
    with connect(port) as s:
        answers(c, s, 1)
    host.cairn("destroy", "a")
    host.cairn("start", "b")
    host.cairn("destroy", "b")
    until(lambda: not slirps(host))
    with socket.create_server(("127.0.0.1", port)):
        r = host.cairn("start", "a", ok=6)
        assert f"interfaces[0].forwards[0]: tcp 127.0.0.1:{port} is used by another program; end that program (ss -lntp" in r.stderr
    host.cairn("start", "a")
    define(host, "b", user({"address": "192.0.2.1", "port": port + 1, "to": 80}, mac="52:54:00:00:00:02"))
    assert f"tcp 192.0.2.1:{port + 1}: this host has no such address" in host.cairn("start", "b", ok=3).stderr


@contextlib.contextmanager
def daemon_for_all(lan):  # noqa: F811
    """A daemon in a network namespace, whose folder, guest and stand-in for cairn-slirp other users can read."""
    lan.ip("link", "set", "lo", "up")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder, contextlib.ExitStack() as end:
        os.chmod(folder, 0o711)
        shutil.copy(guestlib.bare("interp"), folder)
        shutil.copy(STAND_IN, os.path.join(folder, "cairn-slirp"))
        d = LanDaemon(pathlib.Path(folder), lan, before=["env", f"CAIRN_LIBEXEC={folder}"])
        end.callback(d.close)
        yield d


def test_cairn_slirp_runs_with_rights_of_definer(lan, libexec):  # noqa: F811
    """The ports are opened, and the process runs, with the rights of the user who defined the VM."""
    with daemon_for_all(lan) as d:
        d.cairn("grant", "admin", "--user", "nobody")
        for port in (80, 8080):
            v = guestlib.definition("n", interfaces=[user(port)], boot={"kernel": str(d.tmp / "interp.elf")})
            assert "return" in as_nobody(d, ["vm-define", {"definition": v}])[0]
            r = d.cairn("start", "n", ok=5 if port == 80 else 0)
            assert port != 80 or ("interfaces[0].forwards[0]: tcp 127.0.0.1:80: ports below 1024 require root; choose a "
                                  "higher one (for user 65534, who defined the VM)") in r.stderr
        until(lambda: f"uid={NOBODY}" in log(d, "n"))


def test_clones_have_no_forwards(host, tmp_path):
    port = free_port()
    c = start(host, "a", user(port))
    assert f"not cloned: forward tcp 127.0.0.1:{port}, which stays with the source" in host.cairn(
        "clone", "--live", "a", "b").stdout
    assert figures(host, "b")["link"] == "up"
    with connect(port) as s:
        answers(c, s, 1)
    until(lambda: len(slirps(host)) == 2)
    host.cairn("destroy", "a")
    host.cairn("destroy", "b")
    assert f"not cloned: forward tcp 127.0.0.1:{port}" in host.cairn("clone", "a", "c").stdout
    for name in "bc":
        i, = json.loads(host.cairn("dumpjson", name).stdout)["interfaces"]
        assert i["forwards"] == [] and i["network"] == "10.0.2.0/24"


# ---- waking ----

IDLE = {"after": "1s", "action": "save"}


def woken(q, port, name="a"):
    return q.event("VM_STATE_CHANGE", vm=name, state="running", reason="woken",
                   detail=f"by forward tcp 127.0.0.1:{port}")


def test_connection_wakes_suspended_vm(host):
    port = free_port()
    define(host, "a", user(port), boot={"kernel": guestlib.bare("interp"), "cmdline": GUEST},
           idle={"after": "1s", "action": "suspend", "cpu": 100})
    host.cairn("start", "a")
    asleep(host, "paused", "a")
    q = host.qmp()
    with connect(port) as s:
        woken(q, port)
        c = Console(host, "a")
        while c.line() != "ok":  # skip earlier output
            pass
        answers(c, s, 1)


@pytest.mark.parametrize("action,state", [("suspend", "paused"), ("save", "saved")])
def test_cairn_slirp_accepts_waiting_connection(daemon, action, state):
    """cairn-slirp accepts the waiting connection and finds the guest's address by ARP."""
    port = free_port()
    define(daemon, "a", user(port), boot={"kernel": guestlib.bare("interp"), "cmdline": GUEST},
           idle={"after": "1s", "action": action, "cpu": 100})
    daemon.cairn("start", "a")
    asleep(daemon, state, "a")
    until(lambda: state == "paused" or awaits(daemon, port))  # its cairn-slirp listens while it is paused
    q = daemon.qmp()
    with connect(port):
        woken(q, port)
        until(lambda: figures(daemon, "a")["rx-packets"] > 0)
    assert figures(daemon, "a")["link"] == "up" and len(slirps(daemon)) == 1


def test_vm_that_a_connection_wakes_has_its_vsock_socket(daemon, tmp_path):
    """The daemon holds the sockets of the forwards, but not that of vsock."""
    port = free_port()
    path = str(tmp_path / "a.vsock")
    define(daemon, "a", user(port), boot={"kernel": guestlib.bare("interp"), "cmdline": GUEST}, vsock={"cid": 3, "path": path},
           idle={**IDLE, "cpu": 100})
    daemon.cairn("start", "a")
    asleep(daemon, "saved", "a")
    until(lambda: awaits(daemon, port))
    q = daemon.qmp()
    with connect(port), socket.socket(socket.AF_UNIX) as s:
        woken(q, port)
        s.connect(path)


@pytest.mark.parametrize("what", ["daemon", "killed", "redefined"])
def test_connection_wakes_saved_vm(host, what):
    """Data sent before the VM was awake arrives as well."""
    port = free_port()
    how = {"boot": {"kernel": guestlib.bare("interp"), "cmdline": GUEST}, "idle": {**IDLE, "cpu": 100}}
    define(host, "a", user(port), **how)
    host.cairn("start", "a")
    c = Console(host, "a")  # an attached console keeps the VM awake
    while c.line() != "ok":  # skip earlier output
        pass
    c.close()
    asleep(host, "saved", "a")
    until(lambda: slirps(host) == [])
    if what == "killed":
        until(lambda: host.kept("a").get("reason") == "idle")
        host.stop(signal.SIGKILL)
        host.start()
    elif what == "redefined":
        was, port = port, free_port()
        define(host, "a", user(port), **how)
        assert not listens(was)
    until(lambda: awaits(host, port))
    q = host.qmp()
    with connect(port) as s:
        s.sendall(payload(100, 1))
        woken(q, port)
        c = Console(host, "a")
        assert fields(c.run("net recv 1")[-1])["bytes"] == 100
        answers(c, s, 3)
        c.close()


def test_connection_during_idle_save_cancels_it(tmp_path, libexec):
    d = Daemon(tmp_path, FAKE_VM, env=libexec)
    try:
        port = free_port()
        d.define("a", "work-takes=50000", interfaces=[user(port)], idle={"after": "1s", "action": "save"})
        q = d.qmp()
        d.cairn("start", "a")
        q.event("JOB_STATUS_CHANGE", status="running")
        with connect(port):
            q.event("JOB_STATUS_CHANGE", status="aborting")
            until(lambda: d.info("a")["state"] in ("running", "idle"))
        assert slirps(d)
    finally:
        d.close()


def test_failed_wake_is_retried_with_back_off(tmp_path, libexec):
    """The daemon retries with back-off, a limited number of times per window; a user may retry at any time."""
    d = Daemon(tmp_path, FAKE_VM, env=libexec)
    kernel = tmp_path / "kernel"
    try:
        port = free_port()
        kernel.write_bytes(b"none")
        d.define("a", boot={"kernel": str(kernel)}, interfaces=[user(port)], idle={"after": "1s", "action": "save"},
                 restart={"delay": 1, "tries": 2, "window": 3600})
        d.cairn("start", "a")
        for again in (True, False):
            asleep(d, "saved", "a")
            until(lambda: awaits(d, port))
            kernel.rename(tmp_path / "away")
            with connect(port):
                until(lambda: "waking failed" in d.info("a").get("detail", ""))
                assert (d.info("a")["state"], d.info("a")["reason"]) == ("saved", "idle")
                if not again:
                    until(lambda: "2 times within 3600 s" in d.log.read_text())
                (tmp_path / "away").rename(kernel)
                if again:
                    until(lambda: was_woken(d))
        assert d.kept("a")["reason"] == "idle"
        d.cairn("start", "a")
        asleep(d, "saved", "a")
        until(lambda: awaits(d, port))
        with connect(port):  # the back-off starts again
            until(lambda: d.info("a")["state"] != "saved")
    finally:
        d.close()


def was_woken(daemon):
    """Return whether the VM was woken. It may be asleep again, so look at the events."""
    return '"woken"' in (daemon.state / "events.jsonl").read_text().replace("\\", "")


@pytest.mark.parametrize("meanwhile", [False, True])
def test_next_daemon_wakes_suspended_vm(host, meanwhile):
    port = free_port()
    define(host, "a", user(port), guest="idle", idle={"after": "1s", "cpu": 100})
    host.cairn("start", "a")
    asleep(host, "paused", "a")
    until(lambda: host.kept("a").get("reason") == "idle")
    host.stop(signal.SIGKILL)
    with contextlib.ExitStack() as end:
        if meanwhile:
            end.enter_context(connect(port))
            until(lambda: "lets somebody in" in log(host, "a"))
        host.start()
        if not meanwhile:
            end.enter_context(connect(port))
        until(lambda: was_woken(host))
    host.cairn("destroy", "a")
    until(lambda: not list((host.state / "run").glob("..0-*")))


def saving(tmp_path, libexec, port):
    """A VM that is being saved because it is idle, until the file `saved` exists."""
    d = Daemon(tmp_path, FAKE_VM, env=libexec)
    d.define("a", f"work-until={tmp_path}/saved", interfaces=[user(port)], idle={"after": "1s", "action": "save"})
    q = d.qmp()
    d.cairn("start", "a")
    q.event("VM_STATE_CHANGE", state="paused")
    return d


def test_late_connection_waits_for_saved_vm_to_wake(tmp_path, libexec):
    port = free_port()
    d = saving(tmp_path, libexec, port)
    try:
        # Does nothing while the VM ends, as a busy one would.
        d.proc.send_signal(signal.SIGSTOP)
        pid = slirp(d)
        (tmp_path / "saved").touch()
        with connect(port) as s:
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                until(lambda: f.seek(0) or f.read().split()[2] == "Z")
            d.proc.send_signal(signal.SIGCONT)
            until(lambda: "lets somebody in" in log(d, "a"))
            until(lambda: was_woken(d))
            s.sendall(b"x")
    finally:
        d.proc.send_signal(signal.SIGCONT)
        d.close()


@pytest.mark.parametrize("when", ["saving", "ended"])
def test_next_daemon_wakes_vm_that_was_falling_asleep(tmp_path, libexec, when):
    port = free_port()
    d = saving(tmp_path, libexec, port)
    try:
        pid = d.info("a")["pid"]
        d.stop(signal.SIGKILL)
        if when == "ended":
            (tmp_path / "saved").touch()
            until(lambda: gone(pid))
            d.start()
        else:
            d.start()
            assert d.info("a")["state"] == "paused"
            (tmp_path / "saved").touch()
        asleep(d, "saved", "a")
        # Retry: the VM's own cairn-slirp, which is ending, may have taken the first connection.
        until(lambda: listens(port) and was_woken(d))
    finally:
        d.close()


def test_port_of_sleeping_vm_is_released_with_its_save(host):
    port = free_port()
    define(host, "a", user(port), guest="idle", idle=IDLE)
    define(host, "b", user(port, mac="52:54:00:00:00:02"), guest="idle")
    for verb in (["managedsave-remove", "a"], ["undefine", "--managed-save", "a"]):
        host.cairn("start", "a")
        asleep(host, "saved", "a")
        assert f"tcp 127.0.0.1:{port} is forwarded to VM 'a', which is idle; shut that VM down first" in host.cairn(
            "start", "b", ok=6).stderr
        host.cairn(*verb)
        host.cairn("start", "b")
        host.cairn("destroy", "b")


def test_vm_whose_cairn_slirp_ends_does_not_fall_asleep(tmp_path, libexec):
    """cairn-slirp ends before the VM's process is told to save: nobody would answer at the port afterwards."""
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    port, go = free_port(), tmp_path / "go"
    with contextlib.ExitStack() as end:
        d = Daemon(tmp_path, vm_program=FAKE_VM, env={
            **libexec, "LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": "state.json", "SLOW_SYNC_UNTIL": str(go)})
        end.callback(d.close)
        end.callback(go.touch)
        go.touch()
        d.define("a", interfaces=[user(port)], idle=IDLE)
        go.unlink()
        d.cairn("start", "a")
        until(lambda: (d.state / "vms/a/managed.save.tmp").exists())
        d.cairn("destroy", "a")
        assert d.info("a")["state"] == "shutoff"
        until(lambda: not listens(port))


def test_vm_started_after_users_save_listens_again(host):
    port = free_port()
    define(host, "a", user(port), guest="idle", idle={"after": "1h", "action": "save"})
    host.cairn("start", "a")
    host.cairn("managedsave", "a")
    # After a user's save, no connection wakes the VM.
    until(lambda: not listens(port))
    assert host.info("a")["reason"] == "saved"
    host.cairn("start", "a")
    assert listens(port)


# ---- Linux, and the program itself ----

def echoed(port, data):
    """Return what a server in the guest sends back; retry until the server listens."""
    while True:
        with contextlib.suppress(ConnectionError), connect(port) as s:
            s.settimeout(None)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = b"".join(iter(lambda: s.recv(1 << 20), b""))
            if got:
                return got


def address_comes(host, console):
    """The agent reports the address to all clients; there was none before."""
    console.run("agent work")
    host.cairn("wait", "linux", "--for", "agent", "--timeout", "300")
    assert host.cairn("domifaddr", "linux", "eth0").stdout.splitlines()[2].split() == ["eth0", MAC, "N/A", "N/A"]
    wait = [os.path.join(BUILD, "cairn"), "wait", "linux", "--for", "ip", "--timeout", "300"]
    waiting = [subprocess.Popen(wait, env=host.env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    console.run("ifup eth0 10.0.2.15")
    assert [w.communicate()[0] for w in waiting] == ["10.0.2.15\n"] * 3
    rows = [line.split() for line in host.cairn("domifaddr", "linux").stdout.splitlines()[2:-1]]
    assert ["eth0", MAC, "ipv4", "10.0.2.15/24"] in rows
    host.cairn("suspend", "linux")
    assert "resume it first" in host.cairn("domifaddr", "linux", ok=4).stderr
    host.cairn("resume", "linux")


@pytest.mark.seconds(1500)  # the first test that needs a kernel builds it
@one_start
def test_linux_serves_and_connects_over_user_network(tmp_path):
    """A connection wakes the VM as well."""
    n = 16 << 10  # an emulated kernel is slow
    host, port = Daemon(tmp_path), free_port()
    try:
        path = tmp_path / "linux.json"
        path.write_text(json.dumps(guestlib.linux_definition(
            "linux", interfaces=[user({"port": port, "to": 80}, host_loopback=True)],
            guest_agent=True, idle={"after": "1s", "action": "suspend", "cpu": 100})))
        host.cairn("define", str(path))
        host.cairn("start", "linux")
        pid = slirp(host)
        c = Console(host, "linux")
        c.sock.settimeout(180)
        while not c.line().startswith("cairn-guest: ready"):
            pass
        address_comes(host, c)
        assert c.run("read /sys/class/net/eth0/mtu") == ["65520"]
        with ThreadPoolExecutor() as pool, socket.create_server(("127.0.0.1", 0)) as server:
            data = random.Random(5).randbytes(n)
            asked = pool.submit(echoed, port, data)
            c.run("serve 80")
            assert asked.result() == data
            served = pool.submit(echo, server, n)
            c.run(f"tcp 10.0.2.2 {server.getsockname()[1]} {n} 3")
            served.result()
            # Checksums and TCP over IPv4 segmentation: no other offload is used.
            left = c.run("read /sys/class/net/eth0/device/features")[0]
            assert [i for i in (0, 1, *range(6, 15)) if left[i] == "1"] == [0, 1, 7, 11]
            # This many bytes fit into one frame, in both directions; a busy host may send them in pieces.
            c.run("write /sys/class/net/eth0/mtu 1500")
            whole = set()
            for _ in range(20):
                before, served = figures(host, "linux"), pool.submit(echo, server, 4 * n)
                c.run(f"tcp 10.0.2.2 {server.getsockname()[1]} {4 * n} 3")
                served.result()
                after = figures(host, "linux")
                whole |= {x for x in ("rx-packets", "tx-packets") if after[x] - before[x] < 4 * n // 1460}
                if len(whole) == 2:
                    break
            assert len(whole) == 2
        i = figures(host, "linux")
        assert i["tx-bytes"] > 2 * n < i["rx-bytes"] and i["rx-drops"] == i["tx-errors"] == i["tx-drops"] == 0
        # Without a console the VM falls asleep until a connection comes.
        c.sock.sendall(b"serve 80\n")
        c.close()
        asleep(host, "paused", "linux")
        q = host.qmp()
        assert echoed(port, b"good morning") == b"good morning"
        woken(q, port, "linux")
        host.cairn("destroy", "linux")
        until(lambda: gone(pid))
    finally:
        host.close()
