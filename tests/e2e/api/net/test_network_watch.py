"""The daemon mends active networks when the host's routes, or rules of nftables, change beside them. With the real
cairn-net, in network namespaces."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, until
from hostnetlib import Host, Namespace, as_root, legacy_tables_work, veth, vpn
from portlib import talk
from test_cairn_net import FIREWALLD
from test_network import NetDaemon, asks, host, lan  # noqa: F401


class WatchDaemon(NetDaemon):
    def __init__(self, tmp, machine):
        super().__init__(tmp, machine)
        for name in "cairn-net", "cairn-dns":
            shutil.copy(os.path.join(BUILD, name), self.program)
        self.define_net()
        self.cairn("net-start", "lan")

    def close_in_order(self):
        self.cairn("net-destroy", "lan", ok=None)
        super().close_in_order()


@pytest.fixture
def machine(tmp_path):
    yield from as_root(Host, tmp_path)


@pytest.fixture
def daemon(machine, tmp_path):
    d = WatchDaemon(tmp_path, machine)
    yield d
    d.close()


def answers(guest, server, address):
    """Return whether a connection comes through within a moment."""
    with server.listen(address) as s, guest.open() as c:
        c.settimeout(0.5)
        return c.connect_ex((address, s.getsockname()[1])) == 0


def test_guests_follow_a_default_route_to_another_link(daemon, machine):
    """The address outside is that of the new link; when the route moves back, that of the old one."""
    other = machine.add(Namespace())
    veth(machine, "eth1", other, "eth0")
    machine.run("ip", "addr", "add", "10.8.0.2/24", "dev", "eth1")
    other.run("ip", "addr", "add", "10.8.0.1/24", "dev", "eth0")
    for where in machine.outside, other:
        where.run("ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
    guest = machine.guest(1)
    guest.dhcp("one")
    assert talk(machine.outside, guest, "203.0.113.7") == "10.9.0.2"
    machine.run("ip", "route", "replace", "default", "via", "10.8.0.1")
    until(lambda: answers(guest, other, "203.0.113.7"))
    assert talk(other, guest, "203.0.113.7") == "10.8.0.2"
    machine.run("ip", "route", "del", "default")
    machine.run("ip", "route", "add", "default", "via", "10.9.0.1")
    until(lambda: answers(guest, machine.outside, "203.0.113.7"))
    assert talk(machine.outside, guest, "203.0.113.7") == "10.9.0.2"


# The way of OpenVPN (def1), and of a VPN for some networks.
@pytest.mark.parametrize("networks", [["0.0.0.0/1", "128.0.0.0/1"], ["203.0.113.0/24"]])
def test_guests_follow_a_vpn(daemon, machine, networks):
    """The VPN connects and disconnects while the network is active, also beside a firewall that drops."""
    machine.outside.run("ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
    machine.run("nft", "-f", "-", input=FIREWALLD)
    guest = machine.guest(1)
    guest.dhcp("one")
    until(lambda: answers(guest, machine.outside, "203.0.113.7"))
    for number in 1, 2:
        other = vpn(machine, f"tun{number}", networks)
        until(lambda: answers(guest, other, "203.0.113.7"))
        assert talk(other, guest, "203.0.113.7") == "10.8.0.2"
        machine.run("ip", "link", "del", f"tun{number}")
        until(lambda: answers(guest, machine.outside, "203.0.113.7"))


@pytest.mark.parametrize("what", ["reload", "flush"])
def test_network_comes_back_after_a_reload_of_the_firewall(daemon, machine, what):
    """Another firewall starts, or reloads its rules without Cairn's, or somebody flushes the whole ruleset."""
    guest = machine.guest(1)
    guest.dhcp("one")
    assert talk(machine.outside, guest, "10.9.0.1") == "10.9.0.2"
    if what == "reload":
        machine.run("nft", "-f", "-", input=FIREWALLD)
        until(lambda: answers(guest, machine.outside, "10.9.0.1"))
        machine.run("nft", "-f", "-", input="delete table inet firewalld" + FIREWALLD)
    else:
        machine.run("nft", "flush", "ruleset")
    until(lambda: answers(guest, machine.outside, "10.9.0.1"))
    assert talk(machine.outside, guest, "10.9.0.1") == "10.9.0.2"


@pytest.mark.parametrize("command", ["ip link set virbr0 down", "ip addr flush dev virbr0", "ip link del {veth}",
                                     "sysctl -q net.ipv4.conf.virbr0.forwarding=0", "sysctl -q net.ipv4.conf.eth0.forwarding=0"])
def test_part_that_somebody_removes_comes_back(daemon, machine, command):
    guest = machine.guest(1)
    guest.dhcp("one")
    assert answers(guest, machine.outside, "10.9.0.1")
    veth_name = "cn-" + daemon.net()["uuid"].replace("-", "")[:12]
    machine.run(*command.format(veth=veth_name).split())
    until(lambda: "parts are missing, and are made again" in daemon.log.read_text())
    until(lambda: answers(guest, machine.outside, "10.9.0.1") and veth_name in [i["ifname"] for i in machine.ip("link", "show")])
    assert guest.dhcp("one")


