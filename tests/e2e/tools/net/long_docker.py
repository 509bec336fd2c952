"""Networks beside the real Docker of Debian, with its own rules and a container, in a network namespace with an overlay
over this machine's files: nothing is installed. `make check-long`, part "firewalls"."""

import contextlib
import os
import re
import shlex
import socket

import pytest

from conftest import until
from hostnetlib import IPV6, UUID, Namespace, network
from overlaylib import Machine, packages_fetched, reaches
from portlib import talk
from test_published_ports import Publisher, define

OUTSIDE, OUTSIDE6 = "10.9.0.1", "fd00:9::1"
PUBLISHED = 8008
ISOLATED = network("isolated", name="alone", uuid=UUID.replace("3f", "4f"), bridge="virbr1",
                   ipv4={"address": "192.168.123.1", "prefix": 24,
                         "dhcp": {"ranges": [{"start": "192.168.123.2", "end": "192.168.123.254"}]}})
BARE = {"name": "bare", "uuid": UUID.replace("3f", "5f"), "mode": "isolated", "bridge": "virbr2"}
# The files of a container.
SETUP = "mkdir -p box/bin && cp usr/bin/busybox box/bin && tar -C box -cf box.tar ."
CGROUPS = "/sys/fs/cgroup"


class Container(Namespace):
    """The network namespace of a container."""

    def __init__(self, machine, pid):
        self.set_path(f"/proc/{machine.pid}/root/proc/{pid}/ns/net")
        self.address, = (a["local"] for i in self.ip("addr", "show", "dev", "eth0") for a in i["addr_info"] if a["family"] == "inet")


class DockerMachine(Machine):
    """Tables: nft or legacy, the kind of iptables that Docker finds."""

    def __init__(self, tmp, packages, tables):
        super().__init__(tmp, packages, SETUP, tables)
        self.tables, self.docker, self.log = tables, None, tmp / "dockerd.log"
        self.options, self.cgroup = [], f"cairn-docker-{os.getpid()}"

    def start(self):
        with open(self.log, "ab") as log:
            self.docker = self.begin("dockerd", "--storage-driver", "vfs", "--iptables=true", "--cgroup-parent", f"/{self.cgroup}",
                                     "--exec-opt", "native.cgroupdriver=cgroupfs", *self.options, output=log)
        until(self.is_running)

    def is_running(self):
        assert self.docker.poll() is None, self.log.read_text()
        return self.try_run("docker", "version").returncode == 0

    def stop(self):
        self.run("sh", "-c", "kill $(cat /run/docker.pid)")
        self.docker.wait()

    def restart(self):
        self.stop()
        self.start()

    def container(self):
        if not self.run("docker", "images", "-q", "box"):
            self.run("docker", "import", "/box.tar", "box")
        self.run("docker", "run", "-d", "--name", "box", "-p", f"{PUBLISHED}:{PUBLISHED}", "box", "/bin/busybox", "sleep", "3000")
        return self.container_again()

    def container_again(self):
        """Docker stops its containers when it ends itself."""
        self.run("docker", "start", "box")
        return Container(self, self.run("docker", "inspect", "-f", "{{.State.Pid}}", "box").strip())

    def rules(self):
        """Docker's, without counters."""
        text = "".join(self.run(f"iptables-{self.tables}-save", "-t", table) for table in ("filter", "nat"))
        return [re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines() if not line.startswith("#")]

    def start_used(self):
        """Start Docker, whose first container changes its bridge and whose second start orders its chains anew. Return
        the state of the host and Docker's rules."""
        self.start()
        self.container()
        self.run("docker", "rm", "-f", "box")
        self.restart()
        until(lambda: "linkdown" in str(self.host.state()["routes"]))
        rules = self.rules()
        assert ":FORWARD DROP " in rules and any("DOCKER-ISOLATION-STAGE-2" in line for line in rules)
        return self.host.state(), rules

    def expect(self, state, rules):
        """The host is as it was; the kernel follows the carrier of Docker's bridge some time later."""
        until(lambda: self.host.state()["routes"] == state["routes"])
        assert self.rules() == rules and self.host.state() == state

    def close(self):
        super().close()
        until(self.cgroups_are_gone)

    def cgroups_are_gone(self):
        """Remove what a killed Docker leaves: a group can go when the last of its processes has."""
        mine = [os.path.join(top, name) for top, names, _ in os.walk(CGROUPS) for name in names if name == self.cgroup]
        for folder in mine:
            for top, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(top)
        return not any(os.path.exists(folder) for folder in mine)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    yield from packages_fetched(tmp_path_factory, "docker.io", "iptables")


