"""Ports of the host that lead to VMs on a NAT network: the real cairn-net and cairn-publish, and guests that send
datagrams back, in a network namespace of the test's own."""

import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import types

import pytest

import guestlib
from conftest import BUILD, Console, QmpError, until
from daemonlib import as_nobody
from hostnetlib import Namespace
from netlib import ipv6_add
from test_forward import added, forwards
from test_network import MAC, host, lan  # noqa: F401 (fixtures)
from test_network_ports import ARP, RealDaemon, leases, mac_of

pytestmark = pytest.mark.seconds(180)  # a test has up to fifty guests


class Publisher(RealDaemon):
    def __init__(self, tmp, lan):  # noqa: F811
        lan.ip("link", "set", "lo", "up")
        (tmp / "libexec").mkdir()
        shutil.copy(os.path.join(BUILD, "cairn-publish"), tmp / "libexec")
        super().__init__(tmp, lan)

    def publishers(self):
        """The process ids of the programs that publish ports."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe") == str(self.program / "cairn-publish"):
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def serve(self, name, c):
        """Have the guest take an address by DHCP, and send datagrams back from now on. Return the address."""
        address = c.run("net dhcp")[0]
        c.run("pit 20")  # fifty guests with 100 interrupts a second take all of two processors
        c.sock.sendall(b"net serve\n")
        c.close()
        return address


@pytest.fixture
def real(tmp_path, lan, kvm):  # noqa: F811
    d = Publisher(tmp_path, lan)
    yield d
    d.close()


def socket_to(lan, port, address="127.0.0.1"):  # noqa: F811
    s = lan.inside(lambda: socket.socket(type=socket.SOCK_DGRAM))
    s.settimeout(0.5)
    s.connect((address, port))
    return s


def answers(lan, port, text=b"question", address="127.0.0.1"):  # noqa: F811
    """Return whether a datagram to the host's port comes back."""
    s = socket_to(lan, port, address)
    for _ in range(60):
        try:
            s.send(text)
            if s.recv(100) == text:
                return True
        except (TimeoutError, ConnectionRefusedError):
            pass
    return False


def bound(lan, port):  # noqa: F811
    """Return whether a program has the UDP port of the loopback address."""
    s = lan.inside(lambda: socket.socket(type=socket.SOCK_DGRAM))
    try:
        s.bind(("127.0.0.1", port))
        return False
    except OSError:
        return True
    finally:
        s.close()


def client_of(lan, port):  # noqa: F811
    """A TCP client of the host's port."""
    s = lan.inside(socket.socket)
    s.settimeout(30)
    s.connect(("127.0.0.1", port))
    return s


def echoes(s, data):
    s.sendall(data)
    return s.recv(len(data), socket.MSG_WAITALL) == data


def define(d, name="vm1", disks=(), **face):
    v = guestlib.definition(name, disks=disks, interfaces=[{"type": "network", "source": "lan", "mac": MAC, **face}])
    (d.tmp / f"{name}.json").write_text(json.dumps(v))
    return d.cairn("define", str(d.tmp / f"{name}.json"))


