"""cairn-slirp by itself: a network for one guest, made of sockets (docs/slirp.md)."""

import array
import errno
import fcntl
import json
import os
import random
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

import slirplib
from conftest import inject_call, until
from netlib import keepalive_asks
from slirplib import (
    ACK, ARP, FIN, ICMP, IPV4, IPV6, PSH, RST, SYN, TCP, TUN_F_CSUM, TUN_F_TSO4, UDP, Guest, datagrams, ethernet, ipv4, listener,
    readable, unfinished, without_sum)
from test_net import Lan, lan  # noqa: F401 (a fixture)


def test_guest_gets_address_gateway_and_dns():
    """DHCP, ARP, and a gateway that answers pings: QEMU's addresses."""
    with Guest(args=["--hostname", "web1"]) as g:
        address, options = g.dhcp(1)
        assert address == "10.0.2.15"
        assert options[53] == b"\2" and options[1] == bytes([255, 255, 255, 0])
        assert options[3] == bytes([10, 0, 2, 2]) and options[6] == bytes([10, 0, 2, 3])
        assert options[12] == b"web1"
        assert g.dhcp(3, bytes([50, 4]) + socket.inet_aton(address))[1][53] == b"\5"
        g.arp(1, slirplib.ALL, "10.0.2.2")
        frame, _ = g.receive()
        assert frame[22:28] == bytes.fromhex("52550a000202")
        g.ping("10.0.2.2", b"hello")
        assert g.wait(lambda p: p.protocol == ICMP).body[-5:] == b"hello"


def test_guest_gets_configured_network():
    with Guest(args=["--network", "192.168.76.0/24"], address="192.168.76.15") as g:
        address, options = g.dhcp(1)
        assert address == "192.168.76.15" and options[3] == bytes([192, 168, 76, 2])
        g.ping("192.168.76.2", b"hello")
        assert g.wait(lambda p: p.protocol == ICMP).source == "192.168.76.2"


def test_tcp_forward_carries_both_directions():
    with listener() as s, Guest(("tcp", s, "-", 80)) as g, socket.create_connection(s.getsockname()) as client:
        c = g.accepted()
        assert c.port == 80 and c.peer == "10.0.2.2"
        question, answer = random.Random(1).randbytes(200000), random.Random(2).randbytes(200000)
        sender = threading.Thread(target=client.sendall, args=(question,))
        sender.start()
        assert c.read(len(question)) == question
        sender.join()
        got = b""
        for i in range(0, len(answer), 14600):  # no more at once than its window
            c.send(answer[i:i + 14600])
            while len(got) < i + len(answer[i:i + 14600]):
                got += client.recv(65536)
        assert got == answer
        client.shutdown(socket.SHUT_WR)
        g.until(lambda: c.ended)
        c.close()
        assert client.recv(1) == b""


def test_connection_ends_when_the_clients_host_has_vanished():
    with listener() as s, Guest(("tcp", s, "-", 80)) as g, socket.create_connection(s.getsockname()):
        g.accepted()
        until(lambda: keepalive_asks(s.getsockname()[1], 7200))


@pytest.mark.parametrize("last", [b"", b"the end"])
def test_connection_that_client_closes_first_leaves_no_socket(last):
    """libslirp would keep each of them for 10 seconds."""
    with listener() as s, Guest(("tcp", s, "-", 80)) as g:
        g.silent()
        before = len(os.listdir(f"/proc/{g.process.pid}/fd"))
        for _ in range(20):
            with socket.create_connection(s.getsockname()) as client:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                c = g.accepted()
                g.until(lambda: c.ended)
                c.segment(FIN | ACK, last)
                received = b""
                while got := client.recv(99):
                    received += got
                assert c.received == b"question" and received == last
        g.silent()
        assert not any(c.reset for c in g.connections.values())
        assert len(os.listdir(f"/proc/{g.process.pid}/fd")) == before


def test_client_that_reads_late_gets_all_after_both_ends_are_closed():
    """The connection stays while data is on its way to the client."""
    with listener() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of cairn-slirp's sockets, too
        with Guest(("tcp", s, "-", 80)) as g, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(s.getsockname())
            client.shutdown(socket.SHUT_WR)
            c = g.accepted()
            g.until(lambda: c.ended)
            sent = random.Random(3).randbytes(60000)
            c.send(sent)
            c.close()
            g.silent()
            got = b""
            while part := client.recv(4096):
                got += part
            assert got == sent


def received(g, c, n):
    """Receive this many bytes; return the longest frame."""
    data, longest = b"", 0
    while len(data) < n:
        frame, _ = g.receive()
        longest = max(longest, len(frame))
        data, c.received = data + c.received, b""
    return data, longest


@pytest.mark.parametrize("takes", [0, TUN_F_CSUM, TUN_F_TSO4, TUN_F_CSUM | TUN_F_TSO4])
def test_segments_are_merged_when_guest_accepts_offloads(takes):
    """Segments have the size that the guest announces, whatever the MTU; when another driver accepts no offloads,
    they are not merged."""
    data = random.Random(3).randbytes(200000)
    with listener() as s, Guest(("tcp", s, "-", 80), args=["--mtu", "9000"]) as g:
        g.offloads(takes)
        for takes in (takes, 0):
            with socket.create_connection(s.getsockname()) as client:
                c = g.accepted()
                sender = threading.Thread(target=client.sendall, args=(data,))
                sender.start()
                got, longest = received(g, c, len(data))
                sender.join()
            assert got == data
            if takes == TUN_F_CSUM | TUN_F_TSO4:
                assert 9014 < longest <= 65535 + 14
            else:
                assert longest <= 9014
            g.silent()
            g.offloads(0)
            g.silent()


