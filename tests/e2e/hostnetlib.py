"""A host with networks of cairn-net, in network namespaces of a test's own: host, guests, and a host outside."""

import ctypes
import json
import os
import select
import socket
import struct
import subprocess

import pytest

from conftest import BUILD, until
from netlib import ipv6_add

PROGRAM = os.path.join(BUILD, "cairn-net")
UUID = "3f2a9c1b-7d2e-4c55-9f10-0123456789ab"
LIBC = ctypes.CDLL(None, use_errno=True)
NAMESERVER_PORT = 53

DHCP_SCRIPT = """#!/bin/sh
# udhcpc's: take the address that it was offered, and print what came with it.
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route replace default via "$router"
echo "$ip|$router|$dns|$domain|$lease"
"""


def as_root(make, tmp_path):
    """The body of a fixture: what `make` makes needs network namespaces, and has close()."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    made = make(tmp_path)
    yield made
    made.close()


def legacy_tables_work():
    """Return whether this kernel has iptables-legacy's tables."""
    return subprocess.run(["unshare", "-n", "iptables-legacy", "-S"], capture_output=True).returncode == 0


class Namespace:
    """A network namespace; it ends with the process that holds it."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 3000"],
                                       stdout=subprocess.PIPE)
        assert self.holder.stdout.readline()
        self.set_path(f"/proc/{self.holder.pid}/ns/net")

    def set_path(self, path):
        self.path, self.enter = path, ["nsenter", f"--net={path}"]

    def run(self, *command, check=True, **more):
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, check=check, **more)

    def ip(self, *args):
        r = self.run("ip", "-j", *args)
        return json.loads(r.stdout or "[]")

    def sysctl(self, name, value=None):
        path = "/proc/sys/net/" + name.replace(".", "/")
        if value is not None:
            self.run("sh", "-c", f"echo {value} >{path}")
        return self.run("cat", path).stdout.strip()

    def inside(self, make):
        """Enter the namespace: a socket stays in the namespace in which it was created."""
        with open("/proc/self/ns/net") as ours, open(self.path) as theirs:
            assert LIBC.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
            try:
                return make()
            finally:
                assert LIBC.setns(ours.fileno(), 0) == 0

    def open(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        s = self.inside(lambda: socket.socket(family, kind))
        s.settimeout(30)
        return s

    def listen(self, address, family=socket.AF_INET):
        s = self.open(family)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, 0))
        s.listen()
        return s

    def connect(self, address, family=socket.AF_INET):
        """Return a connected socket, or None if the other side or a filter refuses."""
        s = self.open(family)
        try:
            s.connect(address[:2])
            return s
        except (ConnectionRefusedError, OSError) as e:
            s.close()
            if isinstance(e, TimeoutError):
                raise
            return None

    def pings(self, address, count=1, wait=5):
        return self.run("busybox", "ping", "-c", str(count), "-W", str(wait), address, check=False).returncode == 0

    def resolve(self, server, name, kind=1):
        """Ask a name server. Return its addresses; None: there is no such name."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
        question = struct.pack(">HHHHHH", 77, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
        with self.open(family, socket.SOCK_DGRAM) as s:
            answer = b""
            s.connect((server, NAMESERVER_PORT))
            while not answer:
                s.send(question)
                if select.select([s], [], [], 5)[0]:
                    answer = s.recv(4096)
        if answer[3] & 15:
            return None
        at, found = len(question), []
        for _ in range(struct.unpack_from(">H", answer, 6)[0]):
            at = answer.index(b"\0", at) + 1 if answer[at] < 0xc0 else at + 2
            got, _, _, size = struct.unpack_from(">HHIH", answer, at)
            if got == kind:
                found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6,
                                              answer[at + 10:at + 10 + size]))
            at += 10 + size
        return found

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


def veth(a, name_a, b, name_b, *more):
    """Join two namespaces."""
    a.run("ip", "link", "add", name_a, *more, "type", "veth", "peer", "name", name_b, "netns", str(b.holder.pid))
    a.run("ip", "link", "set", name_a, "up")
    b.run("ip", "link", "set", name_b, "up")


