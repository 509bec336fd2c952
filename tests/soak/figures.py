"""figures: what a daemon takes of the host, and by how much that may grow."""

import os
import pathlib

from conftest import open_files

FILE_THREADS = 4  # idle threads that the daemon keeps, see api/access/file_thread.c
HEAP_MAX = 8 << 20  # tables with a largest number of rows: events, jobs, refusals
STATE_MAX = 64 << 20  # files with a largest size: events, audit logs


def rss(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid):
    """Return a process's living descendants, as "pid name"."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as f:
            for child in f.read().split():
                try:
                    found += [f"{child} {pathlib.Path('/proc', child, 'comm').read_text().strip()}", *descendants(child)]
                except OSError:
                    pass  # it has ended meanwhile
    return found


class Figures:
    """The figures of a daemon without VMs."""

    def __init__(self, daemon):
        pid = daemon.proc.pid
        self.files = open_files(pid)
        self.threads = len(os.listdir(f"/proc/{pid}/task"))
        self.processes = descendants(pid)
        # The daemon starts the process that closes sockets when it first needs one, and keeps it and a socket to it.
        self.closer = min(1, sum(p.endswith(" cairnd") for p in self.processes))
        self.rss = rss(pid)
        self.state = {p.relative_to(daemon.state): p.stat().st_size for p in daemon.state.rglob("*") if p.is_file()}

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
        return found
