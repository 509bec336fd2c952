"""Egress rules of a user network: what the guest cannot reach, whatever it sends (docs/slirp.md)."""

import os
import re
import socket
import struct
import subprocess

import pytest

import slirplib
from conftest import until
from egresslib import A, AAAA, ASKED, PUBLIC, RULES, SLIRP, WAYS, Resolver, names, question, syn6, udp6
from netlib import Lan, ipv6_add
from slirplib import ACK, IPV4, IPV6, RST, TCP, UDP, Guest, readable

class World:
    """A host with a resolver on its loopback, and a machine outside that has all other addresses."""

    def __init__(self, tmp_path):
        self.host, self.outside = Lan(), Lan()
        self.host.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", str(self.outside.holder.pid))
        for lan, link, ends in ((self.host, "up0", "1"), (self.outside, "eth0", "254")):
            lan.ip("link", "set", "lo", "up")
            lan.ip("link", "set", link, "up")
            lan.ip("addr", "add", f"203.0.113.{ends}/24", "dev", link)
            ipv6_add(lan, f"2001:db8:1::{ends}/64", link)
        self.host.ip("addr", "add", "203.0.113.99/24", "dev", "up0")
        self.host.ip("route", "add", "default", "via", "203.0.113.254")
        self.host.ip("-6", "route", "add", "default", "via", "2001:db8:1::254")
        self.outside.ip("route", "add", "local", "0.0.0.0/0", "dev", "lo")
        self.outside.ip("-6", "route", "add", "local", "::/0", "dev", "lo")
        etc = tmp_path / "etc"
        etc.mkdir()
        (etc / "resolv.conf").write_text("# test\nsearch x\nnameserver 127.0.0.1\n")
        os.chmod(tmp_path, 0o755)
        self.before = [*self.host.enter, "unshare", "-m", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh"]
        self.resolver = Resolver(self.bound(self.host, "127.0.0.1", 53), names(SLIRP))
        # wire: packets that leave the host. own: sockets that get packets to the host itself.
        self.wire = self.host.socket("up0", 3)
        self.own = [self.listening(self.host, socket.AF_INET6, port) for port in (80, 443)]
        self.own += [self.bound(self.host, "0.0.0.0", port, socket.SOCK_DGRAM) for port in (80, 443)]

    @staticmethod
    def bound(lan, address, port, kind=socket.SOCK_DGRAM):
        def make():
            s = socket.socket(type=kind)
            s.bind((address, port))
            return s
        return lan.inside(make)

    @staticmethod
    def listening(lan, family, port):
        def make():
            s = socket.socket(family)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            s.listen(16)
            return s
        return lan.inside(make)

    def left(self):
        """Return the IP packets that have left the host."""
        got = []
        while readable(self.wire):
            frame = self.wire.recv(70000)
            kind = struct.unpack("!H", frame[12:14])[0]
            neighbour = kind == IPV6 and frame[20] in (0, 58) and (frame[54] in range(133, 138) or not frame[20])
            if kind in (IPV4, IPV6) and not neighbour and frame[26:30] != slirplib.ip("203.0.113.254"):
                got.append(frame)
        return got

    def close(self):
        self.resolver.close()
        for lan in (self.host, self.outside):
            lan.close()


@pytest.fixture
def world(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, to make network namespaces")
    w = World(tmp_path)
    yield w
    w.close()


@pytest.fixture
def guest(world):
    with Guest(args=["--egress", RULES, "--host-loopback"], before=world.before) as g:
        g.net = SLIRP
        yield g


def ask(g, name, kind=A, port=41000):
    """Return the answer's code and its bytes."""
    g.udp(port, "10.0.2.3", 53, question(name, kind))
    p = g.wait(lambda p: p.protocol == UDP and p.dport == port)
    assert p.source == "10.0.2.3" and p.sport == 53 and p.data[:2] == b"\0\7"
    return p.data[3] & 15, p.data


EXPECTED_ANSWERS = (RST, RST | ACK)


def test_no_way_leads_around_the_rules(world, guest):
    """The guest first asks for names whose answers lie or rebind. Then it tries each way alone: nothing leaves
    the host, nothing reaches the host, and the resolver gets no question. The guest gets refusals only."""
    assert len(WAYS) >= 40
    g = guest
    for name, kind in ASKED:
        assert ask(g, name, kind)[0] == 0
    # The capture works, and what is allowed leaves the host.
    servers = [world.listening(world.outside, socket.AF_INET6, 443)]
    for to in (PUBLIC, "198.51.100.8", "198.51.100.9", "192.0.2.1"):
        assert not g.connect(to, 443).reset
        assert world.left()
    asked = len(world.resolver.asked)
    for c in list(g.connections.values()):
        c.segment(RST)
    g.silent()
    g.connections.clear()
    world.outside.ip("addr", "flush", "dev", "eth0")  # no more packets of its own
    world.left()
    around = []
    for way, frames in WAYS.items():
        for frame in frames(g):
            g.frame(frame)
        for p in g.silent():
            if p.protocol == TCP and p.flags not in EXPECTED_ANSWERS or \
                    p.protocol == UDP and (p.source, p.data[3] & 15) != ("10.0.2.3", 5):
                around.append((way, p.frame))
        if world.left() or any(readable(s) for s in world.own) or len(world.resolver.asked) != asked:
            around.append(way)
            asked = len(world.resolver.asked)
    assert not around
    assert servers


def test_allowed_names_open_their_addresses(world, guest):
    """Before the question an address is closed; names with other case or a dot at the end are the same; CNAME chains
    and IPv6 work; the query has the name in lower case."""
    g = guest
    server = world.listening(world.outside, socket.AF_INET6, 443)
    for to in (PUBLIC, "198.51.100.8", "198.51.100.9"):
        assert g.connect(to, 443, sport=40001).reset
    assert not world.left()
    for name, to in (("WWW.eXample.ORG", PUBLIC), ("chain.example.org.", "198.51.100.8"), ("liar.example.org", "198.51.100.9")):
        code, data = ask(g, name)
        assert code == 0 and slirplib.ip(to) in data
        c = g.connect(to, 443, sport=40002)
        assert not c.reset
        c.segment(RST)
    assert world.resolver.asked == ["www.example.org", "chain.example.org", "liar.example.org"]
    assert g.connect(PUBLIC, 80, sport=40003).reset
    # By IPv6, the resolver's other address, too.
    g.frame(udp6(g, "fec0::3", 53, question("six.example.org", AAAA)))
    until(lambda: world.resolver.asked[-1] == "six.example.org")

    def answered():
        frame, _ = g.receive()
        return frame[12:14] == b"\x86\xdd" and frame[20] == UDP and b"\x20\x01\x0d\xb8" in frame[62:]
    until(answered)
    g.frame(syn6(g, "2001:db8::7", 443))
    until(lambda: readable(server) or g.silent() and False)
    assert world.left()


def test_refusals_are_logged_and_dead_resolver_is_told(world, tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as f, Guest(args=["--egress", RULES], before=world.before, stderr=f) as g:
        assert ask(g, "secret.evil.net")[0] == 5
        assert g.connect("198.51.100.66", 443).reset
        (tmp_path / "etc" / "new").write_text("nameserver 127.0.0.9\n")
        os.rename(tmp_path / "etc" / "new", tmp_path / "etc" / "resolv.conf")
        assert ask(g, "www.example.org")[0] == 2
    text = log.read_text()
    assert re.search(r"egress: refused the name secret\.evil\.net", text)
    assert "198.51.100.66 port 443" in text


def test_denials_are_reported(world):
    """At once; then at most twice a second, but the last figures always; each daemon gets them."""
    with Guest(args=["--egress", RULES], before=world.before, control=True) as g:
        assert ask(g, "secret.evil.net")[0] == 5
        assert g.told() == {"denied": [0, 1]}
        for i in range(5):
            g.udp(40000 + i, PUBLIC, 53, b"x")
        told = None
        while told != {"denied": [5, 1]}:
            told = g.told()
        g.daemon()
        assert g.told() == {"denied": [5, 1]}


def change(g, rules):
    """Give cairn-slirp other rules, as the daemon does. Return whether it took them."""
    with open(os.memfd_create("egress"), "r+", encoding="ascii") as f:
        f.write(rules)
        f.seek(0)
        socket.send_fds(g.control, [b'{"egress": true}'], [f.fileno()])
    while True:
        told = g.told()
        if "done" in told:
            return told["done"]


def ended(s):
    s.settimeout(30)
    try:
        return s.recv(100) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("before", ["deny;allow any - 192.0.2.0/24;allow any - *.example.org", ""])
def test_other_rules_end_what_they_deny(world, before):
    """While the guest is silent, new rules end its TCP connections to the outside and stop answers to its datagrams.
    Connections that the rules allow continue, also those by a name that both sets of rules have, and those of a
    forward."""
    args = ["--egress", before] if before else []
    inside = world.listening(world.host, socket.AF_INET, 8022)
    with Guest(("tcp", inside, "-", 22), args=args, before=world.before, control=True) as g:
        server = world.listening(world.outside, socket.AF_INET, 443)
        udp = world.bound(world.outside, "0.0.0.0", 53)
        assert not before or ask(g, "www.example.org")[0] == 0
        ends = {}
        for i, to in enumerate(("192.0.2.1", PUBLIC, "192.0.2.9")):
            assert not g.connect(to, 443, sport=40000 + i).reset
            ends[to] = server.accept()[0]
        g.udp(41000, "192.0.2.1", 53, b"question")
        data, peer = udp.recvfrom(100)
        client = world.host.inside(lambda: socket.create_connection(("127.0.0.1", 8022)))
        forwarded = g.accepted()
        rules = f"deny;allow any - 192.0.2.9;allow tcp 443 {'*.example.org' if before else PUBLIC}"
        assert change(g, rules)
        assert ended(ends["192.0.2.1"])
        udp.sendto(b"answer", peer)
        for to, sport in ((PUBLIC, 40001), ("192.0.2.9", 40002)):
            c = g.connections[(sport, to, 443)]
            c.send(b"x")
            assert ends[to].recv(1) == b"x"
            ends[to].sendall(b"y")
            assert c.read(1) == b"y" and not c.reset
        client.sendall(b"z")
        assert forwarded.read(1) == b"z"
        assert not [p for p in g.silent() if p.protocol == UDP and p.data == b"answer"]
        c = g.connections[(40000, "192.0.2.1", 443)]
        c.send(b"secret")
        g.until(lambda: c.reset)
        assert g.connect("192.0.2.1", 443, sport=40010).reset and not g.connect("192.0.2.9", 443, sport=40011).reset
        assert not change(g, "deny;allow") and g.connect("192.0.2.1", 443, sport=40012).reset
        assert change(g, "") and not g.connect("192.0.2.1", 443, sport=40013).reset


def test_rules_that_cannot_be_read_change_nothing(tmp_path):
    with Guest(args=["--egress", "deny"], control=True) as g, open(tmp_path / "rules", "wb") as f:
        socket.send_fds(g.control, [b'{"egress": true}'], [f.fileno()])
        assert g.told() == {"done": False}
        assert g.connect("10.0.2.2", 80).reset and g.told() == {"denied": [1, 0]}


def test_unanswered_question_ends(world):
    world.resolver.names["silent.example.org"] = None
    with Guest(args=["--egress", RULES], before=world.before) as g:
        assert ask(g, "silent.example.org")[0] == 2
        assert ask(g, "www.example.org")[0] == 0


def test_dns_works_with_default_allow(world):
    with Guest(args=["--egress", "allow;deny any - *.evil.net;deny tcp 25 any"], before=world.before) as g:
        assert ask(g, "www.example.org")[0] == 0 and ask(g, "a.evil.net")[0] == 5
        assert g.connect(PUBLIC, 25).reset
        server = world.listening(world.outside, socket.AF_INET, 80)
        assert not g.connect(PUBLIC, 80).reset and readable(server)
        address, _ = g.dhcp(1)
        assert address == "10.0.2.15"


@pytest.mark.parametrize("rules", ["", "maybe", "deny;allow", "deny;allow tcp 443 any x", "deny;allow tcp 0 any",
                                   "deny;allow sctp - any", "deny;allow any - 10.0.0.1/8", "deny;allow any - a..b"])
def test_wrong_rules_are_refused(rules):
    r = subprocess.run([slirplib.PROGRAM, "--egress", rules, "--frames", "9"], capture_output=True, text=True)
    assert r.returncode == 1 and "--egress" in r.stderr
