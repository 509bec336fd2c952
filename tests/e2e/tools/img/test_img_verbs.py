"""The other verbs of cairn-img compared with qemu-img: check -r, compare, map, resize, measure, convert's options,
rebase, commit, amend, bench, trim; and bad input: one sentence, the right exit status, nothing changed."""
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import time

import pytest
from mountlib import tmpfs
from test_img import IMG, MIB, OPTION_SETS, TIMEOUT, be64, box, check_interrupted, pattern, poke, run  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")


def sha(box, name, fmt="qcow2"):
    """Return a hash of the disk's content, as read by QEMU."""
    box.qemu("convert", "-f", fmt, "-O", "raw", name, "sha.raw")
    out = run("sha256sum", "sha.raw", cwd=box.path).stdout.split()[0]
    (box.path / "sha.raw").unlink()
    return out


def source(box, seed=1, size="16M"):
    """A raw disk with random data, text and holes."""
    box.qemu("create", "-q", "-f", "raw", "src", size)
    pattern(box, "src", seed, fmt="raw")
    noise = random.Random(seed).randbytes(3 * MIB)
    poke(box.path / "src", 2 * MIB, noise)
    poke(box.path / "src", 8 * MIB, b"all work and no play " * 40000)


def kill_writer(box, name, *commands):
    """qemu-io dies during its work."""
    args = [a for c in commands for a in ("-c", c)]
    subprocess.run(["qemu-io", *args, "-c", "sigraise 9", name], cwd=box.path, capture_output=True, timeout=TIMEOUT)


# ---- check -r ----


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k,refcount_bits=1", "extended_l2=on"])
def test_repair_of_an_image_that_was_not_closed(box, options):
    box.qemu("create", "-q", "-f", "qcow2", "-o", f"lazy_refcounts=on,{options}", "a", "32M")
    kill_writer(box, "a", "write -P 3 0 5M", "write -P 4 20M 1M")
    assert "not closed cleanly" in box.fails("bench", "-w", "-c", "1", "a")
    shutil.copy(box.path / "a", box.path / "b")
    out = box.img("check", "-r", "all", "b").stdout
    assert "inconsistencies were found and repaired" in out and "No errors were found" in out
    box.qemu("check", "-q", "b")
    assert json.loads(box.qemu("info", "--output", "json", "b").stdout)["dirty-flag"] is False
    box.qemu("check", "-q", "-r", "all", "a")
    box.qemu("compare", "a", "b")
    box.img("check", "-r", "all", "b")
    box.img("bench", "-w", "-c", "10", "b")


def test_repair_of_leaks(box):
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    box.io("a", "write -P 9 0 1M")
    before = sha(box, "a")
    block = be64(a, be64(a, 48))
    poke(a, block + 2 * 100, b"\x00\x01")
    os.truncate(a, 101 * 65536)
    box.img("check", "-q", "a", status=3)
    out = json.loads(box.img("check", "-r", "leaks", "--output", "json", "a").stdout)
    assert out["leaks-fixed"] == 1 and "leaks" not in out
    box.qemu("check", "-q", "a")
    assert sha(box, "a") == before


def test_check_reads_a_block_once_that_the_table_names_often(box):
    """The other entries concern clusters beyond the end of the file."""
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    box.io("a", "write -P 9 0 1M")
    table = be64(a, 48)
    poke(a, table, be64(a, table).to_bytes(8, "big") * 8192)
    out = json.loads(box.img("check", "--output", "json", "a", status=2).stdout)
    assert out["corruptions"] == 2 and "leaks" not in out
    box.img("check", "-q", "-r", "all", "a")
    box.qemu("check", "-q", "a")


def test_repair_with_snapshots(box):
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "a", "16M")
    pattern(box, "a", 1)
    box.qemu("snapshot", "-c", "one", "a")
    pattern(box, "a", 2)
    box.qemu("snapshot", "-c", "two", "a")
    pattern(box, "a", 3)
    before = sha(box, "a")
    box.qemu("convert", "-l", "one", "-O", "raw", "a", "one.raw")
    poke(a, be64(a, be64(a, 48)), bytes(60) + random.Random(5).randbytes(600))
    box.img("check", "-q", "a", status=2)
    box.img("check", "-q", "-r", "all", "a")
    box.qemu("check", "-q", "a")
    assert sha(box, "a") == before
    box.qemu("convert", "-l", "one", "-O", "raw", "a", "again.raw")
    run("cmp", "one.raw", "again.raw", cwd=box.path)
    pattern(box, "a", 4)
    box.qemu("snapshot", "-d", "one", "a")
    box.qemu("check", "-q", "a")


def test_repair_clears_the_corrupt_mark(box):
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    box.io("a", "write -P 9 0 1M")
    poke(a, 79, b"\x02")
    assert "marked corrupt" in box.fails("bench", "-w", "-c", "1", "a")
    box.img("check", "-q", "-r", "all", "a")
    assert a.read_bytes()[79] == 0
    assert "'leaks' or 'all'" in box.fails("check", "-r", "most", "a")
    assert "-r and -U exclude each other" in box.fails("check", "-U", "-r", "all", "a")