def test_forwards_of_a_vm_on_a_network(real, lan):  # noqa: F811
    before = real.rules()
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}])
    address = real.serve("vm1", real.begin("vm1"))
    assert [(f["protocol"], f["address"], f["port"], f["to"]) for f in forwards(real, "vm1")] == [("udp", "127.0.0.1", 8007, 7)]
    assert answers(lan, 8007)
    assert json.loads(real.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    assert answers(lan, 8007)
    late = added(real, "vm1", "udp:auto:7")
    assert answers(lan, late) and len(real.publishers()) == 1
    # Both, also without a daemon and with the next one, which changes them.
    real.stop(signal.SIGKILL)
    assert answers(lan, late)
    real.start()
    assert [f["port"] for f in forwards(real, "vm1")] == [8007, late] and answers(lan, 8007)
    real.cairn("forward-remove", "vm1", "udp:8007")
    assert not bound(lan, 8007) and answers(lan, late)
    assert "is also used by interfaces[0].forwards[0]" in refused(real, "vm1", f"udp:{late}:9")
    # The address stays the guest's, and net-info says for whom it is reserved.
    assert leases(real) == [(MAC, address)]
    info = json.loads(real.cairn("net-info", "lan", "--format", "json").stdout)
    assert info["reserved"] == [{"name": "vm1", "interface": "net0", "network": "lan", "address": address}] and "clones" not in info
    assert f"vm1 {address}, for its published ports" in real.cairn("net-info", "lan").stdout
    real.cairn("destroy", "vm1")
    until(lambda: not bound(lan, late) and not real.publishers() and "_forks" not in real.rules())
    real.cairn("start", "vm1")
    assert [f["port"] for f in forwards(real, "vm1")] == [8007] and bound(lan, 8007)
    real.cairn("destroy", "vm1")
    until(lambda: real.rules() == before or "vnet" not in real.rules())
    real.cairn("net-destroy", "lan")
    assert "cairn" not in real.rules()


def test_ports_of_ipv6_addresses(real, lan):  # noqa: F811
    """Ports come from the definition, from forward-add and with live clones. "::" and 0.0.0.0 can have the same
    port."""
    ipv6_add(lan, "fd00:1::7/64", "lo")

    def answers6(port, address="::1"):
        s = lan.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        s.settimeout(0.5)
        s.connect((address, port))
        for _ in range(60):
            try:
                s.send(b"question")
                if s.recv(100) == b"question":
                    return True
            except (TimeoutError, ConnectionRefusedError):
                pass
        return False
    define(real, forwards=[{"protocol": "udp", "address": "0:0::0", "port": 8007, "to": 7},
                           {"protocol": "udp", "address": "0.0.0.0", "port": 8007, "to": 7}])
    real.serve("vm1", real.begin("vm1"))
    assert [f["address"] for f in forwards(real, "vm1")] == ["::", "0.0.0.0"]
    assert answers6(8007) and answers6(8007, "fd00:1::7") and answers(lan, 8007)
    late = json.loads(real.cairn("forward-add", "vm1", "udp:[fd00:1::7]:auto:7", "--format", "json").stdout)["port"]
    assert answers6(late, "fd00:1::7") and not bound(lan, late)
    assert "[fd00:1::7]" in real.cairn("forward-list", "vm1").stdout
    assert "[fd00:1::7]:8007 is also used by interfaces[0].forwards[0]" in refused(real, "vm1", "udp:[fd00:1::7]:8007:7")
    assert "this host has no such address" in refused(real, "vm1", "udp:[fd00:2::7]:8008:7")
    for bad in "[::ffff:127.0.0.1]", "[fe80::1]", "[ff02::1]":
        assert "cannot be listened on" in refused(real, "vm1", f"udp:{bad}:8008:7")
    assert "is not an IPv6 address" in refused(real, "vm1", "udp:[::g]:8008:7")
    real.stop(signal.SIGKILL)
    real.start()
    real.cairn("forward-remove", "vm1", f"udp:[fd00:1::7]:{late}")
    assert [f["port"] for f in forwards(real, "vm1")] == [8007, 8007] and answers6(8007)
    made = json.loads(real.cairn("clone", "--live", "vm1", "c", "--count", "2", "--publish", "udp:[::1]:auto:7", "--format", "json").stdout)
    assert [m["address"] for m in made["published"]] == ["::1", "::1"] and all(answers6(m["port"]) for m in made["published"])


def test_ipv6_address_needs_a_network(real):
    v = guestlib.definition("u", interfaces=[{"type": "user", "forwards": [{"address": "::", "port": 8007, "to": 7}]}])
    (real.tmp / "u.json").write_text(json.dumps(v))
    assert "is an IPv6 address, which requires type network" in real.cairn("define", str(real.tmp / "u.json"), ok=False).stderr


def refused(d, vm, what, *args):
    return d.cairn("forward-add", *args, vm, what, ok=False).stderr


def test_vm_without_forwards_gets_some(real, lan):  # noqa: F811
    """A cairn-publish begins with the first one; start --publish does the same."""
    define(real)
    c = real.begin("vm1")
    assert not real.publishers()
    address = real.serve("vm1", c)
    port = added(real, "vm1", "udp:auto:7")
    assert answers(lan, port) and leases(real) == [(MAC, address)]
    real.cairn("forward-add", "vm1", "udp:0.0.0.0:8007:7", "--guest", address)
    for at in "127.0.0.1", "10.77.0.1":
        assert answers(lan, 8007, address=at)
    assert not bound(lan, 9)
    # The VM ends while no daemon runs.
    pid = real.info("vm1")["pid"]
    real.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not real.publishers() and not bound(lan, port))
    real.start()
    until(lambda: "_forks" not in real.rules())
    r = real.cairn("start", "vm1", "--publish", "udp:auto:7")
    port = int(r.stdout.split("127.0.0.1:")[1].split()[0])
    c = Console(real, "vm1")
    c.run("net open 0")
    real.serve("vm1", c)
    assert answers(lan, port)


