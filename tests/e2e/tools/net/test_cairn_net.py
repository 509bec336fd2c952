"""cairn-net by itself: a network with guests and a host outside, in network namespaces (docs/networks.md)."""

import contextlib
import copy
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from conftest import until
from guestlib import BUILD
from hostnetlib import IPV6, PROGRAM, UUID, Host, as_root, netns, network, veth
from netlib import ipv6_add

MODES = ["nat", "route", "isolated", "open"]
PRELOAD = os.path.abspath(os.path.join(BUILD, "helpers/no_nftables.so"))


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


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


# ---- what is made and removed ----

@pytest.mark.parametrize("mode", MODES)
def test_host_is_the_same_after_up_and_down(host, mode):
    before = host.state()
    n = network(mode, ipv6=IPV6)
    up = host.do("up", n)
    assert up["made"] and up["bridge"] == "virbr0" and up["service"] == ["192.168.122.254", "fd00:7::53"] and up["notes"] == []
    during = host.state()
    assert during["dnsmasq"] == [up["pid"]] and during["rules"] != before["rules"]
    assert host.do("check", n) == {"active": True, "complete": True, "missing": [], "ports": False, "pid": up["pid"]}
    removed = host.do("down", n)["removed"]
    assert f"dnsmasq {up['pid']}" in removed and "virbr0" in removed
    assert host.state() == before
    assert host.do("down", n)["removed"] == [] and host.do("check", n)["active"] is False


def test_only_own_links_forward(host):
    """The bridge and the link of the default route, but no other."""
    other = host.add(type(host.outside)())
    veth(host, "eth1", other, "eth0")
    host.do("up", network(ipv6=IPV6))
    assert host.sysctl("ipv4.conf.virbr0.forwarding") == host.sysctl("ipv4.conf.eth0.forwarding") == "1"
    assert host.sysctl("ipv4.conf.eth1.forwarding") == host.sysctl("ipv4.ip_forward") == "0"


def test_last_network_switches_forwarding_off(host):
    one = network()
    two = network(name="two", uuid=UUID.replace("3f", "4f"), bridge="virbr1",
                  ipv4={"address": "192.168.123.1", "prefix": 24})
    host.do("up", one)
    host.do("up", two)
    host.do("down", one)
    assert host.sysctl("ipv4.conf.eth0.forwarding") == "1"
    host.do("down", two)
    assert host.sysctl("ipv4.conf.eth0.forwarding") == "0"


def test_forwarding_that_was_on_stays_on(host):
    host.sysctl("ipv4.ip_forward", 1)
    before = host.state()
    n = network()
    host.do("up", n)
    host.do("down", n)
    assert host.state() == before and host.sysctl("ipv4.conf.eth0.forwarding") == "1"


def test_dnsmasq_is_confined(host):
    """User, capabilities, namespaces; and it outlives the one who started it."""
    protected = ["choom", "-n", "-500", "--"]  # as cairnd.service has it; a container may lack the right
    up = host.do("up", network(), before=[] if subprocess.run([*protected, "true"], capture_output=True).returncode else protected)
    with open(f"/proc/{up['pid']}/oom_score_adj") as f:
        assert f.read() == "0\n"
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{up['pid']}/status").read().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(up["uid"])] * 4 and up["uid"] != 0
    assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
    assert status["CapPrm"] == status["CapEff"] == status["CapAmb"] == "0000000000003400"
    assert netns(up["pid"]) not in (netns("self"), netns(host.holder.pid))
    limits = {line[:26].strip(): line[26:].split()[:2] for line in open(f"/proc/{up['pid']}/limits")}
    assert limits["Max file size"] == [str(128 << 20)] * 2 and limits["Max core file size"] == ["0", "0"]
    enter = ["nsenter", "-t", str(up["pid"]), "-m", "-n"]
    assert subprocess.run([*enter, "touch", "/var/tmp/x"], capture_output=True).returncode
    assert not subprocess.run([*enter, "touch", "/tmp/state/x"], capture_output=True).returncode
    links = subprocess.run([*enter, "ip", "-j", "link"], capture_output=True, text=True).stdout
    assert [i["ifname"] for i in json.loads(links)] == ["lo", "svc0"]


# ---- guests ----

def test_guests_of_a_nat_network(host):
    """DHCP, names of one another, the way outside by NAT, and none in."""
    n = network(dns={"hosts": [{"address": "192.168.122.1", "names": ["gate"]}]})
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:02", "name": "two", "address": "192.168.122.77"}]
    host.do("up", n)
    one, two = host.guest(1), host.guest(2)
    address, router, dns, domain, lease = one.dhcp("one")
    assert router == "192.168.122.1" and dns == "192.168.122.254" and domain == "vms" and lease == "3600"
    assert two.dhcp("anything")[0] == "192.168.122.77"
    for server in "192.168.122.254", "192.168.122.1":
        assert one.resolve(server, "two") == one.resolve(server, "two.vms") == ["192.168.122.77"]
        assert two.resolve(server, "one.vms") == [address]
        assert two.resolve(server, "gate") == ["192.168.122.1"]
        assert host.resolve(server, "one") == [address]
    proxy = host.guest(3)  # Windows guests would ask it for the way to all web sites
    assert proxy.dhcp("wpad")[0] and not one.resolve("192.168.122.254", "wpad")
    assert one.pings("192.168.122.77") and one.pings("10.9.0.1")
    assert talk(host.outside, one, "10.9.0.1") == "10.9.0.2"  # the host's address
    assert talk(two, one, "192.168.122.77") == address
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    assert talk(one, host.outside, address) is None
    assert talk(one, host, address) == "192.168.122.1"
    leases = {i["address"]: i for i in host.do("leases", n)["leases"]}
    assert {address, "192.168.122.77"} < set(leases) and len(leases) == 3 and "wpad" not in [i["name"] for i in leases.values()]
    mine = leases[address]
    assert (mine["mac"], mine["name"], mine["prefix"], mine["family"]) == (one.mac, "one", 24, "ipv4") and mine["expires"] > 0


def test_guests_of_a_routed_network(host):
    """The address stays, and connections come in."""
    host.do("up", network("route"))
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    guest = host.guest(1)
    address = guest.dhcp("one")[0]
    assert talk(host.outside, guest, "10.9.0.1") == address
    assert talk(guest, host.outside, address) == "10.9.0.1"


def test_guests_of_an_isolated_network(host):
    """The guests reach one another, the host and the name server, and nothing else."""
    host.sysctl("ipv4.ip_forward", 1)
    host.do("up", network("isolated"))
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    one, two = host.guest(1), host.guest(2)
    address, router = one.dhcp("one")[:2]
    assert router == ""
    assert talk(one, two, address) if two.dhcp("two") else False
    assert two.resolve("192.168.122.254", "one") == [address]
    one.run("ip", "route", "add", "default", "via", "192.168.122.1")
    assert talk(host.outside, one, "10.9.0.1") is None
    assert talk(one, host.outside, address) is None


def test_networks_are_separate(host):
    """A guest of one NAT network does not reach one of another."""
    n = network()
    m = network(name="two", uuid=UUID.replace("3f", "4f"), bridge="virbr1", ipv4={"address": "192.168.123.1", "prefix": 24})
    host.do("up", n)
    host.do("up", m)
    one, two = host.guest(1), host.guest(2, "virbr1")
    one.dhcp("one")
    two.run("ip", "addr", "add", "192.168.123.5/24", "dev", "eth0")
    two.run("ip", "route", "add", "default", "via", "192.168.123.1")
    assert talk(two, one, "192.168.123.5") is None


@pytest.mark.parametrize("nat", [False, True])
def test_guests_have_ipv6(host, nat):
    """Addresses and the way outside by router advertisements; names over IPv6."""
    host.do("up", network(ipv6=IPV6 | {"nat": nat}))
    host.outside.run("ip", "-6", "route", "add", "fd00:7::/64", "via", "fd00:9::2")
    guest = host.guest(1)
    until(guest.addresses)
    until(lambda: guest.ip("-6", "route", "show", "default"))
    source = talk(host.outside, guest, "fd00:9::1", socket.AF_INET6)
    assert source == "fd00:9::2" if nat else source in guest.addresses()
    guest.dhcp("one")
    assert guest.resolve("fd00:7::53", "one") == guest.resolve("fd00:7::1", "one") == guest.addresses("inet")


def denied(host):
    """How many packets the network's rules have denied."""
    r = host.run("nft", "-j", "list", "counters", "table", "inet", "cairn_" + UUID.replace("-", ""))
    return sum(i["counter"]["packets"] for i in json.loads(r.stdout)["nftables"] if "counter" in i)


def receives(host, server, client, address):
    """Return whether a datagram arrives, or is denied."""
    was = denied(host)
    with server.open(kind=socket.SOCK_DGRAM) as s, client.open(kind=socket.SOCK_DGRAM) as c:
        s.bind((address, 0))
        c.sendto(b"x", s.getsockname())
        until(lambda: select.select([s], [], [], 0)[0] or denied(host) > was)
        return bool(select.select([s], [], [], 0)[0])


def test_egress_rules_of_a_network(host):
    """Connections that no rule allows are reset and counted: addresses outside, the host's own, IPv6. DHCP,
    names of the guests, the guests themselves and connections from the host pass."""
    for last in (9, 10):
        host.outside.run("ip", "addr", "add", f"10.9.0.{last}/24", "dev", "eth0")
    before = host.state()
    n = network(ipv6=IPV6 | {"nat": True}, egress="deny;deny tcp 7 10.9.0.9;allow any - 10.9.0.9;allow icmp - 10.9.0.10;allow tcp 1-65535 10.9.0.2")
    host.do("up", n)
    assert host.do("check", n)["complete"]
    one, two = host.guest(1), host.guest(2)
    address, other = one.dhcp("one")[0], two.dhcp("two")[0]
    until(one.addresses)
    until(lambda: one.ip("-6", "route", "show", "default"))
    assert one.resolve("192.168.122.254", "two") == one.resolve("192.168.122.1", "two") == [other]
    assert talk(two, one, other) == address and talk(one, host, address) == "192.168.122.1"
    was = denied(host)
    assert talk(host.outside, one, "10.9.0.9") == "10.9.0.2" and receives(host, host.outside, one, "10.9.0.9") and one.pings("10.9.0.10")
    assert talk(host, one, "10.9.0.2") == address and one.pings("192.168.122.1")  # a rule has exactly this address
    assert denied(host) == was
    for to in ("10.9.0.1", "10.9.0.10", "192.168.122.1"):
        assert talk(host if to.startswith("192") else host.outside, one, to) is None
        assert not receives(host, host if to.startswith("192") else host.outside, one, to)
    assert not one.pings("10.9.0.1", wait=1)
    assert one.connect(("10.9.0.9", 7)) is None and one.connect(("169.254.169.254", 80)) is None
    for to, where in (("fd00:9::1", host.outside), ("fd00:7::1", host), ("fd00:9::2", host)):
        assert talk(where, one, to, socket.AF_INET6) is None
    assert denied(host) >= was + 12 and host.do("denied", n)["packets"] == denied(host)
    host.do("down", n)
    assert host.state()["rules"] == before["rules"]


