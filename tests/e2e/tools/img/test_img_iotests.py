"""cairn-img in qemu-img's place: what QEMU's own tests (tests/iotests) found to be wrong or different."""
import json
import os
import shutil
import subprocess

import pytest
from test_img import IMG, MIB, TIMEOUT, be64, box, poke  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")


def test_messages_begin_with_the_name_that_the_tool_is_called_by(box):
    (box.path / "qemu-img").symlink_to(IMG)
    for args in (["info", "none"], ["nonsense"], ["check", "/dev/null"]):
        done = subprocess.run([box.path / "qemu-img", *args], capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode != 0 and done.stderr.startswith("qemu-img: ")


def l2_entry(path, index, words=1):
    """Return the place of an entry in the first L2 table, and its value."""
    at = (be64(path, be64(path, 40)) & 0xfffffffffffe00) + 8 * words * index
    return at, be64(path, at)


def backed(box, options, size="512k"):
    """Make image `a` over `base`, a raw file of 1 MiB."""
    (box.path / "base").write_bytes(bytes(range(1, 129)) * (MIB // 128))
    box.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-o", options, "a", size)
    box.img("convert", "-O", "raw", "base", "want")
    os.truncate(box.path / "want", 512 << 10)


# ---- -U ----


@pytest.mark.parametrize("args", [["snapshot", "-c", "new"], ["snapshot", "-a", "old"], ["snapshot", "-d", "old"], ["bench", "-w", "-c", "1"],
                                  ["resize"], ["rebase", "-b", ""], ["commit"], ["trim"]])
def test_share_option_is_refused_by_verbs_that_write(box, args):
    backed(box, "cluster_size=64k")
    box.img("snapshot", "-c", "old", "a")
    before = (box.path / "a").read_bytes()
    size = ["1M"] if args[0] == "resize" else []
    assert "-U (--force-share) is for reading" in box.fails(args[0], "--force-share", *args[1:], "a", *size)
    assert (box.path / "a").read_bytes() == before


# ---- sizes and preallocation ----


@pytest.mark.parametrize("options", ["cluster_size=64k", "compat=0.10", "extended_l2=on", "cluster_size=512"])
def test_image_of_size_0_has_no_leak_and_grows(box, options):
    box.img("create", "-q", "-f", "qcow2", "-o", options, "a", "0")
    for tool in (box.img, box.qemu):
        assert "No errors" in tool("check", "a").stdout
    shutil.copy(box.path / "a", box.path / "b")
    for name, tool in (("a", box.img), ("b", box.qemu)):
        tool("resize", "-q", name, "1M")
        box.io(name, "write -P 7 0 1M")
        box.qemu("check", name)
        box.img("check", name)
        box.img("bench", "-w", "-c", "10", name)


@pytest.mark.parametrize("how", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on", "compat=0.10,cluster_size=4k"])
def test_space_added_over_a_backing_file_is_zeros_and_is_allocated(box, options, how):
    backed(box, options)
    box.img("resize", "-q", f"--preallocation={how}", "a", "1M")
    box.qemu("convert", "-O", "raw", "a", "got")
    assert (box.path / "got").read_bytes() == (box.path / "want").read_bytes() + bytes(512 << 10)
    box.qemu("check", "a")
    box.img("check", "a")
    extents = json.loads(box.qemu("map", "--output", "json", "a").stdout)
    if how != "off":
        assert all("offset" in x for x in extents if x["start"] >= 512 << 10)


@pytest.mark.sample(6)
@pytest.mark.parametrize("how", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on", "compat=0.10,cluster_size=4k", "cluster_size=512,refcount_bits=1",
                                     "cluster_size=2M,refcount_bits=64"])
def test_holes_of_preallocated_clusters_are_zeros_as_for_qemu(box, options, how):
    box.img("create", "-q", "-f", "qcow2", "-o", f"{options},preallocation={how}", "a", "24M")
    box.io("a", "write -P 1 2M 2M", "write -P 2 7M 64k", "discard 10M 2M", "write -z 16M 64k")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "top")
    box.io("top", "write -P 3 3M 64k")
    for image in ("a", "top"):
        for args in (["map"], ["map", "--output", "json"], ["measure", "-O", "qcow2"]):
            assert box.img(*args, image).stdout == box.qemu(*args, image).stdout, args
        box.img("convert", "-O", "raw", image, "copy")
        box.qemu("compare", "-f", "raw", "-F", "qcow2", "copy", image)


def test_refcount_blocks_without_space_are_not_read_for_holes(box):
    """A forged refcount table has entries for 2 TiB of a sparse file."""
    box.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", "a", "1M")
    box.io("a", "write -P 1 0 64k")
    os.truncate(box.path / "a", 2 << 40)
    with open(box.path / "a", "r+b") as f:
        f.seek(be64(box.path / "a", 48))
        entries = f.read(8) + (1 << 30).to_bytes(8, "big") * 1023
        f.seek(-8, os.SEEK_CUR)
        f.write(entries)
    assert box.img("map", "a").stdout == box.qemu("map", "a").stdout


@pytest.mark.parametrize("how", ["metadata", "falloc", "full"])
def test_preallocated_overlay_shows_its_backing_file(box, how):
    backed(box, f"extended_l2=on,preallocation={how}", "1M")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "base", "a")
    box.qemu("check", "a")
    if how != "metadata":
        assert (box.path / "a").stat().st_blocks * 512 > MIB


# ---- check and amend ----


def test_repair_of_a_misaligned_entry_keeps_what_the_backing_file_shows(box):
    backed(box, "extended_l2=on", "1M")
    box.io("a", "write -P 3 0 2k", "write -z 4k 2k")
    at, entry = l2_entry(box.path / "a", 0, words=2)
    poke(box.path / "a", at, (entry + 512).to_bytes(8, "big"))
    box.img("check", "-r", "all", "a")
    box.qemu("check", "a")
    box.qemu("convert", "-O", "raw", "a", "got")
    base = (box.path / "base").read_bytes()
    assert (box.path / "got").read_bytes() == bytes(2048) + base[2048:4096] + bytes(2048) + base[6144:]


@pytest.mark.parametrize("users", [2, 5])
def test_repair_widens_refcounts_that_cannot_count_the_users(box, users):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", "a", "1M")
    box.io("a", "write -P 1 0 64k", f"write -P 2 64k {64 * (users - 1)}k")
    at, entry = l2_entry(box.path / "a", 0)
    for i in range(1, users):
        poke(box.path / "a", at + 8 * i, entry.to_bytes(8, "big"))
    out = box.img("check", "-r", "all", "a").stdout
    assert f"Widened the refcounts from 1 to {2 if users == 2 else 4} bits" in out
    box.qemu("check", "a")
    box.io("a", "write -P 5 0 64k", f"read -P 1 64k {64 * (users - 1)}k")


def test_downgrade_is_refused_when_a_snapshot_would_lose_its_size(box):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    box.img("snapshot", "-c", "s", "a")
    before = (box.path / "a").read_bytes()
    assert "another size than its snapshot 1" in box.fails("amend", "-o", "compat=0.10,size=2M", "a")
    assert "use `cairn-img resize --shrink`" in box.fails("amend", "-o", "lazy_refcounts=on,size=512k", "a")
    assert (box.path / "a").read_bytes() == before
    box.img("resize", "-q", "a", "2M")
    before = (box.path / "a").read_bytes()
    assert "another size than its snapshot 1" in box.fails("amend", "-o", "compat=0.10", "a")
    assert (box.path / "a").read_bytes() == before
    box.img("snapshot", "-d", "s", "a")
    box.img("amend", "-o", "compat=0.10,size=4M", "a")
    box.qemu("check", "a")


@pytest.mark.parametrize("backing", [False, True])
@pytest.mark.parametrize("size", ["4k", "64k"])
def test_downgrade_keeps_zeros_of_snapshots(box, backing, size):
    """Tables of snapshots have zero clusters with and without space, and share tables and zeros with each other."""
    box.img("create", "-q", "-f", "raw", "base", "2M")
    box.io("base", "write -P 9 0 2M", fmt="raw")
    over = ["-b", "base", "-F", "raw"] if backing else []
    box.img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}", *over, "a", "2M")
    box.io("a", "write -P 1 0 1M", "write -z 256k 256k", "write -z -u 1M 128k")
    box.img("snapshot", "-c", "s", "a")
    box.io("a", "write -P 2 0 64k", "write -z -u 512k 64k")
    box.img("snapshot", "-c", "t", "a")
    box.img("snapshot", "-c", "u", "a")
    box.io("a", "write -P 3 1M 1M")
    want = {}
    for name in ("s", "t", "u"):
        box.img("convert", "-l", name, "-O", "raw", "a", name)
        want[name] = (box.path / name).read_bytes()
    box.img("convert", "-O", "raw", "a", "disk")
    box.img("amend", "-o", "compat=0.10", "a")
    for tool in (box.img, box.qemu):
        assert "No errors" in tool("check", "a").stdout
        for name in want:
            tool("convert", "-l", name, "-O", "raw", "a", "is")
            assert (box.path / "is").read_bytes() == want[name]
    assert "identical" in box.qemu("compare", "-f", "qcow2", "-F", "raw", "a", "disk").stdout
    box.img("snapshot", "-a", "t", "a")
    box.io("a", "write -P 8 0 2M")
    for name in want:
        box.img("convert", "-l", name, "-O", "raw", "a", "is")
        assert (box.path / "is").read_bytes() == want[name]
        box.img("snapshot", "-d", name, "a")
    for tool in (box.img, box.qemu):
        assert "No errors" in tool("check", "a").stdout