@pytest.fixture
def machine(request, tmp_path, packages):
    m = DockerMachine(tmp_path, packages, getattr(request, "param", "nft"))
    yield m
    m.close()


def guest_of(host, number, bridge="virbr0"):
    guest = host.guest(number, bridge)
    guest.dhcp(f"guest{number}")
    guest.address, = guest.addresses("inet")
    return guest


def unplug(host, *guests):
    for g in guests:
        g.close()
        host.others.remove(g)
        until(lambda: g.tap not in str(host.ip("link")))


def reaches_published(client, box, seconds=30):
    """Return whether a client gets through to the container's published port."""
    with box.open() as s, client.open() as c:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("", PUBLISHED))
        s.listen()
        c.settimeout(seconds)
        if c.connect_ex(("10.9.0.2", PUBLISHED)):
            return False
        # Docker's own proxy may have accepted.
        s.settimeout(seconds)
        with s.accept()[0] as peer:
            peer.sendall(b"answer")
            return c.recv(6) == b"answer"


def expect_ways(host, guest, box):
    """Guest and container reach the outside, and nobody reaches them but by the container's published port."""
    outside = host.outside
    assert reaches_published(outside, box) and reaches_published(guest, box)
    assert talk(outside, guest, OUTSIDE) == "10.9.0.2" and guest.pings(OUTSIDE)
    assert guest.resolve("192.168.122.1", "guest1.vms") == [guest.address]
    assert talk(outside, box, OUTSIDE) == "10.9.0.2"
    for client, server in (outside, guest), (outside, box), (box, guest), (guest, box):
        assert not reaches(client, server, server.address), (client, server)


def expect_ipv6(host, guest, box):
    assert ":FORWARD DROP" in host.run("ip6tables-nft-save", "-t", "filter").stdout
    for client in guest, box:
        assert talk(host.outside, client, OUTSIDE6, socket.AF_INET6) == "fd00:9::2"


def expect_alone(host, one, two, box):
    assert talk(one, two, one.address) == two.address
    assert not reaches(one, host.outside, OUTSIDE) and not reaches(one, box, box.address) and not reaches_published(one, box, 0.5)
    for client in host.outside, box:
        assert not reaches(client, one, one.address)


@pytest.mark.seconds(300)
def test_network_starts_beside_docker(machine):
    """With rules of Docker's for both families."""
    host, n = machine.host, network(ipv6=IPV6 | {"nat": True})
    machine.options = ["--experimental", "--ip6tables", "--ipv6", "--fixed-cidr-v6", "fd00:d0c::/64"]
    before, rules = machine.start_used()
    box = machine.container()
    for subnet in "192.168.122.0/24", "192.168.123.0/24", "172.17.0.0/16":
        host.outside.run("ip", "route", "add", subnet, "via", "10.9.0.2")
    assert host.do("up", n)["notes"] == host.do("up", ISOLATED)["notes"] == []
    guest, one, two = guest_of(host, 1), guest_of(host, 2, "virbr1"), guest_of(host, 3, "virbr1")
    until(guest.addresses)
    until(lambda: guest.ip("-6", "route", "show", "default"))
    expect_ways(host, guest, box)
    expect_ipv6(host, guest, box)
    expect_alone(host, one, two, box)
    # Docker leaves the rules of others in DOCKER-USER when it starts again.
    machine.restart()
    box = machine.container_again()
    assert host.do("check", n)["missing"] == host.do("check", ISOLATED)["missing"] == []
    expect_ways(host, guest, box)
    expect_ipv6(host, guest, box)
    expect_alone(host, one, two, box)
    machine.run("docker", "rm", "-f", "box")
    unplug(host, guest, one, two)
    host.do("down", n)
    host.do("down", ISOLATED)
    machine.expect(before, rules)
    machine.restart()
    machine.expect(before, rules)


