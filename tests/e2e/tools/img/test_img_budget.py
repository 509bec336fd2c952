"""The memory that an image can make cairn-img allocate: forged images with little data stay within 512 MiB of address
space, and large real images can be opened."""

import os
import resource
import struct
import subprocess
import sys

import pytest

BUILD = os.path.abspath(os.environ.get("CAIRN_BUILD", "build"))
IMG = os.path.join(BUILD, "cairn-img")
MIB = 1 << 20
MEMORY = 512 * MIB
CLUSTER = 512
WRITING = {
    "create": ("snapshot", "-c", "new", "img"),
    "apply": ("snapshot", "-a", "1", "img"),
    "delete": ("snapshot", "-d", "1", "img"),
    "resize": ("resize", "img", "+1G"),
    "check": ("check", "img"),
    "list": ("snapshot", "-l", "img"),
}


def bounded():
    if "san" not in BUILD:  # sanitizers reserve terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def img(path, *args):
    return subprocess.run([IMG, *args], cwd=path, capture_output=True, text=True, timeout=120, preexec_fn=bounded)


# A process begins with the memory of the one that made it, and pytest may have much.
PEAK = "import os, sys; _, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0); print(status, used.ru_maxrss)"


def peak_bytes(path, *args):
    """Run cairn-img from a small process. Return the most memory that either had."""
    r = subprocess.run([sys.executable, "-I", "-S", "-c", PEAK, IMG, *args], cwd=path, capture_output=True, text=True, timeout=120,
                       preexec_fn=bounded, check=True)
    return int(r.stdout.split()[-1]) * 1024


def up(n):
    return -(-n // CLUSTER)


def forge(path, snapshots, l1_entries, *, dirty=False, far=False):
    """Make an image of small clusters whose snapshots share one L1 table, which names one L2 table; or, with far, have
    L1 tables of 32 MiB each behind the end of the file."""
    size = l1_entries * 64 * CLUSTER
    l1 = 16 * CLUSTER
    l2 = l1 + up(l1_entries * 8) * CLUSTER
    list_at = l2 + CLUSTER
    table = b""
    for i in range(snapshots):
        name = str(i + 1).encode()
        place = ((1 << 30) + i * 32 * MIB, 1 << 22) if far else (l1, l1_entries)
        entry = struct.pack(">QIHHIIQIIQQ", *place, len(name), 0, 0, 0, 0, 0, 16, 0, size) + name
        table += entry + bytes(-len(entry) % 8)
    blocks_at = list_at + up(len(table)) * CLUSTER
    blocks = up(up(blocks_at + up(blocks_at) * 4) * 2)
    clusters = up(blocks_at) + blocks
    out = bytearray(clusters * CLUSTER)
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 9, size, 0, l1_entries, l1, CLUSTER, up(blocks * 8),
                         snapshots, list_at, int(dirty), 0, 0, 4, 104)
    out[:len(header)] = header
    for b in range(blocks):
        struct.pack_into(">Q", out, CLUSTER + 8 * b, blocks_at + b * CLUSTER)
    for c in range(clusters):
        struct.pack_into(">H", out, blocks_at + 2 * c, 1)
    for i in range(l1_entries):
        struct.pack_into(">Q", out, l1 + 8 * i, l2)
    out[list_at:list_at + len(table)] = table
    path.write_bytes(out)


@pytest.mark.parametrize("shape", ({"far": True}, {"far": True, "dirty": True}, {}), ids=("far", "dirty", "shared"))
@pytest.mark.parametrize("verb", WRITING)
def test_thousand_snapshots_take_little_memory(tmp_path, shape, verb):
    forge(tmp_path / "img", 1000, 1000, **shape)
    peak = peak_bytes(tmp_path, *WRITING[verb])
    assert "san" in BUILD or peak < 256 * MIB


def test_snapshot_with_l1_behind_the_file_is_not_used(tmp_path):
    path = tmp_path / "img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "one", path], check=True)
    with open(path, "r+b") as f:
        f.seek(64)
        f.seek(int.from_bytes(f.read(8), "big"))
        f.write((1 << 40).to_bytes(8, "big"))
    assert img(tmp_path, "snapshot", "-c", "new", "img").returncode == 0
    for verb in ("-a", "-d"):
        p = img(tmp_path, "snapshot", verb, "1", "img")
        assert p.returncode == 1 and "snapshot 1 is damaged" in p.stderr, p.stderr


