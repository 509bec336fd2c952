"""slirplib: a simulated guest of cairn-slirp. It speaks Ethernet, ARP, DHCP, ICMP, UDP and a TCP without
retransmission over the socket of a VM's interface."""

import json
import os
import select
import socket
import struct
import subprocess

from conftest import BUILD

PROGRAM = os.path.join(BUILD, "cairn-slirp")
HEADER = bytes(12)
MAC = bytes.fromhex("525400123456")
ALL = b"\xff" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86dd
ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TUN_F_CSUM, TUN_F_TSO4 = 1, 2  # offloads that may be left to a guest


def ip(text):
    return socket.inet_aton(text)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ethernet(kind, payload, to=ALL, source=MAC):
    return to + source + struct.pack("!H", kind) + payload


def ipv4(protocol, source, to, payload, ident=0, fragment=0, ttl=64):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, fragment, ttl, protocol, 0, ip(source), ip(to))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_checksum(protocol, source, to, segment, at):
    pseudo = ip(source) + ip(to) + struct.pack("!BBH", 0, protocol, len(segment))
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment)) + segment[at + 2:]


def unfinished(frame, segment=0, start=34, offset=16, kind=1):
    """Return a packet with its checksum, and its segmentation into this many bytes, left to the other side. TCP,
    unless the caller gives the checksum's place."""
    return struct.pack("<BBHHHHH", 1, kind if segment else 0, 54 if segment else 0, segment, start, offset, 0) + frame


def without_sum(frame, at=50):
    """Return the same frame with the pseudo-header's sum in place of the checksum."""
    pseudo = frame[26:34] + struct.pack("!BBH", 0, frame[23], len(frame) - 34)
    return frame[:at] + struct.pack("!H", ~checksum(pseudo) & 0xffff) + frame[at + 2:]


def udp(source, sport, to, dport, payload):
    return with_checksum(UDP, source, to, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, 6)


def tcp(source, sport, to, dport, seq, ack, flags, payload=b"", window=65535, options=b""):
    offset = (20 + len(options)) // 4 << 4
    return with_checksum(TCP, source, to, struct.pack("!HHIIBBHHH", sport, dport, seq & 0xffffffff, ack & 0xffffffff,
                                                      offset, flags, window, 0, 0) + options + payload, 16)


class Packet:
    """The content of an IPv4 frame; checksums have to be right."""

    def __init__(self, frame):
        p = frame[14:]
        self.frame = frame
        size = (p[0] & 15) * 4
        total = struct.unpack("!H", p[2:4])[0]
        assert checksum(p[:size]) == 0
        self.protocol, self.source, self.to = p[9], socket.inet_ntoa(p[12:16]), socket.inet_ntoa(p[16:20])
        self.body = p[size:total]
        if self.protocol in (TCP, UDP):
            pseudo = p[12:20] + struct.pack("!BBH", 0, self.protocol, len(self.body))
            assert checksum(pseudo + self.body) == 0
            self.sport, self.dport = struct.unpack("!HH", self.body[:4])
        if self.protocol == UDP:
            self.data = self.body[8:]
        if self.protocol == TCP:
            self.seq, self.ack, offset, self.flags, self.window = struct.unpack("!IIBBH", self.body[4:16])
            self.data = self.body[(offset >> 4) * 4:]


class Connection:
    """A TCP connection of a Guest, opened by either side."""

    def __init__(self, guest, port, peer, peer_port):
        self.guest, self.port, self.peer, self.peer_port = guest, port, peer, peer_port
        self.seq, self.ack = 1000, 0
        self.received = b""
        self.ended = self.reset = False

    def segment(self, flags, data=b""):
        self.guest.ip(TCP, self.peer, tcp(self.guest.address, self.port, self.peer, self.peer_port, self.seq, self.ack,
                                          flags, data))
        self.seq += len(data) + bool(flags & (SYN | FIN))

    def take(self, p):
        if p.flags & RST:
            self.reset = True
        elif p.flags & SYN:
            self.ack = p.seq + 1
            self.segment(ACK if p.flags & ACK else SYN | ACK)
        elif p.seq == self.ack & 0xffffffff and (p.data or p.flags & FIN):
            self.received += p.data
            self.ack += len(p.data) + (p.flags & FIN)
            self.ended = bool(p.flags & FIN)
            self.segment(ACK)

    def read(self, n):
        self.guest.until(lambda: len(self.received) >= n or self.ended or self.reset)
        data, self.received = self.received[:n], self.received[n:]
        return data

    def send(self, data):
        for i in range(0, len(data), 1460):
            self.segment(ACK | PSH, data[i:i + 1460])

    def close(self):
        self.segment(FIN | ACK)