def test_egress_rules_end_open_connections(host):
    """`up` with other rules: the guest's next packet is denied."""
    host.do("up", network(egress="deny;allow any - 10.9.0.0/24"))
    one = host.guest(1)
    one.dhcp("one")
    with host.outside.listen("10.9.0.1") as s:
        c = one.connect(s.getsockname())
        with c, s.accept()[0] as peer:
            host.do("up", network(egress="allow;deny any - 10.9.0.0/24"))
            c.sendall(b"secret")
            with pytest.raises(ConnectionError):
                while True:
                    c.recv(1)
            assert not select.select([peer], [], [], 0)[0]


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "gateway"])
def test_guest_makes_no_answers_of_what_it_sends(host, kind):
    """The guest sends itself a datagram with the address of a host outside, or of the gateway, and "answers" to it."""
    host.do("up", network("route", ipv6=IPV6, egress="deny"))
    one = host.guest(1)
    address = one.dhcp("one")[0]
    until(one.addresses)
    until(lambda: one.ip("-6", "route", "show", "default"))
    family = socket.AF_INET if kind == "ipv4" else socket.AF_INET6
    own = address if kind == "ipv4" else one.addresses()[0]
    to, where = {"ipv4": ("10.9.0.1", host.outside), "ipv6": ("fd00:9::1", host.outside), "gateway": ("fd00:7::1", host)}[kind]
    gateway = host.ip("link", "show", "virbr0")[0]["address"]
    was, wire = denied(host), Wire(one)
    with where.open(family, socket.SOCK_DGRAM) as s, one.open(family, socket.SOCK_DGRAM) as c:
        s.bind((to, 0))
        c.bind((own, 0))
        make = datagram if kind == "ipv4" else datagram6
        ip = make(to, own, s.getsockname()[1], c.getsockname()[1])
        wire.send(frame(gateway, one.mac, 0x800 if kind == "ipv4" else 0x86dd, ip))
        until(lambda: denied(host) > was or select.select([c], [], [], 0)[0])
        was = denied(host)
        c.sendto(b"secret", s.getsockname()[:2])
        until(lambda: denied(host) > was or select.select([s], [], [], 0)[0])
        assert not select.select([s], [], [], 0)[0]


def test_ipv6_on_kernels_before_force_forwarding(host):
    """All links forward then, and links that follow router advertisements keep doing so."""
    file = "/proc/sys/net/ipv6/conf/all/force_forwarding"
    hidden = ["unshare", "-m", "sh", "-c", f"[ ! -e {file} ] || mount --bind /dev/null {file}; exec \"$0\""]
    other = host.add(type(host.outside)())
    veth(host, "eth1", other, "eth0")
    host.sysctl("ipv6.conf.eth1.accept_ra", 0)
    until(lambda: "fe80::/64 dev eth1" in host.run("ip", "-6", "route").stdout)  # the kernel follows the carrier some time later
    before = host.state()
    n = network(ipv6=IPV6)
    host.do("up", n, before=hidden)
    assert host.sysctl("ipv6.conf.all.forwarding") == "1"
    assert host.sysctl("ipv6.conf.eth0.accept_ra") == "2" and host.sysctl("ipv6.conf.eth1.accept_ra") == "0"
    assert host.do("up", n, before=hidden)["made"] is False and host.do("check", n, before=hidden)["complete"]
    host.outside.run("ip", "-6", "route", "add", "fd00:7::/64", "via", "fd00:9::2")
    guest = host.guest(1)
    until(guest.addresses)
    until(lambda: guest.ip("-6", "route", "show", "default"))
    assert talk(host.outside, guest, "fd00:9::1", socket.AF_INET6) in guest.addresses()
    assert host.sysctl("ipv4.conf.eth1.forwarding") == "0"
    guest.close()
    host.others.remove(guest)
    until(lambda: guest.tap not in str(host.ip("link")))
    host.do("down", n, before=hidden)
    assert host.state() == before


def test_guests_get_ipv6_by_dhcp(host):
    dhcp = {"ranges": [{"start": "fd00:7::100", "end": "fd00:7::1ff"}]}
    n = network(ipv6=IPV6 | {"dhcp": dhcp})
    host.do("up", n)
    guest = host.guest(1)
    answer = guest.dhcp6()
    until(lambda: host.do("leases", n)["leases"])  # dnsmasq writes the file after its answer
    lease, = host.do("leases", n)["leases"]
    assert answer[0] == 7 and socket.inet_pton(socket.AF_INET6, lease["address"]) in answer  # a reply
    assert lease["family"] == "ipv6" and lease["address"].startswith("fd00:7::1") and lease["prefix"] == 64
    assert lease["mac"] == guest.mac and lease["iaid"] == 7


def test_names_of_guests_by_dhcpv6_alone(host):
    n = network(ipv6=IPV6 | {"dhcp": {"ranges": [{"start": "fd00:7::100", "end": "fd00:7::1ff"}]}})
    del n["ipv4"]
    host.do("up", n)
    one, proxy = host.guest(1), host.guest(2)
    one.dhcp6("one")
    proxy.dhcp6("wpad")  # Windows guests would ask it for the way to all web sites
    assert host.resolve("fd00:7::1", "one", 28)[0].startswith("fd00:7::1") and not host.resolve("fd00:7::1", "wpad", 28)


# ---- other firewalls ----

# As iptables-nft, ufw, firewalld and an administrator leave them: shortened, but with what decides.
DOCKER = """
table ip filter {
  chain DOCKER {
  }
  chain DOCKER-ISOLATION-STAGE-1 {
    counter return
  }
  chain DOCKER-USER {
    counter return
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    counter jump DOCKER-USER
    counter jump DOCKER-ISOLATION-STAGE-1
    oifname "docker0" ct state related,established counter accept
    oifname "docker0" counter jump DOCKER
    iifname "docker0" oifname != "docker0" counter accept
  }
}"""
UFW = """
table ip filter {
  chain ufw-user-forward {
  }
  chain ufw-before-forward {
    ct state related,established counter accept
    ip protocol icmp counter accept
    jump ufw-user-forward
  }
  chain ufw-reject-forward {
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    counter jump ufw-before-forward
    counter jump ufw-reject-forward
  }
}
table ip6 filter {
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
  }
}"""
FIREWALLD = """
table inet firewalld {
  chain filter_FWDI_public {
    meta l4proto { icmp, ipv6-icmp } accept
  }
  chain filter_FORWARD_IN_ZONES {
    iifname "eth0" goto filter_FWDI_public
    goto filter_FWDI_public
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state established,related accept
    ct status dnat accept
    iifname "lo" accept
    jump filter_FORWARD_IN_ZONES
    ct state invalid drop
    reject with icmpx admin-prohibited
  }
}"""
OWN = "table inet filter {\n chain forward { type filter hook forward priority filter; policy drop; }\n}"
FIREWALLS = {"docker": (DOCKER, "ip filter DOCKER-USER"), "ufw": (UFW, "ip filter FORWARD"),
             "firewalld": (FIREWALLD, "inet firewalld filter_FORWARD"), "own": (OWN, "inet filter forward")}


@pytest.mark.parametrize("name", FIREWALLS)
def test_other_firewalls_let_the_network_pass(host, name):
    """A rule is added where the other firewall drops; without it no guest comes through. down removes it."""
    text, chain = FIREWALLS[name]
    host.run("nft", "-f", "-", input=text)
    before = host.state()
    n = network()
    assert host.do("up", n)["notes"] == []
    guest = host.guest(1)
    guest.dhcp("one")
    assert talk(host.outside, guest, "10.9.0.1") == "10.9.0.2"
    host.do("up", n)  # again: the rules are not doubled
    listed = host.run("nft", "-a", "list", "chain", *chain.split()).stdout
    ours = [line for line in listed.splitlines() if UUID in line]
    assert len(ours) == 3
    for line in ours:
        host.run("nft", "delete", "rule", *chain.split(), "handle", line.split()[-1])
    assert host.do("check", n)["missing"] == ["accept"]
    with host.outside.listen("10.9.0.1") as s:
        c = guest.open()
        c.settimeout(0.3)
        assert c.connect_ex(("10.9.0.1", s.getsockname()[1])) != 0
        c.close()
    assert host.do("up", n)["made"] is False
    assert talk(host.outside, guest, "10.9.0.1") == "10.9.0.2"
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    assert talk(guest, host.outside, guest.addresses("inet")[0]) is None
    guest.close()
    host.others.remove(guest)
    until(lambda: guest.tap not in str(host.ip("link")))
    host.do("down", n)
    assert host.state() == before


def test_containers_stay_unreachable(host):
    """The rule in DOCKER-USER is for the way outside alone."""
    host.run("nft", "-f", "-", input=DOCKER)
    host.run("ip", "link", "add", "docker0", "type", "bridge")
    host.run("ip", "link", "set", "docker0", "up")
    host.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
    container = host.guest(9, "docker0")
    container.run("ip", "addr", "add", "172.17.0.2/16", "dev", "eth0")
    container.run("ip", "route", "add", "default", "via", "172.17.0.1")
    host.do("up", network())
    guest = host.guest(1)
    guest.dhcp("one")
    with container.listen("172.17.0.2") as s:
        c = guest.open()
        c.settimeout(0.3)
        assert c.connect_ex(("172.17.0.2", s.getsockname()[1])) != 0
        c.close()
    assert talk(host.outside, guest, "10.9.0.1")


def test_guests_of_a_network_without_addresses_reach_each_other_beside_docker(host):
    """Where br_netfilter is on, Docker's chain also sees what a bridge forwards. group-clone makes such networks."""
    host.run("nft", "-f", "-", input=DOCKER + DOCKER.replace("table ip ", "table ip6 "))
    n = {"name": "bare", "uuid": UUID, "mode": "isolated", "bridge": "virbr0"}
    assert host.do("up", n)["notes"] == []
    assert host.do("check", n)["missing"] == []
    guests = [host.guest(number) for number in (1, 2)]
    for i, g in enumerate(guests):
        g.run("ip", "addr", "add", f"192.0.2.{i + 1}/24", "dev", "eth0")
        ipv6_add(g, f"fd00:5::{i + 1}/64", "eth0")
    assert talk(*guests, "192.0.2.1") == "192.0.2.2"
    assert talk(*guests, "fd00:5::1", socket.AF_INET6) == "fd00:5::2"
    host.do("down", n)
    assert UUID not in host.run("nft", "list", "ruleset").stdout


# ---- killed, mended, changed ----

KILLER = os.path.join(os.path.dirname(PROGRAM), "helpers", "kill_call.so")


def test_down_after_a_kill_at_any_point_of_up(host):
    """SIGKILL before each call that changes something."""
    host.run("nft", "-f", "-", input=DOCKER)
    before = host.state()
    n = network(ipv6=IPV6)
    text = host.command("up", n)
    killed = 0
    for at in range(1, 400):
        r = host.run(PROGRAM, input=text, check=False, env=os.environ | {"LD_PRELOAD": KILLER, "KILL_CALL": str(at)})
        host.do("down", n)
        assert host.state() == before, at
        if r.returncode == 0:
            break
        assert r.returncode == -signal.SIGKILL, r
        killed += 1
    assert killed > 20


