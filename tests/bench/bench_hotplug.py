"""hotplug: from the command that attaches a disk until the guest has read its PCI id, next to QEMU's pc; and, where a
kernel does not run in an emulator, until Linux has /dev/vdb."""

import contextlib
import json
import os
import tempfile
import time

import guestlib
from benchlib import QEMU, ROUNDS, Program, need_kvm, need_qemu
from conftest import Console, Qmp, until
from snapbench import daemon_of

# Of QEMU's time. Unlike QEMU, the daemon opens the image with its author's rights, stores the running VM's definition
# before the VM gets the disk (two syncs), and the process stops the thread of the disk's loop meanwhile.
FRACTION = 2.5
TARGET_MS = 100.0
PLUGGED = "plugged 0xae00"  # both have this port
VIRTIO_BLK = 0x10421af4
VIRTIO_BLK_OLD = 0x10011af4  # QEMU's also serves drivers of before virtio 1


def image(folder, name):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.truncate(1 << 20)
    return path


class Ours:
    def __init__(self, stack, daemon):
        self.folder = daemon.tmp
        daemon.define("vm", memory="64M", boot={"kernel": guestlib.bare("interp")},
                      disks=[{"path": image(daemon.tmp, "vda"), "format": "raw"}])
        daemon.cairn("start", "vm")
        self.console = stack.enter_context(contextlib.closing(Console(daemon, "vm")))
        while self.console.line() != "interp":
            pass
        self.q = stack.enter_context(contextlib.closing(Qmp(daemon.socket)))

    def listen(self):
        self.console.sock.sendall(PLUGGED.encode() + b"\n")

    def plug(self, name):
        disk = {"id": name, "path": image(self.folder, name), "format": "raw"}
        return [("vm-attach-disk", {"vm": "vm", "disk": disk})]

    def line(self):
        found = self.console.line()
        if self.console.line() != "ok":
            raise RuntimeError(f"the guest said {found!r}")
        return found


class Linux(Ours):
    """The small Linux, which waits for the disk's node in /dev."""

    def __init__(self, stack, daemon):
        self.folder = daemon.tmp
        keys = guestlib.linux_definition(disks=[{"path": image(daemon.tmp, "root"), "format": "raw"}])
        daemon.define(**{**keys, "name": "vm"})
        daemon.cairn("start", "vm")
        self.console = stack.enter_context(contextlib.closing(Console(daemon, "vm")))
        while self.console.line() != "cairn-guest: ready":
            pass
        self.q = stack.enter_context(contextlib.closing(Qmp(daemon.socket)))

    def ms(self, name):
        begin = time.perf_counter_ns()
        [(command, args)] = self.plug(name)
        self.q.run(command, **args)
        self.console.run(f"await /dev/{name}")
        return (time.perf_counter_ns() - begin) / 1e6


class Peer:
    def __init__(self, stack):
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-"))
        cpu = "host,-arch-capabilities" if guestlib.host_kind() == "pvm" else "host"
        path = os.path.join(self.folder, "qmp")
        self.program = stack.enter_context(Program([
            QEMU, "-M", "pc", "-accel", "kvm", "-cpu", cpu, "-m", "64", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-kernel", guestlib.bare("interp"), "-qmp", f"unix:{path},server=on,wait=off"]))
        self.program.until(b"interp")
        until(lambda: os.path.exists(path))
        self.q = stack.enter_context(contextlib.closing(Qmp(path)))

    def listen(self):
        self.program.output = b""
        os.write(self.program.stdin, PLUGGED.encode() + b"\n")

    def plug(self, name):
        file = {"driver": "file", "filename": image(self.folder, name)}
        return [("blockdev-add", {"node-name": name, "driver": "raw", "file": file}),
                ("device_add", {"driver": "virtio-blk-pci", "drive": name, "id": "d" + name})]

    def line(self):
        self.program.until(b"ok")
        return self.program.output.decode().split()[0]


def milliseconds(machine, name):
    commands = machine.plug(name)
    machine.listen()
    begin = time.perf_counter_ns()
    for command, args in commands:
        machine.q.send(json.dumps({"execute": command, "arguments": args}).encode())
    found = int(machine.line(), 16)
    ms = (time.perf_counter_ns() - begin) / 1e6
    if found not in (VIRTIO_BLK, VIRTIO_BLK_OLD):
        raise RuntimeError(f"the guest found {found:#x}")
    for command, _ in commands:
        answer = machine.q.answer()
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
    return ms


def run(bench):
    need_kvm()
    need_qemu()
    with contextlib.ExitStack() as stack:
        ours, peer = Ours(stack, stack.enter_context(daemon_of(None))), Peer(stack)
        names = [f"vd{c}" for c in "bcdefghi"[:ROUNDS]]  # there are 8 slots
        pairs = [(milliseconds(ours, n), milliseconds(peer, n)) for n in names]
    bench.pairs("command to the guest's device", "ms", pairs, "QEMU pc", 1 / FRACTION)
    bench.pairs("command to the guest's device", "ms", [(o, TARGET_MS) for o, _ in pairs], "target", 1.0)
    if guestlib.host_kind() in ("svm", "vmx"):
        with contextlib.ExitStack() as stack:
            linux = Linux(stack, stack.enter_context(daemon_of(None)))
            times = [linux.ms(n) for n in names]
        bench.pairs("command to Linux's /dev/vdb", "ms", [(t, TARGET_MS) for t in times], "target", 1.0)
