"""A host with files of its own: an overlay over this machine's, in namespaces, with Debian packages that this machine
lacks. Nothing is installed."""

import os
import shutil
import subprocess

import pytest

from hostnetlib import Host

# $1: a folder for the overlay, $2: the folder with the packages, $3: nft or legacy, for iptables; $4: commands in place
# of Debian's maintainer scripts.
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
	ln -sf "xtables-$3-multi" usr/sbin/$name
done
eval "$4"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir run/dbus
exec chroot . sh -c 'echo ready; exec sleep 3000'
"""


def packages_fetched(tmp_path_factory, *names):
    """The body of a fixture: a folder with those of the packages, and of what they need, that this machine lacks."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    folder = tmp_path_factory.mktemp("packages")
    (folder / "partial").mkdir()
    r = subprocess.run(["apt-get", "-qq", "-o", f"Dir::Cache::archives={folder}", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1",
                        "install", "--download-only", "--yes", "--no-install-recommends", *names], capture_output=True, text=True,
                       timeout=300)
    if r.returncode:
        pytest.skip(f"apt has no {' and '.join(names)}: {r.stderr.strip().splitlines()[-1]}")
    yield str(folder)
    shutil.rmtree(folder)


class Machine:
    """The host, in which the programs of the packages run."""

    def __init__(self, tmp, packages, setup, iptables="nft"):
        self.host = Host(tmp)
        overlay = tmp / "overlay"
        overlay.mkdir()
        self.holder = subprocess.Popen(
            [*self.host.enter, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", OUTER, "sh", str(overlay), packages,
             iptables, setup], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children") as f:
            self.pid, = f.read().split()
        self.enter = ["nsenter", "--target", self.pid, "--mount", "--net", "--pid", "--root", "--wd=/", "env", "-i",
                      "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        self.daemons = []

    def try_run(self, *command):
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)

    def run(self, *command):
        r = self.try_run(*command)
        assert r.returncode == 0, (command, r.stdout, r.stderr)
        return r.stdout

    def begin(self, *command, output=subprocess.DEVNULL):
        """Start a daemon, which ends with the machine."""
        self.daemons.append(subprocess.Popen([*self.enter, *command], stdout=output, stderr=output))
        return self.daemons[-1]

    def close(self):
        self.holder.kill()  # and with it its pid namespace
        self.holder.wait()
        self.holder.stdout.close()
        for d in self.daemons:
            d.wait()
        self.host.close()


def reaches(client, server, address):
    """Return whether a connection comes through within a moment."""
    with server.listen(address) as s, client.open() as c:
        c.settimeout(0.5)
        return c.connect_ex((address, s.getsockname()[1])) == 0
