"""Persistent dirty bitmaps: cairn-img beside qemu-img. qemu-nbd serves a bitmap's content, nbdinfo prints it."""
import json
import shutil

import pytest

from test_img import box, poke, run  # noqa: F401 (box is a fixture)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

EXTENSION = 0x23852875
OPTIONS = ["cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on",
           "cluster_size=4k,refcount_bits=1", "data_file=data"]


def specific(box, tool, name):
    data = json.loads(tool("info", "--output", "json", name).stdout)["format-specific"]["data"]
    return {k: v for k, v in data.items() if k != "data-file"}


def place(box, name):
    """The offset of the extension's data, of the directory, and of each entry in it."""
    data = (box.path / name).read_bytes()
    be = lambda at, n: int.from_bytes(data[at:at + n], "big")
    at = be(100, 4)
    while be(at, 4) != EXTENSION:
        assert be(at, 4), "no extension for bitmaps"
        at += 8 + (be(at + 4, 4) + 7) // 8 * 8
    entry, entries = be(at + 24, 8), []
    for _ in range(be(at + 8, 4)):
        entries.append(entry)
        entry += (24 + be(entry + 18, 2) + 7) // 8 * 8
    return at + 8, be(at + 24, 8), entries


def table(box, name, entry):
    data = (box.path / name).read_bytes()
    return int.from_bytes(data[entry:entry + 8], "big")