def test_cairn_publish_that_dies_is_started_again(real, lan):  # noqa: F811
    """The new process has all ports of its interface, also those of forward-add, and also if the old one dies while no
    daemon runs."""
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}])
    real.serve("vm1", real.begin("vm1"))
    late = added(real, "vm1", "udp:auto:7")
    q = real.qmp()
    why = "its cairn-publish has ended with signal 9"
    os.kill(real.publishers()[0], signal.SIGKILL)
    assert q.event("FORWARDS_CHANGE", vm="vm1", open=False)["data"]["detail"] == why
    assert q.event("FORWARDS_CHANGE", vm="vm1", open=True)["data"]["device"] == "net0"
    assert answers(lan, 8007) and answers(lan, late) and len(real.publishers()) == 1
    log = real.log.read_text()
    assert f"interface net0: its published ports are closed, and are opened again in 0.1 s: {why}" in log
    assert "interface net0: its published ports are open again" in log
    assert all("problem" not in f for f in forwards(real, "vm1")) and "closed" not in real.cairn("forward-list", "vm1").stdout
    real.stop(signal.SIGKILL)
    os.kill(real.publishers()[0], signal.SIGKILL)
    until(lambda: not real.publishers())
    real.start()
    until(lambda: all("problem" not in f for f in forwards(real, "vm1")))
    assert answers(lan, late) and answers(lan, 8007)
    real.cairn("forward-remove", "vm1", f"udp:{late}")
    assert not bound(lan, late) and answers(lan, 8007)
    real.cairn("destroy", "vm1")
    until(lambda: not real.publishers() and not bound(lan, 8007))


def test_vm_of_an_earlier_daemon_ends_without_a_word_about_its_ports(real, lan):  # noqa: F811
    """cairn-publish ends with its VM. It is no child of the new daemon, which may notice its end before the VM's."""
    names = [f"vm{i}" for i in range(6)]
    for i, name in enumerate(names):
        define(real, name, mac=f"52:54:00:00:01:{i:02x}", forwards=[{"protocol": "udp", "port": 8007 + i, "to": 7}])
        real.begin(name).close()
    real.stop(signal.SIGKILL)
    real.start()
    real.cairn("destroy", *names)
    until(lambda: not real.publishers())
    assert "published ports are closed" not in real.log.read_text()


