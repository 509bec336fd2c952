"""Vsock: programs of the host and of the guest connect to each other's ports, without a network."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

import guestlib
from conftest import BUILD, Console, Daemon, Qmp, QmpError, open_fds, status_confined, until
from otherslib import NOBODY, as_user, run_as_user

PORT = 52


class Client:
    """A client in Firecracker's form: CONNECT PORT, OK HOSTPORT."""

    def __init__(self, path, port=PORT):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))  # waits if many others do
        self.sock.settimeout(30 * guestlib.SLOW)
        if port is not None:
            self.sock.sendall(b"CONNECT %d\n" % port)

    def line(self):
        """Return the first line; "": the device has closed the connection."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self.sock.recv(1)
            if not byte:
                break
            line += byte
        return line.decode()

    def ended(self):
        with contextlib.suppress(ConnectionResetError):
            return self.sock.recv(1) == b""
        return True


def echoes(sock, data):
    """Send the data while another thread reads the echo; the guest gets all and then the end."""
    def write():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    writer = threading.Thread(target=write)
    writer.start()
    got = b""
    while part := sock.recv(65536):
        got += part
    writer.join()
    return got == data


@pytest.fixture
def folder():
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="vs-") as name:
        yield pathlib.Path(name)


@pytest.fixture
def served(kvm, folder):
    """A guest whose driver has started, run by `cairn run`; and its socket."""
    with guestlib.interp(vsock={"cid": 77, "path": str(folder / "s")}) as g:
        assert g.command("vsock open") == ["cid=77"]
        yield g, folder / "s"


def serve(g, what="serve"):
    g.send(f"vsock {what} {PORT}\n")
    if what == "serve":
        assert g.line() == "listens"


def test_client_talks_to_guest(served):
    """More data than both sides hold at once, three connections in a row."""
    g, path = served
    ports = set()
    for size in (0, 10, 1_000_003):
        serve(g)
        c = Client(path)
        ok, port = c.line().split()
        assert ok == "OK"
        ports.add(int(port))
        assert echoes(c.sock, os.urandom(size))
        assert f"bytes={size} ended=1" in g.answer()[-1]
    assert len(ports) == 3 and min(ports) >= 1 << 30


def test_data_behind_the_connect_line_reaches_the_guest(served):
    g, path = served
    serve(g)
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(50 * guestlib.SLOW)
        s.connect(str(path))
        s.sendall(f"CONNECT {PORT}\nquestion".encode())
        s.shutdown(socket.SHUT_WR)
        with s.makefile("rb") as f:
            assert f.readline().startswith(b"OK ") and f.read() == b"question"
    assert "bytes=8 ended=1" in g.answer()[-1]


@pytest.mark.seconds(240)  # once, for the fetch
def test_systemds_client_of_firecrackers_sockets_is_understood(served):
    """systemd-ssh-proxy, which nobody has changed, connects and hands ssh the socket."""
    r = subprocess.run([os.path.join(guestlib.ROOT, "tests/clients/ssh_proxy.sh")], capture_output=True, text=True, timeout=200)
    if r.returncode == 77:
        pytest.skip(r.stderr.strip().splitlines()[-1])
    assert r.returncode == 0, r.stderr

    def run():
        """Return the socket that it hands over."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run([r.stdout.strip(), f"vsock-mux{path}", str(PORT)], stdout=theirs, check=True, timeout=50 * guestlib.SLOW)
            fd, = socket.recv_fds(ours, 100, 1)[1]
        return socket.socket(fileno=fd)
    g, path = served
    serve(g)
    with run() as sock:
        sock.settimeout(50 * guestlib.SLOW)
        # The answer to CONNECT stays in the socket: ssh skips lines before the server's version (RFC 4253, 4.2).
        line = b""
        while not line.endswith(b"\n"):
            line += sock.recv(1)
        assert re.fullmatch(rb"OK \d+\n", line)
        assert echoes(sock, os.urandom(1_000_003))
    assert "bytes=1000003 ended=1" in g.answer()[-1]
    serve(g, "refuse")
    with run() as sock:
        assert sock.recv(1) == b""
    g.answer()


def test_socket_belongs_to_its_user_alone(served):
    assert os.stat(served[1]).st_mode & 0o777 == 0o600


def test_port_that_guest_refuses_gets_no_ok(served):
    g, path = served
    serve(g, "refuse")
    assert Client(path).line() == ""
    g.answer()