def test_operations_wait_for_one_another_and_for_no_plain_user(host):
    n = network()
    # Locks that any user of the host can take.
    with open(f"/proc/{host.holder.pid}/ns/net") as everybodys:
        fcntl.flock(everybodys, fcntl.LOCK_EX)
        assert "return" in host.call("up", n, before=("timeout", "30"))
    with host.inside(lambda: open("/proc/sys/net/ipv4/tcp_fastopen_key")) as roots:
        assert os.fstat(roots.fileno()).st_mode & 0o077 == 0
        fcntl.flock(roots, fcntl.LOCK_EX)
        p = subprocess.Popen([*host.enter, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        p.stdin.write(host.command("down", n).encode())
        p.stdin.close()
        until(lambda: [line for line in open("/proc/locks") if "-> FLOCK" in line and f" {p.pid} " in line])
        assert p.poll() is None and host.do("leases", n) == {"leases": []}  # reading needs no lock
    assert "virbr0" in json.loads(p.stdout.read())["return"]["removed"] and p.wait() == 0
    p.stdout.close()


def test_up_mends_what_is_missing(host):
    n = network()
    pid = host.do("up", n)["pid"]
    guest = host.guest(1)
    address = guest.dhcp("one")[0]
    index = host.ip("link", "show", "virbr0")[0]["ifindex"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: "link" in host.do("check", n)["missing"])
    host.run("nft", "delete", "table", "inet", "cairn_" + UUID.replace("-", ""))
    host.sysctl("ipv4.conf.eth0.forwarding", 0)
    assert host.do("check", n)["missing"] == ["link", "dnsmasq", "rules", "forwarding"]
    again = host.do("up", n)
    assert not again["made"] and again["pid"] != pid
    assert host.do("check", n)["complete"] and host.ip("link", "show", "virbr0")[0]["ifindex"] == index
    assert talk(host.outside, guest, "10.9.0.1") == "10.9.0.2"
    assert guest.resolve("192.168.122.254", "one") == [address]  # the lease is still known


def test_up_mends_one_of_several_networks(host):
    """Beside it are another network's table, and that of another firewall with sets."""
    two = {"name": "two", "uuid": UUID.replace("3f", "4f"), "bridge": "virbr1", "ipv4": {"address": "192.168.123.1", "prefix": 24}}
    networks = [network(), network(**two)]
    host.run("nft", "add table inet other; add set inet other blocked { type ipv4_addr; }")
    for n in networks:
        host.do("up", n)
    for n in networks:
        host.run("ip", "addr", "flush", "dev", n["bridge"])
        assert host.do("check", n)["missing"] == ["address"]
        host.do("up", n)
        assert host.do("check", n)["complete"]
    assert "set blocked" in host.run("nft", "list", "table", "inet", "other").stdout


def test_bridge_that_somebody_deletes_is_made_again(host):
    """Although the host would hear dnsmasq's router advertisements by the veth then."""
    n = network(ipv6=IPV6)
    host.do("up", n)
    link = "cn-" + UUID.replace("-", "")[:12]
    host.run("ip", "link", "del", "virbr0")
    assert not host.ip("-6", "addr", "show", "dev", link) and host.do("check", n)["missing"] == ["bridge"]
    assert host.do("up", n)["made"] and host.do("check", n)["complete"]
    guest = host.guest(1)
    until(guest.addresses)


def test_update_of_hosts_keeps_dnsmasq(host):
    n = network()
    pid = host.do("up", n)["pid"]
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:01", "name": "fixed", "address": "192.168.122.9"}]
    n["dns"] = {"hosts": [{"address": "192.168.122.50", "names": ["printer"]}]}
    assert host.do("update", n) == {"notes": [], "restarted": False}
    guest = host.guest(1)
    until(lambda: guest.dhcp("one")[0] == "192.168.122.9")
    assert guest.resolve("192.168.122.254", "printer") == ["192.168.122.50"]
    del n["ipv4"]["dhcp"]["hosts"], n["dns"]
    host.do("update", n)
    until(lambda: guest.resolve("192.168.122.254", "printer") in (None, []))
    assert host.do("check", n)["pid"] == pid


def test_update_of_ranges_keeps_the_namespace(host):
    n = network()
    n["ipv4"]["dhcp"]["ranges"] = [{"start": "192.168.122.10", "end": "192.168.122.10"}]
    pid = host.do("up", n)["pid"]
    one, two = host.guest(1), host.guest(2)
    assert one.dhcp("one")[0] == "192.168.122.10"
    links, inside = host.ip("link"), netns(pid)
    n["ipv4"]["dhcp"]["ranges"].append({"start": "192.168.122.20", "end": "192.168.122.20"})
    assert host.do("update", n)["restarted"]
    assert two.dhcp("two")[0] == "192.168.122.20"
    new = host.do("check", n)["pid"]
    assert new != pid and netns(new) == inside and [i["ifname"] for i in host.ip("link")] == [i["ifname"] for i in links]
    assert {i["address"] for i in host.do("leases", n)["leases"]} == {"192.168.122.10", "192.168.122.20"}


def test_update_refuses_what_needs_a_new_start(host):
    n = network()
    assert host.call("update", n)["error"]["class"] == "WrongState"
    host.do("up", n)
    other = copy.deepcopy(n)
    other["ipv4"] = {"address": "192.168.122.3", "prefix": 24}
    e = host.call("update", other)["error"]
    assert e["class"] == "WrongState" and "net-destroy" in e["desc"]
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:01", "address": "192.168.122.254"}]
    e = host.call("update", n)["error"]
    assert e["class"] == "AlreadyExists" and "192.168.122.254" in e["desc"]


# ---- bad input and bad hosts ----

def test_overlap_with_a_route_is_refused(host):
    host.run("ip", "route", "add", "192.168.0.0/17", "via", "10.9.0.1")
    before = host.state()
    e = host.call("up", network())["error"]
    assert e == {"class": "Busy", "desc": "network 'default': 192.168.122.0/24 overlaps the host's route to 192.168.0.0/17 by eth0; "
                 "choose another address, for example 192.168.128.1/24"}
    assert host.state() == before
    used = {"used": ["192.168.128.0/24", "192.168.129.128/25"]}
    assert host.do("free", **used) == {"address": "192.168.130.1", "prefix": 24}


def test_link_of_somebody_else_is_left_alone(host):
    host.run("ip", "link", "add", "virbr0", "type", "bridge")
    before = host.state()
    e = host.call("up", network())["error"]
    assert e["class"] == "AlreadyExists" and "ip link delete virbr0" in e["desc"]
    assert host.do("down", network())["removed"] == [] and host.state() == before


def test_existing_bridge(host):
    n = {"name": "lan", "uuid": UUID, "mode": "bridge", "bridge": "br7"}
    e = host.call("up", n)["error"]
    assert e["class"] == "NotFound" and "ip link add br7 type bridge" in e["desc"]
    host.run("ip", "link", "add", "br7", "type", "bridge")
    before = host.state()
    assert host.do("up", n)["made"] is False and host.do("check", n)["complete"]
    host.do("down", n)
    assert host.state() == before


def up_with(host, dnsmasq):
    """Return the error of `up` with a script in the place of dnsmasq, whose user must reach it: its /tmp is another."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        program = os.path.join(folder, "dnsmasq")
        with open(os.open(program, os.O_WRONLY | os.O_CREAT, 0o755), "w") as f:
            f.write(dnsmasq)
        os.chmod(program, 0o755)
        return host.call("up", network(), env={"PATH": f"{folder}:/usr/bin"})["error"]


def test_failed_start_of_dnsmasq_undoes_all(host):
    """The error has dnsmasq's own message."""
    before = host.state()
    e = up_with(host, "#!/bin/sh\necho 'dnsmasq: failed to do it' >&2\nexit 2\n")
    assert e["class"] == "HostError" and "failed to do it" in e["desc"]
    assert host.state() == before


def test_dnsmasq_gets_no_file_of_the_host(host):
    """With a socket of the host's network namespace, dnsmasq's capabilities would count there."""
    e = up_with(host, "#!/usr/bin/python3\nimport os, sys\nfor n in range(3, 1000):\n    try:\n        print(os.readlink(f'/proc/self/fd/{n}'), "
                      "file=sys.stderr)\n    except OSError:\n        pass\nprint('all', file=sys.stderr)\nsys.exit(2)\n")
    assert e["desc"] == "dnsmasq does not start: all ", e


def test_dnsmasq_missing(host, tmp_path):
    before = host.state()
    e = host.call("up", network(), env={"PATH": str(tmp_path)})["error"]
    assert e["class"] == "HostError" and "apt install dnsmasq-base" in e["desc"]
    assert host.state() == before


@pytest.mark.parametrize("what", ["nfnetlink", "nf_tables"])
def test_kernel_without_nf_tables_is_named(host, what):
    assert os.path.exists(PRELOAD), "no_nftables.so is not built: make helpers"
    before = host.state()
    e = host.call("up", network(), env={"LD_PRELOAD": PRELOAD, "NO_NFTABLES": what})["error"]
    assert e["class"] == "HostError" and "the kernel has no nf_tables (" in e["desc"] and "modprobe nf_tables" in e["desc"]
    assert host.state() == before


def test_without_root(host):
    n = network()
    for verb in "up", "down", "check":
        r = host.run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", PROGRAM, input=host.command(verb, n), check=False)
        e = json.loads(r.stdout)["error"]
        assert e["class"] == "PermissionDenied" and "run cairnd as root" in e["desc"], verb


def changed(**keys):
    n = network()
    for path, value in keys.items():
        at, *parts = n, *path.split("__")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        at[parts[-1]] = value
    return n


BAD = [
    ({"bridge": "averylongbridgename"}, "network.bridge: 'averylongbridgename' has more than 15 bytes"),
    ({"bridge": "a b"}, "network.bridge"), ({"bridge": 'x"y'}, "network.bridge"), ({"bridge": ".."}, "network.bridge"),
    ({"bridge": "a/b"}, "network.bridge"), ({"bridge": "lo"}, "network.bridge"), ({"bridge": ""}, "network.bridge"),
    ({"name": "a;b"}, "network.name"), ({"name": "x" * 64}, "network.name"), ({"name": "a\nb"}, "network.name"),
    ({"name": 'a"b'}, "network.name"), ({"uuid": UUID.upper()}, "network.uuid"), ({"uuid": "../" + UUID[3:]}, "network.uuid"),
    ({"egress": "deny;allow any - *.example.org", "dns": {"enable": False}}, "need the network's DNS"), ({"egress": "x"}, "network.egress"),
    ({"mode": "isolated", "egress": "deny"}, "network.egress"), ({"egress": {}}, "network.egress"),
    ({"mode": "magic"}, "network.mode"), ({"mtu": 100}, "network.mtu"), ({"mtu": "1500"}, "network.mtu: int, not"),
    ({"mac": "01:00:5e:00:00:01"}, "network.mac"), ({"domain": "a\ndhcp-script=/x"}, "network.domain"),
    ({"more": 1}, "network.more: there is no such key"), ({"dev": "a*"}, "network.dev"),
    ({"ipv4__address": "192.168.122.0"}, "network.ipv4.address"), ({"ipv4__address": "fe80::1"}, "no IPv4 address"),
    ({"ipv4__prefix": 33}, "network.ipv4.prefix"), ({"ipv4__address": "224.0.0.5"}, "network.ipv4.address"),
    ({"ipv4__dhcp__ranges": [{"start": "192.168.123.2", "end": "192.168.123.9"}]}, "ranges[0].start"),
    ({"ipv4__dhcp__ranges": [{"start": "192.168.122.9", "end": "192.168.122.2"}]}, "ends before it starts"),
    ({"ipv4__dhcp__ranges": [{"start": "192.168.122.2", "end": "192.168.122.255"}]}, "ranges[0].end"),
    ({"ipv4__dhcp__hosts": [{"mac": "52:54:00:00:00:01"}]}, "hosts[0]: give a name or an address"),
    ({"ipv4__dhcp__hosts": [{"mac": "52:54:00:00:00:01", "address": "192.168.122.1"}]}, "address of the bridge"),
    ({"ipv4__dhcp__hosts": [{"mac": "52:54:00:00:00:01", "name": "a,b"}]}, "hosts[0].name"),
    ({"ipv4__dhcp__hosts": [{"mac": "52:54:00:00:00:01", "name": "a"}, {"mac": "52:54:00:00:00:01", "name": "b"}]},
     "hosts[1].mac: hosts[0] has the same"),
    ({"ipv4__dhcp__hosts": [{"mac": "ff:ff:ff:ff:ff:ff", "name": "a"}]}, "hosts[0].mac"),
    ({"dns__forwarders": ["1.2.3.4#53"]}, "forwarders[0]"), ({"dns__forwarders": ["127.0.0.1"]}, "forwarders[0]"),
    ({"dns__hosts": [{"address": "1.2.3.4", "names": ["a b"]}]}, "names[0]"),
    ({"ipv6": {"address": "fd00::1", "prefix": 48}}, "network.ipv6.prefix"),
    ({"ipv6": {"address": "fd00::1", "prefix": 80}}, "network.ipv6"),
    ({"ipv6": {"address": "fd00::1", "prefix": 64}, "mtu": 1000}, "network.mtu"),
]


@pytest.mark.parametrize("keys, sentence", BAD, ids=lambda v: v if isinstance(v, str) else json.dumps(v)[:60])
def test_bad_definition_makes_nothing(tmp_path, keys, sentence):
    """The input is checked before anything else, so this needs no root."""
    request = {"verb": "up", "folder": str(tmp_path), "network": changed(**keys)}
    r = subprocess.run([PROGRAM], input=json.dumps(request), capture_output=True, text=True)
    e = json.loads(r.stdout)["error"]
    assert r.returncode == 1 and e["class"] == "InvalidArgument" and sentence in e["desc"], e
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"verb": "up"}', '{"verb": "fly"}', '{"verb": "up", "folder": "x"}',
                                  "x" * (2 << 20), '{"verb": "leases", "folder": "/x", "network": []}'],
                         ids=lambda t: t[:30] or "empty")
