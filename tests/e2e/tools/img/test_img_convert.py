"""convert with a backing file for the target, several sources, -S and --salvage, compared with qemu-img: the same
content, and the same ranges that the target's backing file keeps."""

import errno
import json
import os
import shutil
import stat
import struct
import subprocess

import pytest
from test_img import IMG, MIB, be64, box, poke  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

# Each cluster of the overlay is one of: only below, written, zeros over data, nothing at all; and half of a cluster.
OVERLAY = ("write -P 2 512k 1M", "write -z 2M 256k", "write -P 0 2560k 64k", "write -P 3 3000k 10k", "write -P 4 7M 100k")


def below(box, image):
    """The ranges that the image reads from its backing file."""
    entries = json.loads(box.qemu("map", "-f", "qcow2", "--output", "json", image).stdout)
    ranges = []
    for e in (e for e in entries if e["depth"] == 1):
        if ranges and ranges[-1][1] == e["start"]:
            ranges[-1][1] += e["length"]
        else:
            ranges.append([e["start"], e["start"] + e["length"]])
    return ranges


def same(box, ours, theirs):
    box.qemu("check", ours)
    box.qemu("compare", "-f", "qcow2", "-F", "qcow2", ours, theirs)
    assert below(box, ours) == below(box, theirs)


@pytest.mark.parametrize("options", [("raw",), ("qcow2",), ("qcow2", "-c"), ("qcow2", "-o", "data_file=data")], ids=" ".join)
def test_convert_over_a_private_file_leaves_it_private(box, options):
    """A new file replaces it, with the same permissions from the beginning."""
    box.img("create", "-q", "-f", "raw", "source", "1M")
    for name in "target", "data":
        (box.path / name).touch(0o600)
    box.img("convert", "-f", "raw", "-O", *options, "source", "target")
    assert [(box.path / name).stat().st_mode & 0o777 for name in ("target", "data")] == [0o600] * 2