def test_ports_that_cannot_be_opened_again_are_told(real, lan):  # noqa: F811
    """cairn-publish is missing, and then another program has one of the ports: the daemon continues to try."""
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}, {"protocol": "udp", "port": 8008, "to": 7}])
    real.serve("vm1", real.begin("vm1"))
    program, away, pid = real.program / "cairn-publish", real.tmp / "away", real.publishers()[0]
    program.rename(away)

    def problems():
        return [f.get("problem", "") for f in forwards(real, "vm1")]
    os.kill(pid, signal.SIGKILL)
    until(lambda: ["cannot start" in p for p in problems()] == [True, True])
    with lan.inside(lambda: socket.socket(type=socket.SOCK_DGRAM)) as s:
        s.bind(("127.0.0.1", 8008))
        away.rename(program)
        until(lambda: all("8008 is used by another program" in p for p in problems()))
        assert "Interface net0: the ports are closed, and are opened again when possible: " in real.cairn("forward-list", "vm1").stdout
        assert "none can be added now; try again: " in refused(real, "vm1", "udp:auto:9")
    until(lambda: problems() == ["", ""])
    assert answers(lan, 8007) and answers(lan, 8008)


def test_forward_add_waits_until_ports_are_opened_again(real, lan):  # noqa: F811
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}])
    real.serve("vm1", real.begin("vm1"))
    program, away, pid = real.program / "cairn-publish", real.tmp / "away", real.publishers()[0]
    program.rename(away)
    os.kill(pid, signal.SIGKILL)
    until(lambda: "cannot start" in forwards(real, "vm1")[0].get("problem", ""))
    away.rename(program)  # for the next try, in a second or more
    late = added(real, "vm1", "udp:auto:7")
    assert all("problem" not in f for f in forwards(real, "vm1"))
    assert answers(lan, late) and answers(lan, 8007) and len(real.publishers()) == 1


def test_clones_of_a_group_publish_ports_on_networks_that_they_do_not_share(real, lan):  # noqa: F811
    """The network that the clones get in place of the shared one has no way to the host."""
    for i, name in enumerate(("vm1", "vm2")):
        net = f"10.{80 + i}.0"
        real.define_net(f"own{i}", ipv4={"address": f"{net}.1", "prefix": 24, "dhcp": {"ranges": [{"start": f"{net}.2", "end": f"{net}.99"}]}})
        real.cairn("net-start", f"own{i}")
        v = guestlib.definition(name, interfaces=[{"type": "network", "source": "lan"}, {"type": "network", "source": f"own{i}"}])
        (real.tmp / f"{name}.json").write_text(json.dumps(v))
        real.cairn("define", str(real.tmp / f"{name}.json"))
        real.cairn("start", name)
        c = Console(real, name)
        assert c.line() == "interp" and guestlib.fields(c.run("net open 1")[-1])["link"] == 1
        real.serve(name, c)
    r = json.loads(real.cairn("group-clone", "vm1", "vm2", "--publish", "udp:auto:7", "--format", "json").stdout)
    published = [p for c in r["clones"] for p in c["published"]]
    assert [(p["name"], p["protocol"], p["to"]) for p in published] == [("vm1-clone", "udp", 7), ("vm2-clone", "udp", 7)]
    for p in published:
        assert answers(lan, p["port"], str(p).encode())
    q = real.qmp()
    with pytest.raises(QmpError, match="VM 'vm1': forwards: interface 'net0' is on network 'lan', which several of the VMs share"):
        q.run("group-clone", vms=["vm1", "vm2"], forwards=[{"to": 7, "interface": "net0"}], **{"name-pattern": "%s-b"})
    assert len(real.publishers()) == 2
    for name in "vm1", "vm2":
        real.cairn("destroy", f"{name}-clone")
        real.cairn("destroy", name)
    for i in range(2):
        real.cairn("net-destroy", f"own{i}")


def test_clones_of_a_group_publish_ports_on_the_network_on_which_they_stay(real, lan):  # noqa: F811
    for i, name in enumerate(("vm1", "vm2"), 1):
        define(real, name, mac=f"52:54:00:00:00:0{i}")
        real.serve(name, real.begin(name))
    r = json.loads(real.cairn("group-clone", "vm1", "vm2", "--network", "shared", "--publish", "udp:auto:7", "--format", "json").stdout)
    published = [p for c in r["clones"] for p in c["published"]]
    assert [(p["name"], p["to"]) for p in published] == [("vm1-clone", 7), ("vm2-clone", 7)]
    for p in published:
        assert answers(lan, p["port"], str(p).encode())
    real.cairn("suspend", "vm2-clone")
    s = socket_to(lan, published[1]["port"])
    s.send(b"held")
    with pytest.raises(TimeoutError):
        s.recv(100)
    assert answers(lan, published[0]["port"])


