"""hotplug: from the command that attaches a disk until the guest has read its PCI id, next to QEMU's pc. In the SVM
host (or here, where a kernel does not run in an emulator), also next to QEMU's pc: until Linux has /dev/vdb; and from
the command that adds a vCPU until Linux has it online."""

import contextlib
import json
import os
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import QEMU, ROUNDS, Program, need_kvm, need_qemu, pairs_in_svmhost, print_pairs
from conftest import Console, Qmp, until
from snapbench import daemon_of

# Of QEMU's time. Unlike QEMU, the daemon opens the image with its author's rights, stores the running VM's definition
# before the VM gets the disk (two syncs), and the process stops the thread of the disk's loop meanwhile.
FRACTION = 2.5
TARGET_MS = 100.0
PLUGGED = "plugged 0xae00"  # both have this port
DISKS = [f"vd{c}" for c in "bcdefghi"[:ROUNDS]]  # there are 8 slots
VCPUS = 6
LINUX_LINE = guestlib.linux_cmdline("svm") + " cairn.port=ttyS0"
START_SECONDS = 120
INSIDE_SECONDS = 600
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


class Linux(Ours):
    """The small Linux, which waits for the disk's node in /dev."""

    def __init__(self, stack, daemon, kernel):
        self.folder = daemon.tmp
        keys = {"name": "vm", "memory": "128M", "vcpus": 1, "max_vcpus": VCPUS, "rng": True,
                "boot": {"kernel": kernel, "initrd": guestlib.linux_initrd(), "cmdline": LINUX_LINE},
                "disks": [{"path": image(daemon.tmp, "root"), "format": "raw"}]}
        (daemon.tmp / "vm.json").write_text(json.dumps(keys))
        daemon.cairn("define", str(daemon.tmp / "vm.json"))
        daemon.cairn("start", "vm")
        self.console = stack.enter_context(contextlib.closing(Console(daemon, "vm")))
        self.console.sock.settimeout(START_SECONDS)
        while self.console.line() != "cairn-guest: ready":
            pass
        self.q = stack.enter_context(contextlib.closing(Qmp(daemon.socket)))
        self.vm_q = stack.enter_context(contextlib.closing(Qmp(daemon.cairn("qmp-path", "vm").stdout.rstrip("\n"))))
        self.run = self.console.run


class LinuxPeer(Peer):
    def __init__(self, stack, kernel):
        self.folder = folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-"))
        self.program = stack.enter_context(Program([
            QEMU, "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "128", "-smp", f"1,maxcpus={VCPUS}", "-nodefaults",
            "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd",
            guestlib.linux_initrd(), "-append", LINUX_LINE, "-device", "virtio-rng-pci",
            "-drive", f"if=virtio,format=raw,file={image(folder, 'root')}", "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]))
        self.program.until(b"cairn-guest: ready", START_SECONDS)
        self.q = self.vm_q = stack.enter_context(contextlib.closing(Qmp(f"{folder}/qmp")))

    def run(self, command):
        self.program.output = b""
        os.write(self.program.stdin, command.encode() + b"\n")
        self.program.until(b"ok")


def disk_ms(machine, name):
    commands = machine.plug(name)
    begin = time.perf_counter_ns()
    for command, args in commands:
        machine.q.run(command, **args)
    machine.run(f"await /dev/{name}")
    return (time.perf_counter_ns() - begin) / 1e6


def vcpu_ms(machine, n):
    """Add the first absent vCPU, which the guest names cpuN. The guest takes it online, as a rule of udev does."""
    absent = [c for c in machine.vm_q.run("query-hotpluggable-cpus") if "qom-path" not in c]
    cpu = min(absent, key=lambda c: sorted(c["props"].items()))
    begin = time.perf_counter_ns()
    machine.vm_q.run("device_add", driver=cpu["type"], id=f"vcpu{n}", **cpu["props"])
    machine.run(f"await /sys/devices/system/cpu/cpu{n}/online")
    machine.run(f"cpu {n} on")
    return (time.perf_counter_ns() - begin) / 1e6


def linux_measure(kernel):
    """Return [[ms to /dev/vdb, QEMU's], ...] and [[ms to a vCPU, QEMU's], ...]."""
    with contextlib.ExitStack() as stack:
        linux, peer = Linux(stack, stack.enter_context(daemon_of(None)), kernel), LinuxPeer(stack, kernel)
        return ([(disk_ms(linux, n), disk_ms(peer, n)) for n in DISKS],
                [(vcpu_ms(linux, n), vcpu_ms(peer, n)) for n in range(1, VCPUS)])


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
        pairs = [(milliseconds(ours, n), milliseconds(peer, n)) for n in DISKS]
    bench.pairs("command to the guest's device", "ms", pairs, "QEMU pc", 1 / FRACTION)
    bench.pairs("command to the guest's device", "ms", [(o, TARGET_MS) for o, _ in pairs], "target", 1.0)
    kernel = os.path.join(guestlib.linux_kernel("smp"), "vmlinux")
    here = guestlib.host_kind() in ("svm", "vmx")
    disks, vcpus = linux_measure(kernel) if here else pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel,
                                                                                      options=("--smp", "2"))
    bench.pairs("command to Linux's /dev/vdb", "ms", disks, "QEMU pc", 1 / FRACTION)
    bench.pairs("command to Linux's /dev/vdb", "ms", [(o, TARGET_MS) for o, _ in disks], "target", 1.0)
    bench.pairs("command to Linux's new vCPU online", "ms", vcpus, "QEMU pc", 0.9)


if __name__ == "__main__":
    print_pairs(linux_measure(sys.argv[1]))
