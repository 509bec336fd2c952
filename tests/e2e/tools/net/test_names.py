"""Egress rules with DNS names in networks of the host: what a guest cannot reach (docs/networks.md)."""

import ipaddress
import json
import os
import select
import signal
import socket
import struct

import pytest

import slirplib
from conftest import until
from egresslib import A, AAAA, ASKED, EVIL, PUBLIC, RULES, SYN, TXT, WAYS, Addresses, Resolver, datagram, dns, names, question, six, syn
from egresslib import syn6, udp6
from hostnetlib import IPV6, UUID, Host, as_root, netns, network
from netlib import ipv6_add
from slirplib import ACK, ICMP, IPV4, TCP, UDP, checksum, ethernet, ipv4, readable

TABLE = "cairn_" + UUID.replace("-", "")
FORWARDER, FORWARDER6 = "10.9.0.1", "fd00:9::1"
SERVICE, SERVICE6 = "192.168.122.254", "fd00:7::53"
PTR = 12
OWN = {"203.0.113.1", "203.0.113.99", "2001:db8:1::1"}  # of the host: for them, names are not asked


class World(Host):
    """A host whose outside has all addresses. It has public addresses of its own, and servers on all of them."""

    def __init__(self, tmp):
        super().__init__(tmp)
        for address in "203.0.113.1/32", "203.0.113.99/32":
            self.run("ip", "addr", "add", address, "dev", "eth0")
        ipv6_add(self, "2001:db8:1::1/128", "eth0")
        self.outside.run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo")
        self.outside.run("ip", "-6", "route", "add", "local", "2001:db8::/64", "dev", "lo")
        self.outside.run("ip", "-6", "route", "add", "2001:db8:1::/64", "via", "fd00:9::2")
        self.sockets = []
        self.records = names(NET)
        self.resolver = Resolver(self.bound(self.outside, FORWARDER, 53), self.records)
        self.resolver6 = Resolver(self.bound(self.outside, FORWARDER6, 53), self.records)
        self.wire = self.packets(self, "eth0")
        self.own = [self.listening(self, port) for port in (80, 443)]
        self.own += [self.bound(self, "0.0.0.0", port) for port in (80, 443)]

    def keep(self, s):
        self.sockets.append(s)
        return s

    def bound(self, where, address, port):
        def make():
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            s.bind((address, port))
            return s
        return self.keep(where.inside(make))

    def listening(self, where, port):
        def make():
            s = socket.socket(socket.AF_INET6)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("::", port))
            s.listen(16)
            return s
        return self.keep(where.inside(make))

    def packets(self, where, link):
        def make():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.bind((link, 3))
            s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
            return s
        return self.keep(where.inside(make))

    def left(self):
        """Return the packets of guests that have left the host: not the questions of dnsmasq to the name server."""
        got = []
        while readable(self.wire):
            frame, (_, _, kind, _, _) = self.wire.recvfrom(70000)
            if kind != socket.PACKET_OUTGOING or frame[12:14] not in (b"\x08\0", b"\x86\xdd"):
                continue
            neighbour = frame[12:14] == b"\x86\xdd" and (frame[20] == 0 or frame[20] == 58 and frame[54] in range(133, 144))
            asks = frame[12:14] == b"\x08\0" and frame[23] == UDP and frame[30:34] == slirplib.ip(FORWARDER) and frame[36:38] == b"\0\x35"
            if not neighbour and not asks:
                got.append(frame)
        return got

    def close(self):
        for r in self.resolver, self.resolver6:
            r.close()
        for s in self.sockets:
            s.close()
        super().close()


NET = Addresses(SERVICE, "192.168.122.1", "192.168.122.255", "fd00:7::15", SERVICE6, "fd00:7::1", "fd00:7::99", SERVICE6,
                ("fd00:7::1", "2001:db8:1::1", "fd00:9::2"))