@pytest.mark.seconds(300)
def test_docker_starts_beside_a_network(machine):
    """Docker cuts the guests off until the network is started again; its rules are those that it makes alone."""
    host, n = machine.host, network()
    before = host.state()
    host.do("up", n)
    guest = guest_of(host, 1)
    machine.start()
    rules = machine.rules()
    # Docker has switched forwarding on for all links.
    assert host.do("check", n)["missing"] == ["forwarding", "accept"] and not reaches(guest, host.outside, OUTSIDE)
    assert host.do("up", n)["notes"] == []
    expect_ways(host, guest, machine.container())
    machine.run("docker", "rm", "-f", "box")
    machine.restart()
    assert host.do("check", n)["missing"] == [] and talk(host.outside, guest, OUTSIDE) == "10.9.0.2"
    unplug(host, guest)
    host.do("down", n)
    assert machine.rules() == rules
    # A Docker that has ended leaves its rules and its bridge.
    machine.stop()
    machine.run("ip", "link", "del", "docker0")
    machine.run("sh", "-c", "for table in filter nat; do nft delete table ip $table; done; echo 0 >/proc/sys/net/ipv4/ip_forward")
    assert host.state() == before


@pytest.mark.seconds(300)
def test_guests_reach_each_other_on_a_network_without_addresses(machine):
    """Docker's forward chain also sees what a bridge forwards, if the kernel hands it over (br_netfilter)."""
    host = machine.host
    machine.start()
    assert host.sysctl("bridge.bridge-nf-call-iptables") == "1"
    before = host.state()
    assert host.do("up", BARE)["notes"] == []
    guests = [host.guest(number, "virbr2") for number in (1, 2)]
    for i, g in enumerate(guests):
        g.address = f"192.0.2.{i + 1}"
        g.run("ip", "addr", "add", f"{g.address}/24", "dev", "eth0")
    assert talk(*guests, guests[0].address) == guests[1].address
    unplug(host, *guests)
    host.do("down", BARE)
    assert host.state() == before


@pytest.mark.seconds(300)
@pytest.mark.parametrize("machine", ["legacy"], indirect=True)
@pytest.mark.parametrize("first", ["docker", "network"])
def test_note_names_commands_for_rules_of_iptables_legacy(machine, first):
    host, n = machine.host, network()
    if first == "network":
        assert host.do("up", n)["notes"] == []
        guest = guest_of(host, 1)
    before, rules = machine.start_used()
    if first == "network":
        assert not reaches(guest, host.outside, OUTSIDE) and host.do("check", n)["missing"] == ["forwarding"]
    note, = host.do("up", n)["notes"]
    assert "the firewall of iptables-legacy" in note and host.do("blocked", n)["notes"] == [note]
    commands = [shlex.split(c) for c in note.split("run: ")[1].split(" && ")]
    for c in commands:
        machine.run(*c)
    assert host.do("blocked", n)["notes"] == []
    box = machine.container()
    if first == "docker":
        guest = guest_of(host, 1)
    for subnet in "192.168.122.0/24", "172.17.0.0/16":
        host.outside.run("ip", "route", "add", subnet, "via", "10.9.0.2")
    expect_ways(host, guest, box)
    machine.restart()
    box = machine.container_again()
    expect_ways(host, guest, box)
    machine.run("docker", "rm", "-f", "box")
    unplug(host, guest)
    host.do("down", n)
    for c in commands:
        machine.run(*("-D" if word == "-I" else word for word in c))
    if first == "docker":
        machine.expect(before, rules)
    assert machine.rules() == rules


@pytest.mark.seconds(300)
def test_daemon_keeps_a_network_and_its_published_ports_beside_docker(machine, tmp_path, kvm):
    host, outside = machine.host, machine.host.outside
    d = Publisher(tmp_path, host)
    try:
        define(d, forwards=[{"protocol": "udp", "address": "0.0.0.0", "port": 8007, "to": 7}])
        d.serve("vm1", d.begin("vm1"))
        guest = guest_of(host, 2)
        assert answers(outside, "10.9.0.2") and talk(outside, guest, OUTSIDE) == "10.9.0.2"
        machine.start()
        until(lambda: reaches(guest, outside, OUTSIDE))
        box = machine.container()
        for _ in range(2):
            assert answers(outside, "10.9.0.2") and answers(box, "172.17.0.1") and answers(box, "10.9.0.2")
            assert talk(outside, guest, OUTSIDE) == talk(outside, box, OUTSIDE) == "10.9.0.2"
            machine.restart()
            box = machine.container_again()
        d.cairn("destroy", "vm1")
        unplug(host, guest)
        d.cairn("net-destroy", "lan")
        assert "cairn" not in d.rules() and "virbr" not in d.rules()
    finally:
        d.close()


def answers(client, address):
    """Return whether the VM behind the published port sends a datagram back."""
    with client.open(kind=socket.SOCK_DGRAM) as s:
        s.connect((address, 8007))
        s.settimeout(0.5)
        for _ in range(60):
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                s.send(b"question")
                if s.recv(100) == b"question":
                    return True
    return False