def test_bad_request(text):
    r = subprocess.run([PROGRAM], input=text, capture_output=True, text=True)
    assert r.returncode == 1 and not r.stderr and json.loads(r.stdout)["error"]["desc"]


def test_leases_of_a_strange_file(tmp_path):
    """Lines that a dnsmasq that was taken over can write: links, long lines, bytes."""
    n = network()
    state = tmp_path / "dnsmasq" / "state"
    state.mkdir(parents=True)
    request = json.dumps({"verb": "leases", "folder": str(tmp_path), "network": n})

    def leases():
        r = subprocess.run([PROGRAM], input=request, capture_output=True, text=True)
        return json.loads(r.stdout)
    file = state / "leases"
    file.write_bytes(b"0 52:54:00:00:00:01 192.168.122.5 one *\n\nduid 00:01\n1 x y\n9 \xff\xfe 192.168.122.6 * *\n0 m 1.2.3 * *\n"
                     + b"0 " + b"a" * 100000 + b" 192.168.122.7 * *\n0 52:54:00:00:00:02 192.168.122.8 * *\n")
    found = leases()["return"]["leases"]
    assert [i["address"] for i in found if i["mac"].startswith("52:54")] == ["192.168.122.5", "192.168.122.8"]
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert leases()["error"]
    shutil.rmtree(tmp_path / "dnsmasq")
    assert leases() == {"return": {"leases": []}}


# ---- ports ----

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


@pytest.mark.parametrize("strict", [False, True], ids=["no-spoofing", "clean-traffic"])
def test_spoofed_frames_are_dropped(host, strict):
    """Others' addresses, DHCP servers, router advertisements; with clean-traffic all that is not the guest's own."""
    n = network(ipv6=IPV6)
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:77", "address": "192.168.122.77"}]
    host.do("up", n)
    bad, good = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(bad, **(STRICT if strict else {})))
    host.do("port-up", n, port=port(good))
    address = bad.dhcp("bad")[0]  # the rule learns it
    target = good.dhcp("good")[0]
    assert bad.pings(target) and bad.resolve("192.168.122.254", "good") == [target] and talk(host.outside, bad, "10.9.0.1")
    until(bad.addresses)
    until(good.addresses)
    assert talk(good, bad, good.addresses()[0], socket.AF_INET6) == bad.addresses()[0]
    sender, seen = Wire(bad), Wire(good)
    other = "52:54:00:00:00:99"
    gateway = host.ip("link", "show", "virbr0")[0]["address"]
    local = "fe80::5054:ff:fe00:1"
    victim6 = "fe80::5054:ff:fe00:2"

    def icmp6(body, first=b"\x3a", source=local):
        return frame("33:33:00:00:00:01", bad.mac, 0x86dd, bytes.fromhex("60000000") + len(body).to_bytes(2, "big") + first + b"\xff"
                     + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "ff02::1") + body)

    def discover(mac):
        return datagram("0.0.0.0", "255.255.255.255", 68, 67, bytes.fromhex("01010600") + bytes(24) + bytes.fromhex(mac.replace(":", ""))
                        + bytes(202) + bytes.fromhex("63825363350101ff") + b"lie")
    def igmp(source, body):  # with the option "router alert"
        head = bytes.fromhex("4600") + (24 + len(body)).to_bytes(2, "big") + bytes.fromhex("000000000102") + bytes(2) + socket.inet_aton(source)
        head += socket.inet_aton("224.0.0.1") + bytes.fromhex("94040000")
        return head[:10] + checksum(head) + head[12:] + body[:2] + checksum(body + b"\0") + body[4:]
    mld = bytes.fromhex("82000000ffff0000") + bytes(16) + bytes.fromhex("027d0000") + b"lie!"  # the bridge passes valid ones only
    pseudo = socket.inet_pton(socket.AF_INET6, local) + socket.inet_pton(socket.AF_INET6, "ff02::1") + bytes.fromhex("000000200000003a")
    mld = mld[:2] + checksum(pseudo + mld) + mld[4:]
    udp = frame("ff" * 6, bad.mac, 0x800, b"")
    advert = bytes.fromhex("8800000020000000")
    lies = {
        "another's mac": frame("ff" * 6, good.mac, 0x800, datagram(address, "255.255.255.255", 9, 9, b"lie")),
        "gateway's mac": frame("ff" * 6, gateway, 0x88b5, b"lie"),
        "fixed host's mac": frame("ff" * 6, "52:54:00:00:00:77", 0x88b5, b"lie"),
        "another's mac in arp": frame("ff" * 6, bad.mac, 0x806, arp(good.mac, address, target)[14:]) + b"lie",
        "another's ip": udp + datagram(target, "255.255.255.255", 9, 9, b"lie"),
        "another's ip in arp": arp(bad.mac, target, "192.168.122.1") + b"lie",
        "fixed host's ip": arp(bad.mac, "192.168.122.77", "192.168.122.1") + b"lie",
        "gateway's ip": udp + datagram("192.168.122.1", "255.255.255.255", 9, 9, b"lie"),
        "gateway's ip in arp": arp(bad.mac, "192.168.122.1", target) + b"lie",
        "dnsmasq's ip in arp": arp(bad.mac, "192.168.122.254", target) + b"lie",
        "dhcp for another": udp + discover(good.mac),
        "dhcp for a fixed host": udp + discover("52:54:00:00:00:77"),
        "dhcp server": udp + datagram(address, "255.255.255.255", 67, 68, b"lie"),
        "dhcp server's answer": udp + datagram(address, "255.255.255.255", 5, 68, b"lie"),
        "dhcpv6 server": icmp6(bytes.fromhex("02230222000b0000") + b"lie", b"\x11"),
        "another's ipv6": icmp6(bytes.fromhex("000900090000000b") + b"lie", b"\x11", victim6),
        "another's ipv6 in na": icmp6(advert + socket.inet_pton(socket.AF_INET6, victim6) + b"lie"),
        "another's global ipv6 in na": icmp6(advert + socket.inet_pton(socket.AF_INET6, "fd00:7::5054:ff:fe00:2") + b"lie"),
        "gateway's ipv6 in na": icmp6(advert + socket.inet_pton(socket.AF_INET6, "fd00:7::1") + b"lie"),
        "ra": icmp6(bytes.fromhex("8600000000000000") + bytes(8) + b"lie"),
        "mld query": icmp6(bytes.fromhex("3a00050200000100") + mld, b"\0"),
        "igmp query": udp + igmp(address, bytes.fromhex("116400000000000002000000") + b"lie"),
        "redirect": icmp6(bytes.fromhex("8900000000000000") + bytes(32) + b"lie"),
        "ra behind options": icmp6(bytes.fromhex("3a00010400000000" "8600000000000000") + bytes(8) + b"lie", b"\x3c"),
        "na behind options": icmp6(bytes.fromhex("3a00010400000000") + advert + socket.inet_pton(socket.AF_INET6, "fd00:7::1")
                                   + b"lie", b"\x3c"),
        "vlan 0": frame("ff" * 6, bad.mac, 0x8100, b"\0\0" + arp(bad.mac, "192.168.122.1", target)[12:] + b"lie"),
        "vlan": frame("ff" * 6, bad.mac, 0x8100, b"\0\5\x08\0lie"),
    }
    unknown = {
        "mac": frame("ff" * 6, other, 0x800, datagram(address, "255.255.255.255", 9, 9, b"lie")),
        "mac in arp": frame("ff" * 6, bad.mac, 0x806, arp(other, address, target)[14:]) + b"lie",
        "ip": udp + datagram("192.168.122.200", "255.255.255.255", 9, 9, b"lie"),
        "ip in arp": arp(bad.mac, "192.168.122.200", target) + b"lie",
        "outside": udp + datagram("8.8.8.8", "255.255.255.255", 9, 9, b"lie"),
        "ipv6": icmp6(bytes.fromhex("000900090000000b") + b"lie", b"\x11", "fe80::99"),
        "ipv6 in na": icmp6(advert + socket.inet_pton(socket.AF_INET6, "fd00:7::99") + b"lie"),
        "dhcp": udp + discover(other),
        "other": frame("ff" * 6, bad.mac, 0x88b5, b"lie"),
    }

    def arrived(frames, mark):
        for f in frames.values():
            sender.send(f)
        sender.send(udp + datagram(address, "255.255.255.255", 9, 9, mark))
        got = seen.until_mark(mark)
        parts = {k: f[18:] if f[12:14] == b"\x81\0" else f[6:] for k, f in frames.items()}  # the socket shows no tag
        return [k for k, part in parts.items() if [g for g in got if part in g]]
    assert arrived(lies, b"the truth") == []
    assert arrived(unknown, b"more truth") == ([] if strict else list(unknown))

    def learned(mark):
        """At which port the bridge has the other guest's MAC address, after frames to link-local groups."""
        for group in "01:80:c2:00:00:0e", "01:80:c2:00:00:03":
            sender.send(frame(group, good.mac, 0x88cc, b"lie"))
        sender.send(udp + datagram(address, "255.255.255.255", 9, 9, mark))
        seen.until_mark(mark)
        rows = host.run("bridge", "fdb", "show", "br", "virbr0").stdout.splitlines()
        return [r.split()[2] for r in rows if r.startswith(good.mac) and "permanent" not in r]
    assert learned(b"a true neighbour") == [good.tap]
    host.run("ip", "link", "set", "virbr0", "type", "bridge", "no_linklocal_learn", "0")
    until(lambda: learned(b"a false neighbour") == [bad.tap])  # the test can fail
    # Without the rules, each of them comes: so the test can fail.
    host.do("port-down", n, port=port(bad))
    assert arrived(lies, b"the end") == list(lies) and arrived(unknown, b"the very end") == list(unknown)


def test_ports_know_fixed_and_earlier_addresses(host):
    """A port that comes back, as after a restart of a VM: its lease and its fixed addresses count at once."""
    n = network()
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:02", "address": "192.168.122.77"}]
    host.do("up", n)
    one, two, three = (host.guest(i) for i in (1, 2, 3))
    one.dhcp("one")
    for guest, more in (one, STRICT), (two, STRICT), (three, STRICT | {"addresses": ["192.168.122.33"]}):
        host.do("port-up", n, port=port(guest, **more))
        host.do("port-up", n, port=port(guest, **more))  # again
    two.run("ip", "addr", "add", "192.168.122.77/24", "dev", "eth0")
    three.run("ip", "addr", "add", "192.168.122.33/24", "dev", "eth0")
    assert one.pings("192.168.122.1") and two.pings("192.168.122.1") and three.pings("192.168.122.1")
    three.run("ip", "addr", "del", "192.168.122.33/24", "dev", "eth0")
    three.run("ip", "addr", "add", "192.168.122.34/24", "dev", "eth0")
    assert not three.pings("192.168.122.1", wait=1)