class Sender:
    """A guest that sends frames of its own making, as slirplib.Guest."""

    def __init__(self, world, number):
        self.net, self.world, self.guest = NET, world, world.guest(number)
        self.address = self.guest.dhcp("sender")[0]
        self.guest.ip("-6", "addr", "add", NET.source6 + "/64", "dev", "eth0")
        self.mac = bytes.fromhex(self.guest.mac.replace(":", ""))
        self.bridge = bytes.fromhex(world.ip("link", "show", "virbr0")[0]["address"].replace(":", ""))
        neighbours = json.loads(world.run("bridge", "-j", "fdb", "show", "br", "virbr0").stdout)
        self.veth = world.ip("link", "show", "cn-" + UUID.replace("-", "")[:12])[0]["ifname"]
        self.service = next(bytes.fromhex(n["mac"].replace(":", "")) for n in neighbours
                            if n["ifname"] == self.veth and "permanent" not in n.get("state", ""))
        self.wire = world.packets(self.guest, "eth0")
        self.marks = 0

    def frame(self, frame, to=None, source=None):
        """Send a frame to the host, or as the broadcast that it is."""
        broadcast = frame[12:14] == b"\x08\0" and frame[30:34] in (b"\xff" * 4, slirplib.ip(NET.broadcast))
        if to is None:
            to = b"\xff" * 6 if broadcast else self.service if frame[12:14] == b"\x08\0" and frame[30:34] == slirplib.ip(SERVICE) else self.bridge
        self.wire.send((to + (source or self.mac) + frame[12:]).ljust(60, b"\0"))

    def ask(self, name, kind=A, ident=7, to=SERVICE):
        """Ask; return the answer's code and bytes."""
        with self.guest.open(kind=socket.SOCK_DGRAM) as s:
            s.connect((to, 53))
            s.send(question(name, kind, ident))
            data = s.recv(4096)
        assert data[:2] == struct.pack("!H", ident)
        return data[3] & 15, data

    def settle(self):
        """Wait until the host and the name server have seen all that was sent. Return the guest's frames."""
        self.marks += 1
        mark = f"m{self.marks}.example.org"
        self.ask(mark)
        got = []
        self.frame(ethernet(IPV4, ipv4(ICMP, self.address, NET.gateway, b"\x08\0" + struct.pack("!H", checksum(
            b"\x08\0\0\0" + struct.pack("!HH", 99, self.marks))) + struct.pack("!HH", 99, self.marks))))

        def seen():
            while readable(self.wire):
                frame, (_, _, kind, _, _) = self.wire.recvfrom(70000)
                if kind == socket.PACKET_OUTGOING:
                    continue
                if frame[12:14] == b"\x08\0" and frame[23] == ICMP and frame[34:36] == b"\0\0" and frame[38:42] == struct.pack("!HH", 99, self.marks):
                    return True
                got.append(frame)
            return False
        until(seen)
        until(lambda: mark in self.world.resolver.asked)
        self.world.resolver.asked.remove(mark)
        return got


def notice(g, source, address=EVIL):
    """A ping as cairn-dns sends it to open an address: for each name of the rules and each time."""
    hash_ = 0xcbf29ce484222325 ^ 1
    for c in b"example.org":
        hash_ = (hash_ ^ c) * 0x100000001b3 & 0xffffffffffffffff
    body = struct.pack("!BBHHHQBBH", 8, 0, 0, 7, 1, hash_, 9, 4, 0) + slirplib.ip(address) + bytes(12)
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ethernet(IPV4, ipv4(ICMP, source, NET.gateway, body))


def raw(protocol, source, to, port, data=b"x", sport=40000):
    body = slirplib.udp(source, sport, to, port, data) if protocol == UDP else slirplib.tcp(source, sport, to, port, 1, 0, SYN)
    return ethernet(IPV4, ipv4(protocol, source, to, body))


