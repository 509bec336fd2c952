"""The links by which guests of cairn-net's networks reach other networks: VPNs, several NICs, and other firewalls that
drop (docs/networks.md, "Forwarding")."""

import os
import socket
import subprocess

import pytest

from hostnetlib import IPV6, UUID, Host, as_root, link, network, until, vpn
from portlib import talk
from test_cairn_net import DOCKER, OWN

BEHIND = "203.0.113.7"
HALVES = ["0.0.0.0/1", "128.0.0.0/1"]
# Before Linux 6.17, a host that forwards IPv6 does so between all links.
HAS_FORCE = os.path.exists("/proc/sys/net/ipv6/conf/all/force_forwarding")


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


def openvpn(host):
    """Its redirect-gateway def1."""
    return vpn(host, "tun0", HALVES)


def wg_quick(host):
    """A default route in a table of its own, by rules."""
    other = vpn(host, "wg0", ["default"], "table", "51820")
    host.run("ip", "rule", "add", "not", "fwmark", "51820", "table", "51820")
    host.run("ip", "rule", "add", "table", "main", "suppress_prefixlength", "0")
    return other


def split(host):
    return vpn(host, "tun0", ["203.0.113.0/24"])


def second_nic(host):
    """A network without a gateway."""
    other = link(host, "eth1", 8)
    for where, address in (host, "203.0.113.2/24"), (other, "203.0.113.7/24"):
        where.run("ip", "addr", "add", address, "dev", "eth1" if where is host else "eth0")
    return other


def bridged_nic(host):
    """The same, behind a bridge with the NIC; here a VXLAN stands for the NIC."""
    other = link(host, "eth1", 8)
    host.run("ip", "link", "add", "br0", "type", "bridge")
    for where, to in (host, "10.8.0.1"), (other, "10.8.0.2"):
        where.run("ip", "link", "add", "nic", "type", "vxlan", "id", "5", "dstport", "4789", "remote", to)
        where.run("ip", "link", "set", "nic", "up")
    host.run("ip", "link", "set", "nic", "master", "br0")
    host.run("ip", "link", "set", "br0", "up")
    for where, address, name in (host, "203.0.113.2/24", "br0"), (other, "203.0.113.7/24", "nic"):
        where.run("ip", "addr", "add", address, "dev", name)
    return other


@pytest.mark.parametrize("firewall", ["", OWN, DOCKER], ids=["alone", "drops", "docker"])
@pytest.mark.parametrize("make", [openvpn, wg_quick, split, second_nic, bridged_nic])
def test_guests_reach_what_the_host_reaches(host, make, firewall):
    if firewall:
        host.run("nft", "-f", "-", input=firewall)
    other = make(host)
    before = host.state()
    n = network()
    assert host.do("up", n)["notes"] == []
    assert host.do("check", n)["complete"]
    guest = host.guest(1)
    guest.dhcp("one")
    assert talk(other, guest, BEHIND) in ("10.8.0.2", "203.0.113.2")
    # Nobody there reaches the guest.
    other.run("ip", "route", "add", "192.168.122.0/24", "via", "10.8.0.2")
    assert talk(guest, other, guest.addresses("inet")[0]) is None
    guest.close()
    host.others.remove(guest)
    until(lambda: guest.tap not in str(host.ip("link")))
    host.do("down", n)
    assert host.state() == before


def test_each_link_of_a_route_by_several_is_an_uplink(host):
    link(host, "eth1", 8)
    host.run("ip", "route", "replace", "default", "nexthop", "via", "10.8.0.1", "dev", "eth1", "nexthop", "via", "10.9.0.1", "dev", "eth0")
    assert host.do("up", network())["notes"] == []
    assert host.sysctl("ipv4.conf.eth1.forwarding") == host.sysctl("ipv4.conf.eth0.forwarding") == "1"


def test_guests_of_a_routed_network_and_two_lans(host):
    """Without a default route, which a note tells."""
    other = link(host, "eth1", 8)
    host.run("ip", "route", "del", "default")
    host.run("nft", "-f", "-", input=OWN)
    note, = host.do("up", network("route"))["notes"]
    assert "no default route" in note and "reach only networks to which the host has a route" in note
    guest = host.guest(1)
    address = guest.dhcp("one")[0]
    for lan, gateway, theirs in (host.outside, "10.9.0.2", "10.9.0.1"), (other, "10.8.0.2", "10.8.0.1"):
        lan.run("ip", "route", "add", "192.168.122.0/24", "via", gateway)
        assert talk(lan, guest, theirs) == address and talk(guest, lan, address) == theirs


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_host_is_no_router_between_its_links(host, family):
    """Until somebody switches forwarding on for all links."""
    if family == socket.AF_INET6 and not HAS_FORCE:
        pytest.skip("this kernel forwards IPv6 by all links or none")
    other = link(host, "eth1", 8)
    for lan, number, far in (host.outside, 9, 8), (other, 8, 9):
        lan.run("ip", "route", "add", f"10.{far}.0.0/24", "via", f"10.{number}.0.2")
        lan.run("ip", "-6", "route", "add", f"fd00:{far}::/64", "via", f"fd00:{number}::2")
    n = network(ipv6=IPV6)
    two = network(name="two", uuid=UUID.replace("3f", "4f"), bridge="virbr1", ipv4={"address": "192.168.123.1", "prefix": 24},
                  ipv6={"address": "fd00:6::1", "prefix": 64})
    host.do("up", n)
    host.do("up", two)
    far = {host.outside: "10.8.0.1", other: "10.9.0.1"} if family == socket.AF_INET else {host.outside: "fd00:8::1", other: "fd00:9::1"}
    assert not any(lan.pings(address, wait=1) for lan, address in far.items())
    switch = "ipv4.ip_forward" if family == socket.AF_INET else "ipv6.conf.all.forwarding"
    host.sysctl(switch, 1)
    for net in n, two:
        assert host.do("check", net)["missing"] == ["forwarding"]
        host.do("up", net)
        assert host.do("check", net)["complete"]
    assert all(lan.pings(address) for lan, address in far.items())
    for net in n, two:
        host.do("down", net)
    assert all(lan.pings(address) for lan, address in far.items()) and host.sysctl(switch) == "1"


