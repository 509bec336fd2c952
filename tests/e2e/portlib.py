"""Frames at a guest's interface, and the ports of guests and of clones on a network (hostnetlib.py)."""

import os
import select
import socket

from conftest import library

KILLER = library("kill_call")
MODES = ["nat", "route", "isolated", "open"]


def talk(server, client, address, family=socket.AF_INET):
    """Connect to a server; return the address from which the connection comes there, or None."""
    with server.listen(address, family) as s:
        c = client.connect((address, s.getsockname()[1]), family)
        if not c:
            return None
        with c, s.accept()[0] as peer:
            c.sendall(b"question")
            assert peer.recv(100) == b"question"
            peer.sendall(b"answer")
            assert c.recv(100) == b"answer"
            return peer.getpeername()[0]


def frame(destination, source, kind, body):
    return bytes.fromhex((destination + source).replace(":", "")) + kind.to_bytes(2, "big") + body


def arp(mac, address, target):
    """An answer that claims an address."""
    return frame("ff" * 6, mac, 0x806, bytes.fromhex("0001080006040002" + mac.replace(":", "")) + socket.inet_aton(address)
                 + bytes(6) + socket.inet_aton(target))


def datagram(source, to, sport, dport, body=b"x"):
    """An IPv4 packet with UDP, without the UDP checksum."""
    head = bytes.fromhex("4500") + (28 + len(body)).to_bytes(2, "big") + bytes.fromhex("00000000") + b"\x40\x11\0\0"
    head += socket.inet_aton(source) + socket.inet_aton(to)
    udp = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + (8 + len(body)).to_bytes(2, "big") + b"\0\0"
    return header_sum(head) + udp + body


def checksum(data):
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    total = (total & 0xffff) + (total >> 16)
    return (~(total + (total >> 16)) & 0xffff).to_bytes(2, "big")


def header_sum(head):
    """Return an IPv4 header, whose checksum is 0, with its checksum."""
    return head[:10] + checksum(head) + head[12:]


def datagram6(source, to, sport, dport, body=b"secret"):
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    length = (8 + len(body)).to_bytes(2, "big")
    udp = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + length + b"\0\0" + body
    udp = udp[:6] + checksum(addresses + b"\0\0" + length + b"\0\0\0\x11" + udp) + udp[8:]
    return bytes.fromhex("60000000") + length + b"\x11\x40" + addresses + udp


class Wire:
    """Raw frames at a guest's interface."""

    def __init__(self, guest):
        self.s = guest.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self.s.bind(("eth0", 3))
        self.s.settimeout(100)

    def send(self, f):
        self.s.send(f.ljust(60, b"\0"))

    def until_mark(self, mark):
        """Return the frames that came before the one that contains the mark."""
        got = []
        while True:
            f = self.s.recv(2000)
            if mark in f:
                return got
            got.append(f)


def release(source, address, mac):
    """A packet that gives back a lease."""
    body = (bytes.fromhex("0101060000000001") + bytes(4) + socket.inet_aton(address) + bytes(12) + bytes.fromhex(mac.replace(":", ""))
            + bytes(202) + bytes.fromhex("63825363" "350107" "3604") + socket.inet_aton("192.168.122.254") + b"\xff")
    return datagram(source, "255.255.255.255", 68, 67, body)


def port(guest, **more):
    return {"tap": guest.tap, "mac": guest.mac, **more}


STRICT = {"filter": "clean-traffic"}


def fork_of(host, source, number):
    """A guest with the MAC and the IPv4 address of another one."""
    g = host.guest(number)
    g.own, g.mac = f"52:54:00:00:00:{0xb0 + number:02x}", source.mac
    g.run("ip", "link", "set", "eth0", "address", g.mac)
    return g


def fork_port(g, **more):
    return {"tap": g.tap, "mac": g.own, "fork": {"mac": g.mac}, **more}


def address_give(g, address):
    g.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    g.run("ip", "route", "add", "default", "via", "192.168.122.1")


class Wire4(Wire):
    """Raw frames with complete checksums."""

    def ask(self, packet, fits):
        while True:
            self.send(packet)
            if select.select([self.s], [], [], 0.5)[0]:
                f = self.s.recv(2000)
                if fits(f):
                    return f


def dhcp(source, to, mac, kind, ciaddr="0.0.0.0", options=b""):
    body = (bytes.fromhex("0101060012345678") + bytes(4) + socket.inet_aton(ciaddr) + bytes(12) + bytes.fromhex(mac.replace(":", ""))
            + bytes(202) + bytes.fromhex("63825363" "3501") + bytes([kind]) + options + b"\xff")
    packet = datagram(source, to, 68, 67, body)
    sum_ = checksum(packet[12:20] + b"\0\x11" + packet[24:26] + packet[20:26] + b"\0\0" + body + bytes(len(body) % 2))
    return frame("ff" * 6, mac, 0x800, packet[:26] + sum_ + packet[28:])


def is_answer(f, kind):
    return f[12:14] == b"\x08\0" and f[36:38] == b"\0\x44" and f[46:50] == b"\x12\x34\x56\x78" and f[284] == kind


def leases_forget(host, n):
    """Restart the network without leases, as if they had ended."""
    host.do("down", n)
    with open(os.path.join(host.folder(n), "dnsmasq/state/leases"), "w"):
        pass
    host.do("up", n)
    for g in host.others[1:]:
        host.run("ip", "link", "set", g.tap, "master", "virbr0")