def test_target_that_is_no_file_stays(box):
    """A new file must not take the place of a pipe or of a device such as /dev/null."""
    box.img("create", "-q", "-f", "raw", "source", "1M")
    os.mkfifo(box.path / "pipe")
    if os.geteuid() == 0:
        os.mknod(box.path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    for name in (n for n in ("pipe", "null") if (box.path / n).exists()):
        kind = stat.S_IFMT(os.lstat(box.path / name).st_mode)
        for args in (("convert", "-f", "raw", "-O", "raw", "source", name), ("dd", "-f", "raw", "-O", "raw", "if=source", f"of={name}"),
                     ("convert", "-f", "raw", "-O", "qcow2", "-o", f"data_file={name}", "source", "new"), ("create", "-q", name, "1M")):
            assert f"{name} is neither a file nor a block device" in box.fails(*args)
        assert stat.S_IFMT(os.lstat(box.path / name).st_mode) == kind
    assert not (box.path / "new").exists()


@pytest.mark.parametrize("old", [True, False], ids=["file", "nothing"])
@pytest.mark.parametrize("options", [("raw",), ("qcow2",), ("qcow2", "-c"), ("qcow2", "-o", "data_file=link")], ids=" ".join)
def test_convert_writes_where_links_lead(box, options, old):
    """The links stay, and the file to which they lead is replaced or made."""
    box.img("create", "-q", "-f", "raw", "source", "1M")
    box.io("source", "write -P 5 0 64k", fmt="raw")
    (box.path / "far").mkdir()
    (box.path / "far/link").symlink_to("real")
    (box.path / "link").symlink_to("far/link")
    if old:
        (box.path / "far/real").write_bytes(b"old")
    target = "new" if "data_file=link" in options else "link"
    box.img("convert", "-f", "raw", "-O", *options, "source", target)
    assert (box.path / "link").is_symlink() and (box.path / "far/link").is_symlink()
    assert sorted(os.listdir(box.path / "far")) == ["link", "real"]
    box.qemu("compare", "-f", "raw", "-F", options[0], "source", target)
    if target == "new":
        box.qemu("compare", "-f", "raw", "-F", "raw", "source", "far/real")


@pytest.mark.parametrize("options", [("raw",), ("qcow2",), ("qcow2", "-c"), ("qcow2", "-o", "data_file=old")], ids=" ".join)
@pytest.mark.parametrize("kept", ["names", "mode", "owner", "folder"])
def test_convert_writes_in_place_where_a_new_file_would_differ(box, options, kept):
    """A new file would lack the other names of the old one, or its permissions or owner; or the folder takes none."""
    if kept == ("folder" if os.geteuid() == 0 else "owner"):
        pytest.skip("only root gives files away, and root may write to each folder")
    folder = box.path / "folder"
    folder.mkdir()
    old = folder / "old"
    old.write_bytes(b"old" * MIB)
    if kept == "names":
        os.link(old, box.path / "other")
    elif kept == "mode":
        old.chmod(0o777)  # a new file lacks the bits of the umask
    elif kept == "owner":
        os.chown(old, 65534, 65534)
    else:
        folder.chmod(0o555)
    before = old.stat()
    box.img("create", "-q", "-f", "raw", "source", "1M")
    box.io("source", "write -P 5 0 64k", fmt="raw")
    has_data = "data_file=old" in options
    target = "new" if has_data else "folder/old"
    mask = os.umask(0o022)
    box.img("convert", "-f", "raw", "-O", *(o.replace("=old", "=folder/old") for o in options), "source", target)
    os.umask(mask)
    after = old.stat()
    folder.chmod(0o755)
    assert [getattr(after, f"st_{n}") for n in ("ino", "mode", "uid", "gid", "nlink")] == \
        [getattr(before, f"st_{n}") for n in ("ino", "mode", "uid", "gid", "nlink")]
    assert os.listdir(folder) == ["old"]
    box.qemu("compare", "-f", "raw", "-F", options[0], "source", target)
    if has_data:
        box.qemu("compare", "-f", "raw", "-F", "raw", "source", "folder/old")


def test_convert_to_an_overlay_finds_its_base_beside_the_link(box):
    """As qemu-img does: that is where whoever opens the image by this name finds the base, too."""
    box.img("create", "-q", "-f", "raw", "base", "1M")
    box.io("base", "write -P 5 0 64k", fmt="raw")
    (box.path / "far").mkdir()
    for name in "ours", "theirs":
        (box.path / "far" / name).touch()
        (box.path / name).symlink_to(f"far/{name}")
    for tool, target in ((box.img, "ours"), (box.qemu, "theirs")):
        tool("convert", "-f", "raw", "-O", "qcow2", "-B", "base", "-F", "raw", "base", target)
    assert (box.path / "ours").is_symlink() and sorted(os.listdir(box.path / "far")) == ["ours", "theirs"]
    same(box, "ours", "theirs")


@pytest.fixture
def chain(box):
    """base (raw, 4 MiB) <- top (qcow2, 8 MiB), and other (raw, 3 MiB)."""
    box.qemu("create", "-q", "-f", "raw", "base", "4M")
    box.io("base", "write -P 1 0 3M", fmt="raw")
    box.qemu("create", "-q", "-f", "raw", "other", "3M")
    box.io("other", "write -P 9 0 3M", fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", "8M")
    box.io("top", *OVERLAY)
    return box


@pytest.mark.parametrize("base", ["base", "other"])
@pytest.mark.parametrize("options", [(), ("-c",), ("-o", "extended_l2=on"), ("-o", "cluster_size=4k"), ("-S", "0")])
def test_convert_to_an_overlay(chain, base, options):
    """Only what the source itself has is copied; with another backing file, the rest of the disk is that file's."""
    for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
        tool("convert", "-O", "qcow2", *options, "-B", base, "-F", "raw", "top", target)
    same(chain, "ours", "theirs")
    info = json.loads(chain.img("info", "--output", "json", "ours").stdout)
    assert info["backing-filename"] == base and info["backing-filename-format"] == "raw"


def test_convert_to_an_overlay_with_the_options_of_create(chain):
    for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
        tool("convert", "-O", "qcow2", "-o", "backing_file=base", "-o", "backing_fmt=raw", "top", target)
    same(chain, "ours", "theirs")


def test_convert_of_a_raw_disk_to_an_overlay(chain):
    """The source has no backing file, so all of it is copied, zeros as well."""
    chain.qemu("create", "-q", "-f", "raw", "src", "5M")
    chain.io("src", "write -P 7 1M 1M", fmt="raw")
    for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
        tool("convert", "-f", "raw", "-O", "qcow2", "-B", "base", "-F", "raw", "src", target)
    same(chain, "ours", "theirs")
    chain.qemu("compare", "-f", "qcow2", "-F", "raw", "ours", "src")


@pytest.mark.parametrize("compress", [(), ("-c",)])
def test_convert_into_an_existing_overlay(chain, compress):
    """Clusters of the target where the source has none keep their content."""
    for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
        chain.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", target, "8M")
        chain.io(target, "write -P 8 64k 128k")
        tool("convert", "-n", *compress, "-O", "qcow2", "-B", "base", "-F", "raw", "top", target)
    same(chain, "ours", "theirs")
    chain.io("ours", "read -P 8 64k 128k", "read -P 2 512k 1M", "read -P 0 2M 256k")


def test_convert_to_an_overlay_in_another_folder(chain):
    """The name of the backing file is relative to the target's folder."""
    (chain.path / "sub").mkdir()
    chain.img("convert", "-O", "qcow2", "-B", "../base", "-F", "raw", "top", "sub/ours")
    chain.qemu("compare", "top", "sub/ours")
    assert "No such file" in chain.fails("convert", "-O", "qcow2", "-B", "base", "-F", "raw", "top", "sub/x")
    assert os.listdir(chain.path / "sub") == ["ours"]


@pytest.mark.parametrize("compress", [(), ("-c",)])
def test_convert_of_several_sources(chain, compress):
    chain.qemu("create", "-q", "-f", "raw", "odd", "1000448")
    chain.io("odd", "write -P 6 0 1000448", fmt="raw")
    for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
        tool("convert", "-f", "raw", "-O", "qcow2", *compress, "odd", "base", "odd", "other", target)
    same(chain, "ours", "theirs")
    if not compress:
        chain.img("convert", "odd", "base", "top", "ours.raw")
        chain.qemu("convert", "odd", "base", "top", "theirs.raw")
        assert (chain.path / "ours.raw").read_bytes() == (chain.path / "theirs.raw").read_bytes()


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("sparse", ["0", "4k", "64k", "512", "1M"])
def test_shortest_run_of_zeros(box, sparse, fmt):
    """Zeros that are not stored have at least the given length; the disk is the same."""
    box.qemu("create", "-q", "-f", "raw", "src", "2M")
    box.io("src", "write -P 1 0 2M", "write -P 0 64k 8k", "write -P 0 256k 128k", "write -P 0 1M 512k", fmt="raw")
    os.truncate(box.path / "src", 3 * MIB)
    box.img("convert", "-f", "raw", "-O", fmt, "-S", sparse, "src", "ours")
    box.qemu("compare", "-f", "raw", "-F", fmt, "src", "ours")
    holes = [e for e in json.loads(box.qemu("map", "-f", fmt, "--output", "json", "ours").stdout) if e["zero"]]
    if sparse == "0":
        assert holes == []
    elif sparse == "64k" and fmt == "raw":
        assert [(e["start"], e["length"]) for e in holes][:1] == [(256 << 10, 128 << 10)]
    elif fmt == "raw" and sparse == "4k":
        assert [(e["start"], e["length"]) for e in holes][:1] == [(64 << 10, 8 << 10)]
    assert sparse == "0" or holes[-1]["start"] + holes[-1]["length"] == 3 * MIB


def damaged(box, cluster=True, table=True):
    """A disk of which one cluster cannot be read, as its compressed data is garbage, and one L2 table."""
    box.qemu("create", "-q", "-f", "raw", "plain", "64M")
    box.io("plain", "write -P 1 0 1M", "write -P 2 40M 1M", fmt="raw")
    box.qemu("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=16k", "plain", "a")
    l1 = be64(box.path / "a", 40)
    l2 = be64(box.path / "a", l1) & 0x00FFFFFFFFFFFE00
    entry = be64(box.path / "a", l2 + 8 * 5) & ((1 << (62 - (14 - 8))) - 1)
    if cluster:
        poke(box.path / "a", entry, b"\xff" * 16)
    if table:
        poke(box.path / "a", l1 + 8, b"\x80\x00\x00\x00\x00\x00\x01\x08")


@pytest.mark.parametrize("options", [("-O", "raw"), ("-O", "qcow2"), ("-O", "qcow2", "-c")])
def test_salvage(box, options):
    """Blocks that cannot be read become zeros and are named; all else is copied."""
    damaged(box)
    box.fails("convert", *options, "a", "x")
    assert not (box.path / "x").exists()
    err = box.img("convert", "--salvage", *options, "a", "ours").stderr
    assert f"error while reading offset {5 * 16384}: Input/output error" in err
    assert err.count("warning") == err.count("\n") > 0
    fmt = options[1]
    box.io("ours", "read -P 1 0 80k", "read -P 0 80k 16k", "read -P 1 96k 928k", fmt=fmt)
    box.qemu("convert", "--salvage", "-O", "qcow2", "a", "theirs")
    box.qemu("compare", "-f", fmt, "-F", "qcow2", "ours", "theirs")
    assert box.img("convert", "-q", "--salvage", *options, "a", "ours").stderr == ""


DAMAGE = f"damaged.qcow2: the compressed cluster of guest offset {5 * 16384} is damaged; `cairn-img convert --salvage` copies the rest"


@pytest.mark.parametrize("verb", [("convert", "-O", "raw", "IMAGE", "x"), ("convert", "-O", "qcow2", "-c", "IMAGE", "x"), ("convert", "IMAGE", "-"), ("convert", "-O", "raw", "plain", "IMAGE", "x"),
                                  ("dd", "-O", "raw", "bs=64k", "count=4", "if=IMAGE", "of=x"), ("commit", "-f", "qcow2", "IMAGE"),
                                  ("rebase", "-f", "qcow2", "-b", "", "IMAGE"), ("compare", "IMAGE", "plain")], ids=lambda v: " ".join(v[:4]))
def test_damaged_cluster_is_named(box, verb):
    """The message names the image of the chain, the cluster, and the way to rescue the rest."""
    damaged(box, table=False)
    (box.path / "a").rename(box.path / "damaged.qcow2")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "damaged.qcow2", "-F", "qcow2", "over", "64M")
    image = "over"
    if verb[0] == "commit":
        box.qemu("create", "-q", "-f", "raw", "base", "64M")
        box.qemu("rebase", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", "damaged.qcow2")
        image = "damaged.qcow2"
    assert DAMAGE in box.fails(*[w.replace("IMAGE", image) for w in verb], status=4 if verb[0] == "compare" else 1)


def test_compressing_a_damaged_backing_file_ends(box):
    """A read fails while the tables of the next part are read."""
    damaged(box, table=False)
    box.qemu("create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "over", "64M")
    box.fails("convert", "-O", "qcow2", "-c", "over", "x")


def test_damaged_table_is_named(box):
    damaged(box, cluster=False)
    assert "a: the table entry of guest offset 33554432 is damaged" in box.fails("convert", "a", "x")


def test_salvage_to_standard_output(box):
    damaged(box)
    box.img("convert", "-q", "--salvage", "a", "ours")
    with open(box.path / "piped", "wb") as f:
        subprocess.run([IMG, "convert", "-q", "--salvage", "a", "-"], cwd=box.path, stdout=f, check=True, timeout=60)
    assert (box.path / "piped").read_bytes() == (box.path / "ours").read_bytes()


@pytest.mark.parametrize("args,what", [
    (("-O", "qcow2", "-B", "base", "top", "x"), "add -F"),
    (("-O", "raw", "-B", "base", "-F", "raw", "top", "x"), "raw image cannot"),
    (("-O", "qcow2", "-F", "raw", "top", "x"), "-F requires -B"),
    (("-O", "qcow2", "-B", "base", "-F", "vmdk", "top", "x"), "unknown format"),
    (("-O", "qcow2", "-B", "base", "-F", "raw", "base", "top", "x"), "several SOURCEs"),
    (("-O", "qcow2", "-B", "none", "-F", "raw", "top", "x"), "No such file"),
    (("-O", "qcow2", "-B", "base", "-F", "raw", "-o", "preallocation=full", "top", "x"), "would hide"),
    (("-n", "-O", "qcow2", "-o", "cluster_size=4k", "top", "x"), "-o has no effect with -n"),
    (("-n", "--target-is-zero", "-B", "base", "-F", "raw", "-O", "qcow2", "top", "x"), "exclude each other"),
    (("--target-is-zero", "-O", "qcow2", "top", "x"), "requires -n"),
    (("-C", "-c", "-O", "qcow2", "top", "x"), "-C and -c"), (("-C", "-S", "4k", "top", "x"), "-C and -S"),
    (("-C", "--salvage", "top", "x"), "-C and --salvage"), (("-S", "3", "top", "x"), "multiple of 512"),
    (("-S", "17M", "top", "x"), "multiple of 512"), (("-m", "0", "top", "x"), "1 to 16"),
    (("-t", "fast", "top", "x"), "cache mode"), (("-T", "fast", "top", "x"), "cache mode"),
    (("-r", "fast", "top", "x"), "invalid size"), (("-l", "snapshot.foo=1", "top", "x"), "invalid snapshot"),
    (("-l", "1", "top", "top", "x"), "single SOURCE"), (("-l", "nosuch", "top", "x"), "no snapshot"),
    (("top", "nosuch", "x"), "No such file")])
def test_convert_refuses_as_qemu_does(chain, args, what):
    """qemu-img refuses all of them; but for --target-is-zero with -B its status is 0."""
    assert what in chain.fails("convert", *args)
    assert sorted(os.listdir(chain.path)) == ["base", "other", "top"]
    assert chain.qemu("convert", *args, status=0 if what == "exclude each other" else 1).stderr


@pytest.mark.parametrize("verb", [("convert", "-O", "raw", "top", "base"), ("convert", "-n", "-O", "raw", "top", "base"),
                                  ("convert", "-O", "raw", "other", "top", "base"), ("dd", "-O", "raw", "if=top", "of=base")])
@pytest.mark.parametrize("lock", [(), ("-U",)])
def test_a_backing_file_of_the_source_is_no_target(chain, verb, lock):
    before = (chain.path / "base").read_bytes()
    words = chain.fails(verb[0], *lock, *verb[1:])
    assert "the target base is a backing file of the source top; choose another one, or use `cairn-img commit`" in words
    assert "-U" not in words and (chain.path / "base").read_bytes() == before
    assert sorted(os.listdir(chain.path)) == ["base", "other", "top"]


def test_the_data_file_of_the_source_is_no_target(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=data", "top", "1M")
    assert "the target data is a data file of the source top; choose another one" in box.fails("convert", "top", "data")


@pytest.mark.parametrize("lock", [(), ("-U",)])
def test_a_file_of_the_source_is_no_data_file_of_the_target(box, lock):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=data", "base", "1M")
    box.io("base", "write -P 7 0 1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    before = {p.name: p.read_bytes() for p in box.path.iterdir()}
    for name, said in (("data", "the target's data file data is a data file of the source top; choose another one"),
                       ("base", "the target's data file base is a backing file of the source top; choose another one"),
                       ("top", "source and target's data file are the same file")):
        assert said in box.fails("convert", *lock, "-O", "qcow2", "-o", f"data_file={name}", "top", "new")
        assert {p.name: p.read_bytes() for p in box.path.iterdir()} == before


def test_accepted_options_without_effect(chain):
    chain.img("convert", "-C", "-W", "-m", "16", "-t", "unsafe", "-T", "none", "-O", "qcow2", "top", "ours")
    chain.qemu("compare", "top", "ours")


def test_snapshot_by_keyword(chain):
    chain.qemu("snapshot", "-c", "one", "top")
    chain.io("top", "write -P 5 0 1M")
    for word in ("one", "1", "snapshot.name=one", "snapshot.id=1"):
        for tool, target in ((chain.img, "ours"), (chain.qemu, "theirs")):
            tool("convert", "-l", word, "-O", "qcow2", "top", target)
        chain.qemu("compare", "ours", "theirs")


@pytest.mark.parametrize("how", ["metadata", "falloc", "full"])
def test_preallocated_overlay_shows_its_backing_file(box, how):
    box.qemu("create", "-q", "-f", "qcow2", "base", "1M")
    box.io("base", "write -P 1 0 1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "a")
    box.io("a", "write -P 2 100k 10k")
    box.img("convert", "-O", "qcow2", "-o", f"extended_l2=on,preallocation={how}", "-B", "base", "-F", "qcow2", "a", "b")
    box.qemu("compare", "a", "b")
    box.qemu("check", "b")


@pytest.mark.parametrize("options", [[], ["-c"]], ids=["plain", "compressed"])
def test_data_behind_a_shorter_source_stays(box, options):  # noqa: F811
    """The source ends within a cluster of the target."""
    box.qemu("create", "-q", "-f", "raw", "src", "77824")
    box.io("src", "write -P 1 0 77824", fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "to", "143360")
    box.io("to", "write -P 9 0 143360")
    box.img("convert", "-n", *options, "-f", "raw", "-O", "qcow2", "src", "to")
    box.qemu("convert", "-O", "raw", "to", "out")
    assert (box.path / "out").read_bytes() == b"\1" * 77824 + b"\t" * (143360 - 77824)


def attribute_set(path, key, value):
    try:
        os.setxattr(path, key, value)
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"the file system has no {key}")


@pytest.mark.parametrize("compress", [(), ("-c",)])
def test_replaced_target_keeps_its_acl_and_attributes(box, compress):
    box.qemu("create", "-q", "-f", "qcow2", "src", "1M")
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=data", "new", "1M")
    # user::rw-, user:12345:r--, group::---, mask::r--, other::---
    rows = ((1, 6, -1), (2, 4, 12345), (4, 0, -1), (0x10, 4, -1), (0x20, 0, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    kept = {"user.note": b"backup", "system.posix_acl_access": acl}
    names = ["new"] if compress else ["new", "data"]
    for name in names:
        for key, value in kept.items():
            attribute_set(box.path / name, key, value)
    inodes = [(box.path / name).stat().st_ino for name in names]
    box.img("convert", "-O", "qcow2", *compress, *([] if compress else ["-o", "data_file=data"]), "src", "new")
    assert all((box.path / name).stat().st_ino != inode for name, inode in zip(names, inodes))
    for name in names:
        assert {key: os.getxattr(box.path / name, key) for key in kept} == kept


def test_replaced_target_gets_no_acl_of_its_folder(box):
    """A new file would get it, and with it a reader that the old file does not have."""
    box.qemu("create", "-q", "-f", "qcow2", "src", "1M")
    box.img("create", "-q", "-f", "qcow2", "new", "1M")
    (box.path / "new").chmod(0o640)
    rows = ((1, 6, -1), (2, 6, 12345), (4, 4, -1), (0x10, 6, -1), (0x20, 0, -1))
    attribute_set(box.path, "system.posix_acl_default", struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows))
    box.img("convert", "-O", "qcow2", "src", "new")
    assert "system.posix_acl_access" not in os.listxattr(box.path / "new") and (box.path / "new").stat().st_mode & 0o777 == 0o640