def test_sparse_snapshot_tables_are_refused_with_the_remedy(tmp_path):
    """The file has the length, but no data, for L1 tables with many clusters."""
    forge(tmp_path / "img", 1000, 1000, far=True)
    os.truncate(tmp_path / "img", 40 << 30)
    p = img(tmp_path, "snapshot", "-c", "new", "img")
    assert p.returncode == 1
    assert "the image's tables need more than 64 MiB of memory, but its file has only 0 MiB of data" in p.stderr
    assert "cairn-img convert" in p.stderr
    assert img(tmp_path, "convert", "-O", "qcow2", "img", "copy").returncode == 0
    assert img(tmp_path, "snapshot", "-c", "new", "copy").returncode == 0


def one_refcount_block(path, clusters):
    """Make a marked image with the refcounts of many clusters, all in one block, and no data."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512,lazy_refcounts=on", path, "1M"], check=True)
    block, table = 1024, 4096
    entries = -(-clusters // 256)
    with open(path, "r+b") as f:
        f.truncate(clusters * CLUSTER)
        for at, data in ((72, struct.pack(">Q", 1)), (48, struct.pack(">QI", table * CLUSTER, up(entries * 8))),
                         (block * CLUSTER, struct.pack(">H", 1) * 256),
                         (table * CLUSTER, struct.pack(">Q", block * CLUSTER) * entries)):
            f.seek(at)
            f.write(data)


def test_repair_of_sparse_image_is_left_to_check(tmp_path):
    one_refcount_block(tmp_path / "img", (64 << 20) - 1)
    p = img(tmp_path, "resize", "img", "2M")
    assert p.returncode == 1 and "repair it with `cairn-img check -r all`" in p.stderr, p.stderr


CHECK_REFUSED = "a check of the image needs more than"


@pytest.mark.parametrize("verb", (("check", "img"), ("check", "-r", "all", "img"), ("amend", "-o", "refcount_bits=8", "img")))
def test_check_of_sparse_image_is_refused_with_the_remedy(tmp_path, verb):
    """32 Mi clusters have a refcount: their counts would take 128 MiB, and the file has 2 MiB of data."""
    one_refcount_block(tmp_path / "img", (32 << 20) - 1)
    before = (tmp_path / "img").stat().st_mtime_ns
    p = img(tmp_path, *verb)
    assert p.returncode == 1 and CHECK_REFUSED in p.stderr and "cairn-img convert" in p.stderr, p.stderr
    assert "san" in BUILD or peak_bytes(tmp_path, *verb) < 128 * MIB
    assert (tmp_path / "img").stat().st_mtime_ns == before
    assert img(tmp_path, "convert", "-O", "qcow2", "img", "copy").returncode == 0
    assert img(tmp_path, "check", "copy").returncode == 0


@pytest.mark.seconds(180)
@pytest.mark.parametrize("options", ("cluster_size=4k,refcount_bits=1", "cluster_size=64k,refcount_bits=1,extended_l2=on", "cluster_size=2M"))
def test_check_of_preallocated_metadata_is_done(tmp_path, options):
    """Metadata are all of the file's data."""
    size = "32G" if "4k" in options else "900G"
    assert img(tmp_path, "create", "-q", "-f", "qcow2", "-o", f"{options},preallocation=metadata", "img", size).returncode == 0
    for verb in (("check", "img"), ("check", "-r", "all", "img")):
        p = img(tmp_path, *verb)
        assert p.returncode == 0, p.stderr


def test_marked_image_with_preallocated_metadata_is_repaired(tmp_path):
    path = tmp_path / "img"
    assert img(tmp_path, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "img", "600G").returncode == 0
    with open(path, "r+b") as f:
        f.seek(72)
        f.write(struct.pack(">Q", 1))
    p = img(tmp_path, "snapshot", "-c", "new", "img")
    assert p.returncode == 0, p.stderr