# (frame, MAC address of its destination, of its source): those of a network with dnsmasq.
MORE = {
    "dnsmasq's port": lambda g: [(datagram(g, SERVICE, 5300, question("secret.evil.net")), g.service, None), (syn(g, SERVICE, 5300), g.service, None)],
    "dnsmasq's port by the host": lambda g: [(datagram(g, SERVICE, 5300, question("secret.evil.net")), g.bridge, None)],
    "dnsmasq's port by IPv6": lambda g: [(udp6(g, SERVICE6, 5300, question("secret.evil.net")), g.service, None)],
    "TCP to the gateway's resolver": lambda g: [(syn(g, NET.gateway, 53), None, None)],
    "a refused name by the gateway": lambda g: [(dns(g, question("secret.evil.net"), NET.gateway), None, None)],
    "a refused name by IPv6": lambda g: [(udp6(g, SERVICE6, 53, question("secret.evil.net")), g.service, None),
                                         (udp6(g, NET.gateway6, 53, question("secret.evil.net")), None, None)],
    "a name below the network's domain": lambda g: [(dns(g, question("secret.vms")), None, None), (dns(g, question("a.b.vms", TXT)), None, None)],
    "a plain name, other types": lambda g: [(dns(g, question("secret")), None, None), (dns(g, question("secret", TXT)), None, None),
                                            (dns(g, question("secret", 65)), None, None)],
    "labels before a reverse name": lambda g: [(dns(g, question("secret.7.122.168.192.in-addr.arpa", PTR)), None, None),
                                               (dns(g, question("07.122.168.192.in-addr.arpa", PTR)), None, None),
                                               (dns(g, question("7.1.9.10.in-addr.arpa", PTR)), None, None)],
    "the host's name server": lambda g: [(dns(g, question("secret.evil.net"), FORWARDER), None, None)],
    "dnsmasq's address": lambda g: [(raw(UDP, SERVICE, FORWARDER, 53, question("secret.evil.net")), None, None),
                                    (raw(TCP, SERVICE, FORWARDER, 53), None, None), (raw(TCP, SERVICE, EVIL, 443), None, None)],
    "dnsmasq's addresses": lambda g: [(raw(UDP, SERVICE, FORWARDER, 53, question("secret.evil.net")), g.bridge, g.service),
                                      (raw(TCP, SERVICE, FORWARDER, 53), g.bridge, g.service)],
    "a notice": lambda g: [(notice(g, g.address), None, None), (syn(g, EVIL, 443), None, None)],
    "a notice in dnsmasq's name": lambda g: [(notice(g, SERVICE), None, None), (syn(g, EVIL, 443), None, None)],
    "a notice with dnsmasq's addresses": lambda g: [(notice(g, SERVICE), g.bridge, g.service), (syn(g, EVIL, 443), None, None)],
    "a notice that dnsmasq reflects": lambda g: [(notice(g, SERVICE), g.service, None), (syn(g, EVIL, 443), None, None)],
    "through dnsmasq's namespace": lambda g: [(syn(g, EVIL, 443), g.service, None), (datagram(g, EVIL, 443), g.service, None)],
    "IPv6 by the router that guests know": lambda g: [(syn6(g, "2001:db8::66", 443), g.service, None), (udp6(g, "2001:db8::66", 443), g.service, None)],
    "the gateway's source address": lambda g: [(raw(UDP, NET.gateway, EVIL, 443), None, None), (raw(TCP, NET.gateway, EVIL, 443), None, None)],
    "another source address": lambda g: [(raw(UDP, "10.9.0.2", EVIL, 443), None, None), (raw(UDP, EVIL, g.address, 443), None, None),
                                         (raw(UDP, g.address, EVIL, 40000, sport=443), None, None)],
    "another guest's address": lambda g: [(raw(TCP, "192.168.122.77", EVIL, 443), None, None)],
    "the other port of an open address by another guest's": lambda g: [(raw(TCP, "192.168.122.77", PUBLIC, 80), None, None)],
    "IPv6 with the sender of IPv4": lambda g: [(six(g, f"64:ff9b::{EVIL}", TCP, bytes(20)), None, None)],
}


