"""netbench: what benchmarks of networks share: a daemon with an active NAT network in a network namespace, and archives
for the initramfs of Linux guests."""

import contextlib
import json
import pathlib
import subprocess
import tempfile

import guestlib
from conftest import Daemon
from netlib import Lan

NETWORK = "lan"
BRIDGE = "virbr7"


class NatDaemon(Daemon):
    """A daemon in a network namespace, with an active network."""

    def __init__(self, folder, lan):
        self.lan = lan
        lan.ip("link", "set", "lo", "up")
        super().__init__(folder)
        (folder / "lan.json").write_text(json.dumps({"name": NETWORK, "bridge": BRIDGE, "ipv4": {
            "address": "10.77.0.1", "prefix": 24, "dhcp": {"ranges": [{"start": "10.77.0.2", "end": "10.77.0.250"}]}}}))
        self.cairn("net-define", str(folder / "lan.json"))
        self.cairn("net-start", NETWORK)

    def command(self):
        return [*self.lan.enter, *super().command()]

    def close(self):
        for name in self.cairn("list", "--name", ok=None).stdout.split():
            self.cairn("destroy", name, ok=None)
        self.cairn("net-destroy", NETWORK, ok=None)
        super().close()


@contextlib.contextmanager
def nat_daemon(place):
    with contextlib.closing(Lan()) as lan, tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=place) as folder, \
            contextlib.closing(NatDaemon(pathlib.Path(folder), lan)) as daemon:
        yield daemon


def initrd_pack(tree, path):
    """Pack the folder behind the archive of mkinitrd.sh, which has /dev/console: the kernel opens it before init
    mounts anything."""
    found = subprocess.run(["find", "."], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    more = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=tree, input=found, stdout=subprocess.PIPE, check=True).stdout
    with open(guestlib.linux_initrd(), "rb") as f, open(path, "wb") as o:
        o.write(f.read() + more)
