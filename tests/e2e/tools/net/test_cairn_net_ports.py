"""cairn-net's ports: what a guest may send, its leases, and several ports by one call (docs/networks.md)."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

import pytest

import guestlib
from conftest import until
from hostnetlib import IPV6, PROGRAM, UUID, Host, as_root, network
from portlib import (KILLER, STRICT, Wire, address_give, arp, checksum, datagram, fork_of, fork_port, frame,
                     header_sum, leases_forget, port, release, talk)

STEP = 1 if guestlib.WHOLE else 3  # calls from one kill to the next


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


# ---- ports ----

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


def test_running_guest_keeps_its_reserved_address(host):
    """Published ports lead to that address. A fixed host's other address is for the next start, and reserved, too."""
    n = network()
    n["ipv4"]["dhcp"]["ranges"] = [{"start": "192.168.122.10", "end": "192.168.122.11"}]
    host.do("up", n)
    guest, other = host.guest(1), host.guest(2)
    address = host.do("port-up", n, port=port(guest, reserve=True))["address"]
    assert guest.dhcp("guest")[0] == address
    fixed = ({"192.168.122.10", "192.168.122.11"} - {address}).pop()
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": guest.mac, "address": fixed, "name": "web"}]
    assert [f"keeps the address {address} until it is shut down, and has {fixed} from its next start on" in note
            for note in host.do("update", n)["notes"]] == [True]
    assert guest.dhcp("guest")[0] == address and guest.resolve("192.168.122.254", "web") == [address]
    host.do("port-up", n, port=port(other))
    assert other.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "3", "-T", "1", check=False).returncode != 0
    # A guest that resumes a saved state keeps its address, and one that boots gets the fixed one.
    host.do("port-down", n, port={"tap": guest.tap})
    assert host.do("port-up", n, port=port(guest, reserve=True, continues=True))["address"] == address
    host.do("port-down", n, port={"tap": guest.tap})
    assert host.do("port-up", n, port=port(guest, reserve=True))["address"] == fixed
    assert guest.dhcp("guest")[0] == fixed and host.do("update", n)["notes"] == []
    # A first forward of a running VM, whose guest has not renewed its lease since it got a fixed host.
    n["ipv4"]["dhcp"]["hosts"] = []
    late = host.guest(3)
    host.do("port-up", n, port=port(late))
    assert late.dhcp("late")[0] == address
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": late.mac, "address": "192.168.122.12"}]
    host.do("update", n)
    assert host.do("port-reserve", n, port={"tap": late.tap, "mac": late.mac})["address"] == address
    assert late.dhcp("late")[0] == address


def test_guest_waits_4_seconds_for_the_spanning_tree(host):
    """Not 30 seconds, the kernel's default, which guests do not wait for DHCP."""
    n = network(stp=True)
    host.do("up", n)
    bridge = host.ip("-d", "link", "show", "virbr0")[0]["linkinfo"]["info_data"]
    assert (bridge["stp_state"], bridge["forward_delay"]) == (1, 200)  # hundredths of a second
    guest = host.guest(1)
    host.do("port-up", n, port=port(guest))
    assert guest.dhcp("one")


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
    """The first fragment does not show for which MAC address the lease is."""
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
    for at in range(1, 200, STEP):
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