def test_guest_is_not_root_of_the_spanning_tree(host):
    """A guest can claim to be the tree's root. The bridge believes that without a filter only."""
    n = network(stp=True)
    host.do("up", n)
    bad = host.guest(1)
    host.do("port-up", n, port=port(bad, filter="none"))
    best = bytes(2) + bytes.fromhex(bad.mac.replace(":", ""))
    hello = bytes.fromhex("424203") + bytes(5) + best + bytes(4) + best + bytes.fromhex("8001" "0000" "1400" "0200" "0f00")
    sender = Wire(bad)

    def root_port():
        sender.send(frame("01:80:c2:00:00:00", bad.mac, len(hello), hello))
        return host.ip("-d", "link", "show", "virbr0")[0]["linkinfo"]["info_data"]["root_port"]
    until(root_port)
    host.do("port-up", n, port=port(bad))
    until(lambda: root_port() == 0)
    assert [root_port() for _ in range(10)] == [0] * 10


def test_isolated_ports(host):
    """Isolated ports reach the gateway, the name server and other networks, but not each other."""
    n = network()
    host.do("up", n)
    one, two, three = (host.guest(i) for i in (1, 2, 3))
    for guest in one, two:
        host.do("port-up", n, port=port(guest, isolated=True))
    host.do("port-up", n, port=port(three))
    addresses = [g.dhcp(f"g{i}")[0] for i, g in enumerate((one, two, three))]
    assert one.pings("192.168.122.1") and one.resolve("192.168.122.254", "g1") and talk(host.outside, one, "10.9.0.1")
    assert talk(three, one, addresses[2]) == addresses[0] and talk(one, three, addresses[0]) == addresses[2]
    gateway = host.ip("link", "show", "virbr0")[0]["address"]
    assert not one.pings(addresses[1], wait=1)
    one.run("ip", "neigh", "replace", addresses[1], "lladdr", gateway, "dev", "eth0")
    two.run("ip", "neigh", "replace", addresses[0], "lladdr", gateway, "dev", "eth0")
    assert not one.pings(addresses[1], wait=1)
    # Without a filter, too, and behind tags that the host removes.
    host.do("port-up", n, port=port(one, isolated=True, filter="none"))
    sender, seen = Wire(one), Wire(two)
    ip = datagram(addresses[0], addresses[1], 9, 9, b"lie")
    for tags in b"", b"\x81\0\0\0", b"\x81\0\0\0" * 2, b"\x88\xa8\0\0\x81\0\0\0":
        sender.send(bytes.fromhex((gateway + one.mac).replace(":", "")) + tags + b"\x08\0" + ip)
    host.do("port-up", n, port=port(one))
    host.do("port-up", n, port=port(two))
    sender.send(frame(gateway, one.mac, 0x800, datagram(addresses[0], addresses[1], 9, 9, b"mark")))
    assert not [f for f in seen.until_mark(b"mark") if b"lie" in f]
    assert one.pings(addresses[1])


def test_ports_go_with_the_network(host):
    n = network()
    before = host.state()["rules"]
    assert host.do("port-down", n, port={"tap": "vnet1"}) == {"notes": []}
    host.do("up", n)
    one = host.guest(1)
    host.do("port-up", n, port=port(one, isolated=True, addresses=["192.168.122.5", "fd00::5"]))
    host.do("port-down", n, port={"tap": one.tap})
    host.do("port-down", n, port={"tap": one.tap})
    assert "vnet1" not in host.state()["rules"]
    host.do("port-up", n, port=port(one))
    host.do("down", n)
    assert host.state()["rules"] == before


def test_rules_of_taps_that_are_gone_are_removed(host):
    """The taps went with VMs that ended while no daemon ran."""
    n = network()
    host.do("up", n)
    one, two, three = (host.guest(i) for i in (1, 2, 3))
    host.do("port-up", n, port=port(one, isolated=True))
    host.do("port-up", n, port=port(two))
    host.run("ip", "link", "del", one.tap)
    host.do("port-up", n, port=port(three))
    rules = host.state()["rules"]
    assert [t for t in ("vnet1", "vnet2", "vnet3") if t in rules] == ["vnet2", "vnet3"]
    host.run("ip", "link", "del", two.tap)
    host.do("port-down", n, port={"tap": three.tap})
    assert "vnet" not in host.state()["rules"].partition(f"table bridge cairn_{UUID.replace('-', '')}_ports")[2].split("\ntable")[0]


def test_ports_of_an_earlier_version_keep_their_addresses(host):
    """The addresses are in a set of another type, to which nftables 1.1 adds no bits of a packet."""
    n = network()
    host.do("up", n)
    one, two = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(one, **STRICT))
    address = one.dhcp("one")[0]
    table = f"bridge cairn_{UUID.replace('-', '')}_ports"
    own = f"own_{one.tap}"
    host.run("nft", "-f", "-", input=f"""
        flush chain {table} learn; flush chain {table} others; flush chain {table} in_{one.tap}; flush chain {table} ack_{one.tap}
        delete set {table} leased; delete set {table} {own}
        add set {table} taken {{ type ipv4_addr; size 65536; flags dynamic,timeout; }}
        add set {table} {own} {{ type ipv4_addr; size 64; flags dynamic; }}
        add element {table} {own} {{ {address} }}
        add rule {table} in_{one.tap} arp saddr ip @{own} accept
        add rule {table} in_{one.tap} ip saddr @{own} accept
        add rule {table} in_{one.tap} drop
        """)
    host.do("up", n)
    assert f"0x{socket.inet_aton(address).hex()}" in host.run("nft", "list", "set", *table.split(), "leased").stdout
    host.do("port-up", n, port=port(two, **STRICT))
    assert one.pings(two.dhcp("two")[0])
    host.do("port-down", n, port={"tap": one.tap})
    with open(os.path.join(host.folder(n), "addresses")) as f:
        assert f"{one.mac} {address}\n" in f.read()
    host.do("port-up", n, port=port(one, **STRICT))
    assert one.pings("192.168.122.1")


def leases_forget(host, n):
    """Restart the network without leases, as if they had ended."""
    host.do("down", n)
    with open(os.path.join(host.folder(n), "dnsmasq/state/leases"), "w"):
        pass
    host.do("up", n)
    for g in host.others[1:]:
        host.run("ip", "link", "set", g.tap, "master", "virbr0")


@pytest.mark.parametrize("strict", [False, True], ids=["no-spoofing", "clean-traffic"])
def test_address_of_an_ended_lease_lasts_until_another_guest_has_it(host, strict):
    """The guest was reverted to a snapshot, so it does not know that its lease has ended, and sends no request."""
    n, more = network(), STRICT if strict else {}
    host.do("up", n)
    one, two = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(one, **more))
    address = one.dhcp("one")[0]
    host.do("port-down", n, port={"tap": one.tap})
    with open(os.path.join(host.folder(n), "addresses")) as f:
        assert f.read() == f"{one.mac} {address}\n"
    leases_forget(host, n)
    assert host.do("leases", n)["leases"] == []
    for g in one, two:
        host.do("port-up", n, port=port(g, **more))
    assert one.pings("192.168.122.1")
    two.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-r", address, "-s", os.path.join(host.tmp, "dhcp.sh"))
    assert two.addresses("inet") == [address] and two.pings("192.168.122.1")
    assert not one.pings("192.168.122.1", wait=1)
    host.do("port-up", n, port=port(one, **more))  # the file of leases says the same
    assert not one.pings("192.168.122.1", wait=1)
    one.run("ip", "addr", "flush", "dev", "eth0")
    assert one.dhcp("one")[0] != address
    until(lambda: one.pings("192.168.122.1"))


def test_leases_of_strangers_are_bounded_at_a_port_change(host):
    """A guest without a filter has leased a large network by MAC addresses that it made up."""
    n = network()
    host.do("up", n)
    one = host.guest(1)
    file = os.path.join(host.folder(n), "addresses")

    def lines():
        with open(file) as f:
            return f.read().splitlines()

    with open(os.path.join(host.folder(n), "dnsmasq/state/leases"), "w") as f:
        ends = int(time.time()) + 3600
        for i in range(60000):
            f.write(f"{ends} 02:00:00:00:{i >> 8:02x}:{i & 255:02x} 192.168.122.{10 + i % 200} * *\n")
        f.write(f"{ends} {one.mac} 192.168.122.250 * *\n")
    host.do("port-up", n, port=port(one))
    assert lines()[0] == f"{one.mac} 192.168.122.250" and len(lines()) == 1025
    assert f"0x{socket.inet_aton('192.168.122.250').hex()}" in host.state()["rules"]
    was = os.stat(file)
    host.do("port-down", n, port={"tap": one.tap})
    assert (os.stat(file).st_ino, lines()[0]) == (was.st_ino, f"{one.mac} 192.168.122.250")
    # A full file changes only for ports.
    with open(file, "w") as f:
        for i in range(4096):
            f.write(f"02:01:00:00:{i >> 8:02x}:{i & 255:02x} 192.168.122.9\n")
    host.do("port-up", n, port=port(one))
    assert lines()[:2] == [f"{one.mac} 192.168.122.250", "02:01:00:00:00:00 192.168.122.9"] and len(lines()) == 4096
    assert not [x for x in lines() if x.startswith("02:00:")]


def test_static_addresses_and_new_macs_pass_by_default(host):
    """Nobody else is known to have them."""
    n = network()
    host.do("up", n)
    one, two = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(one))
    host.do("port-up", n, port=port(two))
    one.run("ip", "addr", "add", "192.168.122.40/24", "dev", "eth0")
    assert one.pings("192.168.122.1")
    one.run("ip", "addr", "flush", "dev", "eth0")
    one.run("ip", "link", "set", "eth0", "address", "52:54:00:00:00:99")
    address = one.dhcp("one")[0]
    assert one.pings("192.168.122.1")
    two.dhcp("two")  # the filter learns this one
    assert one.pings("192.168.122.1") and two.pings(address)


def test_address_that_a_guest_gave_back_is_free_for_its_other_macs(host):
    """The other MAC address is that of a VM inside the guest, which takes over the address."""
    n = network()
    host.do("up", n)
    one = host.guest(1)
    host.do("port-up", n, port=port(one))
    address = one.dhcp("one")[0]
    Wire(one).send(frame("ff" * 6, one.mac, 0x800, release(address, address, one.mac)))
    until(lambda: not host.do("leases", n)["leases"])
    one.run("ip", "addr", "flush", "dev", "eth0")
    one.run("ip", "link", "set", "eth0", "address", "52:54:00:00:00:99")
    assert one.dhcp("one", "-r", address)[0] == address
    assert one.pings("192.168.122.1")


