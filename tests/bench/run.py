#!/usr/bin/python3
"""Run benchmarks of Cairn and its peers alternately; the median of 9 counts.

run.py [--build DIR] [--only NAME] [--list]
Prints a table and appends one JSON line for each case to DIR/bench.json. A benchmark is a file bench_NAME.py in
this folder with a function run(bench); its docstring describes the measurement."""

import argparse
import importlib
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]


def names():
    return sorted(f[len("bench_"):-3] for f in os.listdir(HERE) if f.startswith("bench_") and f.endswith(".py"))


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", default="build", help="build folder (build)")
    p.add_argument("--only", metavar="NAME", help="one benchmark: " + ", ".join(names()))
    p.add_argument("--list", action="store_true", help="what there is")
    a = p.parse_args()
    if a.only and a.only not in names():
        p.error(f"no benchmark '{a.only}': {', '.join(names())}")
    return a


def table(rows):
    head = ["name", "case", "ours", "peer", "unit", "peer is", "ratio", "goal", "holds"]
    cells = [head] + [[r["name"], r["case"], f"{r['ours']:.4g}", f"{r['peer']:.4g}", r["unit"], r["peer_name"],
                       f"{r['ratio']:.2f}", f"{r['goal']:.2f}", "yes" if r["holds"] else "NO"] for r in rows]
    width = [max(len(c[i]) for c in cells) for i in range(len(head))]
    for c in cells:
        print("  ".join(t.ljust(w) for t, w in zip(c, width)).rstrip())


def main():
    a = arguments()
    if a.list:
        for n in names():
            print(f"{n}: {importlib.import_module('bench_' + n).__doc__.splitlines()[0]}")
        return 0
    build = os.path.abspath(a.build)
    os.environ["CAIRN_BUILD"] = build  # guestlib reads it
    from benchlib import Bench, Unfit
    rows, log = [], os.path.join(build, "bench.json")
    for n in [a.only] if a.only else names():
        bench, begin = Bench(n, build), time.monotonic()
        try:
            importlib.import_module("bench_" + n).run(bench)
        except Unfit as why:
            print(f"{n}: not run: {why}")
        print(f"{n}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        with open(log, "a") as f:
            for row in bench.rows:
                f.write(json.dumps(row) + "\n")
        rows += bench.rows
    if rows:
        table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
