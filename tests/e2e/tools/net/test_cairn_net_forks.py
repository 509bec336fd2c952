"""cairn-net and live clones, which keep their addresses inside and have unique ones outside (docs/networks.md)."""

import os
import re
import signal
import socket

import pytest

from conftest import until
from hostnetlib import IPV6, UUID, Host, as_root, network
from portlib import (MODES, STRICT, Wire, Wire4, address_give, arp, datagram, dhcp, fork_of, fork_port, frame,
                     is_answer, leases_forget, port, talk)


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


# ---- live clones ----

@pytest.mark.sample(2)
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


@pytest.mark.sample(2)
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
    """The other clones reach it at the address that they know, whatever address it has now."""
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