def test_client_that_goes_ends_guests_connection(served):
    g, path = served
    serve(g)
    c = Client(path)
    assert c.line().startswith("OK ")
    c.sock.close()
    assert "bytes=0 ended=1" in g.answer()[-1]


def test_client_that_says_nonsense_is_closed(served):
    """A silent client stays, and harms no other client."""
    g, path = served
    silent = Client(path, port=None)
    for line in (b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967295\n", b"CONNECT 52x\n", b"CONNECT -1\n", b"\n",
                 b"CONNECT 99999999999\n", b"x" * 1000):
        c = Client(path, port=None)
        c.sock.sendall(line)
        assert c.ended(), line
    serve(g)
    c = Client(path)
    assert c.line().startswith("OK ")
    assert echoes(c.sock, b"still here")
    g.answer()
    silent.sock.sendall(b"CONN")
    serve(g)
    silent.sock.sendall(b"ECT 52\n")
    assert silent.line().startswith("OK ")
    silent.sock.close()
    g.answer()


@pytest.mark.parametrize("line", ["connect 52\n", "CONNECT 52 \n", "CONNECT 52\r\n"])
def test_line_may_be_as_firecracker_takes_it(served, line):
    g, path = served
    serve(g)
    c = Client(path, port=None)
    c.sock.sendall(line.encode())
    assert c.line().startswith("OK ")
    assert echoes(c.sock, b"let in")
    g.answer()


def test_silent_clients_do_not_keep_others_out(served):
    g, path = served
    silent = [Client(path, port=None) for _ in range(300)]
    serve(g)
    c = Client(path)
    assert c.line().startswith("OK ")
    assert echoes(c.sock, b"let in")
    g.answer()
    assert silent[0].ended()


def test_guest_without_driver_is_refused(kvm, folder):
    with guestlib.interp(vsock={"path": str(folder / "s")}):
        assert Client(folder / "s").line() == ""


def test_socket_of_ended_vm_is_replaced_and_others_are_not(kvm, folder):
    path = folder / "s"
    for left in (False, True):
        if left:
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(str(path))
        with guestlib.interp(vsock={"path": str(path)}) as g:
            assert path.is_socket()
            other = guestlib.Guest(guestlib.definition(vsock={"path": str(path)}))
            assert other.wait() == 6
            assert f"vsock.path: a program listens on {path}" in other.log()
            other.close()
            g.command("vsock open")
        until(lambda: not path.exists())
    path.write_text("mine")
    other = guestlib.Guest(guestlib.definition(vsock={"path": str(path)}))
    assert other.wait() == 2 and "exists and is no socket" in other.log()
    other.close()
    assert path.read_text() == "mine"


class Listener:
    """A program of the host that waits for the guest's connection to a port, and sends data for it to echo."""

    def __init__(self, path, port):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30 * guestlib.SLOW)
        self.sock.bind(f"{path}_{port}")
        self.sock.listen()

    def serve(self, data):
        peer, _ = self.sock.accept()
        peer.settimeout(30 * guestlib.SLOW)
        with peer:
            return echoes(peer, data)


def dialer(path):
    """Return the pids of the cairn-dial of that path."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if pathlib.Path("/proc", pid, "cmdline").read_bytes().split(b"\0")[-2:] == [str(path).encode(), b""]:
                found.append(int(pid))
    return found


def test_guest_connects_to_programs_of_the_host(served):
    """Firecracker's form: port N is the socket PATH_N. A port without one is refused, also after others were not."""
    g, path = served
    for port, size in ((7, 10), (1024, 300_001), (4294967294, 0)):
        with pytest.raises(guestlib.GuestError, match="refused"):
            g.command(f"vsock connect {port}")
        listener = Listener(path, port)
        g.send(f"vsock connect {port} {port % 1000 + 5000}\n")
        same = listener.serve(os.urandom(size))
        answer = g.answer()[-1]  # first, because it also says how a VM has ended
        assert same and f"bytes={size} ended=1" in answer, (answer, g.log())


def test_dialer_ends_with_its_vm(kvm, folder):
    with guestlib.interp(vsock={"path": str(folder / "s")}):
        assert len(dialer(folder / "s")) == 1
    until(lambda: not dialer(folder / "s"))


