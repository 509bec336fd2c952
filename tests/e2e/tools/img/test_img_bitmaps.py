"""Persistent dirty bitmaps: cairn-img beside qemu-img. qemu-nbd serves a bitmap's content, nbdinfo prints it."""
import json
import os
import select
import shutil
import signal

import pytest

from test_img import box, poke, run  # noqa: F401 (box is a fixture)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

EXTENSION = 0x23852875
OPTIONS = ["cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on",
           "cluster_size=4k,refcount_bits=8", "data_file=data"]


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


def dirty(box, image, name):
    """The set bits of a bitmap as (offset, length), as QEMU reads them."""
    run("qemu-nbd", "-r", "-t", "-f", "qcow2", "-B", name, "-k", box.path / "nbd", "--fork", "--pid-file", box.path / "pid",
        image, cwd=box.path)
    server = os.pidfd_open(int((box.path / "pid").read_text()))
    try:
        p = run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", f"nbd+unix:///?socket={box.path}/nbd", cwd=box.path)
    finally:  # until it has ended, the image stays locked
        signal.pidfd_send_signal(server, signal.SIGTERM)
        select.select([server], [], [])
        os.close(server)
    return [(x["offset"], x["length"]) for x in json.loads(p.stdout) if x["type"]]


def same_bitmaps(box, a, b, content=True):
    lists = [specific(box, box.qemu, name).get("bitmaps", []) for name in (a, b)]
    assert lists[0] == lists[1]
    box.qemu("check", a)
    for bitmap in lists[0] if content else []:
        assert dirty(box, a, bitmap["name"]) == dirty(box, b, bitmap["name"]), bitmap


@pytest.mark.sample(2)
@pytest.mark.parametrize("options", OPTIONS)
def test_info_and_measure_show_bitmaps_as_qemu(box, options):
    make(box, options=options)
    ours, theirs = specific(box, box.img, "a"), specific(box, box.qemu, "a")
    assert ours == theirs and [b["name"] for b in ours["bitmaps"]] == ["one", "two", "a third one"]
    part = lambda p: p.stdout[p.stdout.index("    bitmaps:"):p.stdout.index("    refcount bits")]
    assert part(box.img("info", "a")) == part(box.qemu("info", "a"))
    for args in (["-O", "qcow2"], ["-O", "qcow2", "-o", "cluster_size=512"], ["-O", "qcow2", "-o", "compat=0.10"],
                 ["-O", "raw"]):
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


@pytest.mark.sample(12)
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


