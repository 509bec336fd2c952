"""figures: what a daemon takes of the host, and by how much that may grow."""

import contextlib
import os
import pathlib

from conftest import children_of, open_files

FILE_THREADS = 4  # idle threads that the daemon keeps, see api/access/file_thread.c
HEAP_MAX = 8 << 20  # tables with a largest number of rows: events, jobs, refusals
TABLES_FULL = 5000  # operations after which these tables have all their rows
LEAK_MAX = 1 << 20  # memory that a daemon may take after that
VM_FILES, VM_THREADS = 40, 16  # of a VM's process: 23 and 9 were seen, and each layer of its disk has a file
VM_HEAP_MAX = 16 << 20  # private memory of a VM's process
STATE_MAX = 64 << 20  # files with a largest size: events, audit logs


def rss(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid):
    """Return a process's living descendants, as "pid name"."""
    found = []
    for child, name in children_of(pid).items():
        found += [f"{child} {name}", *descendants(child)]
    return found


def sizes(folder):
    """Return the sizes of the files in a folder and its folders, some of which may be removed meanwhile."""
    found = {}
    for at, _, names in os.walk(folder):
        for path in [pathlib.Path(at, name) for name in names]:
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[path.relative_to(folder)] = path.stat().st_size
    return found


def private_memory(pid):
    for line in pathlib.Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0  # the process has ended


def vm_growth(pid):
    """Return what a VM's process has too much of: a list of texts."""
    try:
        threads, memory = len(os.listdir(f"/proc/{pid}/task")), private_memory(pid)
    except OSError:
        return []
    files, found = open_files(pid), []
    if len(files) > VM_FILES:
        found.append(f"open files: {sorted(files)}")
    if threads > VM_THREADS:
        found.append(f"threads: {threads}")
    if memory > VM_HEAP_MAX:
        found.append(f"memory: {memory >> 10} KiB")
    return found


def strays(daemon):
    """Return the processes that the daemon, or one before it, has started and that are not its descendants."""
    mine = {str(daemon.proc.pid)} | {d.split()[0] for d in descendants(daemon.proc.pid)}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pid not in mine and f"TMPDIR={daemon.tmp}".encode() in pathlib.Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                found.append(f"{pid} {pathlib.Path('/proc', pid, 'comm').read_text().strip()}, no child of the daemon")
        except OSError:
            pass  # it has ended, or belongs to another user
    return found


class Figures:
    """The figures of a daemon without VMs."""

    def __init__(self, daemon):
        pid = daemon.proc.pid
        self.files = open_files(pid)
        self.threads = len(os.listdir(f"/proc/{pid}/task"))
        self.processes = descendants(pid) + strays(daemon)
        # The daemon starts the process that closes sockets when it first needs one, and keeps it and a socket to it.
        self.closer = min(1, sum(p.endswith(" cairnd") for p in self.processes))
        self.rss = rss(pid)
        self.state = sizes(daemon.state)
        self.outside = sorted(p.name for p in daemon.tmp.iterdir())

    def __str__(self):
        return (f"{self.rss >> 10} KiB, {len(self.files)} files, {self.threads} threads, {len(self.processes)} processes, "
                f"state folder {sum(self.state.values()) >> 10} KiB")

    def growth(self, first):
        """Return what has grown since `first`: a list of texts."""
        found = []
        closer = max(0, self.closer - first.closer)
        if len(self.files) > len(first.files) + closer:
            found.append(f"open files: {sorted(self.files)}; at the begin: {sorted(first.files)}")
        if self.threads > first.threads + FILE_THREADS:
            found.append(f"threads: {self.threads}; at the begin: {first.threads}")
        if len(self.processes) > len(first.processes) + closer:
            found.append(f"processes: {self.processes}")
        if self.rss > first.rss + HEAP_MAX:
            found.append(f"memory: {self.rss >> 10} KiB; at the begin: {first.rss >> 10} KiB")
        if sum(self.state.values()) > STATE_MAX or [p for p in self.state if len(p.parts) > 1]:
            found.append(f"state folder: {self.state}")
        if set(self.outside) > set(first.outside):
            found.append(f"files beside the state folder: {self.outside}; at the begin: {first.outside}")
        return found
