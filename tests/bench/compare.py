#!/usr/bin/python3
"""Compare the benchmarks of this build with those of another commit, alternately.

compare.py --ref REF [--build DIR] [--only NAME[,NAME]] [--rounds N]
The other commit is built in DIR/bench-ref/COMMIT, a worktree that stays for the next comparison. The benchmarks of this
tree measure both builds, once each round, and the first of a round is the last of the next. All rows go to
DIR/bench-history.jsonl.

A row has changed if the exact two-sided Mann-Whitney test gives p < 0.01: if the two commits were equally fast, fewer than
one row in a hundred would be that different by chance. The test looks at the order of the figures only, so that one
outlier changes little. With 5 rounds, it needs all figures of one commit above all of the other; fewer cannot tell.
Changes by less than 1 % are not reported."""

import argparse
import math
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]

import history  # noqa: E402

TREE = os.path.dirname(os.path.dirname(HERE))
ROUNDS, ROUNDS_MIN = 7, 5
P_MAX = 0.01
CHANGE_MIN = 0.01


def wins(a, b):
    """Return the U statistic: the number of pairs in which a's figure is above b's; an equal pair counts half."""
    return sum((x > y) + (x == y) / 2 for x in a for y in b)


def orders(n, m):
    """Return how many orders of n and m figures have U = 0, 1, ... n * m."""
    counts = {}
    for i in range(n + 1):
        for j in range(m + 1):
            if not i or not j:
                counts[i, j] = [1] + [0] * (i * j)
                continue
            # The largest figure is one of the n, above all j of the others, or one of the m.
            counts[i, j] = [(counts[i - 1, j][u - j] if 0 <= u - j < len(counts[i - 1, j]) else 0) +
                            (counts[i, j - 1][u] if u < len(counts[i, j - 1]) else 0) for u in range(i * j + 1)]
    return counts[n, m]


def p_value(a, b):
    """Return the probability, for two equal commits, of figures at least as different as these."""
    u = min(wins(a, b), len(a) * len(b) - wins(a, b))
    least = sum(orders(len(a), len(b))[:math.ceil(u) + 1])
    return min(1.0, 2 * least / math.comb(len(a) + len(b), len(a)))


def verdict(ref, new, rate):
    """Return "faster", "slower", "same" or, for too few figures, "unknown"."""
    if min(len(ref), len(new)) < ROUNDS_MIN:
        return "unknown"
    before, after = statistics.median(ref), statistics.median(new)
    if p_value(ref, new) >= P_MAX or abs(after - before) < CHANGE_MIN * abs(before):
        return "same"
    return "faster" if (after > before) == rate else "slower"


def spread(figures):
    """Return the median and the quartiles as text."""
    if len(figures) < 2:
        return " ".join(f"{f:.4g}" for f in figures) or "-"
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def change(ref, new):
    before = statistics.median(ref) if ref else 0
    return f"{(statistics.median(new) / before - 1) * 100:+.1f} %" if new and before else "-"


def rows_by_case(rows):
    """Return {(name, case, unit): ([figures of the other commit], [figures of this build], more is better, [how near
    this build is to the limit])}."""
    cases = {}
    for side, row in rows:
        key = row["name"], row["case"], row["unit"]
        case = cases.setdefault(key, ([], [], row["rate"], []))
        case[side].append(row["ours"])
        if side and row["of_limit"] is not None:
            case[3].append(row["of_limit"])
    return cases


def table(rows, out=sys.stdout):
    """Print the comparison. rows: (0 for the other commit, 1 for this build; the row). Return the number of rows that
    changed."""
    lines, changed = [["name", "case", "unit", "before", "after", "change", "of limit", "result"]], 0
    for (name, case, unit), (ref, new, rate, near) in rows_by_case(rows).items():
        result = verdict(ref, new, rate)
        changed += result in ("faster", "slower")
        lines.append([name, case, unit, spread(ref), spread(new), change(ref, new),
                      f"{statistics.median(near):.2f}" if near else "-", result])
    width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(t.ljust(w) for t, w in zip(line, width)).rstrip(), file=out)
    print(f"{changed} of {len(lines) - 1} rows changed", file=out)
    return changed


def ref_build(build, commit):
    """Build the other commit. Return its build folder."""
    tree = os.path.join(build, "bench-ref", commit[:12])
    subprocess.run(["git", "-C", TREE, "worktree", "prune"], check=True)
    if not os.path.exists(tree):
        subprocess.run(["git", "-C", TREE, "worktree", "add", "-q", "--detach", tree, commit], check=True)
    jobs = len(os.sched_getaffinity(0))
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "BUILD", "ONLY", "REF")}
    if subprocess.run(["make", "-s", f"-j{jobs}", "-C", tree, "all", "helpers", "guests"], env=env).returncode:
        sys.exit(f"cannot build {commit[:12]} in {tree}")
    # The benchmarks of this tree may need helpers that the other commit does not have.
    ours, theirs = os.path.join(build, "helpers"), os.path.join(tree, "build", "helpers")
    for name in sorted(set(os.listdir(ours)) - set(os.listdir(theirs))):
        os.symlink(os.path.join(ours, name), os.path.join(theirs, name))
    return os.path.join(tree, "build")


def measure(build, name, path):
    """Run a benchmark. Return its rows, which it adds to the history at path."""
    begin = len(history.read(path)) if os.path.exists(path) else 0
    r = subprocess.run([os.path.join(HERE, "run.py"), "--build", build, "--only", name, "--history", path], stdout=subprocess.DEVNULL)
    if r.returncode:
        print(f"{name}: failed with {build}", file=sys.stderr)
    return history.read(path)[begin:] if os.path.exists(path) else []


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--ref", required=True, help="the other commit")
    p.add_argument("--build", default="build", help="build folder of this tree (build)")
    p.add_argument("--only", metavar="NAME[,NAME]", help="these benchmarks (all)")
    p.add_argument("--rounds", type=int, default=ROUNDS, help=f"figures of each commit, at least {ROUNDS_MIN} ({ROUNDS})")
    a = p.parse_args()
    a.commit = history.git(TREE, "rev-parse", "--verify", "-q", a.ref + "^{commit}")
    if not a.commit:
        p.error(f"no commit '{a.ref}' in this repository")
    if a.rounds < ROUNDS_MIN:
        p.error(f"{ROUNDS_MIN} rounds at least: fewer cannot tell a change from noise")
    return a


def main():
    a = arguments()
    build = os.path.abspath(a.build)
    from run import names
    chosen = a.only.replace(",", " ").split() if a.only else names()
    builds, path, rows = (ref_build(build, a.commit), build), os.path.join(build, history.FILE), []
    for name in chosen:
        for i in range(a.rounds):
            for side in (0, 1) if i % 2 == 0 else (1, 0):
                rows += [(side, row) for row in measure(builds[side], name, path)]
    print(f"before: {a.commit[:12]}, after: {history.commit(build)[:12] or 'this build'}; {a.rounds} rounds; median (quartiles)")
    table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