class Guest:
    """cairn-slirp and its guest. forwards: (protocol, socket, address, port)."""

    def __init__(self, *forwards, args=(), control=False, before=(), address="10.0.2.15", stderr=None):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address, self.gateway = address, address.rpartition(".")[0] + ".2"
        self.connections, self.seen, self.answers_arp, self.took, self.header = {}, [], True, 0, HEADER
        fds, command = [theirs.fileno()], [*before, PROGRAM, "--frames", str(theirs.fileno()), *args]
        for protocol, s, guest, port in forwards:
            command += ["--forward", f"{protocol}:{s.fileno()}:{guest}:{port}"]
            fds.append(s.fileno())
        if control:
            far = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            far.bind("")  # the kernel chooses a name
            far.listen()
            self.where, self.control = far.getsockname(), None
            self.daemon()
            command += ["--control", str(far.fileno())]
            fds.append(far.fileno())
        self.process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, stderr=stderr)
        theirs.close()
        if control:
            far.close()

    def daemon(self):
        """Connect another daemon; the last one is gone."""
        if self.control:
            self.control.close()
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(30)
        self.control.connect(self.where)

    def told(self):
        return json.loads(self.control.recv(99))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.wait()
        if hasattr(self, "control"):
            self.control.close()

    def offloads(self, flags):
        """Send the driver's offloads, as a VM does."""
        self.took |= flags
        self.socket.send(struct.pack("<I", flags))

    def finish(self, packet):
        """Complete a packet with a header as a driver does: return the frame with a valid checksum."""
        flags, kind, headers, segment, start, offset, buffers = struct.unpack("<BBHHHHH", packet[:12])
        frame, self.header = packet[12:], packet[:12]
        if flags != 1:
            assert flags in (0, self.took & TUN_F_CSUM and 2) and packet[1:12] == HEADER[1:]
            return frame
        assert self.took & TUN_F_CSUM and (start, offset, buffers) == (34, 16, 0) and frame == without_sum(frame)
        assert (kind, headers) == (1, 54) if len(frame) > 54 + segment > 54 else (kind, headers, segment) == (0, 0, 0)
        return frame[:50] + struct.pack("!H", checksum(frame[34:])) + frame[52:]

    def frame(self, frame):
        self.socket.send(HEADER + frame)

    def ip(self, protocol, to, body):
        self.frame(ethernet(IPV4, ipv4(protocol, self.address, to, body)))

    def arp(self, op, to, address, mac=bytes(6)):
        self.frame(ethernet(ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, op) + MAC + ip(self.address) + mac + ip(address),
                            to))

    def udp(self, sport, to, dport, data):
        self.ip(UDP, to, udp(self.address, sport, to, dport, data))

    def receive(self):
        """Return the next frame, after handling those of connections and ARP."""
        packet = self.socket.recv(70000)
        assert packet, "cairn-slirp has ended"
        frame = self.finish(packet)
        kind = struct.unpack("!H", frame[12:14])[0]
        if kind == ARP and frame[20:22] == b"\0\1" and frame[38:42] == ip(self.address) and self.answers_arp:
            self.arp(2, frame[6:12], socket.inet_ntoa(frame[28:32]), frame[22:28])
        p = Packet(frame) if kind == IPV4 else None
        if p and p.protocol == TCP:
            key = (p.dport, p.source, p.sport)
            if key not in self.connections and p.flags == SYN:
                self.connections[key] = Connection(self, *key)
                self.seen.append(self.connections[key])
            if key in self.connections:
                self.connections[key].take(p)
        return frame, p

    def until(self, true):
        while not true():
            self.receive()

    def wait(self, fits):
        """Return the first IPv4 packet that matches."""
        while True:
            _, p = self.receive()
            if p and fits(p):
                return p

    def silent(self):
        """Check that everything sent so far was handled without an answer: pings are answered in order."""
        self.ping(self.gateway, b"silent")
        got = []
        while True:
            _, p = self.receive()
            if p and p.protocol == ICMP and p.body.endswith(b"silent"):
                return [q for q in got if q]
            got.append(p)

    def ping(self, to, data=b"ping", ident=7):
        body = struct.pack("!BBHHH", 8, 0, 0, ident, 1) + data
        self.ip(ICMP, to, body[:2] + struct.pack("!H", checksum(body)) + body[4:])

    def dhcp(self, kind, *options):
        body = struct.pack("!BBBBIHH4s4s4s4s16s64s128s", 1, 1, 6, 0, 0x1234, 0, 0, *[bytes(4)] * 4,
                           MAC + bytes(10), b"", b"") + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + b"".join(options)
        self.frame(ethernet(IPV4, ipv4(UDP, "0.0.0.0", "255.255.255.255",
                                       udp("0.0.0.0", 68, "255.255.255.255", 67, body + b"\xff"))))
        p = self.wait(lambda p: p.protocol == UDP and p.dport == 68)
        options, at = {}, 240
        while p.data[at] != 255:
            if p.data[at]:
                options[p.data[at]] = p.data[at + 2:at + 2 + p.data[at + 1]]
            at += 1 if not p.data[at] else 2 + p.data[at + 1]
        return socket.inet_ntoa(p.data[16:20]), options

    def connect(self, to, port, sport=40000):
        c = self.connections[(sport, to, port)] = Connection(self, sport, to, port)
        c.segment(SYN)
        self.until(lambda: c.ack or c.reset)
        return c

    def accepted(self):
        """Return the next connection that was opened to the guest."""
        self.until(lambda: self.seen)
        return self.seen.pop(0)


def listener(address="127.0.0.1"):
    s = socket.socket()
    s.bind((address, 0))
    s.listen(16)
    return s


def datagrams(address="127.0.0.1"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, 0))
    return s


def readable(s):
    return bool(select.select([s], [], [], 0)[0])
