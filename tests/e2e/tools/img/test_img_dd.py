"""dd compared with qemu-img: the same content for all blocks, counts and skips; the same statuses."""
import os
import random
import shutil

import pytest
from test_img import box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

SIZE = 1_000_000  # no multiple of a sector


@pytest.fixture
def disks(box):
    """The same content in `raw` and `q`, with a hole of 200,000 bytes."""
    data = bytearray(random.Random(7).randbytes(SIZE))
    data[300_000:500_000] = bytes(200_000)
    (box.path / "raw").write_bytes(data)
    box.qemu("convert", "-f", "raw", "-O", "qcow2", "raw", "q")
    return box


@pytest.mark.parametrize("operands", [
    (), ("bs=1M",), ("bs=511",), ("bs=511", "count=3"), ("bs=511", "skip=3"), ("bs=512", "count=10", "skip=4"),
    ("bs=777", "count=900", "skip=1"), ("bs=4096", "skip=60"), ("bs=1000", "skip=300", "count=500"),
    ("bs=1", "skip=299999", "count=300001"), ("bs=1", "skip=999000"), ("count=0",), ("bs=0x200", "count=0x2"),
    ("bs=512", "skip=1954",), ("bs=2147483647",), ("bs=1k", "count=10000"), ("count=1", "count=2")])
@pytest.mark.parametrize("source,fmt", [("raw", "raw"), ("q", "qcow2")])
def test_dd_copies_what_qemu_copies(disks, operands, source, fmt):
    disks.img("dd", "-f", fmt, *operands, f"if={source}", "of=ours")
    disks.qemu("dd", "-f", fmt, *operands, f"if={source}", "of=theirs")
    assert (disks.path / "ours").read_bytes() == (disks.path / "theirs").read_bytes()


def test_dd_makes_a_qcow2_image_anew(disks):
    for _ in range(2):
        disks.img("dd", "-U", "-f", "raw", "-O", "qcow2", "if=raw", "of=ours", "bs=513", "skip=100")
        disks.qemu("check", "ours")
        disks.qemu("dd", "-f", "raw", "-O", "qcow2", "if=raw", "of=theirs", "bs=513", "skip=100")
        disks.qemu("compare", "ours", "theirs")


@pytest.mark.parametrize("operands", [("bs=512", "skip=10000"), ("bs=512", "count=4", "skip=10"),
                                      ("bs=1k", "skip=99999999999999999"), ("bs=2147483647", "skip=0x7fffffffffffffff")])
def test_dd_behind_the_end_makes_an_empty_image(disks, operands):
    for tool, target in ((disks.img, "ours"), (disks.qemu, "theirs")):
        assert "cannot skip to" in tool("dd", *operands, "if=raw", f"of={target}").stderr
        assert (disks.path / target).stat().st_size == 0


@pytest.mark.parametrize("args", [
    ("if=raw", "of=x", "bs=0"), ("if=raw", "of=x", "bs=2G"), ("if=raw", "of=x", "bs="), ("if=raw", "of=x", "count=x"),
    ("if=raw", "of=x", "count=-1"), ("if=raw", "of=x", "isize=5"), ("if=raw", "of=x", "obs=5"), ("if=raw", "of=x", "seek=5"),
    ("if=raw", "of=x", "foo"), ("if=raw", "of=x", "=foo"), ("if=raw",), ("of=x",), (), ("-n", "if=raw", "of=x"),
    ("if=nosuch", "of=x"), ("-O", "foo", "if=raw", "of=x"), ("-f", "qcow2", "if=raw", "of=x")])
def test_dd_refuses_as_qemu_does(disks, args):
    disks.fails("dd", *args)
    disks.qemu("dd", *args, status=1)
    assert sorted(os.listdir(disks.path)) == ["q", "raw"]


def test_dd_onto_its_source_is_refused(disks):
    assert "same file" in disks.fails("dd", "if=raw", "of=raw", "bs=1M")
    assert (disks.path / "raw").stat().st_size == SIZE