# Each step: the arguments of both tools, "I" being the image; or a tuple of commands for qemu-io.
STEPS = [
    ["bitmap", "--add", "I", "one"],
    ("write -P 1 1M 100k", "discard 5M 64k"),
    ["bitmap", "--add", "--disable", "-g", "512", "I", "two"],
    ("write -P 2 3M 1k", "write -z 4M 200k"),
    ["bitmap", "--merge", "one", "--clear", "--merge", "one", "I", "two"],
    ["bitmap", "--add", "-g", "1M", "--merge", "one", "--disable", "I", "three"],
    ["bitmap", "--clear", "I", "one"],
    ["convert", "-n", "-f", "raw", "-O", "qcow2", "new", "I"],
    ["bitmap", "--enable", "I", "two"],
    ["resize", "-f", "qcow2", "I", "9M"],
    ("write -P 5 8M 4k",),
    ["resize", "-f", "qcow2", "--shrink", "I", "6M"],
    ["resize", "-f", "qcow2", "I", "16M"],
    ["bitmap", "--merge", "two", "I", "three"],
    ["snapshot", "-c", "s", "I"],
    ["snapshot", "-d", "s", "I"],
    ["amend", "-f", "qcow2", "-o", "lazy_refcounts=on", "I"],
    ["rebase", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", "I"],
    ["rebase", "-f", "qcow2", "-u", "-b", "", "I"],
    ["bitmap", "--remove", "I", "one"],
    ["bitmap", "--remove", "--add", "I", "two"],
    ["check", "-r", "all", "I"],
    ["bitmap", "--remove", "-f", "qcow2", "I", "three"],
    ["bitmap", "--remove", "I", "two"],
    ["bitmap", "--add", "--enable", "--disable", "I", "four"],
]


# The content of the bitmaps is compared after these.
COMPARED = [step for step in STEPS if "three" in step or step[0] in ("convert", "resize")]


@pytest.mark.sample(1)
@pytest.mark.parametrize("options", [o for o in OPTIONS if "=4k" not in o and "2M" not in o])
def test_steps_leave_bitmaps_as_qemu(box, options):
    box.qemu("create", "-q", "-f", "raw", "base", "16M")
    box.qemu("create", "-q", "-f", "raw", "new", "8M")
    box.io("new", "write -P 7 2M 256k", fmt="raw")
    for name in ("ours", "theirs"):
        box.qemu("create", "-q", "-f", "qcow2", "-o", options.replace("=data", f"={name}.data"), name, "8M")
    for step in STEPS:
        if "data_file" in options and step[0] == "snapshot":
            continue
        for name, tool in (("ours", box.img), ("theirs", box.qemu)):
            if isinstance(step, tuple):
                box.io(name, *step)
            else:
                tool(*[name if a == "I" else a for a in step])
        if step[0] == "convert" and "cluster_size=64k" not in options:
            for name in ("ours", "theirs"):  # which zeros are written differs
                box.qemu("bitmap", "--clear", name, "one")
        same_bitmaps(box, "ours", "theirs", step in COMPARED)
    box.img("check", "ours")


REFUSALS = [
    (["I", "one"], "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"),
    (["--add", "I", "one"], "Operation add on bitmap one failed: Bitmap already exists: one"),
    (["--add", "I", ""], "Operation add on bitmap  failed: Bitmap name cannot be empty"),
    (["--add", "-g", "100", "I", "x"], "Granularity must be power of 2 and at least 512"),
    (["--add", "-g", "3k", "I", "x"], "Granularity must be power of 2 and at least 512"),
    (["--add", "-g", "4G", "I", "x"], "Granularity must be power of 2 and at least 512"),
    (["--add", "-g", "some", "I", "x"], ""),
    (["--add", "I", "x" * 1024], "Name length exceeds maximum (1023 characters)"),
    (["--add", "old", "x"], "Cannot store dirty bitmaps in qcow2 v2 files"),
    (["--add", "-f", "raw", "raw", "x"], "Operation add on bitmap x failed"),
    (["--add", "-g", "512", "huge", "x"], "Too much space will be occupied by the bitmap. Use larger granularity"),
    (["--add", "empty", "x"], ""),
    (["--remove", "I", "x"], "Operation remove on bitmap x failed: Dirty bitmap 'x' not found"),
    (["--clear", "I", "x"], "Operation clear on bitmap x failed: Dirty bitmap 'x' not found"),
    (["--enable", "I", "x"], "Operation enable on bitmap x failed: Dirty bitmap 'x' not found"),
    (["--merge", "x", "I", "one"], "Operation merge on bitmap one failed: Dirty bitmap 'x' not found"),
    (["--merge", "two", "-b", "small", "-F", "qcow2", "I", "one"], "Bitmaps are of different sizes (destination size is "
     "8388608, source size is 4194304) and can't be merged"),
    (["--merge", "x", "-b", "small", "I", "one"], "Dirty bitmap 'x' not found"),
    (["--merge", "x", "-b", "raw", "-F", "raw", "I", "one"], "Dirty bitmap 'x' not found"),
    (["--merge", "one", "-b", "none", "I", "one"], "none"),
    (["-g", "64k", "--clear", "I", "one"], "granularity only supported with --add"),
    (["-F", "qcow2", "--merge", "one", "I", "one"], "-F only supported with -b"),
    (["-b", "small", "--clear", "I", "one"], "Merge bitmap source file only supported with --merge"),
    (["--clear", "I"], "Expecting filename and bitmap name"),
    (["--clear", "I", "lost"], "Operation clear on bitmap lost failed: Bitmap 'lost' is inconsistent and cannot be used"),
    (["--enable", "I", "lost"], "Bitmap 'lost' is inconsistent and cannot be used"),
    (["--merge", "one", "I", "lost"], "Bitmap 'lost' is inconsistent and cannot be used"),
    (["--merge", "lost", "I", "one"], "Bitmap 'lost' is inconsistent and cannot be used"),
]


@pytest.fixture
def several(box):  # noqa: F811
    box.qemu("create", "-q", "-f", "qcow2", "I", "8M")
    box.qemu("bitmap", "--add", "I", "lost")
    box.qemu("bitmap", "--add", "I", "one")
    _, _, (lost, _) = place(box, "I")
    poke(box.path / "I", lost + 12, (3).to_bytes(4, "big"))
    box.qemu("create", "-q", "-f", "qcow2", "small", "4M")
    box.qemu("bitmap", "--add", "small", "two")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old", "8M")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "huge", "8P")
    box.qemu("create", "-q", "-f", "qcow2", "empty", "0")
    box.qemu("create", "-q", "-f", "raw", "raw", "8M")
    return box


@pytest.mark.sample(10)
@pytest.mark.parametrize("args,words", REFUSALS, ids=lambda x: " ".join(x)[:60] if isinstance(x, list) else "")
def test_refusals_as_qemu(several, args, words):
    files = ("I", "small", "old", "raw", "empty")
    before = [(several.path / n).read_bytes() for n in files]
    assert words in several.fails("bitmap", *args)
    assert [(several.path / n).read_bytes() for n in files] == before
    if args[1] != "empty":  # QEMU says that the bitmap is lost, and exits with 0
        assert words in several.qemu("bitmap", *args, status=1).stderr or args[0] == "--clear"


def test_actions_before_a_failure_are_stored(several):
    several.fails("bitmap", "--add", "--merge", "nothing", "I", "new")
    several.qemu("bitmap", "--add", "--merge", "nothing", "small", "new", status=1)
    for name in ("I", "small"):
        assert specific(several, several.img, name)["bitmaps"][-1]["name"] == "new"


def test_bitmap_in_use_can_only_be_removed(several):
    assert "inconsistent" in several.fails("resize", "I", "16M")
    several.io("I", "write -P 1 0 64k")
    several.img("convert", "-n", "-O", "qcow2", "small", "I")  # other writes are recorded
    assert specific(several, several.qemu, "I")["bitmaps"][0]["flags"] == ["in-use", "auto"]
    several.img("bitmap", "--remove", "I", "lost")
    several.img("resize", "I", "16M")
    several.qemu("check", "I")
    assert [b["name"] for b in specific(several, several.qemu, "I")["bitmaps"]] == ["one"]


def test_merge_from_another_image(box):
    for name in ("a", "b"):
        box.qemu("create", "-q", "-f", "qcow2", name, "8M")
        box.qemu("bitmap", "--add", "-g", "4096" if name == "a" else "128k", name, name)
    box.io("a", "write 64k 4k", "write 5M 4k")
    box.img("bitmap", "--merge", "a", "-b", "a", "-F", "qcow2", "b", "b")
    assert dirty(box, "b", "b") == [(0, 131072), (5 << 20, 131072)]
    box.img("bitmap", "--clear", "--merge", "b", "-b", "b", "a", "a")
    assert dirty(box, "a", "a") == [(0, 131072), (5 << 20, 131072)]


def test_revert_sets_all_bits(box):
    """qemu-img refuses to revert an image with bitmaps. Afterwards any cluster may differ."""
    for name, size in (("same", "8M"), ("other", "12M")):
        box.qemu("create", "-q", "-f", "qcow2", name, "8M")
        box.qemu("bitmap", "--add", name, "on")
        box.qemu("bitmap", "--add", "--disable", name, "off")
        box.img("snapshot", "-c", "s", name)
        if size != "8M":
            box.img("resize", name, size)
        box.img("snapshot", "-a", "s", name)
        assert dirty(box, name, "on") == [(0, 8 << 20)] and dirty(box, name, "off") == []
        box.qemu("check", name)
        box.img("check", name)


def test_commit_records_in_the_backing_file_and_not_in_the_emptied_image(box):
    box.qemu("create", "-q", "-f", "qcow2", "base", "8M")
    box.qemu("bitmap", "--add", "base", "b")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    box.io("top", "write -P 1 1M 64k")
    box.qemu("bitmap", "--add", "top", "t")
    box.io("top", "write -P 2 2M 64k")
    box.img("commit", "-f", "qcow2", "top")
    assert dirty(box, "base", "b") == [(1 << 20, 65536), (2 << 20, 65536)]
    assert dirty(box, "top", "t") == [(2 << 20, 65536)]


def test_compressed_writes_are_recorded(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "8M")
    box.qemu("bitmap", "--add", "a", "one")
    box.qemu("create", "-q", "-f", "raw", "new", "8M")
    box.io("new", "write -P 7 2M 256k", fmt="raw")
    box.img("convert", "-c", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", "new", "a")
    assert dirty(box, "a", "one") == [(2 << 20, 256 << 10)]


def test_downgrade_is_refused(box):
    """qemu-img downgrades, leaks the bitmaps' clusters and loses the bitmaps."""
    make(box)
    before = (box.path / "a").read_bytes()
    assert "bitmaps" in box.fails("amend", "-o", "compat=0.10", "a")
    assert (box.path / "a").read_bytes() == before


def test_writing_to_an_image_with_damaged_bitmaps_is_refused(box):
    make(box)
    _, _, (one, *_) = place(box, "a")
    poke(box.path / "a", one + 17, b"\xff")
    before = (box.path / "a").read_bytes()
    for verb in (["resize", "a", "16M"], ["bitmap", "--add", "a", "x"], ["snapshot", "-c", "s", "a"],
                 ["bench", "-w", "-c", "1", "a"]):
        assert "check -r all" in box.fails(*verb)
    assert (box.path / "a").read_bytes() == before
    box.img("map", "a")


def test_header_without_room_is_refused(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "b" * 200, "1M")
    box.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", "b" * 200, "-F", "qcow2", "a")
    box.img("rebase", "-u", "-b", "./" * 60 + "b" * 200, "-F", "qcow2", "a")
    before = box.qemu("info", "a").stdout
    assert "no room" in box.fails("bitmap", "--add", "a", "one")
    box.qemu("check", "a")
    assert "bitmaps" not in box.qemu("info", "a").stdout and "backing file: ./" in before


@pytest.mark.sample(2)
@pytest.mark.parametrize("extra", [[], ["-c"], ["-o", "cluster_size=512"], ["-n"]], ids=" ".join)
def test_convert_copies_bitmaps_as_qemu(box, extra):
    make(box)
    for name, tool in (("ours", box.img), ("theirs", box.qemu)):
        if "-n" in extra:
            box.qemu("create", "-q", "-f", "qcow2", name, "8M")
        tool("convert", "--bitmaps", *extra, "-O", "qcow2", "a", name)
    same_bitmaps(box, "ours", "theirs")
    assert len(specific(box, box.img, "ours")["bitmaps"]) == 3
    box.qemu("compare", "a", "ours")


def test_convert_of_bitmaps_refuses_as_qemu(several):
    box = several
    assert "'lost'; try --skip-broken-bitmaps, or use" in box.fails("convert", "--bitmaps", "-O", "qcow2", "I", "new")
    for args, words in ((["--bitmaps", "-O", "qcow2", "I", "new"], "Cannot copy inconsistent bitmap 'lost'"),
                        (["--skip-broken-bitmaps", "-O", "qcow2", "I", "new"],
                         "Use of --skip-broken-bitmaps requires --bitmaps"),
                        (["--bitmaps", "-O", "qcow2", "small", "small", "new"],
                         "Copying bitmaps only possible with single source"),
                        (["--bitmaps", "-O", "raw", "small", "new"], "Format driver 'raw' does not support bitmaps"),
                        (["--bitmaps", "-O", "qcow2", "-o", "compat=0.10", "small", "new"],
                         "Format driver 'qcow2' does not support bitmaps"),
                        (["--bitmaps", "-f", "raw", "-O", "qcow2", "raw", "new"], "Source lacks bitmap support"),
                        (["--bitmaps", "-n", "-O", "qcow2", "small", "small2"],
                         "Failed to create bitmap two: Bitmap already exists: two")):
        shutil.copy(box.path / "small", box.path / "small2")
        assert words in box.fails("convert", *args)
        shutil.copy(box.path / "small", box.path / "small2")
        assert words in box.qemu("convert", *args, status=1).stderr
        (box.path / "new").unlink(missing_ok=True)
    p = box.img("convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "I", "new")
    assert "warning: Skipping inconsistent bitmap 'lost'" in p.stderr
    assert [b["name"] for b in specific(box, box.qemu, "new")["bitmaps"]] == ["one"]
    box.qemu("check", "new")
