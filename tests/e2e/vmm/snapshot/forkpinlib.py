"""forkpinlib: a VM whose clones read its image at pins (docs/snapshots.md, "Pins"), and what is in the images."""

import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, Console
from forklib import qemu_snapshots

MIB = 1 << 20
IMG = os.path.join(BUILD, "cairn-img")


class Vms:
    """Interpreters, by name, with the disk vda of each."""

    def __init__(self, daemon, guest, tmp):
        self.daemon, self.guest, self.tmp, self.consoles = daemon, guest, tmp, {}

    def image(self, name, size="64M", *args):
        path = self.tmp / name
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args, path, size], check=True)
        return {"path": str(path), "format": "qcow2"}

    def start(self, *disks, name="src", **keys):
        self.daemon.define(name, memory="32M", debug_exit=True, boot={"kernel": self.guest("interp.elf")},
                           disks=list(disks), **keys)
        self.boot(name)

    def boot(self, name):
        self.daemon.cairn("start", name)
        self.attach(name)
        while self.consoles[name].line() != "interp":
            pass

    def attach(self, name):
        self.leave(name)
        self.consoles[name] = Console(self.daemon, name)

    def leave(self, name):
        if name in self.consoles:
            self.consoles.pop(name).close()

    def run(self, name, *commands):
        if name not in self.consoles:
            self.attach(name)
        for c in commands:
            self.consoles[name].run(c)

    def write(self, name, at, seed, disk=0):
        self.run(name, f"open {disk}", f"write {at} 128 {seed}", "flush")

    def holds(self, name, at, seed, disk=0):
        self.run(name, f"open {disk}", f"verify {at} 128 {seed}")

    def fork(self, name, *args, source="src"):
        r = self.daemon.cairn("clone", "--live", source, name, *args, "--format", "json")
        return json.loads(r.stdout)

    def made(self, result):
        return {d["id"]: d["made"] for d in result["disks"]}

    def end(self, name, *args):
        """Stop a VM and remove it with its images."""
        self.leave(name)
        if self.daemon.cairn("domstate", name).stdout in ("running\n", "paused\n"):
            self.daemon.cairn("destroy", name)
        self.daemon.cairn("undefine", name, "--remove-all-storage", *args)

    def path(self, name, disk="vda"):
        return self.tmp / f"{name}-{disk}.qcow2"

    def close(self):
        for name in list(self.consoles):
            self.leave(name)


@pytest.fixture
def vms(daemon, kvm, guest, tmp_path):
    v = Vms(daemon, guest, tmp_path)
    yield v
    v.close()


def snapshots(path):
    """Return a line for each of an image's snapshots, pins included."""
    return qemu_snapshots(path).splitlines()[2:]


def img(*args, ok=0):
    r = subprocess.run([IMG, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode == ok or (ok is None and r.returncode), r
    return r


def pins_in(path):
    """Return the pins in the image of a running VM, also of an overlay on a pin, which QEMU cannot open."""
    return [s["pin"] for s in json.loads(img("info", "-U", "--output", "json", path).stdout).get("snapshots", []) if "pin" in s]


def off(vms, daemon, name="src"):
    vms.leave(name)
    daemon.cairn("destroy", name)


def blocks(daemon, name):
    """Return what `cairn domblkinfo` says of a VM's disks, by id."""
    return {d["id"]: d for d in json.loads(daemon.cairn("domblkinfo", name, "--format", "json").stdout)}


def told(daemon, *args):
    """Return what `cairn clone --live` says, but for the way in which memory was copied."""
    return re.sub("^The VM ran while .*\n", "", daemon.cairn("clone", "--live", *args).stdout, flags=re.M)


def pins_known(daemon):
    """Return the overlays of the list of pins, without the names of their disks."""
    rows = json.loads((daemon.state / "pins.json").read_text())["used"]
    return sorted(os.path.basename(r["overlay"])[:-len("-vda.qcow2")] for r in rows)


def copy_by_hand(vms, daemon):
    """Copy the disk of the clone c. Return the keys of a definition with the copy."""
    off(vms, daemon, "c")
    shutil.copy(vms.path("c"), vms.path("copy"))
    d = json.loads(daemon.cairn("dumpjson", "c").stdout)
    d["disks"][0]["path"] = str(vms.path("copy"))
    return {k: v for k, v in d.items() if k not in ("name", "uuid", "interfaces")}
