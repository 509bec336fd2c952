"""crowd: thousands of small VMs at once, whose guests halt: the time until all run, a list of them, the memory that the
host has less for each, with what its kernel takes, and the daemon's. All files are on a new file system (freshfs)."""

import concurrent.futures
import contextlib
import json
import os
import resource
import socket
import time

import freshfs
import guestlib
from benchlib import Unfit, need_kvm
from snapbench import daemon_of

FEW, MANY = 4000, 10000  # as far as the daemon may open files
FILES_EACH, FILES_MORE = 6, 300  # of the daemon: for each VM, and besides
CLIENTS, AT_ONCE = 8, 8  # commands in flight of each client, which the daemon performs one after the other
START_S, LIST_MS, DAEMON_MIB, EACH_MIB = 12.0, 50.0, 60.0, 1.0
TASKS_EACH = 6
FILES_ON_DISK = 12  # at most, of each VM
MEMORY_MIB = 20 << 10  # that 10,000 of them need to be free, with room for the host
PID_MAX = "/proc/sys/kernel/pid_max"
LISTS = 5


def read_word(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def available_mib():
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable:")) / 1024


class Client:
    """Sends commands without waiting for each answer."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(path)
        self.rest = b""
        self.answers(1, b"QMP")
        self.all([("qmp_capabilities", {})])
        self.all([("event-filter", {"events": []})])

    def answers(self, n, word=b"return"):
        while n:
            got = self.sock.recv(1 << 20)
            if not got:
                raise RuntimeError("the daemon hung up")
            *lines, self.rest = (self.rest + got).split(b"\n")
            for line in lines:
                if line.startswith(b'{"error"') or b'"error":' in line[:40]:
                    raise RuntimeError(line.decode())
                n -= b'"%s"' % word in line

    def all(self, commands):
        for i in range(0, len(commands), AT_ONCE):
            part = commands[i:i + AT_ONCE]
            self.sock.sendall(b"".join(json.dumps({"execute": c, "arguments": a}).encode() for c, a in part))
            self.answers(len(part))

    def close(self):
        self.sock.close()


def all_at_once(path, commands):
    """Let several clients send the commands."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(path))) for _ in range(CLIENTS)]
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(Client.all, clients, (commands[i::CLIENTS] for i in range(CLIENTS))))


def rss_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


def list_ms(daemon, count):
    took = []
    for _ in range(LISTS):
        begin = time.perf_counter()
        lines = daemon.cairn("list").stdout.count(" running")
        took.append((time.perf_counter() - begin) * 1e3)
        assert lines == count, lines
    return took


def crowd(bench, daemon, have, count):
    """Let the VMs from number `have` on run, up to `count`. Return the seconds."""
    names = [f"vm{i}" for i in range(have, count)]
    path = str(daemon.socket)
    all_at_once(path, [("vm-define", {"definition": {"name": n, "memory": "16M", "boot": {"kernel": guestlib.bare("idle")}}}) for n in names])
    begin, before = time.perf_counter(), available_mib()
    all_at_once(path, [("vm-start", {"vm": n}) for n in names])
    took = time.perf_counter() - begin
    time.sleep(2)  # the guests reach their halt
    bench.pairs(f"memory of the host for each of {count}", "MiB", [((before - available_mib()) / len(names), EACH_MIB)], "target", 0.0)
    bench.pairs(f"list of {count}", "ms", [(ms, LIST_MS) for ms in list_ms(daemon, count)], "target", 1.0)
    bench.pairs(f"the daemon's memory, {count}", "MiB", [(rss_mib(daemon.proc.pid), DAEMON_MIB)], "target", 1.0)
    return took


def measure(bench):
    with freshfs.folder(bench, 1 << 10, inodes=FILES_ON_DISK * MANY) as place, daemon_of(None, place) as daemon:
        files = resource.prlimit(daemon.proc.pid, resource.RLIMIT_NOFILE)[0]
        few = min(FEW, (files - FILES_MORE) // FILES_EACH // 100 * 100)
        first = crowd(bench, daemon, 0, few)
        bench.pairs(f"start of {few}", "s", [(first, START_S * few / FEW)], "target", 1.0)
        if files < MANY * FILES_EACH + FILES_MORE:
            raise Unfit(f"{MANY} VMs need {MANY * FILES_EACH + FILES_MORE} open files; the limit is {files}")
        if available_mib() < MEMORY_MIB * (MANY - FEW) / MANY / 1.2:
            raise Unfit(f"{MANY} VMs need {MEMORY_MIB} MiB of memory")
        rest = crowd(bench, daemon, few, MANY)
        bench.pairs(f"start of {MANY}", "s", [(first + rest, START_S * MANY / FEW)], "target", 1.0)
        begin = time.perf_counter()
        all_at_once(str(daemon.socket), [("vm-destroy", {"vm": f"vm{i}"}) for i in range(MANY)])
        bench.pairs(f"end of {MANY}", "s", [(time.perf_counter() - begin, START_S * MANY / FEW)], "target", 1.0)


def run(bench):
    need_kvm()
    if os.geteuid():
        raise Unfit(f"needs root, to raise {PID_MAX}")
    before = read_word(PID_MAX)
    wanted = max(int(before), MANY * TASKS_EACH)
    try:
        with open(PID_MAX, "w", encoding="ascii") as f:
            f.write(str(wanted))
        measure(bench)
    finally:
        with open(PID_MAX, "w", encoding="ascii") as f:
            f.write(before)