def test_downgrade_leaves_refcounts_for_a_revert(box):
    """Of 65,535 entries and more that lead to zeros."""
    box.img("create", "-q", "-f", "raw", "base", "40M")
    box.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", "base", "-F", "raw", "a", "40M")
    box.io("a", "write -z 0 40M")
    box.img("snapshot", "-c", "s", "a")
    box.io("a", "write -P 1 0 1M")
    box.img("amend", "-o", "compat=0.10", "a")
    box.img("snapshot", "-a", "s", "a")
    box.qemu("snapshot", "-c", "t", "a")
    for tool in (box.img, box.qemu):
        assert "No errors" in tool("check", "a").stdout


@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on", "compat=0.10", "cluster_size=512"])
@pytest.mark.parametrize("old", [True, False])
def test_rebase_keeps_zeros_as_zero_clusters(box, options, old):
    """The old backing file, if any, is too short or has zeros where the new one has data."""
    (box.path / "old").write_bytes(b"a" * 65536 + bytes(65536) + b"b" * 1000)
    (box.path / "new").write_bytes(b"n" * (1 << 20))
    over = ["-b", "old", "-F", "raw"] if old else []
    box.img("create", "-q", "-f", "qcow2", "-o", options, *over, "a", str((1 << 20) - 1024))
    box.io("a", "write -P 1 64k 4k", "write -P 2 640k 10k")
    box.img("convert", "-O", "raw", "a", "want")
    box.img("rebase", "-b", "new", "-F", "raw", "a")
    for tool in (box.img, box.qemu):
        tool("check", "a")
        tool("convert", "-O", "raw", "a", "is")
        assert (box.path / "is").read_bytes() == (box.path / "want").read_bytes()
    extents = json.loads(box.qemu("map", "--output", "json", "a").stdout)
    if "compat" not in options:
        assert any(x["zero"] and x["present"] and x["depth"] == 0 and x["length"] >= 300 << 10 for x in extents)


