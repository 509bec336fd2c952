"""Ways around egress rules, for user networks and for networks of the host: frames of a guest, and a name server that
lies. g: the guest, with its address and .net (Addresses)."""

import select
import socket
import struct
import threading
from typing import NamedTuple

import slirplib
from slirplib import ACK, FIN, IPV4, IPV6, RST, SYN, TCP, UDP, ethernet, ipv4


class Addresses(NamedTuple):
    """The addresses of a guest's network."""
    resolver: str
    gateway: str
    broadcast: str
    source6: str
    resolver6: str
    gateway6: str
    other6: str  # that nobody has
    local6: str  # of the gateway, or of what resolves
    around6: tuple  # addresses of the network and of the host, to which names rebind


SLIRP = Addresses("10.0.2.3", "10.0.2.2", "10.0.2.255", "fec0::15", "fec0::3", "fec0::2", "fec0::99", "fe80::2",
                  ("fec0::2", "2001:db8:1::1"))


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
    """A name server with a table of records: {name: [record, ...]}. A name with None gets no answer."""

    def __init__(self, s, names):
        super().__init__(daemon=True)
        self.socket, self.names, self.asked, self.closing = s, names, [], False
        self.start()

    def close(self):
        """End the thread before the descriptor's number can be another socket's."""
        self.closing = True
        self.join()
        self.socket.close()

    def run(self):
        while not self.closing:
            if not select.select([self.socket], [], [], 0.1)[0]:
                continue
            data, who = self.socket.recvfrom(4096)
            end = data.index(b"\0", 12)
            name, at = "", 12
            while data[at]:
                name += data[at + 1:at + 1 + data[at]].decode() + "."
                at += 1 + data[at]
            name = name[:-1]
            self.asked.append(name)
            records = self.names.get(name, [])
            if records is None:
                continue
            self.socket.sendto(data[:2] + b"\x81\x80\0\1" + struct.pack("!H", len(records)) + bytes(4) +
                               data[12:end + 5] + b"".join(records), who)


def names(net):
    """Return the records of a name server that opens some addresses, lies, and rebinds."""
    return {
        "www.example.org": [record("www.example.org", A, slirplib.ip(PUBLIC), 1)],
        "six.example.org": [record("six.example.org", AAAA, socket.inet_pton(socket.AF_INET6, "2001:db8::7"))],
        "chain.example.org": [record("chain.example.org", CNAME, labels("a.cdn.net")),
                              record("a.cdn.net", A, slirplib.ip("198.51.100.8"))],
        "liar.example.org": [record("liar.example.org", A, slirplib.ip("198.51.100.9")),
                             record("evil.net", A, slirplib.ip("198.51.100.66"))],
        "loop.example.org": [record("loop.example.org", CNAME, labels("loop.example.org")),
                             b"\xc0\xff" + struct.pack("!HHIH", A, 1, 60, 4) + slirplib.ip("198.51.100.66")],
        "rebind.example.org": [record("rebind.example.org", A, slirplib.ip(a)) for a in (net.gateway, *REBOUND)],
        "rebind6.example.org": [record("rebind6.example.org", AAAA, socket.inet_pton(socket.AF_INET6, a)) for a in (
            *net.around6, *REBOUND6)],
    }


REBOUND = ("127.0.0.1", "169.254.169.254", "192.168.1.1", "203.0.113.1", "203.0.113.99", "0.0.0.0")
REBOUND6 = ("::1", "fe80::1", "fd00::1", "::ffff:198.51.100.66", "64:ff9b::a00:1")
# The name server is asked these first.
ASKED = (("www.example.org", A), ("six.example.org", AAAA), ("chain.example.org", A), ("liar.example.org", A),
         ("loop.example.org", A), ("rebind.example.org", A), ("rebind6.example.org", AAAA))


def syn(g, to, port, flags=SYN, sport=40000):
    return ethernet(IPV4, ipv4(TCP, g.address, to, slirplib.tcp(g.address, sport, to, port, 1, 0, flags)))