@pytest.mark.parametrize("strict", [False, True], ids=["no-spoofing", "clean-traffic"])
def test_fragments_of_dhcp_give_back_no_lease_of_another(host, strict):
    """The first fragment does not show the MAC address whose lease it is."""
    n = network()
    host.do("up", n)
    bad, good = host.guest(1), host.guest(2)
    for g in bad, good:
        host.do("port-up", n, port=port(g, **(STRICT if strict else {})))
    address, own = good.dhcp("good")[0], bad.dhcp("bad")[0]
    packet = release(own, address, good.mac)
    wire = Wire(bad)
    for at, end in (0, 16), (16, len(packet) - 20):
        head = packet[:2] + (20 + end - at).to_bytes(2, "big") + b"\x12\x34" + (0x2000 * (at == 0) + at // 8).to_bytes(2, "big") + b"\x40\x11\0\0"
        wire.send(frame("ff" * 6, bad.mac, 0x800, header_sum(head + packet[12:20]) + packet[20 + at:20 + end]))
    assert bad.dhcp("bad")[0] == own  # dnsmasq has read what came before
    assert {i["mac"] for i in host.do("leases", n)["leases"]} == {good.mac, bad.mac}


def test_client_identifier_of_another_guest_gives_no_lease(host):
    n = network()
    host.do("up", n)
    bad, good = host.guest(1), host.guest(2)
    for g in bad, good:
        host.do("port-up", n, port=port(g, **STRICT))
    address = good.dhcp("good", "-x", "0x3d:0102030405")[0]
    assert bad.dhcp("bad", "-x", "0x3d:0102030405", "-r", address)[0] != address
    assert good.pings("192.168.122.1")


def test_new_fixed_host_of_a_running_guest(host):
    n = network()
    host.do("up", n)
    one, two = host.guest(1), host.guest(2)
    for g in one, two:
        host.do("port-up", n, port=port(g, **STRICT))
        g.run("ip", "addr", "add", "192.168.122.40/24", "dev", "eth0")
        assert not g.pings("192.168.122.1", wait=1)
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": one.mac, "address": "192.168.122.40"}]
    host.do("update", n)
    until(lambda: one.pings("192.168.122.1"))  # questions for the gateway's MAC address may still be failing
    assert not two.pings("192.168.122.1", wait=1)


def test_second_mac_of_a_guest(host):
    """A live clone has its source's address and lease."""
    n = network()
    host.do("up", n)
    one = host.guest(1)
    host.do("port-up", n, port=port(one, mac="52:54:00:00:00:77", guest_mac=one.mac, **STRICT))
    one.dhcp("one")
    assert one.pings("192.168.122.1")
    host.do("port-up", n, port=port(one, mac="52:54:00:00:00:77", guest_mac=one.mac, **STRICT))  # the lease is in the file
    assert one.pings("192.168.122.1")
    host.do("port-up", n, port=port(one, mac="52:54:00:00:00:77", **STRICT))
    assert not one.pings("192.168.122.1", wait=1)


def peers(*pairs):
    return [{"mac": f"52:54:00:00:00:{mac:02x}", "own": f"52:54:00:00:00:{own:02x}"} for mac, own in pairs]


@pytest.mark.parametrize("keys, sentence", [
    ({"mac": "01:00:5e:00:00:01"}, "port.mac"), ({"filter": True}, "port.filter"), ({"filter": "strict"}, "port.filter"), ({"guest_mac": "01:00:5e:00:00:01"}, "port.guest_mac"), ({"tap": "a b"}, "port.tap"), ({"tap": "x" * 16}, "port.tap"), ({"tap": "a@b"}, "port.tap"),
    ({"addresses": ["255.255.255.255"]}, "port.addresses[0]"), ({"addresses": ["fe80::1"]}, "port.addresses[0]"), ({"x": 1}, "port.x"),
    ({"fork": {"mac": "52:54:00:00:00:02", "source": "no"}}, "fork.source"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": {}}}, "fork.peers"), ({"fork": {"mac": "52:54:00:00:00:02", "peers": [1]}}, "fork.peers[0]"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": peers((3, 4))[:1] * 129}}, "fork.peers"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": [{"mac": "52:54:00:00:00:03"}]}}, "fork.peers[0].own"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": [{"own": "52:54:00:00:00:03"}]}}, "fork.peers[0].mac"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": peers((3, 4), (3, 5))}}, "fork.peers[1].mac"),
    ({"fork": {"mac": "52:54:00:00:00:02", "peers": peers((3, 4), (5, 6), (7, 4))}}, "fork.peers[2].own")],
    ids=lambda v: json.dumps(v)[:100])
def test_bad_port(tmp_path, keys, sentence):
    request = {"verb": "port-up", "folder": str(tmp_path), "network": network(), "port": {"tap": "vnet0", "mac": "52:54:00:00:00:01"} | keys}
    r = subprocess.run([PROGRAM], input=json.dumps(request), capture_output=True, text=True)
    e = json.loads(r.stdout)["error"]
    assert e["class"] == "InvalidArgument" and sentence in e["desc"], e


# ---- live clones ----


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


@pytest.mark.parametrize("mode, filter_", [*((m, "no-spoofing") for m in MODES), ("nat", "clean-traffic"), ("nat", "none")])
def test_forks_keep_their_addresses_and_have_unique_ones(host, mode, filter_):
    n = network(mode)
    host.do("up", n)
    before = host.state()
    source, other = host.guest(1), host.guest(2)
    for g in source, other:
        host.do("port-up", n, port=port(g, filter=filter_))
    address, other_address = source.dhcp("source")[0], other.dhcp("other")[0]
    forks = []
    for number in 3, 4:
        g = fork_of(host, source, number)
        up = host.do("port-up", n, port=fork_port(g, filter=filter_))
        assert up["inner"] == address and up["address"] not in (address, other_address)
        g.unique = up["address"]
        address_give(g, address)
        forks.append(g)
    assert forks[0].unique != forks[1].unique
    for g in forks:
        with g.listen(address) as s:
            for client in host, other:
                with client.connect((g.unique, s.getsockname()[1])) as c, s.accept()[0] as peer:
                    c.sendall(b"question")
                    assert peer.recv(100) == b"question"
        assert talk(other, g, other_address) == g.unique
        assert g.pings("192.168.122.1") and g.pings(other_address)
        assert talk(host, g, "192.168.122.1") == g.unique
    assert other.pings(address) and source.pings("192.168.122.1") and talk(host, source, "192.168.122.1") == address
    if mode == "nat":
        assert talk(host.outside, forks[0], "10.9.0.1") == "10.9.0.2"
    for g in *forks, source, other:
        host.do("port-down", n, port={"tap": g.tap})
    assert "forks" not in host.state()["rules"] and before["links"] == [i for i in host.state()["links"] if "vnet" not in i["ifname"]]


def forked(host, n, **more):
    """Return a source, and its fork with a unique address."""
    host.do("up", n)
    source = host.guest(1)
    host.do("port-up", n, port=port(source, **more))
    address = source.dhcp("source")[0]
    g = fork_of(host, source, 2)
    g.unique = host.do("port-up", n, port=fork_port(g, **more))["address"]
    address_give(g, address)
    return source, address, g


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


def test_fork_renews_its_lease(host):
    """The guest asks for its own address, and dnsmasq has leased the unique one to the clone."""
    n = network()
    source, address, g = forked(host, n, **STRICT)
    g.run("ethtool", "-K", "eth0", "rx", "off", "tx", "off", check=False)
    f = Wire4(g).ask(dhcp(address, "255.255.255.255", g.mac, 3, address), lambda f: is_answer(f, 5))
    assert f[54:58] == f[58:62] == socket.inet_aton(address) and f[70:76] == bytes.fromhex(g.mac.replace(":", ""))
    assert {(i["mac"], i["address"]) for i in host.do("leases", n)["leases"]} == {(source.mac, address), (g.own, g.unique)}
    assert g.pings("192.168.122.1") and source.pings("192.168.122.1")


def test_fork_that_asks_anew_gets_the_unique_address(host):
    n = network()
    source, address, g = forked(host, n, **STRICT)
    assert g.pings("192.168.122.1")
    g.run("ip", "addr", "flush", "dev", "eth0")
    assert g.dhcp("fork", "-r", address)[0] == g.unique
    assert g.pings("192.168.122.1") and talk(host, g, "192.168.122.1") == g.unique and talk(g, host, g.unique) == "192.168.122.1"
    assert source.pings("192.168.122.1")


def test_fork_that_starts_again_has_its_own_mac(host):
    n = network()
    source, address, g = forked(host, n, **STRICT)
    assert g.pings("192.168.122.1")
    g.run("ip", "addr", "flush", "dev", "eth0")
    g.run("ip", "link", "set", "eth0", "address", g.own)
    assert g.dhcp("fork")[0] == g.unique
    assert g.pings("192.168.122.1") and talk(g, host, g.unique) == "192.168.122.1"
    g.run("ip", "addr", "flush", "dev", "eth0")  # a revert
    g.run("ip", "link", "set", "eth0", "address", g.mac)
    address_give(g, address)
    assert g.pings("192.168.122.1")
    with g.listen(address) as s, host.connect((g.unique, s.getsockname()[1])):
        pass


def test_fork_hears_of_errors(host):
    """A packet that is too large for a link behind the host, and a port without a server."""
    n = network("route")
    host.run("ip", "link", "set", "eth0", "mtu", "1200")
    source, address, g = forked(host, n)
    r = g.run("busybox", "ping", "-c", "1", "-W", "1", "-s", "1300", "10.9.0.1", check=False)
    route = g.run("ip", "route", "get", "10.9.0.1").stdout
    assert "mtu 1200" in route, (r.stdout, route)
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    with host.outside.open(kind=socket.SOCK_DGRAM) as s:
        s.connect((g.unique, 9))
        s.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            s.recv(10)


def test_fork_of_a_guest_with_a_static_address(host):
    """Nobody knows the address until the guest sends."""
    n = network(ipv4={"address": "192.168.122.1", "prefix": 24})
    host.do("up", n)
    source = host.guest(1)
    host.do("port-up", n, port=port(source))
    g = fork_of(host, source, 2)
    up = host.do("port-up", n, port=fork_port(g))
    assert "inner" not in up
    for guest in source, g:
        address_give(guest, "192.168.122.40")
        assert guest.pings("192.168.122.1")
    with g.listen("192.168.122.40") as s, host.connect((up["address"], s.getsockname()[1])):
        pass


def test_fork_cannot_take_the_addresses_of_others(host):
    n = network()
    source, address, g = forked(host, n)
    assert g.pings("192.168.122.1")
    seen = Wire(source)
    sender = Wire(g)
    other = host.guest(3)
    host.do("port-up", n, port=port(other))
    taken = other.dhcp("other")[0]
    for mac in g.mac, g.own, source.mac:
        sender.send(frame("ff" * 6, mac, 0x800, datagram(taken, "255.255.255.255", 1, 9, b"lie")))
        sender.send(arp(mac, taken, taken) + b"lie")
    sender.send(frame("ff" * 6, other.mac, 0x800, datagram(address, "255.255.255.255", 1, 9, b"lie")))
    sender.send(frame("ff" * 6, g.mac, 0x800, datagram(address, "255.255.255.255", 1, 9, b"done")))
    before = seen.until_mark(b"done")
    assert not [f for f in before if b"lie" in f]


def test_addresses_of_forks_are_reserved_and_come_back(host):
    n = network()
    n["ipv4"]["dhcp"]["ranges"] = [{"start": "192.168.122.10", "end": "192.168.122.12"}]
    source, address, g = forked(host, n)
    free = {"192.168.122.10", "192.168.122.11", "192.168.122.12"} - {address, g.unique}
    third = host.guest(3)
    host.do("port-up", n, port=port(third))
    assert {third.dhcp("third")[0]} == free
    full = fork_of(host, source, 4)
    error = host.call("port-up", n, port=fork_port(full))["error"]
    assert "has no free IPv4 address for a live clone" in error["desc"], error
    again = host.do("port-up", n, port=fork_port(g))["address"]
    assert again == g.unique and g.pings("192.168.122.1")
    host.do("up", n)
    assert g.pings("192.168.122.1")
    # The address becomes that of a fixed host: the clone keeps it, and dnsmasq can be started again.
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": g.own, "address": g.unique}]
    assert host.do("update", n)["restarted"] is False
    os.kill(host.dnsmasq()[0], signal.SIGKILL)
    until(lambda: "dnsmasq" in host.do("check", n)["missing"])
    host.do("up", n)
    assert g.pings("192.168.122.1") and host.do("port-up", n, port=fork_port(g))["address"] == g.unique
    n["ipv4"]["dhcp"]["hosts"] = []
    host.do("update", n)
    assert g.pings("192.168.122.1")
    host.run("ip", "link", "del", g.tap)  # a VM that ended while no daemon ran
    assert host.do("port-up", n, port=fork_port(full))["address"] == g.unique
    host.do("down", n)
    assert "cairn" not in host.state()["rules"]