@pytest.fixture
def world(tmp_path):
    yield from as_root(World, tmp_path)


def lan(egress=RULES, **more):
    return network(egress=egress, **{"ipv6": IPV6 | {"nat": True}, "dns": {"forwarders": [FORWARDER]}, **more})


FAMILIES = {"open4_": ipaddress.IPv4Address, "open6_": ipaddress.IPv6Address}  # of the addresses, which are numbers


def opened(world):
    """Return the addresses in the sets of names."""
    r = json.loads(world.run("nft", "-j", "list", "sets", "table", "inet", TABLE).stdout)
    sets = (i["set"] for i in r["nftables"] if "set" in i)
    return {str(FAMILIES[s["name"][:6]](int(str(e["elem"]["val"]), 0))): e["elem"]["timeout"]
            for s in sets if s["name"][:6] in FAMILIES for e in s.get("elem", [])}


def asks_all(g):
    for name, kind in ASKED:
        assert g.ask(name, kind)[0] == 0


def test_no_way_leads_around_the_rules(world):
    """The attempts are those of test_egress.py, and further ones by dnsmasq, its namespace and the bridge."""
    assert len(WAYS) + len(MORE) >= 70
    world.do("up", lan())
    g = Sender(world, 1)
    asks_all(g)
    assert set(opened(world)) - OWN == {PUBLIC, "198.51.100.8", "198.51.100.9", "2001:db8::7"}
    servers = [world.listening(world.outside, 443)]
    # The capture works, and what is allowed leaves the host.
    g.settle()
    world.left()
    for to in (PUBLIC, "198.51.100.8", "198.51.100.9", "192.0.2.1"):
        with g.guest.connect((to, 443)):
            assert world.left()
    g.settle()
    world.left()
    asked, around = sorted(world.resolver.asked), []
    # The kernel reads headers that cairn-slirp does not, so to an open address they may pass.
    WAYS["extension headers"] = lambda g: [syn6(g, "2001:db8::66", 443, next_header=n) for n in (0, 43, 44, 60)]
    ways = {**{way: lambda g, make=make: [(f, None, None) for f in make(g)] for way, make in WAYS.items()}, **MORE}
    for way, make in ways.items():
        for frame, to, source in make(g):
            g.frame(frame, to, source)
        for f in g.settle():
            if f[12:14] == b"\x08\0" and f[23] == TCP and f[47] & (SYN | ACK) == SYN | ACK:
                around.append((way, f))
        if world.left() or any(readable(s) for s in world.own) or sorted(world.resolver.asked) != asked:
            around.append((way, world.resolver.asked[len(asked):]))
            asked = sorted(world.resolver.asked)
    assert not around
    assert set(opened(world)) - OWN == {PUBLIC, "198.51.100.8", "198.51.100.9", "2001:db8::7"}
    counts = world.do("denied", lan())
    assert counts["packets"] > len(WAYS) and counts["questions"] > 10
    assert servers


