"""snapbench: a running interpreter guest with a qcow2 disk, under its own daemon, of root or of a plain user."""

import contextlib
import json
import pathlib
import tempfile
import time

import guestlib
from conftest import Console, Daemon, Qmp
from plainlib import PlainDaemon, plain_folder, qcow2

FILL_AT = 0x1000000


@contextlib.contextmanager
def daemon_of(uid, place=None):
    """Start a daemon in a folder of its own below place, a folder (TMPDIR). uid: of a plain user, who may open
    /dev/userfaultfd; None: the caller's."""
    with contextlib.ExitStack() as stack:
        if uid is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=place)))
            daemon = Daemon(folder)
        else:
            folder = stack.enter_context(plain_folder(uid, "cairn-bench-", place))
            daemon = PlainDaemon(folder, folder / "permitted", uid)
        stack.callback(daemon.close)
        yield daemon


class Vm:
    def __init__(self, daemon, memory_mib, filled_mib):
        self.daemon = daemon
        self.n = 0
        self.daemon.define("vm", memory=f"{memory_mib}M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                           disks=[qcow2(daemon.tmp / "vda.qcow2", "1G")])
        self.daemon.cairn("start", "vm")
        self.attach()
        while self.console.line() != "interp":
            pass
        if filled_mib:
            self.fill(filled_mib, 1)

    def attach(self):
        self.console = Console(self.daemon, "vm")

    def fill(self, mib, seed):
        self.console.run(f"fill {FILL_AT:#x} {mib << 20:#x} {seed}")

    def snapshot(self):
        """Take a snapshot; return its figures in ns and bytes."""
        self.n += 1
        r = self.daemon.cairn("snapshot-create-as", "vm", f"s{self.n}", "--format", "json")
        return json.loads(r.stdout)

    def delete(self):
        self.daemon.cairn("snapshot-delete", "vm", f"s{self.n}")

    def revert(self, name):
        """Revert to a snapshot; return the milliseconds until the guest's first answer."""
        q, job = Qmp(self.daemon.socket), f"r-{name}"
        begin = time.perf_counter_ns()
        q.run("snapshot-revert", vm="vm", name=name, job_id=job)
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        self.console.run("echo here")
        ms = (time.perf_counter_ns() - begin) / 1e6
        q.run("job-dismiss", id=job)
        q.close()
        return ms


@contextlib.contextmanager
def running(uid, memory_mib, filled_mib, place=None):
    with daemon_of(uid, place) as daemon:
        vm = Vm(daemon, memory_mib, filled_mib)
        with contextlib.closing(vm.console):
            yield vm
