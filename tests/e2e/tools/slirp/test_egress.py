"""Egress rules of a user network: what the guest cannot reach, whatever it sends (docs/slirp.md)."""

import os
import re
import socket
import struct
import subprocess
import threading

import pytest

import slirplib
from conftest import until
from netlib import Lan
from slirplib import ACK, FIN, IPV4, IPV6, RST, SYN, TCP, UDP, Guest, ethernet, ipv4, readable

RULES = "deny;allow tcp 443 *.example.org;allow any - 192.0.2.0/24"
PUBLIC = "198.51.100.7"
A, CNAME, TXT, AAAA, ANY, AXFR = 1, 5, 16, 28, 255, 252


def labels(name):
    return b"".join(bytes([len(x)]) + x.encode() for x in name.split(".") if x) + b"\0"


def question(name, kind=A, ident=7, flags=0x0100, klass=1, more=b"", counts=(1, 0, 0, 0)):
    name = labels(name) if isinstance(name, str) else name
    return struct.pack("!HHHHHH", ident, flags, *counts) + name + struct.pack("!HH", kind, klass) + more


def record(name, kind, data, ttl=60):
    return labels(name) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


class Resolver(threading.Thread):
    """A name server with a table of records: {name: [record, ...]}."""

    def __init__(self, s, names):
        super().__init__(daemon=True)
        self.socket, self.names, self.asked = s, names, []
        self.start()

    def run(self):
        while True:
            try:
                data, who = self.socket.recvfrom(4096)
            except OSError:
                return
            end = data.index(b"\0", 12)
            name, at = "", 12
            while data[at]:
                name += data[at + 1:at + 1 + data[at]].decode() + "."
                at += 1 + data[at]
            name = name[:-1]
            self.asked.append(name)
            records = self.names.get(name, [])
            self.socket.sendto(data[:2] + b"\x81\x80\0\1" + struct.pack("!H", len(records)) + bytes(4) +
                               data[12:end + 5] + b"".join(records), who)


class World:
    """A host with a resolver on its loopback, and a machine outside that has all other addresses."""

    def __init__(self, tmp_path):
        self.host, self.outside = Lan(), Lan()
        self.host.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", str(self.outside.holder.pid))
        for lan, link, ends in ((self.host, "up0", "1"), (self.outside, "eth0", "254")):
            lan.ip("link", "set", "lo", "up")
            lan.ip("link", "set", link, "up")
            lan.ip("addr", "add", f"203.0.113.{ends}/24", "dev", link)
            lan.ip("-6", "addr", "add", f"2001:db8:1::{ends}/64", "dev", link, "nodad")
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
        self.resolver = Resolver(self.bound(self.host, "127.0.0.1", 53), {
            "www.example.org": [record("www.example.org", A, slirplib.ip(PUBLIC), 1)],
            "six.example.org": [record("six.example.org", AAAA, socket.inet_pton(socket.AF_INET6, "2001:db8::7"))],
            "chain.example.org": [record("chain.example.org", CNAME, labels("a.cdn.net")),
                                  record("a.cdn.net", A, slirplib.ip("198.51.100.8"))],
            "liar.example.org": [record("liar.example.org", A, slirplib.ip("198.51.100.9")),
                                 record("evil.net", A, slirplib.ip("198.51.100.66"))],
            "loop.example.org": [record("loop.example.org", CNAME, labels("loop.example.org")),
                                 b"\xc0\xff" + struct.pack("!HHIH", A, 1, 60, 4) + slirplib.ip("198.51.100.66")],
            "rebind.example.org": [record("rebind.example.org", A, slirplib.ip(a)) for a in (
                "10.0.2.2", "127.0.0.1", "169.254.169.254", "192.168.1.1", "203.0.113.1", "203.0.113.99", "0.0.0.0")],
            "rebind6.example.org": [record("rebind6.example.org", AAAA, socket.inet_pton(socket.AF_INET6, a)) for a in (
                "::1", "fe80::1", "fec0::2", "fd00::1", "::ffff:198.51.100.66", "2001:db8:1::1", "64:ff9b::a00:1")],
        })
        # What leaves the host, and what reaches the host itself.
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
        self.resolver.socket.close()
        for lan in (self.host, self.outside):
            lan.close()


@pytest.fixture
def world(tmp_path):
    w = World(tmp_path)
    yield w
    w.close()


@pytest.fixture
def guest(world):
    with Guest(args=["--egress", RULES, "--host-loopback"], before=world.before) as g:
        yield g


def ask(g, name, kind=A, port=41000):
    """Return the answer's code and its bytes."""
    g.udp(port, "10.0.2.3", 53, question(name, kind))
    p = g.wait(lambda p: p.protocol == UDP and p.dport == port)
    assert p.source == "10.0.2.3" and p.sport == 53 and p.data[:2] == b"\0\7"
    return p.data[3] & 15, p.data