def test_allowed_names_open_their_addresses(world):
    """Before the question an address is closed; upper case is the same; the answer comes when the address is open, by
    both addresses of both families; other guests and names of the network are answered; the host's own too."""
    n = lan()
    before = world.state()
    world.do("up", n)
    assert world.do("check", n)["complete"] and len(world.names()) == 1
    world.do("down", n)
    assert world.state() == before and world.names() == []
    world.do("up", n)
    g = Sender(world, 1)
    servers = [world.listening(world.outside, port) for port in (443, 80)]
    assert g.guest.connect((PUBLIC, 443)) is None
    for to in (SERVICE, NET.gateway):
        assert slirplib.ip(PUBLIC) in g.ask("WWW.eXample.ORG", to=to)[1]
    with g.guest.connect((PUBLIC, 443)):
        assert g.guest.connect((PUBLIC, 80)) is None
    assert g.ask("secret.evil.net")[0] == 5 and g.ask("sender")[0] == g.ask("sender.vms")[0] == 0
    assert g.guest.resolve(SERVICE, "sender.vms") == world.resolve(NET.gateway, "sender") == [g.address]
    assert g.ask("no.vms")[0] == 3  # dnsmasq says that there is none
    assert set(world.resolver.asked) == {"www.example.org"}  # twice when a second has passed, its time to live
    until(lambda: g.guest.ip("-6", "route", "show", "default"))
    assert g.guest.resolve(SERVICE6, "six.example.org", AAAA) == g.guest.resolve(NET.gateway6, "six.example.org", AAAA) == ["2001:db8::7"]
    with g.guest.connect(("2001:db8::7", 443), socket.AF_INET6):
        pass
    assert g.guest.connect(("2001:db8::8", 443), socket.AF_INET6) is None
    assert servers


def test_open_addresses_outlast_up_and_other_rules(world):
    """An address stays open by a name that the rules still have, for as long as its latest answer said; a connection
    goes on, and ends when a rule denies it or its name is gone."""
    world.do("up", lan())
    g = Sender(world, 1)
    world.records["long.example.org"] = [b for b in names(NET)["www.example.org"]]
    world.records["long.example.org"] = [world.records["long.example.org"][0].replace(b"\x03www", b"\x04long").replace(
        b"\0\0\0\1\0\4", b"\0\0\x10\0\0\4")]
    assert g.ask("long.example.org")[0] == 0 and opened(world) == {PUBLIC: 4800}
    assert g.ask("www.example.org")[0] == 0 and opened(world) == {PUBLIC: 4800}  # its answer has one second
    server = world.listening(world.outside, 443)
    with g.guest.connect((PUBLIC, 443)) as c, server.accept()[0] as peer:
        for rules in (RULES, "deny;deny any - 192.0.2.7;allow tcp 443 *.example.org"):
            world.do("up", lan(rules))
            assert opened(world) == {PUBLIC: 4800}
            c.sendall(b"x")
            assert peer.recv(1) == b"x"
        assert world.do("denied", lan())["packets"] == 0
        world.do("up", lan("deny;deny any - *.example.org;allow any - 192.0.2.0/24"))
        c.sendall(b"secret")
        with pytest.raises(ConnectionError):
            while True:
                c.recv(1)
        assert not select.select([peer], [], [], 0)[0]
    world.do("up", lan("deny;allow any - 192.0.2.0/24"))
    assert opened(world) == {} and world.names() == []
    world.do("up", lan())
    assert g.guest.connect((PUBLIC, 443)) is None
    assert g.ask("www.example.org")[0] == 0 and opened(world) == {PUBLIC: 300}
    with g.guest.connect((PUBLIC, 443)):
        pass


def test_first_rule_with_a_name_decides(world):
    """In both orders, with default allow, and with a name of which a port is denied."""
    server = [world.listening(world.outside, port) for port in (443, 80)]
    world.do("up", lan("allow;deny any - bad.example.org;deny tcp 80 *.example.org;deny any - 203.0.113.0/24"))
    g = Sender(world, 1)
    assert g.ask("bad.example.org")[0] == 5 and g.ask("www.example.org")[0] == g.ask("x.other.net")[0] == 0
    with g.guest.connect((PUBLIC, 443)), g.guest.connect((EVIL, 80)):
        assert g.guest.connect((PUBLIC, 80)) is None
    world.do("up", lan("deny;allow tcp 80 www.example.org;deny tcp 80 *.example.org;allow tcp - *.example.org"))
    assert g.ask("www.example.org")[0] == g.ask("chain.example.org")[0] == 0
    with g.guest.connect((PUBLIC, 80)), g.guest.connect(("198.51.100.8", 443)):
        assert g.guest.connect(("198.51.100.8", 80)) is None
    assert server


