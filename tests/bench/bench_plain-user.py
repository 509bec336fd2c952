"""plain-user: a plain user's VM, with access to /dev/userfaultfd, compared with root's in one alternation.

1 GiB of memory with 512 MiB filled: the pause of a snapshot, the bytes and the time of a second one, a revert, forks.
All files are on /dev/shm: flushes of a shared disk take from 30 to 150 ms."""

import json
import os
import pwd

from benchlib import ROUNDS, Unfit, need_kvm
from imgbench import PLACES
from snapbench import running

MEMORY_MIB, FILLED_MIB, DIRTIED_MIB = 1024, 512, 16
FORKS = 20
GOAL = 1 / 1.1
USER = "nobody"


def fork_ms(vm, count):
    """Return the milliseconds of each clone."""
    more = ["--count", str(count)] if count > 1 else []
    d = vm.daemon
    total = json.loads(d.cairn("clone", "--live", "vm", "c", *more, "--format", "json").stdout)["total"]
    for name in ["c"] if count == 1 else [f"c-{i}" for i in range(1, count + 1)]:
        d.cairn("destroy", name)
        d.cairn("undefine", name, "--remove-all-storage")
    return total / 1e6 / count


def snapshot(vm, seed):
    """Return pause, bytes written and duration."""
    vm.fill(DIRTIED_MIB, seed)
    s = vm.snapshot()
    return s["pause"] / 1e6, s["ram-bytes-written"] / 2**20, s["total"] / 1e6


def revert(vm, seed):
    vm.fill(DIRTIED_MIB, seed + 1)
    return (vm.revert(f"s{vm.n}"),)


def fork_one(vm, seed):
    return (fork_ms(vm, 1),)


def fork_many(vm, seed):
    return (fork_ms(vm, FORKS),)


ROWS = ((snapshot, "pause of a snapshot", "ms"), (snapshot, "second snapshot, written", "MiB"), (snapshot, "second snapshot", "ms"),
        (revert, "revert", "ms"), (fork_one, "fork, one", "ms"), (fork_many, f"fork, each of {FORKS}", "ms"))


def rounds(plain, root):
    """Measure both VMs one after the other, in changing order. Return a pair for each figure."""
    found = {}
    for i in range(ROUNDS + 1):
        for step in (snapshot, revert, fork_one, fork_many):
            figures = {vm: step(vm, 2 * i + 2) for vm in ((plain, root) if i % 2 else (root, plain))}
            if i:
                found.setdefault(step, []).append(list(zip(figures[plain], figures[root])))
    return found


def run(bench):
    need_kvm()
    if os.geteuid() != 0:
        raise Unfit("needs root")
    uid, shape = pwd.getpwnam(USER).pw_uid, (MEMORY_MIB, FILLED_MIB, PLACES["shm"])
    with running(uid, *shape) as plain, running(None, *shape) as root:
        for vm in (plain, root):
            vm.snapshot()  # the later ones write only what is dirtied
        found = rounds(plain, root)
    seen = {}
    for step, case, unit in ROWS:
        n = seen[step] = seen.get(step, -1) + 1
        bench.pairs(case, unit, [pairs[n] for pairs in found[step]], "root", GOAL)