def test_fork_gets_nothing_for_its_source(host):
    """The fork's guest has the source's MAC and IPv4 address, so it would accept and answer frames that the bridge
    floods."""
    n = network()
    source, address, g = forked(host, n)
    assert g.pings("192.168.122.1")
    other = host.guest(3)
    seen, at_other, sender, wire = Wire(g), Wire(other), Wire(other), Wire(g)
    source.run("ip", "link", "set", "eth0", "down")  # the bridge forgets its port
    sender.send(frame(source.mac, other.mac, 0x800, datagram("192.168.122.99", address, 1, 9, b"flooded")))
    question = bytes.fromhex("0001080006040001" + other.mac.replace(":", "")) + socket.inet_aton("192.168.122.99") + bytes(6) + socket.inet_aton(address)
    sender.send(frame("ff" * 6, other.mac, 0x806, question + b"flooded"))
    sender.send(frame("ff" * 6, other.mac, 0x800, datagram("192.168.122.99", "255.255.255.255", 1, 9, b"done")))
    assert not [f for f in seen.until_mark(b"done") if b"flooded" in f]
    # Announcements and probes of the guest are of its address in the network.
    sender_mac = bytes.fromhex(g.mac.replace(":", ""))
    for asks in address, "0.0.0.0":
        wire.send(frame("ff" * 6, g.mac, 0x806, bytes.fromhex("0001080006040001") + sender_mac + socket.inet_aton(asks) + bytes(6)
                        + socket.inet_aton(address) + b"told"))
    wire.send(frame("ff" * 6, g.mac, 0x800, datagram(address, "255.255.255.255", 1, 9, b"end")))
    own = bytes.fromhex(g.own.replace(":", ""))
    told = [f[22:32] + f[38:42] for f in at_other.until_mark(b"end") if b"told" in f]
    assert told == [own + socket.inet_aton(a) + socket.inet_aton(g.unique) for a in (g.unique, "0.0.0.0")]


def test_fork_that_ends_comes_back_with_its_lease(host):
    """The fork was saved: its guest has the unique address by DHCP and continues to use it."""
    n = network()
    source, address, g = forked(host, n, **STRICT)
    g.run("ip", "addr", "flush", "dev", "eth0")
    g.run("ip", "link", "set", "eth0", "address", g.own)
    assert g.dhcp("fork")[0] == g.unique
    host.do("port-down", n, port={"tap": g.tap})
    assert host.do("port-up", n, port=fork_port(g, **STRICT))["address"] == g.unique
    assert g.pings("192.168.122.1")
    leases_forget(host, n)  # the address is remembered
    assert host.do("port-up", n, port=fork_port(g, **STRICT))["address"] == g.unique


def test_fork_that_changes_its_mac_is_reached_at_once(host):
    """The kernel counts the deleted elements of a set until it collects them."""
    n = network()
    source, address, g = forked(host, n)
    at_host = host.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806)))
    at_host.bind(("virbr0", 0x806))
    seen, wire = Wire(g), Wire(g)
    for i in range(5):
        for mac in g.own, g.mac:
            wire.send(frame("ff" * 6, mac, 0x800, datagram("0.0.0.0", "255.255.255.255", 1, 9, b"now")))
        at_host.send(frame(g.own, "52:54:00:00:00:fe", 0x800, datagram("192.168.122.1", g.unique, 1, 9, b"mark%d" % i)))
        while True:
            f = seen.s.recv(2000)
            if b"mark%d" % i in f:
                break
        assert f[:6] == bytes.fromhex(g.mac.replace(":", ""))


def test_address_of_a_fork_is_not_given_to_a_fixed_host(host):
    n = network()
    source, address, g = forked(host, n)
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:99", "address": g.unique}]
    error = host.call("update", n)["error"]
    assert error["class"] == "AlreadyExists" and g.unique in error["desc"] and g.own in error["desc"] and "shut the VM down" in error["desc"]
    assert g.pings("192.168.122.1")
    host.do("port-down", n, port={"tap": g.tap})
    host.do("update", n)


@pytest.mark.parametrize("starts", [True, False], ids=["started again", "asked anew"])
def test_fork_of_a_fork_with_new_addresses(host, starts):
    """The guest of the second has what the first one's guest has at that time."""
    n = network()
    source, address, one = forked(host, n, **STRICT)
    one.run("ip", "addr", "flush", "dev", "eth0")
    if starts:
        one.run("ip", "link", "set", "eth0", "address", one.own)
    assert one.dhcp("one")[0] == one.unique and one.pings("192.168.122.1")
    two = host.guest(3)
    two.own, two.mac = "52:54:00:00:00:c0", one.own if starts else source.mac
    two.run("ip", "link", "set", "eth0", "address", two.mac)
    asked = {"mac": source.mac, "address": address, "source": one.own}
    up = host.do("port-up", n, port=fork_port(two, fork=asked, **STRICT))
    assert (up["mac"], up["inner"]) == (two.mac, one.unique) and up["address"] not in (address, one.unique)
    address_give(two, one.unique)
    assert two.pings("192.168.122.1") and talk(host, two, "192.168.122.1") == up["address"]
    with two.listen(one.unique) as s, host.connect((up["address"], s.getsockname()[1])):
        pass
    assert one.pings("192.168.122.1") and source.pings("192.168.122.1")


def test_clone_that_takes_its_sources_place_is_no_fork(host):
    """The clone's definition has the MAC address of its source, which is gone."""
    n = network(ipv6=IPV6)
    host.do("up", n)
    source = host.guest(1)
    assert "address" not in host.do("port-up", n, port=port(source, fork={"mac": source.mac}, **STRICT))
    assert source.dhcp("source")[0] and source.pings("192.168.122.1")
    until(source.addresses)
    assert talk(host, source, "fd00:7::1", socket.AF_INET6) in source.addresses()
    assert "_forks" not in host.state()["rules"]


# ---- clones of a group that stay on the network ----

def grouped(host, n, names=("one", "two"), give=True, **more):
    """Return guests and a clone of each; clones.address is that of both guests."""
    host.do("up", n)
    sources = [host.guest(1 + i) for i in range(len(names))]
    for g, name in zip(sources, names):
        host.do("port-up", n, port=port(g, **more))
        g.address = g.dhcp(name)[0]
    clones = [fork_of(host, g, 11 + i) for i, g in enumerate(sources)]
    for g, source in zip(clones, sources):
        g.address = source.address
        g.peers = [{"mac": c.mac, "own": c.own} for c in clones if c is not g]
    up = host.do("port-up", n, ports=[peer_port(g, **more) for g in clones])["ports"]
    for g, answer in zip(clones, up):
        assert answer["inner"] == g.address
        g.unique = answer["address"]
        if give:
            address_give(g, g.address)
    return sources, clones


def peer_port(g, **more):
    return fork_port(g, fork={"mac": g.mac, "peers": g.peers}, **more)


def arp_entry(g, address):
    return next((i.get("lladdr") for i in g.ip("neigh", "show") if i["dst"] == address), None)


@pytest.mark.parametrize("mode, filter_", [*((m, "no-spoofing") for m in MODES), ("nat", "clean-traffic"), ("nat", "none")])
def test_clones_of_a_group_reach_each_other_in_place_of_their_sources(host, mode, filter_):
    n = network(mode)
    before = host.state()
    (one, two), (a, b) = grouped(host, n, filter=filter_)
    for client, server, source in (a, b, two), (b, a, one):
        assert talk(server, client, server.address) == client.address and arp_entry(client, server.address) == source.mac
        assert client.pings(server.address)
        # Only the clone has this server: the source of that address does not answer.
        with source.listen(server.address) as s:
            assert not client.connect((server.address, s.getsockname()[1]))
    assert talk(two, one, two.address) == one.address and talk(one, two, one.address) == two.address
    for g in a, b:
        assert g.pings("192.168.122.1") and talk(host, g, "192.168.122.1") == g.unique
        with g.listen(g.address) as s, host.connect((g.unique, s.getsockname()[1])):
            pass
    if mode == "nat":
        assert talk(host.outside, a, "10.9.0.1") == "10.9.0.2"
    host.do("port-down", n, port={"tap": a.tap})
    assert not b.pings(a.address, wait=1) and b.pings("192.168.122.1") and one.pings(two.address)
    host.do("port-down", n, ports=[{"tap": g.tap} for g in (b, one, two)])
    assert "forks" not in host.state()["rules"]
    host.do("down", n)
    assert host.state()["rules"] == before["rules"]


def meet(a, b, address):
    """Two clones reach each other, each at its source's address. address: what a's guest has."""
    return talk(b, a, b.address) == a.address and talk_at(a, address, b, a.address) == b.address


def talk_at(server, address, client, to):
    """Do the same as talk(), with a server that knows itself by another address."""
    with server.listen(address) as s, client.connect((to, s.getsockname()[1])), s.accept()[0] as peer:
        return peer.getpeername()[0]


@pytest.mark.parametrize("starts", [True, False], ids=["started again", "asked anew"])
def test_clone_of_a_group_with_new_addresses(host, starts):
    """The other clones find it where they knew it."""
    n = network()
    (one, two), (a, b) = grouped(host, n, **STRICT)
    assert meet(a, b, a.address)
    a.run("ip", "addr", "flush", "dev", "eth0")
    if starts:
        a.run("ip", "link", "set", "eth0", "address", a.own)
    assert a.dhcp("one", *([] if starts else ["-r", a.address]))[0] == a.unique
    a.run("ip", "neigh", "flush", "dev", "eth0")
    b.run("ip", "neigh", "flush", "dev", "eth0")
    assert meet(a, b, a.unique) and a.pings("192.168.122.1")
    a.run("ip", "addr", "flush", "dev", "eth0")  # a revert
    a.run("ip", "link", "set", "eth0", "address", a.mac)
    address_give(a, a.address)
    assert meet(a, b, a.address) and talk(two, one, two.address) == one.address


def test_clones_of_a_group_with_static_addresses(host):
    """cairn-net learns the addresses from the announcements that each clone sends after its start."""
    n = network(ipv4={"address": "192.168.122.1", "prefix": 24})
    host.do("up", n)
    sources = [host.guest(i) for i in (1, 2)]
    clones = [fork_of(host, g, 10 + i) for i, g in enumerate(sources, 1)]
    for i, (source, g) in enumerate(zip(sources, clones)):
        g.address = f"192.168.122.{40 + i}"
        g.peers = [{"mac": c.mac, "own": c.own} for c in clones if c is not g]
        address_give(source, g.address)
        host.do("port-up", n, port=port(source))
        assert "inner" not in host.do("port-up", n, port=peer_port(g))
    a, b = clones
    for g in clones:
        address_give(g, g.address)
        g.run("busybox", "arping", "-U", "-c", "1", "-I", "eth0", g.address, check=False)
    assert meet(a, b, a.address) and a.pings("192.168.122.1")
    with sources[1].listen(b.address) as s:
        assert not a.connect((b.address, s.getsockname()[1]))
    host.do("port-up", n, port=peer_port(a))  # the addresses are learned anew
    assert a.pings("192.168.122.1") and meet(a, b, a.address)
    for g in clones:
        host.run("ip", "link", "del", g.tap)
    host.do("port-down", n, port={"tap": sources[0].tap})
    assert "forks" not in host.state()["rules"]