def link(host, name, number):
    """Add a further link of the host, to a network 10.NUMBER.0.0/24 and fd00:NUMBER::/64 with another host (1), which
    also has 203.0.113.7."""
    other = host.add(Namespace())
    veth(host, name, other, "eth0")
    for where, address in (host, 2), (other, 1):
        where.run("ip", "addr", "add", f"10.{number}.0.{address}/24", "dev", "eth0" if where is other else name)
        ipv6_add(where, f"fd00:{number}::{address}/64", "eth0" if where is other else name)
    other.run("ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
    return other


def vpn(host, name, networks, *more):
    """Add a link whose other end has 203.0.113.7, with routes to these networks. more: arguments of each."""
    other = link(host, name, 8)
    for to in networks:
        host.run("ip", "route", "add", to, "via", "10.8.0.1", "dev", name, *more)
    return other


class Guest(Namespace):
    """The end of a veth in a namespace of its own stands for a VM; the other end is a port of the bridge."""

    def __init__(self, host, number, bridge="virbr0"):
        super().__init__()
        self.host, self.tap = host, f"vnet{number}"
        self.mac = f"52:54:00:00:00:{number:02x}"
        self.sysctl("ipv6.conf.default.accept_dad", 0)  # both would take a second
        self.sysctl("ipv6.conf.default.router_solicitation_delay", 0)
        veth(host, self.tap, self, "eth0")
        self.run("ip", "link", "set", "eth0", "address", self.mac)
        host.run("ip", "link", "set", self.tap, "master", bridge)

    def dhcp(self, name, *options):
        """Take an address by DHCP. Return it with router, name servers, domain and seconds. options: of udhcpc."""
        script = os.path.join(self.host.tmp, "dhcp.sh")
        with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755), "w") as f:
            f.write(DHCP_SCRIPT)
        r = self.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-x", f"hostname:{name}",
                     "-s", script, *options)
        return r.stdout.strip().splitlines()[-1].split("|")

    def dhcp6(self, name="guest"):
        """Ask for an IPv6 address, with rapid commit (RFC 8415), and a name (RFC 4704). Return the answer."""
        def option(code, content):
            return struct.pack(">HH", code, len(content)) + content
        link = self.ip("link", "show", "eth0")[0]["ifindex"]
        duid = b"\0\3\0\1" + bytes.fromhex(self.mac.replace(":", ""))
        solicit = (b"\1abc" + option(1, duid) + option(3, b"\0\0\0\7" + bytes(8)) + option(8, b"\0\0") + option(14, b"")
                   + option(39, b"\1" + bytes([len(name)]) + name.encode()))
        with self.open(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::", 546))
            while True:
                try:
                    s.sendto(solicit, ("ff02::1:2", 547, 0, link))
                except OSError:  # its link-local address is not there yet
                    pass
                if select.select([s], [], [], 0.5)[0]:
                    return s.recv(2000)

    def addresses(self, family="inet6"):
        return [a["local"] for i in self.ip("addr", "show", "dev", "eth0") for a in i["addr_info"]
                if a["family"] == family and a["scope"] == "global" and not a.get("tentative")]


class Host(Namespace):
    """A host with an uplink to `outside`. Its networks' folders are below tmp."""

    def __init__(self, tmp):
        super().__init__()
        self.tmp = str(tmp)
        self.others = []
        self.outside = self.add(Namespace())
        veth(self, "eth0", self.outside, "eth0")
        for where, number in (self, 2), (self.outside, 1):
            where.run("ip", "addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
            ipv6_add(where, f"fd00:9::{number}/64", "eth0")
        self.run("ip", "route", "add", "default", "via", "10.9.0.1")
        self.run("ip", "-6", "route", "add", "default", "via", "fd00:9::1")

    def add(self, namespace):
        self.others.append(namespace)
        return namespace

    def guest(self, number, bridge="virbr0"):
        return self.add(Guest(self, number, bridge))

    def folder(self, network):
        path = os.path.join(self.tmp, network["uuid"])
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def command(self, verb, network=None, **more):
        """Return the text of a request."""
        request = {"verb": verb, **more}
        if network is not None:
            request |= {"network": network, "folder": self.folder(network)}
        return json.dumps(request)

    def call(self, verb, network=None, env=None, before=(), **more):
        """Run cairn-net. Return its answer: {"return": …} or {"error": …}."""
        settings = [f"{k}={v}" for k, v in (env or {}).items()]
        r = self.run("env", *settings, *before, PROGRAM, input=self.command(verb, network, **more), check=False)
        assert not r.stderr, r.stderr
        answer = json.loads(r.stdout)
        assert r.returncode == ("error" in answer), answer
        return answer

    def do(self, verb, network=None, **more):
        answer = self.call(verb, network, **more)
        assert "return" in answer, answer
        return answer["return"]

    def state(self):
        """Return everything that a network may change."""
        text = self.run("sh", "-c", "nft -s list ruleset; echo =; ip -j -d link; echo =; ip route; ip -6 route; echo =; "
                        "cd /proc/sys/net && grep -s . ipv4/conf/*/forwarding ipv4/ip_forward ipv6/conf/*/forwarding "
                        "ipv6/conf/*/force_forwarding ipv6/conf/*/accept_ra", check=False).stdout
        rules, links, routes, conf = text.split("=\n")
        links = [{k: v for k, v in link.items() if k not in ("ifindex", "linkinfo", "operstate")} for link in json.loads(links)]
        for link in links:  # the kernel follows the carrier of a new link some time later
            link["flags"] = sorted(set(link["flags"]) & {"UP", "BROADCAST", "MULTICAST", "PROMISC", "ALLMULTI"})
        return {"rules": rules, "links": links, "routes": routes.splitlines(), "conf": conf.splitlines(), "dnsmasq": self.dnsmasq()}

    def dnsmasq(self):
        """Return the processes that have files of this host's networks. Mounts name places in a file system, which
        need not be the root's."""
        return [p for p in processes("dnsmasq") if os.path.basename(self.tmp) in mounts(p)]

    def names(self):
        """Return the processes that answer DNS for networks with names in their egress rules."""
        served = {netns(p) for p in self.dnsmasq()}
        return [p for p in processes("cairn-dns") if netns(p) in served]

    def close(self):
        for pid in [*self.names(), *self.dnsmasq()]:
            os.kill(pid, 9)
        for n in [*reversed(self.others), super()]:
            n.close()


def processes(name):
    found = []
    for p in os.listdir("/proc"):
        try:
            if p.isdigit() and open(f"/proc/{p}/comm").read() == name + "\n":
                found.append(int(p))
        except OSError:
            pass
    return found


def mounts(pid):
    try:
        with open(f"/proc/{pid}/mountinfo") as f:
            return f.read()
    except OSError:
        return ""


def netns(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def network(mode="nat", **more):
    return {"name": "default", "uuid": UUID, "mode": mode, "bridge": "virbr0", "domain": "vms",
            "ipv4": {"address": "192.168.122.1", "prefix": 24,
                     "dhcp": {"ranges": [{"start": "192.168.122.2", "end": "192.168.122.254"}]}}, **more}


IPV6 = {"address": "fd00:7::1", "prefix": 64}

__all__ = ["Guest", "Host", "IPV6", "Namespace", "PROGRAM", "UUID", "link", "netns", "network", "processes", "until", "veth",
           "vpn"]
