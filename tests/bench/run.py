#!/usr/bin/python3
"""Run benchmarks of Cairn and its peers alternately; the median of 9 counts.

run.py [--build DIR] [--only NAME] [--as USER] [--history FILE] [--list]
Prints a table. DIR/bench.json has one JSON line for each case of the last run, and DIR/bench-history.jsonl those of all
runs with their commit and machine (history.py). A benchmark is a file bench_NAME.py in
this folder with a function run(bench); its docstring describes the measurement. A benchmark with AS_PLAIN_USER takes
its daemons from snapbench.daemon_of(). Called by root, it runs as root and again as the user nobody in the group of
/dev/kvm; --as USER runs it only as that user."""

import argparse
import importlib
import os
import pwd
import re
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]

import history  # noqa: E402


def names():
    return sorted(f[len("bench_"):-3] for f in os.listdir(HERE) if f.startswith("bench_") and f.endswith(".py"))


def summary(name):
    """Return the first sentence of a benchmark's docstring without the names before it. It may fill several lines."""
    text = " ".join(importlib.import_module("bench_" + name).__doc__.split())
    return re.match(r"[^:]+: (.+?\.)(?= |$)", text).group(1)


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", default="build", help="build folder (build)")
    p.add_argument("--only", metavar="NAME", help="one benchmark: " + ", ".join(names()))
    p.add_argument("--as", dest="user", metavar="USER", help="root, or the plain user who runs VMs (root, then nobody)")
    p.add_argument("--history", metavar="FILE", help="add the rows to this history (BUILD/bench-history.jsonl)")
    p.add_argument("--list", action="store_true", help="list the benchmarks")
    a = p.parse_args()
    if a.only and a.only not in names():
        p.error(f"no benchmark '{a.only}': {', '.join(names())}")
    if a.user and os.geteuid() != 0:
        p.error("only root may use --as")
    try:
        pwd.getpwnam(a.user or "root")
    except KeyError:
        p.error(f"no user '{a.user}'")
    return a


def users(module, a):
    """Return the users whose daemons a benchmark measures. None: the caller."""
    plain = os.geteuid() == 0 and getattr(module, "AS_PLAIN_USER", False)
    if a.user:
        return [None] if a.user == "root" else [a.user] if plain else []
    return [None, "nobody"] if plain else [None]


def measure(name, user, build, past):
    """Run a benchmark, and add its rows to the history; return the rows."""
    from benchlib import Bench, Unfit
    bench, begin, stamp = Bench(name, build, user), time.monotonic(), history.stamp(build)
    title = f"{name} as {user}" if user else name
    try:
        importlib.import_module("bench_" + name).run(bench)
    except Unfit as why:
        print(f"{title}: not run: {why}")
    print(f"{title}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    history.add(past, bench.rows, stamp)
    history.add(os.path.join(build, "bench.json"), bench.rows, {})
    return bench.rows


def of_limit(row):
    """Return the cells of a row's limit; a row may have none."""
    if row["limit"] is None:
        return ["", "", ""]
    return [f"{row['limit']:.4g}", row["limit_name"], f"{row['of_limit']:.2f}"]


def table(rows):
    head = ["name", "case", "ours", "peer", "unit", "peer is", "ratio", "goal", "holds", "limit", "limit is", "of limit", "on"]
    cells = [head] + [[r["name"], r["case"], f"{r['ours']:.4g}", f"{r['peer']:.4g}", r["unit"], r["peer_name"],
                       f"{r['ratio']:.2f}", f"{r['goal']:.2f}", "yes" if r["holds"] else "NO", *of_limit(r), r["on"]] for r in rows]
    width = [max(len(c[i]) for c in cells) for i in range(len(head))]
    for c in cells:
        print("  ".join(t.ljust(w) for t, w in zip(c, width)).rstrip())


def end_orderly(*_):
    """End the benchmark's daemons and VMs before this process ends by a signal, such as that of a time limit."""
    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)  # timeout and make each send one
    sys.exit(1)


def main():
    a = arguments()
    if a.list:
        for n in names():
            print(f"{n}: {summary(n)}")
        return 0
    build = os.path.abspath(a.build)
    os.environ["CAIRN_BUILD"] = build  # guestlib reads it
    os.environ["CAIRN_PIN_WAIT"] = "60"  # as users have it; the tests' daemons have 0
    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, end_orderly)
    past, rows = a.history or os.path.join(build, history.FILE), []
    open(os.path.join(build, "bench.json"), "w").close()
    for n in [a.only] if a.only else names():
        for user in users(importlib.import_module("bench_" + n), a):
            rows += measure(n, user, build, past)
    if rows:
        table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
