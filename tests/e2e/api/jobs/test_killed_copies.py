"""The daemon, or a process that works for it, is killed at any moment of an export, an import, a clone or an
undefine with storage. The result is complete or absent, and another try succeeds. CAIRN_COPY_ROUNDS rounds from
CAIRN_COPY_SEED."""

import os
import random
import signal
import subprocess
import time

import pytest

from conftest import BUILD, until
from test_clone import checked, same
from test_undefine import disk, image, names

MIB = 1 << 20
ROUNDS = int(os.environ.get("CAIRN_COPY_ROUNDS", 15))
SEED = int(os.environ.get("CAIRN_COPY_SEED", 1))
# The requests, and their approximate duration.
WORK = {
    "export": (["export", "src", "new.tar"], 0.15),
    "import": (["import", "src.tar", "--name", "new"], 0.15),
    "full": (["clone", "src", "new", "--full", "--count", "3"], 0.2),
    "linked": (["clone", "src", "new", "--linked", "--count", "3"], 0.05),
    "undefine": (["undefine", "old", "--remove-all-storage"], 0.02),
}


class Host:
    def __init__(self, daemon, folder):
        self.daemon, self.folder = daemon, folder
        self.a, self.b = image(folder, "a.qcow2", "qcow2"), folder / "b.raw"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", self.a], check=True, stdout=subprocess.PIPE)
        self.b.write_bytes(random.Random(1).randbytes(24 * MIB))
        daemon.define("src", disks=[disk(self.a), disk(self.b, "raw")])
        daemon.cairn("export", "src", "src.tar", cwd=folder)
        self.before = set(os.listdir(folder))

    def old(self):
        """The VM that an undefine removes."""
        paths = [image(self.folder, f"old{i}.raw", "raw") for i in range(4)]
        self.daemon.define("old", disks=[disk(p, "raw") for p in paths])

    def made(self):
        return sorted(n for n in set(os.listdir(self.folder)) - self.before if not n.startswith("."))

    def settled(self):
        """Return whether no work is in progress."""
        vms = sorted(os.listdir(self.daemon.state / "vms"))
        return not list(self.daemon.state.glob("batches/*")) and vms == names(self.daemon) and not any(
            list((self.daemon.state / "vms" / vm).glob(mark)) for vm in vms for mark in ("*.pending", "undefine.json"))

    def copies(self, files):
        for a, b in files:
            assert checked(self.folder / a) and same(self.a, self.folder / a)
            assert self.b.read_bytes() == (self.folder / b).read_bytes() if b.endswith(".raw") else same(self.b, self.folder / b)

    def look(self, what):
        """Fail unless the result is complete or absent. Return which."""
        vms, made = [n for n in names(self.daemon) if n != "src"], self.made()
        if what == "undefine":
            # The VM is removed last; then nothing of it is left.
            assert (vms, made) in (([], []), (["old"], [f"old{i}.raw" for i in range(4)]))
            return vms == []
        if what == "export":
            assert vms == [] and made in ([], ["new.tar"])
            if made:
                self.daemon.cairn("import", "--dry-run", "new.tar", cwd=self.folder)
            return bool(made)
        if what == "import":
            assert (vms, made) in (([], []), (["new"], ["new"]))
            if vms:
                self.copies([("new/vda.qcow2", "new/vdb.raw")])
            return bool(vms)
        ends = ["qcow2", "raw" if what == "full" else "qcow2"]
        files = [(f"new-{i}-vda.{ends[0]}", f"new-{i}-vdb.{ends[1]}") for i in (1, 2, 3)]
        assert (vms, made) in (([], []), (["new-1", "new-2", "new-3"], sorted(n for f in files for n in f))), made
        if vms:
            self.copies(files)
        return bool(vms)

    def away(self, what):
        if what == "export":
            (self.folder / "new.tar").unlink(missing_ok=True)
        for vm in names(self.daemon):
            if vm != "src":
                self.daemon.cairn("undefine", vm, "--remove-all-storage")
        until(self.settled)
        # The next import removes what a killed import process has left.
        assert set(os.listdir(self.folder)) <= self.before


def kill(daemon, rnd):
    """Kill one of them. Return whether it was the daemon."""
    who = rnd.choice(["daemon", "helper", "both"])
    if who != "daemon":
        for pid in daemon.children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    if who != "helper":
        daemon.stop(signal.SIGKILL)
    return who != "helper"


@pytest.mark.seconds(60 + 6 * ROUNDS)
def test_copies_are_whole_or_not_there(daemon, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    host, rnd, done = Host(daemon, folder), random.Random(SEED), 0
    for i in range(ROUNDS):
        what = list(WORK)[i % len(WORK)]
        args, takes = WORK[what]
        if what == "undefine":
            host.old()
        p = subprocess.Popen([os.path.join(BUILD, "cairn"), *args], env=daemon.env, cwd=folder, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        time.sleep(rnd.random() * takes)
        killed = kill(daemon, rnd)
        p.wait()
        if killed:
            daemon.start()
        until(host.settled)
        if host.look(what):
            done += 1
        else:
            daemon.cairn(*args, cwd=folder)  # another try succeeds
            until(host.settled)
            assert host.look(what), what
        host.away(what)
    print(f"{done} of {ROUNDS} calls were done before the kill")
