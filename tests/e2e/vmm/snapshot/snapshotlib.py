"""snapshotlib: a VM whose snapshots a test takes, and checks of its images."""

import json
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, Console

BLOCK = 65536
lazy = pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    """A running interpreter with a qcow2 disk; `vm.console` talks to it."""

    class Vm:
        def __init__(self):
            self.disks = [tmp_path / "vda.qcow2"]
            self.define()

        def define(self, **keys):
            for d in self.disks:
                if not d.exists():
                    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", d, "64M"], check=True)
            daemon.define("vm1", debug_exit=True, **{
                "boot": {"kernel": guest("interp.elf")}, "memory": "64M",
                "disks": [{"path": str(d), "format": "qcow2"} for d in self.disks], **keys})

        def start(self):
            daemon.cairn("start", "vm1")
            self.attach()
            while self.console.line() != "interp":
                pass
            self.run("open 0")

        def attach(self):
            self.console = Console(daemon, "vm1")

        def run(self, text):
            return self.console.run(text)

        def snapshot(self, name, *args):
            r = daemon.cairn("snapshot-create-as", "vm1", name, "--format", "json", *args)
            return json.loads(r.stdout)

        def revert(self, name, *args, **kwargs):
            return daemon.cairn("snapshot-revert", "vm1", name, *args, **kwargs)

        def names(self):
            return daemon.cairn("snapshot-list", "vm1", "--name").stdout.split()

        def pid(self):
            return daemon.info("vm1")["pid"]

        def stop(self):
            self.console.close()
            daemon.cairn("destroy", "vm1")

    v = Vm()
    v.daemon, v.guest = daemon, guest
    yield v


def check(image, leaks_allowed=False):
    """Check with qemu-img. Leaks may also show as COPIED errors: qemu-img reports a cluster with refcount 2 and one
    reference (docs/qcow2.md, "Between two syncs")."""
    r = subprocess.run(["qemu-img", "check", image], capture_output=True, text=True)
    errors = [line for line in r.stdout.splitlines() + r.stderr.splitlines() if line.startswith("ERROR")]
    if leaks_allowed and r.returncode == 2 and all("OFLAG_COPIED" in line for line in errors):
        r = subprocess.run([BUILD + "/cairn-img", "check", image], capture_output=True, text=True)
    assert r.returncode in ((0, 3) if leaks_allowed else (0,)), r.stdout + r.stderr


def wait_released(image):
    """A killed process's io_uring, or its asynchronous I/O on epoll, releases its files a moment after the process."""
    while subprocess.run(["qemu-img", "info", image], capture_output=True).returncode:
        time.sleep(0.02)


def qemu_names(image):
    out = subprocess.run(["qemu-img", "snapshot", "-l", image], capture_output=True, text=True,
                         check=True).stdout
    return [line.split()[1] for line in out.splitlines()[2:]]


def flip(image, at):
    """Change a byte of a file that a VM has open, as a failing disk would."""
    with open(image, "r+b") as f:
        f.seek(at)
        b = f.read(1)
        f.seek(at)
        f.write(bytes([b[0] ^ 0xff]))


def find(image, pattern):
    data = image.read_bytes()
    at = data.find(pattern)
    assert at >= 0
    return at