def test_live_clones_publish_ports(real, lan):  # noqa: F811
    """Each clone's guest has the source's addresses, and each clone has a port of its own."""
    define(real)
    c = real.begin("vm1")
    address = real.serve("vm1", c)
    r = json.loads(real.cairn("clone", "--live", "vm1", "c", "--count", "3", "--publish", "udp:auto:7", "--format", "json").stdout)
    assert [(p["name"], p["protocol"], p["address"], p["to"]) for p in r["published"]] == [
        (f"c-{i}", "udp", "127.0.0.1", 7) for i in (1, 2, 3)]
    assert {a["guest-address"] for a in r["addresses"]} == {address}
    ports = [p["port"] for p in r["published"]]
    assert len(set(ports)) == 3 and len(real.publishers()) == 3
    for p in ports:
        assert answers(lan, p, str(p).encode())
    real.cairn("suspend", "c-2")  # the ports lead to the clones themselves
    s = socket_to(lan, ports[1])
    s.send(b"held")
    with pytest.raises(TimeoutError):
        s.recv(100)
    assert answers(lan, ports[0]) and answers(lan, ports[2])
    real.cairn("resume", "c-2")
    assert answers(lan, ports[1])
    late = added(real, "c-1", "udp:auto:7")
    assert answers(lan, late)
    assert "remove guest" in refused(real, "c-1", "udp:auto:7", "--guest", address)
    for forward, sentence in ({"to": 7, "guest": address}, "remove guest"), ({"to": 7, "interface": "net9"}, "has no interface 'net9'"):
        with pytest.raises(QmpError, match=sentence):
            real.qmp().run("vm-fork", vm="vm1", name="d", forwards=[forward], **{"job-id": "j"})
    real.stop(signal.SIGKILL)
    real.start()
    assert answers(lan, ports[2]) and [f["port"] for f in forwards(real, "c-1")] == [ports[0], late]
    for i in (1, 2, 3):
        real.cairn("destroy", f"c-{i}")
    until(lambda: not real.publishers() and "_forks" not in real.rules())
    assert forwards(real, "c-1") == []


def test_fifty_live_clones_have_networks_macs_leases_and_ports(real, lan):  # noqa: F811
    """Each clone answers on its own port and at its own address."""
    count = 50
    define(real)
    inside = real.serve("vm1", real.begin("vm1"))
    r = json.loads(real.cairn("clone", "--live", "vm1", "c", "--count", str(count), "--publish", "auto:22", "--publish", "udp:auto:7",
                              "--format", "json").stdout)
    names = [f"c-{i}" for i in range(1, count + 1)]
    assert [(p["name"], p["protocol"], p["to"]) for p in r["published"]] == [
        (n, *p) for n in names for p in (("tcp", 22), ("udp", 7))]
    ports = {p["name"]: p["port"] for p in r["published"] if p["protocol"] == "udp"}
    assert len({p["port"] for p in r["published"] if p["protocol"] == "tcp"}) == len(set(ports.values())) == count
    assert [(a["name"], a["network"], a["guest-address"]) for a in r["addresses"]] == [(n, "lan", inside) for n in names]
    where = {a["name"]: a["address"] for a in r["addresses"]}
    q = real.qmp()
    macs = {n: q.run("vm-info", vm=n)["interfaces"][0]["mac"] for n in names}
    assert len({inside, *where.values()}) == len({MAC, *macs.values()}) == count + 1
    for n in names[::7]:
        rows = real.cairn("domifaddr", n, "--source", "lease").stdout.splitlines()[2:]
        assert [row.split() for row in rows if row] == [["net0", macs[n], "ipv4", f"{where[n]}/24"]]
    asked = {socket_to(lan, *to): n for n in names for to in ((ports[n],), (7, where[n]))}
    for s, n in asked.items():  # all at once
        s.send(n.encode())
    for s, n in asked.items():
        def came(s=s, n=n):
            try:
                return s.recv(100) == n.encode()
            except (TimeoutError, ConnectionRefusedError):
                s.send(n.encode())
        until(came)
    real.cairn("destroy", *names)
    until(lambda: not real.publishers() and "_forks" not in real.rules())


