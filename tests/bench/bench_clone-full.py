"""clone-full: a full clone of a VM that is off, compared with `qemu-img convert` of its image plus defining the
copy. Images: one without snapshots, one with a snapshot (not copied), one with a backing file."""

import os
import pathlib
import tempfile
import time

from benchlib import Unfit
from conftest import Daemon
from imgbench import Box

MIB_OF_DATA = 256
ROUNDS = 5
GOAL = 1.5


def images(box):
    """Yield a name and the image's layers."""
    size = f"{2 * MIB_OF_DATA}M"
    box.create("plain.qcow2", size)
    box.create("snap.qcow2", size)
    box.create("base.qcow2", size)
    for n in ("plain", "snap", "base"):
        for mib in range(0, 2 * MIB_OF_DATA, 32):  # half of it, in pieces
            box.run("qemu-io", "-c", f"write -P {mib % 251 + 1} {mib}M 16M", f"{n}.qcow2")
    box.run("qemu-img", "snapshot", "-c", "s", "snap.qcow2")
    box.run("qemu-io", "-c", "write -P 7 0 16M", "snap.qcow2")
    box.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "above.qcow2")
    box.run("qemu-io", "-c", "write -P 9 0 64M", "above.qcow2")
    return [("plain", []), ("snap", []), ("above", ["base"])]


def ours(daemon, name):
    begin = time.perf_counter()
    daemon.cairn("clone", name, "copy")
    seconds = time.perf_counter() - begin
    daemon.cairn("undefine", "copy", "--remove-all-storage")
    return seconds


def peers(daemon, box, name):
    """The daemon reports a clone when it is on stable storage, so sync here as well: qemu-img alone leaves it in
    the page cache."""
    begin = time.perf_counter()
    box.run("qemu-img", "convert", "-O", "qcow2", f"{name}.qcow2", "peer.qcow2")
    fd = os.open(box.path("peer.qcow2"), os.O_RDONLY)
    os.fdatasync(fd)
    os.close(fd)
    daemon.define("copy", disks=[{"path": box.path("peer.qcow2"), "format": "qcow2"}])
    seconds = time.perf_counter() - begin
    daemon.cairn("undefine", "copy", "--remove-all-storage")
    return seconds


def run(bench):
    with Box(bench, "disk", 5 * MIB_OF_DATA) as box, \
            tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=box.folder.name) as folder:
        daemon = Daemon(pathlib.Path(folder))
        try:
            for name, below in images(box):
                daemon.define(name, disks=[{
                    "path": box.path(f"{name}.qcow2"), "format": "qcow2",
                    "backing": [{"path": box.path(f"{b}.qcow2"), "format": "qcow2"} for b in below]}])
                bench.compare(f"{name}, disk", "s", lambda: ours(daemon, name), lambda: peers(daemon, box, name),
                              "qemu-img convert", GOAL, rounds=ROUNDS)
        except TimeoutError as e:
            raise Unfit(str(e))
        finally:
            daemon.close()
