"""clonelib: how long a clone stands still and how much memory it has for itself, for tests and benchmarks."""

import contextlib
import os
import re
import time


RAM = re.compile(r"/memfd:cairn-ram|/#\d+ \(deleted\)$")  # the latter is a file of a tmpfs with huge pages


def ram_kib(pid):
    """Return the KiB of the file of the VM's memory."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if RAM.match(os.readlink(f"/proc/{pid}/fd/{fd}")):
                return os.stat(f"/proc/{pid}/fd/{fd}").st_blocks // 2
    raise AssertionError("no memory")


def own_kib(daemon, name):
    """Return the KiB of guest memory that exist for this VM alone."""
    pid = daemon.info(name)["pid"]
    with open(f"/proc/{pid}/smaps") as f:
        views = f.read().split("memfd:cairn-fork")[1:]
    kib = sum(int(k) for part in views for k in re.findall(r"Anonymous: +(\d+)", part.split("VmFlags")[0]))
    return kib + ram_kib(pid)


def thread_name(task):
    """Return the name of a thread, "" if it has ended."""
    try:
        with open(f"{task}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


class Clock:
    """A vCPU that does nothing but measure for how long it stands still (tests/guests/bare/gap.c). On a busy host it
    also waits for a processor; the host's scheduler tells for how long."""

    def __init__(self, vm, daemon, name):
        self.vm, self.daemon = vm, daemon
        self.move(name)
        began, at = time.monotonic(), self.show()[1]
        time.sleep(0.3)
        self.per_ms = (self.show()[1] - at) / (time.monotonic() - began) / 1e3

    def move(self, name):
        """Measure in another VM, a clone with the same program."""
        self.name = name
        tasks = f"/proc/{self.daemon.info(name)['pid']}/task"
        self.task, = (f"{tasks}/{t}" for t in os.listdir(tasks) if thread_name(f"{tasks}/{t}") == "vcpu1")

    def show(self):
        line, = (l for l in self.vm.run(self.name, "gap show") if "largest=" in l)
        return [int(n) for n in re.findall(r"=(\d+)", line)]

    def times(self):
        """Return in ms: the time, and for how long the thread has run and has waited for a processor."""
        ran, waited, _ = open(f"{self.task}/schedstat").read().split()
        return time.monotonic() * 1e3, int(ran) / 1e6, int(waited) / 1e6

    def measure(self, job):
        """Run a job and return in ms: the longest time for which the guest stood still meanwhile, by its own clock;
        for how long it waited for a processor; for how long it neither waited nor ran; the reported pause."""
        self.show()
        before = self.times()
        reported = job()["pause"] / 1e6
        total, ran, waited = (b - a for a, b in zip(before, self.times()))
        return self.show()[0] / self.per_ms, waited, total - ran - waited, reported
