"""guestlib: guests under `cairn run`, for tests and benchmarks.

A Guest is one foreground VM: its console is the process's stdin and stdout, its log is stderr. This module does not
need pytest."""

import functools
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("CAIRN_BUILD", os.path.join(ROOT, "build")))
CAIRN = os.path.join(BUILD, "cairn")
GUESTS = os.path.join(BUILD, "guests")
# One CPU: with two, starting a program there costs twice the time (docs/HACKING.md).
SVMHOST = [os.path.join(ROOT, "tests", "svmhost", "svmhost"), "--smp", "1"]
LINUX_SOURCE = os.path.join(ROOT, "tests", "guests", "linux")

# Run each variant of a test and each step of a sweep, not just a sample: a part of make check-long.
WHOLE = "CAIRN_TESTS_ALL" in os.environ

# Exit status of `cairn run` (enum vm_exit in vmm/vm_msg.h).
EXIT_OK, EXIT_FAILURE, EXIT_CONFIG, EXIT_HOST = 0, 1, 2, 7
EXIT_PANICKED, EXIT_CRASHED, EXIT_TIMEOUT, EXIT_KILLED = 10, 11, 12, 13



def _sanitized():
    """Return whether the programs are built with a sanitizer's runtime, which is linked dynamically."""
    try:
        with open(os.path.join(BUILD, "cairn-vm"), "rb") as f:
            return re.search(rb"\0lib[at]san\.so", f.read()) is not None
    except FileNotFoundError:
        return False


SANITIZED = _sanitized()
# Time limits are for plain builds on a real host.
SLOW = 5 if SANITIZED else 10 if "CAIRN_IN_SVMHOST" in os.environ else 1
# Seconds of a wait for a guest, which may run on a KVM that emulates kernel mode. Guest multiplies all waits with SLOW.
PATIENCE = 100.0


def has_userfaultfd():
    """Return whether VMs of this user get userfaultfd, without which no memory is read on demand."""
    if os.environ.get("CAIRN_USERFAULTFD") == "refuse":
        return False
    if os.geteuid() == 0 or os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        return True
    with open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as f:
        return f.read().strip() == "1"


def host_kind():
    """Return vmx, svm, pvm, or none without a usable /dev/kvm."""
    return subprocess.run([os.path.join(ROOT, "tests", "hostkind.sh")], capture_output=True,
                          text=True, check=True).stdout.strip()


def kvm_remedy(loaded=None):
    """Return what Cairn says to do about a missing /dev/kvm. loaded: whether KVM's module is; None: as on this host."""
    with open("/proc/cpuinfo", encoding="ascii") as f:
        flags = f.read().split()
    if loaded is None:
        loaded = os.path.exists("/sys/module/kvm_intel") or os.path.exists("/sys/module/kvm_amd")
    if loaded:
        return "KVM is loaded, so only this container lacks the device; give it that (docker run --device /dev/kvm)"
    for flag, module in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        if flag in flags:
            return f"as root: modprobe {module}; if that fails, switch virtualization on in the firmware"
    if "hypervisor" in flags:
        return "this machine is a VM without nested virtualization; switch that on at its hypervisor, or use another machine"
    return "the processor shows neither VMX nor SVM; switch virtualization on in the firmware"


def _cairn_json(*args):
    r = subprocess.run([os.path.join(BUILD, "cairn"), *args, "--format", "json"], stdout=subprocess.PIPE, text=True)
    return json.loads(r.stdout or "[]")


@functools.lru_cache(maxsize=None)
def virtualises_cpuid():
    """Return whether this host's KVM gives a guest the CPUID that KVM_SET_CPUID2 has set. kvm-pvm does not."""
    return any(c["check"] == "cpuid" and c["status"] == "ok" for c in _cairn_json("doctor"))


@functools.lru_cache(maxsize=None)
def cpu_models():
    """Return the models of `cairn cpu-models`."""
    return _cairn_json("cpu-models")


def usable_cpu(model):
    """Return a value of `cpu`: the model without the features that this host lacks."""
    if not virtualises_cpuid():
        return model
    lacks, = (m["lacks"] for m in cpu_models() if m["model"] == model)
    return ",-".join([model, *lacks])


def bare(name):
    return os.path.join(GUESTS, name + ".elf")


def definition(name="guest", guest="interp", **more):
    """Return a definition of a bare-metal guest; `more` replaces its keys."""
    d = {"name": name, "memory": "32M", "vcpus": 1, "boot": {"kernel": bare(guest)},
         "debug_exit": True}
    d.update(more)
    return d


class GuestError(Exception):
    """A guest has answered a command with an error."""