def make(box, name="a", options="cluster_size=64k"):
    """An image with an enabled, a disabled and an unused bitmap, and data that the first two have recorded."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, name, "8M")
    box.qemu("bitmap", "--add", "-g", "4096", name, "one")
    box.qemu("bitmap", "--add", name, "two")
    box.io(name, "write -P 1 0 128k", "write -P 2 5M 64k")
    box.qemu("bitmap", "--disable", name, "two")
    box.qemu("bitmap", "--add", "-g", "1M", name, "a third one")


@pytest.mark.parametrize("options", OPTIONS)
def test_info_and_measure_show_bitmaps_as_qemu(box, options):
    make(box, options=options)
    ours, theirs = specific(box, box.img, "a"), specific(box, box.qemu, "a")
    assert ours == theirs and [b["name"] for b in ours["bitmaps"]] == ["one", "two", "a third one"]
    part = lambda p: p.stdout[p.stdout.index("    bitmaps:"):p.stdout.index("    refcount bits")]
    assert part(box.img("info", "a")) == part(box.qemu("info", "a"))
    for args in (["-O", "qcow2"], ["-O", "qcow2", "-o", "cluster_size=512"], ["-O", "raw"]):
        last = lambda p: [line for line in p.stdout.splitlines() if "required" not in line]
        for output in ([], ["--output", "json"]):
            assert last(box.img("measure", *args, *output, "a")) == last(box.qemu("measure", *args, *output, "a"))
    assert box.img("check", "a").stdout == box.qemu("check", "a").stdout


def test_measure_without_bitmaps_as_qemu(box):
    for compat in ("1.1", "0.10"):
        box.qemu("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "a", "8M")
        assert box.img("measure", "-O", "qcow2", "a").stdout == box.qemu("measure", "-O", "qcow2", "a").stdout


def test_bitmap_in_use_is_shown_and_measured(box):
    make(box)
    _, _, (one, *_) = place(box, "a")
    poke(box.path / "a", one + 12, (3).to_bytes(4, "big"))
    assert specific(box, box.img, "a")["bitmaps"][0]["flags"] == ["in-use", "auto"]
    assert specific(box, box.img, "a") == specific(box, box.qemu, "a")
    assert box.img("measure", "-O", "qcow2", "a").stdout == box.qemu("measure", "-O", "qcow2", "a").stdout
    assert box.img("check", "a").stdout == box.qemu("check", "a").stdout


# Where ("header", "directory", "entry", "table" of the first bitmap), offset there, bytes, value.
DAMAGES = {
    "too many bitmaps": ("header", 0, 4, 65536),
    "no bitmap": ("header", 0, 4, 0),
    "more bitmaps than entries": ("header", 0, 4, 4),
    "fewer bitmaps than entries": ("header", 0, 4, 2),
    "the extension's reserved field": ("header", 4, 4, 1),
    "the extension's length": ("header", -4, 4, 32),
    "an empty directory": ("header", 8, 8, 0),
    "a directory of 64 GiB": ("header", 8, 8, 1 << 36),
    "a directory of 2^64 bytes": ("header", 8, 8, (1 << 64) - 8),
    "a misaligned directory": ("header", 16, 8, 0x50200),
    "a directory at 0": ("header", 16, 8, 0),
    "a directory past the end": ("header", 16, 8, 1 << 40),
    "a directory at 2^63": ("header", 16, 8, 1 << 63),
    "a table at 0": ("entry", 0, 8, 0),
    "a misaligned table": ("entry", 0, 8, 0x50200),
    "a table past the end": ("entry", 0, 8, 1 << 40),
    "a table at 2^63": ("entry", 0, 8, 1 << 63),
    "a table of 0 entries": ("entry", 8, 4, 0),
    "a table of 2^32 entries": ("entry", 8, 4, 0xffffffff),
    "a table that does not suit the disk": ("entry", 8, 4, 2),
    "unknown flags": ("entry", 12, 4, 0x80000002),
    "an unknown type": ("entry", 16, 1, 2),
    "granularity 2^8": ("entry", 17, 1, 8),
    "granularity 2^32": ("entry", 17, 1, 32),
    "granularity 2^255": ("entry", 17, 1, 255),
    "no name": ("entry", 18, 2, 0),
    "a long name": ("entry", 18, 2, 0xffff),
    "extra data": ("entry", 20, 4, 8),
    "huge extra data": ("entry", 20, 4, 0xfffffff8),
    "a NUL in the name": ("entry", 25, 1, 0),
    "two of one name": ("entry", 24, 3, int.from_bytes(b"two", "big")),
    "reserved bits in a table": ("table", 0, 8, 1 << 60 | 0x50000),
    "all ones with an offset": ("table", 0, 8, 0x50001),
    "misaligned bits": ("table", 0, 8, 0x50200),
    "bits past the end": ("table", 0, 8, 1 << 40),
    "bits in the header": ("table", 0, 8, 0),  # the value is set by the test: the refcount table
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_bitmaps_are_reported_and_removed_by_the_repair(box, what):
    make(box)
    where, at, size, value = DAMAGES[what]
    header, directory, entries = place(box, "a")
    if what == "bits in the header":
        value = 0x10000
    base = {"header": header, "entry": entries[0], "table": table(box, "a", entries[0])}[where]
    poke(box.path / "a", base + at, value.to_bytes(size, "big"))
    before = (box.path / "a").read_bytes()
    p = box.img("check", "a", status=2)
    assert "bitmap" in p.stdout, p.stdout
    assert (box.path / "a").read_bytes() == before
    if where != "table" and what != "a table past the end":  # info does not read the tables
        assert "bitmap" in box.fails("info", "a")
    box.img("check", "-r", "all", "a")
    box.img("check", "a")
    box.qemu("check", "a")
    assert "bitmaps" not in specific(box, box.img, "a")
    box.io("a", "read -P 1 0 128k", "read -P 2 5M 64k", "write -P 3 0 8M")
    box.img("check", "a")


def test_many_tables_that_overlap_are_checked_in_time(box):
    """4,000 bitmaps of one table: each is an error, and the table is read once."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "a", "64M")
    box.qemu("bitmap", "--add", "-g", "512", "a", "one")
    header, directory, (one,) = place(box, "a")
    data = bytearray((box.path / "a").read_bytes())
    entry = data[one:one + 24]
    entry[18:20] = (8).to_bytes(2, "big")
    data += bytes(-len(data) % 512)
    at = len(data)
    for i in range(4000):
        data += entry + b"%08d" % i
    data[header:header + 4] = (4000).to_bytes(4, "big")
    data[header + 8:header + 16] = (4000 * 32).to_bytes(8, "big")
    data[header + 16:header + 24] = at.to_bytes(8, "big")
    (box.path / "a").write_bytes(data + bytes(-len(data) % 512))
    assert "holds a bitmap and something else" in box.img("check", "a", status=2).stdout
    assert len(specific(box, box.img, "a")["bitmaps"]) == 4000
    box.img("check", "-r", "all", "a")
    box.qemu("check", "a")