def test_killed_dialer_refuses(served):
    g, path = served
    listener = Listener(path, 7)
    pid, = dialer(path)
    os.kill(pid, signal.SIGKILL)
    until(lambda: "cairn-dial has ended" in g.log())
    with pytest.raises(guestlib.GuestError, match="refused"):
        g.command("vsock connect 7")
    listener.sock.close()
    serve(g)
    c = Client(path)
    assert c.line().startswith("OK ")
    assert echoes(c.sock, b"the other way")
    g.answer()


# ---- through the daemon ----

class Vm:
    """A VM of the daemon, with an image for snapshots, whose guest's driver has started."""

    def __init__(self, daemon, guest, name="vm1", **vsock):
        self.daemon, self.name = daemon, name
        image = daemon.tmp / f"{name}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
        daemon.define(name, boot={"kernel": guest("interp.elf")}, debug_exit=True, vsock=vsock or True,
                      disks=[{"path": str(image), "format": "qcow2"}])
        daemon.cairn("start", name)
        self.console = Console(daemon, name)
        while self.console.line() != "interp":
            pass
        assert self.console.run("vsock open") == ["cid=3"]

    def again(self):
        """Attach to the console anew, without the output so far."""
        q = Qmp(self.daemon.socket)
        q.run("vm-console", vm=self.name, history=False)
        self.console = Console(self.daemon, self.name, q.fds.pop())

    def serve(self, what="serve", argument=PORT):
        self.console.sock.sendall(f"vsock {what} {argument}\n".encode())
        if what == "serve":
            while self.console.line() != "listens":
                pass

    def answer(self):
        """Return the answer to what serve() has begun."""
        while (line := self.console.line()) != "ok":
            assert not line.startswith("err"), line
            before = line
        return guestlib.fields(before)

    def connect(self, port=PORT):
        q = Qmp(self.daemon.socket)
        q.run("vsock-connect", vm=self.name, port=port)
        s = socket.socket(fileno=q.fds.pop())
        s.settimeout(30 * guestlib.SLOW)
        return s


@pytest.fixture
def vm(kvm, daemon, guest):
    return Vm(daemon, guest)


def gone(sock):
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def test_daemon_connects_a_client(vm):
    vm.serve()
    with vm.connect() as s:
        assert echoes(s, os.urandom(300_000))
    assert vm.answer()["bytes"] == 300_000


def test_cairn_vsock_joins_its_streams(vm):
    data = os.urandom(200_000)
    vm.serve()
    r = subprocess.run([os.path.join(BUILD, "cairn"), "vsock", "vm1", str(PORT)], env=vm.daemon.env, input=data,
                       stdout=subprocess.PIPE, timeout=50 * guestlib.SLOW, check=True)
    assert r.stdout == data
    assert vm.answer()["bytes"] == len(data)