def test_port_that_cannot_be_had(real, lan):  # noqa: F811
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}])
    real.begin("vm1").close()
    define(real, "vm2", mac="52:54:00:00:00:02")
    real.cairn("start", "vm2")
    with lan.inside(lambda: socket.socket(type=socket.SOCK_DGRAM)) as s:
        s.bind(("127.0.0.1", 8008))
        assert "udp 127.0.0.1:8008 is used by another program" in refused(real, "vm2", "udp:8008:7")
    assert "is forwarded to VM 'vm1'; shut that VM down first" in refused(real, "vm2", "udp:8007:7")
    assert "is not an address that the guest can have in network 'lan'" in refused(real, "vm2", "udp:auto:7", "--guest", "10.78.0.5")
    for guest in "10.77.0.1", "10.77.0.0", "10.77.0.255":
        assert "is not an address" in refused(real, "vm2", "udp:auto:7", "--guest", guest)
    assert forwards(real, "vm2") == []


@pytest.mark.parametrize("keys, sentence", [
    ({"mode": "route"}, "network 'lan' has mode route, and ports lead to VMs on networks of mode nat"),
    ({"ipv4": {"address": "10.77.0.1", "prefix": 24}}, "network 'lan' has no DHCP")], ids=json.dumps)
def test_network_where_ports_lead_to_no_vm(real, keys, sentence):
    real.cairn("net-destroy", "lan")
    real.define_net(**keys)
    real.cairn("net-start", "lan")
    define(real, forwards=[{"port": 8007, "to": 7}])
    assert sentence in real.cairn("start", "vm1", ok=False).stderr
    define(real)
    real.cairn("start", "vm1")
    assert sentence in refused(real, "vm1", "auto:7") and not real.publishers()


def test_attach_interface_with_a_forward(real):
    real.cairn("define", define_bare(real))
    real.cairn("attach-interface", "vm1", "network", "lan", "--forward", "udp:8007:7", "--config")
    assert [(f["protocol"], f["port"], f["to"]) for f in forwards(real, "vm1")] == [("udp", 8007, 7)]
    assert "net0: udp 127.0.0.1:8007 leads to port 7" in real.cairn("domiflist", "vm1").stderr


def define_bare(d):
    (d.tmp / "vm1.json").write_text(json.dumps(guestlib.definition("vm1")))
    return str(d.tmp / "vm1.json")


def test_publishing_changes_no_rules_of_the_host(real, lan):  # noqa: F811
    """No port is in the rules, and no link routes packets to the loopback addresses."""
    before = real.rules()
    define(real, forwards=[{"protocol": "udp", "address": "0.0.0.0", "port": 8007, "to": 7}])
    real.serve("vm1", real.begin("vm1"))
    assert answers(lan, 8007, address="10.77.0.1")
    new = [line for line in real.rules().splitlines() if line not in before]
    assert not [line for line in new if re.search(r"\b(8007|dnat)\b", line)]
    for link in "all", "lo", "virbr0":
        value = subprocess.run([*lan.enter, "cat", f"/proc/sys/net/ipv4/conf/{link}/route_localnet"], capture_output=True, check=True)
        assert value.stdout == b"0\n"
    real.cairn("destroy", "vm1")
    until(lambda: "vnet" not in real.rules())


