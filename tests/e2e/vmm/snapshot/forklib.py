"""forklib: a VM that a test clones while it runs, and its disks."""

import os
import subprocess

import pytest

from conftest import BUILD, Console, open_files

MIB = 1 << 20
FILL = 8 << 20
AT = 16 << 20


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    """A running interpreter, src, with 8 MiB of known content."""

    class Vm:
        def __init__(self):
            self.consoles = {}

        def start(self, **keys):
            self.kernel = guest("interp.elf")
            daemon.define("src", debug_exit=True, **{
                "memory": "64M", "boot": {"kernel": guest("interp.elf")}, **keys})
            daemon.cairn("start", "src")
            self.attach("src")
            while self.consoles["src"].line() != "interp":
                pass
            self.run("src", f"fill {AT} {FILL} 1")

        def attach(self, name):
            self.consoles[name] = Console(daemon, name)

        def run(self, name, text):
            if name not in self.consoles:
                self.attach(name)
            return self.consoles[name].run(text)

        def holds(self, name, at, length, seed):
            return self.run(name, f"check {at} {length} {seed}")

        def clone(self, name, *args, **kwargs):
            return daemon.cairn("clone", "--live", "src", name, *args, **kwargs)

        def close(self):
            for c in self.consoles.values():
                c.close()

    v = Vm()
    yield v
    v.close()


def names(daemon, *args):
    return sorted(daemon.cairn("list", "--all", "--name", *args).stdout.split())


def image(path, fmt="qcow2", *args):
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *args, path, "16M"], check=True)
    return {"path": str(path), "format": fmt}


def disk_write(vm, name, disk, sector, seed):
    vm.run(name, f"open {disk}")
    vm.run(name, f"write {sector} 128 {seed}")
    vm.run(name, "flush")


def disk_holds(vm, name, disk, sector, seed):
    vm.run(name, f"open {disk}")
    vm.run(name, f"verify {sector} 128 {seed}")


def check(*paths):
    """Check images, by QEMU where it opens them: it refuses overlays on a pin."""
    for p in paths:
        with open(p, "rb") as f:
            is_overlay = b"cairn-fork:" in f.read(4096)
        program = os.path.join(BUILD, "cairn-img") if is_overlay else "qemu-img"
        subprocess.run([program, "check", "-q", "-U", p], check=True)


def concluded(q, job):
    """Wait for the job's end. Return its row of query-jobs."""
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    return j


def qemu_snapshots(path):
    """Return qemu-img's table of all snapshots; empty if there are none."""
    while True:
        r = subprocess.run(["qemu-img", "snapshot", "-l", "-U", path], text=True, stdout=subprocess.PIPE)
        if not r.returncode:  # otherwise the VM's process replaced the list between two reads of qemu-img's
            return r.stdout


def processes(fake):
    """Return the processes of VMs. The one that the daemon makes ahead of the next fork of one clone is none; fake_vm
    refuses to be that, and ends."""
    return [p for p in os.listdir("/proc") if p.isdigit() and _environ(p, fake.socket)]


def _environ(pid, path):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f, open(f"/proc/{pid}/comm") as c, open(f"/proc/{pid}/cmdline", "rb") as a:
            return path.encode() in f.read() and c.read().strip() in ("fake_vm", "cairn-vm") and b"\0--spare\0" not in a.read()
    except OSError:
        return False


def have_state(fake):
    """Return the processes that have the file of a fork's state open."""
    return [p for p in processes(fake) if any("memfd:cairn-fork" in target for target in open_files(p))]