def test_cairn_ssh_runs_ssh_over_port_22(vm):
    """A script in place of ssh shows its arguments and runs the ProxyCommand, as ssh does."""
    program = vm.daemon.tmp / "ssh"
    program.write_text('#!/bin/sh\nfor a; do case $a in ProxyCommand=*) p=${a#ProxyCommand=};; *) echo "$a";; esac; done\n'
                       'p=$(echo "$p" | sed "s/%%/%/g")\nexec sh -c "$p"\n')
    program.chmod(0o755)
    for command in (["ssh", "root@vm1", "--", "ls", "-l"], ["ssh", "vm1"]):
        vm.serve(argument=22)  # for the look whether the guest listens
        with subprocess.Popen([os.path.join(BUILD, "cairn"), *command], env={**vm.daemon.env, "PATH": f"{vm.daemon.tmp}:{os.environ['PATH']}"},
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
            vm.answer()
            vm.serve(argument=22)
            said, _ = p.communicate(b"SSH-2.0\n", timeout=50 * guestlib.SLOW)
        assert p.returncode == 0
        vm.answer()
        lines = said.decode().splitlines()
        assert lines[-1] == "SSH-2.0"
        assert ("root" in lines) == (len(command) > 2) and ("ls" in lines) == (len(command) > 2)
    vm.serve("refuse", 22)
    r = vm.daemon.cairn("ssh", "vm1", ok=False)
    assert "nothing in the guest listens on vsock port 22" in r.stderr


def test_refusals_have_sentences(vm, guest):
    d = vm.daemon
    vm.serve("refuse")
    r = d.cairn("vsock", "vm1", str(PORT), ok=False)
    assert f"nothing in the guest listens on vsock port {PORT}" in r.stderr
    vm.console.run("vsock events 0")
    for port in ("x", "-1", "4294967295", ""):
        assert "is no vsock port" in d.cairn("vsock", "vm1", "--", port, ok=2).stderr
    with pytest.raises(QmpError, match="a vsock port is a number from 0 to 4294967294"):
        vm.connect(-1)
    d.define("plain", boot={"kernel": guest("interp.elf")})
    d.cairn("start", "plain")
    r = d.cairn("vsock", "plain", "1", ok=False)
    assert "VM 'plain' has no vsock device; set \"vsock\": true (cairn edit plain), shut the VM down and start it" in r.stderr
    d.define("early", boot={"kernel": guest("idle.elf")}, vsock=True)
    d.cairn("start", "early")
    assert "the guest has no driver for its vsock device, or has not started it yet" in d.cairn("vsock", "early", "1", ok=False).stderr
    d.cairn("destroy", "early")
    assert "shut off" in d.cairn("vsock", "early", "1", ok=False).stderr


def test_revert_resets_connections_and_keeps_the_socket(kvm, daemon, guest, folder):
    """The guest is told by an event, once for each state that is loaded; the host's clients see the end."""
    vm = Vm(daemon, guest, path=str(folder / "s"))
    daemon.cairn("snapshot-create-as", "vm1", "before")
    vm.serve()
    held, other = vm.connect(), Client(folder / "s", port=None)
    held.sendall(b"lost")
    assert held.recv(4) == b"lost"
    daemon.cairn("snapshot-revert", "vm1", "before")
    assert gone(held)
    vm.again()
    vm.serve("events", 1)
    assert vm.answer()["events"] == 1
    # A client that had not named a port yet is not the guest's business.
    vm.serve()
    other.sock.sendall(b"CONNECT 52\n")
    assert other.line().startswith("OK ")
    assert echoes(other.sock, b"after the revert")
    assert vm.answer()["events"] == 1


def test_guest_of_the_daemon_connects_to_the_host(kvm, daemon, guest, folder):
    """The guest connects after a revert and under the next daemon, too."""
    vm = Vm(daemon, guest, path=str(folder / "s"))
    listener = Listener(folder / "s", 9)
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    for n in range(3):
        vm.serve("connect", f"9 {2000 + n}")
        assert listener.serve(b"hello")
        assert vm.answer()["bytes"] == 5
        if n == 0:
            daemon.cairn("snapshot-revert", "vm1", "s1")
        else:
            daemon.stop()
            daemon.start()
        vm.again()
    daemon.cairn("destroy", "vm1")
    until(lambda: not dialer(folder / "s"))


@pytest.fixture
def reached(kvm):
    """A daemon that other users reach. The folder `own` belongs to nobody."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="vs-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o711)
        for program in ("cairn-archive", "cairn-dial", "guests/interp.elf"):
            shutil.copy(os.path.join(BUILD, program), folder)
        (folder / "own").mkdir(0o700)
        os.chown(folder / "own", NOBODY, NOBODY)
        d = Daemon(folder, env={"CAIRN_LIBEXEC": name})
        yield d
        d.close()


def test_rights_of_the_user_decide_about_the_sockets(reached):
    """The socket belongs to the user who defined the VM, and cairn-dial runs as that user."""
    def define(say):
        Qmp(reached.socket).run("vm-define", definition={"name": "theirs", "memory": "32M", "vsock": {"path": path},
                                                         "boot": {"kernel": str(reached.tmp / "interp.elf")}})
        say(True)
    path = str(reached.tmp / "own/s")
    reached.cairn("grant", "admin", "--user", "nobody")
    assert run_as_user(define) == [True]
    reached.cairn("start", "theirs")
    st = os.stat(path)
    assert st.st_uid == NOBODY and st.st_mode & 0o777 == 0o600
    pid, = dialer(path)
    status = status_confined(pid)
    assert status["Uid"].split() == [str(NOBODY)] * 4
    if not guestlib.SANITIZED:
        assert (status["CapPrm"], status["Seccomp"], status["NoNewPrivs"]) == ("0" * 16, "2", "1")
    fds = {target.split(":")[0] for n, target in open_fds(pid).items() if n > 2}
    assert fds == {"socket", str(reached.tmp / "own")}  # the folder without a right to read it (O_PATH)


def test_path_in_a_folder_of_somebody_else_is_refused(reached):
    def define(say):
        Qmp(reached.socket).run("vm-define", definition={"name": "theirs", "memory": "32M", "boot": {"kernel": kernel},
                                                         "vsock": {"path": str(reached.tmp / "s")}})
        say(True)
    kernel = str(reached.tmp / "interp.elf")
    reached.cairn("grant", "admin", "--user", "nobody")
    assert run_as_user(define) == [True]
    r = reached.cairn("start", "theirs", ok=False)
    assert f"vsock.path: cannot make the socket {reached.tmp}/s: Permission denied" in r.stderr


def test_connection_ends_with_the_role(reached):
    def hold(say):
        with vm.connect() as s:
            say(True)
            gone(s)
        say(False)
    vm = Vm(reached, lambda name: str(reached.tmp / name))
    reached.cairn("grant", "operator", "vm1", "--user", "nobody")
    vm.serve()
    with as_user(hold) as lines:
        assert lines.readline() == "true\n"
        reached.cairn("grant", "viewer", "vm1", "--user", "nobody")
        assert lines.readline() == "false\n"
    vm.answer()


def test_connection_to_the_agent_needs_the_role_guest_and_ends_with_it(reached):
    """Another user's change of roles leaves it, also though the user has no role for the consoles."""
    def hold(say):
        q = Qmp(reached.socket)
        with pytest.raises(QmpError, match="requires the role operator"):
            q.run("vsock-connect", vm="vm1", port=522)
        q.run("agent-connect", vm="vm1")
        with socket.socket(fileno=q.fds.pop()) as s:
            s.settimeout(30 * guestlib.SLOW)
            say(True)
            until(lambda: os.path.exists(reached.tmp / "own/changed"))
            s.sendall(b"mine")
            say(s.recv(4) == b"mine")
            gone(s)
        with pytest.raises(QmpError, match="requires the role guest"):
            q.run("agent-connect", vm="vm1")
        say(False)
    vm = Vm(reached, lambda name: str(reached.tmp / name))
    reached.cairn("grant", "guest", "vm1", "--user", "nobody")
    vm.serve(argument=522)
    with as_user(hold) as lines:
        assert lines.readline() == "true\n"
        reached.cairn("grant", "operator", "vm1", "--user", "daemon")
        reached.cairn("revoke", "vm1", "--user", "daemon")
        (reached.tmp / "own/changed").touch()
        assert lines.readline() == "true\n"
        reached.cairn("grant", "viewer", "vm1", "--user", "nobody")
        assert lines.readline() == "false\n"
    vm.answer()


def test_snapshot_keeps_connections(vm):
    vm.serve()
    with vm.connect() as s:
        vm.daemon.cairn("snapshot-create-as", "vm1", "s1")
        assert echoes(s, b"still connected")
    assert vm.answer()["events"] == 0


def test_connection_begun_right_after_a_restore_lives(vm):
    """The request waits until the driver has handled the event, or the driver would reset the new connection, too."""
    vm.daemon.cairn("managedsave", "vm1")
    vm.daemon.cairn("start", "vm1")
    vm.again()
    q = Qmp(vm.daemon.socket)
    q.send(b'{"execute": "vsock-connect", "arguments": {"vm": "vm1", "port": 52}}')
    vm.serve()
    q.answer()
    with socket.socket(fileno=q.fds.pop()) as s:
        s.settimeout(30 * guestlib.SLOW)
        assert echoes(s, b"new")
    assert vm.answer()["events"] == 1


def test_clone_gets_no_socket_of_the_host(kvm, daemon, guest, folder):
    vm = Vm(daemon, guest, path=str(folder / "s"))
    daemon.cairn("clone", "--live", "vm1", "vm2")
    daemon.cairn("destroy", "vm1")
    daemon.cairn("clone", "vm1", "vm3")
    for name in "vm2", "vm3":
        assert json.loads(daemon.cairn("dumpjson", name).stdout)["vsock"] == {"cid": 3}
    vm.console.close()


def test_clone_and_source_have_connections_of_their_own(vm):
    vm.serve()
    held = vm.connect()
    vm.daemon.cairn("clone", "--live", "vm1", "vm2")
    clone = Vm.__new__(Vm)
    clone.daemon, clone.name = vm.daemon, "vm2"
    clone.again()
    clone.serve("events", 1)
    assert clone.answer()["events"] == 1
    clone.serve()
    with clone.connect() as s:
        assert echoes(s, b"the clone's")
    clone.answer()
    assert echoes(held, b"the source's")
    assert vm.answer()["events"] == 0


@pytest.mark.parametrize("way", ["revert", "save", "fork"])
def test_guest_that_listened_before_listens_on(vm, way):
    d, at = vm.daemon, vm
    vm.serve()
    if way == "revert":
        d.cairn("snapshot-create-as", "vm1", "s1")
        with vm.connect() as s:
            assert echoes(s, b"before the revert")
        vm.answer()
        d.cairn("snapshot-revert", "vm1", "s1")
    elif way == "save":
        d.cairn("managedsave", "vm1")
        d.cairn("start", "vm1")
    else:
        d.cairn("clone", "--live", "vm1", "vm2")
        at = Vm.__new__(Vm)
        at.daemon, at.name = d, "vm2"
    at.again()
    with at.connect() as s:
        assert echoes(s, b"after it")
    assert at.answer()["events"] == 1


def test_new_process_serves_the_same_socket(kvm, daemon, guest, folder):
    vm = Vm(daemon, guest, path=str(folder / "s"))
    daemon.cairn("restart-process", "vm1")
    vm.again()
    vm.serve("events", 1)
    vm.answer()
    vm.serve()
    c = Client(folder / "s")
    assert c.line().startswith("OK ")
    assert echoes(c.sock, b"handed over")
    vm.answer()
    listener = Listener(folder / "s", 9)
    vm.serve("connect", 9)
    assert listener.serve(b"and the other way")
    assert vm.answer()["bytes"] == 17


@pytest.mark.parametrize("how", ["destroy", "kill"])
def test_sockets_of_the_host_end_with_the_vm(kvm, daemon, guest, folder, how):
    """Those of vsock and of VNC, also without a daemon. A start right after the end makes its own, and they stay."""
    vsock, vnc = folder / "s", folder / "v"
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, vsock={"path": str(vsock)}, screen=True, vnc={"path": str(vnc)})

    def end():
        if how == "kill":
            os.kill(daemon.info("vm1")["pid"], signal.SIGKILL)
            daemon.wait("vm1", "crashed")
        else:
            daemon.cairn("destroy", "vm1")

    def serve():
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30 * guestlib.SLOW)
            s.connect(str(vnc))
            assert s.recv(4) == b"RFB "
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(vsock))

    for _ in range(3):
        daemon.cairn("start", "vm1")
        old = dialer(vsock) + dialer(vnc)
        assert len(old) == 2
        serve()
        end()
        daemon.cairn("start", "vm1")
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in old))
        serve()
        end()
        until(lambda: not vsock.exists() and not vnc.exists())
    daemon.cairn("start", "vm1")
    pid = daemon.info("vm1")["pid"]
    daemon.stop()
    # What another program has made there stays.
    vnc.unlink()
    vnc.write_text("mine")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not vsock.exists() and not dialer(vnc))
    assert vnc.read_text() == "mine"


def test_next_daemon_connects(vm):
    vm.daemon.stop()
    vm.daemon.start()
    vm.again()
    vm.serve()
    with vm.connect() as s:
        assert echoes(s, b"adopted")
    vm.answer()


def test_reset_of_the_guest_ends_connections(vm):
    vm.serve()
    s = vm.connect()
    vm.daemon.cairn("reset", "vm1")
    assert gone(s)


def test_restored_vm_has_the_device_of_its_state(vm):
    d = vm.daemon
    d.cairn("save", "vm1", str(d.tmp / "state.save"))
    d.cairn("define", d.write("vm1", **{**json_of(d), "vsock": None}))
    assert "vsock: differs" in d.cairn("restore", str(d.tmp / "state.save")).stdout
    now, later = (json.loads(d.cairn("dumpjson", "vm1", *more).stdout) for more in ((), ("--inactive",)))
    assert "vsock" in now and "vsock" not in later


def json_of(d):
    o = json.loads(d.cairn("dumpjson", "vm1").stdout)
    return {k: o[k] for k in ("uuid", "boot", "debug_exit", "disks", "vsock", "memory")}