# ---- compare ----


def test_compare(box):
    source(box)
    box.img("convert", "-f", "raw", "-O", "qcow2", "src", "a")
    assert box.img("compare", "-f", "raw", "src", "a").stdout == "Images are identical.\n"
    box.io("a", "write -P 77 9M 512")
    at = 9 * MIB
    with open(box.path / "src", "rb") as f:
        f.seek(at)
        at += next(i for i, b in enumerate(f.read(512)) if b != 77)
    assert box.img("compare", "-f", "raw", "src", "a", status=1).stdout == f"Content mismatch at offset {at}!\n"
    lines = box.img("compare", "--format", "json", "src", "a", status=1).stdout.splitlines()
    assert json.loads(lines[-1])["offset"] == at
    assert box.img("compare", "-q", "src", "a", status=1).stdout == ""


def test_compare_sizes(box):
    box.qemu("create", "-q", "-f", "raw", "a", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "b", "2M")
    assert "Image size mismatch!" in box.img("compare", "a", "b").stdout
    assert "Strict mode" in box.img("compare", "-s", "a", "b", status=1).stdout
    box.io("b", "write -P 1 1536k 512")
    assert "1572864" in box.img("compare", "a", "b", status=1).stdout
    assert "No such file" in box.fails("compare", "a", "gone", status=2)
    box.fails("compare", "a", status=2)


@pytest.mark.parametrize("sizes", [(1, 1), (513, 513), (512, 513), (1, MIB), (70001, 70000)])
def test_compare_files_that_end_within_a_sector(box, sizes):
    for name, size in zip("ab", sizes):
        (box.path / name).write_bytes(b"\7" * size)
    status = int(sizes[0] != sizes[1])
    ours, theirs = (tool("compare", "-f", "raw", "-F", "raw", "a", "b", status=status) for tool in (box.img, box.qemu))
    assert ours.stdout.splitlines()[-1] == theirs.stdout.splitlines()[-1]


def test_compare_what_cannot_be_read(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    box.io("a", "write 0 1M")
    shutil.copy(box.path / "a", box.path / "b")
    a = box.path / "a"
    poke(a, be64(a, be64(a, 40)) & 0xFFFFFFFFFFFE00, b"\xff" * 8)
    assert "offset 0" in box.fails("compare", "a", "b", status=3)


# ---- map ----


def maps(box, *args):
    ours = json.loads(box.img("map", "--output", "json", *args).stdout)
    theirs = json.loads(box.qemu("map", "--output", "json", *args).stdout)
    assert ours == theirs


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_map_as_qemu(box, options):
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "base", "10M")
    pattern(box, "base", 1, size=10 * MIB)
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "qcow2", "top", "16M")
    pattern(box, "top", 2, size=16 * MIB)
    maps(box, "base")
    maps(box, "top")
    maps(box, "--start-offset", "3M", "--max-length", "5M", "top")
    assert box.img("map", "base").stdout == box.qemu("map", "base").stdout


def test_map_of_raw_and_compressed_images(box):
    source(box)
    maps(box, "-f", "raw", "src")
    box.qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "src", "c")
    maps(box, "c")
    extents = json.loads(run(IMG, "map", "--output", "json", "c", cwd=box.path).stdout)
    assert {(x["data"], x["compressed"], "offset" in x) for x in extents} == {(True, True, False), (True, False, True), (False, False, False)}
    assert "compressed" in box.fails("map", "c")
    assert "before the start" in box.fails("map", "-s", "1G", "c")


