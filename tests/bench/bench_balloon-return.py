"""balloon-return: memory that Linux guests give back to the host, in the SVM host, beside QEMU's balloon.

By inflation: the share of 1 GiB that the host has back after 3 s. By free page reporting: the share of 4 GiB that it has
back after 40 s, and the processor time of the VM's process as a share of one processor: in those 40 s, in which the
guest also takes the memory out of its balloon, and in the seconds after them, when nothing is left to report.

Both programs have guest memory in a memfd. The benchmark allocates the whole file, as a guest that has used all its
memory leaves it: in the emulated host, a guest would need minutes to touch 4 GiB. Before that, the balloon takes the
memory that is reported afterwards, because Linux reports a page once until it is allocated again."""

import contextlib
import json
import os
import pathlib
import re
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import clonelib
import guestlib
from benchlib import QEMU, Program, need_qemu, pairs_in_svmhost, print_pairs
from conftest import Console, Qmp, until
from snapbench import daemon_of

MIB = 1 << 20
REST_MIB = 512  # what the guest keeps
INFLATED_MIB, INFLATE_S, INFLATE_GOAL = 1024, 3.0, 0.9
REPORTED_MIB, REPORT_S, REPORT_GOAL = 4096, 40.0, 0.9
IDLE_S, CPU_GOAL = 20.0, 0.01
ROUNDS = 3  # of inflation
INSIDE_SECONDS = 1500
HOST_MIB = 6144
TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """A Linux guest with a balloon. pid: of its process; set by a subclass, with q, a QMP connection to the VM."""

    def file_find(self):
        folder = f"/proc/{self.pid}/fd"
        for fd in os.listdir(folder):
            if self.FILE.search(os.readlink(f"{folder}/{fd}")):
                return f"{folder}/{fd}"
        raise RuntimeError("no file of guest memory")

    def memory_allocate(self):
        with open(self.file, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, os.fstat(f.fileno()).st_size)

    def bytes(self):
        return os.stat(self.file).st_blocks * 512

    def target_set(self, mib):
        self.q.run("balloon", value=mib * MIB)

    def target_await(self, mib):
        self.target_set(mib)
        until(lambda: self.q.run("query-balloon")["actual"] == mib * MIB)

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13])) / TICKS


class Ours(Machine):
    FILE = clonelib.RAM

    def __init__(self, stack, kernel, mib):
        daemon = stack.enter_context(daemon_of(None))
        d = {"name": "vm", "memory": f"{mib}M", "vcpus": 1, "rng": True, "balloon": True,
             "boot": {"kernel": kernel, "initrd": guestlib.linux_initrd(), "cmdline": guestlib.linux_cmdline() + " cairn.port=ttyS0"}}
        (daemon.tmp / "vm.json").write_text(json.dumps(d))
        daemon.cairn("define", str(daemon.tmp / "vm.json"))
        daemon.cairn("start", "vm")
        console = stack.enter_context(contextlib.closing(Console(daemon, "vm")))
        console.sock.settimeout(120)
        while console.line() != "cairn-guest: ready":
            pass
        self.pid = daemon.info("vm")["pid"]
        self.q = stack.enter_context(contextlib.closing(Qmp(daemon.cairn("qmp-path", "vm").stdout.rstrip("\n"))))
        self.file = self.file_find()


class Peer(Machine):
    FILE = re.compile("memfd:memory-backend-memfd")

    def __init__(self, stack, kernel, mib):
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-")))
        program = stack.enter_context(Program([
            QEMU, "-M", "pc,memory-backend=ram", "-object", f"memory-backend-memfd,id=ram,size={mib}M,share=on", "-accel", "kvm",
            "-cpu", "host", "-m", str(mib), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel, "-initrd", guestlib.linux_initrd(), "-append", guestlib.linux_cmdline() + " cairn.port=ttyS0",
            "-device", "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on", "-device", "virtio-rng-pci",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]))
        program.until(b"cairn-guest: ready", 120)
        self.pid = program.pid
        self.q = stack.enter_context(contextlib.closing(Qmp(f"{folder}/qmp")))
        self.file = self.file_find()


def inflation(make, kernel):
    """Return the share of the memory that is back after INFLATE_S."""
    with contextlib.ExitStack() as stack:
        vm = make(stack, kernel, REST_MIB + INFLATED_MIB)
        vm.memory_allocate()
        before, end = vm.bytes(), time.monotonic() + INFLATE_S
        vm.target_set(REST_MIB)
        time.sleep(max(0.0, end - time.monotonic()))
        return (before - vm.bytes()) / (INFLATED_MIB * MIB)


def reporting(make, kernel):
    """Return the share of the memory that is back after REPORT_S, and the processor's share during and after that."""
    with contextlib.ExitStack() as stack:
        vm = make(stack, kernel, REST_MIB + REPORTED_MIB)
        vm.target_await(REST_MIB)
        vm.memory_allocate()
        figures = [(vm.bytes(), vm.cpu_s())]
        vm.target_set(REST_MIB + REPORTED_MIB)
        for seconds in REPORT_S, IDLE_S:
            time.sleep(seconds)
            figures.append((vm.bytes(), vm.cpu_s()))
    (before, cpu0), (after, cpu1), (_, cpu2) = figures
    return (before - after) / (REPORTED_MIB * MIB), (cpu1 - cpu0) / REPORT_S, (cpu2 - cpu1) / IDLE_S


def measure(kernel):
    back = [[inflation(make, kernel) for make in (Ours, Peer)] for _ in range(ROUNDS)]
    return [back, *([pair] for pair in zip(*(reporting(make, kernel) for make in (Ours, Peer))))]


def run(bench):
    need_qemu()
    kernel = os.path.join(guestlib.linux_kernel(), "vmlinux")
    cases = pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel, options=("--smp", "2", "--mem", str(HOST_MIB)))
    for case, pairs, goal, rate in zip(
            ("back after 3 s of inflation by 1 GiB", "back by reporting of 4 GiB in 40 s", "of a processor, meanwhile", "of a processor, after that"),
            cases, (INFLATE_GOAL, REPORT_GOAL, None, CPU_GOAL), (True, True, False, False)):
        bench.pairs(case, "", pairs, "QEMU pc", 0.9, rate)
        if goal:
            bench.pairs(case, "", [(ours, goal) for ours, _ in pairs], "target", 1.0, rate)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