def test_name_server_is_confined_and_comes_back(world):
    """The name server has dnsmasq's namespace, and no capability. `check` reports its end, and `up` starts it again."""
    n = lan()
    up = world.do("up", n)
    pid, = world.names()
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(up["uid"])] * 4 and status["Groups"].strip() == ""
    assert {status[c] for c in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] in "02"  # a sanitizer has no filter
    assert netns(pid) == netns(up["pid"]) != netns(world.holder.pid)
    g = Sender(world, 1)
    os.kill(pid, signal.SIGKILL)
    until(lambda: world.names() == [])
    assert world.do("check", n)["missing"] == ["names"]
    assert world.do("up", n)["made"] is False and world.do("check", n)["complete"]
    assert g.ask("www.example.org")[0] == 0
    os.kill(up["pid"], signal.SIGKILL)  # dnsmasq: both start in a new namespace
    until(lambda: world.dnsmasq() == [])
    assert "dnsmasq" in world.do("check", n)["missing"]
    world.do("up", n)
    assert world.do("check", n)["complete"] and g.ask("chain.example.org")[0] == 0
    n["domain"] = "other"
    assert world.do("update", n)["restarted"] and g.ask("sender.other")[0] == 0 and g.ask("sender.vms")[0] == 5


def waits_in(pid, port, column):
    """Return the bytes that wait in datagram sockets with this port of their own (column 1) or of their peer (2)."""
    with open(f"/proc/{pid}/net/udp") as f:
        rows = [line.split() for line in f][1:]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[column].endswith(f":{port:04X}"))


def test_question_beyond_the_limit_ends_no_answer_that_has_come(world):
    """An answer waits until the host has opened its address. A further question of the guest sends it at once."""
    world.sysctl("ipv4.icmp_echo_ignore_all", 1)
    world.do("up", lan())
    g = Sender(world, 1)
    names_pid, = world.names()
    dnsmasq, = world.dnsmasq()
    silent = [f"s{i}.example.org" for i in range(64)]
    world.records.update(dict.fromkeys(silent))
    with g.guest.open(kind=socket.SOCK_DGRAM) as s, g.guest.open(kind=socket.SOCK_DGRAM) as others:
        for c in s, others:
            c.connect((SERVICE, 53))
        for name in silent[1:]:
            others.send(question(name))
            until(lambda: name in world.resolver.asked)
        os.kill(dnsmasq, signal.SIGSTOP)
        s.send(question("www.example.org"))
        until(lambda: waits_in(dnsmasq, 5300, 1))
        os.kill(names_pid, signal.SIGSTOP)
        os.kill(dnsmasq, signal.SIGCONT)
        until(lambda: waits_in(names_pid, 5300, 2))
        others.send(question(silent[0]))
        os.kill(names_pid, signal.SIGCONT)
        assert slirplib.ip(PUBLIC) in s.recv(4096)


def test_host_that_answers_no_ping_gets_the_answer_later(world):
    world.sysctl("ipv4.icmp_echo_ignore_all", 1)
    world.do("up", lan())
    g = Sender(world, 1)
    assert g.ask("www.example.org")[0] == 0 and set(opened(world)) == {PUBLIC}


def test_ipv6_network_alone(world):
    n = lan(dns={"forwarders": [FORWARDER6]})
    del n["ipv4"]
    world.do("up", n)
    guest = world.guest(1)
    server = world.listening(world.outside, 443)
    until(guest.addresses)
    until(lambda: guest.ip("-6", "route", "show", "default"))
    assert guest.connect(("2001:db8::7", 443), socket.AF_INET6) is None
    assert guest.resolve(SERVICE6, "six.example.org", AAAA) == ["2001:db8::7"] and guest.resolve(SERVICE6, "secret.evil.net", AAAA) is None
    with guest.connect(("2001:db8::7", 443), socket.AF_INET6), server.accept()[0]:
        pass