def test_received_frames_are_marked_valid():
    """Frames that cairn-slirp itself makes, such as ping answers, are marked as valid, too."""
    with datagrams() as s, datagrams() as client, Guest(("udp", s, "-", 53)) as g:
        g.offloads(TUN_F_CSUM)
        g.silent()
        client.sendto(b"?", s.getsockname())
        g.wait(lambda p: p.protocol == UDP)
        assert g.header == b"\2" + bytes(11)
        g.ping("10.0.2.2")
        g.wait(lambda p: p.protocol == ICMP)
        assert g.header == b"\2" + bytes(11)


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_reopened_window_is_announced(mtu):
    with listener() as s, Guest(args=["--host-loopback", "--mtu", str(mtu)]) as g:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        c = g.connect("10.0.2.2", s.getsockname()[1])
        server, _ = s.accept()
        sent, window = 0, 1
        while window:
            c.segment(ACK | PSH, bytes(min(window, mtu - 40)))
            sent += min(window, mtu - 40)
            window = g.wait(lambda p: p.protocol == TCP and p.ack == c.seq).window
        with server:
            got = 0
            while got < sent:
                got += len(server.recv(1 << 20))
            g.wait(lambda p: p.protocol == TCP and p.ack == c.seq and p.window > 40000)


def segment_of(c, data, flags=ACK | PSH):
    return without_sum(ethernet(IPV4, ipv4(TCP, c.guest.address, c.peer, slirplib.tcp(
        c.guest.address, c.port, c.peer, c.peer_port, c.seq, c.ack, flags, data))))