# ---- resize ----


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_resize_keeps_snapshots(box, options):
    """Grow, grow far, shrink and grow again; snapshots keep their content."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "a", "16M")
    pattern(box, "a", 1)
    box.qemu("convert", "-O", "raw", "a", "truth")
    old = "compat=0.10" in options
    if not old and "refcount_bits=1" not in options:
        box.qemu("snapshot", "-c", "one", "a")
    for size in ("20M", "+100M", "5M", "7M", "64k", "16M"):
        box.img("resize", "-q", "--shrink", "a", size)
        box.qemu("resize", "-q", "-f", "raw", "--shrink", "truth", size)
        box.qemu("check", "-q", "a")
        box.qemu("compare", "-F", "raw", "a", "truth")
    if not old and "refcount_bits=1" not in options:
        box.qemu("snapshot", "-a", "one", "a")
        box.qemu("check", "-q", "a")


def test_resize_of_raw_and_far_growth(box):
    box.qemu("create", "-q", "-f", "raw", "r", "1M")
    assert box.img("resize", "-f", "raw", "r", "+1000").stdout == "Image resized.\n"
    assert (box.path / "r").stat().st_size == MIB + 1024
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    box.io("a", "write -P 8 0 1M")
    for size in ("1T", "8T", "20T"):
        box.img("resize", "a", size)
        box.io("a", f"write -P 7 {size[:-1]}0G 64k" if size == "1T" else "read -P 8 0 1M")
        box.qemu("check", "-q", "a")
    assert (box.path / "a").stat().st_size < 8 * MIB


def test_resize_hides_a_longer_backing_file(box):
    box.qemu("create", "-q", "-f", "raw", "base", "4M")
    box.io("base", "write -P 1 0 4M", fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "a", "1M")
    box.img("resize", "a", "5M")
    assert "Pattern verification failed" not in box.io("a", "read -P 1 0 1M", "read -P 0 1M 4M").stdout


@pytest.mark.parametrize("size,what", [("-1k", "--shrink"), ("1Z", "invalid size"), ("abc", "invalid size"), ("", "invalid size"),
                                       ("-2M", "cannot remove"), ("+16E", "too large"), ("7E", "larger than"),
                                       ("512k", "--shrink"), ("+-1", "invalid size")])
def test_impossible_resizes_are_refused(box, size, what):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    before = (box.path / "a").read_bytes()
    assert what in box.fails("resize", "a", size)
    assert (box.path / "a").read_bytes() == before


@pytest.mark.parametrize("size", ["512k", "1M", "+0"])
def test_preallocation_without_added_space_is_refused_as_by_qemu(box, size):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    args = "resize", "--shrink", "--preallocation=falloc", "a", size
    box.qemu(*args, status=1)
    assert "no added space" in box.fails(*args)


# ---- measure, preallocation ----


@pytest.mark.parametrize("args", [["--size", "1T"], ["--size", "10M", "-o", "cluster_size=512"], ["--size", "0"],
                                  ["--size", "3G", "-o", "extended_l2=on"], ["-f", "raw", "src"],
                                  ["-f", "raw", "-o", "cluster_size=4k,refcount_bits=64", "src"]])
def test_measure_as_qemu(box, args):
    source(box)
    ours = json.loads(box.img("measure", "--output", "json", "-O", "qcow2", *args).stdout)
    theirs = json.loads(box.qemu("measure", "--output", "json", "-O", "qcow2", *args).stdout)
    assert ours == theirs
    box.img("convert", "-f", "raw", "-O", "qcow2", "src", "a")
    if args[-1] == "src" and len(args) == 3:
        assert (box.path / "a").stat().st_size <= ours["required"]


@pytest.mark.sample(6)
@pytest.mark.parametrize("options", [f"cluster_size={c},extended_l2={e}" for c in ("512", "2k", "4k", "16k", "64k") for e in ("off", "on")
                                     if e == "off" or c in ("16k", "64k")])
@pytest.mark.parametrize("grain", ["512", "4k"])
def test_convert_needs_no_more_than_measured(box, options, grain):
    """Data and holes of the source end anywhere in a cluster of the target."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", f"cluster_size={grain}", "src", "2M")
    box.io("src", *(f"write -P 5 {16384 * k + 512} 512" for k in range(1, 60, 7)), *(f"write -P 6 {16384 * k} 512" for k in range(3, 60, 7)))
    args = "-O", "qcow2", "-o", options
    ours = box.img("measure", *args, "src").stdout
    assert ours == box.qemu("measure", *args, "src").stdout
    box.img("convert", *args, "src", "a")
    assert (box.path / "a").stat().st_size <= int(re.findall(r"\d+", ours)[0])


@pytest.mark.parametrize("bits", [1, 16, 64])
def test_full_image_needs_no_more_than_measured(box, bits):
    """The refcount table counts itself and its blocks, which are many with small clusters."""
    args = "-o", f"cluster_size=512,refcount_bits={bits},preallocation=metadata"
    ours = json.loads(box.img("measure", "--output", "json", "-O", "qcow2", *args, "--size", "64M").stdout)
    box.img("create", "-q", "-f", "qcow2", *args, "a", "64M")
    assert (box.path / "a").stat().st_size <= ours["fully-allocated"]


@pytest.mark.sample(6)
@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("options", OPTION_SETS)
def test_preallocation_allocates_space(box, options, mode):
    box.img("create", "-q", "-f", "qcow2", "-o", f"{options},preallocation={mode}", "a", "8M")
    box.qemu("check", "-q", "a")
    assert "Pattern verification failed" not in box.io("a", "read -P 0 0 8M").stdout
    used = (box.path / "a").stat().st_blocks * 512
    assert used >= 8 * MIB if mode != "metadata" else used < 7 * MIB
    before = (box.path / "a").stat().st_size
    pattern(box, "a", 1, size=8 * MIB)
    box.qemu("check", "-q", "a")
    if "extended" not in options:
        assert (box.path / "a").stat().st_size <= before + 64 * 1024


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("size", ["8M", "8389120"])
def test_resize_preallocates_over_backing_file(box, mode, size):
    box.qemu("create", "-q", "-f", "qcow2", "base", "16M")
    box.io("base", "write -P 1 0 16M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", size)
    box.io("top", "write -P 2 1M 1M")
    box.img("resize", "-q", f"--preallocation={mode}", "top", "24M")
    old = 8389120 if size != "8M" else 8 * MIB
    for reads in ("-P 1 0 1M", "-P 2 1M 1M", f"-P 1 2M {old - 2 * MIB}", f"-P 0 {old} {24 * MIB - old}"):
        box.io("top", f"read {reads}")
    box.qemu("check", "-q", "top")