@pytest.mark.skipif("san" in BUILD, reason="sanitizers take memory of their own")
@pytest.mark.parametrize("verb, most", (("-a", 58 * MIB), ("-d", 42 * MIB)), ids=("apply", "delete"))
def test_operations_on_snapshots_copy_the_l1_table_once(tmp_path, verb, most):
    """Each L1 table has 16 MiB. An apply also has a byte for each entry, and the new table as the file gets it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", tmp_path / "img", "64G"], check=True)
    assert img(tmp_path, "snapshot", "-c", "one", "img").returncode == 0
    p = subprocess.run([IMG, "snapshot", verb, "one", "img"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)))
    assert p.returncode == 0, p.stderr
    assert img(tmp_path, "check", "img").returncode == 0


def test_apply_of_forged_snapshot_is_refused_with_the_remedy(tmp_path):
    """The first two snapshots' L1 tables are as much as an open reads of them, and a hole. The third has four million
    tables, whose marks would take 216 MiB."""
    path, entries, table_bytes = tmp_path / "img", 4 << 20, 32 * MIB
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M"], check=True)
    places = [64 * MIB, 128 * MIB, 192 * MIB]
    table = b""
    for i, at in enumerate(places):
        entry = struct.pack(">QIHHIIQIIQQ", at, entries, 1, 1, 0, 0, 0, 0, 16, 0, entries * 64 * CLUSTER) + b"%d%d" % (i + 1, i + 1)
        table += entry + bytes(-len(entry) % 8)
    with open(path, "r+b") as f:
        for at, data in ((60, struct.pack(">IQ", len(places), 32 * MIB)), (32 * MIB, table),
                         (places[2], b"".join(struct.pack(">Q", (1 << 30) + i * CLUSTER) for i in range(entries)))):
            f.seek(at)
            f.write(data)
    assert os.path.getsize(path) == places[2] + table_bytes
    p = img(tmp_path, "snapshot", "-a", "3", "img")
    assert p.returncode == 1 and "the image's tables need more than" in p.stderr and "cairn-img convert" in p.stderr, p.stderr
    assert "san" in BUILD or peak_bytes(tmp_path, "snapshot", "-a", "3", "img") < 160 * MIB


def scattered(path, *, sparse):
    """Make an image of 128 GiB with clusters of 512 bytes, as a guest leaves it that writes a sector of every 32 KiB of
    the first 32 GiB, but without the sectors. sparse: the L2 tables take no space."""
    tables, l1_bytes = (1 << 20) + 64, 32 * MIB
    blocks = 8192
    block, l1 = 1 + up(blocks * 8), 1 + up(blocks * 8) + blocks
    l2 = l1 + up(l1_bytes)
    end = l2 + tables
    with open(path, "wb") as f:
        f.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 9, 128 << 30, 0, l1_bytes // 8, l1 * CLUSTER, CLUSTER,
                            up(blocks * 8), 0, 0, 0, 0, 0, 4, 104))
        f.seek(CLUSTER)
        f.write(b"".join(struct.pack(">Q", (block + i) * CLUSTER) for i in range(blocks)))
        f.write(struct.pack(">H", 1) * end)
        f.seek(l1 * CLUSTER)
        f.write(b"".join(struct.pack(">Q", 1 << 63 | (l2 + i) * CLUSTER) for i in range(tables)))
        f.truncate(end * CLUSTER)
        if not sparse:
            os.posix_fallocate(f.fileno(), l2 * CLUSTER, tables * CLUSTER)


def test_scattered_image_of_small_clusters_opens(tmp_path):
    scattered(tmp_path / "img", sparse=False)
    p = img(tmp_path, "bitmap", "--add", "-g", "1M", "img", "b")
    assert p.returncode == 0, p.stderr


def test_sparse_image_of_small_clusters_is_refused(tmp_path):
    scattered(tmp_path / "img", sparse=True)
    p = img(tmp_path, "bitmap", "--add", "-g", "1M", "img", "b")
    assert p.returncode == 1 and "the image's tables need more than" in p.stderr, p.stderr


BITMAPS_REFUSED = "the bitmaps need more than 512 MiB of memory; remove some with `cairn-img bitmap --remove`"


def with_bitmaps(path, size, n):
    """Make an image whose bitmaps have granules of 4 KiB: 32 MiB of bits for each TiB."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path / "img", size], check=True)
    for i in range(n):
        subprocess.run(["qemu-img", "bitmap", "--add", "-g", "4k", path / "img", f"b{i}"], check=True)


