"""benchlib: shared code of the benchmarks: rows with medians, programs timed until their first output."""

import json
import os
import pwd
import select
import shutil
import signal
import statistics
import subprocess
import time

import guestlib

ROUNDS = 9
QEMU = "/usr/bin/qemu-system-x86_64"
# A guest without output for this long has failed.
PATIENCE = 60
PEER = "peer"  # as a limit
PAIRS = "pairs "  # how the line begins in which a program in the SVM host gives its result


class Unfit(Exception):
    """This machine cannot run the benchmark; the text says why."""


class Bench:
    """The rows of one benchmark. user: the plain user whose daemons are measured; None: the caller's are. on: the file
    system that the figures depend on (freshfs); empty: none that matters."""

    def __init__(self, name, build, user=None):
        self.name, self.build, self.user, self.rows = name, build, user, []
        self.on = ""
        self.uid = pwd.getpwnam(user).pw_uid if user else None

    def compare(self, case, unit, ours, peer, peer_name, goal, rate=False, rounds=ROUNDS, limit=None, limit_name=""):
        """Compare two functions that measure once each; peer may be a number to reach. goal: minimum ratio; a ratio
        above 1 is in Cairn's favour. rate: more is better. limit: a number, or a function that measures once what the
        hardware or the kernel allows for the same work, or returns None; PEER: the peer measures just that; None: there is none."""
        values = [(ours(), once(peer), limit if limit is PEER else once(limit)) for _ in range(rounds)]
        limits = PEER if limit is PEER else [v[2] for v in values]
        self.pairs(case, unit, [v[:2] for v in values], peer_name, goal, rate, limits, limit_name)

    def pairs(self, case, unit, pairs, peer_name, goal, rate=False, limit=None, limit_name=""):
        """As compare(), for values that are already measured; limit may be a list of them, or of None."""
        ours, peer = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        if limit is PEER:
            limit, limit_name = peer, peer_name
        elif isinstance(limit, list):
            limit = None if None in limit else statistics.median(limit)
        ratio = favour(ours, peer, rate)
        if self.user:
            case += f", as {self.user}"
        self.rows.append({"name": self.name, "case": case, "on": self.on, "unit": unit, "rate": rate,
                          "ours": round(ours, 6), "peer": round(peer, 6), "peer_name": peer_name, "ratio": round(ratio, 3),
                          "goal": round(goal, 3), "holds": ratio >= goal,
                          "limit": None if limit is None else round(limit, 6), "limit_name": "" if limit is None else limit_name,
                          "of_limit": None if limit is None else round(favour(ours, limit, rate), 3)})


def once(value):
    """Return what a function measures, or the number itself."""
    return value() if callable(value) else value


def favour(ours, other, rate):
    """Return how many times better ours is than the other; 1000 for a cost of 0, which has no ratio."""
    above, below = (ours, other) if rate else (other, ours)
    return above / below if below else 1000.0


def need_kvm():
    kind = guestlib.host_kind()
    if kind == "none":
        raise Unfit("no usable /dev/kvm")
    return kind


def need_qemu():
    if not os.path.exists(QEMU):
        raise Unfit(f"the peer is missing: {QEMU}")


def qemu_microvm(kernel, memory_mib, *more, options=""):
    """Return the fastest setup of QEMU, with a serial port on stdio. options: of the machine type."""
    cpu = "host,-arch-capabilities" if guestlib.host_kind() == "pvm" else "host"
    return [QEMU, "-M", "microvm,x-option-roms=off" + options, "-accel", "kvm", "-cpu", cpu, "-m", str(memory_mib),
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel, *more]


class Program:
    """A program with pipes, started by posix_spawn: forking this interpreter would cost as much as the measured
    time. If it ends too early, the error has its status and what it said on stderr."""

    def __init__(self, argv):
        to_r, self.stdin = os.pipe()
        self.stdout, from_w = os.pipe()
        self.stderr = os.memfd_create("stderr")
        moves = [(os.POSIX_SPAWN_DUP2, to_r, 0), (os.POSIX_SPAWN_DUP2, from_w, 1), (os.POSIX_SPAWN_DUP2, self.stderr, 2)]
        self.begin_ns = time.perf_counter_ns()
        self.pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=moves)
        for fd in (to_r, from_w):
            os.close(fd)
        self.output = b""
        self.status = None  # of the program, once it has ended

    def until(self, text, patience=PATIENCE):
        """Read until text has come. Return the milliseconds since the start."""
        deadline = time.monotonic() + patience
        while text not in self.output:
            if not select.select([self.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise RuntimeError(f"no {text!r} within {patience} s; {self.said()}")
            got = os.read(self.stdout, 65536)
            if not got:
                self.end()
                raise RuntimeError(f"the program ended before {text!r}, status {self.status}; {self.said()}")
            self.output += got
        return (time.perf_counter_ns() - self.begin_ns) / 1e6

    def said(self):
        log = os.pread(self.stderr, 1 << 20, 0)
        return f"it said {self.output[-300:]!r}, on stderr {log[-1000:]!r}"

    def end(self, patience=5):
        """Wait for the status, and kill a program that does not end."""
        deadline = time.monotonic() + patience
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() < deadline:
                time.sleep(0.01)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def close(self):
        self.end(0)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def pairs_in_svmhost(script, seconds, *args, options=(), kernel="backports"):
    """Measure in the emulated host, where the script runs as a program and ends with print_pairs(). options: of
    svmhost. kernel: as CAIRN_SVMHOST_KERNEL (tests/svmhost/README.md)."""
    r = subprocess.run([*guestlib.SVMHOST, *options, "--timeout", str(seconds), "--", "/usr/bin/python3", os.path.abspath(script), *args],
                       env={**os.environ, "CAIRN_SVMHOST_KERNEL": kernel}, stdout=subprocess.PIPE, text=True, errors="replace")
    for line in r.stdout.splitlines():
        if line.startswith(PAIRS):
            return json.loads(line[len(PAIRS):])
    raise Unfit(f"the SVM host gave no result, status {r.returncode}: {r.stdout[-1500:]}")


SEQUENTIAL = "fio, 1 MiB in sequence, synced"  # name of the limit that sequential_mib_s() measures


def sequential_mib_s(path, mib):
    """Return the MiB/s with which fio writes a new file in sequence, with O_DIRECT where the file system has that, and
    syncs it. Without fio, there is no such limit."""
    if not shutil.which("fio"):
        return None
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
        direct = 1
    except OSError:
        direct = 0
    out = subprocess.check_output(["fio", "--ioengine=io_uring", f"--direct={direct}", "--thread", "--output-format=json", "--name=a",
                                   f"--filename={path}", "--rw=write", "--bs=1m", "--iodepth=4", f"--size={mib}m", "--end_fsync=1"])
    os.unlink(path)
    return mib * 1000 / json.loads(out)["jobs"][0]["job_runtime"]


def limit_program(build, name):
    """Return the path of a program that measures a limit; None: an older commit's build lacks it."""
    path = os.path.join(build, "helpers", name)
    return path if os.path.exists(path) else None


def kvm_limit(bench, *args):
    """Return the milliseconds that KVM needs for what tests/helpers/kvm_limit.c does."""
    program = limit_program(bench.build, "kvm_limit")
    return program and int(subprocess.check_output([program, *map(str, args)])) / 1e6


def print_pairs(pairs):
    print(PAIRS + json.dumps(pairs), flush=True)


def milliseconds_to(argv, text):
    with Program(argv) as p:
        return p.until(text)