LEGACY = """*filter
:FORWARD DROP
:USER -
-A FORWARD -j USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A USER -j RETURN
COMMIT
"""


def docker_starts(machine):
    """The way of Docker where iptables is iptables-legacy: rules, then a bridge."""
    machine.run("iptables-legacy-restore", "-n", input=LEGACY)
    machine.run("ip", "link", "add", "docker0", "type", "bridge")
    machine.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
    machine.run("ip", "link", "set", "docker0", "up")


@pytest.mark.parametrize("how", ["docker", "looks", "start"])
def test_rules_of_iptables_legacy_that_cut_guests_off_are_told(daemon, machine, how):
    """The daemon names the commands that let the guests' packets pass, when Docker starts, at net-info, and when a VM
    starts."""
    if not legacy_tables_work():
        pytest.skip("this kernel has no tables of iptables-legacy")
    guest = machine.guest(1)
    guest.dhcp("one")
    q = daemon.qmp()
    assert answers(guest, machine.outside, "10.9.0.1") and "blocked" not in q.run("net-list")["networks"][0]
    if how == "docker":
        docker_starts(machine)
        detail = q.event("NETWORK_STATE_CHANGE", network="lan", state="active")["data"]["detail"]
    else:
        machine.run("iptables-legacy-restore", "-n", input=LEGACY)
        if how == "start":
            daemon.write("vm1", interfaces=[{"type": "network", "source": "lan"}])
            daemon.cairn("define", str(daemon.tmp / "vm1.json"))
            daemon.cairn("start", "vm1")
            detail = q.event("NETWORK_STATE_CHANGE", network="lan", state="active")["data"]["detail"]
        else:
            detail, = q.run("net-info", network="lan")["warnings"]
    assert "iptables-legacy" in detail and not answers(guest, machine.outside, "10.9.0.1")
    assert f"warning: {detail}\n" in daemon.cairn("net-info", "lan").stderr
    assert "see: cairn net-info lan" in daemon.cairn("net-list").stderr and q.run("net-list")["networks"][0]["blocked"]
    for command in detail.split("run: ")[1].split(" && "):
        machine.run(*command.split())
    assert answers(guest, machine.outside, "10.9.0.1")
    assert "warnings" not in q.run("net-info", network="lan") and not daemon.cairn("net-list").stderr
    while "no rules of iptables-legacy drop its packets any more" not in \
            q.event("NETWORK_STATE_CHANGE", network="lan", state="active")["data"]["detail"]:
        pass


def test_changes_that_matter_have_active_networks_checked(host, lan):  # noqa: F811
    """A route by a link of the host, and chains of others; not a route by a network's bridge, and chains of Cairn's
    own."""
    def nft(*args):
        subprocess.run([*lan.enter, "nft", *args], check=True)
    host.define_net()
    host.cairn("net-start", "lan")
    lan.ip("link", "set", "lo", "up")
    n = len(host.verbs())
    nft("add table inet cairn_x { chain a { }; }")
    nft("delete chain inet cairn_x a")
    lan.ip("route", "add", "192.0.2.0/24", "dev", "virbr0")
    lan.ip("-6", "route", "add", "fe80::/64", "dev", "br0", "metric", "7")
    lan.ip("route", "add", "198.51.100.0/24", "dev", "br0")
    until(lambda: len(host.verbs()) > n)
    assert host.verbs()[n:] == ["check"]
    lan.ip("route", "add", "default", "dev", "br0", "table", "7")
    until(lambda: len(host.verbs()) > n + 1)
    n += 1
    assert host.verbs()[n:] == ["check"]
    host.tell("check", "json", json.dumps({"return": {"active": True, "complete": False, "missing": ["accept"]}}))
    nft("add table inet other { chain a { }; }")
    until(lambda: len(host.verbs()) > n + 2)
    assert host.verbs()[n:] == ["check", "check", "up"]


def test_check_that_nobody_asked_for_holds_up_no_stop(host, lan):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    host.tell("check", "hold")
    subprocess.run([*lan.enter, "nft", "add table inet other { chain a { }; }"], check=True)
    until(lambda: "check" in host.verbs())
    host.cairn("net-destroy", "lan")
    assert host.verbs()[-2:] == ["check", "down"] and host.states() == {"lan": "inactive"}


INCOMPLETE = {"return": {"active": True, "complete": False, "missing": ["dnsmasq"], "pid": 0}}


def change_rules(lan):  # noqa: F811
    """Change tables beside Cairn's, so that the daemon checks its networks."""
    subprocess.run([*lan.enter, "nft", "add table inet other { chain a { }; }"], check=True)