def group_elements(host, name):
    """Return the elements of a map that the forks of all groups share, each as the list of its addresses."""
    text = host.run("nft", "list", "map", "bridge", f"cairn_{UUID.replace('-', '')}_forks", name).stdout
    elements = re.search(r"elements = \{(.*?)\}", text, re.S)
    return [re.split(r" [.:] ", e.strip()) for e in elements[1].split(",")] if elements else []


def static_group(host, n):
    """Return two guests, and clones of them, with addresses that the network does not know."""
    host.do("up", n)
    sources = [host.guest(i) for i in (1, 2)]
    clones = [fork_of(host, g, 10 + i) for i, g in enumerate(sources, 1)]
    for i, (source, g) in enumerate(zip(sources, clones)):
        g.address = source.address = f"192.168.122.{40 + i}"
        g.peers = [{"mac": c.mac, "own": c.own} for c in clones if c is not g]
        host.do("port-up", n, port=port(source))
        up = host.do("port-up", n, port=peer_port(g))
        assert "inner" not in up
        g.unique = up["address"]
    for g in *sources, *clones:
        address_give(g, g.address)
    return sources, clones


def test_clone_of_a_group_tells_its_peers_no_address_of_others(host):
    """A clone can announce one address only, and not that of the gateway, of dnsmasq or of a fixed host."""
    n = network()
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:77", "address": "192.168.122.77"}]
    _, (a, b) = static_group(host, n)
    wire, seen = Wire(a), Wire(b)
    others = [f"192.168.122.{i}" for i in (1, 254, 77)]
    for address in *others, a.address, *(f"192.168.122.{i}" for i in range(100, 120)):
        wire.send(arp(a.mac, address, address) + b"claims")
    wire.send(arp(a.mac, a.address, a.address) + b"done")
    claims = [f for f in seen.until_mark(b"done") if b"claims" in f]
    assert len(claims) == 24 and not {socket.inet_ntoa(f[28:32]) for f in claims} & set(others)
    assert group_elements(host, "group_inner") == [[a.unique, a.address]]
    assert group_elements(host, "group_unique") == [[a.own, a.address, a.unique]]
    b.run("busybox", "arping", "-U", "-c", "1", "-I", "eth0", b.address, check=False)
    assert len(group_elements(host, "group_inner")) == len(group_elements(host, "group_unique")) == 2
    host.do("port-down", n, port={"tap": a.tap})
    assert group_elements(host, "group_unique") == [[b.own, b.address, b.unique]]


def test_clones_of_a_group_hear_nothing_of_the_sources(host):
    """No clone gets a broadcast of the sources. The clones' own broadcasts arrive with the sources' addresses."""
    n = network()
    (one, two), (a, b) = grouped(host, n)
    assert meet(a, b, a.address)
    seen, wires = Wire(b), [Wire(g) for g in (one, two, a)]
    for wire, g in zip(wires, (one, two, a)):
        wire.send(frame("ff" * 6, g.mac, 0x800, datagram(g.address, "255.255.255.255", 1, 9, b"from " + g.tap.encode())))
        wire.send(arp(g.mac, g.address, b.address) + b"asks " + g.tap.encode())
        wire.send(arp(g.mac, g.address, g.address) + b"tells " + g.tap.encode())
    wires[2].send(frame("ff" * 6, a.mac, 0x800, datagram(a.address, "255.255.255.255", 1, 9, b"done")))
    frames = [f for f in seen.until_mark(b"done") if re.search(b"(from|asks|tells) ", f)]
    assert [re.search(rb"\w+ vnet\d+", f).group().decode() for f in frames if b"vnet2" not in f] == ["from vnet11", "asks vnet11", "tells vnet11"]
    own, address = bytes.fromhex(a.mac.replace(":", "")), socket.inet_aton(a.address)
    assert {f[6:12] for f in frames if b"vnet11" in f} == {own}
    assert [f[22:32] + f[38:42] for f in frames if f[12:14] == b"\x08\x06" and b"vnet11" in f] == [
        own + address + socket.inet_aton(to) for to in (b.address, a.address)]


def test_clone_of_a_group_hears_of_errors(host):
    n = network()
    sources, (a, b) = grouped(host, n)
    for client, server in (a, b), (b, a):
        with client.open(kind=socket.SOCK_DGRAM) as s:
            s.connect((server.address, 9))
            s.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                s.recv(10)


def test_groups_of_clones_do_not_meet(host):
    """Two groups of the same sources: each clone finds the other one of its group, and a third clone finds none."""
    n = network()
    (one, two), first = grouped(host, n)
    second = [fork_of(host, g, 21 + i) for i, g in enumerate((one, two))]
    for g, same in zip(second, first):
        g.address = same.address  # and its peer's source could be a clone itself, which has two MAC addresses
        g.peers = [{"mac": mac, "own": c.own} for c in second if c is not g for mac in (c.mac, "52:54:00:00:00:ee")]
    for g in second:
        host.do("port-up", n, port=peer_port(g))
        address_give(g, g.address)
    for a, b in first, second:
        with b.listen(b.address) as s:
            port_ = s.getsockname()[1]
            with a.connect((b.address, port_)):
                pass
            for other in {first[0], second[0]} - {a}:
                assert not other.connect((b.address, port_))
    alone = fork_of(host, first[0], 31)  # a clone of a clone has the peers of that one
    alone.peers, alone.address = first[0].peers, first[0].address
    host.do("port-up", n, port=peer_port(alone))
    address_give(alone, alone.address)
    with two.listen(two.address) as s:
        assert not alone.pings(two.address, wait=1) and alone.pings("192.168.122.1")
    for g in *first, alone:
        host.run("ip", "link", "del", g.tap)
    host.do("port-down", n, port={"tap": one.tap})
    assert meet(*second, second[0].address)


def test_clone_of_a_group_comes_back(host):
    """The clone was off, and gets another address of the network."""
    n = network()
    (one, two), (a, b) = grouped(host, n)
    assert meet(a, b, a.address)
    before = a.unique
    host.do("port-down", n, port={"tap": a.tap})
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:99", "address": before}]
    host.do("update", n)
    assert not b.pings(a.address, wait=1)
    assert host.do("port-up", n, port=peer_port(a))["address"] != before
    assert meet(a, b, a.address) and talk(two, one, two.address) == one.address


# ---- several ports by one call ----

@contextlib.contextmanager
def generations(host):
    """Collect the changes of the ruleset in a list, each as its process's name."""
    seen = []
    with subprocess.Popen([*host.enter, "stdbuf", "-oL", "nft", "monitor"], stdout=subprocess.PIPE, text=True) as p:
        while not select.select([p.stdout], [], [], 0.05)[0]:  # until it listens
            host.run("nft", "add table ip begin; delete table ip begin")
        yield seen
        host.run("nft", "add table ip end; delete table ip end")
        while "table ip end" not in (line := p.stdout.readline()):
            m = re.match(r"# new generation \d+ by process \d+ \((.*)\)", line)
            seen.extend(m.groups() if m else [])
        p.kill()


def test_ports_of_one_call_share_one_change(host):
    """Forks and a plain VM: each has what it would have by a call of its own."""
    n = network()
    host.do("up", n)
    source, other = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(source))
    address = source.dhcp("source")[0]
    forks = [fork_of(host, source, number) for number in (3, 4, 5)]
    with generations(host) as changes:
        up = host.do("port-up", n, ports=[*map(fork_port, forks), port(other, **STRICT)])
    assert changes.count("cairn-net") == 1, changes
    assert up["ports"][3] == {} and {p["inner"] for p in up["ports"][:3]} == {address}
    other_address = other.dhcp("other")[0]
    unique = [p["address"] for p in up["ports"][:3]]
    assert len({address, other_address, *unique}) == 5
    for g, own in zip(forks, unique):
        address_give(g, address)
        assert talk(other, g, other_address) == own and other.pings(own)
    other.run("ip", "link", "set", "eth0", "address", "52:54:00:00:00:77")
    assert not other.pings("192.168.122.1", wait=1)  # its filter is clean-traffic
    with generations(host) as changes:
        down = host.do("port-down", n, ports=[{"tap": g.tap} for g in (*forks, other)])
    assert changes.count("cairn-net") == 1 and down == {"notes": [], "ports": [{}, {}, {}, {}]}
    assert "_forks" not in host.state()["rules"] and source.pings("192.168.122.1")


def taps_make(host, first, n):
    names = [f"vnet{i}" for i in range(first, first + n)]
    host.run("ip", "-batch", "-", input="".join(f"tuntap add mode tap {t}\nlink set {t} master virbr0\n" for t in names))
    return [{"tap": t, "mac": f"52:54:00:00:01:{first + i:02x}", "fork": {"mac": "52:54:00:00:00:01", "address": "192.168.122.9"}}
            for i, t in enumerate(names)]


def test_work_for_a_port_does_not_grow_with_the_ports(host):
    """The questions and changes that the kernel gets: they were six for each set of each other port."""
    n = network()
    host.do("up", n)
    count = os.path.join(host.tmp, "count")

    def calls(p):
        host.do("port-up", n, port=p, env={"LD_PRELOAD": KILLER, "CALL_COUNT": count})
        with open(count) as f:
            return int(f.read())
    taps = taps_make(host, 1, 60)
    host.do("port-up", n, port=taps[0])
    few = calls(taps[1])
    host.do("port-up", n, ports=taps[2:-1])
    assert few <= calls(taps[-1]) <= few + 3


def test_kill_at_any_point_of_a_call_for_several_ports(host):
    """SIGKILL before each changing call of port-up, and then of port-down: what is left goes with the taps."""
    n = network()
    host.do("up", n)
    before = host.state()
    taps = taps_make(host, 1, 3)
    up, down = host.command("port-up", n, ports=taps), host.command("port-down", n, ports=[{"tap": t["tap"]} for t in taps])

    def rules():
        return host.run("nft", "-s", "list", "ruleset").stdout

    def ended(text, at):
        r = host.run(PROGRAM, input=text, check=False, env=os.environ | {"LD_PRELOAD": KILLER, "KILL_CALL": str(at)})
        assert r.returncode in (0, -signal.SIGKILL), r
        return r.returncode == 0
    assert ended(up, 0) and ended(down, 0)
    clean = rules()
    assert "vnet" not in clean
    for at in range(1, 200):
        over = ended(up, at)
        over = ended(down, at) and over
        assert ended(down, 0) and rules() == clean, at
        if over:
            break
    assert 10 < at < 199
    assert ended(up, 0)
    for t in taps:
        host.run("ip", "link", "del", t["tap"])
    taps_make(host, 9, 1)
    host.do("port-down", n, port={"tap": "vnet9"})
    host.run("ip", "link", "del", "vnet9")
    assert rules() == clean and host.state()["links"] == before["links"]


@pytest.mark.parametrize("keys, sentence", [
    ({"ports": []}, "ports: at least one"), ({"ports": [{"tap": "a", "mac": "52:54:00:00:00:01"}] * 2}, "ports[1].tap: 'a' is there twice"),
    ({"ports": [{"tap": "a", "mac": "52:54:00:00:00:01"}], "port": {"tap": "b"}}, "ports: at least one"), ({"ports": [7]}, "ports[0]: object"),
    ({"ports": [{"tap": "a", "mac": "52:54:00:00:00:01", "x": 1}]}, "ports[0].x: there is no such key"), ({"ports": [{}] * 257}, "ports: more than 256")],
    ids=lambda v: v if isinstance(v, str) else "")
def test_bad_ports(tmp_path, keys, sentence):
    request = {"verb": "port-up", "folder": str(tmp_path), "network": network(), **keys}
    r = subprocess.run([PROGRAM], input=json.dumps(request), capture_output=True, text=True)
    assert sentence in json.loads(r.stdout)["error"]["desc"]
