"""Hostile DHCP clients at a port of a network: they cannot use up its addresses, nor take the names of fixed hosts."""

import os
import socket

import pytest

from hostnetlib import IPV6, Host, as_root, network, until

STRICT = {"filter": "clean-traffic"}
ASKS_MAX = 8  # as in tools/net/port_rules.c


@pytest.fixture
def host(tmp_path):
    yield from as_root(Host, tmp_path)


def port(guest, **more):
    return {"tap": guest.tap, "mac": guest.mac, **more}


def request(mac, address, link="0106", more=bytes(10)):
    """A frame that asks for an address. link: the type and length of the hardware address; more: its bytes behind 6."""
    mac = bytes.fromhex(mac.replace(":", ""))
    body = (bytes.fromhex("01" + link + "0012345678") + bytes(20) + mac + more + bytes(192)
            + bytes.fromhex("63825363" "350103" "3204") + socket.inet_aton(address) + b"\xff")
    head = bytes.fromhex("4500") + (28 + len(body)).to_bytes(2, "big") + bytes.fromhex("000000004011") + bytes(6) + b"\xff" * 4
    total = sum(int.from_bytes(head[i:i + 2], "big") for i in range(0, 20, 2))
    total = ~((total & 0xffff) + (total >> 16)) & 0xffff
    udp = bytes.fromhex("00440043") + (8 + len(body)).to_bytes(2, "big") + bytes(2)
    return b"\xff" * 6 + mac + b"\x08\0" + head[:10] + total.to_bytes(2, "big") + head[12:] + udp + body


def strangers(n):
    return [f"02:00:00:00:00:{i:02x}" for i in range(n)]


def flood(guest, frames):
    with guest.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as s:
        s.bind(("eth0", 0))
        for f in frames:
            s.send(f)


def many(guest):
    """Requests for 150 addresses: by MAC addresses that the guest makes up, and by parts of its own."""
    yield from (request(mac, f"192.168.122.{100 + i}") for i, mac in enumerate(strangers(50)))
    yield from (request(guest.mac, f"192.168.122.{150 + i}", "0110", bytes(9) + bytes([i])) for i in range(50))
    yield from (request(guest.mac, f"192.168.122.{200 + i}", f"{i + 2:02x}06") for i in range(50))


def leases(host, n):
    """Return the addresses by MAC address; of others than Ethernet's, dnsmasq puts the type in front."""
    with open(os.path.join(host.folder(n), "dnsmasq/state/leases")) as f:
        return {line.split()[1]: line.split()[2] for line in f if len(line.split()) == 5}  # dnsmasq may be writing


@pytest.mark.parametrize("strict", [False, True], ids=["no-spoofing", "clean-traffic"])
def test_guest_cannot_use_up_the_addresses(host, strict):
    n = network()
    host.do("up", n)
    bad, good = host.guest(1), host.guest(2)
    host.do("port-up", n, port=port(bad, **(STRICT if strict else {})))
    host.do("port-up", n, port=port(good))
    flood(bad, many(bad))
    own = bad.dhcp("bad")[0]  # dnsmasq has read what came before
    taken = {} if strict else {mac: f"192.168.122.{100 + i}" for i, mac in enumerate(strangers(ASKS_MAX))}
    until(lambda: leases(host, n) == {bad.mac: own} | taken)  # dnsmasq writes the file after its answer
    address = good.dhcp("good")[0]
    assert good.pings("192.168.122.1") and bad.pings(address)
    # A guest behind the bad one's bridge has its address again; without the rules, each request gets one.
    if not strict:
        bad.run("ip", "-4", "addr", "flush", "dev", "eth0")
        bad.run("ip", "link", "set", "eth0", "address", strangers(ASKS_MAX)[-1])
        assert bad.dhcp("inner", "-r", taken[strangers(ASKS_MAX)[-1]])[0] == taken[strangers(ASKS_MAX)[-1]]
        bad.run("ip", "link", "set", "eth0", "address", bad.mac)
    host.do("port-down", n, port={"tap": bad.tap})
    flood(bad, many(bad))
    until(lambda: len(leases(host, n)) >= 150)


def test_port_counts_anew_when_it_comes_back(host):
    n = network()
    host.do("up", n)
    guest = host.guest(1)
    for i in range(2):
        host.do("port-up", n, port=port(guest))
        flood(guest, (request(mac, f"192.168.122.{100 + k}") for k, mac in enumerate(strangers(50)) if k % 2 == i))
        guest.dhcp("guest")
        guest.run("ip", "-4", "addr", "flush", "dev", "eth0")
        until(lambda i=i: guest.mac in leases(host, n) and len(leases(host, n)) == 1 + ASKS_MAX * (i + 1))
        host.do("port-down", n, port={"tap": guest.tap})
    assert "asks_" not in host.state()["rules"]


def test_name_of_a_fixed_host_is_its_own(host):
    """No other client gets the name: while that host is off, in other case, with the domain, or by DHCPv6."""
    n = network(ipv6=IPV6 | {"dhcp": {"ranges": [{"start": "fd00:7::100", "end": "fd00:7::1ff"}]}})
    n["ipv4"]["dhcp"]["hosts"] = [{"mac": "52:54:00:00:00:02", "name": "web1", "address": "192.168.122.77"},
                                  {"mac": "52:54:00:00:00:03", "name": "db1"}]
    host.do("up", n)
    bad, web, db = (host.guest(i) for i in (1, 2, 3))

    def names(kind=1):
        return [host.resolve("192.168.122.1", name, kind) for name in ("web1", "db1", "bad")]
    for name in "web1", "WEB1", "db1", "web1.vms":
        bad.dhcp(name)
        bad.run("ip", "-4", "addr", "flush", "dev", "eth0")
    bad.dhcp6("web1")
    assert not any(names()) and not any(names(28))
    address = db.dhcp("anything")[0]
    assert web.dhcp("bad")[0] == "192.168.122.77"
    assert names() == [["192.168.122.77"], [address], None]
    for name in "web1", "db1", "bad":
        own = bad.dhcp(name)[0]
        bad.run("ip", "-4", "addr", "flush", "dev", "eth0")
    assert names() == [["192.168.122.77"], [address], [own]]
