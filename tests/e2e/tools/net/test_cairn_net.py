"""cairn-net by itself: a network with guests and a host outside, in network namespaces (docs/networks.md)."""

import copy
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

import guestlib
from conftest import library, until
from hostnetlib import IPV6, PROGRAM, UUID, Host, as_root, netns, network, veth
from netlib import ipv6_add
from portlib import KILLER, MODES, Wire, datagram, datagram6, frame, talk

PRELOAD = library("no_nftables")
STEP = 1 if guestlib.WHOLE else 3  # calls from one kill to the next


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


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


def limits(pid):
    with open(f"/proc/{pid}/limits") as f:
        return {line[:26].strip(): line[26:].split()[:2] for line in f}


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
    assert limits(up["pid"])["Max file size"] == [str(128 << 20)] * 2 and limits(up["pid"])["Max core file size"] == ["0", "0"]
    enter = ["nsenter", "-t", str(up["pid"]), "-m", "-n"]
    assert subprocess.run([*enter, "touch", "/var/tmp/x"], capture_output=True).returncode
    assert not subprocess.run([*enter, "touch", "/tmp/state/x"], capture_output=True).returncode
    links = subprocess.run([*enter, "ip", "-j", "link"], capture_output=True, text=True).stdout
    assert [i["ifname"] for i in json.loads(links)] == ["lo", "svc0"]


def test_lower_limit_of_file_sizes_stays_for_dnsmasq(host):
    """A root without CAP_SYS_RESOURCE, as in a container, may not raise it."""
    up = host.do("up", network(), before=["prlimit", f"--fsize={8 << 20}:{8 << 20}"])
    assert limits(up["pid"])["Max file size"] == [str(8 << 20)] * 2


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
    """A guest keeps its own address outside, and accepts connections from there."""
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


@pytest.mark.parametrize("repaired", [True, False])
def test_stop_restores_forwarding_after_flush_of_all_tables(host, repaired):
    """The network's notes in nftables are gone then. What is left of an earlier run of the host counts for nothing."""
    before, n = host.state(), network(ipv6=IPV6)
    host.do("up", n)
    assert host.sysctl("ipv4.conf.eth0.forwarding") == "1" and host.state() != before
    host.run("nft", "flush", "ruleset")
    if repaired:
        host.do("up", n)
    host.do("down", n)
    assert host.state() == before
    host.sysctl("ipv4.conf.eth0.forwarding", 1)
    before = host.state()
    for verbs in (["down"], ["up", "down"]):
        for verb in verbs:
            host.do(verb, n)
        assert host.state() == before


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

@pytest.mark.seconds(360)  # 13 s alone; beside all other tests, in a guest of kvm-pvm, more than 120
def test_down_after_a_kill_at_any_point_of_up(host):
    """SIGKILL before each call that changes something."""
    host.run("nft", "-f", "-", input=DOCKER)
    before = host.state()
    n = network(ipv6=IPV6)
    text = host.command("up", n)
    killed = 0
    for at in range(1, 400, STEP):
        r = host.run(PROGRAM, input=text, check=False, env=os.environ | {"LD_PRELOAD": KILLER, "KILL_CALL": str(at)})
        host.do("down", n)
        assert host.state() == before, at
        if r.returncode == 0:
            break
        assert r.returncode == -signal.SIGKILL, r
        killed += 1
    assert killed > 20 / STEP


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


def second_daemon(host):
    """Return the host with the folders of another daemon."""
    other = copy.copy(host)
    other.tmp = os.path.join(host.tmp, "second")
    return other


@pytest.mark.parametrize("keys", [{}, {"bridge": "virbr5", "ipv4": {"address": "192.168.130.1", "prefix": 24}}])
def test_network_of_another_daemon_with_the_same_uuid_is_left_alone(host, keys):
    other = second_daemon(host)
    one, two = network(ipv6=IPV6), network(**keys)
    host.do("up", one)
    before = host.state()
    assert other.call("up", two)["error"] == {
        "class": "AlreadyExists", "desc": "network 'default': another daemon of this host runs a network with the same UUID (bridge 'virbr0'); "
        "leave the uuid out of this network's definition, or, if no daemon has that network any more, run: ip link delete virbr0"}
    assert not other.do("check", two)["active"]
    assert other.do("down", two) == {"removed": []}
    assert host.state() == before and host.do("check", one)["complete"]
    host.do("down", one)
    other.do("up", two)
    assert other.do("check", two)["complete"] and not host.do("check", one)["active"]
    other.do("down", two)


def test_daemon_with_another_path_of_its_folder_finds_its_network(host):
    host.do("up", network())
    os.symlink(".", os.path.join(host.tmp, "link"))
    other = second_daemon(host)
    other.tmp = os.path.join(host.tmp, "link")
    assert other.do("check", network())["active"]
    assert "virbr0" in other.do("down", network())["removed"]


def test_bridge_of_another_daemon_is_left_alone(host):
    """The second definition is the first one without its UUID, but with the bridge's MAC address."""
    other = second_daemon(host)
    host.do("up", network())
    copied = network(uuid=UUID.replace("3f", "4f"), mac=host.ip("link", "show", "virbr0")[0]["address"])
    before = host.state()
    e = other.call("up", copied)["error"]
    assert e["class"] == "AlreadyExists" and "give the network another bridge name" in e["desc"]
    assert not other.do("check", copied)["active"] and other.do("down", copied) == {"removed": []}
    assert host.state() == before and host.do("check", network())["complete"]


