"""run-warm: `cairn run --kernel K --initrd I -- COMMAND` from start to exit, beginning from a saved state: in the SVM
host, and natively beside what the same guest measures for its own fork and exec of that command. The limit in the SVM host is
that, and `cairn run` of a bare guest until its first byte (bench_exec.py says why it is none natively). The first run, which boots, is a row as well."""

import json
import os
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import ROUNDS, Unfit, milliseconds_to, pairs_in_svmhost, print_pairs

GOAL_MS = 25.0
COLD_SHARE = 4.0  # how many times longer a boot takes, at least
INSIDE_SECONDS = 240
PROGRAM = ["/cairn-agent", "--usage"]  # the only one that the initramfs has beside init
MEMORY = "128M"


def run_ms(kernel, cache, *options):
    begin = time.monotonic()
    r = subprocess.run([guestlib.CAIRN, "run", "--kernel", os.path.join(kernel, "vmlinux"), "--initrd", guestlib.linux_initrd(), "--memory", MEMORY,
                        "--log-level", "info", *options, "--", *PROGRAM], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                       env={**os.environ, "XDG_CACHE_HOME": cache})
    ms = (time.monotonic() - begin) * 1000
    assert r.returncode == 1 and "usage" in r.stderr, (r.returncode, r.stderr)
    return ms, "(restored)" in r.stderr


def bare_ms(folder):
    """Return the ms of a bare guest's first byte."""
    with open(f"{folder}/bare.json", "w", encoding="ascii") as f:
        json.dump({"name": "bench", "memory": MEMORY, "boot": {"kernel": guestlib.bare("first_byte")}}, f)
    return milliseconds_to([guestlib.CAIRN, "run", f"{folder}/bare.json"], b"A")


def measure(kernel):
    """Return [(ms of a run, of a fork and exec in the guest, of a bare guest, of the run that booted), ...]."""
    with tempfile.TemporaryDirectory(prefix="vs-") as cache:
        cold, _ = run_ms(kernel, cache)
        runs = [run_ms(kernel, cache) for _ in range(ROUNDS + 2)][2:]
        if not all(warm for _, warm in runs):
            raise Unfit("the guest boots each time")
        d = guestlib.linux_definition()
        d["boot"]["kernel"] = os.path.join(kernel, "vmlinux")
        d["vsock"] = {"path": f"{cache}/s"}
        with guestlib.Guest(d, ("--agent",)) as g:
            g.expect("cairn-guest: ready", 180)
            g.line()
            own = [g.number("spawn " + " ".join(PROGRAM)) / 1e6 for _ in range(ROUNDS + 2)][2:]
        bare = [bare_ms(cache) for _ in range(ROUNDS + 2)][2:]
        return [(ms, o, b, cold) for (ms, _), o, b in zip(runs, own, bare)]


def rows_add(bench, where, rows, is_native):
    peer = f"the guest's own fork and exec + {GOAL_MS:.0f} ms" if is_native else "goal"
    bench.pairs(f"start to exit, {where}", "ms", [(ours, own + GOAL_MS if is_native else GOAL_MS) for ours, own, _, _ in rows], peer, 1.0,
                limit=None if is_native else [own + bare for _, own, bare, _ in rows], limit_name="the guest's own fork and exec + a bare guest's first byte")
    bench.pairs(f"a run that boots, {where}", "ms", [(ours, cold) for ours, _, _, cold in rows], "the first run, which boots", COLD_SHARE)


def run(bench):
    kernel = guestlib.linux_kernel()
    kind = guestlib.host_kind()
    if kind == "none":
        raise Unfit("no usable /dev/kvm")
    if kind == "pvm":
        rows_add(bench, "SVM host", pairs_in_svmhost(__file__, INSIDE_SECONDS, kernel), False)
    rows_add(bench, "natively", measure(kernel), True)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