def test_names_that_do_not_fit_side_by_side_are_refused_before_a_change(box):
    """The first sector of the header has room for neither name, and a power cut must leave one of them."""
    names = []
    for letter in "on":
        folder = "/".join([letter * 200] * 3)
        os.makedirs(box.path / folder)
        names.append(folder + "/base")
        (box.path / names[-1]).write_bytes(letter.encode() * 65536)
    box.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=1k", "-b", names[0], "-F", "raw", "a")
    before = (box.path / "a").read_bytes()
    for how in ([], ["-u"]):
        said = box.fails("rebase", *how, "-b", names[1], "-F", "raw", "a")
        assert "do not fit into a cluster of 1024 bytes together" in said and "cairn-img convert" in said
        assert (box.path / "a").read_bytes() == before
    box.img("convert", "-f", "qcow2", "-O", "qcow2", "-B", names[0], "-F", "raw", "a", "b")
    box.img("rebase", "-b", names[1], "-F", "raw", "b")
    assert json.loads(box.qemu("info", "--output", "json", "b").stdout)["backing-filename"] == names[1]
    assert box.img("compare", "-f", "raw", names[0], "b").returncode == 0


# ---- words ----


@pytest.mark.parametrize("options", ["preallocation=off", "preallocation=metadata,compat=1.1", "compat=0.10", "compat=v3,lazy_refcounts=on"])
@pytest.mark.parametrize("size", ["1234", "1M"])
def test_create_says_what_qemu_img_says(box, options, size):
    said = [tool("create", "-f", "qcow2", "-o", options, "a", size).stdout for tool in (box.qemu, box.img)]
    assert said[0] == said[1]


