"""A signal while the engine changes tables: the verb ends at once, and the image has leaks at most. The image lies on a
file system that holds a write back, so the signal comes in the middle of the verb."""
import shutil
import signal
import subprocess
import time

import pytest
from fuselib import Op, fuse
from test_img import IMG, TIMEOUT, be64, box, poke  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

VERBS = {
    "create": ["snapshot", "-c", "now", "top"],
    "apply": ["snapshot", "-a", "one", "top"],
    "delete": ["snapshot", "-d", "one", "top"],
    "grow": ["resize", "top", "300M"],
    "shrink": ["resize", "--shrink", "top", "512k"],
    "repair": ["check", "-r", "all", "top"],
    "amend": ["amend", "-o", "refcount_bits=64", "top"],
    "downgrade": ["amend", "-o", "compat=0.10", "top"],
    "commit": ["commit", "-f", "qcow2", "top"],
}


@pytest.fixture
def images(box):  # noqa: F811
    """An image with a backing file and with snapshots of the disk before its last change."""
    box.qemu("create", "-q", "-f", "qcow2", "base", "768k")
    box.io("base", "write -P 1 0 768k")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base", "-F", "qcow2", "top", "1M")
    box.io("top", "write -P 2 100k 500k")
    box.qemu("snapshot", "-c", "one", "top")
    box.qemu("snapshot", "-c", "two", "top")
    box.io("top", "write -P 3 300k 400k")
    return box


def content(box):  # noqa: F811
    box.qemu("convert", "-O", "raw", "top", "raw")
    return (box.path / "raw").read_bytes()[:512 << 10]


def run_until(f, box, args, after):  # noqa: F811
    """Run the verb and interrupt it at the write that follows `after` others. Returns whether the verb was interrupted:
    there may be no such write, or it may be one of the last, when the work is done."""
    for name in ("base", "top"):
        f.ask("add", name, (box.path / name).read_bytes().hex())
    f.hang(Op.WRITE, after=after)
    p = subprocess.Popen([IMG, *args], cwd=f.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while p.poll() is None and not f.hanging():
        time.sleep(0.002)
    if f.hanging():
        p.send_signal(signal.SIGTERM)
    f.release()
    _, words = p.communicate(timeout=TIMEOUT)
    assert p.returncode == 0 and not words or p.returncode == 1 and words.startswith("cairn-img: interrupted"), words
    return p.returncode == 1


@pytest.mark.sample(4)
@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_verb_leaves_leaks_at_most(images, tmp_path, verb):
    if verb == "repair":  # the refcount of a cluster in use is 0
        top = images.path / "top"
        poke(top, be64(top, be64(top, 48)), b"\0\0")
    if verb in ("downgrade", "commit"):  # refused with snapshots
        for name in ("one", "two"):
            images.qemu("snapshot", "-d", name, "top")
    allowed = [content(images)]
    if verb == "apply":
        images.qemu("convert", "-l", "snapshot.name=one", "-O", "raw", "top", "one")
        allowed.append((images.path / "one").read_bytes()[:512 << 10])
    whole = {name: (images.path / name).read_bytes() for name in ("base", "top")}
    with fuse(tmp_path / "fuse") as f:
        assert not run_until(f, images, VERBS[verb], 1 << 30)
        writes = f.seen().count(Op.WRITE)
        for after in sorted({0, writes // 4, writes // 2, writes - 1}):
            for name, data in whole.items():
                (images.path / name).write_bytes(data)
            assert run_until(f, images, VERBS[verb], after) or after
            for name in ("base", "top"):
                with open(f[name], "rb") as file:
                    (images.path / name).write_bytes(file.read())
            if verb != "repair":
                images.qemu("check", "-q", "-r", "leaks", "top")
                images.qemu("check", "-q", "top")
            images.qemu("check", "-q", "base")
            images.img("check", "-r", "all", "top")
            images.qemu("check", "-q", "top")
            assert content(images) in allowed


def test_killed_growth_keeps_the_old_size_until_the_space_is_there(images, tmp_path):
    args = ["resize", "-q", "--preallocation=full", "top", "3M"]
    whole = (images.path / "top").read_bytes()
    with fuse(tmp_path / "fuse") as f:
        assert not run_until(f, images, args, 1 << 30)
        writes = f.seen().count(Op.WRITE)
        for after in (0, writes // 4, writes // 2, writes * 3 // 4):
            f.ask("add", "top", whole.hex())
            f.hang(Op.WRITE, after=after)
            with subprocess.Popen([IMG, *args], cwd=f.folder) as p:
                while not f.hanging():
                    time.sleep(0.002)
                p.kill()
                f.release()
            with open(f["top"], "rb") as file:
                (images.path / "top").write_bytes(file.read())
            assert be64(images.path / "top", 24) == 1 << 20
            images.qemu("check", "-q", "-r", "leaks", "top")
            images.qemu("check", "-q", "top")
            images.img("resize", "-q", "top", "3M")
            images.io("top", "read -P 2 100k 200k", "read -P 0 1M 2M")