def test_preallocation_of_raw_and_backed(box):
    box.img("create", "-q", "-f", "raw", "-o", "preallocation=falloc", "r", "4M")
    assert (box.path / "r").stat().st_blocks * 512 >= 4 * MIB
    assert "no metadata" in box.fails("create", "-f", "raw", "-o", "preallocation=metadata", "x", "4M")
    assert "extended_l2" in box.fails("create", "-f", "qcow2", "-b", "r", "-F", "raw", "-o", "preallocation=full", "x")
    box.io("r", "write -P 6 0 4M", fmt="raw")
    box.img("create", "-q", "-f", "qcow2", "-b", "r", "-F", "raw", "-o", "extended_l2=on,preallocation=metadata", "a")
    assert "Pattern verification failed" not in box.io("a", "read -P 6 0 4M").stdout
    assert "invalid value" in box.fails("create", "-f", "qcow2", "-o", "preallocation=some", "x", "4M")
    assert not (box.path / "x").exists()


# ---- convert ----


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_convert_compressed(box, options):
    source(box)
    box.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "src", "a")
    box.qemu("check", "-q", "a")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "a")
    assert json.loads(box.qemu("check", "--output", "json", "a").stdout)["compressed-clusters"] > 0
    box.img("compare", "-f", "raw", "src", "a")
    # later writes go to other clusters
    pattern(box, "a", 9)
    box.qemu("check", "-q", "a")


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=64k,refcount_bits=2", "cluster_size=4k",
                                     "cluster_size=64k,refcount_bits=1", "cluster_size=16k,compression_type=zstd"])