def test_create_refuses_two_sizes(box):
    assert "the size is given twice" in box.fails("create", "-f", "qcow2", "-o", "size=1M", "a", "2M")
    assert not (box.path / "a").exists()


def test_info_shows_where_the_backing_file_is(box):
    (box.path / "d").mkdir()
    box.qemu("create", "-q", "-f", "qcow2", "d/b", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "b", "-F", "qcow2", "d/a")
    line = "backing file: b (actual path: d/b)\n"
    assert line in box.qemu("info", "d/a").stdout and line in box.img("info", "d/a").stdout


@pytest.mark.parametrize("verb", [["info"], ["snapshot", "-l"], ["check"], ["map"]])
def test_image_with_an_unknown_incompatible_feature_is_refused(box, verb):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    poke(box.path / "a", 72, (1 << 63).to_bytes(8, "big"))
    box.qemu(*verb, "a", status=1)
    assert "incompatible bits 0x8000000000000000" in box.fails(*verb, "a")


def test_check_reports_refcounts_in_the_words_of_qemu_img(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "1M")
    box.io("a", "write 0 64k")
    block = be64(box.path / "a", be64(box.path / "a", 48))
    poke(box.path / "a", block + 2 * 5, (3).to_bytes(2, "big"))
    theirs, ours = box.qemu("check", "a", status=2), box.img("check", "a", status=3)
    line = "Leaked cluster 5 refcount=3 reference=1\n"
    assert line in theirs.stderr and line in ours.stdout


@pytest.mark.parametrize("how", ["leaks", "all"])
def test_repair_reports_refcounts_in_the_words_of_qemu_img(box, how):
    """Cluster 5 has data; of the two refcounts that are wrong, one is too high."""
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    box.io("a", "write 0 128k")
    block = be64(box.path / "a", be64(box.path / "a", 48))
    poke(box.path / "a", block + 2 * 5, (3).to_bytes(2, "big"))
    shutil.copy(box.path / "a", box.path / "b")
    theirs, ours = box.qemu("check", "-r", how, "a"), box.img("check", "-r", how, "b")
    line = "Repairing cluster 5 refcount=3 reference=1\n"
    assert line in theirs.stderr and ours.stdout.startswith(line + "The following inconsistencies were found and repaired:\n")
    poke(box.path / "b", be64(box.path / "b", be64(box.path / "b", 48)) + 2 * 6, bytes(2))
    line = "cluster 6 refcount=0 reference=1\n"
    repaired = box.img("check", "-r", how, "b", status=2 if how == "leaks" else 0).stdout
    assert ("ERROR " if how == "leaks" else "Repairing ") + line in repaired
    assert "Repairing" not in box.img("check", "-q", "-r", how, "b", status=2 if how == "leaks" else 0).stdout


def test_upgrade_completes_snapshots_that_lack_their_sizes(box):
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "a", "1M")
    box.io("a", "write -P 5 0 64k")
    box.qemu("snapshot", "-c", "s", "a")
    box.io("a", "write -P 6 0 64k")
    at = be64(a, 64)
    entry = a.read_bytes()[at:at + 128]
    extra = int.from_bytes(entry[36:40], "big")
    poke(a, at, entry[:36] + bytes(4) + entry[40 + extra:] + bytes(extra))
    assert json.loads(box.qemu("info", "--output", "json", "a").stdout)["snapshots"][0]["name"] == "s"
    box.img("amend", "-o", "compat=1.1,refcount_bits=32", "a")
    for tool in (box.img, box.qemu):
        assert "No errors" in tool("check", "a").stdout
    box.qemu("snapshot", "-a", "s", "a")
    box.io("a", "read -P 5 0 64k")


@pytest.mark.parametrize("place", [(56, 0, 4), (56, 1 << 31, 4), (48, 0, 8), (48, 0x10001, 8)], ids=str)
def test_missing_refcount_table_is_rebuilt(box, place):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    box.io("a", "write -P 5 0 256k")
    poke(box.path / "a", place[0], place[1].to_bytes(place[2], "big"))
    assert "`cairn-img check -r all` makes a new" in box.fails("info", "a")
    assert "ERROR cluster 0 refcount=0 reference=1" in box.img("check", "a", status=2).stdout
    assert "were found and repaired" in box.img("check", "-r", "all", "a").stdout
    box.qemu("check", "a")
    box.io("a", "read -P 5 0 256k", "write -P 6 256k 256k")
    box.img("check", "a")


