#!/usr/bin/python3
"""Sum the results of several pytest processes: e2e_sum.py RESULTS PROCESSES prints "PASSED FAILED SKIPPED".

A collected test without a result counts as failed, so a missing, empty or truncated result file cannot hide a test.
Errors go to stderr. RESULTS/failed gets a line for each failed test: its name, and how its error begins."""

import collections
import glob
import os
import sys
import xml.etree.ElementTree as xml

SHOWN = 10  # names of tests without a result
LINE_MAX = 300  # characters of an error


def read_results(path, failed):
    """Return a dict from each test's name to its result: "passed", "failed" or "skipped". Tell `failed` the errors."""
    kinds = {}
    for case in xml.parse(path).getroot().iter("testcase"):
        tags = {child.tag: child for child in case}
        kind = "failed" if tags.keys() & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        if kind == "failed":
            text = (tags["failure"] if "failure" in tags else tags["error"]).get("message", "")
            print(f"{case.get('classname')}::{case.get('name')}: {' '.join(text.split())[:LINE_MAX]}", file=failed)
        name = f"{case.get('classname')}::{case.get('name')}"
        # A test is listed twice when both it and its fixture fail.
        kinds[name] = "failed" if "failed" in (kind, kinds.get(name)) else kind
    return kinds


def main(folder, processes):
    kinds, counts = {}, collections.Counter()
    with open(os.path.join(folder, "failed"), "w") as failed:
        for number in range(1, processes + 1):
            try:
                kinds |= read_results(os.path.join(folder, f"e2e-{number}.xml"), failed)
            except (OSError, xml.ParseError) as e:
                print(f"  FAILED: pytest {number} left no results: {e}", file=sys.stderr)
                counts["failed"] += 1
    lists = [open(path).read().splitlines() for path in glob.glob(os.path.join(folder, "share", "collected-*"))]
    if len(lists) != processes or len({len(names) for names in lists}) != 1 or not lists[0]:
        print(f"  FAILED: collected by {processes} processes: {[len(names) for names in lists]} tests", file=sys.stderr)
        counts["failed"] += 1
    counts.update(kinds.values())
    collected = max(lists, key=len, default=[])
    missing = len(collected) - len(kinds)
    if missing > 0:
        counts["failed"] += missing
        print(f"  FAILED: {missing} tests have no result:", file=sys.stderr)
        for name in [name for name in collected if name not in kinds][:SHOWN]:
            print(f"    {name}", file=sys.stderr)
    print(counts["passed"], counts["failed"], counts["skipped"])


main(sys.argv[1], int(sys.argv[2]))