def test_named_host_keeps_name_and_reserved_address(real, lan):  # noqa: F811
    real.cairn("net-update", "lan", "add", "ip-dhcp-host", json.dumps({"mac": MAC, "name": "web"}), "--live")
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7}])
    address = real.serve("vm1", real.begin("vm1"))
    until(lambda: answers(lan, 8007))
    folder = next((real.tmp / "state").rglob("dhcp-hosts"))
    assert f"{MAC},{address},web" in folder.read_text().splitlines()
    other = json.dumps({"mac": MAC, "name": "web", "address": "10.77.0.77"})
    warning = real.cairn("net-update", "lan", "modify", "ip-dhcp-host", other, "--live").stderr
    assert f"keeps the address {address} until it is shut down, and has 10.77.0.77 from its next start on" in warning
    assert f"{MAC},{address},web" in folder.read_text().splitlines() and answers(lan, 8007)
    real.cairn("managedsave", "vm1")
    real.cairn("start", "vm1")
    assert answers(lan, 8007)
    real.cairn("destroy", "vm1")
    real.serve("vm1", real.begin("vm1"))
    assert answers(lan, 8007) and leases(real) == [(MAC, "10.77.0.77")]


def test_xml_keeps_the_forwards(real):
    define(real, forwards=[{"protocol": "udp", "port": 8007, "to": 7, "guest": "10.77.0.9"}])
    (real.tmp / "vm.xml").write_text(real.cairn("dumpxml", "vm1").stdout)
    before = real.cairn("dumpjson", "vm1").stdout
    real.cairn("undefine", "vm1")
    real.cairn("define", str(real.tmp / "vm.xml"))
    assert real.cairn("dumpjson", "vm1").stdout == before and json.loads(before)["interfaces"][0]["forwards"][0]["port"] == 8007
    r = define_of(real, {"type": "bridge", "source": "br0", "forwards": [{"port": 8007, "to": 7}]})
    assert "forwards require type user or network; remove them" in r.stderr


def define_of(d, face):
    v = guestlib.definition("vm2", interfaces=[face])
    (d.tmp / "vm2.json").write_text(json.dumps(v))
    return d.cairn("define", str(d.tmp / "vm2.json"), ok=2)


def test_idle_vm_wakes_for_a_client(real, lan):  # noqa: F811
    v = guestlib.definition("vm1", interfaces=[{"type": "network", "source": "lan", "mac": MAC,
                                                "forwards": [{"protocol": "udp", "port": 8007, "to": 7}]}],
                            idle={"after": "1s", "cpu": 100, "action": "save"})
    (real.tmp / "vm1.json").write_text(json.dumps(v))
    real.cairn("define", str(real.tmp / "vm1.json"))
    real.serve("vm1", real.begin("vm1"))
    until(lambda: real.info("vm1")["state"] == "saved")
    assert answers(lan, 8007) and bound(lan, 8007)


def test_port_is_opened_with_rights_of_asker(lan, kvm):  # noqa: F811
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        d = Publisher(pathlib.Path(folder), lan)
        try:
            os.chmod(d.program, 0o711)
            define(d)
            d.begin("vm1").close()
            d.cairn("grant", "owner", "vm1", "--user", "nobody")
            refusal = as_nobody(d, ["forward-add", {"vm": "vm1", "port": 80, "to": 22}])[0]
            assert "ports below 1024 require root" in refusal["error"]["desc"]
            assert "return" in as_nobody(d, ["forward-add", {"vm": "vm1", "port": 8080, "to": 22}])[0]
            added(d, "vm1", "80:22")
            assert [f["port"] for f in forwards(d, "vm1")] == [8080, 80]
        finally:
            d.close()


def test_tcp_and_a_revert(real, lan):  # noqa: F811
    """A connection that moved since the snapshot is reset, up to the client of the port; new ones are served."""
    image = str(real.tmp / "a.qcow2")
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    define(real, disks=[guestlib.disk(image, format="qcow2")], forwards=[{"port": 8022, "to": 22}])
    c = real.begin("vm1")
    address = c.run("net dhcp")[0]
    c.run(f"tcp listen {int(ipaddress.ip_address(address))} 22")
    c.sock.sendall(b"tcp serve\n")
    c.close()
    s = client_of(lan, 8022)
    assert echoes(s, b"one")
    real.cairn("snapshot-create-as", "vm1", "s")
    assert echoes(s, b"two")
    real.cairn("snapshot-revert", "vm1", "s")
    with pytest.raises(ConnectionResetError):
        s.recv(1)
    assert echoes(client_of(lan, 8022), b"three" * 100)
    # The clones of one snapshot answer for themselves.
    r = real.cairn("clone", "--live", "vm1", "c", "--count", "2", "--publish", "auto:22", "--format", "json")
    for p in json.loads(r.stdout)["published"]:
        assert echoes(client_of(lan, p["port"]), p["name"].encode())


