"""Malformed images with the read-only verbs: one sentence or a result, within bounds of time and memory, and
nothing is written."""

import hashlib
import os
import resource
import subprocess

import pytest

BUILD = os.path.abspath(os.environ.get("CAIRN_BUILD", "build"))
IMG = os.path.join(BUILD, "cairn-img")
MIB = 1 << 20
COPIED = 1 << 63
COMPRESSED = 1 << 62


def be(path, at, size=8):
    with open(path, "rb") as f:
        f.seek(at)
        return int.from_bytes(f.read(size), "big")


def poke(path, at, size, value):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(value.to_bytes(size, "big"))


def tables(path):
    """Return the offsets of an image's tables, by name."""
    t = {"l1": be(path, 40), "reftable": be(path, 48), "snapshots": be(path, 64)}
    t["l2"] = be(path, t["l1"]) & 0xFFFFFFFFFFFE00
    t["data"] = be(path, t["l2"]) & 0xFFFFFFFFFFFE00
    t["refblock"] = be(path, t["reftable"])
    assert all(t.values())
    return t


# Place (a number, or a table's name and a distance), number of bytes, value (a number, or a table's name).
CLASSES = {
    "cluster bits 8": (20, 4, 8),
    "cluster bits 22": (20, 4, 22),
    "header length": (100, 4, 0xFFFFFFF8),
    "extension length": (116, 4, 0xFFFFFFFF),
    "no refcount table": (56, 4, 0),
    "refcount table over 8 MiB": (56, 4, 129),
    "refcount table misaligned": (48, 8, 0x10200),
    "refcount table past 2^63": (48, 8, 1 << 63),
    "refcount order": (96, 4, 7),
    "no L1": (36, 4, 0),
    "L1 over 32 MiB": (36, 4, (32 << 20) // 8 + 1),
    "L1 of 32 MiB": (36, 4, (32 << 20) // 8),
    "L1 misaligned": (40, 8, 0x30200),
    "size 2^63": (24, 8, 1 << 63),
    "size beyond the L1": (24, 8, 1 << 50),
    "65537 snapshots": (60, 4, 65537),
    "65536 snapshots": (60, 4, 65536),
    "snapshot table misaligned": (64, 8, 0x50008),
    "snapshot table past the end": (64, 8, 1 << 40),
    "extra data": (("snapshots", 36), 4, 2000),
    "extra data huge": (("snapshots", 36), 4, 0xFFFFFFFF),
    "snapshot's L1 outside": (("snapshots", 0), 8, 1 << 50),
    "snapshot's L1 huge": (("snapshots", 8), 4, 0xFFFFFFFF),
    "snapshot's state huge": (("snapshots", 40), 8, (1 << 64) - 1),
    "snapshot's name": (("snapshots", 14), 2, 0xFFFF),
    "L1 at itself": (("l1", 0), 8, "l1"),
    "L2 at a refcount block": (("l1", 0), 8, "refblock"),
    "data at an L2": (("l2", 0), 8, "l2"),
    "L1 entry misaligned": (("l1", 0), 8, COPIED | 0x50200),
    "L2 entry misaligned": (("l2", 0), 8, COPIED | 0x50200),
    "L2 past the end": (("l1", 0), 8, COPIED | 1 << 40),
    "data past the end": (("l2", 0), 8, COPIED | 1 << 50),
    "compressed and COPIED": (("l2", 0), 8, COPIED | COMPRESSED | 0x50000),
    "compressed garbage": (("l2", 0), 8, COMPRESSED | 0x50000),
    "compressed past the end": (("l2", 0), 8, COMPRESSED | 1 << 50),
    "reserved bits of L1": (("l1", 0), 8, COPIED | 0x50001),
    "reserved bits of L2": (("l2", 0), 8, COPIED | 1 << 60 | 0x50000),
    "compression bit alone": (72, 8, 8),
    "compression type alone": (104, 1, 1),
    "unknown features": (72, 8, 1 << 40),
    "refcount block at 0": (("reftable", 0), 8, 0),
    "refcount block misaligned": (("reftable", 0), 8, 0x20200),
    "refcount block past the end": (("reftable", 0), 8, 1 << 40),
    "bitmaps past the end": (112, 8, 0x2385287500000018),
    "magic": (0, 4, 0x51464900),
}
VERBS = {
    "info": ("info", "img"),
    "check": ("check", "img"),
    "map": ("map", "img"),
    "list": ("snapshot", "-l", "img"),
    "compare": ("compare", "-f", "qcow2", "-F", "raw", "img", "zeros"),
    "convert": ("convert", "-f", "qcow2", "-O", "raw", "img", "out"),
    "convert a snapshot": ("convert", "-f", "qcow2", "-l", "snapshot.name=one", "-O", "raw", "img", "out"),
}
STATUSES = (0, 1, 2, 3, 4, 63)  # compare exits with 4 for an unreadable image, check with 63 for one without tables


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("malformed")
    run = lambda *args: subprocess.run(args, cwd=path, check=True, capture_output=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "good", "8M")
    run("qemu-io", "-c", "write -P 7 0 128k", "good")
    run("qemu-img", "snapshot", "-c", "one", "good")
    run("qemu-io", "-c", "write -P 8 0 64k", "good")
    run("truncate", "-s", "8M", "zeros")
    return path


def bounded():
    if "san" not in BUILD:  # sanitizers reserve terabytes
        resource.setrlimit(resource.RLIMIT_AS, (512 * MIB, 512 * MIB))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MIB, 64 * MIB))


def look(path, what, args):
    p = subprocess.run([IMG, *args], cwd=path, capture_output=True, text=True, errors="replace",
                       preexec_fn=bounded)
    assert p.returncode in STATUSES, f"{what}, {args[0]}: status {p.returncode}, {p.stderr}"
    if p.returncode and args[0] not in ("check", "compare"):
        assert p.stderr.startswith("cairn-img: ") and p.stderr.count("\n") == 1, f"{what}, {args[0]}: {p.stderr!r}"
    assert "runtime error" not in p.stderr
    return p


@pytest.mark.sample(15)
@pytest.mark.parametrize("what", CLASSES)
def test_reading_malformed_image_is_bounded(good, what):
    img = good / "img"
    at, size, value = CLASSES[what]
    img.write_bytes((good / "good").read_bytes())
    t = tables(img)
    at = t[at[0]] + at[1] if isinstance(at, tuple) else at
    poke(img, at, size, t[value] | COPIED if isinstance(value, str) else value)
    before = hashlib.sha256(img.read_bytes()).digest()
    for args in VERBS.values():
        look(good, what, args)
        (good / "out").unlink(missing_ok=True)
    assert hashlib.sha256(img.read_bytes()).digest() == before


def test_truncated_image_is_handled(good):
    """An image that is truncated."""
    data = (good / "good").read_bytes()
    for n in (0, 4, 72, 104, 112, 500, 512, 65536, 65536 + 8, 3 * 65536, 5 * 65536 + 512):
        (good / "img").write_bytes(data[:n])
        for args in VERBS.values():
            look(good, f"{n} bytes", args)
            (good / "out").unlink(missing_ok=True)
        assert (good / "img").read_bytes() == data[:n]