def syn(g, to, port, flags=SYN, sport=40000):
    return ethernet(IPV4, ipv4(TCP, g.address, to, slirplib.tcp(g.address, sport, to, port, 1, 0, flags)))


def six(to, protocol, body, source="fec0::15", next_header=None):
    source, to = (socket.inet_pton(socket.AF_INET6, x) for x in (source, to))
    at = {TCP: 16, UDP: 6, 58: 2}[protocol]
    pseudo = source + to + struct.pack("!II", len(body), protocol)
    body = body[:at] + bytes(2) + body[at + 2:]
    body = body[:at] + struct.pack("!H", slirplib.checksum(pseudo + body)) + body[at + 2:]
    if next_header is not None:  # an extension header in between
        body = struct.pack("!BBHI", protocol, 0, 0, 0) + body
    return ethernet(IPV6, struct.pack("!IHBB", 6 << 28, len(body), protocol if next_header is None else next_header, 64) +
                    source + to + body)


def syn6(to, port, **more):
    return six(to, TCP, struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, SYN, 65535, 0, 0), **more)


def udp6(to, port, data=b"x"):
    return six(to, UDP, struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data)


def datagram(g, to, port, data=b"x"):
    return ethernet(IPV4, ipv4(UDP, g.address, to, slirplib.udp(g.address, 40000, to, port, data)))


def dns(g, message, to="10.0.2.3"):
    return datagram(g, to, 53, message)


def options(g, to):
    tcp = slirplib.tcp(g.address, 40000, to, 443, 1, 0, SYN)
    head = bytearray(ipv4(TCP, g.address, to, tcp)[:20] + b"\x83\x07\x04" + slirplib.ip("198.51.100.66") + b"\0")
    head[0], head[2:4], head[10:12] = 0x47, struct.pack("!H", 28 + len(tcp)), b"\0\0"
    head[10:12] = struct.pack("!H", slirplib.checksum(bytes(head)))
    return ethernet(IPV4, bytes(head) + tcp)


