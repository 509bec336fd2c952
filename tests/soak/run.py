#!/usr/bin/python3
"""Let several users make random requests of one daemon, and compare each result with a model.

run.py [--build DIR] [--seed N] [--time SECONDS | --steps N] [--hits PART] [--no-kills]
The first difference ends the run: it prints the seed, the last operations and the difference, and the exit status is 1."""

import argparse
import os
import pathlib
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", default="build", help="build folder (build)")
    p.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")), help="seed of the random choices (the date)")
    p.add_argument("--time", type=int, default=600, help="seconds (600)")
    p.add_argument("--hits", type=float, default=0.1, help="part of the requests during which the daemon is killed (0.1)")
    p.add_argument("--steps", type=int, help="steps of each user, in place of a time")
    p.add_argument("--no-kills", action="store_true", help="do not kill the daemon between rounds, so that one has all the requests (with --hits 0)")
    return p.parse_args()


def main():
    a = arguments()
    os.environ["CAIRN_BUILD"] = os.path.abspath(a.build)
    from soak import Failure, Run
    print(f"Seed {a.seed}", flush=True)
    run, begin = Run(a.seed, a.hits, not a.no_kills), time.monotonic()
    try:
        run.go(lambda steps: steps < a.steps if a.steps else time.monotonic() < begin + a.time)
        print(f"{run.done} operations, {run.refused} of them refused as the model says, in {time.monotonic() - begin:.0f} s")
    except Failure as f:
        kept = pathlib.Path(a.build, f"failed-soak-{a.seed}")
        run.keep(kept)
        print(f"{f}\nThe daemon's log and its state folder are in {kept}")
        return 1
    finally:
        run.close()
    return 0


sys.exit(main())