def test_overhanging_snapshots_are_discarded_by_a_repair(box):
    a = box.path / "a"
    box.img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "a", "1M")
    table = 1 << 20
    os.truncate(a, table + 65540 * 40)
    poke(a, 60, (65540).to_bytes(4, "big") + table.to_bytes(8, "big"))
    assert "discards the last" in box.fails("info", "a")
    assert "ERROR 4 overhanging snapshots" in box.img("check", "a", status=2).stdout
    assert "Discarding 4 overhanging snapshots" in box.img("check", "-r", "all", "a").stdout
    assert len(json.loads(box.img("info", "--output", "json", "a").stdout)["snapshots"]) == 65536


@pytest.mark.parametrize("kept,left", [(0, 0), (20, 0), (100, 1)])
def test_snapshots_behind_the_end_of_the_file_are_discarded_by_a_repair(box, kept, left):
    a = box.path / "a"
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    box.io("a", "write -P 5 0 256k")
    for name in "xyz":
        box.img("snapshot", "-c", name, "a")
    table = os.path.getsize(a)
    with open(a, "r+b") as f:
        f.seek(be64(a, 64))
        entries = f.read(4096)
        f.seek(table)
        f.write(entries)
    poke(a, 64, table.to_bytes(8, "big"))
    os.truncate(a, table + kept)
    assert "discards the snapshots that are lost" in box.fails("snapshot", "-l", "a")
    assert f"ERROR {3 - left} overhanging snapshots" in box.img("check", "a", status=2).stdout
    assert f"Discarding {3 - left} overhanging snapshots" in box.img("check", "-r", "all", "a").stdout
    assert len(box.img("snapshot", "-l", "a").stdout.splitlines()) == (2 + left if left else 0)
    box.qemu("check", "a")
    box.io("a", "read -P 5 0 256k")


def test_check_lists_every_fault(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "16M")
    block = be64(box.path / "a", be64(box.path / "a", 48))
    with open(box.path / "a", "r+b") as f:
        f.seek(block + 2 * 100)
        f.write(b"\0\1" * 300)
        f.truncate(400 << 16)
    leaks = [line for line in box.img("check", "a", status=3).stdout.splitlines() if line.startswith("Leaked cluster ")]
    assert leaks == [line for line in box.qemu("check", "a", status=3).stderr.splitlines() if line.startswith("Leaked cluster ")]
    assert len(leaks) == 300


# ---- options ----


@pytest.mark.parametrize("size", ["1kb", "1KiB", "1MB", "1M1", "1 M", "1Mb", "", "1e3"])
def test_size_is_refused_where_qemu_img_refuses_it(box, size):
    box.qemu("create", "-f", "qcow2", "theirs", size, status=1)
    assert "invalid size" in box.fails("create", "-f", "qcow2", "a", size)
    box.img("create", "-q", "-f", "qcow2", "b", "1M")
    assert "invalid size" in box.fails("resize", "b", f"+{size}")


@pytest.mark.parametrize("size,want", [("1k", 1024), ("1.5K", 1536), ("1024b", 1024), ("0x400", 1024), ("512B", 512)])
def test_size_is_what_qemu_img_understands(box, size, want):
    for tool in (box.qemu, box.img):
        tool("create", "-f", "raw", "a", size)
        assert os.path.getsize(box.path / "a") == want
        os.unlink(box.path / "a")


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_hints_for_the_file_are_taken_and_nocow_is_refused(box, fmt):
    options = ["-o", "nocow=off,extent_size_hint=1M,preallocation=off"]
    said = [tool("create", "-f", fmt, *options, "a", "1M").stdout for tool in (box.qemu, box.img)]
    assert said[0] == said[1]
    assert "chattr +C" in box.fails("create", "-f", fmt, "-o", "nocow=on", "new", "1M")
    assert "invalid size" in box.fails("create", "-f", fmt, "-o", "extent_size_hint=much", "new", "1M")
    assert not (box.path / "new").exists()
    theirs, ours = (tool("create", "-f", fmt, "-o", "help").stdout for tool in (box.qemu, box.img))
    keys = {line.split("=")[0].strip() for line in ours.splitlines() if "=<" in line}
    wanted = {line.split("=")[0].strip() for line in theirs.splitlines() if "=<" in line}
    assert wanted - keys <= {k for k in wanted if k.startswith("encrypt")}
    if fmt == "raw":
        assert "values: off, falloc, full" in ours


