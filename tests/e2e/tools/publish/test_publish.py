"""cairn-publish alone: clients of this host's ports reach a stand-in for the guest at another loopback address. Its tap
is in a network namespace of the test's own."""

import json
import os
import signal
import socket
import struct
import subprocess

import pytest

from conftest import BUILD, until
from hostnetlib import Namespace
from netlib import ipv6_add

PROGRAM = os.path.join(BUILD, "cairn-publish")
GUEST = "127.0.0.9"
TAP = "vnet0"


class Publisher(Namespace):
    """The program, and the daemon's end of its control socket."""

    def __init__(self, tmp, *forwards):
        super().__init__()
        self.tmp, self.ports = tmp, []
        self.run("ip", "link", "add", TAP, "type", "bridge")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(str(tmp / "control"))
        listening.listen()
        sockets = [self.port(*f[:1]) for f in forwards]
        self.daemon = self.connect_control()
        fds = [listening.fileno(), *(s.fileno() for s in sockets)]
        args = [x for s, (kind, to, *guest) in zip(sockets, forwards) for x in ("--forward", f"{kind}:{s.fileno()}:{(guest or '-')[0]}:{to}")]
        self.process = subprocess.Popen([*self.enter, PROGRAM, "--control", str(listening.fileno()), *args], pass_fds=fds,
                                        stderr=subprocess.PIPE, text=True)
        for s in (listening, *sockets):
            s.close()

    def connect_control(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(str(self.tmp / "control"))
        s.settimeout(30)
        return s

    def port(self, kind):
        """A bound socket; TCP listens."""
        s = self.open(kind=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        s.bind(("127.0.0.1", 0))
        if kind == "tcp":
            s.listen(16)
        self.ports.append(s.getsockname()[1])
        return s

    def say(self, text, fd=None):
        if fd is None:
            self.daemon.send(text.encode())
        else:
            socket.send_fds(self.daemon, [text.encode()], [fd])

    def hear(self):
        return json.loads(self.daemon.recv(200))

    def lead(self, address=GUEST, tap=TAP):
        self.say(json.dumps({"lead": f"{address} {tap}"}))

    def ended(self):
        until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.daemon.close()
        super().close()


@pytest.fixture
def begin(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, for a network namespace")
    made = []

    def run(*forwards):
        made.append(Publisher(tmp_path, *forwards))
        return made[-1]
    yield run
    for p in made:
        p.close()


def guest_of(p, kind="tcp", port=0, address=GUEST):
    s = p.open(kind=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    if kind == "tcp":
        s.listen(16)
    return s


def client_of(p, at=0, address="127.0.0.1"):
    s = p.open()
    s.bind((address, 0))
    s.connect(("127.0.0.1", p.ports[at]))
    return s


def receive_all(s):
    got = b""
    while part := s.recv(1 << 16):
        got += part
    return got


def test_connection_carries_both_ways_and_its_ends(begin):
    p = begin(("tcp", 22))
    with guest_of(p, port=22) as guest, client_of(p) as early:
        early.sendall(b"before")  # a client waits until the daemon has told the address
        p.lead()
        with guest.accept()[0] as server:
            server.settimeout(30)
            assert server.recv(100) == b"before"
            data = os.urandom(3 << 20)
            pid = os.fork()
            if not pid:
                early.sendall(data)
                early.shutdown(socket.SHUT_WR)
                os._exit(0)
            assert receive_all(server) == data
            os.waitpid(pid, 0)
            server.sendall(b"answer")  # half closed: the other direction goes on
            server.close()
            assert receive_all(early) == b"answer"
        # cairn-publish passes a reset on as a reset.
        with client_of(p) as c, guest.accept()[0] as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            with pytest.raises(ConnectionResetError):
                c.recv(1)
    # Nobody listens in the guest.
    with pytest.raises(ConnectionResetError), client_of(p) as c:
        c.recv(1)
    assert [p.hear() for _ in range(1)] == [{"forward": 0}]  # that wakes a VM


def test_reader_that_is_slow_holds_its_own_connection_only(begin):
    p = begin(("tcp", 22))
    p.lead()
    with guest_of(p, port=22) as guest, client_of(p) as slow, guest.accept()[0] as full:
        slow.setblocking(False)
        sent = 0
        try:
            while True:
                sent += slow.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        with client_of(p) as c, guest.accept()[0] as server:
            c.sendall(b"question")
            server.settimeout(30)
            assert server.recv(100) == b"question"
        got = 0
        full.settimeout(30)
        slow.settimeout(30)
        slow.shutdown(socket.SHUT_WR)
        while part := full.recv(1 << 20):
            got += len(part)
        assert got == sent


def test_datagrams_find_their_clients(begin):
    p = begin(("udp", 53))
    p.lead()
    with guest_of(p, "udp", 53) as guest:
        clients = [p.open(kind=socket.SOCK_DGRAM) for _ in range(70)]  # more than are remembered
        for i, c in enumerate(clients):
            c.connect(("127.0.0.1", p.ports[0]))
            c.send(b"%d" % i)
            text, peer = guest.recvfrom(100)
            guest.sendto(text + b"!", peer)
            assert c.recv(100) == b"%d!" % i
        clients[0].send(b"again")
        text, peer = guest.recvfrom(100)
        guest.sendto(text, peer)
        assert clients[0].recv(100) == b"again"
        for c in clients:
            c.close()


def test_answers_come_from_the_address_that_was_asked(begin):
    p = begin()
    p.lead()
    with p.open(kind=socket.SOCK_DGRAM) as s:
        s.bind(("0.0.0.0", 0))
        port = s.getsockname()[1]
        p.say('{"add": "udp:-:53"}', s.fileno())
    assert p.hear() == {"done": True}
    with guest_of(p, "udp", 53) as guest, p.open(kind=socket.SOCK_DGRAM) as c:
        c.bind(("127.0.0.1", 0))
        for address in "127.0.0.3", "127.0.0.4":
            c.sendto(b"question", (address, port))
            text, peer = guest.recvfrom(100)
            guest.sendto(text, peer)
            assert c.recvfrom(100) == (b"question", (address, port))


def bound6(p, kind, address):
    """A socket as the daemon makes it for an IPv6 address."""
    s = p.open(socket.AF_INET6, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 0))
    if kind == "tcp":
        s.listen(16)
    return s


@pytest.mark.parametrize("address", ["::", "::1", "fd00::7"])
def test_clients_by_ipv6(begin, address):
    """TCP and UDP; the guest has IPv4. A removed port is closed, and another family's with its number is not."""
    p = begin(("tcp", 22))
    for a in "fd00::7", "fd00::8":
        ipv6_add(p, f"{a}/64", "lo")
    p.lead()
    asked = ["::1", "fd00::7", "fd00::8"] if address == "::" else [address]
    with guest_of(p, port=22) as tcp, guest_of(p, "udp", 53) as udp, bound6(p, "tcp", address) as t, bound6(p, "udp", address) as u:
        for s, text in (t, "tcp:-:22"), (u, "udp:-:53"):
            p.say(json.dumps({"add": text}), s.fileno())
            assert p.hear() == {"done": True}
        ports = t.getsockname()[1], u.getsockname()[1]
        t.close()
        u.close()
        with p.open(socket.AF_INET6, socket.SOCK_DGRAM) as c:
            for a in asked:
                with p.connect((a, ports[0]), socket.AF_INET6) as client, tcp.accept()[0] as server:
                    client.sendall(b"question")
                    assert server.recv(100) == b"question"
                    server.sendall(b"answer")
                    server.close()
                    assert receive_all(client) == b"answer"
                c.sendto(b"question", (a, ports[1]))
                text, peer = udp.recvfrom(100)
                udp.sendto(text, peer)
                assert c.recv(100) == b"question"
                c.sendto(b"again", (a, ports[1]))
                text, peer = udp.recvfrom(100)
                udp.sendto(text, peer)
                answer, sender = c.recvfrom(100)
                assert (answer, sender[:2]) == (b"again", (a, ports[1]))
        p.say(f'{{"remove": 1, "socket": "tcp:{address}:{ports[0]}"}}')
        until(lambda: p.hear().get("done"))
        assert p.connect((asked[0], ports[0]), socket.AF_INET6) is None
        with client_of(p), tcp.accept()[0]:
            pass


RELAYS_MAX = 448


def test_clients_that_reset_make_room_for_others(begin):
    """As many clients as the program serves at a time reset their connections, in each state of a connection. Then the
    program serves the next client."""
    p = begin(("tcp", 22))
    p.lead()
    reset = struct.pack("ii", 1, 0)

    def files():
        return len(os.listdir(f"/proc/{p.process.pid}/fd"))
    with guest_of(p, port=22) as guest:
        guest.listen(1024)
        pairs = []
        for i in range(RELAYS_MAX):
            c = client_of(p)
            pairs.append((c, guest.accept()[0]))
            if i % 3 == 1:
                pairs[i][1].shutdown(socket.SHUT_WR)  # nothing more comes from the guest,
                assert c.recv(10) == b""
            if i % 3 == 2:
                c.shutdown(socket.SHUT_WR)  # or from the client
                assert pairs[i][1].recv(10) == b""
        for c, _ in pairs:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            c.close()
        until(lambda: files() < 20)
        for _, server in pairs:
            server.close()
        with client_of(p) as c, guest.accept()[0] as server:
            c.sendall(b"question")
            assert server.recv(100) == b"question"


def test_idle_clients_of_one_address_do_not_keep_others_out(begin):
    """One address has all connections but one, and sends nothing. A new client gets the place of the one that has been
    idle longest, and another address's connection, which is older, stays."""
    p = begin(("tcp", 22))
    p.lead()
    with guest_of(p, port=22) as guest:
        guest.settimeout(60)
        pairs = []
        for i in range(RELAYS_MAX):
            c = client_of(p, address="127.0.0.1" if i else "127.0.0.2")
            pairs.append((c, guest.accept()[0]))
        with client_of(p, address="127.0.0.3") as c, guest.accept()[0] as server:
            c.sendall(b"question")
            assert server.recv(100) == b"question"
        with pytest.raises(ConnectionResetError):
            pairs[1][0].recv(1)
        for c, server in pairs[0], pairs[2], pairs[-1]:
            c.sendall(b"goes on")
            assert server.recv(100) == b"goes on"
        for pair in pairs:
            for s in pair:
                s.close()


def test_daemon_adds_and_removes_forwards(begin):
    p = begin()
    p.lead()
    with guest_of(p, port=22) as guest, guest_of(p, port=80, address="127.0.0.10") as other:
        for text, listener in ("tcp:-:22", guest), ("tcp:127.0.0.10:80", other):
            with p.port("tcp") as s:
                p.say(json.dumps({"add": text}), s.fileno())
            assert p.hear() == {"done": True}
            with client_of(p, -1), listener.accept()[0]:
                pass
            p.hear()  # {"forward": N}
        with client_of(p, 1) as c, other.accept()[0] as server:
            p.say(f'{{"remove": 0, "socket": "tcp:127.0.0.1:{p.ports[0]}"}}')
            until(lambda: p.hear().get("done"))
            with pytest.raises(ConnectionRefusedError):
                client_of(p, 0)
            c.sendall(b"goes on")
            server.settimeout(30)
            assert server.recv(100) == b"goes on"
        p.say('{"remove": 5, "socket": "tcp:127.0.0.1:9"}')  # gone already
        until(lambda: p.hear().get("done"))
    with p.port("udp") as s:
        p.say('{"add": "sctp:-:22"}', s.fileno())
        until(lambda: p.hear().get("done") is False)


def test_clients_wait_while_the_vm_is_saved(begin):
    p = begin(("tcp", 22))
    p.lead()
    p.say('{"hold": true}')
    assert p.hear() == {"held": True}
    with guest_of(p, port=22) as guest, client_of(p):
        guest.setblocking(False)
        with pytest.raises(BlockingIOError):
            guest.accept()
        p.say('{"hold": false}')
        guest.settimeout(30)
        guest.accept()[0].close()


def test_it_ends_with_the_tap_and_not_with_the_daemon(begin):
    p = begin(("tcp", 22))
    p.lead()
    with guest_of(p, port=22) as guest:
        with client_of(p), guest.accept()[0]:
            pass
        p.daemon.close()
        with client_of(p), guest.accept()[0]:
            pass
        p.daemon = p.connect_control()
        assert p.hear() == {"forward": 0}
        p.lead()  # as each daemon says
        p.run("ip", "link", "set", TAP, "up")
        p.run("ip", "link", "add", "vnet1", "type", "bridge")
        p.run("ip", "link", "del", "vnet1")
        with client_of(p), guest.accept()[0]:
            pass
        p.run("ip", "link", "del", TAP)
        assert p.ended() == 0


@pytest.mark.parametrize("way", ["daemon", "tap", "address"])
def test_it_ends_before_it_knows_a_tap(begin, way):
    p = begin(("tcp", 22))
    if way == "daemon":
        p.daemon.close()
    elif way == "tap":
        p.lead(tap="vnet7")
    else:
        p.lead(address="300.0.0.1")
    assert p.ended() == 0


def test_sandbox(begin):
    p = begin(("tcp", 22))
    p.lead()
    with guest_of(p, port=22) as guest, client_of(p), guest.accept()[0]:
        status = dict(line.split(":", 1) for line in open(f"/proc/{p.process.pid}/status"))
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == 0 and status["Uid"].split()[1] == "65534"
    os.kill(p.process.pid, signal.SIGTERM)


@pytest.mark.parametrize("args", [[], ["--control", "9", "x"], ["--forward", "tcp:3:-:22"], ["--control", "3", "--forward", "icmp:4:-:1"]], ids=str)
def test_wrong_command_line(args):
    r = subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert r.returncode == 1 and "usage: cairn-publish --control FD" in r.stderr