def test_refused_stop_keeps_the_check_and_its_repair(host, lan):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    host.write("vm1", interfaces=[{"type": "network", "source": "lan"}])
    host.cairn("define", str(host.tmp / "vm1.json"))
    host.cairn("start", "vm1")
    n = len(host.verbs())
    host.tell("check", "json", INCOMPLETE)
    host.tell("check", "hold")
    change_rules(lan)
    until(lambda: host.verbs()[n:] == ["check"])
    assert "is in use by the running VMs vm1" in host.cairn("net-destroy", "lan", ok=False).stderr
    host.untell("check", "hold")
    until(lambda: host.verbs()[n:] == ["check", "up"])


HOST = json.dumps({"mac": "52:54:00:00:00:01", "name": "vm1"})


def test_check_that_nobody_asked_for_holds_up_no_update_and_is_repeated(host, lan):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    n = len(host.verbs())
    host.tell("check", "hold")
    change_rules(lan)
    until(lambda: host.verbs()[n:] == ["check"])
    host.tell("check", "json", INCOMPLETE)  # for the next one, which may begin before the update's client has ended
    host.cairn("net-update", "lan", "add", "ip-dhcp-host", HOST, "--live")
    host.untell("check", "hold")
    until(lambda: host.verbs()[n:] == ["check", "update", "check", "up"])


@pytest.mark.parametrize("command, next_verb", [("net-start", "check"), ("net-update", "update"), ("net-destroy", "down")])
def test_command_waits_for_a_repair_that_nobody_asked_for(host, lan, command, next_verb):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    n = len(host.verbs())
    host.tell("check", "json", INCOMPLETE)
    host.tell("up", "hold")
    change_rules(lan)
    until(lambda: host.verbs()[n:] == ["check", "up"])
    args = {"network": "lan"}
    if command == "net-update":
        args["definition"] = host.qmp().run("net-dump-definition", **args)["definition"]
    client, = asks(host, (command, args))
    host.untell("up", "hold")
    assert "return" in client.answer()
    assert host.verbs()[n + 2] == next_verb


def test_failed_stop_is_followed_by_a_check(host):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    host.tell("down", "json", {"error": {"class": "HostError", "desc": "nft is unwell"}})
    host.tell("check", "json", INCOMPLETE)
    assert "nft is unwell" in host.cairn("net-destroy", "lan", ok=False).stderr
    until(lambda: host.verbs() == ["up", "down", "check", "up"])


def test_failed_repair_is_tried_again(host, lan):  # noqa: F811
    """The daemon repairs again after 1 s, then 2 s. The log has the first failure and the success."""
    host.define_net()
    host.cairn("net-start", "lan")
    n = len(host.verbs())
    log = host.tmp / "cairnd.log"
    host.tell("check", "json", INCOMPLETE)
    host.tell("up", "json", {"error": {"class": "HostError", "desc": "dnsmasq is unwell"}})
    change_rules(lan)
    until(lambda: host.verbs()[n:].count("up") == 2)
    host.untell("up", "json")
    until(lambda: "network 'lan' is complete again" in log.read_text())
    assert host.verbs()[n:] == ["check", "up"] * 3
    assert log.read_text().count("dnsmasq is unwell") == 1


def test_programs_of_a_network_that_die_are_started_again(daemon, machine):
    """dnsmasq and cairn-dns: with an event that says so, also for the next daemon; not when the network stops."""
    machine.outside.run("ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
    daemon.cairn("net-update", "lan", "add", "egress", '{"default": "deny", "rules": [{"allow": "*.example.org"}]}', "--live")
    guest = machine.guest(1)
    guest.dhcp("one")

    def answered():
        """Return whether DNS answers; while the programs start, the kernel refuses the question."""
        try:
            return guest.resolve("10.77.0.254", "one")
        except OSError:
            return None

    def idle():
        """Return whether no operation of the daemon's own is under way: during one, a program may be ended on
        purpose."""
        return "is already active" in daemon.cairn("net-start", "lan", ok=None).stderr
    for names in machine.dnsmasq, machine.names:
        until(idle)
        old = names()
        os.kill(old[0], signal.SIGKILL)
        until(lambda: names() and names() != old)
        until(answered)
    log = (daemon.tmp / "cairnd.log").read_text()
    assert "its dnsmasq has ended, and is started again" in log and "its cairn-dns has ended, and is started again" in log
    daemon.stop(signal.SIGKILL)
    daemon.start()
    old = machine.dnsmasq()
    os.kill(old[0], signal.SIGKILL)
    until(lambda: machine.dnsmasq() and machine.dnsmasq() != old and machine.names())
    until(answered)
    until(idle)
    before = (daemon.tmp / "cairnd.log").read_text().count("has ended")
    daemon.cairn("net-destroy", "lan")
    assert (daemon.tmp / "cairnd.log").read_text().count("has ended") == before and not machine.dnsmasq()
