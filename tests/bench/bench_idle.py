"""idle: CPU time and wake-ups of a VM process whose guest halts."""

import os
import re
import time

import guestlib
from benchlib import ROUNDS, Program, need_kvm, need_qemu, qemu_microvm

SECONDS = 3
TARGET_PERCENT = 0.1
# Other causes wake a thread now and then (a signal, the kernel); a periodic timer of Cairn would fire at 1 Hz or
# more.
TARGET_WAKE_UPS = 1.0


def use(pid):
    """Return CPU seconds of all threads, and how often they went to sleep."""
    seconds, sleeps = 0.0, 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            seconds += int(f.read().split()[0]) / 1e9
        with open(f"/proc/{pid}/task/{task}/status") as f:
            sleeps += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M).group(1))
    return seconds, sleeps


def run(bench):
    need_kvm()
    need_qemu()
    argv = qemu_microvm(guestlib.bare("idle"), 32)
    with guestlib.Guest(guestlib.definition(guest="idle")) as g, Program(argv) as peer:
        g.expect("idle")
        peer.until(b"idle")
        time.sleep(1)
        pids, windows = (g.vm_pid(), peer.pid), []
        for _ in range(ROUNDS):
            before = [use(p) for p in pids]
            time.sleep(SECONDS)
            after = [use(p) for p in pids]
            windows.append([[(a[i] - b[i]) / SECONDS for a, b in zip(after, before)] for i in (0, 1)])
    cpu = [tuple(100 * v for v in w[0]) for w in windows]
    wakes = [tuple(w[1]) for w in windows]
    bench.pairs("CPU of a core", "%", [(o, TARGET_PERCENT) for o, _ in cpu], "target", 1.0)
    bench.pairs("CPU of a core", "%", cpu, "QEMU microvm", 1.0)
    bench.pairs("wake-ups", "1/s", [(o, TARGET_WAKE_UPS) for o, _ in wakes], "target", 1.0)
