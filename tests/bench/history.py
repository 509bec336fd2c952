"""history: the rows of all runs, in BUILD/bench-history.jsonl, each with its time, commit and machine."""

import json
import os
import subprocess
import time

FILE = "bench-history.jsonl"


def git(tree, *args):
    r = subprocess.run(["git", "-C", tree, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return r.stdout.strip() if r.returncode == 0 else None


def commit(build):
    """Return the commit of the tree with this build folder; with "+" if tracked files differ from it. Empty: no git
    repository."""
    tree = os.path.dirname(os.path.abspath(build))
    name = git(tree, "rev-parse", "HEAD") or ""
    return name + "+" if name and git(tree, "status", "--porcelain", "--untracked-files=no") else name


def value(path, key):
    """Return the first value of a key in a file of /proc with lines KEY: VALUE."""
    with open(path) as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith(key)), "")


def machine():
    import guestlib  # not before run.py has set CAIRN_BUILD
    system = os.uname()
    return {"host": system.nodename, "kernel": system.release, "kvm": guestlib.host_kind(),
            "cpu": value("/proc/cpuinfo", "model name"), "cpus": len(os.sched_getaffinity(0)),
            "memory_mib": int(value("/proc/meminfo", "MemTotal").split()[0]) // 1024}


def stamp(build):
    """Return what each row gets besides its figures."""
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(build), "machine": machine(),
            "load": round(os.getloadavg()[0], 2)}


def add(path, rows, stamp):
    with open(path, "a") as f:
        for row in rows:
            f.write(json.dumps({**stamp, **row}) + "\n")


def read(path):
    with open(path) as f:
        return [json.loads(line) for line in f]