def test_forged_bitmap_is_refused(tmp_path):
    """Three bitmaps of 256 MiB whose tables say that all their clusters are ones."""
    with_bitmaps(tmp_path, "8T", 3)
    with open(tmp_path / "img", "r+b") as f:
        data = f.read(4096)
        directory = int.from_bytes(data[(at := data.index(bytes.fromhex("2385287500000018"))) + 24:at + 32], "big")
        f.seek(directory)
        entries = f.read(3 * 32)
        for i in range(3):
            f.seek(int.from_bytes(entries[i * 32:i * 32 + 8], "big"))
            f.write((1).to_bytes(8, "big") * 4096)
    p = img(tmp_path, "snapshot", "-c", "one", "img")
    assert p.returncode == 1 and BITMAPS_REFUSED in p.stderr, p.stderr
    p = img(tmp_path, "bitmap", "--add", "-g", "1M", "img", "more")
    assert p.returncode == 1 and BITMAPS_REFUSED in p.stderr, p.stderr
    for name in ("b0", "b1"):
        p = img(tmp_path, "bitmap", "--remove", "img", name)
        assert p.returncode == 0, p.stderr
    p = img(tmp_path, "snapshot", "-c", "one", "img")
    assert p.returncode == 0, p.stderr


def test_full_bitmap_of_thin_image_opens_again(tmp_path):
    """A revert sets all bits, which are then most of the file's data."""
    with_bitmaps(tmp_path, "4T", 1)
    for args in (("snapshot", "-c", "one", "img"), ("snapshot", "-a", "one", "img"), ("snapshot", "-c", "two", "img"),
                 ("bitmap", "--remove", "img", "b0")):
        p = img(tmp_path, *args)
        assert p.returncode == 0, (args, p.stderr)
    assert img(tmp_path, "check", "img").returncode == 0


def test_resize_keeps_bitmaps_within_the_limit(tmp_path):
    """Three bitmaps of 96 MiB, which would have 192 MiB each."""
    with_bitmaps(tmp_path, "3T", 3)
    p = img(tmp_path, "resize", "img", "6T")
    assert p.returncode == 1 and BITMAPS_REFUSED in p.stderr, p.stderr
    for args in (("bitmap", "--remove", "img", "b1"), ("resize", "img", "6T"), ("snapshot", "-c", "one", "img")):
        p = img(tmp_path, *args)
        assert p.returncode == 0, (args, p.stderr)


@pytest.mark.sample(1)
@pytest.mark.parametrize("options", ("cluster_size=64k", "cluster_size=2M,preallocation=metadata", "cluster_size=64k,extended_l2=on"))
def test_large_image_with_many_snapshots_opens(tmp_path, options):
    path = tmp_path / "img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "8T"], check=True)
    writes = [x for i in range(50) for x in ("-c", f"write -z {i * 163}G 64k")]
    subprocess.run(["qemu-io", *writes, path], check=True, stdout=subprocess.DEVNULL)
    for i in range(10):
        assert img(tmp_path, "snapshot", "-c", f"s{i}", "img").returncode == 0
    with open(path, "r+b") as f:  # as a killed process leaves it
        f.seek(72)
        bits = int.from_bytes(f.read(8), "big")
        f.seek(72)
        f.write((bits | 1).to_bytes(8, "big"))
    for args in (("snapshot", "-c", "last", "img"), ("snapshot", "-a", "s7", "img"), ("snapshot", "-d", "s9", "img")):
        p = img(tmp_path, *args)
        assert p.returncode == 0, p.stderr
    assert img(tmp_path, "check", "img").returncode == 0


@pytest.mark.parametrize("tool", (IMG, "qemu-img"))
def test_image_of_small_clusters_gets_long_tables(tmp_path, tool):
    """The L1 table and each copy of it take 65,536 adjacent clusters, and a refcount block has 256 refcounts. A new
    image's refcount table is too small."""
    subprocess.run([tool, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "img", "1M"], cwd=tmp_path, check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 1M", tmp_path / "img"], check=True, stdout=subprocess.DEVNULL)
    for args in (("resize", "img", "128G"), ("snapshot", "-c", "s1", "img"), ("snapshot", "-a", "s1", "img"),
                 ("bitmap", "--add", "-g", "64k", "img", "b1"), ("snapshot", "-d", "s1", "img"), ("check", "img")):
        p = img(tmp_path, *args)
        assert p.returncode == 0, (args, p.stderr)
    p = subprocess.run(["qemu-img", "check", tmp_path / "img"], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr
    p = subprocess.run(["qemu-io", "-r", "-c", "read -P 7 0 1M", "-c", "read -P 0 1M 1M", tmp_path / "img"], capture_output=True, text=True)
    assert p.returncode == 0 and "failed" not in p.stdout, p.stdout
    # Three tables of 32 MiB with their refcount blocks.
    assert (tmp_path / "img").stat().st_size < 128 << 20
