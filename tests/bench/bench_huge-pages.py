"""huge-pages: in the SVM host, a guest whose memory is in transparent huge pages beside one with "small_pages": the
small Linux until user space, the first fill of 96 MiB by a bare guest, a second one, and what the booted Linux has of
the host's memory."""

import json
import os
import pathlib
import re
import sys
import tempfile
import time

if __name__ == "__main__":  # in the SVM host, without run.py
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

import guestlib
from benchlib import ROUNDS, Program, pairs_in_svmhost, print_pairs

MIB = 1 << 20
FILLED_MIB = 96
READY = b"cairn-guest: ready"
INSIDE_SECONDS = 300
CASES = (("Linux until user space", "ms", 1.0), (f"first fill of {FILLED_MIB} MiB", "ms", 1.0),
         ("second fill", "ms", 1.0), ("memory of the host, Linux booted", "MiB", 0.0))
PEER = "small pages"


def boot(path):
    """Return milliseconds until user space, and the MiB of the host's memory then."""
    with Program([guestlib.CAIRN, "run", path]) as p:
        ms = p.until(READY)
        return ms, int(re.search(r"Pss: +(\d+)", pathlib.Path(f"/proc/{p.pid}/smaps_rollup").read_text()).group(1)) / 1024


def fills(path):
    """Return the milliseconds of two fills."""
    command = f"fill {16 * MIB:#x} {FILLED_MIB * MIB:#x} 1\n".encode()
    with Program([guestlib.CAIRN, "run", path]) as p:
        p.until(b"interp")
        took = []
        for _ in range(2):
            p.output, begin = b"", time.perf_counter()
            os.write(p.stdin, command)
            p.until(b"ok")
            took.append((time.perf_counter() - begin) * 1000)
    return took


def definition(folder, file, **keys):
    path = os.path.join(folder, file)
    with open(path, "w") as f:
        json.dump({"name": "bench", "memory": "128M", **keys}, f)
    return path


def measure(kernel):
    linux = guestlib.linux_definition()
    linux["boot"]["kernel"] = os.path.join(kernel, "vmlinux")
    bare = {"boot": {"kernel": guestlib.bare("interp")}}
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        files = [(definition(folder, f"linux{small}", **{**linux, "small_pages": small}),
                  definition(folder, f"bare{small}", **bare, small_pages=small)) for small in (False, True)]
        rounds = []
        for _ in range(ROUNDS + 1):
            (ours, ours_mib), (peer, peer_mib) = [boot(f[0]) for f in files]
            a, b = [fills(f[1]) for f in files]
            rounds.append([(ours, peer), (a[0], b[0]), (a[1], b[1]), (ours_mib, peer_mib)])
    return rounds[1:]  # the first one reads the files


def run(bench):
    if guestlib.host_kind() in ("vmx", "svm"):
        where, rounds = "", measure(guestlib.linux_kernel())
    else:
        where = ", SVM host with Linux 6.12"
        rounds = pairs_in_svmhost(__file__, INSIDE_SECONDS, guestlib.linux_kernel())
    for (case, unit, goal), pairs in zip(CASES, zip(*rounds)):
        bench.pairs(case + where, unit, [tuple(p) for p in pairs], PEER, goal)


if __name__ == "__main__":
    print_pairs(measure(sys.argv[1]))