class Guest:
    """One `cairn run`. Use as a context manager, which ends the process."""

    def __init__(self, definition, args=(), env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="cairn-test-")
        self.file = os.path.join(self.folder.name, "vm.json")
        with open(self.file, "w") as f:
            json.dump(definition, f)
        self.log_path = os.path.join(self.folder.name, "log")
        self.output = b""  # all console output
        self.seen = 0  # how much of it was examined
        with open(self.log_path, "wb") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen([CAIRN, "run", *args, self.file],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, env=env, start_new_session=True)
        self.eof = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.folder.cleanup()

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def fail(self, what):
        raise AssertionError(f"{what}\n--- console, last 2000 bytes\n"
                             f"{self.output[-2000:].decode(errors='replace')}\n--- log\n"
                             f"{self.log()[-3000:]}")

    def read(self, timeout):
        """Read console output; wait at most timeout seconds for the first byte."""
        if self.eof or not select.select([self.process.stdout], [], [], max(timeout, 0))[0]:
            return False
        got = os.read(self.process.stdout.fileno(), 65536)
        self.eof = not got
        self.output += got
        return bool(got)

    def expect(self, text, timeout=PATIENCE):
        """Wait for text on the console. Return the output before it since the last call."""
        want = text.encode() if isinstance(text, str) else text
        timeout *= SLOW
        deadline = time.monotonic() + timeout
        while True:
            at = self.output.find(want, self.seen)
            if at >= 0:
                before = self.output[self.seen:at]
                self.seen = at + len(want)
                return before.decode(errors="replace")
            if not self.read(deadline - time.monotonic()):
                if self.eof:
                    self.fail(f"the console ended before {text!r}")
                if time.monotonic() >= deadline:
                    self.fail(f"no {text!r} within {timeout} s")

    def line(self, timeout=PATIENCE):
        return self.expect("\n", timeout).rstrip("\r")

    def send(self, text):
        self.process.stdin.write(text.encode() if isinstance(text, str) else text)
        self.process.stdin.flush()

    def answer(self, timeout=PATIENCE):
        """Return the lines of one answer. Raise GuestError when it ends with an error."""
        lines = []
        while True:
            line = self.line(timeout)
            if line == "ok":
                return lines
            if line.startswith(("err ", "error: ")):
                raise GuestError(line, lines)
            lines.append(line)

    def command(self, text, timeout=PATIENCE):
        """Send a line; return the lines of the answer without its "ok"."""
        self.send(text + "\n")
        return self.answer(timeout)

    def values(self, text, timeout=PATIENCE):
        """Run a command whose last line is "key=value key=value ..."; return a dict."""
        return fields(self.command(text, timeout)[-1])

    def number(self, text, timeout=PATIENCE):
        """Run a command whose answer is a number."""
        return int(self.command(text, timeout)[-1], 0)

    def wait(self, timeout=PATIENCE):
        """Wait for the end of the process; return its exit status."""
        timeout *= SLOW
        deadline = time.monotonic() + timeout
        while not self.eof and time.monotonic() < deadline:
            self.read(min(0.5, deadline - time.monotonic()))
            if self.process.poll() is not None:
                break
        try:
            status = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {timeout} s")
        while self.read(0):  # what it wrote between the last look and its end
            pass
        return status

    def terminate(self):
        """Send SIGTERM: the ACPI button, then the deadline."""
        self.process.send_signal(signal.SIGTERM)

    def vm_pid(self):
        """Return the process that runs the VM: `cairn run` itself or its child."""
        pids = [self.process.pid]
        while pids:
            pid = pids.pop()
            with open(f"/proc/{pid}/comm") as f:
                if f.read().startswith("cairn-vm"):
                    return pid
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                pids += [int(p) for p in f.read().split()]
        self.fail("there is no cairn-vm process")


def fields(line):
    """Parse "a=1 b=0x2 c=text" into a dict; numbers as int."""
    d = {}
    for word in line.split():
        key, _, value = word.partition("=")
        try:
            d[key] = int(value, 0)
        except ValueError:
            d[key] = value
    return d


def interp(**more):
    """Return an interpreter guest that is ready for commands."""
    g = Guest(definition(guest="interp", **more))
    try:
        g.expect("interp\n")
    except BaseException:
        g.close()
        raise
    return g


def disk(path, **more):
    d = {"id": "vda", "path": path, "format": "raw"}
    d.update(more)
    return d


# ---- the small Linux ----

def linux_kernel(variant="up"):
    """Return the folder of the small kernel. The first call builds it, in minutes. CAIRN_LINUX_VARIANT is the only
    variant to build, if set."""
    variant = os.environ.get("CAIRN_LINUX_VARIANT", variant)
    return subprocess.run([os.path.join(LINUX_SOURCE, "build.sh"), variant], check=True,
                          stdout=subprocess.PIPE, text=True, timeout=3600).stdout.strip()


def linux_initrd():
    return os.path.join(GUESTS, "linux", "initrd")


def linux_cmdline(kind=None):
    name = "cmdline.pvm" if (kind or host_kind()) == "pvm" else "cmdline.svm"
    with open(os.path.join(LINUX_SOURCE, name)) as f:
        return f.read().strip()


def linux_definition(name="linux", variant="up", kernel="vmlinux", **more):
    d = {"name": name, "memory": "128M", "vcpus": 1,
         "boot": {"kernel": os.path.join(linux_kernel(variant), kernel),
                  "initrd": linux_initrd(), "cmdline": linux_cmdline() + " cairn.port=ttyS0"},
         "rng": True}
    d.update(more)
    return d


def linux(**more):
    """Return the small Linux, ready for commands."""
    g = Guest(linux_definition(**more))
    try:
        g.expect("cairn-guest: ready", 180)
        g.line()
    except BaseException:
        g.close()
        raise
    return g