EVIL = "198.51.100.66"
TCP_TO = slirplib.tcp
# Ways to reach what no rule allows: with www.example.org open at PUBLIC for TCP port 443.
WAYS = {
    "a raw address": lambda g: [syn(g, EVIL, 443)],
    "another port of an open address": lambda g: [syn(g, PUBLIC, 80)],
    "an open address by UDP": lambda g: [datagram(g, PUBLIC, 443)],
    "an open address by ICMP": lambda g: [ethernet(IPV4, ipv4(1, g.address, PUBLIC, b"\x08\0\xf7\xff" + bytes(4)))],
    "an address beside the prefix": lambda g: [syn(g, "192.0.3.0", 443), syn(g, "192.0.1.255", 443)],
    "UDP to another resolver": lambda g: [dns(g, question("www.example.org"), "8.8.8.8")],
    "TCP to another resolver": lambda g: [syn(g, "8.8.8.8", 53)],
    "TLS to another resolver": lambda g: [syn(g, "8.8.8.8", 853)],
    "HTTPS to another resolver": lambda g: [syn(g, "1.1.1.1", 443), datagram(g, "1.1.1.1", 443)],
    "TCP to the resolver": lambda g: [syn(g, "10.0.2.3", 53)],
    "other ports of the resolver": lambda g: [syn(g, "10.0.2.3", 443), datagram(g, "10.0.2.3", 80)],
    "a name that no rule has": lambda g: [dns(g, question("secret.evil.net"))],
    "the parent of the allowed names": lambda g: [dns(g, question("example.org"))],
    "a name that ends alike": lambda g: [dns(g, question("notexample.org")), dns(g, question("a.example.org.evil.net"))],
    "an allowed name in one label": lambda g: [dns(g, question(b"\x10evil.example.org\0")),
                                              dns(g, question(b"\x08evil.net\x07example\x03org\0"))],
    "a NUL in a label": lambda g: [dns(g, question(b"\x05www\0x\x07example\x03org\0"))],
    "a pointer in the question": lambda g: [dns(g, question(b"\x03www\xc0\x0c")), dns(g, question(b"\xc0\x0c"))],
    "two questions": lambda g: [dns(g, question("www.example.org", more=labels("secret.evil.net") + b"\0\1\0\1",
                                                counts=(2, 0, 0, 0)))],
    "records in a question": lambda g: [dns(g, question("www.example.org", more=record("evil.net", A, slirplib.ip(EVIL)),
                                                        counts=(1, 1, 0, 0)))],
    "a transfer of a zone": lambda g: [dns(g, question("x.example.org", AXFR)), dns(g, question("x.example.org", ANY))],
    "another class": lambda g: [dns(g, question("x.example.org", klass=3))],
    "an update": lambda g: [dns(g, question("x.example.org", flags=0x2800))],
    "a forged answer": lambda g: [dns(g, question("x.example.org", flags=0x8180, counts=(1, 1, 0, 0),
                                                  more=record("x.example.org", A, slirplib.ip(EVIL)))), syn(g, EVIL, 443)],
    "IPv6": lambda g: [syn6("2001:db8::66", 443), udp6("2001:db8::66", 443)],
    "another resolver by IPv6": lambda g: [udp6("2001:4860:4860::8888", 53, question("www.example.org"))],
    "IPv4-mapped IPv6": lambda g: [syn6(f"::ffff:{EVIL}", 443), syn6("::ffff:127.0.0.1", 443)],
    "IPv4-compatible IPv6": lambda g: [syn6("::127.0.0.1", 443), syn6("::1", 443), syn6("::", 443)],
    "NAT64 and 6to4": lambda g: [syn6("64:ff9b::c633:6442", 443), syn6("2002:c633:6442::1", 443)],
    "the gateway, host's loopback": lambda g: [syn(g, "10.0.2.2", 443), datagram(g, "10.0.2.2", 80)],
    "the IPv6 gateway": lambda g: [syn6("fec0::2", 443), udp6("fec0::2", 80), syn6("fec0::99", 443), udp6("fe80::2", 80)],
    "all nodes": lambda g: [udp6("ff02::1", 80), udp6("ff02::1", 443)],
    "broadcasts": lambda g: [datagram(g, "255.255.255.255", 80), datagram(g, "10.0.2.255", 443)],
    "the host's loopback itself": lambda g: [syn(g, "127.0.0.1", 443), syn(g, "127.1.2.3", 80), datagram(g, "0.0.0.0", 80)],
    "the host's own address": lambda g: [syn(g, "203.0.113.1", 443), datagram(g, "203.0.113.99", 80)],
    "metadata of a cloud": lambda g: [syn(g, "169.254.169.254", 80)],
    "multicast": lambda g: [datagram(g, "239.1.2.3", 80)],
    "ping": lambda g: [ethernet(IPV4, ipv4(1, g.address, EVIL, b"\x08\0\xf7\xff" + bytes(4)))],
    "fragments": lambda g: [ethernet(IPV4, ipv4(TCP, g.address, EVIL, TCP_TO(g.address, 1, EVIL, 443, 1, 0, SYN)[:16],
                                                fragment=0x2000)),
                            ethernet(IPV4, ipv4(TCP, g.address, PUBLIC, bytes(24), fragment=1)),
                            ethernet(IPV4, ipv4(UDP, g.address, PUBLIC, bytes(24), fragment=0x2001))],
    "IP options": lambda g: [options(g, PUBLIC)],
    "extension headers": lambda g: [syn6("2001:db8::7", 443, next_header=n) for n in (0, 43, 44, 60)],
    "odd protocols": lambda g: [ethernet(IPV4, ipv4(n, g.address, PUBLIC, bytes(40))) for n in (4, 41, 47, 50, 132, 136)],
    "segments without a connection": lambda g: [syn(g, EVIL, 443, f) for f in (ACK, SYN | ACK, FIN, RST, 0, SYN | FIN)],
    "a VLAN": lambda g: [b"\xff" * 6 + slirplib.MAC + b"\x81\0\0\1" + syn(g, EVIL, 443)[12:]],
    "another type of Ethernet": lambda g: [b"\xff" * 6 + slirplib.MAC + b"\x88\xf8" + syn(g, EVIL, 443)[14:]],
    "lengths that do not fit": lambda g: [syn(g, EVIL, 443)[:n] for n in (14, 20, 34, 40, 53)],
    "an address that was unasked": lambda g: [syn(g, "198.51.100.66", 443)],
    **{f"{a} by rebinding": lambda g, a=a: [syn6(a, 443) if ":" in a else syn(g, a, 443)] for a in (
        "10.0.2.2", "127.0.0.1", "169.254.169.254", "192.168.1.1", "203.0.113.1", "203.0.113.99",
        "::1", "fec0::2", "fd00::1", "2001:db8:1::1", "64:ff9b::a00:1")},
}
EXPECTED_ANSWERS = (RST, RST | ACK)


def test_no_way_leads_around_the_rules(world, guest):
    """After the names were asked whose answers lie or rebind. Each way alone: nothing leaves the host, nothing reaches
    the host, and the resolver is not asked. The guest gets refusals only."""
    assert len(WAYS) >= 40
    g = guest
    for name, kind in (("www.example.org", A), ("six.example.org", AAAA), ("chain.example.org", A), ("liar.example.org", A),
                       ("loop.example.org", A), ("rebind.example.org", A), ("rebind6.example.org", AAAA)):
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
    g.frame(udp6("fec0::3", 53, question("six.example.org", AAAA)))
    until(lambda: world.resolver.asked[-1] == "six.example.org")

    def answered():
        frame, _ = g.receive()
        return frame[12:14] == b"\x86\xdd" and frame[20] == UDP and b"\x20\x01\x0d\xb8" in frame[62:]
    until(answered)
    g.frame(syn6("2001:db8::7", 443))
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
