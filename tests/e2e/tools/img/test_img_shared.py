"""cairn-img -U beside a writer: the snapshot table moves while it is read."""

import json
import os
import subprocess

import pytest

from conftest import BUILD, until
from fuselib import Op, fuse

IMG = os.path.join(BUILD, "cairn-img")


def images(tmp_path):
    """Return an image with a snapshot, and its content after the snapshot was deleted and its table overwritten."""
    path = tmp_path / "img"

    def run(*argv):
        subprocess.run([*argv[:-1], path, *argv[-1:]] if argv[-1].endswith("k") else [*argv, path], check=True, stdout=subprocess.DEVNULL)
        return path.read_bytes()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "64k")
    before = run("qemu-img", "snapshot", "-c", "s")
    at = int.from_bytes(before[64:72], "big")
    after = run("qemu-img", "snapshot", "-d", "s")
    return before, after[:at] + b"\xff" * 512 + after[at + 512:]


@pytest.mark.parametrize("command", [["info", "-U", "--output", "json"], ["snapshot", "-U", "-l"]])
def test_table_that_moves_while_it_is_read(tmp_path, command):
    before, after = images(tmp_path)
    with fuse(tmp_path / "fuse", img=before) as f:
        def start(reads):
            f.hang(Op.READ, after=reads)
            return subprocess.Popen([IMG, *command, f["img"]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        reads = 0
        while True:
            with open(f["img"], "r+b", buffering=0) as file:
                file.write(before)
            p = start(reads)
            until(lambda: p.poll() is not None or Op.READ in f.hanging())
            if p.poll() is not None:
                break
            with open(f["img"], "r+b", buffering=0) as file:
                file.write(after)
            f.release()
            out, err = p.communicate(timeout=50)
            assert p.returncode == 0, (reads, err)
            reads += 1
        assert reads > 1 and "s" in p.communicate()[0]
        f.release()
