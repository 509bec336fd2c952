"""Networks beside the real ufw and firewalld of Debian, which run in a network namespace with an overlay over this
machine's files: nothing is installed. `make check-long`, part "firewalls"."""

import pytest

from conftest import until
from hostnetlib import UUID, network
from overlaylib import Machine, packages_fetched, reaches
from portlib import talk

PACKAGES = ("ufw", "firewalld")
# Debian's maintainer scripts would do this.
SETUP = r"""
cp -n usr/share/ufw/ufw.conf usr/share/ufw/*.rules usr/share/ufw/iptables/*.rules etc/ufw/
ln -sf org.fedoraproject.FirewallD1.server.policy.choice usr/share/polkit-1/actions/org.fedoraproject.FirewallD1.policy
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    yield from packages_fetched(tmp_path_factory, *PACKAGES)


class FirewallMachine(Machine):
    def __init__(self, tmp, packages):
        super().__init__(tmp, packages, SETUP)

    def is_running(self):
        return self.try_run("firewall-cmd", "--state").stdout == "running\n"

    def start(self, name):
        if name == "ufw":
            # Twice: ufw makes some of its rules only then.
            self.run("ufw", "--force", "enable")
            self.restart(name)
            self.reload(name)
            return
        self.run("dbus-daemon", "--system", "--fork", "--nopidfile")
        self.begin("firewalld", "--nofork", "--nopid")
        until(self.is_running)

    def reload(self, name):
        self.run(*(["ufw", "reload"] if name == "ufw" else ["firewall-cmd", "--reload"]))

    def restart(self, name):
        if name == "ufw":
            self.run("ufw", "disable")
            self.run("ufw", "--force", "enable")


@pytest.fixture
def machine(tmp_path, packages):
    m = FirewallMachine(tmp_path, packages)
    yield m
    m.close()


@pytest.mark.seconds(300)
@pytest.mark.parametrize("name", PACKAGES)
def test_guests_reach_outside_beside_the_real_firewall(machine, name):
    host, n = machine.host, network()
    machine.start(name)
    before = host.state()
    assert host.do("up", n)["notes"] == []
    guest = host.guest(1)
    guest.dhcp("one")
    assert talk(host.outside, guest, "10.9.0.1") == "10.9.0.2"
    assert guest.pings("10.9.0.1")
    assert guest.resolve("192.168.122.1", "one.vms") == [guest.addresses("inet")[0]]
    # A reload of firewalld removes the accept rule, and another net-start mends that. ufw leaves the rules of others.
    machine.reload(name)
    assert host.do("check", n)["missing"] == (["accept"] if name == "firewalld" else [])
    assert reaches(guest, host.outside, "10.9.0.1") == (name == "ufw")
    machine.restart(name)
    assert host.do("up", n)["notes"] == []
    assert reaches(guest, host.outside, "10.9.0.1")
    # Nobody from outside comes in.
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    assert not reaches(host.outside, guest, guest.addresses("inet")[0])
    guest.close()
    host.others.remove(guest)
    until(lambda: guest.tap not in str(host.ip("link")))
    host.do("down", n)
    assert host.state() == before
    machine.reload(name)
    assert host.state() == before


@pytest.mark.seconds(300)
def test_command_of_the_note_lets_guests_pass(machine):
    """The note names it where firewalld owns its table. Here firewalld does not, so the test removes Cairn's rules."""
    host, n = machine.host, network()
    machine.start("firewalld")
    host.do("up", n)
    chain = ("inet", "firewalld", "filter_FORWARD")
    for line in host.run("nft", "-a", "list", "chain", *chain).stdout.splitlines():
        if UUID in line:
            host.run("nft", "delete", "rule", *chain, "handle", line.split()[-1])
    guest = host.guest(1)
    guest.run("ip", "addr", "add", "192.168.122.9/24", "dev", "eth0")
    guest.run("ip", "route", "add", "default", "via", "192.168.122.1")
    assert not reaches(guest, host.outside, "10.9.0.1") and '"virbr0"' not in host.run("nft", "list", "table", *chain[:2]).stdout
    machine.run("firewall-cmd", "--zone=trusted", "--add-interface=virbr0")
    assert reaches(guest, host.outside, "10.9.0.1") and '"virbr0"' in host.run("nft", "list", "table", *chain[:2]).stdout