@pytest.mark.parametrize("alias", ["", "the guests' bridge"])
def test_network_of_an_earlier_version_gets_its_alias(host, alias):
    n = network()
    pid = host.do("up", n)["pid"]
    before = host.state()
    host.run("ip", "link", "set", "virbr0", "alias", alias)
    assert host.do("check", n)["missing"] == ["alias"]
    again = host.do("up", n)
    assert not again["made"] and again["pid"] == pid and host.state() == before
    assert host.do("check", n)["complete"]


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


BOOT_SCRIPT = """#!/bin/sh
[ "$1" != bound ] || ip addr add "$ip/$mask" dev "$interface"
[ "$1" != bound ] || echo "$siaddr $boot_file"
"""


def boots(guest, script):
    """Take an address by DHCP. Return the next server and the file to boot."""
    script.write_text(BOOT_SCRIPT)
    script.chmod(0o755)
    return guest.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-s", str(script)).stdout.split()


def fetch(guest, name, server="192.168.122.254"):
    """Return the file's content by TFTP; None: the server refuses."""
    r = guest.run("busybox", "tftp", "-g", "-r", name, "-l", "/dev/stdout", server, check=False, timeout=50)
    return None if r.returncode else r.stdout


def test_guests_boot_from_the_network(host, tmp_path):
    """The folder may be below /tmp, where dnsmasq has another one. It serves what its user can read there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        os.chmod(root, 0o755)
        os.mkdir(f"{root}/boot", 0o755)
        for name, mode in ("boot/one.ipxe", 0o644), ("boot/two.ipxe", 0o600):
            with open(os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT, mode), "w") as f:
                f.write("#!ipxe\n" * 1000)
        n = network(dns={"enable": False})
        n["ipv4"]["tftp_root"] = root
        n["ipv4"]["dhcp"]["boot_file"] = "boot/one.ipxe"
        before = host.state()
        up = host.do("up", n)
        one, two = host.guest(1), host.guest(2)
        assert boots(one, tmp_path / "boot.sh") == ["192.168.122.254", "boot/one.ipxe"]
        assert fetch(one, "boot/one.ipxe") == fetch(one, "/boot/one.ipxe") == "#!ipxe\n" * 1000
        assert fetch(one, "boot/two.ipxe") is fetch(one, "../../etc/passwd") is fetch(one, "../dhcp-hosts") is None
        assert subprocess.run(["nsenter", "-t", str(up["pid"]), "-m", "touch", "/tmp/tftp/x"], capture_output=True).returncode
        n["ipv4"]["dhcp"]["boot_server"] = "192.168.122.9"
        assert host.do("update", n)["restarted"]
        assert boots(two, tmp_path / "boot.sh") == ["192.168.122.9", "boot/one.ipxe"]
        assert fetch(two, "boot/one.ipxe") == "#!ipxe\n" * 1000
        host.do("down", n)
        for guest in one, two:
            host.run("ip", "link", "delete", guest.tap)
        assert host.state() == before


@pytest.mark.parametrize("mode, sentence", [(0o750, "Permission denied; let all users read it and pass through its parents (chmod o+rx)"),
                                            (0o754, "Permission denied"), (0o751, "Permission denied"), (None, "No such file or directory; make the folder")])
def test_boot_folder_that_dnsmasq_cannot_read_is_named(host, mode, sentence):
    before = host.state()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        if mode:
            os.mkdir(f"{folder}/boot")
            os.chmod(f"{folder}/boot", mode)
        n = network()
        n["ipv4"]["tftp_root"] = f"{folder}/boot"
        e = host.call("up", n)["error"]
    assert e["class"] == "HostError" and f"cannot read the folder of ipv4.tftp_root, {folder}/boot: {sentence}" in e["desc"], e
    assert host.state() == before


READ_ONLY = ["unshare", "-m", "sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$0\""]
ONE_USER = ["unshare", "--user", "--map-root-user", "--net"]


@pytest.mark.parametrize("before, sentence", [
    (READ_ONLY, "accept_ra, which is mounted read-only; in a container, mount /proc/sys writable (docker run --privileged)"),
    (ONE_USER, "; map it, or use a network without DHCP and DNS")], ids=["proc-sys", "user-namespace"])
def test_container_that_lacks_something_is_named(host, before, sentence):
    state = host.state()
    e = host.call("up", network(), before=before)["error"]
    assert e["class"] == "HostError" and sentence in e["desc"], e
    assert host.state() == state


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
        r = host.run("setpriv", "--bounding-set=-net_admin", PROGRAM, input=host.command(verb, n), check=False)
        assert "root lacks it here: give it to the container" in json.loads(r.stdout)["error"]["desc"], verb


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
    ({"ipv4__tftp_root": "srv"}, "network.ipv4.tftp_root: an absolute path"), ({"ipv4__dhcp__boot_file": "a,b"}, "dhcp.boot_file"),
    ({"ipv4__dhcp__boot_file": "a\ndhcp-script=/x"}, "dhcp.boot_file"), ({"ipv4__dhcp__boot_file": "tag:x"}, "dhcp.boot_file"),
    ({"ipv4__dhcp__boot_file": "a" * 128}, "dhcp.boot_file"), ({"ipv4__dhcp__boot_server": "fd00::1"}, "no IPv4 address"),
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
                                  *(json.dumps({"verb": "free", "used": [f"192.168.0.0/{p}"]}) for p in ("24x", "+24", " 24", "0024", "33", "")),
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
