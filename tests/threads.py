#!/usr/bin/python3
"""Tell what processes that have not ended in time wait for: threads.py [--kill] PID...

For each process and its descendants: its program, and each thread's name, state, place in the kernel and system call;
then the stacks, if gdb is there. Root sees all of it. With --kill, the processes are
killed then."""

import contextlib
import os
import signal
import subprocess
import sys

STACK_SECONDS = 20


def read(*parts):
    with contextlib.suppress(OSError), open(os.path.join("/proc", *map(str, parts)), errors="replace") as f:
        return f.read().replace("\0", " ").strip()
    return ""


def fields(pid, *parts):
    """Return the fields of stat after the name: state, parent and so on; none if the process is gone."""
    return read(pid, *parts, "stat").rpartition(")")[2].split()


def family(roots):
    """Return the pids of the processes and of all their descendants, parents first."""
    parents = {int(pid): int(f[1]) for pid in filter(str.isdigit, os.listdir("/proc")) if (f := fields(pid))}
    pids = list(roots)
    for pid in pids:  # grows meanwhile
        pids += [child for child, parent in parents.items() if parent == pid and child not in pids]
    return pids


def stacks(pid):
    try:
        r = subprocess.run(["gdb", "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"],
                           capture_output=True, text=True, timeout=STACK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    return "\n".join(line for line in r.stdout.splitlines() if line.startswith(("#", "Thread")))


def told(pid):
    lines = [f"process {pid}: {read(pid, 'cmdline')[:120]}"]
    for tid in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        task = pid, "task", tid
        kernel = " < ".join(l.split("] ")[-1].split("+")[0] for l in read(*task, "stack").splitlines()[:8])
        lines.append(f"  {tid} {read(*task, 'comm')}: {' '.join(fields(*task)[:1])} in {read(*task, 'wchan')}, "
                     f"system call {' '.join(read(*task, 'syscall').split()[:7])}; {kernel}")
    return "\n".join([*lines, stacks(pid)])


def tell(roots):
    """Return a text about the processes and their descendants."""
    texts = []
    for pid in family(roots):
        with contextlib.suppress(OSError):  # it has ended
            texts.append(told(pid))
    return "\n".join(texts)


def main(kill, roots):
    print(tell(roots), flush=True)
    for pid in family(roots) if kill else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main("--kill" in sys.argv, [int(pid) for pid in sys.argv[1:] if pid != "--kill"])