def test_check_takes_a_cache_mode(box):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    box.img("check", "-T", "none", "a")
    assert "unknown cache mode 'foo'" in box.fails("check", "-T", "foo", "a")


def test_bench_takes_the_options_of_qemu_img(box):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    args = ["bench", "-c", "8", "-d", "2", "-o", "4096", "-S", "8192"]
    theirs, ours = (tool(*args, "a").stdout.splitlines()[0] for tool in (box.qemu, box.img))
    assert ours == theirs
    for method in ("threads", "native", "io_uring"):
        box.img("bench", "-c", "1", "-n", "-i", method, "a")
    assert "unknown I/O method 'foo'" in box.fails("bench", "-c", "1", "-i", "foo", "a")
    for mode in ("none", "writeback", "writethrough", "directsync", "unsafe"):
        box.img("bench", "-w", "-c", "4", "-t", mode, "--pattern", "7", "a")
    box.io("a", "read -P 7 0 16k")
    assert "unknown cache mode" in box.fails("bench", "-c", "1", "-t", "foo", "a")


def test_snapshot_is_chosen_by_id_and_name_together(box):
    box.img("create", "-q", "-f", "qcow2", "a", "64k")
    for value, name in ((1, "two"), (2, "1")):
        box.io("a", f"write -P {value} 0 64k")
        box.img("snapshot", "-c", name, "a")
    for text, value in (("snapshot.name=1", 2), ("snapshot.id=1", 1), ("1", 1), ("two", 1), ("snapshot.id=2,snapshot.name=1", 2)):
        for tool in (box.qemu, box.img):
            tool("convert", "-l", text, "-O", "raw", "a", "is")
            assert (box.path / "is").read_bytes() == bytes([value]) * 65536, text
    for text in ("snapshot.id=1,snapshot.name=1", "snapshot.name=2", "snapshot.id=two"):
        box.qemu("convert", "-l", text, "-O", "raw", "a", "is", status=1)
        assert "has no snapshot with the" in box.fails("convert", "-l", text, "-O", "raw", "a", "is")
    assert "invalid snapshot 'foo=1'" in box.fails("convert", "-l", "snapshot.id=1,foo=1", "a", "is")


def test_raw_image_has_an_empty_list_of_snapshots(box):
    box.img("create", "-q", "-f", "raw", "a", "1M")
    assert box.img("snapshot", "-l", "a").stdout == box.qemu("snapshot", "-l", "-U", "a").stdout == ""


def test_resize_to_nothing_is_refused(box):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    assert "must be above 0" in box.fails("resize", "--shrink", "a", "0")
    box.qemu("resize", "--shrink", "a", "0", status=1)


def test_tracing_is_refused_and_help_is_given_for_a_verb(box):
    assert "no trace events" in box.fails("-T", "enable=*", "info", "a")
    assert "no trace events" in box.fails("--trace", "enable=*", "info", "a")
    assert box.img("info", "-h").stdout == box.img("help", "info").stdout


def test_backing_files_are_named_as_qemu_img_names_them(box):
    (box.path / "sub").mkdir()
    box.qemu("create", "-q", "-f", "raw", "sub/base", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "sub/mid")
    box.qemu("create", "-q", "-f", "qcow2", "-b", box.path / "sub/mid", "-F", "qcow2", "sub/abs")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "sub/mid", "-F", "qcow2", "top")
    box.io("sub/mid", "write 0 64k")
    box.io("sub/base", "write 128k 64k", fmt="raw")
    for top in ("top", "sub/abs"):
        said = [tool("map", top).stdout for tool in (box.qemu, box.img)]
        assert said[0] == said[1] and "sub/mid" in said[0]
        chains = [json.loads(tool("info", "--backing-chain", "--output", "json", top).stdout) for tool in (box.qemu, box.img)]
        for key in ("filename", "full-backing-filename"):
            assert [x.get(key) for x in chains[0]] == [x.get(key) for x in chains[1]]