def test_checksums_and_segmentation_are_completed():
    """Checksums of TCP and UDP, and segmentation: 60000 bytes in one frame on a network with an MTU of 1500."""
    with listener() as s, datagrams() as d, datagrams() as asks, Guest(("tcp", s, "-", 80), ("udp", d, "-", 53)) as g, \
            socket.create_connection(s.getsockname()) as client:
        c = g.accepted()
        for data, more in ((b"alone", {}), (random.Random(4).randbytes(60000), {"segment": 1460}),
                           (random.Random(5).randbytes(59999), {"segment": 1460, "kind": 0x81})):
            g.socket.send(unfinished(segment_of(c, data), **more))
            c.seq += len(data)
            got = b""
            while len(got) < len(data):
                got += client.recv(65536)
            assert got == data
        asks.sendto(b"?", d.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        asks.settimeout(30)
        for data in (b"answer", b"an answer"):
            frame = ethernet(IPV4, ipv4(UDP, g.address, p.source, slirplib.udp(g.address, 53, p.source, p.sport, data)))
            g.socket.send(unfinished(without_sum(frame, 40), offset=6))
            assert asks.recv(99) == data
        # A checksum of 0 means "none": this one would be 0, and passes libslirp's check.
        zero = next(n for n in range(65536) if not slirplib.checksum(frame[26:34] + struct.pack("!BBH", 0, UDP, 10) + frame[34:38]
                                                                     + struct.pack("!HHH", 10, 0, n)))
        frame = ethernet(IPV4, ipv4(UDP, g.address, p.source, slirplib.udp(g.address, 53, p.source, p.sport,
                                                                           struct.pack("!H", zero))))
        g.socket.send(unfinished(without_sum(frame, 40), offset=6))
        assert asks.recv(99) == struct.pack("!H", zero)


def test_invalid_offload_requests_are_dropped():
    with listener() as s, datagrams() as d, datagrams() as asks, Guest(("tcp", s, "-", 80), ("udp", d, "-", 53)) as g, \
            socket.create_connection(s.getsockname()) as client:
        c = g.accepted()
        asks.sendto(b"?", d.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        frame, large = segment_of(c, b"x"), segment_of(c, bytes(3000))
        answer = without_sum(ethernet(IPV4, ipv4(UDP, g.address, p.source, slirplib.udp(
            g.address, 53, p.source, p.sport, b"x"))), 40)
        over = bytes(65536 - 40)
        for packet in (
                unfinished(frame, start=13), unfinished(frame, start=len(frame) - 17), unfinished(frame, start=len(frame)),
                unfinished(frame, start=0xffff, offset=0xffff), unfinished(frame, offset=len(frame) - 35),
                b"\0" + unfinished(frame)[1:],  # checksum missing without the flag
                *(bytes([flags]) + unfinished(frame)[1:] for flags in (2, 3, 4, 5, 0x81)),
                unfinished(large), bytes(12) + large,  # too long, and no segmentation requested
                *(unfinished(large, 1460, kind=kind) for kind in (2, 3, 4, 5, 0x80, 0x83, 0x84)),
                b"\0" + unfinished(large, 1460)[1:],  # segmentation without checksums
                unfinished(answer, 1460, offset=6), unfinished(answer[:23], 1460, start=14, offset=0),
                unfinished(b"\0" * 12 + b"\x86\xdd" + large[14:], 1460),
                unfinished(segment_of(c, b"")[:54] + over, 1460)):
            g.socket.send(packet)
        assert not any(q.protocol == TCP and q.data for q in g.silent()) and not readable(client) and not readable(asks)
        g.socket.send(unfinished(segment_of(c, b"good")))
        assert client.recv(99) == b"good"


def test_waiting_connection_is_accepted_at_start():
    """A connection that starts a saved VM waits in the socket's queue in the same way."""
    with listener() as s, socket.create_connection(s.getsockname()) as client:
        client.sendall(b"early")
        with Guest(("tcp", s, "-", 80), control=True) as g:
            assert g.accepted().read(5) == b"early"
            assert g.told() == {"forward": 0}


def test_guest_sees_address_of_client(lan):  # noqa: F811
    """Loopback appears as the gateway; any other address as itself."""
    lan.ip("link", "set", "lo", "up")
    lan.ip("addr", "add", "192.0.2.1/24", "dev", "br0")

    def make():
        s = listener("0.0.0.0")
        client = socket.socket()
        client.bind(("192.0.2.1", 0))
        return s, client

    class Pair:  # Lan sets a time limit and closes
        def __init__(self):
            self.server, self.client = make()

        def settimeout(self, seconds):
            self.client.settimeout(seconds)

        def close(self):
            self.server.close()
            self.client.close()

    pair = lan.inside(Pair)
    with Guest(("tcp", pair.server, "-", 80)) as g:
        pair.client.connect(("192.0.2.1", pair.server.getsockname()[1]))
        assert g.accepted().peer == "192.0.2.1"


def test_client_reset_and_refused_port_reach_the_peer():
    with listener() as s, Guest(("tcp", s, "-", 80)) as g:
        client = socket.create_connection(s.getsockname())
        p = g.wait(lambda p: p.protocol == TCP and p.flags == SYN) if not g.seen else None
        assert p is None or p.dport == 80
        c = g.accepted()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        g.until(lambda: c.reset or c.ended)
        with socket.create_connection(s.getsockname()) as second:
            c = g.accepted()
            c.segment(RST)
            assert second.recv(1) == b""


def test_many_parallel_connections_work():
    """There are more connections than the backlog holds, and each gets its own answer."""
    with listener() as s, Guest(("tcp", s, "-", 80)) as g:
        clients = []
        for i in range(200):
            clients.append(socket.create_connection(s.getsockname()))
            clients[-1].sendall(b"%d." % i)
            c = g.accepted()
            assert c.read(len(b"%d." % i)) == b"%d." % i
            c.send(b"re %d" % i)
        for i, client in enumerate(clients):
            assert client.recv(100) == b"re %d" % i
            client.close()
        g.until(lambda: all(c.ended for c in g.connections.values()))


SOCKETS = 864  # docs/slirp.md


def test_connections_beyond_socket_limit_wait():
    """Waiting connections are not lost, and the process does not spin meanwhile."""
    with listener() as s, Guest(("tcp", s, "-", 80)) as g:
        s.listen(1000)
        clients = [socket.create_connection(s.getsockname()) for _ in range(900)]
        g.until(lambda: len(g.seen) == SOCKETS)
        before = ticks(g.process.pid)
        for _ in range(200):
            g.silent()
        assert ticks(g.process.pid) - before < 100
        assert len(g.seen) == SOCKETS
        for c in list(g.seen):
            c.segment(RST)
        g.until(lambda: len(g.seen) == len(clients))
        for c in clients:
            c.close()


def test_guest_with_many_sockets_leaves_some():
    """For the forwards' clients and for the daemon's orders."""
    with listener() as s, listener() as second, Guest(("tcp", s, "-", 80), control=True) as g:
        for port in range(10000, 11100):
            g.udp(port, "10.0.2.2", 9, b"x")
        g.silent()
        files = len(os.listdir(f"/proc/{g.process.pid}/fd"))
        assert ordered(g, {"add": "tcp:-:81"}, second) and files < 730
        with open(os.memfd_create("egress"), "rb") as rules:
            assert ordered(g, {"egress": True}, rules)
        for at in (s, second):
            with socket.create_connection(at.getsockname()):
                g.accepted()
            g.daemon()


def test_order_whose_file_finds_no_number_is_refused():
    with listener() as s, listener() as second, \
            Guest(("tcp", s, "-", 80), control=True, before=["prlimit", "--nofile=24:24"]) as g:
        clients = [socket.create_connection(s.getsockname()) for _ in range(16)]
        until(lambda: len(os.listdir(f"/proc/{g.process.pid}/fd")) == 24)
        assert not ordered(g, {"add": "tcp:-:81"}, second)
        with open(os.memfd_create("egress"), "rb") as rules:
            assert ordered(g, {"remove": 0}) and ordered(g, {"egress": True}, rules)
        for c in clients:
            c.close()


def ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        return sum(map(int, f.read().rpartition(")")[2].split()[11:13]))


def test_udp_forward_returns_answers():
    """Each client gets its own answer; the guest can answer only clients that have sent something."""
    with datagrams() as s, datagrams() as a, datagrams() as b, datagrams() as stranger, \
            Guest(("udp", s, "-", 53)) as g:
        for client, text in ((a, b"one"), (b, b"two" * 400)):
            client.sendto(text, s.getsockname())
            p = g.wait(lambda p: p.protocol == UDP)
            assert (p.source, p.to, p.dport, p.data) == ("10.0.2.2", "10.0.2.15", 53, text)
            g.udp(53, p.source, p.sport, b"re " + text)
            assert client.recvfrom(2000) == (b"re " + text, s.getsockname())
        g.udp(53, "10.0.2.2", stranger.getsockname()[1], b"hello")
        g.silent()
        assert not readable(stranger)


def test_two_clients_with_the_same_port_are_kept_apart():
    with datagrams("127.0.0.1") as s, socket.socket(type=socket.SOCK_DGRAM) as a, \
            socket.socket(type=socket.SOCK_DGRAM) as b, Guest(("udp", s, "-", 53)) as g:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.2", a.getsockname()[1]))
        ports = []
        for client in (a, b, a):
            client.sendto(b"?", s.getsockname())
            ports.append(g.wait(lambda p: p.protocol == UDP).sport)
        assert ports[0] == ports[2] != ports[1]
        g.udp(53, "10.0.2.2", ports[1], b"b")
        g.udp(53, "10.0.2.2", ports[0], b"a")
        assert (a.recv(9), b.recv(9)) == (b"a", b"b")


def test_udp_forward_to_address_that_guest_chose():
    with datagrams() as s, datagrams() as client, Guest(("udp", s, "10.0.2.77", 53), address="10.0.2.77") as g:
        client.sendto(b"?", s.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        assert p.to == "10.0.2.77" and p.frame[:6] == slirplib.ALL
        g.udp(53, p.source, p.sport, b"!")
        assert client.recv(9) == b"!"
        client.sendto(b"?", s.getsockname())
        assert g.wait(lambda p: p.protocol == UDP).frame[:6] == slirplib.MAC


def test_damaged_answers_are_dropped():
    with datagrams() as s, datagrams() as client, Guest(("udp", s, "-", 53)) as g:
        client.sendto(b"?", s.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        good = slirplib.udp(g.address, 53, p.source, p.sport, b"answer")
        for bad in (good[:4] + struct.pack("!H", 200) + good[6:],  # longer than the packet
                    good[:4] + struct.pack("!H", 7) + good[6:],  # shorter than its header
                    good[:-1] + b"X"):  # a wrong checksum
            g.ip(UDP, p.source, bad)
        g.frame(ethernet(IPV4, ipv4(UDP, g.address, p.source, good)[:30]))
        g.frame(ethernet(IPV4, ipv4(UDP, g.address, p.source, good[:6] + bytes(2) + good[8:])[:-3]))  # and no checksum
        g.frame(ethernet(IPV4, ipv4(UDP, g.address, p.source, good, fragment=0x2000)))
        g.frame(ethernet(IPV4, b"\x4f" + ipv4(UDP, g.address, p.source, good)[1:]))  # a header of 60 bytes
        g.silent()
        assert not readable(client)
        g.ip(UDP, p.source, good)
        assert client.recv(100) == b"answer"


def ipv6_to(to, kind, port):
    """A greeting or a connection attempt."""
    src, dst = socket.inet_pton(socket.AF_INET6, "fec0::15"), socket.inet_pton(socket.AF_INET6, to)
    body, at = {UDP: (struct.pack("!HHHH", 40001, port, 13, 0) + b"hello", 6),
                TCP: (struct.pack("!HHIIBBHHH", 40001, port, 1, 0, 0x50, SYN, 65535, 0, 0), 16)}[kind]
    total = slirplib.checksum(src + dst + struct.pack("!IHBB", len(body), 0, 0, kind) + body)
    body = body[:at] + struct.pack("!H", total) + body[at + 2:]
    return struct.pack("!IHBB", 0x60000000, len(body), kind, 64) + src + dst + body


def test_guest_cannot_reach_host_loopback():
    """Neither the gateway's address nor a packet to a loopback address leads to the host's loopback, with any
    protocol."""
    with listener() as server, datagrams() as sink, Guest() as g:
        port, udp_port = server.getsockname()[1], sink.getsockname()[1]
        g.ip(TCP, "10.0.2.2", slirplib.tcp(g.address, 40000, "10.0.2.2", port, 1, 0, SYN))
        assert g.wait(lambda p: p.protocol == ICMP).body[0] == 3  # destination unreachable
        for to in ("10.0.2.2", "127.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255"):
            g.udp(40001, to, udp_port, b"hello")
            g.ip(TCP, to, slirplib.tcp(g.address, 40001, to, port, 1, 0, SYN))
        for to in ("::1", "::ffff:127.0.0.1", "::127.0.0.1", "::"):
            for kind, dport in ((UDP, udp_port), (TCP, port)):
                g.frame(ethernet(IPV6, ipv6_to(to, kind, dport)))
        g.silent()
        assert not readable(server) and not readable(sink)


def test_guest_reaches_host_loopback_when_allowed():
    with listener() as server, datagrams() as sink, Guest(args=["--host-loopback"]) as g:
        c = g.connect("10.0.2.2", server.getsockname()[1])
        peer, _ = server.accept()
        c.send(b"GET")
        assert peer.recv(9) == b"GET"
        peer.sendall(b"page" * 10000)
        peer.close()
        assert c.read(40000) == b"page" * 10000
        g.udp(40001, "10.0.2.2", sink.getsockname()[1], b"hello")
        data, who = sink.recvfrom(9)
        assert data == b"hello"
        sink.sendto(b"hi", who)
        assert g.wait(lambda p: p.protocol == UDP).data == b"hi"
        g.udp(40001, "127.0.0.1", sink.getsockname()[1], b"by name")
        g.silent()
        assert not readable(sink)


def test_restricted_network_has_forwards_only():
    with listener() as server, listener() as s, datagrams() as d, datagrams() as client, \
            Guest(("tcp", s, "-", 80), ("udp", d, "-", 53), args=["--restrict", "--host-loopback"]) as g:
        assert 3 not in g.dhcp(1)[1]  # no gateway
        g.ip(TCP, "10.0.2.2", slirplib.tcp(g.address, 40000, "10.0.2.2", server.getsockname()[1], 1, 0, SYN))
        g.udp(40000, "10.0.2.2", server.getsockname()[1], b"hello")
        with socket.create_connection(s.getsockname()) as c:
            c.sendall(b"in")
            assert g.accepted().read(2) == b"in"
        client.sendto(b"?", d.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        g.udp(53, p.source, p.sport, b"!")
        assert client.recv(9) == b"!"
        assert not readable(server)


DNS_PORT = 53


def test_dns_queries_go_to_host_resolver(lan, tmp_path):  # noqa: F811
    """Queries go to the new resolver after a network manager has replaced resolv.conf."""
    etc = tmp_path / "etc"
    etc.mkdir()
    servers = []
    for address in ("127.0.0.1", "127.0.0.2"):
        def make(address=address):
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.bind((address, DNS_PORT))
            return s
        lan.ip("link", "set", "lo", "up")
        servers.append(lan.inside(make))
    (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    os.chmod(tmp_path, 0o755)
    inside = [*lan.enter, "unshare", "-m", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh"]
    with Guest(before=inside) as g:
        g.udp(40000, "10.0.2.3", 53, b"query 1")
        data, who = servers[0].recvfrom(99)
        assert data == b"query 1"
        servers[0].sendto(b"reply 1", who)
        p = g.wait(lambda p: p.protocol == UDP)
        assert (p.source, p.data) == ("10.0.2.3", b"reply 1")
        (etc / "new").write_text("nameserver 127.0.0.2\n# new\n")
        os.rename(etc / "new", etc / "resolv.conf")

        def asked():
            g.udp(40001, "10.0.2.3", 53, b"query 2")
            g.silent()
            return readable(servers[1])
        until(asked)
        # The guest reaches only the resolver: other ports of the same address are closed to it.
        server, sink = lan.inside(lambda: listener("0.0.0.0")), lan.inside(lambda: datagrams("0.0.0.0"))
        port, udp_port = server.getsockname()[1], sink.getsockname()[1]
        for to in ("10.0.2.3", "10.0.2.2", "10.0.2.255", "127.0.0.2"):
            g.udp(40002, to, udp_port, b"hello")
            g.ip(TCP, to, slirplib.tcp(g.address, 40002, to, port, 1, 0, SYN))
        for to in ("fec0::2", "fec0::3", "fe80::3", "fec0::7f00:2", "::ffff:127.0.0.2"):
            for kind, dport in ((UDP, udp_port), (TCP, port)):
                g.frame(ethernet(IPV6, ipv6_to(to, kind, dport)))
        g.silent()
        assert not readable(server) and not readable(sink)


def test_daemon_is_notified_of_connections():
    with listener() as s, datagrams() as d, datagrams() as client, \
            Guest(("tcp", s, "-", 80), ("udp", d, "-", 53), control=True) as g:
        with socket.create_connection(s.getsockname()) as tcp:
            assert g.told() == {"forward": 0}
            g.accepted()
            tcp.sendall(b"x")  # on an open connection as well
            assert g.told() == {"forward": 0}
            client.sendto(b"?", d.getsockname())
            assert g.told() == {"forward": 1}
            begun, messages = time.monotonic(), 0
            for _ in range(300):  # not for each: once in half a second
                client.sendto(b"?", d.getsockname())
                g.wait(lambda p: p.protocol == UDP)
                while readable(g.control):
                    assert g.told() == {"forward": 1}
                    messages += 1
            assert messages <= (time.monotonic() - begun) / 0.5 + 1
            for _ in range(2):  # an early event is reported late, but it is
                client.sendto(b"?", d.getsockname())
            assert g.told() == {"forward": 1}
        g.control.close()
        client.sendto(b"!", d.getsockname())  # and without a daemon the network works
        assert g.wait(lambda p: p.protocol == UDP and p.data == b"!")
        g.silent()
        g.daemon()  # the next daemon gets the missed event
        while (message := g.told()) != {"forward": 1}:
            assert message == {"forward": 0}  # the connection's end
        g.silent()
        with socket.create_connection(s.getsockname()):
            assert g.told() == {"forward": 0}
            g.daemon()  # perhaps what the last daemon had no time to read
            assert g.told() == {"forward": 0}
            g.accepted()
            g.silent()
            g.daemon()  # but not while the guest is awake
            g.silent()
            assert not readable(g.control)


def test_connections_wait_while_vm_is_saved():
    with listener() as s, datagrams() as d, datagrams() as client, \
            Guest(("tcp", s, "-", 80), ("udp", d, "-", 53), control=True) as g:
        def hold(yes):
            g.control.send(json.dumps({"hold": yes}).encode())
            if yes:
                while (message := g.told()) != {"held": True}:
                    assert "forward" in message

        for end in (lambda: hold(False), g.daemon):
            client.sendto(b"?", d.getsockname())
            assert g.wait(lambda p: p.protocol == UDP).data == b"?"
            hold(True)
            assert not readable(g.control)
            with socket.create_connection(s.getsockname()):
                client.sendto(b"!", d.getsockname())
                g.silent()
                assert not readable(g.control) and readable(s) and readable(d)
                end()  # waiting clients are accepted
                assert g.wait(lambda p: p.protocol == UDP).data == b"!"
                g.accepted()
                assert {"forward": 0} in (g.told(), g.told())
            g.silent()
            while readable(g.control):
                g.told()


def ordered(g, what, s=None):
    """Have cairn-slirp change its forwards, as the daemon does; return whether it did."""
    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))] if s else []
    g.control.sendmsg([json.dumps(what).encode()], fds)
    while "done" not in (message := g.told()):
        assert "forward" in message or "denied" in message
    return message["done"]


def test_forwards_change_while_connections_are_open():
    with listener() as first, listener() as second, datagrams() as d, datagrams() as client, \
            Guest(("tcp", first, "-", 80), control=True) as g, \
            socket.create_connection(first.getsockname()) as early:
        of_early = g.accepted()
        assert ordered(g, {"add": "tcp:-:81"}, second) and ordered(g, {"add": "udp:-:53"}, d)
        with socket.create_connection(second.getsockname()) as late:
            of_late = g.accepted()
            assert (of_early.port, of_late.port) == (80, 81)
            client.sendto(b"?", d.getsockname())
            assert g.wait(lambda p: p.protocol == UDP).data == b"?"
            assert ordered(g, {"remove": 0})
            where = first.getsockname()
            first.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(where)
            for at_host, at_guest in ((early, of_early), (late, of_late)):  # open connections continue
                at_host.sendall(b"hello")
                assert at_guest.read(5) == b"hello"
        g.daemon()
        with socket.create_connection(second.getsockname()):  # the others' numbers are one less
            while (message := g.told()) != {"forward": 0}:
                assert message == {"forward": 1}
            assert g.accepted().port == 81
        assert ordered(g, {"remove": 1})
        client.sendto(b"!", d.getsockname())
        assert not [p for p in g.silent() if p.protocol == UDP]
        assert ordered(g, {"add": "udp:10.0.2.99:54"}, d)  # in the slot of another forward
        g.arp(1, slirplib.ALL, "10.0.2.2")
        assert ordered(g, {"remove": 1}) and ordered(g, {"remove": 0})


@pytest.mark.parametrize("how", ["remove", "give"])
def test_connections_of_a_forward_continue_without_it(how):
    """Egress rules deny all to the guest. It opens no connections from the forward's port afterwards, either."""
    with listener() as s, Guest(("tcp", s, "-", 22), args=["--egress", "deny"], control=True) as g, \
            socket.create_connection(s.getsockname()) as client:
        c = g.accepted()
        if how == "remove":
            assert ordered(g, {"remove": 0})
        else:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                assert ordered(g, {"give": "tcp:%s:%d" % s.getsockname()}, theirs)
        for rules in ("", "deny", "deny;allow tcp 443 any"):
            with open(os.memfd_create("egress"), "w+", encoding="ascii") as f:
                f.write(rules)
                f.seek(0)
                assert ordered(g, {"egress": True}, f)
            client.sendall(b"hello")
            assert c.read(5) == b"hello"
            c.send(b"again")
            assert client.recv(5) == b"again"
        assert g.connect("10.0.2.2", 80, sport=22).reset


def test_forward_is_removed_by_its_socket_whatever_its_number():
    """A daemon that was killed between a change and its note of it knows other numbers."""
    def name(kind, s):
        return "%s:%s:%d" % (kind, *s.getsockname())
    with listener() as first, listener() as second, datagrams() as d, \
            Guest(("tcp", first, "-", 80), ("udp", d, "-", 53), ("tcp", second, "-", 81), control=True) as g:
        where = name("tcp", second)
        assert ordered(g, {"remove": 0, "socket": where})
        assert ordered(g, {"remove": 0, "socket": where})  # it is removed already
        assert ordered(g, {"remove": 0, "socket": name("tcp", d)})  # no such forward
        address = second.getsockname()
        second.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with socket.create_connection(first.getsockname()):
            assert g.accepted().port == 80
        assert ordered(g, {"remove": 7, "socket": name("udp", d)}) and ordered(g, {"remove": 0})
        assert not ordered(g, {"remove": 0})


def test_answer_waits_for_a_daemon_that_does_not_read():
    """The daemon took a change whose answer never came for lost."""
    with listener() as first, listener() as second, Guest(("tcp", first, "-", 80), ("tcp", second, "-", 81), control=True) as g:
        orders = 4 * g.control.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 768  # an answer takes 768 bytes of the buffer
        for n in range(2):
            for _ in range(orders):
                g.control.send(b'{"hold": true}')
            g.control.send(b'{"remove": 0}')
            until(lambda: fcntl.ioctl(g.control, termios.TIOCOUTQ, bytes(4)) == bytes(4))  # it has read all
            if not n:
                g.daemon()  # which does not get the answer to the earlier one
                assert not ordered(g, {"remove": 9})
        told = []
        while "done" not in (message := g.told()):
            told.append(message)
        assert message == {"done": True} and 100 < len(told) < orders


def test_wrong_orders_change_no_forward():
    with listener() as s, listener() as other, datagrams() as d, \
            Guest(("tcp", s, "-", 80), control=True) as g:
        for what, socket_ in (({"add": "tcp:-:81"}, d), ({"add": "udp:-:81"}, other), ({"add": "tcp:10.9.9.9:81"}, other),
                              ({"add": "tcp:-:65536"}, other), ({"add": "tcp:3:-:81"}, other), ({"remove": 1}, None)):
            assert not ordered(g, what, socket_), what
        for text in ('{"add": "tcp:-:81"}', '{"add": "' + "x" * 40 + '"}', '{"add": "', '{"remove": 4294967296}'):
            g.control.send(text.encode())
        fds = array.array("i", [other.fileno()] * 5)
        g.control.sendmsg([b'{"add": "tcp:-:82"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert g.told() == {"done": False}  # of remove
        assert g.told() == {"done": True} and ordered(g, {"remove": 1})
        before = len(os.listdir(f"/proc/{g.process.pid}/fd"))
        for _ in range(3):
            assert not ordered(g, {"add": "tcp:-:0"}, other)
        assert len(os.listdir(f"/proc/{g.process.pid}/fd")) == before
        with socket.create_connection(s.getsockname()):
            assert g.accepted().port == 80


def test_frames_for_stopped_guest_are_bounded():
    """A paused VM: frames wait, up to a tap's queue length; further ones are dropped, and the process continues."""
    with datagrams() as s, datagrams() as client, Guest(("udp", s, "-", 53)) as g:
        client.sendto(bytes(4), s.getsockname())
        g.wait(lambda p: p.protocol == UDP)
        for i in range(1, 4001):
            client.sendto(struct.pack("!I", i) + bytes(1000), s.getsockname())
            if i % 50 == 0:
                until(lambda: not waiting(s))
        got, last = [], False
        while not last:
            if not readable(g.socket):  # all arrived, or the process is slower than this one
                client.sendto(b"last", s.getsockname())
            _, p = g.receive()
            last = p and p.protocol == UDP and p.data == b"last"
            if p and p.protocol == UDP and not last:
                got.append(struct.unpack("!I", p.data[:4])[0])
        assert got == list(range(1, len(got) + 1)) and 1000 <= len(got) < 3900
        assert memory_kib(g.process.pid) < 40 << 10


def waiting(s):
    """Return the bytes still queued in a datagram socket that another process reads."""
    with open("/proc/net/udp") as f:
        port = "%04X" % s.getsockname()[1]
        lines = [int(line.split()[4].partition(":")[2], 16) for line in f if line.split()[1].endswith(":" + port)]
    return not lines or any(lines)  # while other sockets come and go, its line may be missing


def memory_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def test_process_ends_with_vm():
    with listener() as s:
        g = Guest(("tcp", s, "-", 80))
        g.silent()
        g.socket.send(b"")  # not the end
        g.silent()
        g.socket.close()
        assert g.process.wait() == 0


def test_garbage_is_dropped(lan):  # noqa: F811
    """No frame from a guest ends the process: random data, and frames of all kinds with changed bits. Runs in a
    namespace of its own, as some are valid enough to be forwarded."""
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    rounds = int(os.environ.get("FUZZ_ROUNDS", "60"))
    rnd = random.Random(seed)
    with listener() as s, datagrams() as d, datagrams() as client, \
            Guest(("tcp", s, "-", 80), ("udp", d, "-", 53), args=["--host-loopback"], before=lan.enter,
                  stderr=subprocess.DEVNULL) as g:
        g.dhcp(1)
        client.sendto(b"?", d.getsockname())
        p = g.wait(lambda p: p.protocol == UDP)
        src, dst = (socket.inet_pton(socket.AF_INET6, x) for x in ("fec0::15", "fec0::2"))
        me, gw = g.address, "10.0.2.2"
        whole = [
            ethernet(ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + slirplib.MAC + bytes(14)),
            ethernet(IPV4, ipv4(UDP, me, p.source, slirplib.udp(me, 53, p.source, p.sport, b"answer"))),
            ethernet(IPV4, ipv4(UDP, me, gw, slirplib.udp(me, 69, gw, 69, b"\0\1file\0octet\0blksize\0512\0"))),
            ethernet(IPV4, ipv4(UDP, me, gw, slirplib.udp(me, 68, gw, 67, b"\1\1\6" + bytes(233) + b"\x63\x82\x53\x63\x35\1\1\xff"))),
            ethernet(IPV4, ipv4(TCP, me, gw, slirplib.tcp(me, 80, gw, 50000, 1, 1, SYN | ACK, b"x", options=b"\2\4\5\xb4"))),
            ethernet(IPV4, ipv4(ICMP, me, gw, b"\x08\0\xf7\xff" + bytes(4))),
            ethernet(IPV4, ipv4(UDP, me, gw, bytes(64), ident=9, fragment=0x2000)),
            ethernet(IPV4, ipv4(UDP, me, gw, bytes(64), ident=9, fragment=8)),
            ethernet(IPV6, struct.pack("!IHBB", 0x60000000, 8, 58, 255) + src + dst + b"\x87" + bytes(7)),
            ethernet(IPV6, struct.pack("!IHBB", 0x60000000, 30, UDP, 64) + src + dst + struct.pack("!HHHH", 546, 547, 30, 0) + bytes(22)),
            ethernet(0x88f8, bytes(60)),
        ]
        for n in range(rounds):
            for _ in range(100):
                frame = bytearray(rnd.choice(whole) if n % 4 else rnd.randbytes(rnd.randrange(14, 1600)))
                for _ in range(rnd.randrange(6)):
                    frame[rnd.randrange(len(frame))] = rnd.randrange(256)
                if rnd.randrange(4):
                    repair(frame)
                header = rnd.choice((bytes(12), unfinished(b"", 100 * rnd.randrange(2), rnd.randrange(14, 99), rnd.randrange(20)),
                                     rnd.randbytes(12))) if rnd.randrange(8) == 0 else bytes(12)
                g.socket.send(header + bytes(frame[:rnd.randrange(1, len(frame) + 1)] if rnd.randrange(4) == 0 else frame))
            for bad in (b"", b"x", bytes(12), bytes(25), bytes(20000), bytes(4), rnd.randbytes(4)):
                g.socket.send(bad)
            drained(g)
        assert g.process.poll() is None, f"seed {seed}"
        # and the network still works
        with socket.create_connection(s.getsockname()):
            g.arp(2, slirplib.ALL, g.address)
            g.seen.clear()
            g.offloads(TUN_F_CSUM)
            g.accepted()


def repair(frame):
    """Fix the checksums, so that the code behind their check is reached, too."""
    size = (frame[14] & 15) * 4 if len(frame) > 34 else 0
    if frame[12:14] != b"\x08\0" or size < 20 or len(frame) < 14 + size + 20:
        return
    frame[24:26] = bytes(2)
    frame[24:26] = struct.pack("!H", slirplib.checksum(bytes(frame[14:14 + size])))
    segment, at = bytes(frame[14 + size:14 + struct.unpack("!H", frame[16:18])[0]]), {UDP: 6, TCP: 16, ICMP: 2}.get(frame[23])
    if at and len(segment) > at + 2:
        pseudo = bytes(frame[26:34]) + struct.pack("!BBH", 0, frame[23], len(segment)) if frame[23] != ICMP else b""
        frame[14 + size + at:16 + size + at] = struct.pack("!H", slirplib.checksum(
            pseudo + segment[:at] + bytes(2) + segment[at + 2:]))


def drained(g):
    """Garbage may provoke replies: read them, up to the ping's."""
    g.arp(2, slirplib.ALL, g.address)
    g.ping("10.0.2.2", b"drained")
    while True:
        frame = g.socket.recv(70000)
        assert frame, "cairn-slirp has ended"
        if frame.rstrip(b"\0").endswith(b"drained"):  # libslirp 4.8 fills short frames up
            return


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def test_process_has_no_privileges_and_files(sandbox):
    with listener() as s, Guest(("tcp", s, "-", 80)) as g:
        g.silent()
        st = status(g.process.pid)
        assert st["Seccomp"] == "2" and st["NoNewPrivs"] == "1"
        assert not any(int(st[c], 16) for c in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        if os.geteuid() == 0:
            assert st["Uid"].split() == ["65534"] * 4 and st["Gid"].split() == ["65534"] * 4 and not st["Groups"].strip()
        with open(f"/proc/{g.process.pid}/limits") as f:
            limits = {line[:26].strip(): line[26:].split()[:2] for line in f}
        assert limits["Max open files"] == ["1024", "1024"] and limits["Max core file size"] == ["0", "0"]


KILLED = None
OPENED = "a file"
CALLS = {  # number on x86-64, arguments, what it has to end with
    "open_passwd_for_writing": (257, [-100, "=/etc/passwd", 1, 0], KILLED),
    "bind": (49, [3, 0, 0], KILLED),
    "listen": (50, [3, 5], KILLED),
    "execve": (59, ["=/bin/true", 0, 0], KILLED),
    "ptrace": (101, [0, 0, 0, 0], KILLED),
    "socket_netlink": (41, [16, 3, 0], KILLED),
    "open_outside": (257, [-100, "=/usr/bin/env", 0, 0], -errno.EACCES),
    "open_resolv_conf": (257, [-100, "=/etc/resolv.conf", 0, 0], OPENED),
}


@pytest.mark.parametrize("name", CALLS)
def test_forbidden_calls_fail(sandbox, name):
    number, args, want = CALLS[name]
    with Guest() as g:
        g.silent()
        got = inject_call(g.process.pid, number, *args)
        if want is KILLED:
            assert got is KILLED and g.process.wait() == -signal.SIGSYS
            return
        assert got >= 0 if want is OPENED else got == want
        g.silent()


@pytest.mark.parametrize("args,sentence", [
    ([], "--frames is missing"),
    (["--frames", "99"], "open file descriptor"),
    (["--frames", "FD", "--network", "10.0.2.1/24"], "bits beyond"),
    (["--frames", "FD", "--network", "10.0.2.0/28"], "from 8 to 27"),
    (["--frames", "FD", "--network", "127.0.0.0/8"], "private"),
    (["--frames", "FD", "--network", "10.0.2.0"], "like 10.0.2.0/24"),
    (["--frames", "FD", "--mtu", "100"], "576"),
    (["--frames", "FD", "--mtu", "1500x"], "576"),
    (["--frames", "FD", "--hostname", "a b"], "letters"),
    (["--frames", "FD", "--hostname", "a" * 64], "63"),
    (["--frames", "FD", "--forward", "tcp:FD:-:22"], "listening TCP"),
    (["--frames", "FD", "--forward", "udp:TCP:-:22"], "bound UDP"),
    (["--frames", "FD", "--forward", "sctp:TCP:-:22"], "like tcp:4:-:22"),
    (["--frames", "FD", "--forward", "tcp:TCP:-:70000"], "1 to 65535"),
    (["--frames", "FD", "--forward", "tcp:TCP:10.0.3.15:22"], "not an address that a guest"),
    (["--frames", "FD", "--forward", "tcp:TCP:10.0.2.2:22"], "not an address that a guest"),
    (["--frames", "FD", "--forward", "tcp:TCP:x:22"], "like 10.0.2.15"),
    (["--frames", "FD", "--forward", "tcp:TCP6:-:22"], "IPv4"),
    (["--frames", "FD", *["--forward", "tcp:TCP:-:22"] * 65], "more than 64"),
    (["--frames", "FD", "--forward", "tcp:TCP:-"], "like tcp:4:-:22"),
    (["--frames", "TCP"], "SEQPACKET"),
    (["--frames", "FD", "--control", "FD"], "has to listen"),
    (["--frames", "FD", "more"], "unexpected argument"),
    (["--frames", "FD", "--what"], "unknown option"),
])
def test_invalid_command_line_prints_one_sentence(args, sentence):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, listener() as s, socket.create_server(("::1", 0), family=socket.AF_INET6) as s6:
        fds = {"FD": theirs.fileno(), "TCP6": s6.fileno(), "TCP": s.fileno()}
        text = []
        for a in args:
            for name, fd in fds.items():
                a = a.replace(name, str(fd)) if a == name or f":{name}:" in a else a
            text.append(a)
        r = subprocess.run([slirplib.PROGRAM, *text], pass_fds=list(fds.values()), capture_output=True, text=True)
        assert r.returncode == 1 and sentence in r.stderr and r.stderr.count("\n") == 1, r.stderr
