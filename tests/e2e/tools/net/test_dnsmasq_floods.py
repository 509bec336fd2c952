"""Guests that flood dnsmasq, the DHCP and name server of their network (docs/networks.md, "Ports")."""

import json
import select
import socket
import struct

import pytest

from conftest import until
from hostnetlib import IPV6, Host, Namespace, as_root, network
from portlib import port


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


def question(name):
    """A question for the IPv4 address of a name."""
    return struct.pack(">HHHHHH", 77, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"


def test_guest_with_unanswered_questions_leaves_others_their_names(host):
    """The guest asks for names whose name server never answers."""
    server = host.outside.open(kind=socket.SOCK_DGRAM)
    server.bind(("10.9.0.1", 53))
    n = network(dns={"forwarders": ["10.9.0.1"]})
    host.do("up", n)
    bad, good = host.guest(1), host.guest(2)
    for guest in bad, good:
        host.do("port-up", n, port=port(guest))
        guest.dhcp("guest")
    with bad.open(kind=socket.SOCK_DGRAM) as s, server, good.open(kind=socket.SOCK_DGRAM) as asker:
        s.connect(("192.168.122.254", 53))
        for i in range(200):
            s.send(question(f"slow{i}.example.com"))
            assert select.select([server, s], [], [], 30)[0] == [server], s.recv(1000)
            server.recv(1000)
        asker.connect(("192.168.122.254", 53))
        asker.send(question("fast.example.com"))
        got, sender = server.recvfrom(1000)
        server.sendto(got[:2] + b"\x81\x80\0\1\0\1" + got[8:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes(4), sender)
        assert asker.recv(1000)[3] & 15 == 0


@pytest.mark.parametrize("target, number, filter_", [
    ("192.168.122.254", 67, "none"), ("192.168.122.254", 69, "none"), ("192.168.122.254", 53, "no-spoofing"), ("192.168.122.1", 53, "no-spoofing"),
    ("fd00:7::53", 53, "no-spoofing"), ("fd00:7::53", 547, "no-spoofing")])
def test_port_has_a_rate_of_packets_to_dnsmasq(host, target, number, filter_):
    """To send the first guest's packets at the permitted rate would take 18 s or more. The second one has its own."""
    n = network(ipv6=IPV6)
    up = host.do("up", n)
    inside = Namespace.__new__(Namespace)
    inside.set_path(f"/proc/{up['pid']}/ns/net")
    with inside.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as seen:
        seen.bind(("svc0", 3))
        seen.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        for i, count in (1, 10000 if number == 53 else 2000), (2, 1):
            guest = host.guest(i)
            host.do("port-up", n, port=port(guest, filter=filter_))
            guest.dhcp("guest")
            until(guest.addresses)
            service = target if ":" in target else "192.168.122.254"
            assert guest.pings(service) and guest.pings(target)
            packet, mark, got = b"\1\1\6" + bytes(25) + bytes.fromhex(guest.mac.replace(":", "")), f"end of {i}".encode(), []
            with guest.open(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as s:
                for _ in range(count):
                    s.sendto(packet, (target, number))
                while not got or mark not in got[-1]:
                    s.sendto(mark, (service, 9))
                    while select.select([seen], [], [], 0.5)[0] and (not got or mark not in got[-1]):
                        got.append(seen.recv(2000))
            passed = sum(f.endswith(packet) and len(f) < 100 for f in got)  # longer: an ICMP error about it
            assert passed == 1 if count == 1 else 0 < passed < count, passed


def test_nothing_of_a_port_that_has_asked_remains(host):
    n = network()
    host.do("up", n)
    guest = host.guest(1)
    host.do("port-up", n, port=port(guest))
    guest.dhcp("guest")
    host.do("port-down", n, port={"tap": guest.tap})
    assert guest.tap not in json.dumps(host.state()["rules"])