def test_host_is_no_router_between_links_of_two_networks(host):
    """Each network knows only its own link."""
    other = link(host, "eth1", 8)
    for lan, number, far in (host.outside, 9, 8), (other, 8, 9):
        lan.run("ip", "route", "add", f"10.{far}.0.0/24", "via", f"10.{number}.0.2")
    n = network(dev="eth0")
    two = network(name="two", uuid=UUID.replace("3f", "4f"), bridge="virbr1", ipv4={"address": "192.168.123.1", "prefix": 24}, dev="eth1")
    for net in n, two:
        host.do("up", net)
    assert host.sysctl("ipv4.conf.eth0.forwarding") == host.sysctl("ipv4.conf.eth1.forwarding") == "1"
    assert not host.outside.pings("10.8.0.1", wait=1) and not other.pings("10.9.0.1", wait=1)
    for net in n, two:
        assert host.do("check", net)["complete"]


def test_links_of_containers_are_no_uplinks(host):
    """Those of bridges, and those with a route for each container."""
    host.run("nft", "-f", "-", input=OWN)
    host.run("ip", "link", "add", "docker0", "type", "bridge")
    host.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
    host.run("ip", "link", "set", "docker0", "up")
    host.guest(9, "docker0")
    link(host, "cali1", 8)
    host.run("ip", "addr", "flush", "dev", "cali1")
    host.run("ip", "route", "add", "172.18.0.2/32", "dev", "cali1")
    host.do("up", network(ipv6=IPV6))
    for name in "docker0", "cali1":
        for setting in ["ipv4.conf.{}.forwarding", "ipv6.conf.{}.force_forwarding"][:1 + HAS_FORCE]:
            assert host.sysctl(setting.format(name)) == "0"
        assert f'ifname "{name}"' not in host.run("nft", "list", "ruleset").stdout


def test_rules_of_another_firewall_name_the_links_of_now(host):
    """The route moves to another link, where forwarding is on already."""
    host.run("nft", "-f", "-", input=OWN)
    host.sysctl("ipv4.ip_forward", 1)
    vpn(host, "tun1", HALVES)
    n = network()
    host.do("up", n)
    host.run("ip", "link", "del", "tun1")
    other = vpn(host, "tun2", HALVES)
    assert host.do("check", n)["missing"] == ["accept"]
    host.do("up", n)
    guest = host.guest(1)
    guest.dhcp("one")
    assert talk(other, guest, BEHIND) == "10.8.0.2"


def test_uplink_that_is_gone_is_forgotten(host):
    n = network(ipv6=IPV6)
    vpn(host, "tun0", HALVES)
    host.do("up", n)
    host.run("ip", "link", "del", "tun0")
    host.do("up", n)
    assert host.do("check", n)["complete"] and "tun0" not in host.run("nft", "list", "ruleset").stdout


class Owner:
    """A program that owns its table, as firewalld with NftablesTableOwner does: nobody else can change it."""

    def __init__(self, host):
        self.host = host
        self.nft = subprocess.Popen([*host.enter, "nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for command in ("add table inet firewalld { flags owner; }",
                        "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }",
                        "add rule inet firewalld filter_FORWARD ct state established,related accept",
                        "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited"):
            self.do(command)
        until(lambda: "admin-prohibited" in host.run("nft", "list", "ruleset").stdout)

    def do(self, command):
        self.nft.stdin.write(command + "\n")
        self.nft.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.nft.communicate()


@pytest.mark.parametrize("link_name", ["virbr0", "virbr*"])
def test_table_that_another_program_owns(host, link_name):
    """A note names the command, until the other firewall has a rule for the bridge. The network can be checked,
    started again, and stopped."""
    n = network()
    two = network(name="two", uuid=UUID.replace("3f", "4f"), bridge="br1", ipv4={"address": "192.168.123.1", "prefix": 24})
    with Owner(host) as owner:
        before = host.state()
        for _ in range(2):
            note, = host.do("up", n)["notes"]
            assert note.endswith("run: firewall-cmd --zone=trusted --add-interface=virbr0") and "another firewall drops" in note
            assert host.do("check", n)["missing"] == ["accept"]
        owner.do(f'insert rule inet firewalld filter_FORWARD iifname "{link_name}" accept')
        until(lambda: host.do("check", n)["complete"])
        assert host.do("up", n)["notes"] == [] and host.do("update", n)["notes"] == []
        guest = host.guest(1)
        guest.dhcp("one")
        assert talk(host.outside, guest, "10.9.0.1") == "10.9.0.2"
        assert "br1" in host.do("up", two)["notes"][0] and host.do("check", two)["missing"] == ["accept"]
        guest.close()
        host.others.remove(guest)
        until(lambda: guest.tap not in str(host.ip("link")))
        host.do("down", two)
        host.do("down", n)
        after = host.state()
        assert [line for line in after.pop("rules").splitlines() if link_name not in line] == before.pop("rules").splitlines()
        assert after == before
