"""Networks beside the real ufw and firewalld of Debian, which run in a network namespace with an overlay over this
machine's files: nothing is installed. `make check-long`, part "firewalls"."""

import os
import shutil
import subprocess

import pytest

from conftest import until
from hostnetlib import Host, network
from test_cairn_net import talk

PACKAGES = ("ufw", "firewalld")
# $1: a folder for the overlay, $2: the folder with the packages. Debian's maintainer scripts would do the rest of this.
OUTER = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
for deb in "$2"/*.deb; do
	[ ! -f "$deb" ] || dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink
done
for name in iptables ip6tables iptables-restore ip6tables-restore iptables-save ip6tables-save; do
	ln -sf xtables-nft-multi usr/sbin/$name
done
cp -n usr/share/ufw/ufw.conf usr/share/ufw/*.rules usr/share/ufw/iptables/*.rules etc/ufw/
ln -sf org.fedoraproject.FirewallD1.server.policy.choice usr/share/polkit-1/actions/org.fedoraproject.FirewallD1.policy
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir run/dbus
exec chroot . sh -c 'echo ready; exec sleep 3000'
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the packages that this machine lacks."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    folder = tmp_path_factory.mktemp("packages")
    (folder / "partial").mkdir()
    r = subprocess.run(["apt-get", "-qq", "-o", f"Dir::Cache::archives={folder}", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1",
                        "install", "--download-only", "--yes", "--no-install-recommends", *PACKAGES], capture_output=True, text=True,
                       timeout=300)
    if r.returncode:
        pytest.skip(f"apt has no ufw and firewalld: {r.stderr.strip().splitlines()[-1]}")
    yield str(folder)
    shutil.rmtree(folder)


class Machine:
    """A host with its own files, in which the firewalls run."""

    def __init__(self, tmp, packages):
        self.host = Host(tmp)
        overlay = tmp / "overlay"
        overlay.mkdir()
        self.holder = subprocess.Popen(
            [*self.host.enter, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", OUTER, "sh", str(overlay), packages],
            stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children") as f:
            pid, = f.read().split()
        self.enter = ["nsenter", "--target", pid, "--mount", "--net", "--pid", "--root", "--wd=/", "env", "-i",
                      "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        self.daemons = []

    def run(self, *command):
        r = subprocess.run([*self.enter, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
        assert r.returncode == 0, (command, r.stdout, r.stderr)
        return r.stdout

    def is_running(self):
        r = subprocess.run([*self.enter, "firewall-cmd", "--state"], capture_output=True, text=True, timeout=100)
        return r.stdout == "running\n"

    def start(self, name):
        if name == "ufw":
            # Twice: ufw makes some of its rules only then.
            self.run("ufw", "--force", "enable")
            self.restart(name)
            self.reload(name)
            return
        self.run("dbus-daemon", "--system", "--fork", "--nopidfile")
        self.daemons.append(subprocess.Popen([*self.enter, "firewalld", "--nofork", "--nopid"], stdout=subprocess.DEVNULL,
                                             stderr=subprocess.DEVNULL))
        until(self.is_running)

    def reload(self, name):
        self.run(*(["ufw", "reload"] if name == "ufw" else ["firewall-cmd", "--reload"]))

    def restart(self, name):
        if name == "ufw":
            self.run("ufw", "disable")
            self.run("ufw", "--force", "enable")

    def close(self):
        self.holder.kill()  # and with it its pid namespace
        self.holder.wait()
        self.holder.stdout.close()
        for d in self.daemons:
            d.wait()
        self.host.close()


@pytest.fixture
def machine(tmp_path, packages):
    m = Machine(tmp_path, packages)
    yield m
    m.close()


def answers(guest, outside):
    with outside.listen("10.9.0.1") as s, guest.open() as c:
        c.settimeout(0.5)
        return c.connect_ex(("10.9.0.1", s.getsockname()[1])) == 0


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
    assert answers(guest, host.outside) == (name == "ufw")
    machine.restart(name)
    assert host.do("up", n)["notes"] == []
    assert answers(guest, host.outside)
    # Nobody from outside comes in.
    host.outside.run("ip", "route", "add", "192.168.122.0/24", "via", "10.9.0.2")
    assert not reaches_guest(host.outside, guest)
    guest.close()
    host.others.remove(guest)
    until(lambda: guest.tap not in str(host.ip("link")))
    host.do("down", n)
    assert host.state() == before
    machine.reload(name)
    assert host.state() == before


def reaches_guest(outside, guest):
    with guest.listen(guest.addresses("inet")[0]) as s, outside.open() as c:
        c.settimeout(0.5)
        return c.connect_ex(s.getsockname()[:2]) == 0