def six(g, to, protocol, body, next_header=None):
    source, to = (socket.inet_pton(socket.AF_INET6, x) for x in (g.net.source6, to))
    at = {TCP: 16, UDP: 6, 58: 2}[protocol]
    pseudo = source + to + struct.pack("!II", len(body), protocol)
    body = body[:at] + bytes(2) + body[at + 2:]
    body = body[:at] + struct.pack("!H", slirplib.checksum(pseudo + body)) + body[at + 2:]
    if next_header is not None:  # an extension header in between
        body = struct.pack("!BBHI", protocol, 0, 0, 0) + body
    return ethernet(IPV6, struct.pack("!IHBB", 6 << 28, len(body), protocol if next_header is None else next_header, 64) +
                    source + to + body)


def syn6(g, to, port, **more):
    return six(g, to, TCP, struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, SYN, 65535, 0, 0), **more)


def udp6(g, to, port, data=b"x"):
    return six(g, to, UDP, struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data)


def datagram(g, to, port, data=b"x"):
    return ethernet(IPV4, ipv4(UDP, g.address, to, slirplib.udp(g.address, 40000, to, port, data)))


def dns(g, message, to=None):
    return datagram(g, to or g.net.resolver, 53, message)


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
    "TCP to the resolver": lambda g: [syn(g, g.net.resolver, 53)],
    "other ports of the resolver": lambda g: [syn(g, g.net.resolver, 443), datagram(g, g.net.resolver, 80)],
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
    "IPv6": lambda g: [syn6(g, "2001:db8::66", 443), udp6(g, "2001:db8::66", 443)],
    "another resolver by IPv6": lambda g: [udp6(g, "2001:4860:4860::8888", 53, question("www.example.org"))],
    "IPv4-mapped IPv6": lambda g: [syn6(g, f"::ffff:{EVIL}", 443), syn6(g, "::ffff:127.0.0.1", 443)],
    "IPv4-compatible IPv6": lambda g: [syn6(g, "::127.0.0.1", 443), syn6(g, "::1", 443), syn6(g, "::", 443)],
    "NAT64 and 6to4": lambda g: [syn6(g, "64:ff9b::c633:6442", 443), syn6(g, "2002:c633:6442::1", 443)],
    "the gateway, host's loopback": lambda g: [syn(g, g.net.gateway, 443), datagram(g, g.net.gateway, 80)],
    "the IPv6 gateway": lambda g: [syn6(g, g.net.gateway6, 443), udp6(g, g.net.gateway6, 80), syn6(g, g.net.other6, 443), udp6(g, g.net.local6, 80)],
    "all nodes": lambda g: [udp6(g, "ff02::1", 80), udp6(g, "ff02::1", 443)],
    "broadcasts": lambda g: [datagram(g, "255.255.255.255", 80), datagram(g, g.net.broadcast, 443)],
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
    "extension headers": lambda g: [syn6(g, "2001:db8::7", 443, next_header=n) for n in (0, 43, 44, 60)],
    "odd protocols": lambda g: [ethernet(IPV4, ipv4(n, g.address, PUBLIC, bytes(40))) for n in (4, 41, 47, 50, 132, 136)],
    "segments without a connection": lambda g: [syn(g, EVIL, 443, f) for f in (ACK, SYN | ACK, FIN, RST, 0, SYN | FIN)],
    "a VLAN": lambda g: [b"\xff" * 6 + slirplib.MAC + b"\x81\0\0\1" + syn(g, EVIL, 443)[12:]],
    "another type of Ethernet": lambda g: [b"\xff" * 6 + slirplib.MAC + b"\x88\xf8" + syn(g, EVIL, 443)[14:]],
    "lengths that do not fit": lambda g: [syn(g, EVIL, 443)[:n] for n in (14, 20, 34, 40, 53)],
    "an address that was unasked": lambda g: [syn(g, "198.51.100.66", 443)],
    **{f"{a} by rebinding": lambda g, a=a: [syn6(g, a, 443) if ":" in a else syn(g, a, 443)] for a in (*REBOUND, *REBOUND6)},
    "the gateway by rebinding": lambda g: [syn(g, g.net.gateway, 443)],
    "IPv6 addresses of the host by rebinding": lambda g: [syn6(g, a, 443) for a in g.net.around6],
}