def test_compressed_data_fills_partly_used_clusters(box, options):
    """Text and random data alternately, in varying lengths: as small as with qemu-img."""
    rng = random.Random(4)
    with open(box.path / "src", "wb") as f:
        for i in range(20):
            noise = rng.randbytes(rng.randrange(1, 400) << 10)
            text = b"".join(b"%d sparse words\n" % rng.randrange(1 << (i % 30)) for _ in range(rng.randrange(40000)))
            f.write(noise + text)
        f.truncate(-(-f.tell() // 512) * 512)
    for name, tool in (("ours", box.img), ("theirs", box.qemu)):
        tool("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "src", name)
        box.qemu("check", "-q", name)
        box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", name)
    for of in ("st_size", "st_blocks"):
        ours, theirs = (getattr((box.path / name).stat(), of) for name in ("ours", "theirs"))
        # refcounts are rebuilt at the end, next to the first ones
        assert ours <= theirs + 3 * 65536 // (1 if of == "st_size" else 512)


@pytest.mark.sample(3)
@pytest.mark.seconds(180)  # clusters of 512 bytes: 33 s at a load of 14
@pytest.mark.parametrize("options", OPTION_SETS)
def test_convert_compressed_into_existing_image(box, options):
    """Over data, zeros, compressed data and a snapshot of these; repeatedly."""
    source(box)
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "a", "20M")
    box.io("a", "write -P 1 0 20M", "write -z 5M 1M")
    shared = "refcount_bits=1" not in options
    if shared:
        box.qemu("snapshot", "-c", "before", "a")
        box.qemu("convert", "-O", "raw", "a", "truth")
    for _ in range(1 if options == "cluster_size=512" else 2):
        box.img("convert", "-c", "-n", "-f", "raw", "-O", "qcow2", "src", "a")
        box.qemu("check", "-q", "a")
        size = (box.path / "src").stat().st_size
        box.qemu("convert", "-O", "raw", "a", "now")
        with open(box.path / "now", "r+b") as f:
            f.truncate(size)
        run("cmp", "now", "src", cwd=box.path)
    assert json.loads(box.qemu("check", "--output", "json", "a").stdout)["compressed-clusters"] > 0
    if shared:
        box.qemu("convert", "-l", "before", "-O", "raw", "a", "then")
        run("cmp", "truth", "then", cwd=box.path)
    pattern(box, "a", 9)
    box.qemu("check", "-q", "a")


def test_convert_compressed_into_existing_image_stays_small(box):
    rng = random.Random(4)
    with open(box.path / "src", "wb") as f:
        for _ in range(40):
            f.write(rng.randbytes(rng.randrange(1, 200) << 10) + b"text %d\n" % rng.randrange(1000) * 30000)
        f.truncate(-(-f.tell() // 512) * 512)
    size = (box.path / "src").stat().st_size
    for name, tool in (("ours", box.img), ("theirs", box.qemu)):
        box.qemu("create", "-q", "-f", "qcow2", name, size)
        tool("convert", "-c", "-n", "-f", "raw", "-O", "qcow2", "src", name)
        box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", name)
        box.qemu("check", "-q", name)
    assert (box.path / "ours").stat().st_size <= 1.02 * (box.path / "theirs").stat().st_size + 65536
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=d", "e", size)
    assert "convert without -c" in box.fails("convert", "-c", "-n", "-f", "raw", "-O", "qcow2", "src", "e")


def test_convert_snapshot(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "16M")
    pattern(box, "a", 1)
    box.qemu("snapshot", "-c", "first", "a")
    box.qemu("convert", "-O", "raw", "a", "truth")
    pattern(box, "a", 2)
    for name in ("first", "1", "snapshot.name=first", "snapshot.id=1"):
        box.img("convert", "-l", name, "a", "b")
        run("cmp", "truth", "b", cwd=box.path)
    assert "no snapshot 'x'" in box.fails("convert", "-l", "x", "a", "c")
    assert "only a qcow2 image has snapshots" in box.fails("convert", "-l", "x", "-f", "raw", "truth", "c")
    assert not (box.path / "c").exists()


def test_convert_to_a_stream(box):
    source(box)
    box.img("convert", "-f", "raw", "-O", "qcow2", "src", "a")
    p = subprocess.run([IMG, "convert", "a", "-"], cwd=box.path, capture_output=True, timeout=TIMEOUT)
    assert p.returncode == 0 and p.stdout == (box.path / "src").read_bytes()
    assert "only the format raw" in box.fails("convert", "-O", "qcow2", "a", "-")


def test_convert_into_existing_image(box):
    source(box)
    box.qemu("create", "-q", "-f", "qcow2", "a", "20M")
    box.io("a", "write -P 1 0 20M")
    box.img("convert", "-n", "-f", "raw", "-O", "qcow2", "src", "a")
    box.qemu("check", "-q", "a")
    assert "Pattern verification failed" not in box.io("a", "read -P 1 16M 4M").stdout
    box.qemu("resize", "-q", "--shrink", "a", "16M")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "a")
    box.qemu("create", "-q", "-f", "qcow2", "b", "16M")
    box.img("convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", "src", "b")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "b")
    box.qemu("create", "-q", "-f", "qcow2", "small", "1M")
    assert "1048576 bytes" in box.fails("convert", "-n", "-f", "raw", "-O", "qcow2", "src", "small")
    assert "requires -n" in box.fails("convert", "--target-is-zero", "src", "x")
    assert "-O qcow2" in box.fails("convert", "-c", "src", "x")


def test_convert_rate(box):
    with open(box.path / "src", "wb") as f:
        f.write(os.urandom(8 * MIB))
    for args in (["-O", "qcow2"], ["-c", "-O", "qcow2"]):
        begin = time.monotonic()
        box.img("convert", "-r", "8M", "-f", "raw", *args, "src", "a")
        assert time.monotonic() - begin > 0.4
    assert "invalid size" in box.fails("convert", "-r", "fast", "src", "x")


def test_convert_json_progress(box):
    source(box)
    for args in ([], ["-c"]):
        lines = box.img("convert", "--format", "json", "-f", "raw", "-O", "qcow2", *args, "src", "a").stdout.splitlines()
        events = [json.loads(line) for line in lines]
        assert events[-1]["event"] == "done" and events[-1]["done"] == events[-1]["total"] == 16 * MIB


def test_convert_compressed_interrupted(box):
    check_interrupted(box, "-c")


# ---- rebase, commit, amend ----


def chain(box, options="cluster_size=64k"):
    for i, (name, backing) in enumerate([("b1", None), ("b2", None), ("top", "b1")]):
        more = ["-b", backing, "-F", "qcow2"] if backing else []
        box.qemu("create", "-q", "-f", "qcow2", "-o", options, *more, name, f"{12 + 2 * i}M")
        pattern(box, name, i, size=(12 + 2 * i) * MIB)


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_rebase_keeps_content(box, options):
    chain(box, options)
    before = sha(box, "top")
    for name, fmt in (("b2", "qcow2"), ("", None), ("b1", "qcow2")):
        box.img("rebase", "-q", "-b", name, *(["-F", fmt] if fmt else []), "top")
        assert sha(box, "top") == before
        box.qemu("check", "-q", "top")
        assert json.loads(box.qemu("info", "--output", "json", "top").stdout).get("backing-filename", "") == name


def test_rebase_unsafe_and_refused(box):
    chain(box)
    os.rename(box.path / "b1", box.path / "moved")
    box.fails("rebase", "-b", "moved", "-F", "qcow2", "top")
    box.img("rebase", "-u", "-b", "moved", "-F", "qcow2", "top")
    box.qemu("check", "-q", "top")
    assert "no format of the backing file given" in box.fails("rebase", "-b", "b2", "top")
    assert "No such file" in box.fails("rebase", "-b", "gone", "-F", "raw", "top")
    assert "its own backing" in box.fails("rebase", "-b", "top", "-F", "qcow2", "top")
    assert "1 to 1023" in box.fails("rebase", "-u", "-b", "x" * 1024, "-F", "raw", "top")
    assert "-b with the new" in box.fails("rebase", "top")
    box.qemu("create", "-q", "-f", "raw", "r", "1M")
    assert "raw" in box.fails("rebase", "-u", "-b", "b2", "-F", "qcow2", "-f", "raw", "r")
    assert json.loads(box.qemu("info", "--output", "json", "top").stdout)["backing-filename"] == "moved"


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_commit_writes_overlay_into_base(box, options):
    chain(box, options)
    before = sha(box, "top")
    assert box.img("commit", "-f", "qcow2", "-d", "top").stdout == "Image committed.\n"
    assert sha(box, "top") == before == sha(box, "b1")
    box.img("commit", "-f", "qcow2", "top")
    assert sha(box, "top") == before
    for name in ("top", "b1"):
        box.qemu("check", "-q", name)
    entries = json.loads(box.qemu("map", "--output", "json", "top").stdout)
    assert not any(e["present"] and e["depth"] == 0 for e in entries)
    top = box.path / "top"
    assert not any(be64(top, be64(top, 40) + 8 * i) for i in range(be64(top, 32) & 0xFFFFFFFF))  # no tables are left
    assert "no backing file" in box.fails("commit", "-f", "qcow2", "b1")


def test_amend_changes_options(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "16M")
    box.io("a", "write -P 1 0 3M", "write -P 2 9M 100k")
    box.qemu("snapshot", "-c", "s", "a")
    box.io("a", "write -P 3 1M 1M")
    before = sha(box, "a")
    for options, expect in (("compat=0.10", {"compat": "0.10"}), ("compat=1.1", {"compat": "1.1"}),
                            ("refcount_bits=64", {"refcount-bits": 64}), ("refcount_bits=2", {"refcount-bits": 2}),
                            ("refcount_bits=16,lazy_refcounts=on", {"refcount-bits": 16, "lazy-refcounts": True}),
                            ("compat=0.10", {"compat": "0.10"})):
        box.img("amend", "-o", options, "a")
        box.qemu("check", "-q", "a")
        data = json.loads(box.qemu("info", "--output", "json", "a").stdout)["format-specific"]["data"]
        assert {k: data[k] for k in expect} == expect
        assert sha(box, "a") == before
    whole = (box.path / "a").read_bytes()
    for options, what in (("size=20M", "old format"), ("cluster_size=4k", "cannot change"),
                          ("compat=7", "invalid value"), ("refcount_bits=3", "power of two"), ("x", "key=value"),
                          ("compat=1.1,refcount_bits=1", "used 2 times")):
        assert what in box.fails("amend", "-o", options, "a")
        if "," not in options:
            assert (box.path / "a").read_bytes() == whole
    box.qemu("check", "-q", "a")
    box.img("amend", "-o", "compat=1.1,size=20M", "a")
    assert json.loads(box.qemu("info", "--output", "json", "a").stdout)["virtual-size"] == 20 * MIB
    box.io("a", "write -z 5M 1M")
    box.qemu("snapshot", "-d", "s", "a")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "e", "1M")
    assert "extended_l2" in box.fails("amend", "-o", "compat=0.10", "e")


@pytest.mark.parametrize("backing", [False, True])
def test_amend_to_old_with_zero_clusters(box, backing):
    if backing:
        box.qemu("create", "-q", "-f", "qcow2", "base", "16M")
        box.io("base", "write -P 7 0 16M")
    box.qemu("create", "-q", "-f", "qcow2", *(["-b", "base", "-F", "qcow2"] if backing else []), "a", "16M")
    box.io("a", "write -P 1 0 4M", "write -z 1M 1M", "write -zu 2M 1M", "write -z 8M 4M", "discard 12M 1M")
    before, size = sha(box, "a"), (box.path / "a").stat().st_blocks
    box.img("amend", "-o", "compat=0.10", "a")
    assert json.loads(box.qemu("info", "--output", "json", "a").stdout)["format-specific"]["data"]["compat"] == "0.10"
    box.qemu("check", "-q", "a")
    assert sha(box, "a") == before
    if not backing:
        assert (box.path / "a").stat().st_blocks * 512 < size * 512 + 1.5 * MIB
    box.img("amend", "-o", "compat=1.1", "a")
    box.qemu("check", "-q", "a")
    assert sha(box, "a") == before


# ---- trim, bench ----


def test_trim_frees_file_space(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    box.io("a", "write -P 5 0 20M", "write -P 0 20M 20M")
    box.qemu("snapshot", "-c", "s", "a")
    box.io("a", "write -P 6 0 20M")
    box.qemu("snapshot", "-d", "s", "a")
    before = sha(box, "a")
    box.img("trim", "--zeros", "a")
    box.qemu("check", "-q", "a")
    assert sha(box, "a") == before
    assert (box.path / "a").stat().st_blocks * 512 < 21 * MIB
    box.io("a", "discard 10M 10M")
    os.truncate(box.path / "a", 200 * MIB)
    box.img("trim", "a")
    assert (box.path / "a").stat().st_size < 100 * MIB
    box.qemu("check", "-q", "a")
    a = box.path / "a"
    poke(a, be64(a, be64(a, 48)) + 2 * 1, b"\x00\x00")
    assert "repair it" in box.fails("trim", "a")


def test_bench_reports_time(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "16M")
    out = box.img("bench", "-w", "-c", "2000", "-d", "8", "-s", "4k", "-S", "64k", "--pattern", "165", "--flush-interval",
                  "100", "a").stdout
    assert "Sending 2000 write requests" in out and "Run completed in" in out
    box.qemu("check", "-q", "a")
    assert "Pattern verification failed" not in box.io("a", "read -P 165 0 4k", "read -P 165 64k 4k").stdout
    assert json.loads(box.img("bench", "--random", "--format", "json", "-c", "500", "a").stdout)["requests"] == 500
    box.img("bench", "-t", "none", "-c", "500", "a")
    for args in (["-d", "0", "a"], ["-s", "100", "a"], ["-s", "1G", "a"], ["-o", "1G", "a"], ["--flush-interval", "9", "a"],
                 ["-c", "many", "a"], ["-t", "odd", "a"], ["a", "b"]):
        box.fails("bench", *args)


# ---- bad input ----

VERBS = [["info"], ["check"], ["check", "-r", "all"], ["map"], ["measure"], ["trim"], ["bench"], ["commit"],
         ["amend", "-o", "lazy_refcounts=on"], ["rebase", "-u", "-b", ""]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v[0])
def test_files_that_are_no_images_are_refused(box, verb):
    assert "No such file" in box.fails(*verb, "gone")
    (box.path / "dir").mkdir()
    assert "folder" in box.fails(*verb, "dir") or verb[0] in ("trim", "commit", "amend", "rebase", "check")
    box.fails(*verb)
    assert "--frobnicate" in box.fails(verb[0], "--frobnicate", "gone")


def test_writing_verbs_refuse_image_in_use(box):
    source(box)
    box.qemu("create", "-q", "-f", "qcow2", "base", "16M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "a", "16M")
    before = (box.path / "a").read_bytes()
    p = subprocess.Popen(["qemu-io", "a"], cwd=box.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        p.stdin.write("read 0 512\n")
        p.stdin.flush()
        while "read 512" not in p.stdout.readline():
            pass
        for args in (["check", "-r", "all", "a"], ["resize", "a", "20M"], ["trim", "a"], ["commit", "-f", "qcow2", "a"],
                     ["amend", "-o", "lazy_refcounts=on", "a"], ["rebase", "-b", "", "a"], ["rebase", "-u", "-b", "", "a"],
                     ["convert", "-n", "-f", "raw", "-O", "qcow2", "src", "a"], ["bench", "-w", "a"],
                     ["convert", "-f", "raw", "-O", "qcow2", "src", "a"]):
            assert "in use" in box.fails(*args), args
        assert "is open for writing" in box.fails("map", "a")
        box.img("map", "-U", "a")
    finally:
        p.stdin.close()
        status = p.wait(timeout=TIMEOUT)
    assert status == 0 and (box.path / "a").read_bytes() == before


def test_writing_verbs_refuse_read_only_file(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    os.chmod(box.path / "a", 0o444)
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", box.path / "a"], check=False, capture_output=True)
    try:
        if os.access(box.path / "a", os.W_OK):
            pytest.skip("no way to make a file read-only for this user here")
        for args in (["resize", "a", "2M"], ["check", "-r", "all", "a"], ["trim", "a"]):
            box.fails(*args)
        box.img("info", "a")
    finally:
        subprocess.run(["chattr", "-i", box.path / "a"], check=False, capture_output=True)


def test_convert_on_full_disk_leaves_nothing(box):
    """A target that does not fit: one sentence, nothing left behind, and the space is free again."""
    with tmpfs(box.path / "full", "4m"):
        (box.path / "src").write_bytes(os.urandom(8 * MIB))
        for args in (["-O", "qcow2"], ["-O", "raw"], ["-c", "-O", "qcow2"]):
            assert "No space" in box.fails("convert", "-f", "raw", *args, "src", "full/a")
            assert list((box.path / "full").iterdir()) == []
        assert "No space" in box.fails("create", "-f", "qcow2", "-o", "preallocation=full", "full/a", "8M")
        assert list((box.path / "full").iterdir()) == []
        box.img("create", "-q", "-f", "qcow2", "full/a", "8M")
        assert "No space" in box.fails("convert", "-n", "-f", "raw", "-O", "qcow2", "src", "full/a")
        box.qemu("check", "-q", "-r", "leaks", "full/a")


def test_convert_beyond_the_limit_of_file_sizes_leaves_nothing(box):
    (box.path / "src").write_bytes(os.urandom(2 * MIB))
    for fmt in ("qcow2", "raw"):
        r = subprocess.run(["prlimit", f"--fsize={MIB}", IMG, "convert", "-f", "raw", "-O", fmt, "src", "a"], cwd=box.path,
                           capture_output=True, text=True, timeout=TIMEOUT)
        assert r.returncode == 1 and "File too large; the limit of file sizes may be reached" in r.stderr, r
        assert [p.name for p in box.path.iterdir() if p.name.startswith("a")] == []


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_resize_on_full_disk_keeps_the_size(box, mode):
    with tmpfs(box.path / "full", "3m"):
        box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "full/a", "1M")
        box.io("full/a", "write -P 1 0 600k")
        with open(box.path / "full/rest", "wb", buffering=0) as rest, contextlib.suppress(OSError):
            while rest.write(bytes(4096)):
                pass
        os.truncate(box.path / "full/rest", (box.path / "full/rest").stat().st_size - 40960)  # room for some of the tables
        assert "No space" in box.fails("resize", f"--preallocation={mode}", "full/a", "30M")
        assert size_of(box, "full/a") == MIB
        (box.path / "full/rest").unlink()
        box.qemu("check", "-q", "-r", "leaks", "full/a")
        box.io("full/a", "read -P 1 0 600k", "read -P 0 600k 424k")


def with_files(box, fds, *args):
    """Run cairn-img with open files, whose names lead to the file `other` by then."""
    files = [(os.open(box.path / name, flags), name) for name, flags in fds]
    for _, name in files:
        os.rename(box.path / name, box.path / f"real-{name}")
        os.symlink("other", box.path / name)
    given = [word for fd, name in files for word in ("--fd", f"{fd}={name}")]
    r = subprocess.run([IMG, args[0], *given, *args[1:]], cwd=box.path, pass_fds=[fd for fd, _ in files], capture_output=True, text=True,
                       timeout=TIMEOUT)
    for fd, _ in files:
        os.close(fd)
    assert r.returncode == 0, r.stderr
    return r.stdout


def size_of(box, name):
    return json.loads(box.img("info", "--output", "json", name).stdout)["virtual-size"]


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_open_file_takes_the_place_of_its_name(box, fmt):  # noqa: F811
    other = b"o" * 4096
    (box.path / "other").write_bytes(other)
    box.img("create", "-q", "-f", fmt, "disk", "1M")
    with_files(box, [("disk", os.O_RDWR)], "resize", "-q", "-f", fmt, "disk", "2M")
    assert size_of(box, "real-disk") == 2 * MIB
    for args in ((), ("-c",)) if fmt == "qcow2" else ((),):
        for name in ("from", "to"):
            (box.path / name).unlink(missing_ok=True)
        box.img("create", "-q", "-f", fmt, "from", "16M")
        pattern(box, "from", 1, fmt=fmt)
        (box.path / "to").write_bytes(b"longer than the new image" * 100000)
        said = with_files(box, [("from", os.O_RDONLY), ("to", os.O_RDWR)], "convert", "-p", *args, "-f", fmt, "-O", fmt, "from", "to")
        assert "(100.00/100%)" in said
        assert sha(box, "real-from", fmt) == sha(box, "real-to", fmt)
    (box.path / "new").touch()
    with_files(box, [("new", os.O_RDWR)], "create", "-q", "-f", fmt, "new", "3M")
    assert size_of(box, "real-new") == 3 * MIB
    assert (box.path / "other").read_bytes() == other


def test_create_shows_a_bar_while_it_writes(box):  # noqa: F811
    said = box.img("create", "-p", "-f", "raw", "-o", "preallocation=full", "disk", "16M").stdout
    assert said.startswith("Formatting 'disk', fmt=raw size=16777216 preallocation=full\n") and "(50.00/100%)" in said and "(100.00/100%)" in said


@pytest.mark.parametrize("value", ["", "disk", "=disk", "x=disk", "-1=disk", "99=disk", "1=", "1"])
def test_bad_open_file_is_refused(box, value):  # noqa: F811
    box.img("create", "-q", "disk", "1M")
    r = subprocess.run([IMG, "resize", "-f", "raw", "--fd", value, "disk", "2M"], cwd=box.path, capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 1 and r.stderr.startswith("cairn-img: --fd takes the number of an open file and its name"), r.stderr
    assert (box.path / "disk").stat().st_size == MIB