def test_promotion_hands_the_port_over(real, lan):  # noqa: F811
    define(real, forwards=[{"port": 8022, "to": 22}])
    c = real.begin("vm1")
    address = c.run("net dhcp")[0]
    c.run(f"tcp listen {int(ipaddress.ip_address(address))} 22")
    c.sock.sendall(b"tcp serve\n")
    c.close()
    assert echoes(client_of(lan, 8022), b"one")
    real.cairn("clone", "--live", "vm1", "try")
    r = json.loads(real.cairn("promote", "try", "--format", "json").stdout)
    assert r["gap"] > 0 and "warnings" not in r
    assert echoes(client_of(lan, 8022), b"two")
    real.stop(signal.SIGKILL)
    real.start()
    assert echoes(client_of(lan, 8022), b"three") and forwards(real, "vm1")[0]["port"] == 8022
    assert real.info("vm1-old")["word"] == "shutoff"


def senders(s, mac, c):
    """Have the guest send probes with another MAC address and with its own. Return the addresses that arrive."""
    c.run("net probe 1")
    c.run("net probe 0")
    came = []
    while mac not in came:
        frame = s.recv(2048)
        came += [mac_of(frame)] if frame[:6] == b"\xff" * 6 and frame[28:32] == bytes(4) else []
    return came


def test_ten_guests_on_one_network(real, lan):  # noqa: F811
    """Each has an address of its own by DHCP and a name, reaches those before it and the gateway, sends with its own
    MAC address only, and answers on its own port, half of them by UDP and half by TCP."""
    macs = [f"52:54:00:00:00:{i:02x}" for i in range(1, 11)]
    addresses, ports = [], []
    for i, mac in enumerate(macs, 1):
        real.cairn("net-update", "lan", "add", "ip-dhcp-host", json.dumps({"mac": mac, "name": f"vm{i}"}), "--live")
        define(real, f"vm{i}", mac=mac)
        c = real.begin(f"vm{i}")
        address = c.run("net dhcp")[0]
        assert address not in addresses
        for other in ["10.77.0.1", *addresses]:
            assert c.run(f"net ask {int(ipaddress.ip_address(other))}")[0] == "answered=1", (i, other)
        assert senders(lan.socket("virbr0", ARP), mac, c) == [mac]
        if i % 2:
            c.run("pit 20")
            c.sock.sendall(b"net serve\n")
        else:
            c.run(f"tcp listen {int(ipaddress.ip_address(address))} 22")
            c.sock.sendall(b"tcp serve\n")
        c.close()
        addresses.append(address)
        ports.append(added(real, f"vm{i}", "udp:auto:7" if i % 2 else "auto:22"))
    assert sorted(leases(real)) == sorted(zip(macs, addresses))
    assert len(set(ports)) == len(real.publishers()) == 10
    asker = types.SimpleNamespace(open=lambda *kind: lan.inside(lambda: socket.socket(*kind)))
    for i, (port, address) in enumerate(zip(ports, addresses), 1):
        assert Namespace.resolve(asker, "10.77.0.1", f"vm{i}") == [address]
        if i % 2:
            assert answers(lan, port, address.encode()) and answers(lan, 7, b"direct", address)
        else:
            assert echoes(client_of(lan, port), address.encode())
    for i in range(1, 11):
        real.cairn("destroy", f"vm{i}")
    until(lambda: not real.publishers() and "vnet" not in real.rules())
